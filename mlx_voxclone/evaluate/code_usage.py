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
from mlx_voxclone.config import CodecConfig
from mlx_voxclone.errors import CheckpointError

CODE_USAGE_FILE = "code_usage.safetensors"


@dataclass(frozen=True)
class CodeCounts:
    """Counts of codes: of the semantic codebook `[K]`, and of the levels of every acoustic codebook `[A, L]`."""

    semantic: np.ndarray
    levels: np.ndarray


@dataclass(frozen=True)
class CodeUsage:
    """What an encoder uses, and what it should resemble (None: nothing is known)."""

    encoder: CodeCounts
    prior: CodeCounts | None = None


def count_codes(codes: Iterable[np.ndarray], config: CodecConfig) -> CodeCounts:
    """Count 0-based codes, integers `[37, T]` each.

    Raises:
        ValueError: codes of another shape or type, or outside their codebook.
    """
    semantic = np.zeros(config.semantic_codebook_size, dtype=np.int64)
    levels = np.zeros((config.acoustic_dim, config.acoustic_codebook_size), dtype=np.int64)
    for item in codes:
        item = np.asarray(item)
        if item.ndim != 2 or item.shape[0] != config.n_codebooks or item.dtype.kind not in "iu":
            raise ValueError(f"codes must be integers [{config.n_codebooks}, T], got {item.dtype} {item.shape}")
        for counts, row in zip([semantic, *levels], item):
            if row.size and not 0 <= row.min() <= row.max() < len(counts):
                raise ValueError(f"a code outside 0..{len(counts) - 1}: {row.min()} to {row.max()} occur")
            counts += np.bincount(row, minlength=len(counts))
    return CodeCounts(semantic, levels)


def write_code_usage(
    directory: str | Path, codes: Iterable[np.ndarray], config: CodecConfig, prior: CodeCounts | None = None
) -> Path:
    """Write `code_usage.safetensors` into a directory, replacing an older one.

    Args:
        directory: made if need be.
        codes: 0-based codes of each clip, integers `[37, T]`.
        config: the sizes of the codebooks.
        prior: counts to compare with (integers).

    Returns:
        The file.

    Raises:
        ValueError: codes or counts that do not fit the codebooks.
        CheckpointError: the file cannot be written.
    """
    counts = count_codes(codes, config)
    tensors = {"semantic": counts.semantic, "levels": counts.levels}
    if prior is not None:
        for name in ("semantic", "levels"):
            given = np.asarray(getattr(prior, name))
            if given.shape != tensors[name].shape or given.dtype.kind not in "iu":
                raise ValueError(f"prior {name}: {given.dtype} {given.shape}, expected integers {tensors[name].shape}")
            tensors[f"prior_{name}"] = given.astype(np.int64)
    path = Path(directory) / CODE_USAGE_FILE
    save_tensors(path, tensors, overwrite=True)
    return path


def read_code_usage(path: str | Path) -> CodeUsage:
    """Read what `write_code_usage` wrote.

    Raises:
        CheckpointError: one line: missing, damaged, or not such a file.
    """
    file = TensorFile(path)
    usage = _read_counts(file, "")
    if "prior_semantic" not in file and "prior_levels" not in file:
        return CodeUsage(usage)
    prior = _read_counts(file, "prior_")
    if (prior.semantic.shape, prior.levels.shape) != (usage.semantic.shape, usage.levels.shape):
        raise CheckpointError(f"{path}: the codebooks of the prior have other sizes than those of the encoder")
    return CodeUsage(usage, prior)


def _read_counts(file: TensorFile, prefix: str) -> CodeCounts:
    return CodeCounts(_read_table(file, prefix + "semantic", 1), _read_table(file, prefix + "levels", 2))


def _read_table(file: TensorFile, name: str, axes: int) -> np.ndarray:
    """Counts, in memory of their own; every codebook has some."""
    info = file.info(name)
    if info.dtype != "I64" or len(info.shape) != axes or 0 in info.shape:
        raise CheckpointError(f"{file.path}: {name} is {info.dtype} {list(info.shape)}, not counts of codes")
    counts = np.array(file.stored(name))
    if counts.min() < 0:
        raise CheckpointError(f"{file.path}: {name} holds a count below 0")
    if not counts.any(axis=-1).all():
        raise CheckpointError(f"{file.path}: {name} has a codebook of which no code was counted")
    return counts
