"""MP3 of varying bitrate without a Xing header: all of it is read, and parts are where they belong."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mlx_voxclone.audio import decode
from mlx_voxclone.audio.decode import OpenAudio, audio_info
from mlx_voxclone.audio.formats.mpeg import counted, xing
from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.audio.source import AudioBytes
from mlx_voxclone.data.ingest import examine, write_pieces
from mlx_voxclone.data.options import PrepareOptions

DELAY = 576  # samples of LAME's encoder, which it states behind its Xing header only
TAG = b"TAG" + bytes(125)


def recording(rate: int, seconds: int = 12) -> np.ndarray:
    """Soft, then loud: float32 [samples]; a burst of 300 Hz and 100 Hz more in each second."""
    times = np.arange(rate) / rate
    noise = np.random.default_rng(0).normal(size=(seconds, rate))
    parts = []
    for second in range(seconds):
        burst = 0.3 * np.sin(2 * np.pi * (300 + 100 * second) * times) * np.exp(-8 * times)
        parts.append(burst + (1e-4 if second < seconds / 2 else 0.1) * noise[second])
    return np.concatenate(parts).astype(np.float32)


def mp3(samples: np.ndarray, rate: int, mode: str = "VARIABLE") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="MP3", bitrate_mode=mode, compression_level=0.5)
    return buffer.getvalue()


def without_xing(content: bytes) -> bytes:
    """The same without its first frame, which holds the Xing header alone."""
    assert xing(content[:256])
    return content[content.index(content[:2], 4) :]


@pytest.fixture(scope="module", params=[24_000, 44_100, 48_000])
def kinds(request) -> tuple[int, bytes, bytes]:
    """Sampling rate; softer first; louder first."""
    samples = recording(request.param)
    return request.param, mp3(samples, request.param), mp3(samples[::-1], request.param)


def test_all_of_it_is_read(kinds):
    rate, *both = kinds
    for content in both:
        stated = read_audio(AudioBytes("a.mp3", content))
        bare = AudioBytes("b.mp3", without_xing(content))
        with soundfile.SoundFile(io.BytesIO(bare.content)) as alone:
            assert abs(alone.frames / rate - 12) > 2  # what libsndfile takes for its length
        assert audio_info(bare).seconds == pytest.approx(12, abs=0.1)
        found = read_audio(bare)
        assert len(stated) == 12 * 24_000
        if rate == 24_000:
            np.testing.assert_allclose(found[DELAY : DELAY + len(stated)], stated, atol=1e-5)
        assert len(found) == pytest.approx(len(stated), abs=2400)


@pytest.mark.parametrize("where", ["file", "memory"])
def test_parts_are_those_of_the_whole(kinds, tmp_path, where):
    path = tmp_path / "a.mp3"
    path.write_bytes(without_xing(kinds[1]))
    source = path if where == "file" else AudioBytes("a.mp3", path.read_bytes())
    whole = read_audio(source)
    with OpenAudio(audio_info(source)) as audio:
        for start in (0, 3.2, 5.9, 7.25, 11, 2):
            part = whole[round(start * 24_000) : round((start + 0.5) * 24_000)]
            for one in (audio, source):
                np.testing.assert_allclose(read_audio(one, start=start, end=start + 0.5), part, atol=1e-5)


def test_blocks_of_a_part_equal_those_of_the_whole_to_a_frame(kinds):
    """A frame of a loud second needs bits of softer ones long before it."""
    for content in (kinds[1], without_xing(kinds[1]), kinds[2]):
        info = audio_info(AudioBytes("a.mp3", content))
        with OpenAudio(info) as audio:
            whole = np.concatenate(list(audio.blocks()))
            for start in np.random.default_rng(0).integers(0, info.frames - 2000, 40).tolist():
                part = np.concatenate(list(audio.blocks(start, start + 2000)))
                np.testing.assert_allclose(part, whole[start : start + 2000], atol=1e-5)


def test_tags_and_bytes_between_are_not_counted():
    content = without_xing(mp3(recording(24_000), 24_000))
    clean = counted(io.BytesIO(content), len(content))
    half = content.index(content[:2], len(content) // 2)
    picture = b"ID3\x04\0\0\0\0\x08\0" + bytes(1024)
    for damaged, lost in (
        (picture + content + TAG, 0),
        (content[:half] + bytes(300) + content[half:], 1),
        (content[:-1], 1),
        (content[:half] + picture + content[half:] + TAG, 1),
    ):
        found = counted(io.BytesIO(damaged), len(damaged))
        assert 0 <= clean.count - found.count <= lost
        assert found.begin == (1034 if damaged.startswith(picture) else 0)
        assert len(read_audio(AudioBytes("a.mp3", damaged))) == pytest.approx(12 * 24_000, abs=3000)


def test_what_is_not_counted():
    for content in (
        mp3(recording(24_000), 24_000),
        without_xing(mp3(recording(24_000), 24_000, "CONSTANT")),
        b"\xff" * 100_000,
        bytes(100_000),
        b"",
    ):
        assert counted(io.BytesIO(content), len(content)) is None


def test_clips_of_a_long_one_come_from_their_places(tmp_path, monkeypatch):
    """And the file is opened once for all of them."""
    rate, open_file = 24_000, decode._open
    samples = np.concatenate([np.concatenate([recording(rate, 3), np.zeros(rate, np.float32)]) for _ in range(4)])
    for name, content in (("stated", mp3(samples, rate)), ("bare", without_xing(mp3(samples, rate)))):
        path, clips = tmp_path / f"{name}.mp3", tmp_path / name
        path.write_bytes(content)
        clips.mkdir()
        plan = examine(path, False, PrepareOptions(max_seconds=5))
        opened = []
        monkeypatch.setattr(decode, "_open", lambda *given, opened=opened: (opened.append(given), open_file(*given))[1])
        written = write_pieces(path, plan, clips, "a")
        monkeypatch.undo()
        assert len(written) > 3
        assert len(opened) <= 3
        whole = read_audio(Path(path))
        for piece in written:
            clip, _ = soundfile.read(clips / piece.name, dtype="float32")
            first = round(piece.start * rate)
            np.testing.assert_allclose(clip, whole[first : first + len(clip)], atol=1e-5)
