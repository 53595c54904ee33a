"""Speech as it is spoken: frames ahead of the host, pieces that join to the whole, files and pipes."""

import io
import os
import sys

import mlx.core as mx
import numpy as np
import pytest
import soundfile

from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.audio.io import read_audio, write_wav
from mlx_voxclone.audio.wav_stream import wav_file, wav_pipe
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.cli.front import say as say_command
from mlx_voxclone.errors import DataError
from mlx_voxclone.model import generation
from mlx_voxclone.model.config import END_CODE
from mlx_voxclone.model.flow_head import FlowMatchingHead
from mlx_voxclone.speech.pieces import FIRST_PIECE, PIECE
from mlx_voxclone.speech.speaker import Speaker

pytest_plugins = ["commands"]

FRAME = 1920
TEXT, VOICE = "papa mino", "casual_male"


@pytest.fixture(scope="module")
def speaker(miniature):
    return Speaker.load(miniature)


@pytest.fixture
def argv(miniature):
    """The command's, but for `--output`; it speaks 2.4 s, 30 frames: two pieces of it whole ones."""
    options = {"--model": miniature, "--text": TEXT, "--voice": VOICE, "--max-seconds": 2.4, "--seed": 2}
    return ["say", *(str(part) for option in options.items() for part in option)]


@pytest.fixture
def prompt(speaker):
    rows = speaker.voice_rows(VOICE)
    return speaker.model.embed_prompt(speaker.tokenizer.prompt(TEXT, rows.shape[0]), rows)


def ending_at(monkeypatch, ends: dict[int, int]):
    """The head says END to its n-th call in row r for each `n: r`; returns what happens, in order."""
    happened, decode, check = [], FlowMatchingHead.decode_frame, generation.checked_frames

    def decoded(self, hidden, *arguments):
        codes = decode(self, hidden, *arguments)
        codes = mx.concatenate([mx.full((codes.shape[0], 1), 7, dtype=codes.dtype), codes[:, 1:]], axis=1)
        row = ends.get(happened.count("submitted"))
        if row is not None:
            codes[row, 0] = END_CODE
        happened.append("submitted")
        return codes

    def looked(codes):
        happened.append("looked")
        return check(codes)

    monkeypatch.setattr(FlowMatchingHead, "decode_frame", decoded)
    monkeypatch.setattr(generation, "checked_frames", looked)
    return happened


def spoken(generator) -> tuple[list, bool]:
    frames = []
    while True:
        try:
            frames.append(next(generator))
        except StopIteration as stop:
            return frames, stop.value


# ---- ahead of the host ---------------------------------------------------------------------------------------------


def test_a_frame_is_submitted_before_the_one_before_it_is_looked_at(speaker, prompt, monkeypatch):
    happened = ending_at(monkeypatch, {})
    frames, ended = spoken(generation.generate(speaker.model, prompt, max_frames=3))
    assert (len(frames), ended) == (3, False)
    assert happened == [
        "submitted",
        "submitted",
        "looked",
        "submitted",
        "looked",
        "looked",
    ]  # and none beyond the limit


def test_the_frame_after_end_is_thrown_away(speaker, prompt, monkeypatch):
    happened = ending_at(monkeypatch, {2: 0})
    frames, ended = spoken(generation.generate(speaker.model, prompt, max_frames=9))
    assert (len(frames), ended) == (2, True)
    assert happened.count("submitted") == 4  # two frames, END, and the one under way


def test_in_a_batch_the_frame_after_end_is_thrown_away_too(speaker, prompt, monkeypatch):
    with monkeypatch.context() as patch:
        ending_at(patch, {})
        alone = [
            np.stack(list(generation.generate(speaker.model, prompt, max_frames=6, seed=seed))) for seed in (0, 1, 2)
        ]
    ending_at(monkeypatch, {2: 1})
    results = generation.generate_batch(speaker.model, [prompt[0]] * 3, max_frames=6, seeds=[0, 1, 2])
    assert [(r.codes.shape[1], r.ended) for r in results] == [(6, False), (2, True), (6, False)]
    for result, codes in zip(results, alone):
        np.testing.assert_array_equal(result.codes.T, codes[: result.codes.shape[1]])


def test_a_larger_limit_says_the_same(speaker, prompt, monkeypatch):
    monkeypatch.setattr(generation, "NOISE_FRAMES", 4)  # limits before and behind a place where noise is drawn anew
    long, _ = spoken(generation.generate(speaker.model, prompt, max_frames=10, seed=2))
    assert len(long) == 10
    for limit in (1, 5, 9):
        short, _ = spoken(generation.generate(speaker.model, prompt, max_frames=limit, seed=2))
        np.testing.assert_array_equal(short, long[:limit])
    (result,) = generation.generate_batch(speaker.model, [prompt[0]], max_frames=6, seeds=[2])
    np.testing.assert_array_equal(result.codes.T, long[:6])


def test_the_noise_of_a_frame_hangs_on_seed_and_number_alone():
    first, again, other = (generation.frame_noise(seed, 36) for seed in (5, 5, 6))
    a, b, c = (np.concatenate([np.array(next(noise)) for _ in range(100)]) for noise in (first, again, other))
    np.testing.assert_array_equal(a, b)
    assert len(np.unique(a, axis=0)) == 100
    assert len(np.unique(np.concatenate([a, c]), axis=0)) == 200
    assert abs(a.mean()) < 0.05
    assert abs(a.std() - 1) < 0.05


# ---- pieces --------------------------------------------------------------------------------------------------------


def test_pieces_join_to_what_say_gives(speaker):
    options = {"max_seconds": 3.2, "seed": 2}
    stream = speaker.stream(TEXT, VOICE, **options)
    assert stream.ended is None
    first = next(stream)
    assert (first.dtype, first.shape, stream.frames) == (np.float32, (FIRST_PIECE * FRAME,), FIRST_PIECE)
    pieces = [first, *stream]
    assert [len(p) // FRAME for p in pieces] == [FIRST_PIECE, PIECE, 5]
    whole = speaker.say(TEXT, VOICE, **options)
    np.testing.assert_array_equal(np.concatenate(pieces), whole.samples)
    np.testing.assert_array_equal(stream.codes, whole.codes)
    assert (stream.ended, whole.ended) == (False, False)
    at_once = speaker.model.audio_tokenizer.decode_audio(whole.codes)
    np.testing.assert_allclose(whole.samples, at_once, atol=1e-5 * np.abs(at_once).max())


def test_speech_shorter_than_a_piece_and_speech_of_whole_pieces(speaker, monkeypatch):
    ending_at(monkeypatch, {3: 0})
    stream = speaker.stream(TEXT, VOICE)
    assert [len(piece) for piece in stream] == [3 * FRAME]
    assert stream.ended is True
    assert [len(piece) // FRAME for piece in speaker.stream(TEXT, VOICE, max_seconds=0.8)] == [FIRST_PIECE]


# ---- files and pipes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("float32", [False, True])
def test_a_file_in_pieces_is_the_file_of_the_whole(tmp_path, float32):
    samples = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    write_wav(tmp_path / "whole.wav", samples, float32=float32)
    with wav_file(tmp_path / "pieces.wav", float32=float32) as write:
        for piece in np.split(samples, [1, 400]):
            write(piece)
        assert not (tmp_path / "pieces.wav").exists()
    assert (tmp_path / "pieces.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()
    pipe = io.BytesIO()
    with wav_pipe(pipe, "stdout", float32=float32) as write:
        assert pipe.getvalue() == b""
        for piece in np.split(samples, [1, 400]):
            write(piece)
    (tmp_path / "pipe.wav").write_bytes(pipe.getvalue())
    assert audio_info(tmp_path / "pipe.wav").sample_rate == 24_000
    np.testing.assert_array_equal(read_audio(tmp_path / "pipe.wav"), read_audio(tmp_path / "whole.wav"))


def test_every_piece_is_down_the_pipe_at_once():
    read, write_end = os.pipe()
    with open(write_end, "wb") as file, open(read, "rb", buffering=0) as reader, wav_pipe(file, "stdout") as write:
        os.set_blocking(read, False)
        write(np.zeros(100))
        assert len(reader.read(1000)) == 44 + 200
        write(np.zeros(50))
        assert len(reader.read(1000)) == 100


def test_a_piece_that_is_no_audio_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.wav"
    path.write_bytes(b"RIFF mine")

    def damaged():
        with wav_file(path) as write:
            write(np.zeros(10))
            write(np.full(10, np.nan))

    with pytest.raises(DataError, match="NaN or infinite"):
        damaged()
    assert path.read_bytes() == b"RIFF mine"
    assert os.listdir(tmp_path) == ["out.wav"]


@pytest.mark.slow
def test_the_command_writes_to_stdout(argv, tmp_path, capsysbinary):
    assert voxclone([*argv, "--output", str(tmp_path / "out.wav")]) == 0
    assert capsysbinary.readouterr().out == f"{tmp_path / 'out.wav'}\n".encode()
    assert voxclone([*argv, "--output", "-"]) == 0
    captured = capsysbinary.readouterr()
    assert b"of speech in" in captured.err
    whole, streamed = soundfile.read(tmp_path / "out.wav")[0], soundfile.read(io.BytesIO(captured.out))[0]
    assert len(whole) == 30 * FRAME
    np.testing.assert_array_equal(streamed, whole)


def test_a_terminal_gets_no_samples(argv, refused, monkeypatch):
    monkeypatch.setattr(generation, "generate", None)
    monkeypatch.setattr(say_command.sys.stdout, "isatty", lambda: True, raising=False)
    refused([*argv, "--output", "-"], "stdout is a terminal", "| ffplay -")


def test_a_reader_that_goes_away_ends_it_quietly(argv, monkeypatch, capfd):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        assert voxclone([*argv, "--output", "-", "--quiet"]) == 141
        monkeypatch.undo()
    assert capfd.readouterr().err == ""


def test_an_interrupt_leaves_no_half_file(argv, tmp_path, monkeypatch, capsys):
    held = []

    def interrupted(self, prompt, **_):
        for _ in range(FIRST_PIECE + 1):
            yield np.full(37, 5, dtype=np.int32)
        held.extend(os.listdir(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "generate", interrupted)
    assert voxclone([*argv, "--output", str(tmp_path / "out.wav")]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert len(held) == 1  # what was written by then, under another name
    assert held != ["out.wav"]
    assert os.listdir(tmp_path) == []
