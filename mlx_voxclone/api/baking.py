"""Baking from Python."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import mlx.core as mx
import numpy as np

from mlx_voxclone.api.shared import Place, computing, file_of, is_place, path_of, text_of
from mlx_voxclone.api.speech import Adapters, adapter_sources
from mlx_voxclone.api.voice import Voice, rows_of
from mlx_voxclone.bake import bake as baking
from mlx_voxclone.errors import DataError, VoxcloneWarning
from mlx_voxclone.files.hub import ENCODER, VOICE, local
from mlx_voxclone.model.widths import GROUP_SIZE, Quantisation
from mlx_voxclone.process.progress import Progress, told_to, weight_bar

if TYPE_CHECKING:
    from mlx_voxclone.bake.bake import BakeReport
    from mlx_voxclone.bake.voice_sources import VoiceSource

Source = Place | Sequence[Place] | Voice | np.ndarray | mx.array


def bake(
    model: Place,
    output: Place,
    *,
    encoder: Place | None = None,
    adapters: Adapters | None = None,
    voices: Mapping[str, Source] | None = None,
    target: Literal["vllm", "mlx-audio"] = "vllm",
    rounding: Literal["compensated", "nearest"] = "compensated",
    folded_as: Literal["base", "auto", "float32"] = "base",
    bits: int | None = None,
    group_size: int = GROUP_SIZE,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> "BakeReport":
    """Write a new checkpoint: a model with an encoder injected, adapters folded in and voices added.

    The model is only read. The result appears whole and verified, or not at all.

    Args:
        model: Voxtral directory or hub id.
        output: directory to make; must not exist or be empty.
        encoder: weights of a trained codec encoder, `.safetensors` or `hf://OWNER/NAME`.
        adapters: LoRA trained on this model; see `load`.
        voices: name (a-z, 0-9, `_`, `-`) -> a voice of `voice_from`; a recording, or several of one speaker; a file of
            a voice or of codes; rows `[N, dim]`, the END row last.
        target: who loads it: `mlx-audio` knows no encoder, so it is left out there.
        rounding: of folded weights: `compensated` keeps a small change's effect, `nearest` each number's own nearest.
        folded_as: type of folded weights: `base` the model's (bfloat16), `float32`, or `auto`: float32 where bfloat16
            would lose over 5 % of a change's direction.
        bits: quantise the language model and the head to 8, 6 or 4 bits, for `mlx-audio` alone.
        group_size: inputs that share a scale when quantised: 32, 64 or 128.
        dry_run: check and measure everything, write nothing.
        progress: called with the bytes of weights done, those in all, and `"weights"`.

    Returns:
        What was done: `output`, `voices`, `folded` (what rounding did to each weight), `fingerprint`, ...

    Raises:
        CheckpointError: any input that does not fit, an `output` that exists, no space, a result that does not verify.
        DataError: a recording that cannot be read.
        ConfigError: what is no path; other bits or groups than those.

    Two people in one recording of a voice are a `VoxcloneWarning`.
    """
    quantisation = None if bits is None else Quantisation(bits, group_size)
    weights = None if encoder is None else local(file_of(encoder, "encoder"), ENCODER)
    sources = {name: _source(name, source) for name, source in (voices or {}).items()}
    base, place = text_of(model, "model"), path_of(output, "output")
    with computing(), told_to(progress, None), weight_bar() as advance:
        report = baking.bake(
            base,
            place,
            encoder=weights,
            adapters=adapter_sources(adapters),
            voices=sources,
            target=target,
            rounding=rounding,
            folded_as=folded_as,
            quantisation=quantisation,
            dry_run=dry_run,
            progress=advance,
        )
    for line in report.warnings:
        warnings.warn(f"voice {line}", VoxcloneWarning, stacklevel=2)
    return report


def _source(name: str, source: Source) -> "VoiceSource":
    if isinstance(source, Voice):
        return source.rows
    if isinstance(source, np.ndarray | mx.array):
        return rows_of(source)
    if is_place(source):
        return _place(source)
    if isinstance(source, list | tuple) and source:
        return [_place(one) for one in source]
    raise DataError(f"voice {name}: a recording, a file, or what voice_from makes is expected, got {source!r:.80}")


def _place(source: Place) -> Path:
    return local(file_of(source, "voice"), VOICE)
