"""Baking: a new checkpoint directory from a base, with an encoder injected, adapters folded in and voices added.

One streamed pass over the base's weights. The base is only read; the result appears whole and verified, or not at all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.adapters.files import TENSORS
from mlx_voxclone.adapters.mix import AdapterSource, mix_adapters
from mlx_voxclone.bake.fold import LOSSY, ROUNDINGS, FoldedWeight, Folding
from mlx_voxclone.bake.quantise import Quantising
from mlx_voxclone.bake.record import (
    add_history,
    add_notice,
    add_voices,
    check_places,
    complete_voices,
    copy_files,
    files_to_copy,
    read_object,
)
from mlx_voxclone.bake.voice_sources import VoiceMaker, VoiceSource
from mlx_voxclone.checkpoint.dtypes import float32_to_bfloat16
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import (
    PARAMS,
    QUANTISED_FROM,
    TEKKEN,
    WEIGHTS,
    Release,
    file_sha256,
    open_encoder,
    part_of,
)
from mlx_voxclone.checkpoint.voices import VOICE_DIRECTORY, check_voice_name, read_voice, register_voice
from mlx_voxclone.checkpoint.writer import Entry, write_safetensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import atomic_directory, free_space_check
from mlx_voxclone.model.widths import KEY, Quantisation
from mlx_voxclone.version import __version__

TARGETS = ("vllm", "mlx-audio")
FOLDED_AS = ("base", "auto", "float32")

AdapterArgument = str | Path | AdapterSource | Sequence[str | Path | AdapterSource] | None


@dataclass
class BakeReport:
    """What a bake did, or would do (`dry_run`).

    Args:
        output: the new directory.
        target: `vllm` or `mlx-audio`.
        dry_run: nothing was written; `fingerprint` is then empty.
        n_tensors: in the new `consolidated.safetensors`.
        n_bytes: of those tensors.
        n_unchanged: tensors that are bit-identical to the base's.
        encoder: `injected`, `replaced`, `kept` (the base's own), `left out` or `none`.
        voices: name -> rows of the voices added.
        base_fingerprint: of the base's LM and head.
        folded: weights that adapters were folded into, and what that did to each.
        fingerprint: of the new LM and head.
        warnings: what is odd about recordings that voices were made of, each after the voice's name.
        quantisation: of LM and head; None: in full.
        n_quantised: weights that were quantised; each is three tensors.
    """

    output: Path
    target: str
    dry_run: bool
    n_tensors: int
    n_bytes: int
    n_unchanged: int
    encoder: str
    voices: dict[str, int]
    base_fingerprint: str
    folded: list[FoldedWeight] = field(default_factory=list)
    fingerprint: str = ""
    warnings: list[str] = field(default_factory=list)
    quantisation: Quantisation | None = None
    n_quantised: int = 0


@dataclass
class _Inputs:
    """Everything a bake is made of, read and found fit."""

    release: Release
    target: str
    encoder: TensorFile | None
    folding: Folding | None
    voices: dict[str, mx.array]
    warnings: list[str]
    quantising: Quantising | None

    @property
    def encoder_state(self) -> str:
        if self.target == "mlx-audio":
            return "left out" if self.encoder is not None or self.release.has_encoder else "none"
        if self.encoder is not None:
            return "replaced" if self.release.has_encoder else "injected"
        return "kept" if self.release.has_encoder else "none"

    def base_names(self) -> list[str]:
        """Tensors that come from the base, folded into or not."""
        with_encoder = self.encoder_state == "kept"
        return [n for n in self.release.tensors.names() if with_encoder or part_of(n) != "encoder"]

    def unchanged(self) -> list[str]:
        adapted = set(self.folding.weights if self.folding is not None else ())
        return [name for name in self.base_names() if name not in adapted and not self.is_quantised(name)]

    def is_quantised(self, name: str) -> bool:
        return self.quantising is not None and name in self.quantising


def bake(
    release: Release | str | Path,
    output: str | Path,
    *,
    encoder: str | Path | None = None,
    adapters: AdapterArgument = None,
    voices: Mapping[str, VoiceSource] | None = None,
    target: str = "vllm",
    rounding: str = ROUNDINGS[0],
    folded_as: str = FOLDED_AS[0],
    quantisation: Quantisation | None = None,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BakeReport:
    """Write a new checkpoint directory.

    Args:
        release: the base: opened, a directory or a hub id.
        output: directory to make; must not exist or be empty, and must not lie inside the base.
        encoder: safetensors file of a codec encoder under the release's names; replaces the base's own.
        adapters: directory of adapters trained on this base (see `adapters/files.py`), or several, which are added up.
        voices: name -> recording, codes or embedding, or rows `[N, dim]`; see `VoiceMaker.make`.
        target: `vllm`: everything; `mlx-audio`: without the encoder, which mlx-audio refuses to load.
        rounding: of folded weights: `compensated` keeps a small change's effect, `nearest` each number's own nearest.
        folded_as: type of folded weights: `base` the base's (BF16), `float32`, or `auto`: float32 where the base's
            would lose more than 5 % of the change's direction or effect. (Servers that compute in BF16 round it when
            loading.)
        quantisation: of LM and head, for mlx-audio alone; adapters are folded into the weights in full before.
        dry_run: check all inputs, make the voices, measure the folding, write nothing.
        progress: called with the bytes of weights dealt with since the last call, and those in all.

    Raises:
        CheckpointError: any input that does not fit, an output that exists, no space, or a result that does not verify.
        DataError: a recording that cannot be read.
        ConfigError: groups of `quantisation` that do not fill a linear's inputs.
    """
    if target not in TARGETS:
        raise CheckpointError(f"target {target!r}: choose {' or '.join(TARGETS)}")
    if folded_as not in FOLDED_AS:
        raise CheckpointError(f"folded weights as {folded_as!r}: choose one of {', '.join(FOLDED_AS)}")
    if quantisation is not None and target != "mlx-audio":
        raise CheckpointError(f"quantised weights are for mlx-audio; {target} loads none of MLX's, leave out the bits")
    if quantisation is not None and folded_as != FOLDED_AS[0]:
        raise CheckpointError(f"folded weights as {folded_as} or in {quantisation.bits} bits: choose one of the two")
    if encoder is None and not adapters and not voices and target == "vllm":
        raise CheckpointError("nothing to bake: give an encoder, adapters or a voice")
    release = release if isinstance(release, Release) else Release(release)
    output = Path(output)
    check_places(release.path, output)
    release.check_full("baking")
    inputs = _read_inputs(release, encoder, adapters, dict(voices or {}), target, rounding, quantisation)
    advance = _Progress(progress)
    measured = _measured(inputs, folded_as, dry_run, advance)
    folded: list[FoldedWeight] = []
    dtypes = {w.name: w.dtype for w in measured}
    if folded_as == "float32" and inputs.folding is not None:
        dtypes = dict.fromkeys(inputs.folding.weights, "F32")
    entries = _entries(inputs, dtypes, folded)
    report = BakeReport(
        output=output,
        target=target,
        dry_run=dry_run,
        n_tensors=len(entries),
        n_bytes=sum(entry.nbytes for entry in entries),
        n_unchanged=len(inputs.unchanged()),
        encoder=inputs.encoder_state,
        voices={name: rows.shape[0] for name, rows in inputs.voices.items()},
        base_fingerprint=release.fingerprint(),
        warnings=inputs.warnings,
        quantisation=quantisation,
        n_quantised=0 if inputs.quantising is None else len(inputs.quantising),
    )
    advance.total += report.n_bytes
    copied = files_to_copy(release.path, top_level_tensors=target != "mlx-audio")
    beside = sum(path.stat().st_size for path in copied) + (release.path / TEKKEN).stat().st_size
    free_space_check(output.parent, report.n_bytes + 2 * beside)
    if dry_run:
        report.folded = measured
        return report
    with atomic_directory(output) as directory:
        metadata = dict(release.tensors.metadata)
        if quantisation is not None and inputs.folding is None:
            metadata[QUANTISED_FROM] = report.base_fingerprint
        write_safetensors(directory / WEIGHTS, entries, metadata or None, progress=advance)
        copy_files(release.path, directory, copied)
        complete_voices(directory, release.config.voices)
        add_voices(release.path, directory, inputs.voices, quantisation)
        how = {"rounding": rounding, "folded_as": folded_as}
        how |= {} if quantisation is None else {KEY: quantisation.params()}
        add_history(release.path, directory, _record(inputs, report, folded, how))
        add_notice(release.path, directory)
        report.fingerprint = _verify(inputs, directory)
    report.folded = folded
    return report


def _read_inputs(
    release: Release,
    encoder: str | Path | None,
    adapters: AdapterArgument,
    voices: dict[str, VoiceSource],
    target: str,
    rounding: str,
    quantisation: Quantisation | None,
) -> _Inputs:
    release.check()
    params, tekken = read_object(release.path / PARAMS), read_object(release.path / TEKKEN)
    for name in voices:  # before any voice is made, which takes time
        _refuse_left_over_voice(release, check_voice_name(name))
        register_voice(params, tekken, name, rows=1)
    encoder_file = open_encoder(encoder, release.config) if encoder is not None else None
    if encoder_file is not None:
        _check_finite(encoder_file)
    folding = None
    if adapters:
        sources = adapters if isinstance(adapters, Sequence) and not isinstance(adapters, str) else [adapters]
        folding = Folding(mix_adapters(sources, release.fingerprint(), release.path), release.tensors, rounding)
    quantising = None
    if quantisation is not None:
        quantising = Quantising(release.tensors, release.config, quantisation, folding)
    maker = VoiceMaker(release, encoder)
    made, warnings = {}, []
    for name, source in voices.items():
        made[name] = maker.make(source)
        warnings += [f"{name}: {line}" for line in maker.warnings]
    return _Inputs(release, target, encoder_file, folding, made, warnings, quantising)


def _refuse_left_over_voice(release: Release, name: str) -> None:
    """A file of that name that no server knows of is the user's: not ours to replace."""
    for suffix in (".pt", ".safetensors"):
        path = release.path / VOICE_DIRECTORY / f"{name}{suffix}"
        if path.exists() and name not in release.config.voices:
            raise CheckpointError(
                f"voice {name}: {path} exists but is not registered; choose another name or remove it"
            )


def _check_finite(file: TensorFile) -> None:
    for name in file.names():
        if not np.isfinite(file.numpy(name)).all():
            raise CheckpointError(f"{file.path}: {name} holds numbers that are not finite; train this encoder again")


def _measured(inputs: _Inputs, folded_as: str, dry_run: bool, advance: "_Progress") -> list[FoldedWeight]:
    """What folding does to each weight, where that must be known before anything is written."""
    if inputs.folding is None or not (dry_run or folded_as == "auto"):
        return []
    infos = {name: inputs.release.tensors.info(name) for name in inputs.folding.weights}
    advance.total = sum(info.nbytes for info in infos.values())
    found = []
    for name, info in infos.items():
        if inputs.quantising is not None and name in inputs.quantising:
            found.append(inputs.quantising.measured(name))
            advance(info.nbytes)
            continue
        measured = inputs.folding.fold(name, "F32" if folded_as == "float32" else info.dtype)[1]
        if folded_as == "auto" and max(measured.lost, measured.effect_lost) > LOSSY:
            measured = inputs.folding.fold(name, "F32")[1]
        found.append(measured)
        advance(info.nbytes)
    return found


class _Progress:
    """Bytes of weights measured and written, told as they come."""

    def __init__(self, tell: Callable[[int, int], None] | None):
        self.total, self._tell = 0, tell

    def __call__(self, count: int) -> None:
        if self._tell is not None:
            self._tell(count, self.total)


def _entries(inputs: _Inputs, dtypes: Mapping[str, str], folded: list[FoldedWeight]) -> list[Entry]:
    """What the new weights consist of, in the base's order; folding adds its measurements to `folded`.

    `dtypes`: of folded weights that do not keep the base's.
    """
    base, unchanged = inputs.release.tensors, set(inputs.unchanged())

    def fold(name: str) -> np.ndarray:
        bits, measured = inputs.folding.fold(name, dtypes.get(name))
        folded.append(measured)
        return bits

    entries = []
    for name in inputs.base_names():
        if inputs.quantising is not None and name in inputs.quantising:
            entries += inputs.quantising.entries(name, folded.append)
            continue
        info, produce = base.info(name), base.pieces if name in unchanged else fold
        dtype = dtypes.get(name, info.dtype)
        entries.append(Entry(name, dtype, info.shape, lambda name=name, produce=produce: produce(name)))
    if inputs.encoder is not None and inputs.target != "mlx-audio":
        file = inputs.encoder
        entries += [
            Entry(name, "BF16", file.info(name).shape, lambda name=name: float32_to_bfloat16(file.numpy(name)))
            for name in file.names()
        ]
    return entries


def _record(
    inputs: _Inputs, report: BakeReport, folded: Sequence[FoldedWeight], how: Mapping[str, Any]
) -> dict[str, Any]:
    """The bake's entry in `voxclone.json`; what was used is told by its content, not by where it lay.

    Args:
        how: the options of the folding, so that the bake can be repeated.
    """
    encoder, adapters = None, []
    if inputs.encoder is not None:
        encoder = {"sha256": file_sha256(inputs.encoder.path)}
    if inputs.folding is not None:
        for source, config in inputs.folding.mix.parts:
            stored = {"sha256": file_sha256(source.directory / TENSORS), "weight": source.weight}
            adapters.append(asdict(config) | stored)
    return {
        "voxclone": __version__,
        "target": inputs.target,
        "base_fingerprint": report.base_fingerprint,
        "encoder": (encoder or {}) | {"state": report.encoder, "base_had_one": inputs.release.has_encoder},
        "adapters": adapters,
        **how,
        "folded": sorted(w.name for w in folded),
        "voices": report.voices,
    }


def _verify(inputs: _Inputs, directory: Path) -> str:
    """Open the new directory as a user would and compare it with what it was made of; returns its fingerprint."""
    new = Release(directory)
    new.check()  # its tensors are what was produced, by the hashes that were taken while they were written
    for file in filter(None, (inputs.release.tensors, inputs.encoder)):
        file.check_unchanged()
    counts = read_object(directory / TEKKEN).get("audio", {}).get("voice_num_audio_tokens") or {}
    for name, rows in inputs.voices.items():
        place = directory / VOICE_DIRECTORY
        stored = [read_voice(place / f"{name}{suffix}") for suffix in (".pt", ".safetensors")]
        if not all(mx.array_equal(s, rows).item() for s in stored) or counts.get(name) != rows.shape[0]:
            raise CheckpointError(f"{place}: voice {name} does not read back as written; check the disk")
    return new.fingerprint()
