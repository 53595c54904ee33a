"""What a run delivers: the adapted model or the released one behind the same recordings, whichever measures better.

Both speak held-out sentences, each behind the voice that suits it best: of the likeliest few (`voice.py`) the one
whose speech follows its text most closely. They are compared sentence by sentence:

- `code_loss`: of judged codes of held-out clips, how well the model predicts them (semantic cross-entropy plus flow);
- `unexplained`: how unlikely the generated codes are under the released model behind their text, as a share of how
  unlikely they are behind another text. A model that mumbles or says other words gives codes that its text does not
  explain;
- `voice_distance`: of the acoustic values of the speech, encoded by the run's encoder, from those of the recordings;
- `ended`, and with judges in `speaker.listen` their similarity and error rate;
- `drift` of the model's own voices, where they are preserved.

Adapters are delivered if they predict held-out clips better and nothing else is worse beyond noise: a mean difference
of more than two standard errors over the sentences. Otherwise the released model is delivered, with the voice alone.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.data.clips import Clip, PreparedData
from mlx_voxclone.errors import DataError
from mlx_voxclone.evaluate.intelligibility import errors
from mlx_voxclone.model import generation
from mlx_voxclone.model.quantizer import levels_to_values
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.speech.speaker import read_reference
from mlx_voxclone.train.clone.voice import SCORED, Scored, Voice, candidates, ranked_voices, voice_losses
from mlx_voxclone.train.judge.judge import CodeJudge
from mlx_voxclone.train.judge.recovered import Recovered
from mlx_voxclone.train.judge.text_gain import unexplained
from mlx_voxclone.train.loop.heldout import spread
from mlx_voxclone.train.saved.result import TrainResult
from mlx_voxclone.train.speaker.listening import DRIFT, MAX_DRIFT, judges
from mlx_voxclone.train.speaker.preservation import without_adapters
from mlx_voxclone.train.stages.running import Run

ZERO_SHOT, ADAPTED, BEST = "zero-shot", "adapted", "best"
SENTENCES, AGAIN = 16, 4  # held-out texts that are spoken; where there are fewer, each up to 4 times with other noise
FINALISTS = 4  # voices that speak, the likeliest ones
LONGEST = 25.0  # seconds of a voice prompt: the released model works best with 3 to 25
MORE_FRAMES, FEWEST = 2, 25  # a sentence is cut off at twice its recording's frames and two seconds
UNEXPLAINED = "unexplained"
WORSE = (UNEXPLAINED, "voice_distance", "not_ended", "error_rate", "dissimilarity")  # higher is worse


@dataclass(frozen=True, eq=False)
class Measured:
    """One candidate.

    Attributes:
        name: `zero-shot` or `adapted`.
        voice: behind which it speaks.
        values: per sentence or clip, float64 `[N]`, by the name of the figure; those of WORSE, and `code_loss`.
    """

    name: str
    voice: Voice
    values: Mapping[str, np.ndarray] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """Means, for the summary."""
        means = {name: float(np.nanmean(values)) for name, values in self.values.items() if len(values)}
        return {"name": self.name, "voice": self.voice.name, **means}


@dataclass(frozen=True, eq=False)
class Delivery:
    """What is delivered: `chosen`, why, and what was measured of all."""

    chosen: Measured
    why: str
    measured: tuple[Measured, ...] = ()

    @property
    def adapted(self) -> bool:
        return self.chosen.name == ADAPTED


def worse(candidate: np.ndarray, other: np.ndarray) -> bool:
    """Whether paired values are higher by more than two standard errors of their mean difference."""
    difference = (candidate - other)[np.isfinite(candidate - other)]
    if not len(difference):
        return False
    error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return bool(difference.mean() > max(2 * error, 1e-9))


def choose(zero_shot: Measured, adapted: Measured, drift: float | None, max_drift: float) -> tuple[Measured, str]:
    """The candidate to deliver, and why, in a sentence."""
    if drift is not None and drift > max_drift:
        return zero_shot, f"adapting changed the model's own voices by {drift:.3f} nats (limit {max_drift:g})"
    spoilt = [name for name in WORSE if name in adapted.values and worse(adapted.values[name], zero_shot.values[name])]
    if spoilt:
        what = ", ".join(f"{name} {_mean(zero_shot, name):.3g} -> {_mean(adapted, name):.3g}" for name in spoilt)
        return zero_shot, f"adapting made it worse ({what})"
    if "code_loss" in adapted.values:
        before, after = _mean(zero_shot, "code_loss"), _mean(adapted, "code_loss")
        change = f"({before:.4g} -> {after:.4g})"
        if not after < before:
            return zero_shot, f"adapting did not bring the held-out recordings nearer {change}"
        return adapted, f"adapted, the model predicts the held-out recordings better {change}, and nothing became worse"
    return adapted, "nothing became worse by adapting"


def _mean(measured: Measured, name: str) -> float:
    return float(np.nanmean(measured.values[name]))


def deliver(
    config: RunConfig,
    data: PreparedData,
    recovered: Recovered,
    model: Voxtral,
    tokenizer: SpeechTokenizer,
    result: TrainResult,
    run: Run,
) -> Delivery:
    """Measure both candidates and choose.

    Args:
        recovered: codes of the clips, the encoder.
        model: the released one with the adapters, kept apart, and with that encoder.
        result: of the adapters' training.

    Raises:
        DataError: there is no clip to take a voice from.
    """
    bench = _Bench(config, data, recovered, model, CodeJudge(model, tokenizer.prompt), tokenizer)
    voices = {name: bench.voices(name == ADAPTED) for name in (ZERO_SHOT, ADAPTED)}
    total = sum(len(listed) + min(FINALISTS, len(listed)) * len(bench.texts) for listed in voices.values())
    with run.reporter.bar(total=total, unit="step", desc="comparing") as bar:
        with without_adapters(model):
            zero_shot = bench.measure(ZERO_SHOT, voices[ZERO_SHOT], bar.update)
        adapted = bench.measure(ADAPTED, voices[ADAPTED], bar.update)
    drift = _best_metrics(result).get(DRIFT)
    chosen, why = choose(zero_shot, adapted, drift, MAX_DRIFT)
    if (wanted := config.bake.deliver) != BEST:
        verdict = f"{chosen.name} measures better: {why}" if wanted != chosen.name else why
        chosen, why = {ZERO_SHOT: zero_shot, ADAPTED: adapted}[wanted], f"bake.deliver asks for it ({verdict})"
    run.say(f"delivered: {chosen.name}; {why}")
    return Delivery(chosen, why, (zero_shot, adapted))


def main_speaker(data: PreparedData) -> str:
    """The speaker with the most training data: a voice is that of one person, never joined from several."""
    seconds: dict[str, float] = {}
    for clip in data.train or data.heldout:
        seconds[clip.speaker] = seconds.get(clip.speaker, 0.0) + clip.seconds
    if not seconds:
        raise DataError("there is no clip to take the voice from")
    return min(seconds, key=lambda name: (-seconds[name], name))


def measured_clips(data: PreparedData, coded: Container[str]) -> list[Clip]:
    """Up to SENTENCES clips of the main speaker to measure by: held-out ones, or training clips where there are none.

    Args:
        coded: ids of the clips that have judged codes.
    """
    speaker = main_speaker(data)
    sides = ([clip for clip in side if clip.text and clip.id in coded] for side in (data.heldout, data.train))
    heldout, train = ([clip for clip in side if clip.speaker == speaker] for side in sides)
    return spread(heldout or train, SENTENCES)


def longest_prompt(config: RunConfig, adapted: bool) -> float:
    """Seconds of the longest candidate for the voice. Behind longer ones than the model is used to, held-out clips are
    much less likely."""
    longest = config.speaker.reference_seconds[1]
    return longest if adapted else max(longest, LONGEST)


def _best_metrics(result: TrainResult) -> Mapping[str, float]:
    """Held-out metrics of the state that `best/` holds."""
    return next((e["metrics"] for e in result.evaluations if e["step"] == result.best_step), {})


class _Bench:
    """Measures a model with its adapters on or off, as they are when it is called."""

    def __init__(
        self,
        config: RunConfig,
        data: PreparedData,
        recovered: Recovered,
        model: Voxtral,
        judge: CodeJudge,
        tokenizer: SpeechTokenizer,
    ):
        self.config, self.data, self.codes, self.model = config, data, recovered.codes, model
        self.judge, self.prompt = judge, tokenizer.prompt
        self._judges = judges(config.speaker.listen)
        judged = recovered.judged.codes or recovered.codes
        self.speaker = main_speaker(data)
        clips = measured_clips(data, judged)
        self.scored = [Scored(clip.text, judged[clip.id]) for clip in clips[:SCORED]]
        self.encoded = [Scored(clip.text, recovered.codes[clip.id]) for clip in clips[:SCORED]]
        self.texts: list[Clip] = (AGAIN * clips)[:SENTENCES]
        own = [clip for clip in (*data.train, *data.heldout) if clip.speaker == self.speaker]
        recorded = [self._profile(recovered.codes[clip.id]) for clip in own]
        self._recorded = np.mean(recorded, axis=0), np.std(recorded, axis=0) + 1e-3

    def voices(self, adapted: bool) -> list[Voice]:
        """The candidates, up to the length that the model is used to: of its release, or of its adapters' training.
        Where `bake.reference` is set, that alone."""
        if self.config.bake.reference is not None:
            return [self._reference]
        clips = [clip for clip in self.data.train or self.data.heldout if clip.speaker == self.speaker]
        if not clips:
            raise DataError("there is no clip to take the voice from")
        longest = longest_prompt(self.config, adapted)
        return candidates(clips, self.codes, self.model.config.codec.frame_rate, longest, self.config.seed)

    @cached_property
    def _reference(self) -> Voice:
        path = self.config.bake.reference
        return Voice(str(path), self.model.audio_tokenizer.audio_codes(read_reference(path)), str(path))

    def measure(self, name: str, voices: Sequence[Voice], progress: Callable[[int], object]) -> Measured:
        losses, finalists = self.config.speaker.losses, []
        for voice in ranked_voices(self.judge, voices, self.encoded, progress)[:FINALISTS]:
            code_loss = voice_losses(self.judge, voice, self.scored, losses.semantic, losses.flow)
            finalists.append(Measured(name, voice, {"code_loss": code_loss, **self._spoken(voice)}))
            progress(len(self.texts))
        return min(finalists, key=lambda one: _mean(one, UNEXPLAINED) if UNEXPLAINED in one.values else 0.0)

    def _spoken(self, voice: Voice) -> dict[str, np.ndarray]:
        """Figures of the sentences, spoken behind a voice."""
        rows, prompts, limits = self.model.voice_embedding(voice.codes), [], []
        for clip in self.texts:
            prompts.append(self.model.embed_prompt(self.prompt(clip.text, rows.shape[0]), rows)[0])
            limits.append(MORE_FRAMES * self.codes[clip.id].shape[1] + FEWEST)
        seeds = [self.config.seed + k for k in range(len(prompts))]
        spoken = generation.generate_batch(self.model, prompts, max_frames=max(limits), seeds=seeds) if prompts else []
        ended = [one.ended and one.codes.shape[1] <= limit for one, limit in zip(spoken, limits)]
        codes = [one.codes[:, :limit] for one, limit in zip(spoken, limits)]
        return {"not_ended": 1.0 - np.array(ended, dtype=float), **self._measured(voice, codes)}

    def _measured(self, voice: Voice, codes: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Figures of generated codes, per sentence. Where there are none, nothing is explained and the rest is NaN."""
        codec = self.model.audio_tokenizer
        names = ["voice_distance"]
        names += [] if self._judges is None else ["dissimilarity"] + ["error_rate"] * (self._judges[1] is not None)
        measures = {name: np.full(len(codes), np.nan) for name in names}
        if (share := self._unexplained(voice, [clip.text for clip in self.texts], codes)) is not None:
            measures = {UNEXPLAINED: share, **measures}
        mean, deviation = self._recorded
        for k in (k for k, one in enumerate(codes) if one.shape[1]):
            samples = codec.decode_audio(codes[k])
            distance = (self._profile(codec.audio_codes(samples)) - mean) / deviation
            measures["voice_distance"][k] = np.sqrt(np.mean(np.square(distance)))
            if self._judges is not None:
                self._judged_sound(measures, k, samples)
        return measures

    def _unexplained(self, voice: Voice, texts: Sequence[str], codes: Sequence[np.ndarray]) -> np.ndarray | None:
        """Nats of codes behind their texts, as shares of those behind other texts, under the released model: `[N]`, 1.0
        where there are none; None where all texts are the same."""
        if len(set(texts)) < 2:
            return None
        others = [min((t for t in texts if t != own), key=lambda t: abs(len(t) - len(own))) for own in texts]
        share, spoken = np.ones(len(codes)), [k for k, one in enumerate(codes) if one.shape[1]]
        of_spoken = ([values[k] for k in spoken] for values in (codes, texts, others))
        with without_adapters(self.model):
            share[spoken] = unexplained(self.judge, *of_spoken, [voice.codes] * len(spoken))
        return share

    def _judged_sound(self, measures: dict[str, np.ndarray], k: int, samples: np.ndarray) -> None:
        speaker, recogniser = self._judges
        clip = self.texts[k]
        try:
            measures["dissimilarity"][k] = 1 - float(np.dot(speaker.embed(samples), speaker.embed(clip.read())))
        except DataError:  # too short to be judged
            measures["dissimilarity"][k] = 1.0
        if recogniser is not None:
            edits = errors(clip.text, recogniser.understand(samples))
            measures["error_rate"][k] = edits.letter_edits / max(1, edits.letters)

    def _profile(self, codes: np.ndarray) -> np.ndarray:
        """Mean acoustic values `[36]` of codes `[37, T]`."""
        return levels_to_values(codes[1:], self.model.config.codec.acoustic_codebook_size).mean(axis=1)
