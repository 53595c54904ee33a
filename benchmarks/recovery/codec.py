"""Train the benchmark's codec from scratch: it stands for the one whose encoder nobody has.

The product's own architecture and quantisers, the paper's quantisation noise, and what a codec needs so that its codes
can be recovered at all: semantic codes that mean something (a linear classifier of the spoken units on the post-VQ
latent, standing in for Whisper), and decoded audio that the codec takes for what it decoded (the decoded waveform,
encoded again, has to give the same codes). Without the first, semantic codes are arbitrary; without the second, a small
codec does not recognise itself, and the true codes of decoded audio say nothing about real audio.

With a Whisper (`--whisper`), its decoder's states of natural speech are predicted as well, from post-VQ latents.

    python -m benchmarks.recovery.codec --output DIR --size full --speech DIR [--whisper DIR]
"""

import argparse
import json
import math
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map

from benchmarks.recovery import gates
from benchmarks.recovery.batches import Crops
from benchmarks.recovery.corpus import FRAME, TRACK_HOP, Corpus, build_corpus
from benchmarks.recovery.first_weights import new_student
from benchmarks.recovery.heard import HeardStates
from benchmarks.recovery.student import LossWeights, Stage, Student, losses
from benchmarks.recovery.vq import CodebookTrainer, codebook_scale, scaled_semantics
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import CODEC_PREFIX, WEIGHTS, Release, load_model, part_of
from mlx_voxclone.checkpoint.writer import Entry, save_tensors, write_safetensors
from mlx_voxclone.errors import TrainingError, VoxcloneError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.config import CodecConfig
from mlx_voxclone.model.quantizer import nearest_distance

STOCK, ENCODER, CLASSIFIER, GATES = "stock", "encoder.safetensors", "units.safetensors", "gates.json"
HEARD_WEIGHT = 4.0  # of the distance to a Whisper's states
WARM_UP, LAST_RATE = 0.03, 0.01  # share of the steps in which the learning rate rises; its last value, of the highest
CLIP_NORM = 1.0
REVIVE_EVERY = 20  # steps
KEPT_BATCHES = 80  # of semantic latents: what the codebook starts from
SAVE_SECONDS = 300
TIMED_STEPS = 50  # of a run with a time to keep, before its length is known


@dataclass(frozen=True)
class CodecRun:
    """How one size of codec is trained. Shares are of the run's steps.

    The semantic latents are not quantised at first: quantised from the start, all of them fall to one entry of a random
    codebook. Then k-means gives the first codebook. The cycle follows once there is audio worth encoding again.
    """

    preset: str  # of the miniature checkpoint whose codec this is
    steps: int
    batch: int = 8
    frames: int = 13  # of a crop: 1.04 s
    learning_rate: float = 3e-3
    layer_scale: float = 0.3
    quantise_from: float = 0.06
    cycle_from: float = 0.1
    cycle_full: float = 0.3  # in between, its weight grows
    revive_until: float = 0.7
    follow_until: float = 0.9  # then the codebook stands still, and encoder and decoder settle around it
    grid: int = TRACK_HOP  # samples: where crops may start
    told_until: float = 0.0  # up to then the decoder decodes true components, and the encoder learns to find them
    buzz: bool = False  # decode the recording's envelope on impulses, see `buzz.py`; start with energies of bands
    weights: LossWeights = field(default_factory=LossWeights)

    def stage(self, progress: float, temperature: float) -> Stage:
        """What is in force when `progress` (0 to 1) of the steps are done."""
        cycle = (progress - self.cycle_from) / (self.cycle_full - self.cycle_from)
        quantise, told = progress >= self.quantise_from, progress < self.told_until
        return Stage(quantise, min(1.0, max(0.0, cycle)), temperature, told)


RUNS = {
    "quick": CodecRun("tiny", 700),
    "full": CodecRun("small", 5500, weights=LossWeights(mel=1.5, units=2.0)),  # 45 minutes on one core
    "words": CodecRun(  # its decoder speaks words, on a buzz; under two hours on one core, see docs/LOG.md
        "small",
        17000,
        learning_rate=2.5e-3,
        told_until=0.5,
        cycle_from=0.75,
        cycle_full=0.8,
        buzz=True,
        weights=LossWeights(
            l1=20.0, phase=4.0, stft=0.0, mel=0.0, commitment=0.01, units=2.0, components=20.0, spread=0.0
        ),
    ),
    "speaking": CodecRun(
        "small", 4500, grid=FRAME, weights=LossWeights(l1=20.0, phase=4.0, mel=1.5, units=2.0, pitch=2.0)
    ),
}


def learning_rate(progress: float) -> float:
    """Share of the highest rate: a linear rise, then half a cosine down to `LAST_RATE`."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, LAST_RATE)
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


class CodecTraining:
    """One run's state: student, codebook, optimiser; `step` is one step of it."""

    def __init__(
        self,
        corpus: Corpus,
        run: CodecRun,
        config: CodecConfig,
        seed: int,
        start: Path | None = None,
        heard: HeardStates | None = None,
    ):
        self.run, self.config = run, config
        dim = heard.dim if heard else 0
        new = start is None
        begun = (corpus, config, run.layer_scale, seed, dim, run.buzz)
        self.student = new_student(*begun) if new else old_student(start, dim)
        self.crops = Crops(corpus, config, run.batch, run.frames, seed, run.grid, heard, run.buzz)
        self.book = CodebookTrainer(self.student.codec.quantizer.semantic_codebook, seed=seed)
        self.optimizer = optim.AdamW(learning_rate=run.learning_rate, betas=[0.8, 0.98], weight_decay=0.01)
        self._gradient = nn.value_and_grad(self.student, losses)
        self._recent: list[mx.array] = []
        self._quantises = start is not None
        self._temperature = 1.0 if start is None else nearest_distance(self.book.codebook.embedding)
        self.revived = 0

    def step(self, number: int, steps: int) -> dict[str, float]:
        """Step `number` of `steps`: the values of its terms.

        Raises:
            TrainingError: a term is not finite.
        """
        run, progress = self.run, number / steps
        self.optimizer.learning_rate = run.learning_rate * learning_rate(progress)
        stage = run.stage(progress, self._temperature)
        if stage.quantise and not self._quantises:
            self.book.start(mx.concatenate(self._recent), run.batch * run.frames)
            self._quantises = True
        (_, terms), gradients = self._gradient(self.student, self.crops.batch(number), run.weights, stage)
        gradients, terms["norm"] = optim.clip_grad_norm(gradients, CLIP_NORM)
        self.optimizer.update(self.student, gradients)
        z, codes = terms.pop("z").reshape(-1, self.config.semantic_dim), terms.pop("codes").reshape(-1)
        if stage.quantise and progress < run.follow_until:
            self.book.update(z, codes)
        mx.eval(self.student.parameters(), self.optimizer.state, terms, z)
        self._recent = [*self._recent[1 - KEPT_BATCHES :], z]
        if stage.quantise and number % REVIVE_EVERY == 0:
            if progress < run.revive_until:
                self.revived += self.book.revive(mx.concatenate(self._recent[-4:]))
            self._temperature = nearest_distance(self.book.codebook.embedding)
        values = {name: float(value) for name, value in terms.items()}
        if not all(map(math.isfinite, values.values())):
            raise TrainingError(f"the benchmark's codec: step {number} gave {values}")
        return values


def train_codec(
    corpus: Corpus,
    output: str | Path,
    size: str = "full",
    seed: int = 0,
    *,
    minutes: float | None = None,
    run: CodecRun | None = None,
    start: Path | None = None,
    first: int = 0,
    heard: HeardStates | None = None,
    say: Callable[[str], None] = print,
) -> dict:
    """Train, write the codec's directory, measure the gates on what was written.

    `output/` gets `stock/` (a checkpoint in the release's layout, with this decoder and quantiser and no encoder),
    `encoder.safetensors` (the encoder to be hidden), `units.safetensors` (the classifier: `weight`, `bias`) and
    `gates.json`. It is written every few minutes, so that a run that is stopped leaves a codec, too; an earlier codec
    in its place is replaced.

    Args:
        size: "quick" or "full": of codec, run and thresholds.
        minutes: train for about so long in place of the size's number of steps; the result then depends on the machine.
        run: in place of the size's.
        start: go on with the codec that a training has left in this directory, as at step `first`, which quantises
            already; the optimiser starts anew.
        heard: a Whisper's states of training clips, whose distance is a loss of weight `HEARD_WEIGHT`.
        say: hears of the progress.

    Returns:
        What `gates.json` holds: `figures`, `faults` (empty: the codec counts), `steps`, `ms_per_step`, `peak_gb`, and
        what it was trained on and how.

    Raises:
        TrainingError: the training blew up.
    """
    run, output = run or RUNS[size], Path(output)
    if heard is not None:
        run = replace(run, weights=replace(run.weights, heard=HEARD_WEIGHT))
    untrained = output.with_name(output.name + ".untrained")
    shutil.rmtree(untrained, ignore_errors=True)
    config = Release(make_micro(untrained, run.preset, seed)).config.codec
    training = CodecTraining(corpus, run, config, seed, start, heard)
    steps, began = run.steps, time.perf_counter()
    saved, means, number = began, {}, first
    while number < steps:
        values = training.step(number, steps)
        means = {name: means.get(name, value) * 0.98 + value * 0.02 for name, value in values.items()}
        number += 1
        now = time.perf_counter()
        if minutes is not None and number == TIMED_STEPS:  # the cycle will make steps a third longer
            steps = max(2 * TIMED_STEPS, int(minutes * 60 / ((now - began) / TIMED_STEPS * 1.3)))
        if number % 100 == 0:
            terms = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            ms = (now - began) / (number - first) * 1e3
            say(f"{number}/{steps}  {ms:.0f} ms  {terms}  revived {training.revived}")
        if now - saved > SAVE_SECONDS and number < steps:
            save_codec(training.student, untrained, output)
            saved = now
            say(f"{number}/{steps}  saved in {output}")
    seconds = time.perf_counter() - began
    save_codec(training.student, untrained, output)
    shutil.rmtree(untrained)
    figures = gates.measure(*load_codec(output), corpus)
    result = {
        "size": size,
        "seed": seed,
        "steps": steps,
        "first": first,
        "ms_per_step": round(seconds / (steps - first) * 1e3, 1),
        "peak_gb": round(_peak_gb(), 2),
        "faults": gates.judge(figures, gates.THRESHOLDS[size]),
        "figures": figures,
        "thresholds": asdict(gates.THRESHOLDS[size]),
        "run": asdict(run),
        "corpus": {name: value for name, value in corpus.about.items() if name != "units"},
    }
    write_text_atomic(output / GATES, json.dumps(result, indent=1) + "\n")
    return result


def _peak_gb() -> float:
    """The process's largest resident memory; macOS counts it in bytes, Linux in KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def save_codec(student: Student, untrained: Path, output: Path) -> None:
    """Write the codec's directory in place of an earlier one; values are rounded to BF16, as the release's are.

    Semantic latents are divided by a power of 2, so that the codebook's values are near 1.

    Args:
        untrained: the miniature checkpoint that lends everything but decoder and quantiser.
    """
    new = output.with_name(output.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(untrained, new / STOCK)
    scale = codebook_scale(student.codec)
    trained = {CODEC_PREFIX + k: v.astype(mx.bfloat16) for k, v in scaled_semantics(student.codec, scale).items()}
    source = TensorFile(untrained / WEIGHTS)
    entries = [
        Entry(name, "BF16", source.info(name).shape, lambda n=name: trained[n] if n in trained else source.raw(n))
        for name in source.names()
    ]
    (new / STOCK / WEIGHTS).unlink()
    write_safetensors(new / STOCK / WEIGHTS, entries, {"format": "pt"})
    save_tensors(new / ENCODER, {name: value for name, value in trained.items() if part_of(name) == "encoder"})
    save_tensors(new / CLASSIFIER, {"weight": student.classifier.weight * scale, "bias": student.classifier.bias})
    shutil.rmtree(output, ignore_errors=True)
    new.rename(output)


def old_student(directory: Path, heard_dim: int = 0) -> Student:
    """The student that `save_codec` wrote; classifier of pitch and map to heard states are not kept, and start anew."""
    model = load_model(Release(directory / STOCK), parts={"codec"}, encoder_file=directory / ENCODER)
    student = Student(model.audio_tokenizer, heard_dim)
    student.codec.update(tree_map(lambda value: value.astype(mx.float32), student.codec.parameters()))
    student.classifier.load_weights(list(mx.load(str(directory / CLASSIFIER)).items()))
    return student


def load_codec(directory: str | Path) -> tuple[Codec, np.ndarray, np.ndarray]:
    """What `train_codec` wrote: the codec with its own encoder; the classifier's weight [units, D] and bias [units]."""
    directory = Path(directory)
    model = load_model(Release(directory / STOCK), parts={"codec"}, encoder_file=directory / ENCODER)
    heads = TensorFile(directory / CLASSIFIER)
    return model.audio_tokenizer, np.array(heads.array("weight")), np.array(heads.array("bias"))


def main(argv: list[str] | None = None) -> int:
    """Train and judge; 0 if all gates are passed, 1 if not, 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery.codec", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="directory of the codec, replaced if there is one")
    parser.add_argument("--size", choices=list(RUNS), default="full")
    parser.add_argument(
        "--speech", type=Path, help="directory of real speech: READER/*.flac, CORPUS/SPEAKER/*.flac, *.flac"
    )
    parser.add_argument("--corpus", type=Path, help="directory of the corpus, used if it is there (OUTPUT-corpus)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the size's)")
    parser.add_argument("--start", type=Path, help="go on with a codec that a training has left in this directory")
    parser.add_argument("--first-step", type=int, default=0, help="with --start: the step that it had come to")
    parser.add_argument("--whisper", type=Path, help="mlx-whisper directory: the codec learns to predict its states")
    parser.add_argument(
        "--unheard", nargs="*", default=[], help="with --whisper: speakers whose language it does not know"
    )
    parser.add_argument("--minutes", type=float, help="train for about so long instead of the size's number of steps")
    args = parser.parse_args(argv)
    run = replace(RUNS[args.size], steps=args.steps or RUNS[args.size].steps)
    if args.start and not run.quantise_from * run.steps <= args.first_step < run.steps:
        parser.error(f"--first-step must be from {run.quantise_from * run.steps:.0f} to below {run.steps}")
    home = args.corpus or args.output.with_name(args.output.name + "-corpus")
    try:
        corpus = Corpus.load(home) if home.exists() else build_corpus(home, args.size, args.seed, args.speech)
        heard = None
        if args.whisper:
            kept = args.output.with_name(args.output.name + "-heard")
            heard = HeardStates(corpus, args.whisper, kept, args.unheard)
            print(
                f"whisper: {heard.report.heard + heard.report.found} clips, {heard.report.without_states} without words"
            )
        how = {"minutes": args.minutes, "run": run, "start": args.start, "first": args.first_step if args.start else 0}
        how["heard"] = heard
        result = train_codec(corpus, args.output, args.size, args.seed, **how)
    except VoxcloneError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(gates.table(result["figures"]))
    print(f"{result['steps']} steps of {result['ms_per_step']} ms, peak memory {result['peak_gb']} GB")
    print("\n".join(f"falls short: {fault}" for fault in result["faults"]) or "all gates passed")
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
