"""What can be taken away of a finished voice, where it lies, and checkpoints that are baked for other programs.

    voice        the voice by itself, `.safetensors` for `say --voice` or `.pt` for the stock serving code
    vllm         a whole checkpoint for vLLM-Omni: the training has written it
    mlx-audio    a whole checkpoint for mlx-audio, in full or in 8, 6 or 4 bits: baked when it is wanted
    adapters     what the training has changed in the language model, for the base model

PERSON/voices/ID/exports/ holds what was baked here. Each appears under its name when it is whole.
"""

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_voxclone.adapters.files import CONFIG as ADAPTER_CONFIG
from mlx_voxclone.adapters.files import TENSORS
from mlx_voxclone.checkpoint.release import WEIGHTS
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import free_bytes
from mlx_voxclone.files.hub import VOICE_SUFFIXES
from mlx_voxclone.process.temporaries import PARTIAL
from mlx_voxclone.studio.child import carry_out
from mlx_voxclone.studio.home import Project, new_id, private
from mlx_voxclone.studio.keep.made import Made, bytes_of, made_of
from mlx_voxclone.studio.mistakes import Missing, Mistake, Size
from mlx_voxclone.studio.tasks import Task

VOICE, VLLM, MLX_AUDIO, ADAPTERS = "voice", "vllm", "mlx-audio", "adapters"
BITS = (None, 8, 6, 4)  # of a checkpoint for mlx-audio; None: as it was trained
BAKE = "bake"  # kind of the task
_BAKED = re.compile(r"mlx-audio(?:-([864])bit)?")
_SPARE = 200_000_000  # bytes that stay free
_AROUND = 1.5  # bits per weight: scales, and what is not quantised


@dataclass(frozen=True)
class Export:
    """Something that is there to be taken away.

    Attributes:
        kind: see above. bits: of a quantised checkpoint, else None.
        place: a file, or a folder. files: names in it with their bytes; of a file its own.
        own: whether it was baked here, so that it can be deleted by itself.
    """

    kind: str
    place: Path
    files: tuple[tuple[str, int], ...]
    bits: int | None = None
    own: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(size for _, size in self.files)

    @property
    def word(self) -> str:
        """Key of what it is called on the page."""
        return f"voice_{self.place.suffix[1:]}" if self.kind == VOICE else self.kind.replace("-", "_")

    @property
    def key(self) -> str:
        """Its name in addresses."""
        return f"voice{self.place.suffix}" if self.kind == VOICE else self.place.name if self.own else self.kind


def exports_of(project: Project) -> list[Export]:
    """Everything of a voice that can be taken away now, in the order above."""
    made = made_of(project)
    found = [] if made is None else _of_training(made)
    for name in _names(project.exports):
        place = project.exports / name
        if (match := _BAKED.fullmatch(name)) and (place / WEIGHTS).is_file():
            found.append(Export(MLX_AUDIO, place, _files(place), int(match[1]) if match[1] else None, own=True))
    order = (VOICE, VLLM, MLX_AUDIO, ADAPTERS)
    return sorted(found, key=lambda one: order.index(one.kind))


def export(project: Project, key: str) -> Export:
    """One of them. Raises Missing."""
    found = next((one for one in exports_of(project) if one.key == key), None)
    if found is None:
        raise Missing("there is no such export")
    return found


def name_of(bits: int | None) -> str:
    """Name of a checkpoint's folder in `exports/`."""
    return MLX_AUDIO if bits is None else f"{MLX_AUDIO}-{bits}bit"


def needed(made: Made, bits: int | None) -> int:
    """Bytes that a checkpoint for mlx-audio will have, roughly. Raises Mistake: there is nothing to make it of."""
    if made.baked is None:
        raise Mistake("bits", "keep.wrong.baked_gone")
    size = bytes_of(made.baked)[1]
    return size if bits is None else round(size * (bits + _AROUND) / 16)


def bake(project: Project, bits: int | None) -> Callable[[Task], dict[str, Any]]:
    """The work of baking what was delivered for mlx-audio, in a process of its own.

    Raises:
        Missing: other bits than `BITS`.
        Mistake: nothing has been trained, it is there already, or there is too little space.
    """
    if bits not in BITS:
        raise Missing("there is no such export")
    made = made_of(project)
    if made is None:
        raise Mistake("bits", "keep.wrong.not_trained")
    size, free = needed(made, bits), free_bytes(project.folder)
    if any(one.kind == MLX_AUDIO and one.bits == bits for one in exports_of(project)):
        raise Mistake("bits", "keep.wrong.there")
    if free < size + _SPARE:
        raise Mistake("bits", "keep.wrong.space", needed=Size(size + _SPARE), free=Size(free))
    output = project.exports / name_of(bits)
    arguments = ["bake", "--model", str(made.baked), "--for", MLX_AUDIO, "--output", str(output), "--quiet"]
    arguments += [] if bits is None else ["--bits", str(bits)]

    def work(task: Task) -> dict[str, Any]:
        private(project.exports)
        carry_out(task, arguments, folder=project.exports, watch=lambda: task.progress(_written(output), size))
        return {"export": output.name, "bytes": bytes_of(output)[1]}

    return work


def delete_export(project: Project, key: str) -> None:
    """Delete a checkpoint that was baked here. Raises Missing: it is none."""
    found = export(project, key)
    if not found.own:
        raise Missing("there is no such export")
    trash(found.place)


def trash(place: Path) -> None:
    """Take a folder out of sight under a name that nobody lists, then delete it: whatever ends this, no half of it is
    seen again. See `clear_trash`.

    Raises:
        Missing: it has gone. CheckpointError: it cannot be moved.
    """
    shutil.rmtree(out_of_sight(place), ignore_errors=True)


def out_of_sight(place: Path) -> Path:
    """Give a folder a name that nobody lists; returns where it is. Errors are those of `trash`."""
    gone = place.with_name(f".trash-{place.name}-{new_id()}")
    try:
        os.rename(place, gone)
    except FileNotFoundError:
        raise Missing("it has gone already") from None
    except OSError as e:
        raise CheckpointError(f"{place}: cannot be deleted ({(e.strerror or str(e)).lower()})") from None
    return gone


def clear_trash(folder: Path) -> None:
    """Delete what an end in the middle of `trash` has left in a folder."""
    for name in _names(folder):
        if name.startswith(".trash-"):
            shutil.rmtree(folder / name, ignore_errors=True)


def _of_training(made: Made) -> list[Export]:
    found = []
    for suffix in VOICE_SUFFIXES:
        if (path := made.voice_file(suffix)) is not None:
            found.append(Export(VOICE, path, ((path.name, path.stat().st_size),)))
    if made.baked is not None:
        found.append(Export(VLLM, made.baked, _files(made.baked)))
    if made.adapters is not None:
        names = (TENSORS, ADAPTER_CONFIG)
        sizes = tuple((name, (made.adapters / name).stat().st_size) for name in names)
        found.append(Export(ADAPTERS, made.adapters, sizes))
    return found


def _files(place: Path) -> tuple[tuple[str, int], ...]:
    """Plain files under a folder, none of them hidden, by their names with `/`."""
    found = []
    for root, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                facts = path.lstat()
                if stat.S_ISREG(facts.st_mode) and not name.startswith("."):
                    found.append((path.relative_to(place).as_posix(), facts.st_size))
    return tuple(found)


def _written(output: Path) -> int:
    """Bytes of weights that a bake has written so far."""
    for name in _names(output.parent):
        if name.startswith(f".{output.name}.") and name.endswith(PARTIAL):
            return bytes_of(output.parent / name)[1]
    return 0


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return []
