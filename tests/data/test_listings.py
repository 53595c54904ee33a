"""Lists of recordings as other programs write them: what their columns are, and which file a name means."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_voxclone.data.entries import Entry
from mlx_voxclone.data.listings.manifest import read_listing
from mlx_voxclone.data.listings.tables import _divided
from mlx_voxclone.errors import DataError

TEXTS = ["The cat sat down.", "It was 9 o'clock", "Nobody came home that night.", "Why?", "And so it went on."]


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def listed(folder: Path, content: str, name: str = "metadata.csv"):
    made(folder, *(f"wavs/{k}.wav" for k in range(1, 6)))
    (folder / name).write_text(content, encoding="utf-8", newline="")
    return read_listing(folder / name)


def rows(form: str, mark: str = "|") -> str:
    """Five lines of a form: file, id, text, normalised text, speaker (s: one of two, a: one), language, digits."""
    lines = []
    for k, text in enumerate(TEXTS, 1):
        values = {"f": f"wavs/{k}.wav", "i": str(k), "t": text, "n": text.replace("9", "nine"), "s": f"spk{k % 2}"}
        lines.append(mark.join((values | {"a": "ann", "l": "EN", "d": "1 0 20 0 7"})[column] for column in form))
    return "\n".join(lines) + "\n"


def found(listing) -> list[tuple]:
    return [(e.audio.name, e.text, e.speaker, e.language) for e in listing.entries]


def expected(texts=TEXTS, speaker="v", language=None):
    each = speaker if callable(speaker) else lambda k: speaker
    return [(f"{k}.wav", text, each(k), language) for k, text in enumerate(texts, 1)]


NORMALISED = [text.replace("9", "nine") for text in TEXTS]


# Without a header


@pytest.mark.parametrize(
    ("form", "name", "wanted"),
    [
        ("it", "`id|text`", expected()),
        ("ft", "`id|text`", expected()),
        ("itn", "(as LJSpeech has it)", expected(NORMALISED)),
        ("ist", "`id|speaker|text` (as Piper has it)", expected(speaker=lambda k: f"spk{k % 2}")),
        ("fat", "`id|speaker|text` (as Piper has it)", expected(speaker="ann")),
        ("fta", "`file|text|speaker` (as XTTS has it)", expected(speaker="ann")),
        ("fts", "`file|text|speaker` (as XTTS has it)", expected(speaker=lambda k: f"spk{k % 2}")),
        ("ftl", "`file|text|language`", expected(language="en")),
        ("ftd", "of which the numbers are not used", expected()),
        ("fslt", "(as GPT-SoVITS has it)", expected(speaker=lambda k: f"spk{k % 2}", language="en")),
    ],
)
@pytest.mark.parametrize("file", ["metadata.csv", "train.list"])
def test_layouts_are_told_by_what_they_hold(tmp_path, form, name, wanted, file):
    listing = listed(tmp_path / "v", rows(form), file)
    assert found(listing) == wanted
    assert listing.notes[0].startswith(f"{file}: read as `")
    assert name in listing.notes[0]


def test_short_texts_beside_names_that_come_again(tmp_path):
    texts = ["Yes.", "Come in.", "No?", "Go!", "Who is it?"]
    content = "".join(f"{k}|spk{k % 2}|{text}\n" for k, text in enumerate(texts, 1))
    assert found(listed(tmp_path / "v", content)) == expected(texts, lambda k: f"spk{k % 2}")
    content = "".join(f"{k}|{text}|spk{k % 2}\n" for k, text in enumerate(texts, 1))
    assert found(listed(tmp_path / "v", content)) == expected(texts, lambda k: f"spk{k % 2}")


def test_tabs_and_commas(tmp_path):
    assert found(listed(tmp_path / "v", rows("it", "\t"), "m.tsv")) == expected()
    assert found(listed(tmp_path / "v", rows("ft", ","))) == expected()


def test_a_row_without_a_text_has_none(tmp_path):
    """Not the speaker's name, which stands before it."""
    content = rows("ist").replace(TEXTS[2], "")
    listing = listed(tmp_path / "v", content)
    assert [e.text for e in listing.entries] == [*TEXTS[:2], None, *TEXTS[3:]]


def test_texts_without_blanks(tmp_path):
    texts = ["你好世界", "今天天气很好", "我们走吧", "再见", "明天见"]
    content = "".join(f"{k}|{text}|ann\n" for k, text in enumerate(texts, 1))
    assert found(listed(tmp_path / "v", content)) == expected(texts, "ann")
    content = "".join(f"{k}|{text}|{text}。\n" for k, text in enumerate(texts, 1))
    assert [e.text for e in listed(tmp_path / "v", content).entries] == [f"{text}。" for text in texts]


@pytest.mark.parametrize(
    ("content", "line", "readings"),
    [
        (
            "1|Press left | right to go.\n2|Press up | down to go.\n",
            1,
            ['"right to go."', '"Press left | right to go."'],
        ),
        ("1|a b c|d e f\n2|g h i|j k l\n", 1, ['"d e f"', '"a b c"', '"a b c|d e f"']),
        (rows("it").replace("9", "9|10"), 2, ['''"10 o'clock"''', '''"It was 9|10 o'clock"''']),
        (rows("itn").replace("down.\n", "down.|x\n"), 1, ['"x"']),
        ("1|yes|ann\n2|no|ann\n3|yes|ann\n4|no|ann\n", 1, ['"ann"', '"yes"']),
        ("1|Press|now\n2|Go|now\n", 1, ['"now"', '"Press"', '"Press|now"']),
        ("1,Hello, you\n2,Bye, you\n", 1, ['"you"', '"Hello"', '"Hello,you"']),
        ("1,Hello, you\n2,Bye\n", 1, ['"you"', '"Hello,you"']),
        ("1|ann\n2|ben\n3|ann\n4|ben\n", 1, ["`id|text`", "`file|speaker`"]),
        ("1|s|Hello there|x y\n", 1, ['"Hello there" for a language', '"s|Hello there|x y"']),
        ("Some words|1.wav\nOther words|2.wav\n", 1, ['column 2 names audio ("1.wav")']),
        ("1|wavs/1.wav|Some words\n2|wavs/2.wav|Other words\n", 1, ["column 2 names audio"]),
        ("1|3.25|Some words and more\n2|4.5|Other words and more\n", 1, ["several ways"]),
        ("1|63000|Some words and more\n2|64000|Other words and more\n", 1, ["several ways"]),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_both(tmp_path, content, line, readings):
    with pytest.raises(DataError) as caught:
        listed(tmp_path, content)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'metadata.csv'}:{line}: ")
    assert "\n" not in text
    assert "name the columns in a first line (such as audio_file" in text
    for reading in readings:
        assert reading in text


# With a header


@pytest.mark.parametrize("mark", ["|", ",", "\t", ";"])
def test_columns_by_their_names(tmp_path, mark):
    header = mark.join(("audio_file", "text", "speaker_name", "emotion_name"))
    content = "".join(
        f"{mark.join((f'wavs/{k}.wav', text, 'Ana Florence', 'sad'))}\n" for k, text in enumerate(TEXTS, 1)
    )
    listing = listed(tmp_path / "v", f"{header}\n{content}")
    assert found(listing) == expected(speaker="Ana Florence")
    assert listing.notes == [
        "metadata.csv: columns audio_file as audio, text and speaker_name as speaker; not used: emotion_name"
    ]


@pytest.mark.parametrize(
    ("header", "form", "wanted"),
    [
        ("id|text|normalized_text", "itn", expected(NORMALISED)),
        ("file_name,transcription", "f,t", expected()),
        ("ID|Speaker ID|Sentence", "ist", expected(speaker=lambda k: f"spk{k % 2}")),
        ("path|locale|sentence", "flt", expected(language="en")),
        ("text|wav_filename", "tf", expected()),
        ("\ufeffaudio|text", "ft", expected()),
    ],
)
def test_headers_of_other_makers(tmp_path, header, form, wanted):
    mark = "," if "," in form else "|"
    assert found(listed(tmp_path / "v", f"{header}\n{rows(form.replace(',', ''), mark)}")) == wanted


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id|text|text\n1|a|b\n", ":1: 'text' appears twice"),
        ("id|text|sentence\n1|a|b\n", ":1: both 'text' and 'sentence' could be the text"),
        ("file|path|text\n1|a|b\n", ":1: both 'file' and 'path' could be the audio"),
        ("id|text\n1|a|b\n", ":2: expected 2 columns as in other lines, found 3 columns"),
        ("id|text|speaker\n1|a\n", ":2: expected 3 columns as in other lines, found 2 columns"),
        ("wav|phrase\n1|Hello there\n", ":1: 'wav|phrase' is neither a recording"),
        (f"Datei|Satz\n{rows('it')}", ":1: 'Datei|Satz' is neither a recording"),
        ('id,text\n1,"never closed\n2,x\n', "not CSV as spreadsheets write it"),
        ('id,text\n1,"closed" early\n', "not CSV as spreadsheets write it"),
        ("id|text\n", "lists no audio"),
        ("audio|text|ref_audio\nwavs/1.wav|a|wavs/1.wav\n", ":2: the reference is the recording itself"),
        ("audio|text|split\nwavs/1.wav|a|dev\n", ':2: split must be "train" or "heldout"'),
    ],
)
def test_mistakes_in_tables(tmp_path, content, message):
    with pytest.raises(DataError) as caught:
        listed(tmp_path, content)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_first_recording_that_is_missing_is_no_header(tmp_path):
    (tmp_path / "v").mkdir()
    listing = listed(tmp_path / "v", "gone_9|Nobody\n" + rows("it"))
    assert len(listing.entries) == 6


# Quotes


def test_quotes_of_a_csv_writer_are_taken_off(tmp_path):
    lines = [
        '1|"Left | right."',
        '2|"He said ""no"", then."',
        '3|"Hello," he said.',
        '4|He said "no".',
        '5|"Why?',
    ]
    texts = ["Left | right.", 'He said "no", then.', '"Hello," he said.', 'He said "no".', '"Why?']
    assert [e.text for e in listed(tmp_path, "\n".join(lines)).entries] == texts


def test_a_text_over_two_lines_of_csv(tmp_path):
    listing = listed(tmp_path, 'file,text\r\nwavs/1.wav,"Hello,\r\nyou"\r\nwavs/2.wav,x\r\n')
    assert [(e.text, e.line) for e in listing.entries] == [("Hello, you", 3), ("x", 4)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text('ab"| ', max_size=6), min_size=1, max_size=4), st.booleans())
def test_cells_come_back_as_any_writer_wrote_them(cells, always):
    def quoted(cell):
        return '"' + cell.replace('"', '""') + '"' if always or "|" in cell or '"' in cell else cell

    assert _divided("|".join(map(quoted, cells)), "|") == cells
    plain = [cell.replace("|", "").replace('"', "'") for cell in cells]
    assert _divided("|".join(plain), "|") == plain


# JSON Lines


def lines(path: Path, *contents) -> Path:
    path.write_text("\n".join(c if isinstance(c, str) else json.dumps(c) for c in contents))
    return path


def test_a_manifest_of_nemo(tmp_path):
    made(tmp_path, "wavs/1.wav")
    content = {"audio_filepath": "wavs/1.wav", "text": "Hi.", "duration": 2.5, "offset": 0, "lang": "en", "speaker": 7}
    listing = read_listing(lines(tmp_path / "m.json", content))
    assert listing.entries == [
        Entry("wavs/1.wav", "7", "Hi.", "en", folder=tmp_path, listing=str(tmp_path / "m.json"), line=1)
    ]
    assert listing.notes == [
        "m.json: read audio_filepath as audio and lang as language (as NeMo has it); not used: duration and offset"
    ]


def test_own_keys_need_no_note(tmp_path):
    assert read_listing(lines(tmp_path / "m.jsonl", {"audio": "a.wav", "text": "x", "speaker": "s"})).notes == []


def test_a_normalised_text_counts_before_the_raw_one(tmp_path):
    first, second = read_listing(
        lines(
            tmp_path / "m.jsonl",
            {"file_name": "a.wav", "text": "In 1920", "normalized_text": "In nineteen twenty"},
            {"file_name": "b.wav", "text": "Raw", "normalized_text": None},
        )
    ).entries
    assert (first.text, second.text) == ("In nineteen twenty", "Raw")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"audio": "a.wav", "text": "one", "text": "two"}', ":1: 'text' appears twice"),
        ('{"audio": "a.wav", "audio": "a.wav"}', ":1: 'audio' appears twice"),
        ({"audio": "a.wav", "audio_filepath": "b.wav"}, ":1: both 'audio' and 'audio_filepath' could be the audio"),
        ({"audio": "a.wav", "sentence": "x", "text": "y"}, ":1: both 'sentence' and 'text' could be the text"),
        ({"audio_filepath": "a.wav", "offset": 2.5, "duration": 3}, ":1: offset 2.5: a part of a recording"),
        ({"id": "1", "text": "x"}, ':1: "audio" is missing'),
        ({"audio": "a.wav", "speaker": True}, ":1: speaker must be a text, found true"),
    ],
)
def test_mistakes_in_json_lines(tmp_path, line, message):
    with pytest.raises(DataError) as caught:
        read_listing(lines(tmp_path / "m.jsonl", line))
    assert message in str(caught.value)


# Names of other systems


def names_of(folder: Path, *names: str) -> list[str | None]:
    """What a manifest's and a table's names are found as, from the folder; None: as missing."""
    told = []
    listing = read_listing(lines(folder / "m.jsonl", *({"audio": name} for name in names)))
    table = folder / "t.csv"
    table.write_text("".join(f"{name}|Words number {k}.\n" for k, name in enumerate(names)), encoding="utf-8")
    for entry, other in zip(listing.entries, read_listing(table).entries):
        found = [e.audio.relative_to(folder).as_posix() if os.path.isfile(e.audio) else None for e in (entry, other)]
        assert found[0] == found[1]
        told.append(found[0])
    return told


def test_case_accents_and_slashes(tmp_path):
    accents = unicodedata.normalize("NFD", "Café")
    made(tmp_path, "wavs/a.WAV", f"{accents}/b.wav", "Wavs2/C.Wav", unicodedata.normalize("NFC", "é.wav"))
    assert names_of(
        tmp_path, "wavs/a.wav", "Café/b.wav", "wavs2\\c.wav", ".\\wavs\\x.wav", unicodedata.normalize("NFD", "é.wav")
    ) == ["wavs/a.WAV", f"{accents}/b.wav", "Wavs2/C.Wav", None, unicodedata.normalize("NFC", "é.wav")]
    notes = read_listing(tmp_path / "m.jsonl").notes
    assert notes == ["m.jsonl: 4 names are not spelt as their files are (case, accents or slashes), such as wavs/a.wav"]


def test_a_name_that_is_there_is_taken_as_it_stands(tmp_path):
    made(tmp_path, "a.wav", "A.wav", "x/b.wav")
    (tmp_path / "x\\b.wav").touch()
    assert names_of(tmp_path, "A.wav", "a.wav", "x\\b.wav") == ["A.wav", "a.wav", "x\\b.wav"]
    assert read_listing(tmp_path / "m.jsonl").notes == []
    with pytest.raises(DataError, match=r"m.jsonl:1: A.WAV can be A.wav or a.wav; spell it exactly"):
        read_listing(lines(tmp_path / "m.jsonl", {"audio": "A.WAV"}))


def test_paths_of_a_windows_machine(tmp_path):
    made(tmp_path, "wavs/1.wav", "2.WAV", "data/wavs/3.wav")
    assert names_of(
        tmp_path, r"C:\Users\me\data\wavs\1.wav", "D:/x/2.wav", r"\\host\share\data\wavs\3.wav", r"E:\4.wav"
    ) == [
        "wavs/1.wav",
        "2.WAV",
        "data/wavs/3.wav",
        None,
    ]
    (note,) = read_listing(tmp_path / "m.jsonl").notes
    assert note == ("m.jsonl: 3 Windows paths are looked up beside the list, such as C:\\Users\\me\\data\\wavs\\1.wav")
    with pytest.raises(DataError, match="1.wav is listed already"):
        names_of(tmp_path, r"C:\a\1.wav", r"C:\a\wavs\1.wav", r"C:\b\wavs\1.wav")


def test_what_loses_nothing_counts_before_what_does(tmp_path):
    made(tmp_path, "1.mp3", "1.wav", "1.m4a", "wavs/2.m4a", "wavs/2.flac", "3.ogg", "4.WAV", "4.MP3")
    (tmp_path / "t.csv").write_text("".join(f"{k}|Words number {k}.\n" for k in range(1, 5)))
    assert [e.audio.name for e in read_listing(tmp_path / "t.csv").entries] == ["1.wav", "2.flac", "3.ogg", "4.WAV"]


def test_names_that_no_file_can_have(tmp_path):
    long = "x" * 300 + ".wav"
    assert names_of(tmp_path, long, "y" * 5000 + ".wav", "a/" * 3000 + "b.wav") == [None] * 3


def test_a_home_directory_in_a_list(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    made(tmp_path, "home/a.wav", "~b.wav")
    content = [{"audio": name} for name in ("~/a.wav", "$HOME/c.wav", "~b.wav", "$NOPE.wav")]
    assert [e.audio for e in read_listing(lines(tmp_path / "m.jsonl", *content)).entries] == [
        tmp_path / "home/a.wav",
        tmp_path / "home/c.wav",
        tmp_path / "~b.wav",
        tmp_path / "$NOPE.wav",
    ]


def test_a_folders_list_under_another_spelling(tmp_path):
    made(tmp_path, "a.wav")
    (tmp_path / "METADATA.CSV").write_text("a|Words of it.\n")
    assert [e.text for e in read_listing(tmp_path).entries] == ["Words of it."]


def test_a_list_that_is_not_read_is_named(tmp_path):
    made(tmp_path, "a.wav", "b.list")
    assert read_listing(tmp_path).notes == [
        "b.list is not read: name it in place of the folder if it lists the recordings"
    ]
