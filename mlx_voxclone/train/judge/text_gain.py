"""How much a text explains of what is said, and why no transcript fits: the texts, the encoder, or the model itself.

The gain of a text is a comparison: behind its own text a clip's codes are likelier than behind another clip's. The
model's own pairs tell what a low gain means, as their texts are right: if what the model said itself gains nothing, it
does not follow texts; if that is lost when the encoder hears their audio, the encoder is what lacks.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mlx_voxclone.data.clips import Clip
from mlx_voxclone.errors import CheckpointError, DataError, TranscriptError, VoxcloneError
from mlx_voxclone.pairs.data import Pair
from mlx_voxclone.train.judge.judge import CodeJudge, Evidence

GROUP = 64  # clips whose evidence is in memory at once
LEAST_GAIN = 0.12  # where the median clip gains less, no transcript fits: 0.3 to 0.5 with right ones, 0.08 with wrong
PAIRS = 32  # pairs that are compared
VOICE_FRAMES = 50  # of their voice prompts
_WITHOUT = "judge.enabled: false goes on with the encoder's own codes"


def text_gains(
    judge: CodeJudge,
    clips: Sequence[Clip | Pair],
    codes: Mapping[str, np.ndarray],
    prompts: Mapping[str, np.ndarray],
    progress: Callable[[int], object] = lambda n: None,
) -> dict[str, float]:
    """How much likelier each clip's codes are behind its own text than behind another clip's: 1 - own / other, of the
    mean negative log-likelihoods. 0: the text makes no difference.

    The other text is that of the clip nearest in length among those with different words. Empty with fewer than two
    different texts: there is nothing to compare with.
    """
    words = {clip.id: " ".join(clip.text.casefold().split()) for clip in clips}
    if len(set(words.values())) < 2:
        progress(len(clips))
        return {}
    found: dict[str, float] = {}
    for first in range(0, len(clips), GROUP):
        group, nearest = clips[first : first + GROUP], []
        for clip in group:
            others = (other for other in clips if words[other.id] != words[clip.id])
            nearest.append(min(others, key=lambda other: (abs(len(other.text) - len(clip.text)), other.id)).text)
        own, voices = [codes[clip.id] for clip in group], [prompts[clip.id] for clip in group]
        shares = unexplained(judge, own, [clip.text for clip in group], nearest, voices)
        found |= {clip.id: float(1.0 - share) for clip, share in zip(group, shares)}
        progress(len(group))
    return found


def unexplained(
    judge: CodeJudge,
    codes: Sequence[np.ndarray],
    texts: Sequence[str],
    others: Sequence[str],
    voices: Sequence[np.ndarray],
) -> np.ndarray:
    """Mean negative log-likelihoods of codes behind their texts, as shares of those behind other texts: float64 `[N]`.

    Args:
        codes: int32 `[37, T]` of each.
        texts, others: its own text, and the one to compare with.
        voices: its voice prompt, `[37, N]`.
    """
    none = np.zeros((0, 0), np.float32)
    own, foreign = (
        judge.nats([Evidence(str(k), text, none, voices[k]) for k, text in enumerate(said)], codes)
        for said in (texts, others)
    )
    return own / foreign


def pairs_gain(judge: CodeJudge, pairs: Sequence[Pair], *, heard: bool = False) -> float | None:
    """Median gain of the texts of some pairs, each behind another pair of its voice; None with too few to compare.

    Args:
        pairs: what the model said, not moved.
        heard: not of the codes that were said, but of those that the model's encoder hears in their audio.
    """
    by_voice: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_voice.setdefault(pair.voice, []).append(pair)
    texted = [pair for pair in pairs if pair.text and len(by_voice[pair.voice]) > 1]
    chosen = [texted[k * len(texted) // PAIRS] for k in range(PAIRS)] if len(texted) > PAIRS else texted
    prompts = {}
    for pair in chosen:
        other = next(other for other in by_voice[pair.voice] if other is not pair)
        prompts[pair.id] = other.codes[:, :VOICE_FRAMES]
    codec = judge.model.audio_tokenizer
    codes = {pair.id: codec.audio_codes(pair.read()) if heard else pair.codes for pair in chosen}
    gains = text_gains(judge, chosen, codes, prompts)
    return float(np.median(list(gains.values()))) if gains else None


def check_model(place: object, said: float | None) -> None:
    """Refuse a language model whose own speech does not depend on the text.

    Args:
        place: of the model.
        said: gain of what it said (`pairs_gain`); None: not known.

    Raises:
        CheckpointError: nothing can be judged by it.
    """
    if said is not None and said < LEAST_GAIN:
        raise CheckpointError(
            f"{place}: this language model ignores its text: its own speech is as likely with another"
            f" text (median gain {said:.1%}, {LEAST_GAIN:.0%} expected), so it cannot judge recordings; get the"
            f" model again, or {_WITHOUT}"
        )


def why_none_fits(judge: CodeJudge, place: object, median: float, pairs: Sequence[Pair]) -> VoxcloneError:
    """What to tell where the texts of clips gain as little as `median`.

    Args:
        place: of the model.
        pairs: what the model said; none: the transcripts are to blame.
    """
    try:
        check_model(place, pairs_gain(judge, pairs))
    except CheckpointError as e:
        return e
    heard = pairs_gain(judge, pairs, heard=True)
    if heard is not None and heard < LEAST_GAIN:
        return DataError(
            "the encoder is not good enough yet to check transcripts: even for the model's own pairs,"
            f" whose texts are right, they make no difference (median gain {heard:.1%},"
            f" {LEAST_GAIN:.0%} expected); train"
            f" it longer (encoder.refine.steps; encoder.train.steps in a new run), or {_WITHOUT}"
        )
    return TranscriptError(
        "the transcripts do not match the recordings: a clip is no likelier with its own text than with another"
        f" clip's (median gain {median:.1%}, {LEAST_GAIN:.0%} expected); check that texts and audio belong together and"
        " are in a language of the model, and start a new run with other texts: pairs and base encoder are kept in the"
        f" cache; or {_WITHOUT}"
    )
