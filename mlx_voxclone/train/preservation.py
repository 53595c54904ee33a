"""What the adapted model must not lose: how the released one speaks with its own voices.

Items are pairs (`voxclone pairs`: what the released model said with its voices), each behind its voice's true rows. The
same model without its adapters is the teacher, on the same inputs; nothing else is loaded for it. Two terms:
the divergence of its semantic distribution from the adapted one's, and the distance of the flow head's velocities at
the same points of the path. Measured on held-out pairs they say how far presets have drifted.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.data.pair_data import Pair, PairData
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.run_config import RunConfig

TERMS = ("kept_semantic", "kept_flow")


@dataclass(frozen=True, eq=False)
class Kept:
    """An utterance of the released model with one of its voices."""

    id: str
    text: str
    codes: np.ndarray  # 0-based [37, T], int32
    rows: np.ndarray  # float32 [N, dim], of the voice, END row last


@dataclass(frozen=True)
class KeptPairs:
    """Attributes: train, heldout: no text is in both; identity: what they are, for resuming."""

    train: list[Kept]
    heldout: list[Kept]
    identity: str


def load_kept(config: RunConfig, release: Release) -> KeptPairs | None:
    """The pairs of `speaker.preserve`; None where there are none or their weights are 0.

    Raises:
        DataError, CheckpointError: pairs that cannot be read, of another codec, or with a voice the model has not.
    """
    section, losses = config.speaker.preserve, config.speaker.losses
    if not section.path or not section.share or not (losses.kept_semantic or losses.kept_flow):
        return None
    data = PairData.of_model(section.path, release, heldout=section.heldout, seed=config.seed)
    data.check_voices(release)
    data.check_heldout()
    rows = {name: np.array(release.voice(name).astype(mx.float32)) for name in {pair.voice for pair in data.pairs}}

    def kept(pairs: list[Pair]) -> list[Kept]:
        return [Kept(pair.name, pair.text, pair.codes, rows[pair.voice]) for pair in pairs]

    return KeptPairs(kept(data.train), kept(data.heldout), data.fingerprint())


@contextmanager
def without_adapters(model: Voxtral) -> Iterator[None]:
    """The model as it was released: all LoRA layers at strength 0."""
    adapted = [(m, m.scale) for m in model.modules() if "lora_a" in m]
    try:
        for module, _ in adapted:
            module.scale = 0.0
        yield
    finally:
        for module, scale in adapted:
            module.scale = scale


def preservation_terms(
    model: Voxtral, hidden: mx.array, released: mx.array, batch: Mapping[str, Any]
) -> dict[str, mx.array]:
    """Sums over the kept frames of a batch.

    Args:
        model: its head is frozen and the same for both.
        hidden: hidden states of the adapted model, flat `[B * T, dim]`.
        released: of the released one on the kept sequences alone, flat.
        batch: see `SpeakerTask.collate`; and of all its frames the points `x_t` and the adapted model's `velocity`.

    Returns:
        `kept_semantic`: Kullback-Leibler divergence from the released distribution of semantic codes, nats;
        `kept_flow`: mean squared distance of the velocities.
    """
    head, released = model.acoustic_transformer, mx.stop_gradient(released)
    at, at_released = batch["kept_predict"], batch["released_predict"]
    theirs, ours = (
        head.masked_semantic_logits(states).astype(mx.float32) for states in (released[at_released], hidden[at])
    )
    nats = divergence(theirs, ours)
    points, times = batch["x_t"][batch["kept_frames"]], batch["time"][batch["kept_frames"]]
    before = head.velocity(points, times, released[batch["released_flow"]])
    now = batch["velocity"][batch["kept_frames"]]  # no hidden state of these is dropped
    distance = mx.square(now.astype(mx.float32) - before.astype(mx.float32))
    distance = distance.mean(axis=-1)
    if "kept_flow_weight" in batch:  # some were added, to reach a length
        nats, distance = nats * batch["kept_predict_weight"], distance * batch["kept_flow_weight"]
    return {"kept_semantic": nats.sum(), "kept_flow": distance.sum()}


def divergence(theirs: mx.array, ours: mx.array) -> mx.array:
    """Kullback-Leibler divergence in nats from a distribution to another, over the last axis of their logits, float32.

    Rows of `theirs` that are -inf have no part in it.
    """
    log_p, log_q = (
        x - mx.logsumexp(x, axis=-1, keepdims=True) for x in (theirs.astype(mx.float32), ours.astype(mx.float32))
    )
    possible = mx.isfinite(log_p)
    p = mx.where(possible, mx.exp(log_p), 0.0)
    return mx.sum(p * (mx.where(possible, log_p, 0.0) - mx.where(possible, log_q, 0.0)), axis=-1)
