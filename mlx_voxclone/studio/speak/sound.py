"""All sentences of a speech in one sound: WAV to be played and saved, MP3, subtitles."""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.audio.wav_stream import wav_file
from mlx_voxclone.errors import DataError
from mlx_voxclone.report.look import peaks
from mlx_voxclone.serve.web.formats import Encoder
from mlx_voxclone.speech.subtitles import chunk_cues, srt
from mlx_voxclone.studio.home import read_json, write_json
from mlx_voxclone.studio.speak.history import Sentence, Speech

_WAV, _STATE = "speech.wav", "speech.json"
_BLOCK = 10 * SAMPLE_RATE  # samples
_COLUMN = 1_200  # samples that a column of the waveform stands for at least
_join = threading.Lock()


@dataclass(frozen=True)
class Joined:
    """All that was spoken so far, one sentence behind the other.

    Attributes:
        path: of a WAV. seconds: its length. peaks: of its waveform, for the player.
    """

    path: Path
    seconds: float
    peaks: list[float]


def joined(speech: Speech, sentences: Sequence[Sentence]) -> Joined | None:
    """The takes that are heard, joined; made anew where another one is heard since. None: nothing was spoken yet.

    Raises:
        OSError, DataError, CheckpointError: the disk is full, or a take is gone.
    """
    files = [one.take.file for one in sentences if one.take is not None]
    if not files:
        return None
    stamp = hashlib.sha256("\n".join(files).encode()).hexdigest()
    wav, state = speech.folder / _WAV, speech.folder / _STATE
    with _join:
        known = read_json(state)
        if known.get("stamp") != stamp or not wav.is_file():
            try:
                columns, count = _write(wav, [speech.takes / name for name in files])
            except soundfile.LibsndfileError:
                raise DataError("the sound of a sentence is gone or damaged; say that sentence again") from None
            known = {"stamp": stamp, "seconds": count / SAMPLE_RATE, "peaks": peaks(columns)}
            write_json(state, known)
        return Joined(wav, known["seconds"], known["peaks"])


def mp3(path: Path) -> Iterator[bytes]:
    """A WAV as MP3, piece by piece."""
    encoder = Encoder("mp3", whole=False)
    with soundfile.SoundFile(path) as file:
        for block in file.blocks(_BLOCK, dtype="float32"):
            yield encoder.add(block)
    yield encoder.end()


def subtitles(sentences: Sequence[Sentence]) -> str:
    """SubRip of `joined`: a cue per sentence."""
    spoken = [one for one in sentences if one.take is not None]
    ends = np.cumsum([one.take.seconds for one in spoken if one.take is not None])
    return srt(chunk_cues([one.text for one in spoken], [float(end) for end in ends], [one.pause for one in spoken]))


def _write(wav: Path, files: Sequence[Path]) -> tuple[np.ndarray, int]:
    """Join files; returns the largest level of each stretch of time, and the number of samples."""
    columns, count = [np.zeros(0, np.float32)], 0
    with wav_file(wav) as write:
        for path in files:
            with soundfile.SoundFile(path) as file:
                for block in file.blocks(_BLOCK, dtype="float32"):
                    write(block)
                    count += len(block)
                    starts = np.arange(0, len(block), _COLUMN)
                    columns.append(np.maximum.reduceat(np.abs(block), starts))
    return np.concatenate(columns), count
