"""From recordings to codes: the run's encoder, its codes of all clips, and those that the language model judges right.

Expectation and maximisation in turns. The encoder gives evidence, the language model judges the codes of transcribed
clips (`train/judge/judge.py`), and the encoder is trained on them beside pairs; `judge.rounds` says how often. A round
counts only if the new encoder's own codes of held-out clips are likelier under the language model than those of the
one before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.files.hub import ENCODER_FILE
from mlx_voxclone.pairs.clip_codes import CODES_FILE, clip_codes
from mlx_voxclone.pairs.data import Pair, PairData
from mlx_voxclone.process.amounts import format_seconds
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.fields import AUTO
from mlx_voxclone.train.clone.base_encoder import base_encoder, keep_base, linked, starts_from_base
from mlx_voxclone.train.encoder.inputs import EncoderInputs, encoder_inputs
from mlx_voxclone.train.encoder.stage import best_encoder, train_encoder
from mlx_voxclone.train.judge.auto_pairs import automatic_pairs, cached_own_pairs, said_gain
from mlx_voxclone.train.judge.codes import JudgedCodes, judged_codes, unfitting
from mlx_voxclone.train.judge.recovered import Recovered
from mlx_voxclone.train.judge.text_gain import PAIRS, check_model
from mlx_voxclone.train.saved.result import TrainResult
from mlx_voxclone.train.stages.running import Run
from mlx_voxclone.train.stages.stage import trained

CODES, ENCODER = "codes", "encoder"  # in the run directory


def recover(config: RunConfig, data: PreparedData, run: Run) -> Recovered:
    """Train the encoder (unless one is given, or the model has its own), encode all clips, judge the transcribed ones.

    Called again after an interruption, it goes on where it was.

    Raises:
        VoxcloneError: whatever a stage refuses.
    """
    steps, say, run_dir = _Steps(config, data, run), run.say, run.directory
    if ENCODER not in trained(config):
        encoder = config.speaker.encoder_file
        codes = steps.encode(encoder, 1)
        recovered = Recovered(encoder, codes, steps.judge(encoder, codes, 1))
        _warn_of_unfitting(recovered, data, say)
        return recovered
    inputs = run.ranks.in_turn(lambda: encoder_inputs(config, data, run))
    if steps.judges and config.judge.check_texts and config.encoder.pairs.path == AUTO:
        check_model(config.model, said_gain(config, run.release))
    base = steps.base()
    say("encoder: training the codec's encoder on the recordings" + (" and pairs" if inputs.pairs else ""))
    results = {ENCODER: steps.train(ENCODER, base, inputs)}
    best = steps.recovered(best_encoder(run_dir / ENCODER), 1)
    rounds = [_figures(ENCODER, best)]
    for number in range(2, config.judge.rounds + 2 if best.judged.codes else 2):
        name = f"{ENCODER}-{number}"
        say(f"{name}: training the encoder on the judged codes")
        results[name] = steps.train(name, best.encoder, inputs, best.judged)
        new = steps.recovered(best_encoder(run_dir / name), number)
        rounds.append(_figures(name, new))
        if not new.judged.raw_nats < best.judged.raw_nats:
            say(f"{name}: held-out codes became no likelier, so the previous round's encoder is kept")
            break
        best = new
    if run.ranks.first:
        linked(best.encoder, run_dir / ENCODER_FILE)  # where a user looks for it, from whichever round
    recovered = Recovered(best.encoder, best.codes, best.judged, results, rounds)
    _warn_of_unfitting(recovered, data, say)
    return recovered


def _warn_of_unfitting(recovered: Recovered, data: PreparedData, say: Callable[[str], None]) -> None:
    """A line for each clip that was left out."""
    for line in unfitting(recovered.judged, data.clips):
        say(f"warning: {line}")


def _figures(name: str, recovered: Recovered) -> dict[str, Any]:
    return {"encoder": name, "heldout_nats": recovered.judged.raw_nats, **recovered.judged.facts}


@dataclass(frozen=True)
class _Steps:
    """The steps of a round, each kept in the run directory."""

    config: RunConfig
    data: PreparedData
    run: Run

    def base(self) -> Path | None:
        """The model's base encoder, where the pairs are automatic; None: the run trains its own from the start."""
        if not starts_from_base(self.config):
            return None
        pairs = automatic_pairs(self.config, self.run.release, self.run.reporter.without_lines())
        return keep_base(base_encoder(self.config, pairs, self.run), self.run.directory)

    def train(
        self, name: str, start: Path | None, inputs: EncoderInputs, judged: JudgedCodes | None = None
    ) -> TrainResult:
        """Train from `start` by `encoder.refine`, or from the start by `encoder.train`."""
        config = self.config
        if start is not None:
            section = config.encoder
            pairs = section.pairs.model_copy(update={"alone_steps": 0})
            refined = {"weights": start, "train": section.refining, "pairs": pairs}
            config = config.model_copy(update={"encoder": section.model_copy(update=refined)})
        codes = None if judged is None else judged.codes
        result = train_encoder(config, self.data, inputs, self.run.within(name), codes)
        mx.clear_cache()
        return result

    def recovered(self, encoder: Path, number: int) -> Recovered:
        codes = self.encode(encoder, number)
        return Recovered(encoder, codes, self.judge(encoder, codes, number))

    def encode(self, encoder: Path | None, number: int) -> dict[str, np.ndarray]:
        run, path = self.run, self._file(CODES_FILE, number)
        run.say(f"codes: encoding {format_seconds(3600 * self.data.hours)} of speech")
        return run.ranks.in_turn(lambda: clip_codes(run.release, encoder, self.data, path, run.reporter.over))

    @property
    def judges(self) -> bool:
        """False for a language that is still to be learnt: the model cannot judge by it."""
        return self.config.judge.enabled and self.config.adapts != "language"

    def pairs(self) -> list[Pair]:
        """Utterances of the model, if there are pairs; held-out ones alone where these are many."""
        paths = self.config.encoder.pairs.path or []
        if paths == AUTO:
            cached = cached_own_pairs(self.config, self.run.release)
            paths = [] if cached is None else [cached]
        if not paths:
            return []
        data = PairData.of_model(paths, self.run.release, seed=self.config.seed)
        sides = ([pair for pair in side if not pair.is_moved] for side in (data.heldout, data.train))
        heldout, train = sides
        return heldout if len(heldout) >= PAIRS else [*heldout, *train]

    def judge(self, encoder: Path | None, codes: dict[str, np.ndarray], number: int) -> JudgedCodes:
        if not self.judges:
            return JudgedCodes({})
        path = self._file("judged.safetensors", number)
        arguments = (self.config, self.run.release, encoder, self.data, codes, path, self.run.reporter, self.pairs)
        judged = self.run.ranks.in_turn(lambda: judged_codes(*arguments))
        if judged.facts:
            facts = judged.facts
            self.run.say(
                f"judge: {facts['clips']} clips, {facts['changed_semantic']:.0%} of the semantic codes changed, mean"
                f" confidence {facts['confidence']:.0%}"
            )
        return judged

    def _file(self, name: str, number: int) -> Path:
        """The file of a round: `codes.safetensors`, `codes-2.safetensors`, ..."""
        path = self.run.directory / CODES / name
        return path if number == 1 else path.with_stem(f"{path.stem}-{number}")
