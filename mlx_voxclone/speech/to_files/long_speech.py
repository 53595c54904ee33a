"""A long text into a WAV or down a pipe: what `voxclone say` does with more than a few sentences."""

import errno
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np

from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.files.foreign import refuse_stand_in
from mlx_voxclone.files.plain import open_plain
from mlx_voxclone.speech.blocks import blocks
from mlx_voxclone.speech.chunks import LONGEST, Chunk, size
from mlx_voxclone.speech.narration import Listen, Narration, Spoken
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.speech.to_files.growing_wav import growing_wav, partial_names
from mlx_voxclone.speech.to_files.tally import Tally

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LARGEST_TEXT = 64 << 20  # bytes; a long novel has 3 MB


@dataclass
class LongSpeech(Tally):
    """What was said of a long text; doubts are of chunks by their texts.

    Attributes:
        seconds: of audio, pauses included.
        earlier: seconds of it that an earlier command had written.
        chunks: how many there were.
        again: how many were spoken more than once.
        ends: seconds at which each one ends, the pause behind it included.
    """

    seconds: float = 0.0
    earlier: float = 0.0
    chunks: int = 0
    again: int = 0
    ends: list[float] = field(default_factory=list)

    def add(self, chunk: Chunk, spoken: Spoken, rate: int) -> None:
        self.seconds += len(spoken.samples) / rate
        self.ends.append(self.seconds)
        self.chunks += 1
        self.again += spoken.tries > 1
        self.count(chunk.text, spoken)


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file. Raises DataError for one that is missing, too large, or another kind of file."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file" if not path.exists() else f"{path}: is not a file")
    refuse_stand_in(path, DataError)
    with open_plain(path) as file:
        return text_in(file, str(path))


def text_in(file: BinaryIO, name: str) -> str:
    """UTF-8, with or without a byte order mark. Raises DataError, naming the line, for anything else."""
    content = file.read(LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        raise DataError(f"{name}: is larger than {LARGEST_TEXT >> 20} MB; split it")
    if b"\0" in content[:4096]:
        raise DataError(f"{name}: is no text file in UTF-8; save it as plain text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise DataError(f"{name}:{line}: is not UTF-8; save it as plain text in UTF-8") from None


def is_long(text: str) -> bool:
    """Whether a text is spoken in chunks: because of its length, or because it has pauses between its lines."""
    return size(" ".join(text.split())) > LONGEST or len(blocks(text)) > 1


def identity(speaker: Speaker, chunks: Sequence[Chunk], rows: mx.array, **settings: Any) -> dict[str, str]:
    """What decides what is said; a partial file of something else is not continued."""
    text = json.dumps([(chunk.text, chunk.pause) for chunk in chunks]).encode()
    voice = np.array(rows.astype(mx.float32)).tobytes()
    digests = {"text": text, "voice": voice, "settings": json.dumps(settings, sort_keys=True, default=str).encode()}
    return {name: hashlib.sha256(content).hexdigest() for name, content in digests.items()} | {
        "model": speaker.release.fingerprint()
    }


def write_long(
    path: str | Path,
    speaker: Speaker,
    chunks: Sequence[Chunk],
    rows: mx.array,
    *,
    resume: bool = False,
    float32: bool = False,
    on_chunk: Callable[[int], None] = lambda done: None,
    asked: Mapping[str, Any] | None = None,
    listen: Listen | None = None,
    **options: Any,
) -> LongSpeech:
    """Speak chunks into a WAV; see `growing_wav` for what an interruption leaves, and `Narration` for the options.

    Args:
        on_chunk: called with the number of chunks that are written, first with those of an earlier command.
        asked: what else decides what is said, such as adapters and who listens.

    Raises:
        DataError: see `growing_wav`; a disk that is full in the middle, with the words that say how to go on.
        KeyboardInterrupt: with the words that say how to go on.
    """
    speech, rate = LongSpeech(), speaker.sampling_rate
    audio, _ = partial_names(path)
    done = 0
    try:
        identified = identity(speaker, chunks, rows, float32=float32, **(asked or {}), **options)
        with growing_wav(path, identified, resume=resume, float32=float32) as wav:
            on_chunk(done := wav.chunks)
            speech.chunks, speech.seconds, speech.earlier = done, wav.seconds, wav.seconds
            speech.ends = wav.ends
            speech.wrong, speech.words = (wav.memory or {}).get("heard", (0, 0))
            narration = Narration(speaker, chunks, rows, first=done, memory=wav.memory, listen=listen, **options)
            for spoken in narration:
                speech.add(chunks[spoken.number], spoken, rate)
                wav.append(spoken.samples, {**narration.memory, "heard": (speech.wrong, speech.words)})
                on_chunk(done := wav.chunks)
    except (OSError, CheckpointError) as e:
        cause = e.__cause__ if isinstance(e, CheckpointError) else e
        if getattr(cause, "errno", None) not in FULL or not done:
            raise
        raise DataError(f"{audio}: no space left on its disk; {_left(done, chunks, audio)}") from e
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_left(done, chunks, audio) if done else "") from None
    return speech


def _left(done: int, chunks: Sequence[Chunk], audio: Path) -> str:
    return f"{done} of {len(chunks)} chunks are in {audio}; go on with --resume"


def stream_long(
    write: Callable[[np.ndarray], None],
    speaker: Speaker,
    chunks: Sequence[Chunk],
    rows: mx.array,
    *,
    on_chunk: Callable[[int], None] = lambda done: None,
    **options: Any,
) -> LongSpeech:
    """Speak chunks and hand their samples to `write` in order, while later ones are still spoken."""
    speech = LongSpeech()
    for spoken in Narration(speaker, chunks, rows, **options):
        write(spoken.samples)
        speech.add(chunks[spoken.number], spoken, speaker.sampling_rate)
        on_chunk(speech.chunks)
    return speech
