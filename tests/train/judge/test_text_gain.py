"""What a low gain of texts means: the transcripts, the encoder or the model itself."""

from types import SimpleNamespace

import numpy as np
import pytest

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.data.clips import Clip, PreparedData
from mlx_voxclone.errors import CheckpointError, DataError, TranscriptError
from mlx_voxclone.pairs.code_usage import codebook_usage, foreign_codec, usage_correlation
from mlx_voxclone.pairs.data import Pair
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.judge import codes as judged_codes
from mlx_voxclone.train.judge.text_gain import LEAST_GAIN, PAIRS, check_model, pairs_gain, text_gains, why_none_fits

FITS, OTHER = 1.0, 2.0  # nats of a text's own codes, and of others


def codes_of(text: str, frames: int = 4) -> np.ndarray:
    """Codes that say a text: its number in all codebooks."""
    return np.full((37, frames), int(text.split()[-1]), np.int32)


class Said(Pair):
    """A pair that is heard as `heard` says."""

    def read(self, augmented=False):
        return self.text


def pair(number: int, voice: str = "ann") -> Pair:
    text = f"text {number}"
    return Said(str(number), None, None, text, "en", voice, 1920, codes_of(text).astype(np.int16))


class Judge:
    """Finds codes likelier behind the text that they say, if it follows texts; its encoder hears, or does not."""

    def __init__(self, follows: bool = True, hears: bool = True):
        deaf = np.full((37, 4), 10_000, np.int32)
        hear = SimpleNamespace(audio_codes=lambda text: codes_of(text) if hears else deaf)
        self.model, self.follows, self.prompts = SimpleNamespace(audio_tokenizer=hear), follows, []

    def nats(self, evidence, codes):
        self.prompts += [e.voice for e in evidence]
        right = [self.follows and (codes_of(e.text)[0, 0] == c[0, 0]) for e, c in zip(evidence, codes)]
        return np.where(right, FITS, OTHER)


def clips(count: int, wrong: tuple[int, ...] = ()) -> list[Clip]:
    """The ids say what is said; where they are wrong, the text is another one."""
    return [Clip(str(k), f"{k}.flac", 48_000, "ann", f"text {k + 100 * (k in wrong)}") for k in range(count)]


def test_the_gain_is_that_of_the_own_text_over_another():
    own = clips(4, wrong=(2,))
    codes = {clip.id: codes_of(clip.id) for clip in own}
    found = text_gains(Judge(), own, codes, dict.fromkeys(codes))
    assert found == {"0": 0.5, "1": 0.5, "2": 0.0, "3": 0.5}
    assert text_gains(Judge(), own[:1] * 2, codes, dict.fromkeys(codes)) == {}  # one text: nothing to compare with
    again = Clip("00", "00.flac", 48_000, "ann", "TEXT  0")  # the same words: no other text
    found = text_gains(Judge(), [*own, again], codes | {"00": codes_of("0")}, dict.fromkeys([*codes, "00"]))
    assert found == {"0": 0.5, "1": 0.5, "2": 0.0, "3": 0.5, "00": 0.5}


def test_pairs_are_compared_behind_another_pair_of_their_voice():
    judge, own = Judge(), [pair(k, voice) for k in range(4) for voice in ("ann", "bob")]
    own = [Said(f"{p.voice}{p.id}", None, None, p.text, "en", p.voice, 1920, p.stored) for p in own]
    assert pairs_gain(judge, own) == pytest.approx(0.5)
    assert pairs_gain(Judge(follows=False), own) == 0.0
    assert pairs_gain(Judge(hears=False), own) == pytest.approx(0.5)
    assert pairs_gain(Judge(hears=False), own, heard=True) == 0.0
    said = {tuple(p.codes[0, :1]) for p in own}
    assert {tuple(v[0, :1]) for v in judge.prompts} <= said
    for p, prompt in zip(own, judge.prompts):
        assert not np.array_equal(p.codes, prompt)


def test_few_pairs_tell_nothing_and_many_are_not_all_asked():
    assert pairs_gain(Judge(), []) is None
    assert pairs_gain(Judge(), [pair(0, "ann"), pair(1, "bob")]) is None
    judge = Judge()
    pairs_gain(judge, [pair(k) for k in range(5 * PAIRS)])
    assert len(judge.prompts) == 2 * PAIRS


@pytest.mark.parametrize(
    ("judge", "pairs", "error", "text"),
    [
        (Judge(follows=False), 8, CheckpointError, "model: this language model ignores its text"),
        (Judge(hears=False), 8, DataError, "the encoder is not good enough yet to check transcripts"),
        (Judge(), 8, TranscriptError, "the transcripts do not match the recordings"),
        (Judge(follows=False, hears=False), 0, TranscriptError, "the transcripts do not match the recordings"),
    ],
)
def test_who_is_to_blame(judge, pairs, error, text):
    found = why_none_fits(judge, "model", 0.01, [pair(k) for k in range(pairs)])
    assert type(found) is error
    assert text in str(found)
    assert "\n" not in str(found)
    assert "judge.enabled: false" in str(found)


def test_a_model_that_follows_its_text_is_not_refused():
    check_model("model", LEAST_GAIN)
    check_model("model", None)
    with pytest.raises(CheckpointError, match="ignores its text"):
        check_model("model", LEAST_GAIN - 0.01)


# --- what is left of the clips ----------------------------------------------------------------------------------------


def fitting(train: list[Clip], heldout: list[Clip], batch: int = 1):
    own = [*train, *heldout]
    config = RunConfig(task="clone", speaker={"train": {"batch_size": batch}})
    gains = text_gains(Judge(), own, {c.id: codes_of(c.id) for c in own}, dict.fromkeys(c.id for c in own))
    return judged_codes._fitting(config, Judge(), PreparedData(None, train, heldout), own, gains, list)


def test_clips_with_a_wrong_text_are_left_out():
    own = clips(8, wrong=(3, 6))
    kept, left_out = fitting(own[:6], own[6:])
    assert set(left_out) == {"3", "6"}
    assert [clip.id for clip in kept] == ["0", "1", "2", "4", "5", "7"]


def test_nothing_left_to_measure_by_is_refused_with_what_was_left_out():
    own = clips(8, wrong=(6, 7))
    with pytest.raises(
        TranscriptError,
        match=r"texts of 2 of 2 held-out clips do not match.*6\.flac 'text 106'.*and at least 1 must match",
    ):
        fitting(own[:6], own[6:])


def test_too_few_left_for_a_batch_are_refused():
    own = clips(12, wrong=(0, 1, 2, 3, 4))
    with pytest.raises(TranscriptError, match=r"5 of 10 training clips .* and 2 more\), and at least 6 must match"):
        fitting(own[:10], own[10:], batch=6)
    fitting(own[:10], own[10:], batch=5)


# --- language model and codec -----------------------------------------------------------------------------------------


def test_codes_that_the_codec_was_trained_on_correlate():
    rng = np.random.default_rng(0)
    usage = rng.lognormal(0, 1, 512)
    codes = rng.choice(512, 2000, p=usage / usage.sum())
    assert usage_correlation(codes, usage) > 0.5
    assert abs(usage_correlation(rng.permutation(512)[codes], usage)) < 4 / np.sqrt(511)
    assert usage_correlation(codes[:200], usage) is None
    assert usage_correlation(codes, np.ones(512)) is None


def test_a_codec_of_another_checkpoint_is_told(miniature):
    release, rng = Release(miniature), np.random.default_rng(1)
    usage = codebook_usage(release).astype(np.float64) ** 4
    codes = rng.choice(len(usage), 2000, p=usage / usage.sum())

    def said(semantic, voice="ann"):
        stored = np.concatenate([semantic[None], np.zeros((36, len(semantic)), np.int64)]).astype(np.int16)
        audio = miniature / "audio" / "0.flac"
        return Pair("0", audio, None, "papa", "en", voice, 1920, stored)

    foreign = rng.permutation(len(usage))[codes]
    assert foreign_codec(release, [said(codes)]) is None
    line = foreign_codec(release, [said(foreign)])
    assert f"{miniature}: language model and codec may be of different checkpoints" in line
    assert f"listen to {miniature / 'audio'}" in line
    assert foreign_codec(release, [said(foreign, "moved/ann")]) is None
    assert foreign_codec(release, []) is None
