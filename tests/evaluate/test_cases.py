"""What is read to be evaluated: what cannot be meant is refused in one line that says where."""

import json

import pytest

from mlx_voxclone.errors import DataError
from mlx_voxclone.evaluate.cases import read_cases


@pytest.fixture
def place(tmp_path):
    """Two files to name; only measuring would open them."""
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    return tmp_path


def listed(place, *entries):
    path = place / "cases.jsonl"
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return path


@pytest.mark.parametrize("sign", ["\u2028", "\u0085", "\f", "\v", "\x1c"])
def test_lines_end_at_line_feeds_alone(place, sign):
    """JSON leaves line separators as they are, and so do lists; JSON writes control characters otherwise."""
    (place / "cases.lst").write_bytes(f"a|x|b.wav|one{sign}two\r\n\r\nb|x|b.wav|three\n".encode())
    assert [case.text for case in read_cases(place / "cases.lst", place)] == ["one two", "three"]
    path = listed(place, {"output": "a.wav", "text": f"one{sign}two"}, {"output": "b.wav", "text": "three"})
    assert [case.text for case in read_cases(path)] == ["one two", "three"]


def test_a_mark_of_byte_order_is_no_part_of_the_list(place):
    (place / "cases.lst").write_bytes(b"\xef\xbb\xbfa|x|b.wav|one\n")
    assert [case.id for case in read_cases(place / "cases.lst", place)] == ["a"]
    (place / "cases.lst").write_bytes("a|x|b.wav|one\nb|x|b.wav|caf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"cases\.lst:2: "):
        read_cases(place / "cases.lst", place)


@pytest.mark.parametrize("text", ["...", "—", "?!", " … "])
def test_a_text_of_signs_alone_is_refused_with_its_place(place, text):
    path = listed(place, {"output": "a.wav", "text": "words"}, {"output": "b.wav", "text": text})
    with pytest.raises(DataError, match=r"cases\.jsonl:2: the text \(.*\) holds no words"):
        read_cases(path)
    (place / "cases.lst").write_text(f"a|x|b.wav|words\nb|x|b.wav|{text}\n")
    with pytest.raises(DataError, match=r"cases\.lst:2: the text to say \(.*\) holds no words"):
        read_cases(place / "cases.lst", place)
    (place / "b.txt").write_text(text)  # beside a recording it counts as none, as everywhere
    assert [case.text for case in read_cases(place)] == [None, None]


def test_a_blank_text_is_none(place):
    assert read_cases(listed(place, {"output": "a.wav", "text": " "}))[0].text is None
    (place / "cases.lst").write_text("a|x|b.wav| \n")
    assert read_cases(place / "cases.lst", place)[0].text is None


@pytest.mark.parametrize("seconds", [-3, 0, True, False, "1", [1], float("nan"), float("inf"), 10**400])
def test_seconds_are_a_number_above_0(place, seconds):
    path = listed(place, {"output": "a.wav", "seconds": 0.5}, {"output": "b.wav", "seconds": seconds})
    with pytest.raises(DataError, match=r"cases\.jsonl:2: seconds must be a number above 0, not ") as error:
        read_cases(path)
    assert len(str(error.value)) < len(str(path)) + 100


def test_seconds_may_be_left_out(place):
    path = listed(place, {"output": "a.wav", "seconds": None}, {"output": "b.wav", "seconds": 2})
    assert [case.seconds for case in read_cases(path)] == [None, 2]


def test_an_output_without_a_name_is_refused(place):
    with pytest.raises(DataError, match=r'cases\.jsonl:1: an object with "output"'):
        read_cases(listed(place, {"output": "", "id": "a"}))


@pytest.mark.parametrize("name", ["a", "a-reference", "a-original", "reference"])
def test_two_files_of_one_name_are_refused(place, name):
    (place / f"{name}.wav").touch()
    (place / f"{name}.flac").touch()
    with pytest.raises(DataError, match=rf"{name}\.flac and {name}\.wav differ in nothing but the suffix"):
        read_cases(place)


def test_two_outputs_of_one_id_are_refused(place):
    (place / "a.mp3").touch()
    (place / "cases.lst").write_text("a|x|b.wav|words\n")
    with pytest.raises(DataError, match=r"a\.wav and a\.mp3 differ in nothing but the suffix"):
        read_cases(place / "cases.lst", place)
