"""What the adapted model must not lose: how the released one speaks with its own voices.

Items are pairs (what the released model said with its voices), each behind its voice's true rows. The same model
without its adapters is the teacher, on the same inputs; nothing else is loaded for it. Two terms: the divergence of its
semantic distribution from the adapted one's, and the distance of the flow head's velocities at the same points of the
path. Measured on held-out pairs they say how far presets have drifted.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.adapters.lora import is_adapted
from mlx_voxclone.bake.record import own_voices
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.plain import parse_json
from mlx_voxclone.losses.divergence import divergence
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.pairs.data import Pair, PairData
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.fields import AUTO
from mlx_voxclone.train.judge.auto_pairs import cached_own_pairs, check_automatic, own_pairs
from mlx_voxclone.train.saved.state import list_checkpoints, load_checkpoint

KEPT_FIELD = "speaker.preserve.path"  # of a training's fingerprint: what is kept, where something is
_NOT_KEPT = "speaker.preserve: how the model speaks with its own voices is not kept"
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


def load_kept(
    config: RunConfig,
    release: Release,
    *,
    begun: bool | None = None,
    quiet: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> KeptPairs | None:
    """The pairs of `speaker.preserve`; None where there are none or their weights are 0.

    Automatic ones are, in task `clone`, the encoder's own pairs in the model's own voices, made now where they are not
    there; in other tasks those that some run has made before.

    Args:
        begun: whether the training that goes on keeps any (`kept_before`); None: one that begins.
        quiet, say: of making pairs; `say` also receives why none are kept.

    Raises:
        DataError, CheckpointError: pairs that cannot be read, of another codec, or with a voice the model has not; see
            `own_pairs`.
    """
    section = config.speaker.preserve
    if not is_on(config) or begun is False:
        return None
    automatic = section.path == AUTO
    paths = _automatic_paths(config, release, bool(begun), quiet, say) if automatic else section.path
    if not paths:
        return None
    data = PairData.of_model(paths, release, seed=config.seed)
    if automatic:
        own = set(own_voices(release))
        sides = ([pair for pair in side if pair.voice in own] for side in (data.train, data.heldout))
        data = replace(data, **dict(zip(("train", "heldout"), sides)))
        if not (data.train and data.heldout):
            say(f"{_NOT_KEPT}: too few pairs in its own voices to hold some out")
            return None
    data.check_voices(release)
    data.check_heldout()
    rows = {name: np.array(release.voice(name).astype(mx.float32)) for name in {pair.voice for pair in data.pairs}}

    def kept(pairs: list[Pair]) -> list[Kept]:
        return [Kept(pair.name, pair.text, pair.codes, rows[pair.voice]) for pair in pairs]

    return KeptPairs(kept(data.train), kept(data.heldout), data.fingerprint())


def check_kept(config: RunConfig, release: Release) -> None:
    """Refuse early what `load_kept` would refuse late; makes no pairs."""
    if config.speaker.preserve.path != AUTO:
        load_kept(config, release)
    elif is_on(config) and config.task == "clone" and own_voices(release):
        if config.encoder.pairs.path == AUTO:
            check_automatic(config, release, own_only=True)
        else:
            load_kept(config, release)


def kept_before(directory: Path) -> bool | None:
    """Whether the training that has begun in a directory keeps anything; None if none has."""
    for _, path in reversed(list_checkpoints(directory)):
        with suppress(CheckpointError, ValueError, TypeError):
            return KEPT_FIELD in parse_json(load_checkpoint(path).document["fingerprint"])
    return None


def is_on(config: RunConfig) -> bool:
    """Whether `speaker.preserve` asks for anything."""
    section, losses = config.speaker.preserve, config.speaker.losses
    return bool(section.path and section.share and losses.kept)


def _automatic_paths(
    config: RunConfig, release: Release, begun: bool, quiet: bool, say: Callable[[str], None]
) -> list[Path]:
    pairs = config.encoder.pairs.path
    if not own_voices(release):
        say(f"{_NOT_KEPT}: it has none")
    elif not pairs:
        say(f"{_NOT_KEPT}: encoder.pairs.path is null, and it would be learnt from pairs")
    elif pairs != AUTO:
        return pairs
    elif config.task == "clone" or begun:
        return [own_pairs(config, release, quiet, say)]
    elif (found := cached_own_pairs(config, release)) is not None:
        return [found]
    else:
        say(
            f"{_NOT_KEPT}: it would be learnt from pairs, and no run of task clone or encoder has made any with this"
            " model yet; run one, or name what `voxclone pairs` wrote in speaker.preserve.path"
        )
    return []


@contextmanager
def without_adapters(model: Voxtral) -> Iterator[None]:
    """The model as it was released: all LoRA layers at strength 0."""
    adapted = [(m, m.scale) for m in model.modules() if is_adapted(m)]
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
