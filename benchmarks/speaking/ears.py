"""The two judges of the speaking miniature, trained together and kept in one file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from benchmarks.speaking.listener import Listener, train_listener
from benchmarks.speaking.recogniser import Recogniser, labelled, train_recogniser
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.miniature.readings import TRAINING, readings
from mlx_voxclone.model.codec import Codec

FILE = Path(__file__).with_name("ears.safetensors")
SPEAKERS, EACH, SYLLABLES = 200, 6, (4, 9)  # whom they learn from, and how much each says


@dataclass(frozen=True)
class Ears:
    """Attributes: recogniser: what is said; listener: who says it."""

    recogniser: Recogniser
    listener: Listener

    def save(self, path: Path = FILE) -> None:
        tensors = {f"recogniser.{k}": v for k, v in self.recogniser.tensors().items()}
        tensors |= {f"listener.{k}": v for k, v in tree_flatten(self.listener.parameters())}
        save_tensors(path, {name: value.astype(mx.float16) for name, value in tensors.items()}, overwrite=True)

    @staticmethod
    def load(path: Path = FILE) -> "Ears":
        file = TensorFile(path)
        parts: dict[str, dict[str, mx.array]] = {"recogniser": {}, "listener": {}}
        for name in file.names():
            part, own = name.split(".", 1)
            parts[part][own] = file.array(name).astype(mx.float32)
        listener = Listener()
        listener.load_weights(list(parts["listener"].items()))
        mx.eval(listener.parameters())
        return Ears(Recogniser.of(parts["recogniser"]), listener)


def train_ears(codec: Codec, seed: int = 0) -> Ears:
    """Both learn from synthetic speech and from what the codec makes of it: some minutes."""
    chosen = readings(TRAINING, SPEAKERS, EACH, seed + 1, SYLLABLES)
    examples = [labelled(reading) for reading in chosen]
    heard = [codec.decode_audio(codec.audio_codes(wave))[: len(wave)] for wave, _ in examples]
    both = [*examples, *((wave, track) for wave, (_, track) in zip(heard, examples))]
    recogniser = train_recogniser(both, [reading.text for reading in chosen] * 2, seed)
    listener = train_listener([wave for wave, _ in both], [reading.speaker for reading in chosen] * 2, seed)
    return Ears(recogniser, listener)


def mean_embedding(listener: Listener, waves: Sequence[np.ndarray]) -> np.ndarray:
    """Of several clips of one speaker, length 1."""
    total = np.sum([listener.embed(wave) for wave in waves], axis=0)
    return total / np.linalg.norm(total)
