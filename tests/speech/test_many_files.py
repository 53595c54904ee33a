"""A list into files: each as if it were alone, whole or not there, none of anybody else's touched; resumed, edited."""

import errno
import json
import os

import numpy as np
import pytest
import soundfile

from mlx_voxclone.errors import DataError
from mlx_voxclone.model.generation import GeneratedCodes
from mlx_voxclone.speech import narration
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.speech.to_files import many_files
from mlx_voxclone.speech.to_files.lines import read_lines
from mlx_voxclone.speech.to_files.many_files import JOURNAL, MANIFEST, speak_lines

pytestmark = pytest.mark.usefixtures("no_fsync")
pytest_plugins = ["commands"]
LONG = "The ship went on through the fog, and nobody saw a light. " * 6


@pytest.fixture(scope="module")
def speaker(miniature):
    return Speaker.load(miniature)


@pytest.fixture
def calls(speaker, monkeypatch):
    """Speaks a tone whose length and pitch are the seed's; keeps the seeds of each call."""
    calls = []

    def generate(model, prompts, *, max_frames, seeds, may_be_empty, **_):
        calls.append([seed % narration._SEEDS for seed in seeds])
        return [GeneratedCodes(np.full((37, 40 + seed % 7), seed % 99, np.int32), True) for seed in seeds]

    def decode(codes):
        k = np.arange(codes.shape[1] * 1920)
        return (0.1 * np.sin(2 * np.pi * (200 + int(codes[0, 0])) * k / 24000)).astype(np.float32)

    monkeypatch.setattr(narration, "generate_batch", generate)
    monkeypatch.setattr(speaker.model.audio_tokenizer, "decode_audio", decode, raising=False)
    return calls


LINES = [
    {"text": "One of them is short.", "seed": 1, "file": "a/1.wav"},
    {"text": "Two of them are short.", "seed": 2},
    {"text": LONG, "seed": 3, "file": "long.wav"},
    {"text": "Three of them are short.", "seed": 4, "voice": "casual_female"},
    {"text": "Four of them are short.", "seed": 5},
]
FILES = ["00002.wav", "00004.wav", "00005.wav", "a/1.wav", "long.wav"]


def speak(speaker, home, output, lines=LINES, **options):
    (home / "l.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_lines(home / "l.jsonl", voices=speaker.voices, voice=True, pause=0.3)
    rows = {None: speaker.voice_rows("casual_male"), "casual_female": speaker.voice_rows("casual_female")}
    return speak_lines(output, speaker, found, rows, **options)


def wavs(output):
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("*.wav"))}


def test_each_line_is_a_file_as_if_it_were_alone(speaker, calls, tmp_path):
    said = speak(speaker, tmp_path, tmp_path / "out", batch=4)
    assert (said.files, said.earlier, said.again) == (5, 0, 0)
    assert sorted(wavs(tmp_path / "out")) == FILES
    assert [len(call) for call in calls] == [2, 4, 2, 2]  # two short ones, the long one, two voices at once
    for k, line in enumerate(LINES):
        speak(speaker, tmp_path, tmp_path / f"alone{k}", [line | {"file": "x.wav"}], batch=1)
    alone = [wavs(tmp_path / f"alone{k}")["x.wav"] for k in range(5)]
    together = wavs(tmp_path / "out")
    assert alone == [together[name] for name in ("a/1.wav", "00002.wav", "long.wav", "00004.wav", "00005.wav")]
    entries = [json.loads(line) for line in (tmp_path / "out" / MANIFEST).read_text().splitlines()]
    assert entries[0] == {"audio": "a/1.wav", "text": "One of them is short.", "speaker": "voice"}
    assert [entry["speaker"] for entry in entries] == ["voice"] * 3 + ["casual_female", "voice"]
    assert soundfile.info(tmp_path / "out" / "long.wav").subtype == "PCM_16"


def test_the_corpus_has_what_was_spoken_not_its_markup(speaker, calls, tmp_path):
    table = "# Fruit\n\n| apples | many |\n|---|---|\n| pears | [few](http://x.org) |"
    speak(speaker, tmp_path, tmp_path / "out", [{"text": table}])
    entry = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert entry["text"] == "Fruit. apples, many. pears, few."


@pytest.mark.parametrize("stop", [0, 1, 3, 5, 8])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
def test_interrupted_and_resumed(speaker, calls, tmp_path, stop, kind, monkeypatch):
    speak(speaker, tmp_path, tmp_path / "whole")

    def stopping(done):
        if done == stop + 1:
            raise kind() if kind is KeyboardInterrupt else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(KeyboardInterrupt if kind is KeyboardInterrupt else DataError) as caught:
        speak(speaker, tmp_path, tmp_path / "out", on_chunk=stopping)
    there = wavs(tmp_path / "out")
    if there or kind is OSError:
        assert f"{len(there)} of 5 files are in" in str(caught.value)
        assert str(caught.value).endswith("go on with --resume")
    assert all(content == wavs(tmp_path / "whole")[name] for name, content in there.items())
    if there:
        with pytest.raises(DataError, match=f"holds {len(there)} files of an earlier command; go on with --resume"):
            speak(speaker, tmp_path, tmp_path / "out")
    said = speak(speaker, tmp_path, tmp_path / "out", resume=True)
    assert (said.files, said.earlier) == (5, len(there))
    assert wavs(tmp_path / "out") == wavs(tmp_path / "whole")
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left == {*(name.split("/")[-1] for name in FILES), JOURNAL, MANIFEST}


def test_a_kill_between_journal_and_name(speaker, calls, tmp_path, monkeypatch):
    replace = os.replace

    def killed(source, target):
        if str(target).endswith("00002.wav"):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            speak(speaker, tmp_path, tmp_path / "out")
    with (tmp_path / "out" / JOURNAL).open("ab") as file:  # and one while the journal was written
        file.write(b'{"audio": "000')
    said = speak(speaker, tmp_path, tmp_path / "out", resume=True)
    assert (said.files, said.earlier) == (5, 1)
    journal, gone = tmp_path / "out" / JOURNAL, tmp_path / "out" / "long.wav"
    journal.write_text("".join(line for line in journal.open() if gone.name not in line) + '{"audio": "lo')
    gone.unlink()
    for earlier in (4, 5):  # what is written behind half a line can be read
        assert speak(speaker, tmp_path, tmp_path / "out", resume=True).earlier == earlier


def test_a_line_that_was_edited_is_spoken_again_and_no_other(speaker, calls, tmp_path):
    speak(speaker, tmp_path, tmp_path / "out")
    before = wavs(tmp_path / "out")
    edited = [*LINES[:4], LINES[4] | {"text": "Five of them were long.", "seed": 99}]
    told = []
    said = speak(speaker, tmp_path, tmp_path / "out", edited, resume=True, on_changed=told.append)
    assert (said.files, said.earlier, said.changed) == (5, 4, 1)
    assert told == [1]  # one line, before anything is spoken
    changed = [name for name, content in wavs(tmp_path / "out").items() if content != before[name]]
    assert changed == ["00005.wav"]
    said = speak(speaker, tmp_path, tmp_path / "out", resume=True, float32=True)
    assert (said.earlier, said.changed) == (0, 5)  # another format is another file
    (tmp_path / "out" / "00002.wav").unlink()
    said = speak(speaker, tmp_path, tmp_path / "out", resume=True, float32=True)
    assert (said.earlier, said.changed) == (4, 0)  # one that is gone is not one that has changed


def test_files_of_somebody_else_are_left_alone(speaker, calls, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "long.wav").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"l\.jsonl:3: .*long\.wav exists already and is not of this command"):
        speak(speaker, tmp_path, out)
    assert (out / "long.wav").read_bytes() == b"mine"
    (out / "long.wav").unlink()
    (out / MANIFEST).write_text("mine")
    with pytest.raises(DataError, match=r"manifest\.jsonl: exists already"):
        speak(speaker, tmp_path, out)
    (out / MANIFEST).unlink()
    assert not list(out.iterdir())  # nothing of ours is left there
    (out / JOURNAL).write_text("mine\n")
    with pytest.raises(DataError, match=r"spoken\.jsonl: is damaged, or of something else"):
        speak(speaker, tmp_path, out)
    assert calls == []


def test_a_file_that_was_changed_is_not_replaced(speaker, calls, tmp_path):
    speak(speaker, tmp_path, tmp_path / "out")
    path = tmp_path / "out" / "00002.wav"
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(DataError, match=r"00002\.wav was changed after it was spoken"):
        speak(speaker, tmp_path, tmp_path / "out", resume=True)


def test_no_link_leads_out(speaker, calls, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"l\.jsonl:1: .* is a link out of the output directory"):
        speak(speaker, tmp_path, tmp_path / "out")
    (tmp_path / "out" / "a").unlink()
    (tmp_path / "out" / "a").write_bytes(b"mine")
    with pytest.raises(DataError, match="is no directory"):
        speak(speaker, tmp_path, tmp_path / "out")
    (tmp_path / "out" / "a").unlink()
    (tmp_path / "mine.wav").write_bytes(b"mine")
    (tmp_path / "out" / "long.wav").symlink_to(tmp_path / "mine.wav")
    with pytest.raises(DataError, match=r"long\.wav exists already"):
        speak(speaker, tmp_path, tmp_path / "out")
    assert (tmp_path / "mine.wav").read_bytes() == b"mine"
    assert not list((tmp_path / "elsewhere").iterdir())


def test_two_commands_do_not_share_a_directory(speaker, calls, tmp_path):
    with many_files._journal(tmp_path / "out", False), pytest.raises(DataError, match="another command"):
        speak(speaker, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_who_listens_gets_the_language_of_the_line(speaker, calls, tmp_path):
    heard = []

    def listen(language):
        return lambda text, samples: heard.append((language, text)) or narration.Heard("x", 1, 4)

    lines = [LINES[0], LINES[1] | {"language": "de"}]
    said = speak(speaker, tmp_path, tmp_path / "out", lines, listen=listen, tries=2)
    assert set(heard) == {(None, LINES[0]["text"]), ("de", LINES[1]["text"])}
    assert (said.wrong, said.words, said.again) == (2, 8, 2)
