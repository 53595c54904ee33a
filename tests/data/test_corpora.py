"""Corpora by their own layout: LibriSpeech, LibriTTS and Common Voice; their splits; what is wrong with them."""

import json
from pathlib import Path

import pytest
import soundfile
from recordings import rejections, talk

from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.listings.manifest import read_listing, read_source
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.errors import DataError

SPOKEN = {  # subset, speaker, chapter, texts
    "train-clean-100": [("19", "198", ["MISTER I'M HE AND I", "WELL"]), ("26", "495", ["GOOD DAY"])],
    "dev-clean": [("84", "121", ["GO", "COME"])],
}
HEADER = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\tlocale\tsegment"


def put(path: Path, samples=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch() if samples is None else soundfile.write(path, samples, SAMPLE_RATE)
    return path


def librispeech(root: Path, audio=lambda k: None, subsets=tuple(SPOKEN)) -> Path:
    for subset in subsets:
        for speaker, chapter, texts in SPOKEN[subset]:
            place, name = root / subset / speaker / chapter, f"{speaker}-{chapter}"
            for k in range(len(texts)):
                put(place / f"{name}-{k:04d}.flac", audio(int(speaker) + k))
            lines = (f"{name}-{k:04d} {text}\n" for k, text in enumerate(texts))
            (place / f"{name}.trans.txt").write_text("".join(lines))
    (root / "SPEAKERS.TXT").write_text(";ID |SEX| SUBSET |MINUTES| NAME\n19 | F | train-clean-100 | 25.19 | Ann\n")
    return root


def libritts(root: Path, audio=lambda k: None) -> Path:
    for subset, spoken in SPOKEN.items():
        for speaker, chapter, texts in spoken:
            for k, text in enumerate(texts):
                wav = put(root / subset / speaker / chapter / f"{speaker}_{chapter}_00000{k}_000000.wav", audio(k))
                wav.with_suffix(".normalized.txt").write_text(f"Doctor {text.title()}.\n")
                wav.with_suffix(".original.txt").write_text(f"Dr. {text.title()}.\n")
    return root


def row(client: str, path: str, sentence: str, locale: str = "de") -> str:
    return f"{client}\t{path}\t{sentence}\t2\t0\t\t\t\t\t{locale}\t"


def common_voice(folder: Path, **tables: list[str]) -> Path:
    (folder / "clips").mkdir(parents=True)
    for name, rows in tables.items():
        (folder / f"{name}.tsv").write_text("\n".join([HEADER, *rows, ""]), encoding="utf-8")
    return folder


def facts(source: Path) -> list[tuple]:
    return [(e.audio.name, e.speaker, e.text, e.language, e.split) for e in read_source(source)]


def refusal(source: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_listing(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# LibriSpeech and LibriTTS


def test_librispeech(tmp_path):
    root = librispeech(tmp_path / "LibriSpeech")
    assert facts(root) == [
        ("84-121-0000.flac", "84", "Go", "en", "heldout"),
        ("84-121-0001.flac", "84", "Come", "en", "heldout"),
        ("19-198-0000.flac", "19", "Mister I'm he and I", "en", "train"),
        ("19-198-0001.flac", "19", "Well", "en", "train"),
        ("26-495-0000.flac", "26", "Good day", "en", "train"),
    ]
    entry = read_source(root)[3]
    assert entry.audio == root / "train-clean-100/19/198/19-198-0001.flac"
    assert entry.where == f"{root}/train-clean-100/19/198/19-198.trans.txt:2"
    notes = " ".join(read_listing(root).notes)
    assert "lower case with an initial capital (5)" in notes
    assert "dev and test recordings are held out" in notes


@pytest.mark.parametrize("make", [librispeech, libritts])
def test_a_subset_a_speaker_a_chapter(tmp_path, make, monkeypatch):
    root = make(tmp_path / "corpus")
    for inside, count in (("train-clean-100", 3), ("train-clean-100/19", 2), ("train-clean-100/19/198", 2)):
        monkeypatch.chdir(root / inside)
        for source in (root / inside, Path()):
            entries = read_source(source)
            assert len(entries) == count
            assert entries[0].speaker == "19"
            assert all(e.text and e.split is None for e in entries)  # the usual share is held out
    for inside in ("dev-clean", "dev-clean/84"):
        listing = read_listing(root / inside)
        assert [(e.speaker, e.split) for e in listing.entries] == [("84", None)] * 2
        assert "dev or test alone" in listing.notes[-1]
    assert len(read_source(tmp_path)) == 5  # the folder that it was unpacked in


def test_libritts(tmp_path):
    root = libritts(tmp_path / "LibriTTS_R")
    (root / "train-clean-100/26/495/26_495_000000_000000.normalized.txt").unlink()
    assert facts(root)[1:] == [
        ("84_121_000001_000000.wav", "84", "Doctor Come.", "en", "heldout"),
        ("19_198_000000_000000.wav", "19", "Doctor Mister I'M He And I.", "en", "train"),
        ("19_198_000001_000000.wav", "19", "Doctor Well.", "en", "train"),
        ("26_495_000000_000000.wav", "26", "Dr. Good Day.", "en", "train"),
    ]


def test_transcripts_without_audio_and_audio_without_transcript(tmp_path):
    root = librispeech(tmp_path / "LibriSpeech")
    chapter = root / "train-clean-100/19/198"
    put(chapter / "19-198-0007.flac")
    (chapter / "19-198-0000.flac").unlink()
    (root / "dev-clean/84/121/84-121.trans.txt").unlink()
    put(root / "mine.wav")
    found = {name: text for name, _, text, _, _ in facts(root)}
    assert found["19-198-0000.flac"]  # prepare says that it is missing
    assert [name for name, text in found.items() if text is None] == [
        "84-121-0000.flac",
        "84-121-0001.flac",
        "19-198-0007.flac",
    ]
    notes = " ".join(read_listing(root).notes)
    assert "kept without text (3)" in notes
    assert f"left out (1), such as {root}/mine.wav" in notes
    tts = libritts(tmp_path / "LibriTTS")
    (tts / "dev-clean/84/121/84_121_000000_000000.wav").unlink()
    assert len(read_source(tts)) == 5


def test_line_ends_and_a_mark_of_order(tmp_path):
    root = librispeech(tmp_path / "LibriSpeech")
    (root / "train-clean-100/26/495/26-495.trans.txt").write_bytes(b"\xef\xbb\xbf26-495-0000  GOOD\tDAY\r\n\r\n")
    assert facts(root)[-1][2] == "Good day"
    (root / "train-clean-100/26/495/26-495.trans.txt").write_bytes(b"26-495-0000 GOOD DAY\r\n\r\n?\r\n")
    assert "26-495.trans.txt:3: expected" in refusal(root)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("26-495-0000 OTHER WORDS", ":2: 26-495-0000 is listed already at"),
        ("19-198-0000 WORDS", ":2: expected `26-495-NUMBER TEXT`, found '19-198-0000 WORDS'"),
        ("../../x WORDS", ":2: expected `26-495-NUMBER TEXT`"),
        ("26-495-0000 GOOD DAY", None),
    ],
)
def test_mistakes_in_a_transcript_name_file_and_line(tmp_path, line, message):
    root = librispeech(tmp_path / "LibriSpeech")
    path = root / "train-clean-100/26/495/26-495.trans.txt"
    path.write_text(f"26-495-0000 GOOD DAY\n{line}\n")
    if message is None:
        assert len(read_source(root)) == 5
    else:
        assert refusal(root).startswith(f"{path}{message}")
    path.write_bytes(b"26-495-0000 GOOD DAY\n26-495-0001 \xe9\n")
    assert refusal(root) == f"{path}:2: not UTF-8 text; save it as UTF-8"


def test_who_speaks_on_both_sides_is_held_out(tmp_path):
    root = librispeech(tmp_path / "LibriSpeech")
    (root / "train-clean-100" / "84" / "9").mkdir(parents=True)
    put(root / "train-clean-100/84/9/84-9-0000.flac")
    put(root / "test-other/26/7/26-7-0000.flac")
    listing = read_listing(root)
    assert {e.speaker for e in listing.entries if e.split == "train"} == {"19"}
    assert {e.split for e in listing.entries if e.speaker == "84"} == {"heldout"}
    assert any("left out of training (2 recordings)" in note for note in listing.notes)


def test_folders_of_numbers_without_transcripts_are_folders_of_audio(tmp_path):
    put(tmp_path / "own/19/198/19-198-0000.wav").with_suffix(".txt").write_text("Hello.")
    put(tmp_path / "own/19/198/19-198-0001.wav")
    put(tmp_path / "own/anna/1.wav")
    found = [(e.speaker, e.text) for e in read_source(tmp_path / "own")]
    assert found == [("19", "Hello."), ("19", None), ("anna", None)]


# Common Voice

ANN, BEN, CLEO = "a" * 128, "b" * 10 + "1" * 118, "b" * 10 + "2" * 118


def test_common_voice(tmp_path):
    root = tmp_path / "cv-corpus-17.0"
    folder = common_voice(
        root / "sv-SE",
        train=[row(ANN, "1.mp3", "Er sagt  »ja«.", "sv-SE"), row(ANN, "2.mp3", '"Say ""no"""', "sv-SE")],
        dev=[row(BEN, "3.mp3", 'He said "no', "sv-SE")],
        test=[row(CLEO, "4", "", "sv-SE")],
        validated=[
            row(ANN, "1.mp3", "Er sagt »ja«."),
            row(BEN, "3.mp3", "x"),
            row("f", "5.mp3", "Mehr"),
            row(BEN, "6.mp3", "too near"),
        ],
        other=["no table"],
        invalidated=[row(ANN, "7.mp3", "wrong")],
    )
    put(folder / "clips/2.flac")
    expected = [
        ("3.mp3", f"cv-{BEN[:20]}", 'He said "no', "sv", "heldout"),
        ("4.mp3", f"cv-{CLEO[:20]}", None, "sv", "heldout"),
        ("1.mp3", "cv-aaaaaaaaaa", "Er sagt »ja«.", "sv", "train"),
        ("2.flac", "cv-aaaaaaaaaa", 'Say "no"', "sv", "train"),
        ("5.mp3", "cv-f", "Mehr", "de", "train"),
    ]
    assert facts(folder) == facts(root) == expected
    assert read_source(folder)[3].where == f"{folder}/train.tsv:3"
    assert read_source(folder)[3].audio == folder / "clips/2.flac"
    notes = " ".join(read_listing(folder).notes)
    assert "left out of training (1 recordings)" in notes
    assert "kept without text (1)" in notes


def test_common_voice_with_few_columns_and_no_split(tmp_path):
    folder = common_voice(tmp_path / "pl")
    table = b"\xef\xbb\xbfpath\tsentence\tclient_id\r\n1.mp3\tTak.\t" + ANN.encode() + b"\r\n"
    (folder / "validated.tsv").write_bytes(table)
    assert facts(folder) == [("1.mp3", "cv-aaaaaaaaaa", "Tak.", "pl", None)]


def test_common_voice_in_several_languages_or_beside_other_audio(tmp_path):
    for name in ("de", "en"):
        common_voice(tmp_path / "cv" / name, validated=[row(ANN, "1.mp3", "x")])
    assert refusal(tmp_path / "cv") == f"{tmp_path / 'cv'}: holds Common Voice in 2 languages; name one of them: de, en"
    common_voice(tmp_path / "mixed" / "de", validated=[row(ANN, "1.mp3", "x")])
    put(tmp_path / "mixed/own/1.wav")
    assert "holds Common Voice (de) and other audio" in refusal(tmp_path / "mixed")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["client_id\tpath\ttext"], "train.tsv:1: has no column sentence; Common Voice's"),
        ([HEADER, "", row(ANN, "1.mp3", "x"), f"{ANN}\t2.mp3"], "train.tsv:4: 2 columns where the header names 11"),
        ([HEADER, row(ANN, "1.mp3", "x\ty")], "train.tsv:2: 12 columns where"),
        ([HEADER, row(ANN, "1.mp3", "x"), row(ANN, "1.mp3", "y")], "train.tsv:3: 1.mp3 is listed already at"),
        ([HEADER, row(ANN, "../../x.mp3", "x")], "train.tsv:2: path must be the name of a file in clips/"),
        ([HEADER, row(ANN, "/etc/x.mp3", "x")], "train.tsv:2: path must be"),
        ([HEADER, row(ANN, "..", "x")], "train.tsv:2: path must be"),
        ([HEADER, row(ANN, "a\0.mp3", "x")], "train.tsv:2: path must be"),
        ([HEADER, row("", "1.mp3", "x")], "train.tsv:2: client_id is empty"),
        ([HEADER], "its tables list no audio"),
        ([], "its tables list no audio"),
    ],
)
def test_mistakes_in_a_table_name_file_and_line(tmp_path, lines, message):
    folder = common_voice(tmp_path / "de")
    (folder / "train.tsv").write_text("\n".join(lines))
    assert message in refusal(folder)


def test_rows_that_repeat_another_are_taken_once(tmp_path):
    folder = common_voice(tmp_path / "de", train=[row(ANN, "1.mp3", "x")] * 3)
    assert len(read_source(folder)) == 1
    assert "(2)" in read_listing(folder).notes[0]


# As prepare sees them


def test_librispeech_becomes_clips_with_its_own_split(tmp_path):
    root = librispeech(tmp_path / "LibriSpeech", lambda k: talk(1.2, k))
    (root / "train-clean-100/19/198/19-198.trans.txt").open("a").write("19-198-0009 GONE\n")
    report = prepare(root, tmp_path / "out", PrepareOptions(heldout=0.5))
    data = PreparedData.load(tmp_path / "out")
    assert {c.id for c in data.heldout} == {"84-84-121-0000", "84-84-121-0001"}
    assert [(c.id, c.text, c.speaker, c.language) for c in data.train] == [
        ("19-19-198-0000", "Mister I'm he and I.", "19", "en"),
        ("19-19-198-0001", "Well.", "19", "en"),
        ("26-26-495-0000", "Good day.", "26", "en"),
    ]
    assert data.train[0].source == "train-clean-100/19/198/19-198-0000.flac"
    missing = rejections(tmp_path / "out")["train-clean-100/19/198/19-198-0009.flac"]
    assert missing["reason"] == "missing"
    assert missing["where"].endswith("19-198.trans.txt:3")
    assert any("dev and test recordings are held out" in line for line in report.lines())
    assert prepare(root, tmp_path / "out", PrepareOptions(heldout=0.5)).reused
    with pytest.raises(DataError, match="the source holds out every recording"):
        prepare(root, tmp_path / "no", PrepareOptions(speaker="84"))


def test_training_subsets_alone_give_the_usual_share(tmp_path):
    root = librispeech(tmp_path / "LibriSpeech", lambda k: talk(1.2, k), ["train-clean-100"])
    prepare(root, tmp_path / "out")
    assert len(PreparedData.load(tmp_path / "out").heldout) == 1


def test_mp3_of_common_voice(tmp_path):
    folder = common_voice(
        tmp_path / "en", train=[row(ANN, "1.mp3", "One.", "en")], dev=[row(BEN, "2.mp3", "Two.", "en")]
    )
    for name in "12":
        put(folder / "clips" / f"{name}.mp3", talk(1.2, int(name)))
    prepare(folder, tmp_path / "out")
    data = PreparedData.load(tmp_path / "out")
    assert [(c.id, c.text, c.speaker) for c in data.train] == [("cv-aaaaaaaaaa-1", "One.", "cv-aaaaaaaaaa")]
    assert [(c.id, c.language) for c in data.heldout] == [("cv-bbbbbbbbbb-2", "en")]


# The same in a manifest


def test_a_manifest_says_what_is_held_out(tmp_path):
    lines = [
        {"audio": f"{k}.wav", "speaker": "ann", "split": s} for k, s in enumerate(["train", "heldout", None, None])
    ]
    for k in range(4):
        put(tmp_path / f"{k}.wav", talk(1.2, min(k, 2)))  # the last two are equal
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    prepare(tmp_path, tmp_path / "out", PrepareOptions(heldout=0.5))
    assert [c.id for c in PreparedData.load(tmp_path / "out").heldout] == ["1"]
    del lines[1]
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    prepare(tmp_path, tmp_path / "drawn", PrepareOptions(heldout=0.5))
    assert "0" not in {c.id for c in PreparedData.load(tmp_path / "drawn").heldout} != set()
    lines[0]["split"] = "test"
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert 'manifest.jsonl:1: split must be "train" or "heldout", found "test"' in refusal(tmp_path)


def test_copies_go_where_the_marked_one_goes(tmp_path):
    lines = [{"audio": f"{k}.wav", "split": s} for k, s in enumerate(["train", "heldout", "train"])]
    for k in range(3):
        put(tmp_path / f"{k}.wav", talk(1.2, k // 2))
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    prepare(tmp_path, tmp_path / "out")
    assert [c.id for c in PreparedData.load(tmp_path / "out").train] == ["2"]
