"""The rows that become the voice: candidates, and their order by held-out likelihood.

A voice is a voice prompt: codes of some recorded speech of the speaker. Clips differ in how well the model can take the
voice from them. They are ordered by how well the model, behind each, predicts the codes that the encoder gives held-out
clips: its own ones, as the model pulls judged codes towards voices that it knows. The first ones then speak
(`deliver.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_voxclone.data.clips import Clip
from mlx_voxclone.train.judge.judge import CodeJudge, Evidence

SECONDS = (6.0, 12.0, 20.0)  # of joined clips; the model works best with 3 to 25 s of reference
DRAWS = 4  # joined candidates of each length
SINGLES = 8  # clips alone, the longest ones up to the greatest length
SCORED = 12  # held-out clips


@dataclass(frozen=True, eq=False)
class Voice:
    """A candidate.

    Attributes:
        name: the recordings that it is made of.
        codes: int32 `[37, N]`.
        source: the recording, where there is one alone.
        clips: ids of the clips that it is made of, in their order.
    """

    name: str
    codes: np.ndarray
    source: str | None = None
    clips: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scored:
    """A held-out clip with codes to score by."""

    text: str
    codes: np.ndarray


def candidates(
    clips: Sequence[Clip], codes: Mapping[str, np.ndarray], frame_rate: float, longest: float, seed: int = 0
) -> list[Voice]:
    """Single clips and several joined, at most `longest` seconds, drawn by the seed.

    Args:
        clips: of the one speaker, to take the voice from.
        codes: the encoder's own, by clip id: judged codes lie nearer to voices that the model knows already.
        longest: seconds of the longest candidate.
    """
    limit = max(1, round(longest * frame_rate))
    whole = [clip for clip in clips if codes[clip.id].shape[1] <= limit] or list(clips)
    singles = sorted(whole, key=lambda clip: (-codes[clip.id].shape[1], clip.id))[:SINGLES]
    voices = [Voice(_name(clip), codes[clip.id][:, :limit], _name(clip), (clip.id,)) for clip in singles]
    rng, frames = np.random.default_rng([seed, 0xF01CE]), [clip_codes.shape[1] for clip_codes in codes.values()]
    lengths = sorted({min(limit, round(seconds * frame_rate)) for seconds in SECONDS})
    for length in lengths:
        for _ in range(DRAWS if sum(frames) > length else 1):
            taken, count = [], 0
            for k in rng.permutation(len(clips)):
                taken.append(clips[k])
                count += codes[clips[k].id].shape[1]
                if count >= length:
                    break
            joined = np.concatenate([codes[clip.id] for clip in taken], axis=1)[:, :length]
            if len(taken) > 1:
                ids = tuple(clip.id for clip in taken)
                voices.append(Voice(" + ".join(_name(clip) for clip in taken), joined, clips=ids))
    return voices


def _name(clip: Clip) -> str:
    return str(clip.source or clip.path)


def _behind(voice: Voice, heldout: Sequence[Scored]) -> tuple[list[Evidence], list[np.ndarray]]:
    """Held-out clips behind a voice, and their codes, as the judge takes them to score."""
    none = np.zeros((0, 0), np.float32)
    return [Evidence(str(k), one.text, none, voice.codes) for k, one in enumerate(heldout)], [c.codes for c in heldout]


def voice_losses(judge: CodeJudge, voice: Voice, heldout: Sequence[Scored], semantic: float, flow: float) -> np.ndarray:
    """Weighted loss of each held-out clip behind a voice, float64 `[N]`; lower is better."""
    evidence, codes = _behind(voice, heldout)
    return semantic * judge.nats(evidence, codes) + flow * judge.flow_losses(evidence, codes)


def ranked_voices(
    judge: CodeJudge,
    voices: Sequence[Voice],
    heldout: Sequence[Scored],
    progress: Callable[[int], object] = lambda n: None,
) -> list[Voice]:
    """The candidates by how likely the semantic codes of held-out clips are behind them, the likeliest first.

    Args:
        heldout: with the encoder's own codes. Judged ones are likeliest behind voices that the model knows already.
    """
    nats = []
    for voice in voices:
        nats.append(judge.nats(*_behind(voice, heldout)).mean())
        progress(1)
    return [voices[k] for k in np.argsort(nats, kind="stable")]
