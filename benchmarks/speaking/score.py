"""How well the miniature clones: what it says and in whose voice, for speakers it has never heard.

Every speaker's truth is known, so errors are errors and not opinions: the unit error rate of a recogniser, the distance
of the pitch in semitones, of the vocal tract's scale, and the cosine of a small speaker encoder's embeddings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from benchmarks.speaking.ears import Ears, mean_embedding
from benchmarks.speaking.recogniser import edits, said
from benchmarks.speaking.utterances import HELDOUT, Reading, readings
from mlx_voxclone.data.synth import SyntheticSpeaker
from mlx_voxclone.errors import DataError
from mlx_voxclone.evaluate.prosody import pitch
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.synthesis import Speaker

FRAMES_PER_UNIT, LEAST_FRAMES = 4, 20  # a runaway is cut off well beyond the slowest speaker
RESAMPLES = 1000
NO_PITCH = 24.0  # semitones, where nothing is voiced


@dataclass(frozen=True)
class Case:
    """Attributes: speaker; texts: to be said; reference: what the model hears of the speaker, readings joined."""

    speaker: SyntheticSpeaker
    said: tuple[Reading, ...]
    reference: tuple[Reading, ...]

    def reference_wave(self) -> np.ndarray:
        return np.concatenate([reading.wave() for reading in self.reference])


def heldout_cases(speakers: int, texts: int = 3, seed: int = 7, first: int = HELDOUT) -> list[Case]:
    """Speakers whom neither the codec nor the language model nor the ears have heard; two readings for reference."""
    found = []
    for k in range(speakers):
        own = readings(first + k, 1, texts + 2, seed, (4, 8))
        found.append(Case(own[0].speaker, tuple(own[:texts]), tuple(own[texts:])))
    return found


@dataclass(frozen=True)
class Heard:
    """One output. `tract`, `similarity`: NaN where too little was said."""

    edits: int
    units: int
    similarity: float
    pitch: float  # semitones from the truth
    tract: float
    ended: bool


def judge(ears: Ears, samples: np.ndarray, case: Case, text: str, voice: np.ndarray, ended: bool = True) -> Heard:
    """Judge one output of `case` that should say `text`; `voice` is the embedding of what the speaker sounds like."""
    try:
        similarity = float(ears.listener.embed(samples) @ voice)
        tract = abs(ears.listener.tract(samples) - case.speaker.formant_scale)
    except DataError:
        similarity = tract = float("nan")
    median = pitch(samples).median if len(samples) else float("nan")
    away = abs(12 * np.log2(median / case.speaker.pitch_hz)) if np.isfinite(median) else NO_PITCH
    wanted = said(text)
    return Heard(edits(wanted, ears.recogniser.hear(samples)), len(wanted), similarity, away, tract, ended)


def summary(heard: Sequence[Heard]) -> dict[str, float]:
    """Unit error rate over all units, means of the rest, each with a 95 % bootstrap interval over outputs."""
    units = np.array([one.units for one in heard], float)
    wrong = np.array([one.edits for one in heard], float)
    drawn = np.random.default_rng(0).integers(len(heard), size=(RESAMPLES, len(heard)))
    rates = wrong[drawn].sum(axis=1) / units[drawn].sum(axis=1)
    found = {
        "unit_error": wrong.sum() / units.sum(),
        "unit_error_interval": np.quantile(rates, [0.025, 0.975]).tolist(),
    }
    for name in ("similarity", "pitch", "tract"):
        values = np.array([getattr(one, name) for one in heard])
        usable = values[np.isfinite(values)]
        found[name] = float(usable.mean()) if len(usable) else float("nan")
        if len(usable):
            means = usable[np.random.default_rng(0).integers(len(usable), size=(RESAMPLES, len(usable)))].mean(axis=1)
            found[f"{name}_interval"] = np.quantile(means, [0.025, 0.975]).tolist()
    found["pitch_right"] = float(np.mean([one.pitch < 1 for one in heard]))
    found["ended"] = float(np.mean([one.ended for one in heard]))
    return found


def gain(before: Sequence[Heard], after: Sequence[Heard], each: int) -> dict[str, float]:
    """What changed from `before` to `after`, the same texts of the same speakers, `each` texts of each in a row.

    Differences of unit error rate and mean similarity, each with a 95 % interval, drawn over speakers: what one of them
    says is not independent of what else he says.
    """
    shape = (len(before) // each, each)
    drawn = np.random.default_rng(0).integers(shape[0], size=(RESAMPLES, shape[0]))
    units = np.array([one.units for one in before], float).reshape(shape).sum(axis=1)
    more = np.array([b.edits - a.edits for a, b in zip(before, after, strict=True)], float).reshape(shape).sum(axis=1)
    closer = np.array([b.similarity - a.similarity for a, b in zip(before, after, strict=True)]).reshape(shape)
    closer = np.nanmean(closer, axis=1)
    return {
        "unit_error_gain": more.sum() / units.sum(),
        "unit_error_gain_interval": np.quantile(
            more[drawn].sum(axis=1) / units[drawn].sum(axis=1), [0.025, 0.975]
        ).tolist(),
        "similarity_gain": float(closer.mean()),
        "similarity_gain_interval": np.quantile(closer[drawn].mean(axis=1), [0.025, 0.975]).tolist(),
    }


def speaker_voice(ears: Ears, codec: Codec, case: Case) -> np.ndarray:
    """What the speaker sounds like through the codec: the embedding of the reference's and the texts' true readings."""
    waves = [reading.wave() for reading in (*case.reference, *case.said)]
    return mean_embedding(ears.listener, [codec.decode_audio(codec.audio_codes(wave)) for wave in waves])


def score_recordings(ears: Ears, codec: Codec, cases: Sequence[Case], through: bool = True) -> list[Heard]:
    """The speakers themselves, as recorded (`through=False`) or through the codec: what no clone can exceed."""
    found = []
    for case in cases:
        voice = speaker_voice(ears, codec, case)
        for reading in case.said:
            wave = reading.wave()
            wave = codec.decode_audio(codec.audio_codes(wave)) if through else wave
            found.append(judge(ears, wave, case, reading.text, voice))
    return found


def score_model(
    ears: Ears,
    codec: Codec,
    speaker: Speaker,
    cases: Sequence[Case],
    rows: Callable[[Case], mx.array] | None = None,
    *,
    seed: int = 0,
    written: Callable[[str], str] = str,
) -> list[Heard]:
    """What the model says of each case's texts behind a voice.

    Args:
        codec: with the true encoder, for the speaker's own sound.
        speaker: the model, its adapters, and the encoder that hears references.
        rows: gives the voice of a case, `[N, dim]`; None: what the speaker's encoder makes of the reference.
        seed: of what is generated.
        written: what the model is given to read of a text.
    """
    model, prompt = speaker.model, speaker.tokenizer.prompt
    rows = rows or (lambda case: speaker.voice_rows(reference=case.reference_wave()))
    prompts, limits, owners = [], [], []
    for case in cases:
        voice = rows(case)
        for reading in case.said:
            prompts.append(model.embed_prompt(prompt(written(reading.text), voice.shape[0]), voice)[0])
            limits.append(LEAST_FRAMES + FRAMES_PER_UNIT * len(said(reading.text)))
            owners.append((case, reading))
    voices = {id(case): speaker_voice(ears, codec, case) for case in cases}
    generated = model.generate_batch(prompts, max_frames=max(limits), seeds=[seed + k for k in range(len(prompts))])
    found = []
    for one, limit, (case, reading) in zip(generated, limits, owners):
        codes, ended = one.codes[:, :limit], one.ended and one.codes.shape[1] <= limit
        wave = codec.decode_audio(codes) if codes.shape[1] else np.zeros(0, np.float32)
        found.append(judge(ears, wave, case, reading.text, voices[id(case)], ended))
    return found


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = [
        "| voice | unit error | similarity | pitch, semitones | pitch right | tract | ended |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, s in rows.items():
        lines.append(
            f"| {name} | {s['unit_error']:.1%} | {s['similarity']:.3f} | {s['pitch']:.2f} | {s['pitch_right']:.0%}"
            f" | {s['tract']:.3f} | {s['ended']:.0%} |"
        )
    return "\n".join(lines)
