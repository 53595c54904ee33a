"""What `doctor` says of a training, against that training."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from tasks_data import MemoryData, clip

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.cli.front.doctor import Disk, advice, main, table
from mlx_voxclone.doctor import forecast as module
from mlx_voxclone.doctor.disk import disk_needed
from mlx_voxclone.doctor.encoder import plan_encoders
from mlx_voxclone.doctor.forecast import Forecast, Trial, forecast
from mlx_voxclone.files.atomic import free_bytes
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.process.machine import Machine, this_machine
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.train.encoder.stage import encoder_codec
from mlx_voxclone.train.encoder.task import EncoderTask
from mlx_voxclone.train.speaker.adapted import AdaptedModel
from mlx_voxclone.train.speaker.stage import lora_model
from mlx_voxclone.train.speaker.task import SpeakerData, SpeakerTask, Utterance
from mlx_voxclone.train.stages.compute import Compute
from mlx_voxclone.train.stages.stage import run_trainer, train_settings

SMALL = {"encoder.pairs.path": None, "speaker.train.sample_every": 0, "encoder.train.sample_every": 0}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_micro(tmp_path_factory.mktemp("small") / "small", "small")


def configured(model, stage, **changes):
    lengths = {f"{stage}.train.steps": 3, f"{stage}.train.warmup_steps": 0, f"{stage}.train.patience": 0}
    given = {"model": str(model), "precision": "float32", "data.path": "x", **SMALL, **lengths, **changes}
    return load_run_config(f"configs/voxtral_{stage}.yaml", given)


def measured(task, config, stage, directory):
    """Peak of a training by the trainer, evaluations and all."""
    settings = train_settings(getattr(config, stage).train, config, Compute.of(config))
    mx.clear_cache()
    return run_trainer(task, settings, directory).peak_memory_gb * 1e9


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"encoder.crop_seconds": 1.2}, {"encoder.train.accumulate": 1}])
def test_the_memory_of_an_encoder_training_is_foretold(small, tmp_path, changes):
    few = {"encoder.train.batch_size": 4, "encoder.train.steps": 2, "encoder.crop_seconds": 1.6}
    config = configured(small, "encoder", **{**few, **changes})
    told = forecast(config, "encoder", budget=0.0)  # from the smallest trials that will do
    clips = [clip(seed, round(config.encoder.crop_seconds * 24000)) for seed in range(8)]
    data = MemoryData(clips, clips[:1])
    codec = encoder_codec(Release(small), config.encoder, data, 0, mx.float32)
    assert told.peak == pytest.approx(
        measured(EncoderTask(codec, data, config.encoder), config, "encoder", tmp_path / "run"), rel=0.15
    )


@pytest.mark.parametrize("seconds_per_second", [0.01, 10.0])  # a machine that has time for all trials, and a slow one
def test_what_gradients_take_does_not_hide_what_activations_will(small, monkeypatch, seconds_per_second):
    """A whole batch takes what is measured there, though up to 3 s of audio something else decides (the release's)."""
    now, tried = [0.0], []

    def peak(audio):
        return 1e9 * max(3.29 + 0.047 * audio, 3.121 + 0.1058 * audio)

    def trial(config, params, compute, crop, batch):
        now[0] += 10.0 + seconds_per_second * crop * batch
        tried.append(crop * batch)
        return Trial(crop * batch, peak(crop * batch), 3.168e9, seconds_per_second)

    monkeypatch.setattr(module, "_encoder_trial", trial)
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    config = configured(small, "encoder", **{"encoder.crop_seconds": 4.0, "encoder.train.batch_size": 8})
    assert forecast(config, "encoder").peak == pytest.approx(peak(32.0), rel=0.01)
    assert tried[:2] == [4.0, 8.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"speaker.recompute": True, "speaker.quantise.bits": 0, "speaker.lora.layers": 3},
    ],
)
def test_the_memory_of_a_speaker_training_is_foretold(small, tmp_path, changes):
    lengths = {"speaker.max_seconds": 8.0, "speaker.reference_seconds": [5.0, 5.0], "speaker.train.accumulate": 2}
    lengths["speaker.train.steps"] = 2
    config = configured(small, "speaker", **lengths, **changes)
    told, brief = forecast(config, "speaker"), forecast(config, "speaker", budget=0.0)
    release, rng = Release(small), np.random.default_rng(0)
    sizes = [n - 2 for n in release.config.codec.code_sizes]
    utterances = [
        Utterance(
            str(k), "papa mino tara koni " * 6, *(_codes(rng, sizes, n) for n in (100,)), (_codes(rng, sizes, 62),)
        )
        for k in range(4)
    ]
    tokenizer = SpeechTokenizer(release.tokenizer_path)
    model = lora_model(release, config, Compute.of(config))
    model.recompute = config.speaker.recompute
    data = SpeakerData(utterances, utterances[:1])
    task = SpeakerTask(AdaptedModel(model, tokenizer.prompt), data, config.speaker)
    peak = measured(task, config, "speaker", tmp_path / "run")
    assert told.peak == pytest.approx(peak, rel=0.15)
    assert brief.peak == pytest.approx(peak, rel=0.15)  # where there is no time: one micro-batch of each size


def _codes(rng, sizes, count):
    return np.stack([rng.integers(0, size, count) for size in sizes]).astype(np.int32)


@pytest.mark.slow
def test_parts_add_up_and_random_numbers_are_left_alone(small):
    mx.random.seed(5)
    expected = mx.random.normal((4,))
    mx.random.seed(5)
    told = forecast(configured(small, "speaker", **{"speaker.max_seconds": 1.0}), "speaker")
    np.testing.assert_array_equal(mx.random.normal((4,)), expected)
    assert told.peak == sum(told.parts.values())
    assert told.step_seconds > 0
    assert told.steps == 3


@pytest.mark.slow
def test_more_of_everything_costs_more(small):
    def peak(**changes):
        few = {"speaker.max_seconds": 2.0, "speaker.reference_seconds": [1.0, 1.0]}
        return forecast(configured(small, "speaker", **{**few, **changes}), "speaker").peak

    plain = peak()
    assert peak(**{"speaker.max_seconds": 4.0}) > plain
    assert peak(**{"speaker.train.batch_size": 2}) > plain
    assert peak(**{"speaker.recompute": True}) < plain


# --- the command ------------------------------------------------------------------------------------------------------


def told(capsys, *argv):
    code = main([*argv, "--device", "cpu", "--quiet"])
    captured = capsys.readouterr()
    assert code == 0
    return captured.out


@pytest.mark.slow
def test_without_a_configuration_it_describes_the_machine(capsys):
    text = told(capsys)
    assert this_machine().chip in text
    assert "usable" in text
    found = json.loads(told(capsys, "--json"))
    assert found["memory"] >= found["usable"] > 0
    assert found["device"] == "cpu"


@pytest.mark.slow
def test_both_stages_of_a_clone_disk_and_verdict(capsys, small, tmp_path):
    options = ["--config", "configs/voxtral_speaker.yaml", "--set", f"model={small}", "--set", f"output={tmp_path}/run"]
    options += ["--set", "encoder.crop_seconds=0.5", "--set", "speaker.max_seconds=2"]
    text = told(capsys, *options, "--set", "speaker.reference_seconds=[1, 2]")
    parts = ["base encoder (once per model", "\nencoder (up to 3 trainings", "speaker (", "flow head", "activations"]
    for part in (*parts, "time of a step", "baked checkpoint", "verdict"):
        assert part in text
    assert "to be fetched" not in text
    assert not (tmp_path / "run").exists()


def test_what_is_too_large_is_said_with_what_to_change():
    config = load_run_config("configs/voxtral_speaker.yaml", {"encoder.discriminators.enabled": True})
    stages = [
        Forecast(name, {"activations": 15e9}, 2.0, 100, settings=f"{name}.train") for name in ("encoder", "speaker")
    ]
    machine = Machine("M9", 8, 16_000_000_000, 11_000_000_000, "gpu", "0", "macOS")
    disks = [Disk("disk", "`output`", {"baked checkpoint": 8e9}, 5_000_000_000)]
    lines = "\n".join(advice(config, stages, machine, disks))
    for change in ("encoder.discriminators.enabled=false", "encoder.train.batch_size=4", "encoder.train.accumulate=2"):
        assert f"--set {change}" in lines
    for change in ("speaker.recompute=true", "speaker.quantise.bits=4", "speaker.max_seconds=10"):
        assert f"--set {change}" in lines
    assert "free 3.00 GB more" in lines
    assert "does not fit: 136%" in table(stages[0], machine)
    small = [Forecast("encoder", {"activations": 1e9}, 2.0, 100)]
    assert advice(config, small, machine, []) == ["", "verdict: this machine can train it"]
    # What is advised is a configuration, and a smaller one.
    overrides = {
        key: json.loads(value)
        for key, value in (line.split("=") for line in lines.replace(",", "").replace("'", "").split() if "=" in line)
        if not value.startswith("[")
    }
    assert load_run_config("configs/voxtral_speaker.yaml", overrides).encoder.train.batch_size == 4


def test_the_true_sizes_are_known_without_the_model(monkeypatch):
    """A hub id that was not fetched yet: memory and disk of the release, by its manifest."""
    config = load_run_config("configs/voxtral_speaker.yaml", {})
    parts = module.speaker_weights(module.model_params(config.model), config, Compute("bf16"))
    assert parts["flow head"] == pytest.approx(0.78e9, rel=0.05)
    assert parts["language model's linears"] == pytest.approx(3.2e9, rel=0.05)
    assert parts["embeddings"] == pytest.approx(0.86e9, rel=0.05)
    disk = disk_needed(config, plan_encoders(config))
    assert disk["model, to be fetched"] == pytest.approx(8.0e9, rel=0.02)
    assert disk["baked checkpoint"] == pytest.approx(8.3e9, rel=0.02)


def test_mistakes(capsys, tmp_path):
    assert main(["--set", "model=x"]) == 2
    assert "--config" in capsys.readouterr().err
    assert main(["--config", str(tmp_path / "none.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)


def test_the_teachers_states_of_a_distillation_need_disk(small):
    """What they really take is what is foretold, but for shorter items."""
    config = load_run_config("configs/voxtral_distill.yaml", {"model": str(small), "distill.items": 100})
    none = plan_encoders(config)
    assert not none.trainings
    states = disk_needed(config, none)["teacher's states"]
    twice = load_run_config("configs/voxtral_distill.yaml", {"model": str(small), "distill.items": 232})
    assert disk_needed(twice, none)["teacher's states"] == pytest.approx(2 * states)  # 32 are held out in either case
    dim, kept = Release(small).config.backbone.dim, 3 + 1  # a quarter, half, three quarters; the last
    longest = states / (132 * kept * dim * 4)
    assert 125 < longest < 400  # positions: 10 s of frames and their text
    assert "baked checkpoint" not in disk_needed(config, none)
