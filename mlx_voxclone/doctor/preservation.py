"""What preserving the model's own voices adds to a step of an adaptation, before it starts.

A share of the items are utterances of the released model. Its hidden states of them are one more forward pass, without
a gradient, and its distributions are compared with the adapted ones.
"""

from pathlib import Path

from mlx_voxclone.bake.record import own_voices
from mlx_voxclone.checkpoint.release import WEIGHTS, Release
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.fields import AUTO
from mlx_voxclone.train.judge.auto_pairs import cached_own_pairs
from mlx_voxclone.train.speaker.preservation import is_on
from mlx_voxclone.train.stages.compute import Compute

FORWARD = 1 / 3  # of the time of a step with its gradient
LOGITS = 3  # float32 arrays of the comparison: both distributions, and a gradient


def preserves(config: RunConfig) -> bool:
    """Whether a run will keep anything; a model that is not fetched yet is taken to have voices of its own, and nothing
    in the cache."""
    if not is_on(config) or config.task == "distill":
        return False
    if config.speaker.preserve.path != AUTO:
        return True
    pairs, path = config.encoder.pairs.path, Path(config.model)
    release = Release(path) if (path / WEIGHTS).is_file() else None
    if not pairs or (release is not None and not own_voices(release)):
        return False
    if pairs != AUTO or config.task == "clone":
        return True
    return release is not None and cached_own_pairs(config, release) is not None


def kept_cost(config: RunConfig, layers: int) -> float:
    """Share of a step's time that is added."""
    adapted = min(config.speaker.lora.layers or layers, layers)
    step = adapted + FORWARD * (layers - adapted)  # of the layers below the adapted ones there is no gradient
    return config.speaker.preserve.share * FORWARD * layers / step


def kept_bytes(config: RunConfig, params: dict, compute: Compute, longest: dict[str, int]) -> float:
    """Bytes that are added, where all items of a batch are to be kept."""
    codec, width = VoxtralConfig.from_dict(params).codec, compute.dtype.size
    states = sum(longest.values()) * (params["dim"] + 3 * params["hidden_dim"]) * width  # and one layer that makes them
    return float(config.speaker.train.batch_size * (states + LOGITS * 4 * longest["frames"] * codec.semantic_logits))
