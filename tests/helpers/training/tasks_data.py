"""Clips in memory and models of the miniature, for the tests of the tasks."""

from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.miniature.synth import SyntheticSpeaker, random_text, synthesise
from mlx_voxclone.model.voxtral import Voxtral


@dataclass
class MemoryClip:
    """Stands for `data.clips.Clip`."""

    id: str
    wave: np.ndarray
    text: str | None = None

    @property
    def samples(self) -> int:
        return len(self.wave)

    @property
    def seconds(self) -> float:
        return self.samples / 24000

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.wave[start:stop]


@dataclass
class MemoryData:
    """Stands for `data.clips.PreparedData`."""

    train: list[MemoryClip]
    heldout: list[MemoryClip] = field(default_factory=list)

    def fingerprint(self) -> str:
        return str(sum(float(np.abs(c.wave).sum()) for c in [*self.train, *self.heldout]))


def clip(seed: int, samples: int | None = None) -> MemoryClip:
    text = random_text(np.random.default_rng(seed), 6)
    wave = synthesise(text, SyntheticSpeaker.sample(seed % 2), seed)
    return MemoryClip(f"clip{seed}", wave if samples is None else np.resize(wave, samples), text)


def scratch_codec(miniature, seed: int = 0):
    """The miniature's codec with a new encoder."""
    release = Release(miniature)
    mx.random.seed(seed)
    model = Voxtral(release.config, encoder=True)
    model.load_weights(list(release.load_parameters(["decoder"]).items()), strict=False)
    codec = model.audio_tokenizer
    codec.set_dtype(mx.float32)
    mx.eval(codec.parameters())
    return codec


def full_model(miniature) -> Voxtral:
    return load_model(Release(miniature))


def encoder_parameters(codec) -> dict[str, mx.array]:
    """The encoder's tensors under the checkpoint's full names."""
    named = tree_flatten(codec.parameters())
    return {"audio_tokenizer." + k: v for k, v in named if k.startswith(("input_proj.", "encoder_blocks."))}
