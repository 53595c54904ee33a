"""Encoders whose numbers are not finite or of no use, in every command that hears with one: a line, no traceback."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli import main as voxclone

pytest_plugins = ["commands"]


@pytest.fixture(params=["nan", "inf", "3e38", "1e30"])
def ruined(request, encoder_file, tmp_path_factory):
    """As a training that has diverged would have left it."""
    file, value = TensorFile(encoder_file), float(request.param)
    path = tmp_path_factory.mktemp("ruined") / "encoder.safetensors"
    rng = np.random.default_rng(0)
    save_tensors(path, {n: rng.choice([-value, value], file.numpy(n).shape).astype(np.float32) for n in file.names()})
    return path


def test_no_command_ends_in_a_traceback(ruined, miniature, voice_file, tmp_path, capsys):
    encoder, output = ["--encoder", ruined], ["--output", tmp_path / "out.wav"]
    say = ["say", "--text", "papa", "--ref-audio", voice_file, "--max-seconds", "0.2"]
    commands = {
        "say": [*say, "--model", miniature, *encoder, *output],
        "encode": ["encode", voice_file, "--model", miniature, *encoder, "--output", tmp_path / "x.safetensors"],
        "voices": ["voices", "add", f"anna={voice_file}", "--model", miniature, *encoder, "--output", tmp_path / "o"],
        "bake": ["bake", "--model", miniature, *encoder, "--voice", f"a={voice_file}", "--output", tmp_path / "b"],
    }
    for name, command in commands.items():
        code = voxclone([*map(str, command), *([] if name in ("voices", "bake") else ["--quiet"])])
        said = capsys.readouterr().err
        assert code in (0, 2), name
        assert code == 0 or said.splitlines()[-1].startswith("error: "), name
        if ruined.parent.name.startswith(("nan", "inf")):
            assert code == 2, name


def test_codes_of_numbers_that_are_not_finite_are_none(miniature, encoder_file):
    from mlx_voxclone.checkpoint.release import Release, load_model

    codec = load_model(Release(miniature), parts=["codec"], encoder_file=encoder_file).audio_tokenizer
    codec.input_proj.conv.parametrizations.weight.original0 *= mx.nan
    with pytest.raises(FloatingPointError, match="encoder's numbers are not finite"):
        codec.audio_codes(np.ones(4000, np.float32))
