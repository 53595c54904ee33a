"""What a command writes never costs what was there; what a start is refused for does not block the corrected one."""

import math
import shutil

import mlx.core as mx
import numpy as np
import pytest
import yaml
from golden import params_of
from tasks_data import MemoryData, clip, scratch_codec

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import WEIGHTS
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.model import generation
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.settings.differences import config_differences
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.train.encoder.task import EncoderTask
from mlx_voxclone.train.speaker import stage

pytest_plugins = ["commands"]
SHORT = ["--max-seconds", "0.4", "--quiet"]


@pytest.mark.parametrize("victim", ["reference", "weights", "codes", "mp3", "folder name"])
def test_say_and_decode_replace_nothing_but_a_wav(refused, whole, voice_file, tmp_path, victim):
    model = tmp_path / "model"
    shutil.copytree(whole, model)
    reference, codes = tmp_path / "voice.wav", tmp_path / "codes.wav"
    shutil.copy(voice_file, reference)
    save_tensors(codes, {"codes": np.ones((37, 2), np.int32)})
    say = ["say", "--model", model, "--text", "papa", *SHORT]
    argv, said = {
        "reference": ([*say, "--ref-audio", reference, "--output", reference], "is an input"),
        "weights": ([*say, "--voice", "casual_male", "--output", model / WEIGHTS], "is not a WAV file"),
        "codes": (["decode", "--model", model, codes, "--output", codes], "is an input"),
        "mp3": ([*say, "--voice", "casual_male", "--output", tmp_path / "x.mp3"], "ends in .wav"),
        "folder name": ([*say, "--voice", "casual_male", "--output", tmp_path / "no" / "x.wav"], "no such directory"),
    }[victim]
    refused(argv, said)


def test_a_link_is_followed(whole, tmp_path):
    (tmp_path / "link.wav").symlink_to(tmp_path / "real.wav")
    argv = ["say", "--model", whole, "--text", "papa", "--voice", "casual_female", *SHORT]
    assert voxclone([*map(str, argv), "--output", str(tmp_path / "link.wav")]) == 0
    assert (tmp_path / "link.wav").is_symlink()
    assert (tmp_path / "real.wav").read_bytes()[:4] == b"RIFF"


def test_weights_that_are_not_finite_are_an_error_and_no_crash(refused, whole, tmp_path):
    """A code made of NaN indexes the table anywhere: without a check the process dies or speaks garbage."""
    model = tmp_path / "model"
    shutil.copytree(whole, model)
    file = TensorFile(model / WEIGHTS)
    tensors = {name: file.array(name) for name in file.names()}
    tensors["acoustic_transformer.acoustic_codebook_output.weight"] *= math.nan
    save_tensors(model / WEIGHTS, tensors, overwrite=True)
    argv = ["say", "--model", model, "--text", "papa", "--voice", "casual_male", "--output", tmp_path / "o.wav", *SHORT]
    refused(argv, "not finite", "damaged")
    refused([*argv, "--cfg-alpha", "1e39"], "--cfg-alpha")
    refused([*argv, "--steps", "100000000"], "--steps")


@pytest.mark.parametrize("part", ["acoustic_codebook_output", "semantic_codebook_output", "norm"])
def test_no_generation_goes_on_with_nan(part):
    args = (
        '{"semantic_codebook_size": 64, "acoustic_codebook_size": 21, "n_acoustic_codebook": 36,'
        ' "acoustic_transformer_args": {"input_dim": 32, "dim": 32, "n_layers": 1, "head_dim": 8, "hidden_dim": 64,'
        ' "n_heads": 4, "n_kv_heads": 2}}'
    )
    model = Voxtral(VoxtralConfig.from_dict(params_of({"audio_model_args": args})))
    place = model.norm if part == "norm" else getattr(model.acoustic_transformer, part)
    place.weight = place.weight * math.nan
    prompt = mx.random.normal((1, 6, 32), key=mx.random.key(0))
    with pytest.raises(FloatingPointError, match="not finite"):
        list(generation.generate(model, prompt, max_frames=2))
    with pytest.raises(FloatingPointError, match="not finite"):
        generation.generate_batch(model, [prompt[0]], max_frames=2, seeds=[0])


def test_metrics_of_codes_are_nan_when_the_training_has_blown_up(miniature):
    codec = scratch_codec(miniature)
    weight = codec.input_proj.conv.parametrizations.weight
    weight.original0 = weight.original0 * math.inf
    task = EncoderTask(codec, MemoryData([clip(0)], [clip(1)]), EncoderSection(crop_seconds=0.48))
    assert all(math.isnan(value) for value in task.extra_metrics().values())


@pytest.mark.slow
def test_a_refused_start_leaves_the_way_free_and_the_prepared_data_in_use(config_file, tmp_path, capsys):
    """More items in a batch than there are: known only after preparation. The corrected command must simply work."""
    argv = ["train", "--config", str(config_file("clone")), "--set", f"output={tmp_path / 'run'}", "--quiet"]
    assert voxclone([*argv, "--set", "encoder.train.batch_size=500"]) == 2
    assert "encoder.train: batch_size 500 is larger" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["data"]
    stamp = (tmp_path / "run" / "data" / "manifest.jsonl").stat().st_mtime_ns
    assert voxclone([*argv, "--set", "task=encoder", "--max-steps", "1"]) == 0
    assert (tmp_path / "run" / "data" / "manifest.jsonl").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("speaker.lora.layers=99", "2 layers"),
        ("speaker.quantise.bits=8", "quantise.bits: 128 weights share a scale, which do not fit"),
        ("speaker.reference_seconds=[100,200]", "longest clip"),
    ],
)
def test_mistakes_of_the_second_stage_are_found_before_the_first(
    config_file, tmp_path, capsys, setting, said, monkeypatch
):
    if "bits" in setting:
        monkeypatch.setattr(stage, "GROUP_SIZE", 128)  # the miniature is 64 wide
    argv = ["train", "--config", str(config_file("clone")), "--set", f"output={tmp_path / 'run'}", "--set", setting]
    assert voxclone([*argv, "--quiet"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "encoder").exists()


def test_a_stage_that_has_not_begun_may_still_change(config_file):
    path = config_file("clone")
    saved = load_run_config(path, {"encoder.losses.sound": 1.0})
    now = load_run_config(path, {"speaker.lora.rank": 5, "encoder.losses.sound": 2.0})
    assert len(config_differences(saved.dump(), now)) == 2
    assert config_differences(saved.dump(), now, open_stages={"speaker"}) == ["encoder.losses.sound: 1.0 -> 2.0"]
    assert yaml.safe_load(saved.dump())["task"] == "clone"
