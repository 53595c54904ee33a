"""Who speaks: a small encoder of synthetic speakers, and what it says of pitch and vocal tract.

Trained to tell the training speakers apart (additive margin softmax, Wang et al. 2018) and to say the pitch and the
tract's scale, on synthetic speech and on what the codec makes of it. The cosine of two embeddings is the similarity.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from benchmarks.speaking.recogniser import tuned_level
from mlx_voxclone.audio.spectral.stft import log_mel
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.synth import SyntheticSpeaker

BANDS, HOP, N_FFT = 80, 480, 2048  # 20 ms; 12 Hz between bins, so that low bands show the harmonics of a voice
RANGE = 9.0  # nats
WIDTH, SIZE = 96, 48  # channels; of an embedding
CROP = 60  # frames that a training example has: 1.2 s
BATCH, STEPS, RATE = 48, 1500, 3e-3
SCALE, MARGIN = 16.0, 0.15
CENTRE = np.array([np.log(150.0), 1.075])  # of (log of the median pitch in Hz, tract scale)
SPREAD = np.array([0.33, 0.1])


def features(samples: np.ndarray) -> np.ndarray:
    """Log-mel values relative to the loudest of the clip, without its silent frames: float32 `[frames, BANDS]`."""
    heard = mx.array(tuned_level(samples))[None]
    bands = np.array(log_mel(heard, n_fft=N_FFT, hop=HOP, n_mels=BANDS, fmin=50.0, fmax=9000.0))[0]
    bands = np.maximum(bands - bands.max(), -RANGE)
    loud = bands.max(axis=1) > -0.6 * RANGE
    return (bands[loud] / RANGE + 0.5).astype(np.float32)


class Listener(nn.Module):
    """Bands `[B, T, BANDS]` -> (embedding of length 1 `[B, SIZE]`, standardised pitch and tract `[B, 2]`)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(BANDS, WIDTH, 5, padding=2)
        self.second = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.third = nn.Conv1d(WIDTH, WIDTH, 1)
        self.embedding = nn.Linear(2 * WIDTH, SIZE)
        self.truth = nn.Linear(2 * WIDTH, 2)

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        x = nn.relu(self.third(nn.relu(self.second(nn.relu(self.first(x))))))
        mean = x.mean(axis=1)
        deviation = mx.sqrt(mx.var(x, axis=1) + 1e-5)
        pooled = mx.concatenate([mean, deviation], axis=-1)
        embedding = self.embedding(pooled)
        length = mx.sqrt(mx.square(embedding).sum(axis=-1, keepdims=True) + 1e-9)
        return embedding / length, self.truth(pooled)

    def embed(self, samples: np.ndarray) -> np.ndarray:
        """Embedding of a clip, float64 `[SIZE]`, length 1. Raises DataError for less than 0.2 s of sound."""
        return np.array(self(self._batch(samples))[0][0]).astype(np.float64)

    def tract(self, samples: np.ndarray) -> float:
        """The tract's scale as `SyntheticSpeaker.formant_scale` has it; errors as `embed`."""
        return float(np.array(self(self._batch(samples))[1][0])[1] * SPREAD[1] + CENTRE[1])

    @staticmethod
    def _batch(samples: np.ndarray) -> mx.array:
        bands = features(samples) if len(samples) else np.zeros((0, BANDS))
        if len(bands) < 10:
            raise DataError("less than 0.2 s of sound: nothing can be said about the voice")
        return mx.array(bands)[None]


def train_listener(clips: Sequence[np.ndarray], speakers: Sequence[SyntheticSpeaker], seed: int) -> Listener:
    """Train on clips, each by the speaker of the same place."""
    mx.random.seed(seed)
    rng = np.random.default_rng([seed, 0x115])
    names = sorted({speaker.name for speaker in speakers})
    found = [features(clip) for clip in clips]
    own = np.array([names.index(speaker.name) for speaker in speakers])
    truth = (np.array([(np.log(s.pitch_hz), s.formant_scale) for s in speakers]) - CENTRE) / SPREAD
    usable = [k for k, bands in enumerate(found) if len(bands) >= CROP]
    if not usable:
        raise DataError("no clip is long enough to learn a speaker from")
    listener, classes = Listener(), nn.Linear(SIZE, len(names), bias=False)
    both = nn.Module()
    both.listener, both.classes = listener, classes
    optimizer = optim.AdamW(learning_rate=RATE, weight_decay=0.01)

    def loss(both: nn.Module, x: mx.array, who: mx.array, truth: mx.array) -> mx.array:
        embedding, guess = both.listener(x)
        weights = both.classes.weight
        weights = weights / mx.sqrt(mx.square(weights).sum(axis=-1, keepdims=True) + 1e-9)
        cosines = embedding @ weights.T
        cosines = cosines - MARGIN * (who[:, None] == mx.arange(len(names))[None])
        return nn.losses.cross_entropy(SCALE * cosines, who, reduction="mean") + mx.square(guess - truth).mean()

    gradient = nn.value_and_grad(both, loss)
    for step in range(STEPS):
        optimizer.learning_rate = RATE * max(0.02, 1 - step / STEPS)
        rows = rng.choice(usable, size=BATCH)
        starts = [int(rng.integers(len(found[k]) - CROP + 1)) for k in rows]
        x = np.stack([found[k][at : at + CROP] for k, at in zip(rows, starts)])
        _, gradients = gradient(both, mx.array(x), mx.array(own[rows]), mx.array(truth[rows].astype(np.float32)))
        optimizer.update(both, gradients)
        mx.eval(both.parameters(), optimizer.state)
    return listener
