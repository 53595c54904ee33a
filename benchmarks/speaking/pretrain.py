"""Train the speaking miniature's language model and flow head from random weights.

The sequences and the losses are the product's own (`SpeakerTask`): a clip of the speaker as voice rows, a text, its
frames. What differs: all weights learn, the embeddings among them; and a text is one short clip at first, then several
of one speaker joined. A small model takes long to find out where in a text it is unless it begins with short ones, and
joined at random, few clips make many texts.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from benchmarks.speaking.utterances import Spoken
from benchmarks.speaking.wrong_codes import disturbed
from mlx_voxclone.errors import TrainingError
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.settings.schema import SpeakerSection
from mlx_voxclone.train.loop.loader import to_device
from mlx_voxclone.train.speaker.adapted import AdaptedModel
from mlx_voxclone.train.speaker.batch import SpeakerBatch
from mlx_voxclone.train.speaker.task import SpeakerData, SpeakerTask, Utterance

LAST_RATE, CLIP_NORM = 0.02, 1.0
POOL = 24  # batches that are drawn together and sorted by length, so that little is padded


@dataclass(frozen=True)
class Pretraining:
    """How it is trained. Shares are of the run's steps."""

    steps: int = 5000
    batch: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    warm_up: float = 0.03
    alone_until: float = 0.25  # until then, a text is one clip
    most_clips: int = 2  # joined, afterwards
    reference_seconds: tuple[float, float] = (1.0, 3.0)
    flow: float = 1.0  # weight of the flow's loss beside the semantic one
    wrong_semantic: float = 0.1  # of the codes that are heard, never of the targets: drawn at random
    moved_acoustic: float = 0.3  # a level up or down; a small model learns its clips by heart otherwise

    def rate(self, progress: float) -> float:
        """A linear rise, then half a cosine down to `LAST_RATE` of the highest."""
        if progress < self.warm_up:
            return self.learning_rate * max(progress / self.warm_up, LAST_RATE)
        falling = 0.5 * (1 + math.cos(math.pi * (progress - self.warm_up) / (1 - self.warm_up)))
        return self.learning_rate * (LAST_RATE + (1 - LAST_RATE) * falling)


class Everything(SpeakerTask):
    """`SpeakerTask` in which the embeddings learn, too, and clips of a speaker are joined at random."""

    def __init__(
        self, adapted: AdaptedModel, train: Sequence[Spoken], heldout: Sequence[Spoken], *args: Any, **kwargs: Any
    ):
        self.clips = list(train)
        self._of_speaker = defaultdict(list)
        for i, one in enumerate(self.clips):
            self._of_speaker[one.speaker].append(i)
        first = [Utterance("first", train[0].text, train[0].codes, (train[0].codes,))]
        super().__init__(adapted, SpeakerData(first, joined_in_order(heldout)), *args, **kwargs)

    def drawn(self, rng: np.random.Generator, most: int) -> Utterance:
        """1 to `most` clips of a speaker joined; for reference, others of the same joined."""
        first = int(rng.integers(len(self.clips)))
        own = self._of_speaker[self.clips[first].speaker]
        count = int(rng.integers(1, most + 1))
        others = rng.permutation([i for i in own if i != first])
        said, rest = [first, *others[: count - 1]], others[count - 1 : count + 3]
        return join([self.clips[i] for i in said], [self.clips[i] for i in rest])

    def embeddings(self, batch: SpeakerBatch) -> mx.array:
        ids = batch.ids
        x = self.model.mm_audio_embeddings.tok_embeddings(ids).reshape(ids.size, -1)
        x[batch.code_positions] = self.model.embed_codes(batch.codes)
        return x.reshape(*ids.shape, -1)


def join(said: Sequence[Spoken], reference: Sequence[Spoken]) -> Utterance:
    """What is said, clip after clip, and the clips of the reference, one after the other."""
    voice = np.concatenate([one.codes for one in reference], axis=1)
    codes = np.concatenate([one.codes for one in said], axis=1)
    return Utterance(str(said[0].speaker), " ".join(one.text for one in said), codes, (voice,))


def joined_in_order(spoken: Sequence[Spoken], clips: int = 2) -> list[Utterance]:
    """Per speaker, clips joined in groups as they come; the reference is what comes next, the first after the last."""
    by_speaker = defaultdict(list)
    for one in spoken:
        by_speaker[one.speaker].append(one)
    found = []
    for own in by_speaker.values():
        for i in range(0, len(own) - clips + 1, clips):
            found.append(join(own[i : i + clips], [own[(i + clips + k) % len(own)] for k in range(clips)]))
    return found


def soften(model: Voxtral) -> None:
    """Random weights as they are, but what layers add to the stream is scaled by the root of how many add to it."""
    for part in (model, model.acoustic_transformer):
        scale = (2 * len(part.layers)) ** -0.5
        for layer in part.layers:
            for linear in (layer.attention.wo, layer.feed_forward.w2):
                linear.weight = linear.weight * scale


class Batches:
    """One batch per step, by the seed, the step and how far the training was when its pool was drawn."""

    def __init__(self, task: Everything, run: Pretraining, seed: int):
        self._task, self._run, self._seed, self._step = task, run, seed, 0
        self._pool: list[list[dict[str, Any]]] = []

    def next(self, progress: float) -> SpeakerBatch:
        """The next one; `progress` (0 to 1) says how long texts may be by now."""
        rng = np.random.default_rng([self._seed, 0xBA7, self._step])
        self._step += 1
        if not self._pool:
            self._draw(progress, rng)
        return self._task.collate(self._pool.pop())

    def _draw(self, progress: float, rng: np.random.Generator) -> None:
        task, run = self._task, self._run
        most = 1 if progress < run.alone_until else run.most_clips
        items = [task._item(task.drawn(rng, most), rng) for _ in range(POOL * run.batch)]
        codec, wrong = task.model.config.codec, (run.wrong_semantic, run.moved_acoustic)
        items = [{**item, "codes": disturbed(item["codes"], *wrong, codec, rng)} for item in items]
        items.sort(key=lambda item: len(item["ids"]))
        rows = [items[k * run.batch : (k + 1) * run.batch] for k in range(POOL)]
        self._pool.extend(rows[k] for k in rng.permutation(POOL))


def pretrain(
    model: Voxtral,
    train: Sequence[Spoken],
    heldout: Sequence[Spoken],
    prompt: Callable[[str, int], list[int]],
    run: Pretraining,
    *,
    seed: int = 0,
    say: Callable[[str], None] = print,
    every: int = 500,
    save: Callable[[Voxtral], None] | None = None,
) -> dict[str, float]:
    """Train language model and head in place; the codec stays as it is.

    Args:
        model: float32, its weights random.
        prompt: see `AdaptedModel`.
        every: steps between held-out figures.
        save: called with the model at those steps.

    Returns:
        The last held-out figures and the number of steps.

    Raises:
        TrainingError: the training blew up.
    """
    seconds = list(run.reference_seconds)
    section = SpeakerSection(reference_seconds=seconds, max_seconds=20.0, train={"batch_size": run.batch})
    task = Everything(AdaptedModel(model, prompt), train, heldout, section, seed=seed)
    soften(model)
    model.unfreeze()
    model.audio_tokenizer.freeze()
    optimizer = optim.AdamW(learning_rate=run.learning_rate, betas=[0.9, 0.98], weight_decay=run.weight_decay)
    weights = {"semantic": 1.0, "flow": run.flow}

    def loss(model: Voxtral, batch: SpeakerBatch, counts: dict[str, float]):
        sums = task.losses(batch)
        means = {name: sums[name] / counts[name] for name in weights}
        return sum(weights[name] * value for name, value in means.items()), means

    gradient = nn.value_and_grad(model, loss)
    began, means, figures, number = time.perf_counter(), {}, {}, 0
    batches = Batches(task, run, seed)
    while (progress := number / run.steps) < 1:
        batch = batches.next(progress)
        optimizer.learning_rate = run.rate(progress)
        (_, terms), gradients = gradient(model, to_device(batch), task.targets(batch))
        gradients, norm = optim.clip_grad_norm(gradients, CLIP_NORM)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state, terms, norm)
        number += 1
        values = {name: float(value) for name, value in (terms | {"norm": norm}).items()}
        if not all(map(math.isfinite, values.values())):
            raise TrainingError(f"the speaking miniature: step {number} gave {values}")
        means = {name: means.get(name, value) * 0.98 + value * 0.02 for name, value in values.items()}
        if number % 100 == 0:
            line = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            say(f"{number}/{run.steps}  {(time.perf_counter() - began) / number * 1e3:.0f} ms  {line}")
        if number % every == 0:
            figures = measure(task)
            say("held out: " + "  ".join(f"{name} {value:.4f}" for name, value in figures.items()))
            if save is not None:
                save(model)
    return {**measure(task), "steps": number, "seconds": time.perf_counter() - began}


def measure(task: Everything) -> dict[str, float]:
    """Means of the losses on held-out utterances, and the share of semantic codes that the model would choose."""
    sums, counts = defaultdict(float), defaultdict(float)
    for batch in task.heldout_batches():
        for name, value in task.losses(to_device(batch)).items():
            sums[name] += float(value)
        for name, value in task.targets(batch).items():
            counts[name] += value
    return {name: sums[name] / counts[name] for name in counts if counts[name]} | task.extra_metrics()
