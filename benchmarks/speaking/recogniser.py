"""What was said, and where the model erred: a recogniser of the synthesiser's sounds, and the unit error rate.

A small network judges every 10 ms which sound it hears, on synthetic speech and on what the codec makes of it; the
best sequence of sounds in the language of `random_text` (consonant, vowel, now and then a pause) follows by Viterbi's
search.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from benchmarks.recovery.corpus import TRACK_HOP, UNITS, label_track
from mlx_voxclone.audio.spectral.stft import log_mel
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.readings import Reading
from mlx_voxclone.miniature.synth import LEVEL, VOWELS, synthesise_aligned

BANDS, CONTEXT, HIDDEN = 40, 6, 256  # CONTEXT: frames of 10 ms before and after the one that is judged
SHORTEST = 3  # frames of a sound
RANGE = 9.0  # nats below the loudest value of a clip: whatever is softer counts as this
BATCH, EPOCHS, RATE = 1024, 6, 2e-3
PENALTIES = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)  # nats per sound, of which training chooses


def features(samples: np.ndarray) -> np.ndarray:
    """Log-mel values relative to the loudest of the clip, float32 `[frames, BANDS]`, a frame every 10 ms."""
    bands = np.array(log_mel(mx.array(samples)[None], n_fft=1024, hop=TRACK_HOP, n_mels=BANDS, fmin=60.0))[0]
    return np.maximum(bands - bands.max(), -RANGE) / RANGE + 0.5


def in_context(bands: np.ndarray) -> np.ndarray:
    """`[frames, BANDS]` -> `[frames, (2 CONTEXT + 1) BANDS]`, ends repeated."""
    padded = np.pad(bands, ((CONTEXT, CONTEXT), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * CONTEXT + 1, axis=0)  # (frames, BANDS, window)
    return windows.swapaxes(1, 2).reshape(len(bands), -1)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear((2 * CONTEXT + 1) * BANDS, HIDDEN)
        self.second = nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, len(UNITS))

    def __call__(self, x: mx.array) -> mx.array:
        return self.last(nn.relu(self.second(nn.relu(self.first(x)))))


@dataclass
class Recogniser:
    """Attributes: network: judges frames; prior: log-probability of each unit; penalty: of every sound, nats."""

    network: Network
    prior: np.ndarray
    penalty: float = 0.0

    def scores(self, samples: np.ndarray) -> np.ndarray:
        """Log-likelihood of each unit per frame, but for a constant: float64 `[frames, units]`."""
        logits = self.network(mx.array(in_context(features(samples))))
        posterior = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True)).astype(np.float64)
        return posterior - self.prior

    def hear(self, samples: np.ndarray) -> str:
        """The sounds without pauses, as the synthesiser's letters; "" for silence."""
        if not len(samples) or np.abs(samples).max() < 1e-4:
            return ""
        return best_sequence(self.scores(samples), self.penalty)

    def tensors(self) -> dict[str, mx.array]:
        from mlx.utils import tree_flatten

        own = {"prior": mx.array(self.prior.astype(np.float32)), "penalty": mx.array(self.penalty)}
        return dict(tree_flatten(self.network.parameters())) | own

    @staticmethod
    def of(tensors: dict[str, mx.array]) -> "Recogniser":
        tensors, network = dict(tensors), Network()
        prior, penalty = np.array(tensors.pop("prior")).astype(np.float64), tensors.pop("penalty").item()
        network.load_weights(list(tensors.items()))
        mx.eval(network.parameters())
        return Recogniser(network, prior, penalty)


def _grammar() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(unit of each state, where each may come from as log 0 or 1 [to, from], which begin a sound).

    A unit is a chain of `SHORTEST` states, the last of which goes on. A pause or a vowel is before a consonant, a
    consonant before a vowel, a vowel before a pause.
    """
    kinds = ["pause" if unit == "" else "vowel" if unit in VOWELS else "consonant" for unit in UNITS]
    follows = {"pause": ("vowel",), "consonant": ("pause", "vowel"), "vowel": ("consonant",)}
    units = np.repeat(np.arange(len(UNITS)), SHORTEST)
    place = np.tile(np.arange(SHORTEST), len(UNITS))
    allowed = np.zeros((len(units), len(units)), bool)
    for to in range(len(units)):
        if place[to]:
            allowed[to, to - 1] = True
        else:
            sources = [u for u, kind in enumerate(kinds) if kind in follows[kinds[units[to]]]]
            allowed[to, [u * SHORTEST + SHORTEST - 1 for u in sources]] = True
        allowed[to, to] |= place[to] == SHORTEST - 1
    return units, np.where(allowed, 0.0, -np.inf), place == 0


_UNITS, _FROM, _FIRST = _grammar()


def best_sequence(scores: np.ndarray, penalty: float) -> str:
    """The likeliest sounds for scores `[frames, units]`; begins and ends with a pause or a sound of any kind."""
    emitted = scores[:, _UNITS]
    best = np.where(_FIRST, emitted[0], -np.inf)
    back = np.zeros((len(scores), len(_UNITS)), np.int32)
    cost = np.where(_FIRST & (_UNITS > 0), -penalty, 0.0)
    for t in range(1, len(scores)):
        arriving = best[None] + _FROM
        back[t] = arriving.argmax(axis=1)
        best = arriving[np.arange(len(_UNITS)), back[t]] + emitted[t] + cost
    state, path = int(best.argmax()), []
    for t in range(len(scores) - 1, -1, -1):
        path.append(state)
        state = int(back[t, state])
    path.reverse()
    heard = [s for i, s in enumerate(path) if _FIRST[s] and (i == 0 or path[i - 1] != s)]
    return "".join(UNITS[_UNITS[s]] for s in heard)


def said(text: str) -> str:
    """The sounds of a text: its letters."""
    return "".join(c for c in text.lower() if c.isalpha())


def edits(wanted: str, heard: str) -> int:
    """Least number of insertions, deletions and substitutions (Levenshtein 1966)."""
    row = list(range(len(heard) + 1))
    for i, a in enumerate(wanted, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def unit_error_rate(pairs: Sequence[tuple[str, str]]) -> float:
    """Edits per wanted sound over all (text, heard). Raises DataError without a wanted sound."""
    wanted = [said(text) for text, _ in pairs]
    if not sum(map(len, wanted)):
        raise DataError("no text to compare with")
    return sum(edits(want, heard) for want, (_, heard) in zip(wanted, pairs)) / sum(map(len, wanted))


def labelled(reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """Samples and the unit every 10 ms."""
    samples, alignment = synthesise_aligned(reading.text, reading.speaker, reading.seed, level="phone")
    return samples, label_track(alignment, len(samples))


def train_recogniser(examples: Sequence[tuple[np.ndarray, np.ndarray]], texts: Sequence[str], seed: int) -> Recogniser:
    """Train on (samples, unit every 10 ms); the penalty is the one that errs least on a tenth that was left out.

    Args:
        texts: what each example says.
    """
    mx.random.seed(seed)
    rng = np.random.default_rng([seed, 0xEA5])
    left_out = set(rng.permutation(len(examples))[: max(1, len(examples) // 10)].tolist())
    bands = [features(samples) for samples, _ in examples]
    inputs = np.concatenate([in_context(b)[: len(t)] for k, (b, (_, t)) in _kept(bands, examples, left_out)])
    targets = np.concatenate([t[: len(b)] for k, (b, (_, t)) in _kept(bands, examples, left_out)]).astype(np.int32)
    counts = np.bincount(targets, minlength=len(UNITS)) + 1.0
    network = Network()
    optimizer = optim.AdamW(learning_rate=RATE, weight_decay=0.01)

    def loss(network: Network, x: mx.array, y: mx.array) -> mx.array:
        return nn.losses.cross_entropy(network(x), y, reduction="mean")

    gradient = nn.value_and_grad(network, loss)
    steps = EPOCHS * (len(inputs) // BATCH)
    for step in range(steps):
        optimizer.learning_rate = RATE * max(0.02, 1 - step / steps)
        rows = rng.integers(len(inputs), size=BATCH)
        _, gradients = gradient(network, mx.array(inputs[rows]), mx.array(targets[rows]))
        optimizer.update(network, gradients)
        mx.eval(network.parameters(), optimizer.state)
    trained = Recogniser(network, np.log(counts / counts.sum()))
    scored = [(texts[k], trained.scores(examples[k][0])) for k in sorted(left_out)]
    rates = {p: unit_error_rate([(text, best_sequence(s, p)) for text, s in scored]) for p in PENALTIES}
    trained.penalty = min(rates, key=lambda p: (rates[p], p))
    return trained


def _kept(bands, examples, left_out):
    return [(k, pair) for k, pair in enumerate(zip(bands, examples)) if k not in left_out]


def tuned_level(samples: np.ndarray) -> np.ndarray:
    """At the synthesiser's level, whatever it was."""
    rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    return samples if rms < 1e-6 else (samples * (10 ** (LEVEL / 20) / rms)).astype(np.float32)
