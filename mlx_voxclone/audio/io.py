"""The one reader and the one writer of audio.

Reading follows the servers (SPEC section 2): soundfile decodes, soxr (HQ) resamples to 24 kHz, the level is left alone,
also beyond +-1. Stereo, which servers refuse, is mixed down, or one channel taken where mixing would harm (`stereo`).
A part of a long file is read without the rest and equals the same part of the whole, `read_samples` to the bit. Writing
is atomic: a file is there complete or not at all.
"""

import contextlib
import math
import os
import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
import soundfile
import soxr

from mlx_voxclone.audio.decode import AudioInfo, OpenAudio, audio_info, check_block, check_channels, read_blocks
from mlx_voxclone.audio.output import check_output
from mlx_voxclone.audio.segment import frame_levels, normal_gain, speech_mask
from mlx_voxclone.audio.source import AudioError, AudioSource
from mlx_voxclone.audio.stereo import MIXED, UNUSABLE, StereoMeter
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.atomic import whole_file

SAMPLE_RATE = 24_000
# soxr's HQ filter reaches about 15 ms to each side at 24 kHz out of 16 kHz; what lies further away changes nothing.
_RESAMPLE_CONTEXT = 0.1
# Formats and subtypes of which a part is decoded as in the whole; ADPCM, GSM and lossy ones depend on what was before.
_EXACT = frozenset({"WAV", "WAVEX", "RF64", "W64", "FLAC"})
_PLAIN = ("PCM_", "FLOAT", "DOUBLE")


def read_audio(
    path: AudioSource | AudioInfo | OpenAudio,
    *,
    max_channels: int = 2,
    start: float | None = None,
    end: float | None = None,
    channel: int | None = None,
) -> np.ndarray:
    """Read audio as 24 kHz mono; the level is kept.

    Args:
        path: any format libsndfile knows (WAV, FLAC, OGG, MP3, AIFF, ...): a file, or one in memory; its `audio_info`;
            or, for many parts of a long file, `OpenAudio`.
        max_channels: more channels than this are refused; up to it they are averaged, see `channel`.
        start, end: seconds; only this part is decoded, and it equals that part of the whole.
        channel: of a stereo file: 0, 1 or `stereo.MIXED`; None: what `choose_channel` finds.
    Returns:
        float32 [samples] at 24 kHz, at least one sample.
    Raises:
        AudioError: `missing`, `unreadable`, `truncated`, `zero-length`, `channels`, `rate`, `non-finite`, `level`,
            `opposed` and `two-voices` (channels that cannot be mixed).
    """
    part = start is not None or end is not None
    # Of what states no length, as much is counted as the part needs: it begins and ends on a grid of at most a second.
    most = math.inf if part and end is None else end + _RESAMPLE_CONTEXT + 1.1 if end is not None else 0.0
    source = path if isinstance(path, AudioInfo | OpenAudio) else audio_info(path, most=most)
    info = _info(source)
    check_channels(info, max_channels)
    if info.frames == 0:
        raise AudioError("zero-length", f"{info.path}: holds no samples")
    if channel is None:
        channel = choose_channel(info) if info.channels == 2 else MIXED
    rate_in = info.sample_rate
    total = (2 * info.frames * SAMPLE_RATE + rate_in) // (2 * rate_in)  # as soxr rounds: half up
    first = 0 if start is None else max(0, round(start * SAMPLE_RATE))
    last = total if end is None else min(total, round(end * SAMPLE_RATE))
    if not part:
        return resample(_mono(source, channel, 0, None), rate_in)
    if first >= last:
        raise AudioError(
            "zero-length",
            f"{info.path}: no audio from {start or 0:g} s to {info.seconds if end is None else end:g} s; it lasts"
            f" {'more than ' * info.more}{info.seconds:g} s",
        )
    # Input and output grids meet every `step` frames; starting there keeps the part's samples where the whole's are.
    common = math.gcd(rate_in, SAMPLE_RATE)
    step_in, step_out = rate_in // common, SAMPLE_RATE // common
    context = round(_RESAMPLE_CONTEXT * SAMPLE_RATE)
    before = max(0, first - context) // step_out
    after = -(-(last + context) // step_out)
    samples = resample(_mono(source, channel, before * step_in, min(info.frames, after * step_in)), rate_in)
    return samples[first - before * step_out : last - before * step_out]


def read_samples(
    path: AudioSource, start: int = 0, stop: int | None = None, *, max_channels: int = 2
) -> tuple[np.ndarray, int]:
    """A part of `read_audio(path)`, the same to the bit, and the number of samples of the whole.

    Of mono WAV and FLAC at 24 kHz, which clips and pairs are, only the part is decoded; of others all of it.

    Args:
        start, stop: samples at 24 kHz; None: to the end.
        max_channels: see `read_audio`.
    Returns:
        float32 [stop - start], fewer where the audio ends before; the length of the whole in samples.
    Raises:
        AudioError: as `read_audio`; damage outside of the part may go unnoticed.
    """
    info = audio_info(path)
    last = info.frames if stop is None else min(stop, info.frames)
    exact = info.format in _EXACT and info.subtype.startswith(_PLAIN) and info.sample_rate == SAMPLE_RATE
    if not exact or info.channels > 1 or start >= last:
        whole = read_audio(path, max_channels=max_channels)
        return whole[start:stop], len(whole)
    return _mono(info, MIXED, start, last), info.frames


def resample(samples: np.ndarray, rate_in: int, rate_out: int = SAMPLE_RATE) -> np.ndarray:
    """soxr HQ, float32 [samples] in and out; the identity where the rates agree."""
    if rate_in == rate_out:
        return samples
    return soxr.resample(samples, rate_in, rate_out, quality="HQ")


def normalise_level(samples: np.ndarray) -> np.ndarray:
    """Bring speech to -23 dB of full scale (peaks at most 0.99): float32 [samples] at 24 kHz in and out.

    Servers leave the level as it is, so nothing does this unless asked to. Silence stays as it is.
    """
    levels = frame_levels([samples], SAMPLE_RATE)
    peak = float(np.abs(samples).max(initial=0.0))
    return samples * np.float32(normal_gain(levels, speech_mask(levels), peak))


def mix_down(block: np.ndarray) -> np.ndarray:
    """[frames, channels] -> [frames]: the average of the channels."""
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)


def choose_channel(info: AudioInfo) -> int:
    """Which channel of a stereo file to take, by all of it: 0, 1 or `stereo.MIXED`.

    Raises:
        AudioError: `opposed` and `two-voices`: neither will do; what decoding raises.
    """
    meter, frames = StereoMeter(info.sample_rate), 0
    for block in read_blocks(info):
        check_block(block, info.path, frames, info.sample_rate)
        meter.add(block)
        frames += len(block)
    found = meter.channel()
    if not found.usable:
        raise AudioError(found.why, f"{info.path}: {UNUSABLE[found.why]}")
    return found.number


def _info(source: AudioInfo | OpenAudio) -> AudioInfo:
    return source.info if isinstance(source, OpenAudio) else source


def _mono(source: AudioInfo | OpenAudio, channel: int, start: int, stop: int | None) -> np.ndarray:
    info, parts, at = _info(source), [], start
    for block in read_blocks(source, start=start, stop=stop):
        check_block(block, info.path, at, info.sample_rate)
        parts.append(np.ascontiguousarray(mix_down(block) if channel == MIXED else block[:, channel]))
        at += len(block)
    return np.concatenate(parts)


def write_wav(path: str | Path, samples: np.ndarray, *, float32: bool = False, sample_rate: int = SAMPLE_RATE) -> None:
    """Write mono audio as WAV: 16-bit PCM clipped to [-1, 1] and rounded to nearest, or float32 as it is.

    16-bit audio that was read comes back with the same bits. The file appears complete or not at all; equal samples
    give equal bytes.

    Args:
        samples: [samples], any float type.
    Raises:
        DataError: samples not one-dimensional or not finite, no such directory, more than 4 GB.
        OSError: the disk refuses (full, read-only); nothing is left behind and an older file is untouched.
    """
    data = wav_data(path, samples, float32)
    with output_file(path) as file:
        file.write(wav_header(path, len(data), float32, sample_rate))
        file.write(data.data)


def wav_data(path: str | Path, samples: np.ndarray, float32: bool) -> np.ndarray:
    """What `write_wav` writes of samples `[samples]`: little-endian int16 or float32. Raises DataError as it does."""
    samples = _check_samples(path, samples)
    if float32:
        return samples.astype("<f4")
    return np.clip(np.rint(samples.astype(np.float64) * 32768), -32768, 32767).astype("<i2")


def wav_header(path: str | Path, count: int | None, float32: bool, sample_rate: int = SAMPLE_RATE) -> bytes:
    """All of a mono WAV before its `count` samples; None: as many as come, which is stated as 0xFFFFFFFF bytes.

    Raises:
        DataError: more than 4 GB.
    """
    tag, width = (3, 4) if float32 else (1, 2)
    if count is not None and count * width + 64 > 0xFFFFFFFF:
        raise DataError(f"{path}: {count * width / 1e9:.1f} GB are more than a WAV holds (4 GB); split it")
    form = struct.pack("<HHIIHH", tag, 1, sample_rate, sample_rate * width, width, 8 * width)
    chunks = _chunk(b"fmt ", form)
    if float32:
        chunks = _chunk(b"fmt ", form + b"\0\0") + _chunk(b"fact", struct.pack("<I", _stated(count)))
    rest = b"WAVE" + chunks + b"data"
    sizes = (None, None) if count is None else (len(rest) + 4 + count * width, count * width)
    return b"RIFF" + struct.pack("<I", _stated(sizes[0])) + rest + struct.pack("<I", _stated(sizes[1]))


def _stated(size: int | None) -> int:
    return 0xFFFFFFFF if size is None else size


def write_flac(path: str | Path, samples: np.ndarray, *, sample_rate: int = SAMPLE_RATE) -> None:
    """Write mono audio as 24-bit FLAC, rounded to nearest; see `write_wav` for the rest.

    Raises:
        DataError: also where a sample lies beyond +-1, which FLAC cannot hold (write a float WAV).
    """
    samples = _check_samples(path, samples)
    scaled = np.rint(samples.astype(np.float64) * 2**23)
    if scaled.size and (scaled.max() > 2**23 or scaled.min() < -(2**23)):
        raise DataError(f"{path}: peaks beyond full scale do not fit FLAC; write a float WAV")
    buffer = BytesIO()
    integers = np.minimum(scaled, 2**23 - 1).astype(np.int32) << 8  # libsndfile takes the upper 24 bits
    soundfile.write(buffer, integers, sample_rate, subtype="PCM_24", format="FLAC")
    with output_file(path) as file:
        file.write(buffer.getbuffer())


def _check_samples(path: str | Path, samples: np.ndarray) -> np.ndarray:
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise DataError(f"{path}: mono samples [S] are expected to write, got shape {list(samples.shape)}")
    if not np.isfinite(samples).all():
        raise DataError(f"{path}: NaN or infinite samples are not written as audio")
    return samples


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


@contextlib.contextmanager
def output_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write into that takes the place of `path` at the end, and vanishes if anything goes wrong before.

    Raises:
        DataError: as `check_output`.
        OSError: what the disk refuses.
    """
    path = Path(path)
    check_output(path)
    with _named(path), whole_file(path) as file:
        yield file


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """What the disk refuses (full, a limit on sizes) says of which file; the system names none when it is open."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as e:
        if e.filename is None and e.errno is not None:
            raise OSError(e.errno, os.strerror(e.errno), str(path)) from e
        raise
