"""May this codec stand for the one whose encoder is hidden? What is measured, and what it must reach.

All figures are of held-out clips, group by group, and of codes alone, as the LM has them: audio -> codes -> audio again
-> codes again. Chance stands beside every agreement: two code sequences of the same shares, independently drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from benchmarks.recovery.corpus import UNITS, Corpus, CorpusClip
from mlx_voxclone.losses import log_mel_loss, multi_resolution_stft_loss
from mlx_voxclone.model.codec import Codec

UNSEEN_REAL, SEEN_REAL = "real, unseen speaker", "real, seen speaker"


@dataclass(frozen=True)
class Thresholds:
    """What a codec has to reach to count as one that true codes could come from.

    Agreement of re-encoding is asked of every group. Unit error is asked of synthetic speakers alone, whose labels are
    exact (flite's are its own segments, taken for the nearest of the synthesiser's letters); audio quality of them and
    of real speakers, whom the benchmark scores, while the two engines are there for variety.
    """

    codes_used: float
    """Share of the codebook over all held-out clips: with few codes in use, to agree is no feat."""

    unit_error: float
    """Share of chance's error (always the commonest unit): below, codes mean something, on speakers never heard."""

    semantic_agreement: float
    """Share of frames whose semantic code comes back. Chance is 1 to 2 %; a codec that does not take its own audio for
    what it decoded (2 % in an early study) teaches nothing about real audio by its true codes."""

    level_error: float
    """Mean acoustic error in levels of what comes back, as a share of that of another frame's codes."""

    mel: float
    """Log-mel distance in nats of decoded audio. Measured on held-out clips: 0.7 for the same spectrum with random
    phases, 0.8 to 0.9 for white noise 30 dB below the speech, 2.1 (real) to 2.5 (synthetic) for another clip."""


_FULL = Thresholds(codes_used=0.5, unit_error=0.5, semantic_agreement=0.5, level_error=0.33, mel=1.1)
THRESHOLDS = {
    "full": _FULL,
    "words": _FULL,
    "speaking": _FULL,  # synthetic voices alone
    # Two minutes of training: the same kind of codec, blurred.
    "quick": Thresholds(codes_used=0.5, unit_error=0.75, semantic_agreement=0.3, level_error=0.5, mel=1.4),
}
WITH_UNITS, WITH_QUALITY = ("synthetic",), ("synthetic", SEEN_REAL, UNSEEN_REAL)


@dataclass(frozen=True)
class Round:
    """One clip there and back: `codes`, `again` [37, frames]; mel and STFT distance of the audio in between."""

    clip: CorpusClip
    codes: np.ndarray
    again: np.ndarray
    mel: float
    stft: float


def go_round(codec: Codec, clip: CorpusClip) -> Round:
    """Encode a clip, decode the codes, encode again."""
    samples = clip.read()
    codes = codec.audio_codes(samples)
    decoded = codec.decode_audio(codes)
    pair = mx.array(decoded[None, : len(samples)]), mx.array(samples[None])
    mel, stft = log_mel_loss(*pair), multi_resolution_stft_loss(*pair)
    return Round(clip, codes, codec.audio_codes(decoded), float(mel), float(stft))


def group_of(clip: CorpusClip, seen: set[str]) -> str:
    """Groups are the kinds of clips; real ones apart by whether training had their speaker."""
    return clip.kind if clip.kind != "real" else (SEEN_REAL if clip.speaker in seen else UNSEEN_REAL)


def unit_of_code(codec: Codec, clips: Sequence[CorpusClip]) -> np.ndarray:
    """The most frequent unit of each semantic code over labelled clips: `[codebook]`; of unused codes, the pause."""
    counts = np.zeros((codec.config.semantic_codebook_size, len(UNITS)), np.int64)
    for clip in clips:
        if clip.units is not None:
            np.add.at(counts, (codec.audio_codes(clip.read())[0], clip.units), 1)
    return counts.argmax(axis=1)


def measure(
    codec: Codec, weight: np.ndarray, bias: np.ndarray, corpus: Corpus, *, learn_on: int = 200
) -> dict[str, dict[str, float]]:
    """Figures of every group of held-out clips, and of `all` of them; errors and agreements are shares of 1.

    Args:
        codec: with its encoder.
        weight: `[units, semantic_dim]` of the unit classifier, and its `bias` `[units]`.
        learn_on: how many labelled training clips say which unit a code stands for (the second, classifier-free way).
    """
    rows = np.array(codec.quantizer.semantic_codebook.embedding)
    guessed = (rows @ weight.T + bias).argmax(axis=1)
    labelled = [clip for clip in corpus.split("train") if clip.units is not None]
    step = max(1, len(labelled) // learn_on)
    majority = unit_of_code(codec, labelled[::step])
    seen = {clip.speaker for clip in corpus.split("train")}
    rounds: dict[str, list[Round]] = {}
    for clip in corpus.split("heldout"):
        rounds.setdefault(group_of(clip, seen), []).append(go_round(codec, clip))
    rounds["all"] = [one for group in rounds.values() for one in group]
    size = codec.config.semantic_codebook_size
    return {group: _figures(them, size, guessed, majority) for group, them in rounds.items()}


def _figures(rounds: list[Round], size: int, guessed: np.ndarray, majority: np.ndarray) -> dict[str, float]:
    codes = np.concatenate([one.codes for one in rounds], axis=1)
    again = np.concatenate([one.again for one in rounds], axis=1)
    samples = np.array([one.codes.shape[1] for one in rounds], float)
    share, share_again = (np.bincount(c[0], minlength=size) / c.shape[1] for c in (codes, again))
    # Another frame's codes in place of the true ones, at every distance: what codes of these shares agree by chance.
    shifted = np.roll(codes, codes.shape[1] // 2, axis=1)
    result = {
        "clips": len(rounds),
        "frames": codes.shape[1],
        "codes_used": float((share > 0).mean()),
        "perplexity": float(np.exp(-np.sum(share[share > 0] * np.log(share[share > 0])))),
        "semantic_agreement": float(np.mean(codes[0] == again[0])),
        "semantic_agreement_chance": float(share @ share_again),
        "unit_agreement": float(np.mean(majority[codes[0]] == majority[again[0]])),
        "level_error": float(np.abs(codes[1:] - again[1:]).mean()),
        "level_error_chance": float(np.abs(shifted[1:] - again[1:]).mean()),
        "level_exact": float(np.mean(codes[1:] == again[1:])),
        "level_exact_chance": float(np.mean(shifted[1:] == again[1:])),
        "level_spread": float(codes[1:].std(axis=1).mean()),
        "mel": float(np.average([one.mel for one in rounds], weights=samples)),
        "stft": float(np.average([one.stft for one in rounds], weights=samples)),
    }
    known = [one for one in rounds if one.clip.units is not None]
    if known:
        result |= _unit_errors(known, guessed, majority)
    return result


def _unit_errors(rounds: list[Round], guessed: np.ndarray, majority: np.ndarray) -> dict[str, float]:
    units = np.concatenate([one.clip.units for one in rounds])
    codes = np.concatenate([one.codes[0] for one in rounds])
    again = np.concatenate([one.again[0] for one in rounds])
    return {
        "unit_error": float(np.mean(guessed[codes] != units)),
        "unit_error_majority": float(np.mean(majority[codes] != units)),
        "unit_error_again": float(np.mean(guessed[again] != units)),
        "unit_error_chance": float(1 - np.bincount(units).max() / len(units)),
    }


def judge(figures: dict[str, dict[str, float]], thresholds: Thresholds) -> list[str]:
    """What the codec falls short of, in words; empty: it counts."""
    faults = []
    if figures["all"]["codes_used"] < thresholds.codes_used:
        faults.append(f"codebook: {figures['all']['codes_used']:.0%} used, needs {thresholds.codes_used:.0%}")
    for group, values in figures.items():
        if group == "all":
            continue
        if group in WITH_UNITS:
            found = max(values[name] for name in ("unit_error", "unit_error_majority", "unit_error_again"))
            worst = thresholds.unit_error * values["unit_error_chance"]
            if found > worst:
                faults.append(f"{group}: unit error {found:.0%}, needs {worst:.0%}")
        if values["semantic_agreement"] < thresholds.semantic_agreement:
            found, least = values["semantic_agreement"], thresholds.semantic_agreement
            faults.append(f"{group}: semantic agreement {found:.0%}, needs {least:.0%}")
        worst = thresholds.level_error * values["level_error_chance"]
        if values["level_error"] > worst:
            faults.append(f"{group}: acoustic error {values['level_error']:.2f} levels, needs {worst:.2f}")
        if group in WITH_QUALITY and values["mel"] > thresholds.mel:
            faults.append(f"{group}: mel distance {values['mel']:.2f}, needs {thresholds.mel:.2f}")
    return faults


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures as text, one line per group."""
    columns = (
        *(("codes_used", "used", "{:.0%}"), ("unit_error", "unit err", "{:.1%}")),
        *(("unit_error_majority", "majority", "{:.1%}"), ("unit_error_again", "again", "{:.1%}")),
        *(("unit_error_chance", "chance", "{:.1%}"), ("semantic_agreement", "semantic", "{:.1%}")),
        *(("semantic_agreement_chance", "chance", "{:.1%}"), ("unit_agreement", "units", "{:.1%}")),
        *(("level_error", "levels", "{:.2f}"), ("level_error_chance", "chance", "{:.2f}")),
        *(("level_exact", "exact", "{:.1%}"), ("level_exact_chance", "chance", "{:.1%}")),
        *(("level_spread", "spread", "{:.2f}"), ("mel", "mel", "{:.3f}"), ("stft", "stft", "{:.4f}")),
    )
    lines = [f"{'':22}" + "".join(f"{title:>10}" for _, title, _ in columns)]
    for group, values in figures.items():
        cells = (form.format(values[name]) if name in values else "" for name, _, form in columns)
        lines.append(f"{group:22}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)
