"""What a container states against what it holds: cut files, stale lengths, joined files, and files that are none."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.audio.formats.containers import NO_END_FLAG
from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio
from mlx_voxclone.audio.source import AudioBytes, AudioError
from mlx_voxclone.data.ingest import examine
from mlx_voxclone.data.options import PrepareOptions

SAMPLES = (np.random.default_rng(0).normal(size=2 * SAMPLE_RATE) * 0.1).astype(np.float32)
PCM = np.rint(SAMPLES * 32767).astype(np.int16)
# Where the bytes of audio are stated: libsndfile's format and endian, place before the audio, struct, bytes added.
SIZES = {
    "wav": ("WAV", "LITTLE", -4, "<I", 0),
    "rifx": ("WAV", "BIG", -4, ">I", 0),
    "wavex": ("WAVEX", "LITTLE", -4, "<I", 0),
    "w64": ("W64", "FILE", -8, "<Q", 24),
    "au": ("AU", "FILE", None, ">I", 0),
    "aiff": ("AIFF", "FILE", -12, ">I", 8),
    "caf": ("CAF", "FILE", -12, ">q", 4),
    "rf64": ("RF64", "FILE", None, "<Q", 0),
    "nist": ("NIST", "FILE", None, "", 0),
}


def written(path: Path, kind: str = "WAV", endian: str = "FILE", **keywords) -> bytes:
    soundfile.write(path, PCM, SAMPLE_RATE, format=kind, endian=endian, **keywords)
    return path.read_bytes()


def reason(path) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return caught.value.reason


def restated(content: bytes, name: str, count: int) -> bytes:
    """A file whose header states so many bytes of audio."""
    _, _, before, form, more = SIZES[name]
    at = max(content.find(PCM[:8].astype(order).tobytes()) for order in ("<i2", ">i2"))
    assert at > 0
    if name == "nist":
        stated = f"sample_count -i {len(SAMPLES)}".encode()
        new = f"sample_count -i {count // 2}".encode().ljust(len(stated))
        return content.replace(stated, new)
    place = {"au": 8, "rf64": 28}.get(name, at + (before or 0))
    assert struct.unpack_from(form, content, place)[0] == 2 * len(SAMPLES) + more
    return content[:place] + struct.pack(form, count + more) + content[place + struct.calcsize(form) :]


@pytest.mark.parametrize("name", SIZES)
def test_what_a_container_states_is_what_it_must_hold(tmp_path, name):
    path = tmp_path / f"a.{name}"
    content = written(path, *SIZES[name][:2], subtype="PCM_16")
    assert len(read_audio(path)) == len(SAMPLES)
    for kept in (0.3, 0.5, 0.99):  # cut off
        path.write_bytes(content[: int(kept * len(content))])
        assert reason(path) == "truncated"
        assert reason(AudioBytes(str(path), path.read_bytes())) == "truncated"
    for share in (0.9, 0.25, 0):  # stale: a recorder that lost power, a size that wrapped
        path.write_bytes(restated(content, name, 2 * int(share * len(SAMPLES))))
        assert reason(path) == "truncated"


@pytest.mark.parametrize(
    "tail",
    [
        b"LIST" + struct.pack("<I", 1000) + b"\1\2" * 500,
        b"bext" + struct.pack("<I", 5) + b"12345\0" + b"iXML" + struct.pack("<I", 700) + b"x" * 700,
        b"TAG" + b"\xaa" * 900,
        b"ID3\3" + b"\xaa" * 900,
        bytes(5000),
        b"\xaa" * 300,
    ],
    ids=["LIST", "odd chunk", "ID3v1", "ID3v2", "zeros", "a little"],
)
def test_what_follows_the_audio_of_a_wav_and_is_none_does_not_matter(tmp_path, tail):
    content = written(tmp_path / "a.wav", subtype="PCM_16")
    (tmp_path / "a.wav").write_bytes(content + tail)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), read_audio(AudioBytes("a", content)))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x80000000])
def test_a_wav_from_a_pipe_is_as_long_as_it_is(tmp_path, size):
    content = written(tmp_path / "a.wav", subtype="PCM_16")
    (tmp_path / "a.wav").write_bytes(restated(content, "wav", size))
    assert len(read_audio(tmp_path / "a.wav")) == len(SAMPLES)


@pytest.mark.parametrize("kind", ["WAV", "OGG", "FLAC", "MP3"])
def test_joined_files_are_refused(tmp_path, kind):
    path = tmp_path / "a"
    content = written(path, kind)
    path.write_bytes(content + content)
    assert reason(path) == "truncated"


@pytest.mark.parametrize(("stated", "expected"), [(len(SAMPLES) // 2, "truncated"), (2 * len(SAMPLES), "truncated")])
def test_a_flac_with_a_stale_length_is_refused(tmp_path, stated, expected):
    content = bytearray(written(tmp_path / "a.flac", "FLAC"))
    content[21] = content[21] & 0xF0
    content[22:26] = struct.pack(">I", stated)
    (tmp_path / "a.flac").write_bytes(content)
    assert reason(tmp_path / "a.flac") == expected


@pytest.mark.parametrize("channels", [1, 2])
def test_a_flac_without_a_length_is_read_to_its_end(tmp_path, channels):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.stack([SAMPLES] * channels, 1), SAMPLE_RATE, subtype="PCM_16")
    whole, content = read_audio(path), bytearray(path.read_bytes())
    content[21] = content[21] & 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert audio_info(path).frames == len(SAMPLES)
    np.testing.assert_array_equal(read_audio(path), whole)


def ogg_crc(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_whose_last_page_has_no_end_flag(tmp_path, subtype):
    """Telegram on Android and some recorders write such. libsndfile cannot read the end of Opus then."""
    path = tmp_path / "a.ogg"
    content = bytearray(written(path, "OGG", subtype=subtype))
    page = content.rfind(b"OggS")
    content[page + 5] &= ~4
    content[page + 22 : page + 26] = bytes(4)
    content[page + 22 : page + 26] = struct.pack("<I", ogg_crc(content[page:]))
    before = read_audio(path)
    path.write_bytes(content)
    if subtype == "OPUS":
        assert reason(path) == "truncated"
        with pytest.raises(AudioError, match="no end flag.*ffmpeg -i x.ogg x.wav"):
            audio_info(path)
        return
    assert audio_info(path).flaw == NO_END_FLAG
    np.testing.assert_array_equal(read_audio(path), before)
    assert examine(path, False, PrepareOptions()).notes == (NO_END_FLAG,)


@pytest.mark.parametrize("kind", ["IRCAM", "PVF", "VOC", "AVR", "MAT5", "SVX"])
def test_formats_whose_end_cannot_be_told_are_refused(tmp_path, kind):
    written(tmp_path / "a.wav", kind)
    assert reason(tmp_path / "a.wav") == "unreadable"


@pytest.mark.parametrize("rate", [1, 300, 2_000_000, 0x7FFFFFFF])
def test_rates_that_no_speech_has(tmp_path, rate):
    content = bytearray(written(tmp_path / "a.wav", subtype="PCM_16"))
    content[24:28] = struct.pack("<I", rate)
    (tmp_path / "a.wav").write_bytes(content)
    assert reason(tmp_path / "a.wav") == "rate"


def test_pipes_and_devices_are_no_recordings(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    (tmp_path / "b.wav").symlink_to(tmp_path / "a.wav")
    for path in (tmp_path / "a.wav", tmp_path / "b.wav", Path("/dev/zero"), Path("/dev/null")):
        assert reason(path) == "unreadable"
        with pytest.raises(AudioError, match="pipe or a device"):
            read_audio(path)
