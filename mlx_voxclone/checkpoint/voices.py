"""Voices of a checkpoint: the rows that stand for a speaker in the prompt, `[N, dim]`, the END row last.

A release keeps them as `voice_embedding/NAME.pt` (torch's zip of one BF16 tensor, see `torch_file.py`); mlx-audio reads
`NAME.safetensors` with a tensor called `embedding`. A server finds a voice only if it is registered in `params.json`
and in `tekken.json`. All four places are written here.
"""

import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.checkpoint.dtypes import FLOATS
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.torch_file import read_pt, write_pt
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError

VOICE_DIRECTORY = "voice_embedding"
EMBEDDING = "embedding"
MOST = 1e4  # of a row: those of a release stay below ten
_NAME = re.compile(r"[a-z0-9_-]{1,64}")


def is_voice_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def check_voice_name(name: str) -> str:
    """Return the name if it can be a voice's: it becomes a file name, and servers ask for it in lower case.

    Raises:
        CheckpointError: empty, too long, or a character other than a-z, 0-9, `_` and `-`.
    """
    if not is_voice_name(name):
        hint = f"; {name.lower()} would do" if is_voice_name(name.lower()) else ""
        raise CheckpointError(f"voice name {name!r}: only a-z, 0-9, _ and -, at most 64 of them{hint}")
    return name


def read_voice(path: str | Path) -> mx.array:
    """Read a voice from a `.pt` file or from the tensor `embedding` of a safetensors file.

    Returns:
        `[N, dim]` in the file's own type.

    Raises:
        CheckpointError: unreadable, or not a matrix of numbers up to `MOST` with at least two rows (a frame and END).
    """
    path = Path(path)
    if path.suffix == ".pt":
        array = read_pt(path)
    else:
        file = TensorFile(path)
        if file.info(EMBEDDING).dtype not in FLOATS:
            raise CheckpointError(f"{path}: {EMBEDDING} holds {file.info(EMBEDDING).dtype}, not floats")
        array = file.array(EMBEDDING)
    if array.ndim != 2 or array.shape[0] < 2 or array.shape[1] < 1:
        raise CheckpointError(f"{path}: shape {list(array.shape)}; a voice is [rows, dim] with an END row last")
    if not mx.all(mx.isfinite(array)).item():
        raise CheckpointError(f"{path}: holds infinite or undefined numbers; make this voice again")
    if (largest := mx.abs(array.astype(mx.float32)).max().item()) > MOST:
        raise CheckpointError(f"{path}: holds values up to {largest:.3g}, too large for a voice; make it again")
    return array


def write_voice(directory: str | Path, name: str, embedding: "mx.array | np.ndarray") -> None:
    """Write `voice_embedding/NAME.pt` and `NAME.safetensors` of a checkpoint directory, in BF16.

    Args:
        directory: the checkpoint directory.
        name: see `check_voice_name`.
        embedding: `[N, dim]`, the END row last.

    Raises:
        CheckpointError: a bad name, or one of the files exists.
    """
    place = Path(directory) / VOICE_DIRECTORY
    rows = mx.array(embedding).astype(mx.bfloat16)
    write_pt(place / f"{check_voice_name(name)}.pt", rows)
    save_tensors(place / f"{name}.safetensors", {EMBEDDING: rows})


def register_voice(params: dict[str, Any], tekken: dict[str, Any], name: str, rows: int) -> None:
    """Enter a voice where servers look for it, changing both dictionaries in place.

    Args:
        params: content of `params.json`; gets the next free number under `multimodal.audio_tokenizer_args.voice`.
        tekken: content of `tekken.json`; gets the number of rows under `audio.voice_num_audio_tokens`.
        name: see `check_voice_name`.
        rows: N of the voice's `[N, dim]`, the END row included.

    Raises:
        CheckpointError: a bad name, one that is taken, or a `tekken.json` without audio settings.
    """
    check_voice_name(name)
    if not isinstance(tekken.get("audio"), dict):
        raise CheckpointError("tekken.json: no audio settings; this is not the tokenizer of a speech model")
    numbers = params["multimodal"]["audio_tokenizer_args"].setdefault("voice", {})
    counts = tekken["audio"].get("voice_num_audio_tokens") or {}
    if name in numbers or name in counts:
        raise CheckpointError(f"voice {name}: this checkpoint has one of that name; choose another")
    numbers[name] = max(numbers.values(), default=-1) + 1
    tekken["audio"]["voice_num_audio_tokens"] = {**counts, name: rows}
