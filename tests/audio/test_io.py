"""The reader and the writer of audio: scale, level, resampling, parts, and one clear line for every bad file."""

import errno
import os
import resource
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_voxclone.audio import io
from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio, read_samples, write_flac, write_wav
from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.errors import DataError


def noise(n: int, seed: int = 0, scale: float = 0.1) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=n) * scale).astype(np.float32)


def refused(path: Path, reason: str, **keywords) -> str:
    """The message of the AudioError that reading raises: one line that names the file."""
    with pytest.raises(AudioError) as caught:
        read_audio(path, **keywords)
    message = str(caught.value)
    assert caught.value.reason == reason
    assert str(path) in message
    assert "\n" not in message
    return message


# Scale and level


def test_full_scale_16_bit_reads_as_one(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([-32768, 32767, 16384, 0], np.int16), SAMPLE_RATE, subtype="PCM_16")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), np.float32([-1, 32767 / 32768, 0.5, 0]))


@pytest.mark.parametrize(
    ("subtype", "step"), [("PCM_U8", 2**-7), ("PCM_24", 2**-23), ("PCM_32", 2**-24), ("FLOAT", 0), ("DOUBLE", 0)]
)
def test_other_widths_read_on_the_same_scale(tmp_path, subtype, step):
    values = np.float32([-0.75, 0.5, 0.125, 0])
    soundfile.write(tmp_path / "a.wav", values, SAMPLE_RATE, subtype=subtype)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), values, atol=step)


def test_level_is_kept_also_beyond_full_scale(tmp_path):
    samples = noise(4800, scale=0.9)
    assert np.abs(samples).max() > 2
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), samples)


def test_stereo_is_averaged_or_refused(tmp_path):
    left = noise(4800)
    right = 0.8 * left + noise(4800, seed=1, scale=0.01)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), (left + right) / 2, atol=1e-7)
    assert "mono is needed" in refused(tmp_path / "a.wav", "channels", max_channels=1)


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 48_000])
def test_resampling_is_soxr_hq(tmp_path, rate):
    samples = noise(rate)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), soxr.resample(samples, rate, 24_000, quality="HQ"))


def test_resampling_keeps_a_tone(tmp_path):
    tone = np.sin(2 * np.pi * 1000 * np.arange(44_100) / 44_100).astype(np.float32) * 0.5
    soundfile.write(tmp_path / "a.wav", tone, 44_100, subtype="FLOAT")
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[1000:-1000], expected[1000:-1000], atol=1e-4)


# Parts


@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000, 44_100])
@given(start=st.floats(0, 4), length=st.floats(0.01, 3))
@settings(max_examples=15, deadline=None)
def test_a_part_equals_that_part_of_the_whole(tmp_path_factory, rate, start, length):
    path = tmp_path_factory.getbasetemp() / f"part-{rate}.wav"
    if not path.exists():
        soundfile.write(path, noise(5 * rate + 137), rate, subtype="FLOAT")
    whole, part = read_audio(path), read_audio(path, start=start, end=start + length)
    first, last = round(start * SAMPLE_RATE), min(len(whole), round((start + length) * SAMPLE_RATE))
    assert len(part) == last - first
    np.testing.assert_allclose(part, whole[first:last], atol=1e-5)


KINDS = {
    "16.wav": {"subtype": "PCM_16"},
    "float.wav": {"subtype": "FLOAT"},
    "ima.wav": {"subtype": "IMA_ADPCM"},
    "16.flac": {"subtype": "PCM_16"},
    "24.flac": {"subtype": "PCM_24"},
    "a.ogg": {},
    "a.mp3": {},
    "22k.flac": {"subtype": "PCM_24", "samplerate": 22_050},
    "stereo.flac": {"subtype": "PCM_24", "channels": 2},
}


@pytest.mark.parametrize("name", KINDS)
def test_samples_of_a_part_are_those_of_the_whole_to_the_bit(tmp_path, name):
    path, kind = tmp_path / name, {"samplerate": SAMPLE_RATE, "channels": 1, **KINDS[name]}
    mono = noise(7 * SAMPLE_RATE + 1234)
    with soundfile.SoundFile(path, "w", **kind) as file:
        file.write(mono if kind["channels"] == 1 else np.stack([mono, mono], axis=1))
    whole, rng = read_audio(path), np.random.default_rng(1)
    parts = [(0, None), (0, 1), (4095, 4097), (len(whole) - 1, len(whole)), (len(whole) - 5, len(whole) + 99)]
    parts += [tuple(sorted(rng.integers(0, len(whole), 2))) for _ in range(20)]
    for start, stop in parts:
        part, count = read_samples(path, start, stop)
        np.testing.assert_array_equal(part, whole[start:stop])
        assert count == len(whole)
        assert part.dtype == np.float32
    assert len(read_samples(path, len(whole), len(whole) + 10)[0]) == 0


def without_length(path: Path) -> Path:
    """A FLAC whose header no longer states how long it is, as where it was written down a pipe."""
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    (path.parent / "b.flac").write_bytes(content)
    return path.parent / "b.flac"


def test_a_flac_that_states_no_length_is_read_in_parts(tmp_path):
    write_flac(tmp_path / "a.flac", noise(3 * SAMPLE_RATE))
    without_length(tmp_path / "a.flac")
    part, count = read_samples(tmp_path / "b.flac", 30_000, 40_000)
    np.testing.assert_array_equal(part, read_audio(tmp_path / "a.flac")[30_000:40_000])
    assert count == 3 * SAMPLE_RATE


@pytest.fixture
def decoded(monkeypatch):
    """How many frames each call to libsndfile has given."""
    counts, read = [], soundfile.SoundFile.read

    def counted(file, *arguments, **keywords):
        found = read(file, *arguments, **keywords)
        counts.append(len(found))
        return found

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    return counts


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100, 48_000])
def test_of_what_states_no_length_no_more_is_counted_than_is_asked_for(tmp_path, decoded, rate):
    samples = noise(90 * rate, scale=0.01)
    soundfile.write(tmp_path / "a.flac", samples, rate)
    path = without_length(tmp_path / "a.flac")
    want = read_audio(tmp_path / "a.flac")
    decoded.clear()
    for start, end in ((0.0, 2.0), (None, 1.37), (3.3, 5.01)):
        part = read_audio(path, start=start, end=end)
        whole = want[round((start or 0) * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
        np.testing.assert_allclose(part, whole, rtol=0, atol=1e-7)
        assert sum(decoded) < (2 * end + 3) * rate
        decoded.clear()
    found = audio_info(path, most=4)
    assert (found.frames, found.more) == (4 * rate + 1, True)
    assert sum(decoded) == 4 * rate + 1
    for most in (89.9, 90, 90.1, 1000):
        found = audio_info(path, most=most)
        assert (found.seconds > most, found.more) == (most < 90, most < 90)
    decoded.clear()
    np.testing.assert_array_equal(read_audio(path), want)
    assert sum(decoded) == 90 * rate + 1  # once, not first to be counted
    assert "it lasts more than" in refused(path, "zero-length", start=6, end=5)


def test_a_part_is_decoded_alone(tmp_path, monkeypatch):
    """Of the two formats that clips are kept in."""
    samples, decoded = noise(30 * SAMPLE_RATE), []
    write_flac(tmp_path / "a.flac", samples)
    write_wav(tmp_path / "a.wav", samples, float32=True)
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda f, n, **keys: decoded.append(n) or read(f, n, **keys))
    for name in ("a.flac", "a.wav"):
        decoded.clear()
        assert len(read_samples(tmp_path / name, 100_000, 196_000)[0]) == 96_000
        assert sum(decoded) == 96_000


def test_a_part_of_a_long_file_costs_the_part(tmp_path):
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 16_000, 1, subtype="PCM_16") as file:
        for _ in range(20):
            file.write(np.zeros(60 * 16_000, np.int16))
    tracemalloc.start()
    assert audio_info(path).seconds == 1200
    assert len(read_audio(path, start=1000, end=1002)) == 2 * SAMPLE_RATE
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6  # the whole is 77 MB as float32


def test_a_part_beyond_the_end_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(4800), SAMPLE_RATE)
    assert "lasts 0.2 s" in refused(tmp_path / "a.wav", "zero-length", start=1, end=2)


# Bad files


def test_missing_file(tmp_path):
    assert "no such audio file" in refused(tmp_path / "a.wav", "missing")


def test_directory(tmp_path):
    refused(tmp_path, "unreadable")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.raw"])
def test_text_named_as_audio(tmp_path, name):
    (tmp_path / name).write_text("This is no audio, only a text that is called so.\n" * 20)
    assert "not audio that can be read" in refused(tmp_path / name, "unreadable")


def test_empty_file(tmp_path):
    (tmp_path / "a.wav").touch()
    assert "empty" in refused(tmp_path / "a.wav", "zero-length")


def test_zero_length_audio(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), SAMPLE_RATE)
    assert "holds no samples" in refused(tmp_path / "a.wav", "zero-length")
    assert audio_info(tmp_path / "a.wav").frames == 0


@pytest.mark.parametrize("suffix", ["wav", "aiff", "flac", "mp3", "ogg"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_truncated_audio(tmp_path, suffix, kept):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(3 * SAMPLE_RATE), SAMPLE_RATE)
    read_audio(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    refused(path, "truncated")


def test_wav_cut_off_inside_its_header(tmp_path):
    write_wav(tmp_path / "a.wav", noise(100))
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:30])
    refused(tmp_path / "a.wav", "truncated")


def test_a_wav_from_a_pipe_states_no_length_and_is_read(tmp_path):
    write_wav(tmp_path / "a.wav", noise(1000))
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(content)
    assert len(read_audio(tmp_path / "a.wav")) == 1000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_audio(tmp_path, bad):
    samples = noise(SAMPLE_RATE)
    samples[12_000] = bad
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    assert "at 0.500 s" in refused(tmp_path / "a.wav", "non-finite")


@pytest.mark.parametrize("peak", [1e30, -150.0])
def test_numbers_that_are_no_audio_level(tmp_path, peak):
    samples = noise(SAMPLE_RATE)
    samples[12_000] = peak
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    assert "times full scale at 0.500 s" in refused(tmp_path / "a.wav", "level")


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_is_read_when_its_last_page_is_whole_and_ends_the_stream(tmp_path, subtype):
    path = tmp_path / "a.ogg"
    soundfile.write(path, noise(3 * SAMPLE_RATE), SAMPLE_RATE, format="OGG", subtype=subtype)
    assert len(read_audio(path)) == 3 * SAMPLE_RATE
    content = path.read_bytes()
    for kept in (content.rindex(b"OggS"), len(content) - 1):  # without the last page, and inside it
        path.write_bytes(content[:kept])
        refused(path, "truncated")


def test_eight_channels(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((2400, 8), np.float32), SAMPLE_RATE)
    assert "8 channels; mono or stereo is needed" in refused(tmp_path / "a.wav", "channels")


# Writing


def test_16_bit_round_trip_is_exact(tmp_path):
    integers = np.arange(-32768, 32768, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", integers, SAMPLE_RATE, subtype="PCM_16")
    write_wav(tmp_path / "b.wav", read_audio(tmp_path / "a.wav"))
    np.testing.assert_array_equal(soundfile.read(tmp_path / "b.wav", dtype="int16")[0], integers)


def test_writing_clips_and_rounds_to_nearest(tmp_path):
    write_wav(tmp_path / "a.wav", np.float32([2, 1, -1, -3, 0.6 / 32768, -0.6 / 32768, 0.4 / 32768]))
    stored = soundfile.read(tmp_path / "a.wav", dtype="int16")[0]
    np.testing.assert_array_equal(stored, [32767, 32767, -32768, -32768, 1, -1, 0])
    assert audio_info(tmp_path / "a.wav").subtype == "PCM_16"


def test_float32_writes_what_it_is_given(tmp_path):
    samples = noise(999, scale=0.9)
    write_wav(tmp_path / "a.wav", samples, float32=True, sample_rate=16_000)
    stored, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    np.testing.assert_array_equal(stored, samples)
    assert rate == 16_000
    first = (tmp_path / "a.wav").read_bytes()
    write_wav(tmp_path / "a.wav", samples, float32=True, sample_rate=16_000)
    assert (tmp_path / "a.wav").read_bytes() == first


def test_flac_is_24_bit_and_exact_there(tmp_path):
    samples = np.concatenate([noise(5000), np.float32([-1, 1 - 2**-23, 0])])
    write_flac(tmp_path / "a.flac", samples)
    assert audio_info(tmp_path / "a.flac").subtype == "PCM_24"
    np.testing.assert_array_equal(read_audio(tmp_path / "a.flac"), np.rint(samples.astype(np.float64) * 2**23) / 2**23)


def test_flac_refuses_what_it_would_clip(tmp_path):
    with pytest.raises(DataError, match="float WAV"):
        write_flac(tmp_path / "a.flac", np.float32([0, 1.01]))


@pytest.mark.parametrize("samples", [np.zeros((2, 10)), np.array([0, np.nan])], ids=["two-dimensional", "NaN"])
def test_unwritable_samples_are_refused(tmp_path, samples):
    with pytest.raises(DataError):
        write_wav(tmp_path / "a.wav", samples)
    assert list(tmp_path.iterdir()) == []


def test_missing_directory_to_write_into(tmp_path):
    with pytest.raises(DataError, match="no such directory"):
        write_wav(tmp_path / "none" / "a.wav", noise(10))


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    """A file size limit stands in for the full disk: the kernel refuses to write on."""
    write_wav(tmp_path / "a.wav", noise(10))
    before = (tmp_path / "a.wav").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_wav(tmp_path / "a.wav", noise(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == before


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_failure_before_the_rename_leaves_nothing(tmp_path, monkeypatch, failure):
    def fail(_):
        raise failure

    monkeypatch.setattr(io.os, "fsync", fail)
    with pytest.raises(type(failure)):
        write_wav(tmp_path / "a.wav", noise(1000))
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_a_part_that_is_empty_is_named(tmp_path):
    write_wav(tmp_path / "a.wav", noise(SAMPLE_RATE))
    with pytest.raises(AudioError, match=r"from 0 s to 0 s; it lasts 1 s"):
        read_audio(tmp_path / "a.wav", end=0)
