"""Manifests: what is read from a folder, JSON Lines and metadata.csv, and what is refused with file and line."""

import json
import unicodedata
from pathlib import Path

import pytest

from mlx_voxclone.data.entries import Entry
from mlx_voxclone.data.listings.manifest import read_source
from mlx_voxclone.errors import DataError


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def jsonl(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def refusal(source: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_source(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Folders


def test_folder_with_texts_beside_the_audio(tmp_path):
    folder = make(tmp_path / "anna", "b.wav", "a.FLAC", "notes.txt", "cover.jpg", "._b.wav", ".hidden/c.wav")
    (folder / "b.txt").write_text("\ufeffHello\n  world.\n", encoding="utf-8")
    (folder / "a.txt").write_text("  \n")
    entries = read_source(folder)
    assert [(e.audio.name, e.speaker, e.text) for e in entries] == [
        ("a.FLAC", "anna", None),
        ("b.wav", "anna", "Hello world."),
    ]


def test_subfolders_are_speakers(tmp_path):
    folder = make(tmp_path / "all", "ben/x/2.wav", "ben/1.mp3", "cleo/1.wav", "0.wav")
    found = {e.audio.relative_to(folder).as_posix(): e.speaker for e in read_source(folder)}
    assert found == {"0.wav": "all", "ben/1.mp3": "ben", "ben/x/2.wav": "ben", "cleo/1.wav": "cleo"}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_speakers_that_are_named_by_folders_have_composed_accents(tmp_path, form):
    """As those that are named in a list: macOS and archives made there decompose the names of files."""
    zoe, jose = (unicodedata.normalize(form, name) for name in ("Zoë", "José"))
    folder = make(tmp_path / jose, f"{zoe}/1.wav", "0.wav")
    assert [e.speaker for e in read_source(folder)] == ["José", "Zoë"]
    assert [e.speaker for e in read_source(make(folder, f"{zoe}.wav") / f"{zoe}.wav")] == ["Zoë"]
    assert read_source(jsonl(folder / "m.jsonl", {"audio": "0.wav"}))[0].speaker == "José"
    (folder / "m.csv").write_text("0|Words of it.\n")
    assert read_source(folder / "m.csv")[0].speaker == "José"


def test_a_link_that_leads_back_is_not_followed_for_ever(tmp_path):
    folder = make(tmp_path / "f", "a.wav")
    (folder / "again").symlink_to(folder)
    assert len(read_source(folder)) == 1


def test_a_file_and_links_to_it_are_one_recording(tmp_path):
    folder = make(tmp_path / "f", "b.wav", "c/d.wav")
    (folder / "a.wav").symlink_to(folder / "b.wav")
    (folder / "z.wav").symlink_to("c/d.wav")
    outside = make(tmp_path / "o", "e.wav")
    (folder / "e.wav").symlink_to(outside / "e.wav")
    assert [e.audio.relative_to(folder).as_posix() for e in read_source(folder)] == ["b.wav", "c/d.wav", "e.wav"]
    assert "listed already" in refusal(jsonl(tmp_path / "m.jsonl", {"audio": "f/b.wav"}, {"audio": "f/a.wav"}))


def test_half_a_surrogate_pair_is_no_text(tmp_path):
    assert "m.jsonl:1: text holds half" in refusal(jsonl(tmp_path / "m.jsonl", r'{"audio": "a.wav", "text": "\ud800"}'))


def test_empty_folder(tmp_path):
    assert refusal(make(tmp_path / "e", "readme.md")) == (
        f"{tmp_path / 'e'}: no audio in this folder; WAV, FLAC, MP3, OGG or AIFF files are expected"
    )


def test_audio_that_cannot_be_decoded_is_listed_so_that_it_is_reported(tmp_path):
    assert len(read_source(make(tmp_path / "a", "memo.m4a"))) == 1


def test_one_recording(tmp_path):
    make(tmp_path, "talk.wav")
    (tmp_path / "talk.txt").write_text("Words.")
    (entry,) = read_source(tmp_path / "talk.wav")
    assert (entry.audio, entry.speaker, entry.text) == (tmp_path / "talk.wav", "talk", "Words.")


@pytest.mark.parametrize("name", ["none", "none.wav", "none.jsonl"])
def test_nothing_there(tmp_path, name):
    assert "no such file or directory" in refusal(tmp_path / name)


def test_a_file_of_no_known_kind(tmp_path):
    assert "not the name of an audio file or a manifest" in refusal(make(tmp_path, "a.pdf") / "a.pdf")


def test_prepared_data_is_no_source(tmp_path):
    make(tmp_path, "manifest.jsonl", "summary.json", "clips/a.flac")
    assert "already holds prepared clips" in refusal(tmp_path)


# JSON Lines


@pytest.mark.parametrize("by_folder", [True, False])
def test_jsonl(tmp_path, by_folder):
    full = {"audio": "w/a.wav", "text": "Hi  there", "speaker": "anna", "language": "en", "ref_audio": "w/r.wav"}
    manifest = jsonl(tmp_path / "manifest.jsonl", full, "", {"audio": "/data/b.wav", "text": None})
    first, second = read_source(tmp_path if by_folder else manifest)
    found = (first.audio, first.speaker, first.text, first.language, first.ref_audio, first.where)
    assert found == (tmp_path / "w/a.wav", "anna", "Hi there", "en", tmp_path / "w/r.wav", f"{manifest}:1")
    assert second == Entry("/data/b.wav", tmp_path.name, folder=tmp_path, listing=str(manifest), line=3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"audio": "b.wav", "txt": "x"}, "unknown key 'txt'; did you mean 'text'?"),
        ({"audio": "b.wav", "speeker": "x"}, "unknown key 'speeker'; did you mean 'speaker'?"),
        ({"audio": "b.wav", "qqq": 1}, "unknown key 'qqq'; known are audio, text, speaker, language, ref_audio, split"),
        ({"text": "x"}, '"audio" is missing'),
        ({"audio": ""}, '"audio" is missing'),
        ({"audio": None}, "audio must be a text, found null"),
        ({"audio": "b.wav", "text": 5}, "text must be a text, found 5"),
        ({"audio": "./a.wav"}, "a.wav is listed already at"),
        ({"audio": "b.wav", "ref_audio": "x/../b.wav"}, "ref_audio is the recording itself"),
        ({"audio": "a\0/b.wav"}, "audio holds a null character"),
        ({"audio": "b.wav", "split": "test"}, 'split must be "train" or "heldout", found "test"'),
        ("[1, 2]", "expected an object"),
        ('{"audio": "b.wav"', "not JSON"),
    ],
)
def test_mistakes_in_jsonl_name_file_and_line(tmp_path, line, message):
    manifest = jsonl(tmp_path / "m.jsonl", {"audio": "a.wav"}, line)
    text = refusal(manifest)
    assert text.startswith(f"{manifest}:2: ")
    assert message in text


def test_empty_jsonl(tmp_path):
    assert "lists no audio" in refusal(jsonl(tmp_path / "m.jsonl", "", ""))


def test_jsonl_in_another_encoding(tmp_path):
    (tmp_path / "m.jsonl").write_bytes('{"audio": "a.wav"}\n{"audio": "é.wav"}'.encode("latin-1"))
    assert refusal(tmp_path / "m.jsonl") == f"{tmp_path / 'm.jsonl'}:2: not UTF-8 text; save it as UTF-8"


# metadata.csv


@pytest.mark.parametrize("place", ["", "wavs/"])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_metadata_csv(tmp_path, place, suffix):
    folder = make(tmp_path / "lj", *(f"{place}LJ-{k}.{suffix}" for k in (1, 2, 3)))
    (folder / "metadata.csv").write_text('LJ-1|He said "no", then.\nLJ-2|In 1920|In nineteen twenty\nLJ-3|Only raw|\n')
    entries = read_source(folder)
    assert [e.audio for e in entries] == [folder / f"{place}LJ-{k}.{suffix}" for k in (1, 2, 3)]
    assert [e.text for e in entries] == ['He said "no", then.', "In nineteen twenty", "Only raw"]
    assert {e.speaker for e in entries} == {"lj"}
    assert read_source(folder / "metadata.csv") == entries


def test_metadata_csv_with_suffixes_and_missing_audio(tmp_path):
    folder = make(tmp_path, "a.flac")
    (folder / "metadata.csv").write_text("a.flac|Words\r\nb|More\r\n")
    assert [(e.audio.name, e.text) for e in read_source(folder)] == [("a.flac", "Words"), ("b.wav", "More")]


@pytest.mark.parametrize("line", ["no separator", "a|b|c|d", "|text"])
def test_mistakes_in_metadata_csv_name_file_and_line(tmp_path, line):
    (tmp_path / "metadata.csv").write_text(f"x|fine\n{line}\n")
    assert refusal(tmp_path).startswith(f"{tmp_path / 'metadata.csv'}:2: expected `id|text`")


def test_metadata_csv_with_a_repeated_id(tmp_path):
    (tmp_path / "metadata.csv").write_text("x|one\nx|two\n")
    assert f"listed already at {tmp_path / 'metadata.csv'}:1" in refusal(tmp_path)
