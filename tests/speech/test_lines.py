"""Lists of texts: everything wrong is named by its line, before anything is spoken; no file lies outside."""

import json

import pytest

from mlx_voxclone.errors import DataError
from mlx_voxclone.speech.to_files.lines import read_lines

VOICES = ("casual_male", "casual_female")


def read(tmp_path, *lines, **options):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (tmp_path / "l.jsonl").write_text(text + "\n", encoding="utf-8")
    return read_lines(tmp_path / "l.jsonl", **({"voices": VOICES, "voice": True, "pause": 0.3} | options))


def test_a_list(tmp_path):
    (tmp_path / "ann.safetensors").touch()
    a, b, c = read(
        tmp_path,
        {"text": "One. Two.\n\nThree.", "file": "part 1/a", "seed": 7, "language": "fr"},
        "",
        {"text": "Four", "voice": "Casual_Male", "seed": None},
        {"text": "Five", "voice": "ann.safetensors", "file": "b.WAV"},
        seed=3,
        language="de",
    )
    assert (a.file, a.seed, a.language, a.voice) == ("part 1/a.wav", 7, "fr", None)
    assert [chunk.pause for chunk in a.chunks] == [0.6, 0.0]  # none behind the last
    assert (b.file, b.seed, b.language, b.voice) == ("00003.wav", 3, "de", "Casual_Male")
    assert (c.file, c.voice) == ("b.WAV", str(tmp_path / "ann.safetensors"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"l\.jsonl:2: is no JSON"),
        ("[1]", r"l\.jsonl:2: is no object"),
        ({}, "has no text"),
        ({"text": None}, "has no text"),
        ({"text": 3}, "text must be a text, got 3"),
        ({"text": ""}, "text must be a text"),
        ({"text": "... !"}, "no letter and no digit"),
        ({"text": "caf\ufffd"}, "U\\+FFFD"),
        ({"text": "a", "txt": 1}, "unknown key 'txt'; did you mean 'text'"),
        ({"text": "a", "voice": "casual_mal"}, "no voice called 'casual_mal'; did you mean 'casual_male'"),
        ({"text": "a", "voice": "no.pt"}, "no.pt: no such file"),
        ({"text": "a", "seed": -1}, "seed must be a whole number"),
        ({"text": "a", "seed": True}, "seed must be a whole number"),
        ({"text": "a", "seed": 2**63}, "seed must be a whole number"),
        ({"text": "a", "file": "../x.wav"}, "leads out of the output directory"),
        ({"text": "a", "file": "a/../../x.wav"}, "leads out of the output directory"),
        ({"text": "a", "file": "/etc/x.wav"}, "leads out of the output directory"),
        ({"text": "a", "file": "C:\\x.wav"}, "leads out of the output directory"),
        ({"text": "a", "file": "..\\x.wav"}, "leads out of the output directory"),
        ({"text": "a", "file": "x\n.wav"}, "has signs that no name should have"),
        ({"text": "a", "file": "x\u202e.wav"}, "has signs that no name should have"),
        ({"text": "a", "file": "x.mp3"}, "only WAV is written"),
        ({"text": "a", "file": ".wav"}, "empty, hidden or longer"),
        ({"text": "a", "file": "."}, "empty, hidden or longer"),
        ({"text": "a", "file": "é" * 130}, "empty, hidden or longer"),
        ({"text": "a", "file": "FIRST.WAV"}, "is that of .*l.jsonl:1 already"),
        ({"text": "a", "file": "first.wav/b.wav"}, "lies in that of .*l.jsonl:1"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, line, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, {"text": "Good", "file": "first.wav"}, line, {"text": "Good too"})
    assert "l.jsonl:2" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_others_that_are_wrong_are_counted(tmp_path):
    with pytest.raises(DataError, match=r"l\.jsonl:1: has no text \(wrong as well: 3, 4, 5, 6, 7, \.\.\.\)"):
        read(tmp_path, {}, {"text": "a"}, *[{}] * 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no line"),
        (b"\n \n", "has no line"),
        (b'{"text": "\xff"}', "is not UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    ],
)
def test_lists_that_hold_nothing(tmp_path, content, message):
    (tmp_path / "l.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_lines(tmp_path / "l.jsonl", voices=VOICES, voice=True, pause=0.3)


def test_no_list_and_no_voice(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read \(no such file"):
        read_lines(tmp_path / "none.jsonl", voices=VOICES, voice=True, pause=0.3)
    with pytest.raises(DataError, match="has no voice; give it one, or --voice"):
        read(tmp_path, {"text": "a"}, voice=False)
