"""What differs between two checkpoint directories: tensors, voices and other files."""

import filecmp
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mlx_voxclone.bake.record import WRITTEN_ANEW, files_to_copy
from mlx_voxclone.bake.voice_removal import voice_files
from mlx_voxclone.checkpoint.dtypes import FLOATS, decode
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import WEIGHTS, Release, part_of
from mlx_voxclone.checkpoint.voices import VOICE_DIRECTORY, read_voice

_BLOCK = 1 << 22  # elements compared at a time


@dataclass(frozen=True)
class ChangedTensor:
    """A tensor that both have and that differs.

    Args:
        name: of the tensor.
        part: `lm`, `head`, `decoder` or `encoder`.
        before, after: type and shape, such as `BF16 [64, 64]`.
        relative_change: Frobenius norm of the difference over that of the base's; None where shapes differ.
        elements: share of the elements that differ; None where shapes differ.
    """

    name: str
    part: str
    before: str
    after: str
    relative_change: float | None = None
    elements: float | None = None


@dataclass
class Difference:
    """From a base to another checkpoint.

    Args:
        same: tensors that are equal to the bit.
        changed: tensors that are not.
        added, removed: names of tensors of only one of them.
        voices_added, voices_removed, voices_changed: names; changed are those whose rows differ.
        files_added, files_removed, files_changed: other files, relative to the directory.
    """

    same: int = 0
    changed: list[ChangedTensor] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    voices_added: list[str] = field(default_factory=list)
    voices_removed: list[str] = field(default_factory=list)
    voices_changed: list[str] = field(default_factory=list)
    files_added: list[str] = field(default_factory=list)
    files_removed: list[str] = field(default_factory=list)
    files_changed: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not any(value for key, value in vars(self).items() if key != "same")


def compare(base: Release, other: Release, progress: Callable[[int, int], None] | None = None) -> Difference:
    """Compare two checkpoint directories; both are only read, a block at a time.

    Args:
        base, other: opened directories. They need not be complete.
        progress: called with the bytes compared since the last call, and those in all.

    Raises:
        CheckpointError: weights or a voice that cannot be read.
    """
    found = Difference()
    _tensors(base.tensors, other.tensors, found, progress)
    _voices(base, other, found)
    _files(base.path, other.path, found)
    return found


def _tensors(old: TensorFile, new: TensorFile, found: Difference, progress: Callable[[int, int], None] | None) -> None:
    common = [name for name in old.names() if name in new]
    found.added = [name for name in new.names() if name not in old]
    found.removed = [name for name in old.names() if name not in new]
    total = sum(old.info(name).nbytes for name in common)
    for name in common:
        if (changed := _changed(old, new, name)) is None:
            found.same += 1
        else:
            found.changed.append(changed)
        if progress is not None:
            progress(old.info(name).nbytes, total)


def _changed(old: TensorFile, new: TensorFile, name: str) -> ChangedTensor | None:
    infos = old.info(name), new.info(name)
    texts = [f"{info.dtype} {list(info.shape)}" for info in infos]
    x, y = (file.stored(name).reshape(-1) for file in (old, new))
    same_kind = infos[0].shape == infos[1].shape and all(info.dtype in FLOATS for info in infos)
    if not same_kind:
        same = texts[0] == texts[1] and np.array_equal(x, y)
        return None if same else ChangedTensor(name, part_of(name), *texts)
    difference = before = count = 0.0
    differs = texts[0] != texts[1]
    for start in range(0, x.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        if texts[0] == texts[1] and np.array_equal(_bits(x[part]), _bits(y[part])):
            before += _square(decode(x[part], infos[0].dtype))
            continue
        a, b = decode(x[part], infos[0].dtype), decode(y[part], infos[1].dtype)
        differs = True
        difference, before = difference + _square(b - a), before + _square(a)
        count += np.count_nonzero(a != b)
    if not differs:
        return None
    relative = (difference / before) ** 0.5 if before else float(difference > 0)
    return ChangedTensor(name, part_of(name), *texts, relative, count / max(1, x.size))


def _bits(values: np.ndarray) -> np.ndarray:
    return values.view(np.uint8)  # NaN equals itself, and 0 differs from -0


def _square(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _voices(base: Release, other: Release, found: Difference) -> None:
    old, new = set(base.config.voices), set(other.config.voices)
    found.voices_added, found.voices_removed = sorted(new - old), sorted(old - new)
    for name in sorted(old & new):
        files = [voice_files(release.path).get(name) for release in (base, other)]
        if not all(files):
            if any(files):
                found.voices_changed.append(name)
            continue
        a, b = (read_voice(paths[0]) for paths in files)
        if a.shape != b.shape or not (a == b).all().item():
            found.voices_changed.append(name)


def _files(base: Path, other: Path, found: Difference) -> None:
    listed = [
        {str(path.relative_to(place)) for path in files_to_copy(place, top_level_tensors=True)}
        | {name for name in WRITTEN_ANEW if (place / name).is_file()}
        for place in (base, other)
    ]
    old, new = ({name for name in names if not name.startswith(f"{VOICE_DIRECTORY}/")} - {WEIGHTS} for names in listed)
    found.files_added, found.files_removed = sorted(new - old), sorted(old - new)
    found.files_changed = [
        name for name in sorted(old & new) if not filecmp.cmp(base / name, other / name, shallow=False)
    ]
