"""Narrating from Python: long texts chunk by chunk, as the command says them, with what is heard and refused."""

import contextlib
import warnings

import numpy as np
import pytest
import soundfile

import mlx_voxclone
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.data.options import WHISPER_MODEL
from mlx_voxclone.errors import CheckpointError, ConfigError, DataError, VoxcloneWarning
from mlx_voxclone.evaluate import listening
from mlx_voxclone.speech import narration

pytest_plugins = ["commands"]
VOICE = "casual_female"
SHORT = "papa mino.\n\nkoni sewu."
LONG = "The ship went on through the fog, and nobody saw a light for a long time. " * 5


@pytest.fixture(scope="module")
def tts(whole):
    return mlx_voxclone.load(whole)


@pytest.mark.slow
def test_a_long_text_is_narrated_as_the_command_says_it(tts, tmp_path):
    calls = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VoxcloneWarning)
        found = list(tts.narrate(LONG, VOICE, seed=3, batch=2, progress=lambda *call: calls.append(call)))
    assert calls == [(n, 5, "speaking") for n in range(1, 6)]
    (tmp_path / "text.txt").write_text(LONG)
    argv = [
        "say",
        "--model",
        str(tts._speaker.release.path),
        "--text-file",
        str(tmp_path / "text.txt"),
        "--voice",
        VOICE,
    ]
    argv += ["--seed", "3", "--batch", "2", "--float32", "--output", str(tmp_path / "a.wav")]
    assert voxclone(argv) == 0
    np.testing.assert_array_equal(np.concatenate(found), soundfile.read(tmp_path / "a.wav", dtype="float32")[0])


def test_a_chunk_that_may_not_be_right_is_a_warning(tts, monkeypatch):
    monkeypatch.setattr(narration, "PACE", 1e-4)  # every chunk is cut off
    monkeypatch.setattr(narration, "SPARE", 0.1)
    with pytest.warns(VoxcloneWarning, match="'The ship went on .*': it did not end within"):
        next(tts.narrate(LONG, VOICE))


@pytest.fixture
def heard(monkeypatch):
    """A listener that hears the first try of a text wrong; what it was asked, and whether it is still there."""
    asked = []

    @contextlib.contextmanager
    def listener(whisper):
        asked.append(whisper)
        texts = set()

        def listen(text, samples):
            wrong = 0 if text in texts else 9
            texts.add(text)
            return narration.Heard("what", wrong, 10)

        try:
            yield lambda language: asked.append(language) or listen
        finally:
            asked.append("gone")

    monkeypatch.setattr(listening, "listener", listener)
    return asked


@pytest.mark.parametrize("tries", [1, 2])
def test_what_is_heard_decides_as_in_the_command(tts, tmp_path, heard, capsys, tries):
    """The same tries are taken, and what may not be right is told, as a warning each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        spoken = tts.narrate(SHORT, VOICE, verify=True, whisper_model=tmp_path / "w", tries=tries, batch=2)
        assert heard == [str(tmp_path / "w"), None]
        found = list(spoken)
    assert heard[2:] == ["gone"]
    argv = ["say", "--model", str(tts._speaker.release.path), "--text", SHORT, "--voice", VOICE, "--batch", "2"]
    argv += ["--verify", "--whisper-model", str(tmp_path / "w"), "--tries", str(tries), "--float32", "--output"]
    assert voxclone([*argv, str(tmp_path / "a.wav")]) == 0
    np.testing.assert_array_equal(np.concatenate(found), soundfile.read(tmp_path / "a.wav", dtype="float32")[0])
    told = capsys.readouterr().err
    lines = [str(one.message) for one in caught if one.category is VoxcloneWarning]
    assert any("could hardly choose" in line for line in lines) == (tries == 1)
    assert all(f"warning: {line}" in told for line in lines)


def test_a_whisper_goes_with_its_iterator(tts, heard):
    spoken = tts.narrate(SHORT, VOICE, verify=True, language="de")
    assert heard == [WHISPER_MODEL, "de"]
    del spoken  # not even begun
    assert heard[2:] == ["gone"]
    spoken = tts.narrate(SHORT, VOICE, verify=True, tries=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VoxcloneWarning)
        next(spoken)
    spoken.close()
    assert heard[5:] == ["gone"]


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"text": "..."}, DataError, "no letter and no digit"),
        ({"text": 7}, DataError, "text must be a str"),
        ({"voice": "nobody"}, CheckpointError, "no voice called 'nobody'"),
        ({"pause": -1}, ConfigError, "pause: a number from 0 is expected"),
        ({"batch": 0}, ConfigError, "batch: a whole number from 1"),
        ({"batch": True}, ConfigError, "batch: a whole number from 1"),
        ({"batch": 2.5}, ConfigError, "batch: a whole number from 1"),
        ({"tries": 0}, ConfigError, "tries: a whole number from 1 is expected, up to 20"),
        ({"tries": 21}, ConfigError, "tries: a whole number from 1 is expected, up to 20"),
        ({"verify": "yes"}, ConfigError, "verify: True or False"),
        ({"verify": True, "whisper_model": 7}, ConfigError, "whisper_model: a path"),
        ({"verify": True, "whisper_model": "gone/x"}, DataError, "gone/x"),
        ({"whisper_model": "w"}, ConfigError, "whisper_model: is the one that listens; give verify=True"),
        ({"seed": -1}, ConfigError, "seed: must be from 0"),
    ],
)
def test_what_narrate_refuses_at_once(tts, given, kind, said):
    with pytest.raises(kind, match=said):
        tts.narrate(**({"text": LONG, "voice": VOICE} | given))
