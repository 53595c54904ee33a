"""What `doctor` says of the stages between the trainings: how much there is to do, and how long that takes."""

import json
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from places import CONFIG
from recordings import folder_of, talk

from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.cli.front import doctor
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.expected import expected_data
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.doctor import clone as module
from mlx_voxclone.doctor import forecast as trainings
from mlx_voxclone.doctor import pairs as pairs_forecast
from mlx_voxclone.doctor.clone import forecast_clips, in_order, plan_clips
from mlx_voxclone.doctor.clone_trials import Passes
from mlx_voxclone.doctor.clone_work import Work, positions
from mlx_voxclone.doctor.forecast import Forecast
from mlx_voxclone.doctor.pairs import FramesTrial
from mlx_voxclone.doctor.rehearsal import Length
from mlx_voxclone.miniature.micro import ENCODER_FILE, make_micro
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.pairs.clip_codes import clip_codes
from mlx_voxclone.process.machine import Machine
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.train.clone.voice import SCORED, Scored, candidates, ranked_voices
from mlx_voxclone.train.judge.codes import judged_codes
from mlx_voxclone.train.judge.judge import CodeJudge, Evidence

SHORT = {"speaker.reference_seconds": [1.0, 3.0], "data.min_seconds": 0.5, "data.trim_silence": False}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Ten of a speaker, nine of them with a text."""
    folder = folder_of(
        tmp_path_factory.mktemp("data") / "r", **{f"{k}": talk(1.0 + 0.4 * (k % 4), k) for k in range(10)}
    )
    for k in range(9):
        (folder / f"{k}.txt").write_text(f"papa mino {'lesu ' * (k % 3)}tara.")
    return folder


def configured(model, data, **changes):
    return load_run_config(CONFIG, {"model": str(model), "data.path": str(data), **SHORT, **changes})


# --- what there is to do ----------------------------------------------------------------------------------------------


def test_what_will_be_judged_and_scored(miniature, recordings):
    """As `judged_codes` and `deliver` choose it; frames of 80 ms."""
    config = configured(miniature, recordings, **{"judge.rounds": 2})
    (work, note), data = plan_clips(config, True), expected_data(recordings, PrepareOptions(min_seconds=0.5))[0]
    assert note == "0.25 min in 10 clips"
    assert work.frames == [-(-clip.samples // 1920) for clip in data.clips]
    assert (work.encoders, plan_clips(config, False)[0].encoders) == (3, 1)
    assert len(work.judged) == 9
    limit = round(3.0 * 12.5)
    assert {one.voice for one in work.judged} == {limit + 1}  # nine others are longer than that together, and END
    one = plan_clips(configured(miniature, recordings, **{"speaker.reference_seconds": [1.0, 60.0]}), True)[0].judged
    train = {c.id: -(-c.samples // 1920) for c in data.train}
    texted = [c for c in data.clips if c.text]
    expected = [sum(train.values()) - train.get(clip.id, 0) + 1 for clip in texted]
    assert [length.voice for length in one] == expected
    assert len(work.scored) == work.candidates * min(SCORED, len([c for c in data.heldout if c.text]))
    assert len(work.said) == 4 * len([c for c in data.heldout if c.text])


def test_other_tasks_have_less_to_do(miniature, recordings):
    def work(**changes) -> Work:
        return plan_clips(configured(miniature, recordings, **changes), True)[0]

    assert work(**{"judge.enabled": False}).judged == []
    assert work(**{"judge.enabled": False}).encoders == 1
    speaker = work(task="speaker", **{"speaker.encoder": str(recordings / "0.wav")})
    assert len(speaker.judged) == 9
    assert (speaker.said, speaker.scored, speaker.candidates) == ([], [], 0)
    assert work(task="language").judged == []
    assert work(**{"bake.reference": str(recordings / "0.wav")}).candidates == 1
    for task in ("encoder", "distill"):
        assert plan_clips(configured(miniature, recordings, task=task), True) is None


def test_positions_are_those_that_the_model_computes(miniature, monkeypatch):
    """Every batch is as wide as its longest sequence."""
    judge = CodeJudge(load_model(Release(miniature)), lambda text, rows: [1, *[24] * rows, *[2] * (len(text) - 1)])
    rng, computed, run = np.random.default_rng(0), [], Voxtral.hidden_states

    def counting(model, embeddings, *arguments):
        computed.append(embeddings.shape[0] * embeddings.shape[1])
        return run(model, embeddings, *arguments)

    monkeypatch.setattr(Voxtral, "hidden_states", counting)
    monkeypatch.setattr("mlx_voxclone.train.judge.judge.BATCH_TOKENS", 100)
    lengths = [Length(int(rng.integers(3, 9)), int(rng.integers(3, 12)), int(rng.integers(2, 30))) for _ in range(11)]

    def codes(count: int) -> np.ndarray:
        return rng.integers(0, 20, (37, count)).astype(np.int32)

    none = np.zeros((30, 52), np.float32)
    evidence = [Evidence(str(k), "t" * n.text, none[: n.frames], codes(n.voice - 1)) for k, n in enumerate(lengths)]
    for group in (4, None):
        computed.clear()
        size = group or len(lengths)
        for first in range(0, len(lengths), size):
            judge.nats(evidence[first : first + size], [codes(n.frames) for n in lengths[first : first + size]])
        assert len(computed) > 2
        # The last frame predicts END alone and is not read; END's row is no code, so `_batches` does not see it.
        assert positions(lengths, group) == pytest.approx(sum(computed), rel=0.1)


# --- how long it takes ------------------------------------------------------------------------------------------------

WORK = Work([10, 20], 3, [Length(5, 10, 15), Length(5, 10, 15)], [Length(2, 4, 6)] * 8, 4, [Length(3, 7, 20)] * 5)


@pytest.fixture
def measured(monkeypatch):
    """Times that nothing was measured for."""
    asked = []

    def passes(config, params, compute, sequences, budget, methods):
        asked.append(tuple(methods))
        return Passes(4, 0.5, 0.25, 0.125, 7e6)

    monkeypatch.setattr(module, "try_passes", passes)
    monkeypatch.setattr(module, "time_encoding", lambda config, frames, budget: (2.0, 3e6))
    monkeypatch.setattr(module, "time_decoding", lambda config: 1.0)
    monkeypatch.setattr(module, "try_frames", lambda params, dtype, layers, *_: FramesTrial(layers, 8.0, 16.0, 9e6))
    return asked


def test_the_sums(miniature, recordings, measured):
    config = configured(miniature, recordings)
    codes, judging, voice, delivery = forecast_clips(config, WORK, "n")
    assert measured == [("judge", "nats"), ("nats", "flow")]
    assert [s.stage for s in (codes, judging, voice, delivery)] == ["codes", "judging", "voice", "delivery"]
    assert (codes.seconds, codes.steps) == (3 * 30 * 2.0, 6)
    assert judging.seconds == pytest.approx(3 * (60 * (0.5 + 2 * 0.25) + 30 * 2.0))
    assert judging.steps == 6
    assert voice.seconds == pytest.approx(2 * 8 * 12 * (0.25 + 0.25 + 0.125))
    assert voice.steps == 8
    assert delivery.seconds == pytest.approx(2 * 4 * (5 * 8.0 + 20 * 16.0 + 2 * 150 * 0.25 + 100 * 3.0))
    assert delivery.steps == 2 * 4 * 5
    assert "up to 3 times" in judging.note
    alone = forecast_clips(config, Work([10], 1, [Length(5, 10, 15)], [], 0, []), "n")
    assert [s.stage for s in alone] == ["codes", "judging"]
    assert alone[1].seconds == pytest.approx(30 * 0.5 + 15 * 2.0)  # no other text to compare with
    assert "times" not in alone[1].note


def test_memory_of_the_weights(miniature, recordings, measured):
    """Judging has the language model quantised, what is compared speaks with all of its bits and with adapters."""
    release = Release(miniature)
    shapes = {name: release.tensors.info(name).shape for name in release.tensors.names()}
    linears = sum(np.prod(s) for n, s in shapes.items() if n.startswith("layers.") and len(s) == 2)
    _, judging, voice, delivery = forecast_clips(configured(miniature, recordings, precision="float32"), WORK, "n")
    assert judging.parts["language model's linears"] == pytest.approx(linears * (1 + 8 / 64))
    assert voice.parts["language model's linears"] == delivery.parts["language model's linears"] == 4 * linears
    assert "adapters" not in judging.parts
    assert voice.parts["adapters"] > 0
    backbone = release.config.backbone
    kept = 2 * 4 * backbone.n_layers * backbone.n_kv_heads * backbone.head_dim * 5 * (3 + 7 + 20)
    assert delivery.parts["keys and values"] == kept
    assert delivery.parts["activations and the rest"] == 9e6


@pytest.mark.slow
def test_real_trials_leave_random_numbers_alone(miniature, recordings):
    mx.random.seed(5)
    expected = mx.random.normal((4,))
    mx.random.seed(5)
    config = configured(miniature, recordings)
    for budget in (0.0, 1.0):
        found = forecast_clips(config, *plan_clips(config, True), budget=budget)
        assert [stage.stage for stage in found] == ["codes", "judging", "voice", "delivery"]
        assert all(stage.seconds > 0 for stage in found)
        assert all(stage.parts["activations and the rest"] > 0 for stage in found)
    np.testing.assert_array_equal(mx.random.normal((4,)), expected)


@pytest.mark.slow
def test_it_takes_as_long_as_was_predicted(tmp_path, recordings, monkeypatch):
    """Encoding, judging and scoring candidates, in the processor's own time: others may be busy beside."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    model = make_micro(tmp_path / "speaking", "speaking")
    config = configured(model, recordings, **{"judge.check_texts": False, "judge.rounds": 0})
    codes_told, judging, voice, _ = forecast_clips(config, *plan_clips(config, True))
    prepare(recordings, tmp_path / "data", PrepareOptions(min_seconds=0.5, trim_silence=False))
    data, release, encoder = PreparedData.load(tmp_path / "data"), Release(model), model / ENCODER_FILE
    began = time.process_time()
    codes = clip_codes(release, encoder, data, tmp_path / "codes.safetensors")
    times = [time.process_time() - began]
    began = time.process_time()
    found = judged_codes(config, release, encoder, data, codes, tmp_path / "judged.safetensors")
    times.append(time.process_time() - began)
    loaded = load_model(release)
    judge = CodeJudge(loaded, lambda text, rows: [1, *[24] * rows, *[2] * len(text)])
    scored = [Scored(clip.text, found.codes[clip.id]) for clip in data.heldout if clip.id in found.codes]
    mx.eval(loaded.parameters())
    began = time.process_time()
    ranked_voices(judge, candidates(data.train, codes, 12.5, 25.0), scored)
    times.append(2 * (time.process_time() - began))
    for told, took in zip((codes_told, judging, voice), times, strict=True):
        assert took / 3 < told.seconds < 3 * took, told.stage


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def untried(monkeypatch):
    """Forecasts of trainings and pairs that nothing is tried for."""
    monkeypatch.setattr(trainings, "forecast", lambda config, stage: Forecast(stage, {"all": 1e6}, 1.0, 10))
    monkeypatch.setattr(
        pairs_forecast, "forecast_pairs", lambda config, plan: Forecast("pairs", {"all": 1e6}, 0.5, 240, "n", "frame")
    )


def told(capsys, model, recordings, *more) -> str:
    given = {"model": model, "data.path": recordings, "output": recordings.parent / "run", "data.min_seconds": 0.5}
    given |= {"encoder.train.steps": 10, "encoder.train.warmup_steps": 0, "encoder.refine.steps": 5}
    given |= {"encoder.refine.warmup_steps": 0, "speaker.train.steps": 10, "speaker.train.warmup_steps": 0}
    argv = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    assert doctor.main(["--config", str(CONFIG), *argv, "--quiet", *more]) == 0
    return capsys.readouterr().out


def test_doctor_shows_them_in_their_order_and_the_sum(untried, measured, miniature, recordings, capsys):
    found = json.loads(told(capsys, miniature, recordings, "--device", "cpu", "--json"))
    names = ["pairs", "base encoder", "encoder", "codes", "judging", "speaker", "voice", "delivery"]
    assert [stage["stage"] for stage in found["stages"]] == names
    assert found["seconds"] == pytest.approx(sum(s["steps"] * s["step_seconds"] for s in found["stages"]))
    text = told(capsys, miniature, recordings, "--device", "cpu")
    assert "\njudging (0.25 min in 10 clips, 7 passes of the language model, up to 3 times" in text
    table = text.split("\ntime\n")[1].split("\n\n")[0].splitlines()
    assert [line.strip().split("  ")[0] for line in table] == [*names, "in all, about"]
    epochs = told(capsys, miniature, recordings, "--device", "cpu", "--set", "speaker.train.epochs=2")
    assert "in all, about" in epochs


def test_stages_whose_length_epochs_decide_are_named():
    stages = [Forecast("encoder", {}, 2.0, 30), Forecast("speaker", {}, 1.0, 0)]
    text = doctor.time_table(stages)
    assert text.splitlines()[-1].split("about")[1].strip() == "1 min 00 s and speaker, as long as epochs decide"
    assert "\n  speaker " not in text


def test_the_order_of_a_task_without_an_encoder():
    clips = [Forecast(name, {}, 1.0, 1) for name in ("codes", "voice", "delivery")]
    found = in_order([Forecast("speaker", {}, 1.0, 1)], clips)
    assert [stage.stage for stage in found] == ["codes", "speaker", "voice", "delivery"]


def test_the_device_is_the_configurations_unless_the_flag_says_otherwise(
    untried, measured, miniature, recordings, capsys, monkeypatch
):
    seen = []
    monkeypatch.setattr(doctor, "set_device", lambda name: seen.append(name) or "cpu")
    told(capsys, miniature, recordings, "--set", "device=cpu")
    told(capsys, miniature, recordings, "--set", "device=cpu", "--device", "auto")
    assert seen == ["cpu", "auto"]


def test_recordings_with_a_mistake_are_one_line(miniature, tmp_path, capsys):
    (tmp_path / "m.jsonl").write_text('{"audio": 3}\n')
    argv = ["--config", str(CONFIG), "--set", f"model={miniature}", "--set", f"data.path={tmp_path / 'm.jsonl'}"]
    assert doctor.main([*argv, "--device", "cpu"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'm.jsonl'}:1: ")


def test_what_to_change():
    config = load_run_config(CONFIG, {})
    machine = Machine("M9", 8, 16_000_000_000, 11_000_000_000, "gpu", "0", "macOS")
    large = [Forecast(name, {"a": 12e9}, 1.0, 1) for name in ("judging", "delivery")]
    _, judging, delivery = doctor.advice(config, large, machine, [])
    assert judging == "judging: too much memory for this machine; try --set speaker.quantise.bits=4"
    assert delivery == "delivery: too much memory for this machine; it needs a larger one"
