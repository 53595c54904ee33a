"""Decoding audio files at their own rate: what a header says, blocks of samples, and what is refused."""

import contextlib
import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from mlx_voxclone.audio.convert.outside import converted
from mlx_voxclone.audio.convert.remarks import held_back
from mlx_voxclone.audio.formats.containers import CHECKED, check_container
from mlx_voxclone.audio.formats.mpeg import RESERVOIR, Counted, WithXing, counted
from mlx_voxclone.audio.source import AudioBytes, AudioError, AudioSource, as_source, check_source, opened
from mlx_voxclone.files.foreign import stand_in, stand_in_bytes

BLOCK_FRAMES = 1 << 18  # frames decoded at a time: 11 s at 24 kHz, 1 MiB per channel
_UNKNOWN_LENGTH = 1 << 62  # libsndfile's frame count for a FLAC stream that does not state its length
LOUDEST = 100.0  # full scale is 1; float audio beyond this was scaled as integers, or is no audio
_MPEG = ("MP3", "MPEG")  # of which libmpg123 makes remarks
_NO_MPEG = (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"FORM", b"riff", b".snd", b"caff")  # how files begin
RATES = (1000, 768_000)  # Hz; beyond, a header is damaged or what it describes is no speech


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

    path: Path | AudioBytes
    sample_rate: int  # Hz
    channels: int
    frames: int  # samples per channel; where there are `more`, those that were counted
    format: str  # libsndfile's name: WAV, FLAC, OGG, MP3, ...
    subtype: str  # PCM_16, FLOAT, VORBIS, ...
    flaw: str | None = None  # see `containers.check_container`
    more: bool = False  # the header states no length, and there are more frames than were to be counted
    mpeg: Counted | None = None  # of an MP3 of varying bitrate without a Xing header: its frames

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


def audio_info(path: AudioSource, *, most: float = math.inf) -> AudioInfo:
    """The header of an audio file; no audio is decoded (but a FLAC without a length is).

    The frames of an MP3 of varying bitrate without a Xing header are counted (`audio.formats.mpeg`).

    Args:
        most: seconds, of which more need not be counted.

    Raises:
        AudioError: `missing`, `unreadable` (no audio format known here, a pipe or a device), `rate` (absurd),
            `truncated` (shorter or longer than its header says).
    """
    path = as_source(path)
    check_source(path)
    flag = check_container(path)
    with _open(path) as file:
        frames, more = file.frames, False
        if frames >= _UNKNOWN_LENGTH:
            enough = None if most == math.inf else round(max(0, most) * file.samplerate) + 1
            frames = sum(len(block) for block in _blocks(file, path, enough))
            more = frames == enough
        mpeg = _counted(path) if file.subtype == "MPEG_LAYER_III" else None
        if mpeg is not None:
            with _open(path, mpeg) as stated:
                frames = stated.frames
        return AudioInfo(path, file.samplerate, file.channels, frames, file.format, file.subtype, flag, more, mpeg)


class OpenAudio:
    """An audio file that stays open to read parts of it, one after the other; a context manager.

    An opened MP3 is searched from its beginning for the first part, and from there for each later one. What cannot be
    searched (GSM 6.10, G.721, G.723, NMS ADPCM) is decoded up to a part, from its beginning where that lies before.

    Args:
        info: of the file.
    Raises:
        AudioError: as `audio_info`.
    """

    def __init__(self, info: AudioInfo) -> None:
        self.info = info
        self._file = _open(info.path, info.mpeg)

    def __enter__(self) -> "OpenAudio":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Decode frames `start` to `stop` (the end by default), a bounded block at a time.

        Yields:
            float32 arrays [frames, channels]; integer formats are scaled so that full scale is 1.
        Raises:
            AudioError: `truncated` and `unreadable` where decoding stops early.
        """
        self._go_to(start)
        yield from _blocks(self._file, self.info.path, None if stop is None else stop - start)

    def _go_to(self, start: int) -> None:
        """Make frame `start` the next that is read."""
        file, mpeg = self._file, self._file.format in _MPEG
        at = file.tell()
        if start == at:
            return
        if not file.can_be_searched:
            if start < at:
                file.close()
                self._file, at = _open(self.info.path, self.info.mpeg), 0
            for _ in _blocks(self._file, self.info.path, start - at):
                pass
            return
        before = min(start, RESERVOIR) if mpeg else 0
        with _quiet(mpeg):
            file.seek(start - before)
            if before:
                file.read(before, dtype="float32")


def read_blocks(
    path: AudioSource | AudioInfo | OpenAudio, *, start: int = 0, stop: int | None = None
) -> Iterator[np.ndarray]:
    """`OpenAudio.blocks` of a file, of its `audio_info` (its container is not checked again), or of an open one.

    Raises:
        AudioError: as `audio_info`; `truncated` and `unreadable` also where decoding stops early.
    """
    if isinstance(path, OpenAudio):
        yield from path.blocks(start, stop)
        return
    with OpenAudio(path if isinstance(path, AudioInfo) else audio_info(path, most=0)) as audio:
        yield from audio.blocks(start, stop)


def check_channels(info: AudioInfo, max_channels: int = 2) -> None:
    """Raise AudioError `channels` for more than `max_channels`: averaging a microphone array is not a mixdown."""
    if info.channels > max_channels:
        wanted = "mono" if max_channels == 1 else "mono or stereo" if max_channels == 2 else f"at most {max_channels}"
        raise AudioError(
            "channels",
            f"{info.path}: {info.channels} channels; {wanted} is needed, so extract the voice's channel first",
        )


def check_block(block: np.ndarray, path: AudioSource, first_frame: int, sample_rate: int) -> None:
    """Refuse a block [frames, channels] of `path` whose numbers are no audio.

    Raises:
        AudioError: `non-finite` for NaN or infinity, `level` for samples beyond `LOUDEST` times full scale.
    """
    # No temporary array for a sound block; NaN fails every comparison.
    if block.size == 0 or (block.max() <= LOUDEST and block.min() >= -LOUDEST):
        return
    wrong = ~np.isfinite(block).all(axis=1)
    if wrong.any():
        at = (first_frame + int(wrong.argmax())) / sample_rate
        raise AudioError("non-finite", f"{path}: holds NaN or infinite samples, the first at {at:.3f} s")
    at = (first_frame + int((np.abs(block) > LOUDEST).any(axis=1).argmax())) / sample_rate
    raise AudioError(
        "level", f"{path}: {np.abs(block).max():.3g} times full scale at {at:.3f} s is no audio level; scale it to +-1"
    )


class _File(soundfile.SoundFile):
    """A SoundFile that closes what it reads from, and that reads on without a seek.

    soundfile seeks after each block. That fails at the end of a FLAC that does not state its length. In an MP3, frames
    after a seek lack the bits that earlier frames hold for them (the "bit reservoir").
    """

    source: contextlib.ExitStack | None = None
    _done = 0  # frames that were read so far

    @property
    def can_be_searched(self) -> bool:
        """Whether it can be read from another frame than the next; libsndfile decodes some formats in order alone."""
        return super().seekable()

    def tell(self) -> int:
        return super().tell() if self.can_be_searched else self._done

    def read(self, *arguments: Any, **options: Any) -> np.ndarray:
        block = super().read(*arguments, **options)
        self._done += len(block)
        return block

    def close(self) -> None:
        super().close()
        if self.source is not None:
            self.source.close()

    def seekable(self) -> bool:
        return self.frames < _UNKNOWN_LENGTH and self.format not in _MPEG and self.can_be_searched


def _counted(path: Path | AudioBytes) -> Counted | None:
    with opened(path) as (file, size):
        return counted(file, size)


def _open(path: Path | AudioBytes, mpeg: Counted | None = None) -> _File:
    in_memory = isinstance(path, AudioBytes)
    try:
        with _quiet(mpeg is not None or _may_be_mpeg(path)):
            if mpeg is not None:
                file = _with_length(path, mpeg)
            else:  # as text, libsndfile refuses names that are not UTF-8
                file = _File(io.BytesIO(path.content) if in_memory else os.fsencode(path))
    except (soundfile.LibsndfileError, TypeError) as e:  # TypeError: a .raw file, which states no format
        detail = (e.error_string if isinstance(e, soundfile.LibsndfileError) else "headerless").strip(" .")
        if what := stand_in_bytes(path.content, text=False) if in_memory else stand_in(path):
            raise AudioError("unreadable", f"{path}: {what}") from None
        if isinstance(path, Path) and (instead := converted(path)) is not None:
            return _open(instead)
        if "lost sync" in detail or "malformed" in detail:
            raise AudioError("truncated", f"{path}: damaged or cut off ({detail})") from None
        raise AudioError(
            "unreadable",
            f"{path}: not audio that can be read ({detail}); WAV, FLAC, OGG, MP3 and AIFF can, "
            "convert others first (ffmpeg, or afconvert on a Mac)",
        ) from None
    try:
        _check_header(path, file)
    except AudioError:
        file.close()
        raise
    return file


def _with_length(path: Path | AudioBytes, mpeg: Counted) -> _File:
    """An MP3 behind a header with its length. Raises soundfile.LibsndfileError and AudioError `unreadable`."""
    with contextlib.ExitStack() as stack:
        file = _File(WithXing(*stack.enter_context(opened(path)), mpeg))
        file.source = stack.pop_all()
    return file


def _may_be_mpeg(path: Path | AudioBytes) -> bool:
    with opened(path) as (file, _):
        return file.read(4) not in _NO_MPEG


def _quiet(mpeg: bool) -> contextlib.AbstractContextManager[None]:
    return held_back() if mpeg else contextlib.nullcontext()


def _check_header(path: Path | AudioBytes, file: soundfile.SoundFile) -> None:
    """Raise AudioError `unreadable` for a container whose completeness cannot be told, `rate` for an absurd one."""
    if file.format not in CHECKED:
        raise AudioError(
            "unreadable",
            f"{path}: its format, {file.format}, does not show whether a part is missing; convert it to WAV or FLAC",
        )
    if not RATES[0] <= file.samplerate <= RATES[1]:
        raise AudioError(
            "rate",
            f"{path}: sampled at {file.samplerate} Hz by its header, which no speech is ({RATES[0]} to {RATES[1]} Hz)",
        )


def _blocks(file: soundfile.SoundFile, path: Path | AudioBytes, frames: int | None) -> Iterator[np.ndarray]:
    expected = file.frames - file.tell() if file.frames < _UNKNOWN_LENGTH else None
    wanted = expected if frames is None else frames
    done = 0
    while wanted is None or done < wanted:
        size = BLOCK_FRAMES if wanted is None else min(BLOCK_FRAMES, wanted - done)
        try:
            with _quiet(file.format in _MPEG):
                block = file.read(size, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as e:
            raise AudioError(
                "truncated",
                f"{path}: damaged or cut off after {done / file.samplerate:.2f} s ({e.error_string.strip(' .')})",
            ) from None
        if len(block) == 0:
            break
        done += len(block)
        yield block
    # An MP3 may hold a little less than it states.
    missing = 0 if expected is None else min(wanted, expected) - done
    if missing > (0.01 * expected + 2304 if file.subtype.startswith("MPEG") else 0):
        raise AudioError(
            "truncated", f"{path}: cut off, {missing / file.samplerate:.2f} s are missing of what its header says"
        )
