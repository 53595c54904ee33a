"""One recording on its way to clips: is it usable, where is the speech, how is it cut, and writing it.

A recording is read twice, block by block: once for its levels and defects, once piece by piece to be written. Memory
does not grow with its length.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_voxclone.audio.io import (
    AudioError,
    AudioInfo,
    AudioSource,
    audio_info,
    check_block,
    check_channels,
    mix_down,
    read_audio,
    read_blocks,
    write_flac,
    write_wav,
)
from mlx_voxclone.audio.segment import (
    FRAME_SECONDS,
    LevelMeter,
    Span,
    cut_at_pauses,
    frame_levels,
    normal_gain,
    speech_mask,
    trim,
)
from mlx_voxclone.data.options import PrepareOptions

MAX_TRANSCRIBED_SECONDS = 30.0  # a longer text and its audio cannot be cut apart without knowing which word is where
SHORTEST_CUT_SECONDS = 2.0
_CANCELLED = 10.0  # dB that mixing takes away from opposed channels, at least


@dataclass(frozen=True)
class Scan:
    """What the first pass finds."""

    levels: np.ndarray  # dB of full scale, [frames of 10 ms]
    clipped: float  # fraction of samples at full scale
    peak: float  # of the mixdown


@dataclass(frozen=True)
class Plan:
    """Which parts of a recording become clips, and how loud."""

    pieces: list[tuple[float, float]]  # start and end, seconds
    gain: float
    seconds: float  # of the whole recording


@dataclass(frozen=True)
class Written:
    """A clip's file."""

    name: str
    samples: int  # at 24 kHz
    start: float  # seconds into the recording
    digest: str  # of the samples


def examine(path: AudioSource, transcribed: bool, options: PrepareOptions) -> Plan:
    """Decide what becomes of a recording.

    Raises:
        AudioError: it cannot be used; `reason` is one of missing, unreadable, truncated, zero-length, channels,
            low-rate, non-finite, level, silent, opposed, clipped, too-short, too-long.
    """
    info = audio_info(path)
    if info.frames == 0:
        raise AudioError("zero-length", f"{path}: holds no samples")
    check_channels(info)
    if info.sample_rate < options.min_sampling_rate:
        raise AudioError(
            "low-rate",
            f"{path}: sampled at {info.sample_rate} Hz: no speech above {info.sample_rate / 2000:g} kHz to learn from; "
            f"at least {options.min_sampling_rate} Hz are needed",
        )
    scan = scan_recording(info)
    mask = speech_mask(scan.levels)
    speech = trim(mask)
    if speech is None:
        if info.channels == 2 and _channels_cancel(info, scan.levels):
            raise AudioError(
                "opposed", f"{path}: its two channels cancel each other when mixed to mono; invert or extract one"
            )
        raise AudioError("silent", f"{path}: silence, no speech found")
    if scan.clipped > options.max_clipped:
        raise AudioError(
            "clipped", f"{path}: {100 * scan.clipped:.1f} % of its samples are clipped; record again at a lower level"
        )
    whole = speech if options.trim_silence else Span(0, len(mask))
    pieces = _pieces(path, whole, scan.levels, mask, transcribed, options)
    gain = normal_gain(scan.levels, mask, scan.peak) if options.normalise else 1.0
    last = info.seconds
    return Plan([(p.start * FRAME_SECONDS, min(last, p.end * FRAME_SECONDS)) for p in pieces], gain, info.seconds)


def scan_recording(info: AudioInfo) -> Scan:
    """First pass over a recording, a block at a time.

    Raises:
        AudioError: `non-finite`, `level`, `truncated`, `unreadable`.
    """
    meter = LevelMeter(info.sample_rate)
    # 8-bit audio has its full scale at 127/128. Float audio beyond 1 is loud, not clipped: it kept its peaks.
    low, high = (0.99 if info.subtype.endswith("8") else 0.9995), 1.0001
    frames = clipped = 0
    peak = 0.0
    for block in read_blocks(info.path):
        check_block(block, info.path, frames, info.sample_rate)
        size = np.abs(block)
        if size.max() >= low:
            clipped += int(np.count_nonzero((size >= low) & (size <= high)))
        frames += len(block)
        mono = mix_down(block)
        peak = max(peak, float(np.abs(mono).max()))
        meter.add(mono)
    return Scan(meter.levels(), clipped / (frames * info.channels), peak)


def _channels_cancel(info: AudioInfo, mixed: np.ndarray) -> bool:
    """Whether a stereo file that is silent when mixed ([frames], dB) holds speech in the difference of its channels."""
    blocks = ((block[:, 0] - block[:, 1]) / 2 for block in read_blocks(info.path))
    difference = frame_levels(blocks, info.sample_rate)
    # Where only one channel speaks, too softly, the difference is as loud as the mix.
    return bool(speech_mask(difference).any()) and difference.max() > mixed.max() + _CANCELLED


def write_pieces(path: Path, plan: Plan, directory: Path, name: str) -> list[Written]:
    """Second pass: write each piece as 24 kHz mono `NAME.flac`, or `NAME~001.flac`, ... where there are several.

    FLAC holds 24 bits and no peak beyond full scale; a piece that has one becomes a float WAV.
    """
    out = []
    for number, (start, end) in enumerate(plan.pieces, 1):
        samples = read_audio(path, start=start, end=end) * np.float32(plan.gain)
        stem = name if len(plan.pieces) == 1 else f"{name}~{number:03d}"  # names have no ~
        if np.abs(samples).max() <= 1:
            file = directory / f"{stem}.flac"
            write_flac(file, samples)
        else:
            file = directory / f"{stem}.wav"
            write_wav(file, samples, float32=True)
        digest = hashlib.sha256(samples.tobytes()).hexdigest()[:16]
        out.append(Written(file.name, len(samples), round(start, 3), digest))
    return out


def _pieces(
    path: AudioSource, whole: Span, levels: np.ndarray, mask: np.ndarray, transcribed: bool, options: PrepareOptions
) -> list[Span]:
    """The recording as a whole if it is short enough or transcribed, else cut at pauses."""
    if transcribed and whole.seconds > MAX_TRANSCRIBED_SECONDS:
        raise AudioError(
            "too-long",
            f"{path}: {whole.seconds:.0f} s of transcribed speech; text and audio over {MAX_TRANSCRIBED_SECONDS:.0f} s "
            "are not cut blindly, cut both or leave the text out",
        )
    if transcribed or whole.seconds <= options.max_seconds:
        pieces = [whole]
    else:
        shortest = min(max(SHORTEST_CUT_SECONDS, options.min_seconds), options.max_seconds / 5)
        pieces = cut_at_pauses(levels, mask, shortest, options.max_seconds)
    kept = [piece for piece in pieces if piece.seconds >= options.min_seconds - FRAME_SECONDS / 2]
    if not kept:
        longest = max(piece.seconds for piece in pieces)
        raise AudioError(
            "too-short", f"{path}: {longest:.2f} s of speech; at least {options.min_seconds:g} s are needed"
        )
    return kept
