"""What the adapted model must not lose: how the released one speaks with its own voices.

Items are pairs (utterances of the released model with its voices), each behind its voice's true rows. The same model
without its adapters is the teacher, on the same inputs; nothing else is loaded for it. Two terms: the divergence of its
semantic distribution from the adapted one's, and the distance of the flow head's velocities at the same points of the
path. Measured on held-out pairs they show how far presets have drifted.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_voxclone.adapters.lora import is_adapted
from mlx_voxclone.bake.record import own_voices
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.plain import parse_json
from mlx_voxclone.losses.divergence import divergence
from mlx_voxclone.model.flow_head import FlowMatchingHead
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.pairs.data import Pair, PairData
from mlx_voxclone.process.progress import SILENT, Reporter
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.fields import AUTO
from mlx_voxclone.train.judge.auto_pairs import cached_own_pairs, check_automatic, own_pairs
from mlx_voxclone.train.saved.state import list_checkpoints, load_checkpoint
from mlx_voxclone.train.speaker.batch import KeptBatch

KEPT_FIELD = "speaker.preserve.path"  # of a training's fingerprint: what is kept, where something is
_NOT_PRESERVED = "speaker.preserve: the model's own voices are not preserved"
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
    reporter: Reporter = SILENT,
) -> KeptPairs | None:
    """The pairs of `speaker.preserve`; None where there are none or their weights are 0.

    Automatic ones are, in task `clone`, the encoder's own pairs in the model's own voices, made now where they are not
    there; in other tasks those that some run has made before.

    Args:
        begun: whether the training that goes on keeps any (`kept_before`); None: one that begins.
        reporter: shows the making of pairs, and why none are kept.

    Raises:
        DataError, CheckpointError: pairs that cannot be read, of another codec, or with a voice the model has not; see
            `own_pairs`.
    """
    section = config.speaker.preserve
    if not is_on(config) or begun is False:
        return None
    automatic = section.path == AUTO
    paths = _automatic_paths(config, release, bool(begun), reporter) if automatic else section.path
    if not paths:
        return None
    data = PairData.of_model(paths, release, seed=config.seed)
    if automatic:
        own = set(own_voices(release))
        sides = ([pair for pair in side if pair.voice in own] for side in (data.train, data.heldout))
        data = replace(data, **dict(zip(("train", "heldout"), sides)))
        if not (data.train and data.heldout):
            reporter.say(f"{_NOT_PRESERVED}: too few pairs in its own voices to hold some out")
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


def _automatic_paths(config: RunConfig, release: Release, begun: bool, reporter: Reporter) -> list[Path]:
    pairs = config.encoder.pairs.path
    if not own_voices(release):
        reporter.say(f"{_NOT_PRESERVED}: it has none")
    elif not pairs:
        reporter.say(f"{_NOT_PRESERVED}: that needs pairs, and encoder.pairs.path is null")
    elif pairs != AUTO:
        return pairs
    elif config.task == "clone" or begun:
        return [own_pairs(config, release, reporter)]
    elif (cached := cached_own_pairs(config, release)) is not None:
        return [cached]
    else:
        reporter.say(
            f"{_NOT_PRESERVED}: that needs pairs, and no run of task clone or encoder has made any with this"
            " model yet; run one, or set speaker.preserve.path to a directory of `voxclone pairs`"
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


@dataclass(frozen=True, eq=False)
class FlowPath:
    """A batch's frames on their way from noise: where each is, when, and which way the adapted model sends it."""

    points: mx.array  # [F, 36]
    times: mx.array  # [F], 0 to 1
    velocity: mx.array  # [F, 36]; no hidden state of frames to be preserved is dropped


def preservation_terms(
    head: FlowMatchingHead, kept: KeptBatch, hidden: mx.array, released: mx.array, path: FlowPath
) -> dict[str, mx.array]:
    """Sums over the kept frames of a batch.

    Args:
        head: frozen, the same for both.
        kept: where they are.
        hidden: hidden states of the adapted model, `[N, dim]`.
        released: hidden states of the released model on the kept sequences alone, `[M, dim]`.
        path: of all frames of the batch.

    Returns:
        `kept_semantic`: Kullback-Leibler divergence from the released distribution of semantic codes, nats;
        `kept_flow`: mean squared distance of the velocities.
    """
    released = mx.stop_gradient(released)
    adapted_logits = head.masked_semantic_logits(hidden[kept.semantic_positions]).astype(mx.float32)  # [KS, rows]
    released_logits = head.masked_semantic_logits(released[kept.released_semantic_positions]).astype(mx.float32)
    nats = divergence(released_logits, adapted_logits)  # [KS]
    points, times = path.points[kept.frames], path.times[kept.frames]  # [KF, 36], [KF]
    before = head.velocity(points, times, released[kept.released_flow_positions])  # [KF, 36]
    now = path.velocity[kept.frames]  # [KF, 36]
    distance = mx.square(now.astype(mx.float32) - before.astype(mx.float32)).mean(axis=-1)  # [KF]
    return {
        "kept_semantic": (nats * kept.semantic_weight).sum(),
        "kept_flow": (distance * kept.flow_weight).sum(),
    }
