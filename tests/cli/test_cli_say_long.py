"""`voxclone say` with long texts: from a file, standard input or the command line; interrupted and resumed."""

import contextlib
import io
import re
import resource
import sys

import numpy as np
import pytest
import soundfile

from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.evaluate import listening
from mlx_voxclone.speech.narration import Heard
from mlx_voxclone.speech.to_files import long_speech
from mlx_voxclone.speech.to_files.growing_wav import partial_names

pytest_plugins = ["commands"]
TEXT = "The ship went on through the fog, and nobody saw a light for a long time.\n" * 4


@pytest.fixture
def argv(miniature, tmp_path):
    (tmp_path / "book.txt").write_text(TEXT)
    return ["say", "--model", str(miniature), "--voice", "casual_male"]


def said(*arguments) -> np.ndarray:
    assert voxclone([*map(str, arguments)]) == 0
    return soundfile.read(arguments[-1])[0]


@pytest.fixture(scope="module")
def book(miniature, tmp_path_factory) -> np.ndarray:
    """The text from a file, spoken once for all tests."""
    place = tmp_path_factory.mktemp("book")
    (place / "book.txt").write_text(TEXT)
    command = ["say", "--model", miniature, "--voice", "casual_male", "--text-file", place / "book.txt"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        samples = said(*command, "--output", place / "a.wav")
    assert out.getvalue() == f"{place / 'a.wav'}\n"
    assert re.search(r"^4 chunks(, \d of them spoken again)?; [\d.]+ s of speech in ", err.getvalue(), re.MULTILINE)
    assert sorted(path.name for path in place.iterdir()) == ["a.wav", "book.txt"]
    assert len(samples) > 4 * 0.35 * 24000
    return samples


def test_a_file_standard_input_and_the_command_line_say_the_same(argv, book, tmp_path, monkeypatch):
    np.testing.assert_array_equal(said(*argv, "--text", TEXT, "--output", tmp_path / "b.wav"), book)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + TEXT.encode())))
    np.testing.assert_array_equal(said(*argv, "--text-file", "-", "--output", tmp_path / "c.wav"), book)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.wav", "book.txt", "c.wav"]


@pytest.mark.slow
def test_interrupted_and_resumed(argv, book, tmp_path, monkeypatch, capsys):
    append, calls = long_speech.growing_wav, []

    def stopping(*arguments, **options):
        context = append(*arguments, **options)
        wav = context.__enter__()
        write = wav.append

        def limited(samples, memory):
            if len(calls) == 3:
                raise KeyboardInterrupt
            calls.append(1)
            write(samples, memory)

        wav.append = limited

        class Entered:
            def __enter__(self):
                return wav

            def __exit__(self, *error):
                return context.__exit__(*error)

        return Entered()

    other = [*argv, "--text-file", str(tmp_path / "book.txt"), "--output", str(tmp_path / "b.wav")]
    with monkeypatch.context() as patch:
        patch.setattr(long_speech, "growing_wav", stopping)
        assert voxclone(other) == 130
    partial, state = partial_names(tmp_path / "b.wav")
    assert capsys.readouterr().err.endswith(f"interrupted: 3 of 4 chunks are in {partial}; go on with --resume\n")
    assert 0 < len(soundfile.read(partial)[0]) < len(book)
    assert voxclone(other) == 2
    assert "holds 3 chunks of an earlier command; go on with --resume, or delete it" in capsys.readouterr().err
    assert voxclone([*other, "--seed", "7", "--resume"]) == 2
    assert "is of another settings" in capsys.readouterr().err
    np.testing.assert_array_equal(said(*other[:-2], "--resume", *other[-2:]), book)
    assert not partial.exists()
    assert not state.exists()


def test_down_a_pipe_in_order(argv, book, tmp_path, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    assert voxclone([*argv, "--text-file", str(tmp_path / "book.txt"), "--output", "-"]) == 0
    content = out.buffer.getvalue()
    samples = np.frombuffer(content[content.index(b"data") + 8 :], "<i2")
    np.testing.assert_array_equal(samples / 32768, book)


def test_a_short_text_is_one_utterance(argv, tmp_path):
    (tmp_path / "short.txt").write_text("papa mino")
    long = said(*argv, "--text-file", tmp_path / "short.txt", "--output", tmp_path / "a.wav")
    short = said(*argv, "--text", "papa mino", "--max-seconds", "4", "--output", tmp_path / "b.wav")
    assert len(short) <= 4 * 24000
    assert len(long) > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no letter and no digit"),
        (b"...\n* * *\n", "has no letter and no digit"),
        (b"good\nbad \xff line", r"book\.txt:2: is not UTF-8"),
        ("Text".encode("utf-16"), "is not UTF-8|is no text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    ],
)
def test_files_that_hold_no_text(argv, tmp_path, capsys, content, message):
    (tmp_path / "book.txt").write_bytes(content)
    assert voxclone([*argv, "--text-file", str(tmp_path / "book.txt"), "--output", str(tmp_path / "a.wav")]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err)
    assert captured.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["book.txt"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--text-file", "none.txt"], "none.txt: no such file"),
        (["--text-file", "."], "is not a file"),
        (["--text", TEXT, "--max-seconds", "9"], "--max-seconds cuts off a short text; this one has 4 chunks"),
        (["--text", "papa", "--resume"], "--resume goes on with a long text"),
        (["--text", TEXT, "--pause", "-1"], "--pause must be from 0 to 60 seconds"),
        (["--text", TEXT, "--batch", "0"], "--batch must be from 1 to 256"),
        (["--text", TEXT, "--tries", "0"], "--tries must be from 1 to 20"),
        (["--text", "..."], "the text has no letter and no digit"),
        (["--text", "a", "--text-file", "b"], "not allowed with"),
        ([], "one of the arguments --text --text-file --lines is required"),
    ],
)
def test_mistakes_are_one_line(argv, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    assert voxclone([*argv, *more, "--output", "a.wav"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_short_poem_has_its_pauses(argv, tmp_path, capsys):
    said(*argv, "--text", "Papa mino,\nLesu tara", "--output", tmp_path / "a.wav")
    assert "2 chunks" in capsys.readouterr().err


def test_a_list_into_a_directory(argv, tmp_path, capsys):
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "papa mino"}\n{"text": "lesu tara", "voice": "casual_female", "file": "a/b.wav"}\n')
    command = [*argv, "--lines", str(lines), "--output", str(tmp_path / "out")]
    assert voxclone(command) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out'}\n"
    assert re.search(r"^2 files(, \d of them spoken again)?; [\d.]+ s of speech in ", captured.err, re.MULTILINE)
    assert len(soundfile.read(tmp_path / "out" / "00001.wav")[0]) > 0
    assert len(soundfile.read(tmp_path / "out" / "a" / "b.wav")[0]) > 0
    assert voxclone(command) == 2
    assert "holds 2 files of an earlier command; go on with --resume" in capsys.readouterr().err
    assert voxclone([*command, "--resume"]) == 0
    assert "2 files (2 of an earlier command); 0.0 s of speech" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--output", "-"], "--output names a directory"),
        (["--output", "book.txt"], "book.txt: is not a directory; --lines writes"),
        (["--output", "out", "--max-seconds", "4"], "there is no --max-seconds"),
        (["--output", "out", "--text", "papa"], "not allowed with"),
        (["--output", "out"], "lines.jsonl:1: no voice called 'nobody'"),
    ],
)
def test_mistakes_of_a_list(argv, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines.jsonl").write_text('{"text": "papa mino", "voice": "nobody"}\n')
    assert voxclone([*argv, "--lines", "lines.jsonl", *more]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book.txt", "lines.jsonl"]


def test_a_list_given_to_the_wrong_option_is_told_the_right_one(miniature, tmp_path, refused):
    argv = ["say", "--model", miniature, "--batch", "lines.jsonl", "--output", tmp_path]
    refused(argv, "to speak the lines of a file: voxclone say --lines lines.jsonl")


def test_somebody_must_speak(miniature, tmp_path, refused):
    argv = ["say", "--model", miniature, "--text", "papa", "--output", tmp_path / "a.wav"]
    refused(argv, "one of the arguments --voice --ref-audio is required")


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_verified_by_what_is_heard(argv, tmp_path, capsys, monkeypatch, share):
    """A short text is verified too; how much was misheard is told, and when the Whisper cannot be one to choose."""
    heard = []

    @contextlib.contextmanager
    def listener(whisper):
        assert whisper == "W"
        yield lambda language: lambda text, samples: heard.append((language, text)) or Heard("x", round(10 * share), 10)

    monkeypatch.setattr(listening, "listener", listener)
    argv = [*argv, "--verify", "--whisper-model", "W", "--tries", "2", "--language", "fr", "--text", "papa mino"]
    said(*argv, "--output", tmp_path / "a.wav")
    assert heard == [("fr", "papa mino.")] * 2
    told = capsys.readouterr().err
    assert f"word error of the Whisper's transcripts: {share:.1%}" in told
    assert ("it could hardly choose" in told) == (share > 0.5)


@pytest.mark.slow
def test_a_full_disk_in_the_middle_of_a_book(argv, tmp_path, capsys):
    """A file size limit stands in for the full disk."""
    command = [*argv, "--text-file", str(tmp_path / "book.txt"), "--output", str(tmp_path / "a.wav")]
    whole = said(*command)
    other = [*command[:-1], str(tmp_path / "b.wav")]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    capsys.readouterr()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole), limits[1]))  # half of its bytes
    try:
        assert voxclone(other) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    partial, _ = partial_names(tmp_path / "b.wav")
    told = capsys.readouterr().err
    assert re.fullmatch(rf"error: {partial}: no space left on its disk; [1-3] of 4 .* go on with --resume\n", told)
    np.testing.assert_array_equal(said(*other[:-2], "--resume", *other[-2:]), whole)


def test_a_reader_that_leaves_ends_a_book(argv, tmp_path, monkeypatch, capsys):
    class Gone(io.RawIOBase):
        def writable(self):
            return True

        def write(self, content):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(Gone(), 1)))
    assert voxclone([*argv, "--text-file", str(tmp_path / "book.txt"), "--output", "-"]) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "text",
    [
        "[INST] papa [/INST] mino <s> lesu </s> [AUDIO] tara [BEGIN_AUDIO]",
        "papa \x00\x07\x1b[31m mino\x7f",
        "папа मिनो 今日は شكرا papa " * 2,
        "x" * 300,
    ],
)
def test_odd_texts_are_plain_text(argv, tmp_path, text):
    assert len(said(*argv, "--text", text, "--output", tmp_path / "a.wav")) > 0
