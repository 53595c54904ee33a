"""Models in memory: loaded once, on first need; the last one or two that were used are kept.

A set of adapters is a second model over the same weights: changing between sets reads nothing but adapters, and what
one caller holds is never changed by another.
"""

import copy
import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from mlx_voxclone.adapters.files import TENSORS
from mlx_voxclone.adapters.lora import apply_adapters
from mlx_voxclone.adapters.mix import AdapterSource, mix_adapters
from mlx_voxclone.adapters.names import TARGETS, block_of
from mlx_voxclone.api.speech import Adapters, TextToSpeech, adapter_sources
from mlx_voxclone.checkpoint.release import PARAMS, TEKKEN, WEIGHTS, Release
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.hub import REPOSITORY, HubAddress, is_address
from mlx_voxclone.model.generation import join_products
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.process.machine import this_machine
from mlx_voxclone.process.progress import Progress
from mlx_voxclone.speech.speaker import Speaker

MOST = 2  # models at once, and sets of adapters over each
LOADING = "loading"  # what progress is reported under
_SHARE = 0.7  # of the memory that may be taken, for weights

_Stamp = tuple[str, int, int, int]  # a file as it was: path, inode, size, time


@dataclass
class _Base:
    """A model in memory.

    Attributes:
        adapted: by their adapters, the last used one last.
    """

    speaker: Speaker
    nbytes: int
    adapted: dict[tuple[tuple[_Stamp, float], ...], Speaker] = field(default_factory=dict)


class Models:
    """The models of a studio. To be used by the thread that computes, and no other.

    Args:
        most: models at once; with less memory than two take, one.
        memory: bytes that weights may take together; None: by this machine.
    """

    def __init__(self, most: int = MOST, memory: int | None = None) -> None:
        self._most, self._memory = most, memory
        self._bases: dict[tuple[_Stamp, ...], _Base] = {}  # the last used one last

    def speaker(
        self,
        path: str | Path,
        *,
        adapters: Adapters = (),
        encoder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> TextToSpeech:
        """A model, ready to speak.

        Args:
            path: directory of a checkpoint, or a model of the hub that was fetched before.
            adapters: a directory of LoRA, or several, which are added up.
            encoder: weights of an encoder for a checkpoint that has none.
            progress: called with the bytes read, those in all, and "loading"; what it raises ends the loading, and the
                memory is given back.

        Raises:
            CheckpointError, ConfigError: see `mlx_voxclone.load`; a folder that is gone, though its model is in memory;
                a model of the hub that is not on this machine.
        """
        return TextToSpeech(self.core(path, adapters=adapters, encoder=encoder, progress=progress))

    def core(
        self,
        path: str | Path,
        *,
        adapters: Adapters = (),
        encoder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> Speaker:
        """What `speaker` stands on, for those who narrate chunk by chunk; the same arguments and errors."""
        release = Release(_on_this_machine(path))
        files = [_stamp(release.path / WEIGHTS), *([] if encoder is None else [_stamp(Path(encoder))])]
        key = tuple(files)
        base = self._bases.pop(key, None)
        if base is None:
            base = self._load(release, None if encoder is None else Path(encoder), progress)
        self._bases[key] = base
        # The folder may have got or lost voices since.
        base.speaker.release = release
        sources = adapter_sources(adapters)
        return base.speaker if not sources else self._adapted(base, release, sources, progress)

    @property
    def loaded(self) -> list[Path]:
        """Directories of the models in memory, the last used one last."""
        return [base.speaker.release.path for base in self._bases.values()]

    def forget(self, folder: str | Path | None = None) -> None:
        """Give back the memory of what lies, or lay, in a folder, models and adapters; None: of everything."""
        place = None if folder is None else Path(folder).resolve()

        def inside(stamp: _Stamp) -> bool:
            return place is None or Path(stamp[0]).is_relative_to(place)

        self._bases = {key: base for key, base in self._bases.items() if not any(map(inside, key))}
        for base in self._bases.values():
            base.adapted = {key: one for key, one in base.adapted.items() if not any(inside(part[0]) for part in key)}
        _give_back()

    def _load(self, release: Release, encoder: Path | None, progress: Progress | None) -> _Base:
        dtype = mx.float32 if mx.default_device() == mx.cpu else mx.bfloat16
        self._make_room((release.path / WEIGHTS).stat().st_size * dtype.size // mx.bfloat16.size)
        speaker = Speaker.load(release.path, encoder=encoder, dtype=dtype)
        try:
            nbytes = _read(_arrays(speaker.model), progress)
            join_products(speaker.model)  # before adapters part what they change
        except BaseException:  # cancelled, say
            del speaker
            _give_back()
            raise
        return _Base(speaker, nbytes)

    def _make_room(self, nbytes: int) -> None:
        """Drop those that were not used for the longest time."""
        memory = self._memory if self._memory is not None else round(_SHARE * this_machine().usable)
        while self._bases and (
            len(self._bases) >= self._most or sum(base.nbytes for base in self._bases.values()) + nbytes > memory
        ):
            del self._bases[next(iter(self._bases))]
            _give_back()

    def _adapted(
        self, base: _Base, release: Release, sources: Sequence[AdapterSource], progress: Progress | None
    ) -> Speaker:
        key = tuple((_stamp(source.directory / TENSORS), source.weight) for source in sources)
        adapted = base.adapted.pop(key, None)
        if adapted is None:
            changes = mix_adapters(sources, release.adapters_for, release.path).changes
            while len(base.adapted) >= MOST:
                del base.adapted[next(iter(base.adapted))]
                _give_back()
            model = over_same_weights(base.speaker.model)
            apply_adapters(model, changes)
            _read(_arrays(model), progress)
            adapted = Speaker(release, model, base.speaker.tokenizer)
        base.adapted[key] = adapted
        adapted.release = release
        return adapted


def over_same_weights(model: Voxtral) -> Voxtral:
    """A model of the same arrays whose linears can be wrapped without a change to the first one's."""
    other = copy.copy(model)
    other.layers = [copy.copy(layer) for layer in model.layers]
    for layer in other.layers:
        for block in {block_of(target) for target in TARGETS}:
            layer[block] = copy.copy(layer[block])
    return other


def _arrays(model: nn.Module) -> list[mx.array]:
    return [array for module in model.modules() for array in module.values() if isinstance(array, mx.array)]


def _read(arrays: list[mx.array], progress: Progress | None) -> int:
    """Evaluate all weights now; returns their bytes. Empties the list, so that an error keeps none of them alive."""
    total, done = sum(array.nbytes for array in arrays), 0
    try:
        for k in range(len(arrays)):
            mx.eval(arrays[k])
            done += arrays[k].nbytes
            if progress is not None:
                progress(done, total, LOADING)
    finally:
        arrays.clear()
    return total


def _on_this_machine(model: str | Path) -> str | Path:
    """A directory unchanged; for a model of the hub, the directory in the cache. Nothing is downloaded: that could not
    be cancelled here, and would block the computing thread. Raises CheckpointError."""
    name = str(model)
    if Path(name).is_dir() or not (is_address(name) or REPOSITORY.fullmatch(name)):
        return model
    from huggingface_hub import try_to_load_from_cache

    address = HubAddress.parse(name) if is_address(name) else HubAddress(name)
    wanted = (PARAMS, WEIGHTS, TEKKEN)
    found = [try_to_load_from_cache(address.repository, file, revision=address.revision) for file in wanted]
    if not all(isinstance(one, str) for one in found):
        raise CheckpointError(f"{model}: is not on this machine any more; download it again in step 1")
    return Path(str(found[0])).parent


def _stamp(path: Path) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read ({(e.strerror or str(e)).lower()})") from None
    return str(path.resolve()), found.st_ino, found.st_size, found.st_mtime_ns


def _give_back() -> None:
    gc.collect()
    mx.clear_cache()
