"""`voxclone encode --method optimise`, from file to file."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.audio.io import read_audio, write_wav
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.cli.more import encode as command
from mlx_voxclone.train.encoder import optimise
from mlx_voxclone.train.encoder.optimise import optimise_codes, reconstruction_loss

pytest_plugins = ["commands"]
OPTIMISE = ("--method", "optimise")


@pytest.fixture(scope="module", autouse=True)
def _few_trials():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimise, "_TRIALS", 4)
        yield


@pytest.fixture(scope="module")
def clip(speech, tmp_path_factory):
    """Five and a half frames."""
    path = tmp_path_factory.mktemp("clip") / "clip.wav"
    write_wav(path, speech[9_600:20_160])
    return path


def run(audio, model, output, *options) -> int:
    return voxclone([str(a) for a in ("encode", audio, "--model", model, "--output", output, *OPTIMISE, *options)])


def read(path) -> dict[str, np.ndarray]:
    file = TensorFile(path)
    return {name: np.array(file.array(name)) for name in file.names()}


def test_without_an_encoder(miniature, clip, tmp_path, capsys):
    output = tmp_path / "x.safetensors"
    assert run(clip, miniature, output, "--max-steps", "3", "--lr", "0.2", "--seed", "4") == 0
    captured = capsys.readouterr()
    assert captured.out == f"{output}\n"
    assert "3 steps" in captured.err
    assert "s per second of audio" in captured.err
    model = load_model(Release(miniature), parts=["lm", "codec"])
    expected = optimise_codes(model.audio_tokenizer, read_audio(clip), steps=3, learning_rate=0.2, seed=4)
    assert f"total {expected.start_loss['total']:.4g} -> {expected.loss['total']:.4g}" in captured.err
    found = read(output)
    assert sorted(found) == ["codes", "embedding", "latents"]
    assert (found["codes"].dtype, found["codes"].shape) == (np.int32, (37, 6))
    np.testing.assert_array_equal(found["codes"], expected.codes)
    np.testing.assert_array_equal(found["latents"], expected.latents)
    np.testing.assert_array_equal(found["embedding"], np.array(model.voice_embedding(expected.codes)))
    quantised = model.audio_tokenizer.quantize(mx.array(found["latents"])[None])[0]
    np.testing.assert_array_equal(np.array(quantised), found["codes"])


@pytest.mark.parametrize("where", ["baked", "apart"])
def test_starts_from_an_encoder(whole, miniature, encoder_file, clip, tmp_path, where):
    model, options = (whole, []) if where == "baked" else (miniature, ["--encoder", encoder_file])
    plain, output = tmp_path / "plain.safetensors", tmp_path / "x.safetensors"
    assert voxclone([str(a) for a in ("encode", clip, "--model", model, "--output", plain, *options)]) == 0
    assert run(clip, model, output, *options, "--max-steps", "2", "--quiet") == 0
    codec = load_model(Release(miniature), parts=["codec"]).audio_tokenizer
    expected = optimise_codes(codec, read_audio(clip), start=read(plain)["latents"], steps=2)
    np.testing.assert_array_equal(read(output)["latents"], expected.latents)
    wave = read_audio(clip)
    before, after = (reconstruction_loss(codec, read(path)["codes"], wave)["total"] for path in (plain, output))
    assert after < before


def test_decodes_and_makes_a_voice(miniature, clip, tmp_path):
    assert run(clip, miniature, tmp_path / "x.safetensors", "--max-steps", "1", "--quiet") == 0
    argv = ["decode", tmp_path / "x.safetensors", "--model", miniature, "--output", tmp_path / "x.wav"]
    assert voxclone([str(a) for a in argv]) == 0
    assert len(read_audio(tmp_path / "x.wav")) == 6 * 1920


def test_a_long_clip_says_how_long_it_will_take(miniature, clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(optimise, "PIECE_FRAMES", 2)
    inner = optimise.optimise_codes
    monkeypatch.setattr(optimise, "optimise_codes", lambda *a, **k: inner(*a, **k, piece_frames=2))
    assert run(clip, miniature, tmp_path / "x.safetensors", "--max-steps", "1") == 0
    errors = capsys.readouterr().err
    assert errors.count("chunk 1 of 3 took") == 1
    assert " left\n" in errors
    assert "3 steps" in errors


def test_ctrl_c_leaves_nothing(miniature, clip, tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command._Progress, "__call__", interrupt)
    assert run(clip, miniature, tmp_path / "x.safetensors") == 130
    assert list(tmp_path.iterdir()) == []


def test_help_states_the_defaults(capsys):
    assert voxclone(["encode", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"chunk of {optimise.PIECE_FRAMES * 0.08:g} s" in text
    for value in (optimise.STEPS, optimise.LEARNING_RATE, optimise.PATIENCE):
        assert f"(default: {value})" in text


# ---- refusals ------------------------------------------------------------------------------------------------------


def test_without_an_encoder_both_ways_out_are_named(refused, miniature, clip, tmp_path):
    argv = ["encode", clip, "--model", miniature, "--output", tmp_path / "x.safetensors"]
    refused(argv, "has no codec encoder", "--encoder FILE", "--method optimise")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([*OPTIMISE, "--max-steps", "0"], "--max-steps must be at least 1, got 0"),
        ([*OPTIMISE, "--patience", "-3"], "--patience must be at least 1, got -3"),
        ([*OPTIMISE, "--lr", "0"], "--lr must be above 0 and finite, got 0"),
        ([*OPTIMISE, "--lr", "nan"], "--lr must be above 0 and finite, got nan"),
        (["--max-steps", "5"], "--max-steps is for --method optimise"),
        (["--method", "encoder", "--patience", "5"], "--patience is for --method optimise"),
        (["--method", "both"], "invalid choice"),
    ],
)
def test_options_out_of_range(refused, whole, clip, tmp_path, options, text):
    refused(["encode", clip, "--model", whole, "--output", tmp_path / "x.safetensors", *options], text)


def test_a_clip_shorter_than_a_frame(refused, miniature, speech, tmp_path):
    write_wav(tmp_path / "short.wav", speech[:1_200])
    argv = ["encode", tmp_path / "short.wav", "--model", miniature, "--output", tmp_path / "x.safetensors", *OPTIMISE]
    refused(argv, f"{tmp_path / 'short.wav'}: 0.05 s of audio is shorter than one frame")


def test_silence_gives_codes(miniature, tmp_path):
    write_wav(tmp_path / "silent.wav", np.zeros(3 * 1920))
    assert run(tmp_path / "silent.wav", miniature, tmp_path / "x.safetensors", "--max-steps", "2", "--quiet") == 0
    assert np.isfinite(read(tmp_path / "x.safetensors")["latents"]).all()


def damaged(path, name_ends: str, value: float) -> dict[str, np.ndarray]:
    file = TensorFile(path)
    tensors = {name: file.numpy(name) for name in file.names()}
    for name in tensors:
        if name.endswith(name_ends):
            tensors[name] = np.full_like(tensors[name], value)
    return tensors


def test_encoders_that_cannot_be_used(refused, miniature, encoder_file, clip, tmp_path):
    path = tmp_path / "e.safetensors"
    argv = ["encode", clip, "--model", miniature, "--output", tmp_path / "x.safetensors", *OPTIMISE, "--encoder", path]
    tensors = damaged(encoder_file, "input_proj.conv.parametrizations.weight.original1", 1.0)
    name = next(name for name in tensors if name.endswith("input_proj.conv.parametrizations.weight.original1"))
    save_tensors(path, tensors | {name: tensors[name][:, :, :3].copy()})
    refused(argv, str(path), "misshapen")
    path.unlink()
    save_tensors(path, damaged(encoder_file, "input_proj.conv.parametrizations.weight.original0", np.nan))
    refused(argv, "not finite: the encoder's weights are damaged")


def test_a_damaged_decoder(refused, miniature, clip, tmp_path, monkeypatch):
    def broken(*arguments, **keywords):
        model = load_model(*arguments, **keywords)
        weight = model.audio_tokenizer.output_proj.conv.parametrizations.weight
        weight.original0 = weight.original0 * mx.nan
        return model

    monkeypatch.setattr("mlx_voxclone.checkpoint.release.load_model", broken)
    argv = ["encode", clip, "--model", miniature, "--output", tmp_path / "x.safetensors", *OPTIMISE]
    refused(argv, f"{miniature}: ", "decoder gives audio that is not finite")
