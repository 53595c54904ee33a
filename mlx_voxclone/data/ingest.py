"""One recording on its way to clips: is it usable, where is the speech, how is it cut, and writing it.

A recording is read twice, block by block: once for its levels and defects, once piece by piece to be written. Memory
does not grow with its length.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.audio.activity import silero
from mlx_voxclone.audio.clipping import ClippingMeter
from mlx_voxclone.audio.decode import AudioInfo, OpenAudio, audio_info, check_block, check_channels, read_blocks
from mlx_voxclone.audio.fingerprint import FingerprintMeter
from mlx_voxclone.audio.formats.containers import NO_END_FLAG
from mlx_voxclone.audio.io import mix_down, read_audio, write_flac, write_wav
from mlx_voxclone.audio.measure.quality import Quality, QualityMeter, signal_to_noise
from mlx_voxclone.audio.measure.together import TogetherMeter, together
from mlx_voxclone.audio.segment import (
    FRAME_SECONDS,
    LevelMeter,
    Span,
    cut_at_pauses,
    normal_gain,
    soft_speech,
    speech_mask,
    trim,
)
from mlx_voxclone.audio.source import AudioBytes, AudioError, AudioSource
from mlx_voxclone.audio.stereo import MIXED, UNUSABLE, Channel, StereoMeter
from mlx_voxclone.data.options import PrepareOptions

Each = Callable[[], object]
TOO_LONG, TOGETHER, SHORT_PART = "too-long", "together", "short-part"
MAX_TRANSCRIBED_SECONDS = 30.0  # a longer text and its audio cannot be cut apart without knowing which word is where
SHORTEST_CUT_SECONDS = 2.0
CLEAR = 25.0  # dB of speech over noise, from which on levels tell speech as well as a network (docs/LOG.md)

NOTES = {  # what a user should know of recordings that are kept
    "one": "one of the two channels is silent or much softer; the other is used alone",
    "differ": "the two channels differ; the louder one is used alone",
    NO_END_FLAG: "an Ogg stream without an end flag; read up to its last page, listen to the end",
    "silero": "noisy; where speech is was found by Silero VAD",
    TOGETHER: "something else with a pitch sounds beside the voice, as music or a second speaker does; listen to it",
    "soft": "speech at an end is far softer than the rest; it is kept, as its text is",
}


@dataclass(frozen=True)
class Scan:
    """What the first pass finds."""

    levels: np.ndarray  # dB of full scale, [frames of 10 ms]
    clipped: float  # fraction of samples, see `audio.clipping`
    peak: float  # of the mixdown, or of the channel
    channel: Channel
    words: np.ndarray  # its fingerprint, see `audio.fingerprint`
    meter: QualityMeter
    voices: TogetherMeter  # of the mixdown


@dataclass(frozen=True)
class Plan:
    """Which parts of a recording become clips, and how loud."""

    pieces: list[tuple[float, float]]  # start and end, seconds
    gain: float
    seconds: float  # of the whole recording
    channel: int = MIXED
    notes: tuple[str, ...] = ()  # keys of `NOTES`
    words: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32), repr=False)  # fingerprint of all of it
    quality: Quality | None = None
    together: tuple[int, ...] = ()  # pieces in which more sounds than a voice, by number
    short: tuple[tuple[float, float], ...] = ()  # parts with speech that become no clip: shorter than `min_seconds`

    def left_out(self, path: AudioSource, options: PrepareOptions) -> Iterator[dict[str, Any]]:
        """Lines of `rejected.jsonl` about parts of a recording, but for what they have in common."""
        for start, end in self.short:
            what = f"from {start:.2f} to {end:.2f} s: a part of {end - start:.2f} s"
            detail = f"{path}: {what}; at least {options.min_seconds:g} s are needed (min_seconds)"
            yield {"seconds": round(end - start, 2), "reason": SHORT_PART, "detail": detail}


@dataclass(frozen=True)
class Written:
    """A clip's file."""

    name: str
    samples: int  # at 24 kHz
    start: float  # seconds into the recording
    digest: str  # of the samples


@dataclass(frozen=True)
class Usable:
    """A recording that can be used, before it is cut."""

    info: AudioInfo
    scan: Scan
    mask: np.ndarray  # bool, which frames hold speech
    whole: Span  # what is kept of it
    gain: float
    notes: tuple[str, ...]

    def plan(self, pieces: list[tuple[float, float]], short: Sequence[tuple[float, float]] = ()) -> Plan:
        """With these parts, in seconds, as its clips; others are too `short`."""
        scan = self.scan
        quality = scan.meter.quality(scan.levels, self.mask, scan.clipped)
        shares = scan.voices.shares(pieces) if scan.channel.number == MIXED else []
        several = tuple(number for number, share in enumerate(shares) if together(share))
        about = (scan.channel.number, self.notes, scan.words, quality, several, tuple(short))
        return Plan(pieces, self.gain, self.info.seconds, *about)


def examine(path: AudioSource, transcribed: bool, options: PrepareOptions, each: Each = lambda: None) -> Plan:
    """Decide what becomes of a recording.

    Args:
        each: called with every block that is read; what it raises ends the reading.
    Raises:
        AudioError: it cannot be used; `reason` is one of missing, unreadable, truncated, zero-length, channels,
            rate, low-rate, non-finite, level, opposed, two-voices, silent, clipped, too-short, too-long.
    """
    found = usable(path, transcribed, options, each)
    sides = _pieces(path, found.whole, found.scan.levels, found.mask, transcribed, options)
    last = found.info.seconds
    return found.plan(*([(p.start * FRAME_SECONDS, min(last, p.end * FRAME_SECONDS)) for p in side] for side in sides))


def usable(path: AudioSource, transcribed: bool, options: PrepareOptions, each: Each = lambda: None) -> Usable:
    """Find out whether a recording can be used, whatever its length.

    Args:
        each: see `examine`.
    Raises:
        AudioError: see `examine`; not too-short and too-long.
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
    scan = scan_recording(info, each)
    mask, by_silero = _speech(info, scan, options)
    speech = trim(mask)
    if not scan.channel.usable:
        raise AudioError(scan.channel.why, f"{path}: {UNUSABLE[scan.channel.why]}")
    if speech is None:
        raise AudioError("silent", f"{path}: silence, no speech found")
    if scan.clipped > options.max_clipped:
        raise AudioError(
            "clipped", f"{path}: {100 * scan.clipped:.1f} % of its samples are clipped; record again at a lower level"
        )
    notes = [note for note in (scan.channel.why, info.flaw, "silero" if by_silero else None) if note]
    if transcribed and options.trim_silence and (more := trim(soft_speech(scan.levels, mask))) != speech:
        speech, notes = more, [*notes, "soft"]
    whole = speech if options.trim_silence else Span(0, len(mask))
    gain = normal_gain(scan.levels, mask, scan.peak) if options.normalise else 1.0
    return Usable(info, scan, mask, whole, gain, tuple(notes))


def _speech(info: AudioInfo, scan: Scan, options: PrepareOptions) -> tuple[np.ndarray, bool]:
    """Frames of speech, and whether Silero VAD told them: where the levels alone would be misled by noise.

    The network's ears are not for every voice: where it hears nobody, the levels decide.
    """
    mask = speech_mask(scan.levels)
    noisy = mask.any() and signal_to_noise(scan.levels, mask) < CLEAR
    if options.speech_detector == "levels" or not (noisy or options.speech_detector == "silero"):
        return mask, False
    if not scan.channel.usable or (options.speech_detector == "auto" and not silero.installed()):
        return mask, False
    meter, number = silero.SileroMeter(info.sample_rate), scan.channel.number
    for block in read_blocks(info):
        meter.add(mix_down(block) if number == MIXED else block[:, number])
    heard = meter.mask(len(mask))
    return (heard, True) if heard.any() else (mask, False)


def scan_recording(info: AudioInfo, each: Each = lambda: None) -> Scan:
    """First pass over a recording, a block at a time.

    Args:
        each: see `examine`.
    Raises:
        AudioError: `non-finite`, `level`, `truncated`, `unreadable`.
    """
    stereo = StereoMeter(info.sample_rate) if info.channels == 2 else None
    meter, fingerprint = LevelMeter(info.sample_rate), FingerprintMeter(info.sample_rate)
    quality, voices = QualityMeter(info.sample_rate), TogetherMeter(info.sample_rate)
    clipping = [ClippingMeter(info.subtype) for _ in range(info.channels)]
    frames, peaks = 0, np.zeros(info.channels + 1)
    for block in read_blocks(info):
        each()
        check_block(block, info.path, frames, info.sample_rate)
        for one, channel in zip(clipping, np.abs(block).T):
            one.add(channel)
        frames += len(block)
        mono = mix_down(block)
        peaks = np.maximum(peaks, [*np.abs(block).max(axis=0), np.abs(mono).max()])
        fingerprint.add(mono)
        quality.add(mono)
        voices.add(mono)
        if stereo is not None:
            stereo.add(block)
        else:
            meter.add(mono)
    channel = stereo.channel() if stereo is not None else Channel()
    meters = [meter] if stereo is None else [stereo.left, stereo.right, stereo.mix]
    used = clipping if channel.number == MIXED else [clipping[channel.number]]
    clipped = max(one.share() for one in used)
    levels, peak = meters[channel.number].levels(), float(peaks[channel.number])
    return Scan(levels, clipped, peak, channel, fingerprint.words(), quality, voices)


def write_pieces(path: Path, plan: Plan, directory: Path, name: str) -> list[Written]:
    """Second pass: write each piece as 24 kHz mono `NAME.flac`, or `NAME~001.flac`, ... where there are several.

    FLAC holds 24 bits and no peak beyond full scale; a piece that has one becomes a float WAV.
    """
    out = []
    with OpenAudio(audio_info(path)) as audio:
        for number, (start, end) in enumerate(plan.pieces, 1):
            samples = read_audio(audio, start=start, end=end, channel=plan.channel) * np.float32(plan.gain)
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
) -> tuple[list[Span], list[Span]]:
    """The recording as a whole if it is short enough or transcribed, else cut at pauses; and parts that are too short.

    A part of a cut recording is widened into the silence around it, or joined with the next, as far as it has to be and
    can be.
    """
    if transcribed and whole.seconds > MAX_TRANSCRIBED_SECONDS:
        how = (
            "text and audio are cut together by means of a Whisper: name one with --whisper-model (data.whisper_model)"
        )
        if isinstance(path, AudioBytes):
            how = "it is left out of shards; prepare it as a file, with --whisper-model"
        longest = f"over {MAX_TRANSCRIBED_SECONDS:.0f} s"
        raise AudioError(TOO_LONG, f"{path}: {whole.seconds:.0f} s of transcribed speech; {longest}, {how}")
    if transcribed or whole.seconds <= options.max_seconds:
        pieces = [whole]
    else:
        shortest = max(options.min_seconds, min(SHORTEST_CUT_SECONDS, options.max_seconds / 5))
        pieces = cut_at_pauses(levels, mask, shortest, options.max_seconds)
    needed = options.min_seconds - FRAME_SECONDS / 2
    kept = [piece for piece in pieces if piece.seconds >= needed]
    if not kept:
        longest = max(piece.seconds for piece in pieces)
        raise AudioError(
            "too-short", f"{path}: {longest:.2f} s of speech; at least {options.min_seconds:g} s are needed"
        )
    return kept, [piece for piece in pieces if piece.seconds < needed]
