"""How often each code was used: a small file beside the listening samples of an encoder, shown by the report.

`code_usage.safetensors` holds counts: `semantic` int64 `[K]`, `levels` int64 `[A, L]` of the held-out clips, and
optionally `prior_semantic` and `prior_levels` of the same shapes, of codes that are known to be right (generated pairs,
presets), to compare with.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.model.config import CodecConfig
from mlx_voxclone.pairs.statistics import CodeStatistics

CODE_USAGE_FILE = "code_usage.safetensors"


@dataclass(frozen=True, eq=False)
class CodeUsage:
    """What an encoder uses, and what that should resemble (None: nothing is known). Both have frames."""

    encoder: CodeStatistics
    prior: CodeStatistics | None = None


def write_code_usage(
    directory: str | Path, codes: Iterable[np.ndarray], config: CodecConfig, prior: CodeStatistics | None = None
) -> Path:
    """Write `code_usage.safetensors` into a directory, replacing an older one.

    Args:
        directory: made if need be.
        codes: 0-based codes of each clip, integers `[37, T]`; one frame at least.
        config: the sizes of the codebooks.
        prior: to compare with; one of no frames is left out.

    Returns:
        The file.

    Raises:
        ValueError: codes or a prior that do not fit the codebooks, or no frames.
        CheckpointError: the file cannot be written.
    """
    usage = CodeStatistics.from_codes(codes, config)
    if not usage.frames:
        raise ValueError("there are no codes to count")
    tensors = {"semantic": usage.semantic, "levels": usage.levels}
    if prior is not None and prior.frames:
        if (prior.semantic.shape, prior.levels.shape) != (usage.semantic.shape, usage.levels.shape):
            raise ValueError("the codebooks of the prior have other sizes than those of the encoder")
        tensors |= {"prior_semantic": prior.semantic, "prior_levels": prior.levels}
    path = Path(directory) / CODE_USAGE_FILE
    save_tensors(path, tensors, overwrite=True)
    return path


def read_code_usage(path: str | Path) -> CodeUsage:
    """Read what `write_code_usage` wrote, whatever the sizes of the codebooks.

    Raises:
        CheckpointError: one line: missing, damaged, or not such a file.
    """
    file = TensorFile(path)
    encoder = _read_counts(file, "")
    if "prior_semantic" not in file and "prior_levels" not in file:
        return CodeUsage(encoder)
    prior = _read_counts(file, "prior_")
    if (prior.semantic.shape, prior.levels.shape) != (encoder.semantic.shape, encoder.levels.shape):
        raise CheckpointError(f"{path}: the codebooks of the prior have other sizes than those of the encoder")
    return CodeUsage(encoder, prior)


def usage_of_files(paths: Iterable[Path], config: CodecConfig) -> dict[str, float]:
    """Figures (`CodeStatistics.metrics`) of the `codes` in files that `voxclone encode` wrote, taken together.

    Raises:
        CheckpointError: no codes in a file, or codes of another codec.
    """
    found = []
    for path in paths:
        file = TensorFile(path)
        if "codes" not in file:
            raise CheckpointError(f"{path}: holds no codes; `voxclone encode` writes them")
        found.append(np.array(file.stored("codes")))
        try:
            CodeStatistics.from_codes(found[-1:], config)
        except ValueError as e:
            raise CheckpointError(f"{path}: {e}") from None
    return CodeStatistics.from_codes(found, config).metrics()


def _read_counts(file: TensorFile, prefix: str) -> CodeStatistics:
    found = CodeStatistics(_read_table(file, prefix + "semantic", 1), _read_table(file, prefix + "levels", 2))
    if not found.frames or (found.levels.sum(axis=1) != found.frames).any():
        raise CheckpointError(f"{file.path}: {prefix}semantic and {prefix}levels do not count the same frames")
    return found


def _read_table(file: TensorFile, name: str, axes: int) -> np.ndarray:
    """Counts, in memory of their own."""
    info = file.info(name)
    if info.dtype != "I64" or len(info.shape) != axes or 0 in info.shape:
        raise CheckpointError(f"{file.path}: {name} is {info.dtype} {list(info.shape)}, not counts of codes")
    counts = np.array(file.stored(name))
    if counts.min() < 0:
        raise CheckpointError(f"{file.path}: {name} holds a count below 0")
    return counts
