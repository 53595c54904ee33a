"""How well the miniature clones: what it says and in whose voice, for speakers it has never heard.

Every speaker's truth is known, so errors are errors and not opinions: the unit error rate of a recogniser, the distance
of the pitch in semitones, of the vocal tract's scale, and the cosine of a small speaker encoder's embeddings.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from benchmarks.speaking.ears import Ears, mean_embedding
from benchmarks.speaking.recogniser import edits, said
from mlx_voxclone.audio.prosody import pitch
from mlx_voxclone.errors import DataError
from mlx_voxclone.evaluate.measure import tails
from mlx_voxclone.miniature.readings import HELDOUT, Reading, readings
from mlx_voxclone.miniature.synth import SyntheticSpeaker
from mlx_voxclone.model import generation
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.speech.speaker import Speaker

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


def interval(values: np.ndarray) -> list[float]:
    """95 % bootstrap interval of the mean of values `[n]`."""
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    return np.quantile(values[drawn].mean(axis=1), tails(len(values))).tolist()


def summary(heard: Sequence[Heard], each: int = 1) -> dict[str, float]:
    """Unit error rate over all units, means of the rest, each with a 95 % bootstrap interval.

    Intervals are over outputs, or with `each` texts of each speaker in a row over speakers.
    """
    units = np.array([one.units for one in heard], float).reshape(-1, each).sum(axis=1)
    wrong = np.array([one.edits for one in heard], float).reshape(-1, each).sum(axis=1)
    drawn = np.random.default_rng(0).integers(len(units), size=(RESAMPLES, len(units)))
    rates = wrong[drawn].sum(axis=1) / units[drawn].sum(axis=1)
    found = {
        "unit_error": wrong.sum() / units.sum(),
        "unit_error_interval": np.quantile(rates, tails(len(units))).tolist(),
    }
    for name in ("similarity", "pitch", "tract"):
        usable = group_means([getattr(one, name) for one in heard], each)
        found[name] = float(usable.mean()) if len(usable) else float("nan")
        if len(usable):
            found[f"{name}_interval"] = interval(usable)
    found["pitch_right"] = float(np.mean([one.pitch < 1 for one in heard]))
    found["ended"] = float(np.mean([one.ended for one in heard]))
    return found


def group_means(values: Sequence[float], each: int) -> np.ndarray:
    """Means of every `each` values in a row, of those that are finite; groups without any are left out."""
    groups = [group[np.isfinite(group)] for group in np.reshape(np.array(values, float), (-1, each))]
    return np.array([group.mean() for group in groups if len(group)])


def gain(before: Sequence[Heard], after: Sequence[Heard], each: int) -> dict[str, float]:
    """What changed from `before` to `after`, the same texts of the same speakers, `each` texts of each in a row.

    Differences of unit error rate and mean similarity, each with a 95 % interval, drawn over speakers: what one of them
    says is not independent of what else he says. Of a single speaker, `each=1` draws over the texts.
    """
    shape = (len(before) // each, each)
    drawn = np.random.default_rng(0).integers(shape[0], size=(RESAMPLES, shape[0]))
    units = np.array([one.units for one in before], float).reshape(shape).sum(axis=1)
    more = np.array([b.edits - a.edits for a, b in zip(before, after, strict=True)], float).reshape(shape).sum(axis=1)
    gains = more[drawn].sum(axis=1) / units[drawn].sum(axis=1)
    closer = group_means([b.similarity - a.similarity for a, b in zip(before, after, strict=True)], each)
    return {
        "unit_error_gain": more.sum() / units.sum(),
        "unit_error_gain_interval": np.quantile(gains, tails(len(units))).tolist(),
        "similarity_gain": float(closer.mean()) if len(closer) else float("nan"),
        "similarity_gain_interval": interval(closer) if len(closer) else [float("nan")] * 2,
    }


def agreement(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Of codes of the same clips, 0-based `[37, T]` each: share of equal semantic codes, mean distance of levels."""
    same, distances = [], []
    for a, b in pairs:
        same.append(a[0] == b[0])
        distances.append(np.abs(a[1:].astype(int) - b[1:]).mean(axis=0))
    return {"semantic": float(np.concatenate(same).mean()), "levels": float(np.concatenate(distances).mean())}


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
    rows: Callable[[Case], mx.array | list[mx.array]] | None = None,
    *,
    seed: int = 0,
    written: Callable[[str], str] = str,
    sound: Callable[[Case], np.ndarray] | None = None,
) -> list[Heard]:
    """What the model says of each case's texts behind a voice.

    Args:
        codec: with the true encoder, for the speaker's own sound.
        speaker: the model, its adapters, and the encoder that hears references.
        rows: gives the voice of a case, `[N, dim]`, or a list with one for each of its texts; None: what the speaker's
            encoder makes of the reference.
        seed: of what is generated.
        written: what the model is given to read of a text.
        sound: `speaker_voice` of a case, where it is known already.
    """
    model, prompt = speaker.model, speaker.tokenizer.prompt
    rows = rows or (lambda case: speaker.voice_rows(reference=case.reference_wave()))
    prompts, limits, owners = [], [], []
    for case in cases:
        given = rows(case)
        for reading, voice in zip(case.said, given if isinstance(given, list) else [given] * len(case.said)):
            prompts.append(model.embed_prompt(prompt(written(reading.text), voice.shape[0]), voice)[0])
            limits.append(LEAST_FRAMES + FRAMES_PER_UNIT * len(said(reading.text)))
            owners.append((case, reading))
    voices = {id(case): speaker_voice(ears, codec, case) if sound is None else sound(case) for case in cases}
    generated = generation.generate_batch(
        model, prompts, max_frames=max(limits), seeds=[seed + k for k in range(len(prompts))]
    )
    found = []
    for one, limit, (case, reading) in zip(generated, limits, owners):
        codes, ended = one.codes[:, :limit], one.ended and one.codes.shape[1] <= limit
        wave = codec.decode_audio(codes) if codes.shape[1] else np.zeros(0, np.float32)
        found.append(judge(ears, wave, case, reading.text, voices[id(case)], ended))
    return found


def table(rows: dict[str, dict[str, float]], intervals: bool = False) -> str:
    """Markdown of summaries; `intervals`: with those of unit error, similarity, pitch and tract."""

    def figure(row: dict, name: str, form: str) -> str:
        ends = row.get(f"{name}_interval") if intervals else None
        return f"{row[name]:{form}}" + (f" ({ends[0]:{form}}..{ends[1]:{form}})" if ends else "")

    lines = [
        "| voice | unit error | similarity | pitch, semitones | pitch right | tract | ended |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, s in rows.items():
        pitch_of = f"{figure(s, 'pitch', '.2f')} | {s['pitch_right']:.0%}"
        lines.append(
            f"| {name} | {figure(s, 'unit_error', '.1%')} | {figure(s, 'similarity', '.3f')} | {pitch_of}"
            f" | {figure(s, 'tract', '.3f')} | {s['ended']:.0%} |"
        )
    return "\n".join(lines)
