"""Transcripts that cannot be right, told by their lengths, and trainings that have too little to learn from."""

import numpy as np
import pytest

from mlx_voxclone.data.clips import Clip, PreparedData
from mlx_voxclone.data.listings.manifest import read_source
from mlx_voxclone.data.text_checks import check_same, doubtful, is_sayable, length_correlation
from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.files.texts import words
from mlx_voxclone.miniature.synth import SyntheticSpeaker, random_text, synthesise
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.train import checks
from mlx_voxclone.train.speaker.stage import usable

RATE = 24_000


def clip(name: str, text: str | None, seconds: float = 2.0) -> Clip:
    return Clip(name, f"{name}.flac", round(seconds * RATE), "ann", text, source=f"{name}.wav")


@pytest.fixture(scope="module")
def spoken() -> list[Clip]:
    """Clips as long as a synthetic voice is with their texts."""
    rng, found = np.random.default_rng(0), []
    for k in range(16):
        text = random_text(rng, int(rng.integers(2, 9)))
        found.append(clip(str(k), text, len(synthesise(text, SyntheticSpeaker.sample(0), k)) / RATE))
    return found


def moved(clips: list[Clip], by: int) -> list[Clip]:
    texts = [one.text for one in clips]
    return [clip(c.id, t, c.seconds) for c, t in zip(clips, texts[by:] + texts[:by], strict=True)]


def test_right_transcripts_are_not_doubted(spoken):
    assert length_correlation(spoken) > 0.7
    assert doubtful(spoken) == []


@pytest.mark.parametrize("by", [3, 5, 7])
def test_transcripts_of_other_recordings_are_doubted(spoken, by):
    (line,) = doubtful(moved(spoken, by))
    assert "the transcripts may belong to other recordings" in line


def test_lengths_that_tell_nothing(spoken):
    assert length_correlation(spoken[:9]) is None
    assert length_correlation([clip(c.id, c.text, 2.0) for c in spoken]) is None
    assert length_correlation([]) is None
    assert doubtful([clip(str(k), None) for k in range(20)]) == []


def test_a_text_that_nobody_says_so_fast_is_left_out(spoken):
    whole_book = clip("book", "papa mino lesu. " * 40)
    assert not is_sayable(whole_book)
    assert is_sayable(clip("fast", "a" * 60))  # 30 letters a second
    assert not is_sayable(clip("none", None))
    (line,) = doubtful([*spoken, whole_book])
    assert line.startswith("book.wav: its text (480 letters) is too long for 2.0 s, so it is left out")
    data = PreparedData(None, [*spoken, whole_book], [], _by_speaker={("ann", "train"): [*spoken, whole_book]})
    assert usable(data.train, data) == spoken


def test_one_text_for_all_is_refused(spoken):
    same = [clip(c.id, " Papa  mino." if k % 2 else "papa mino.") for k, c in enumerate(spoken)]
    with pytest.raises(DataError, match="all 16 transcripts are the same"):
        check_same(same)
    check_same(spoken)
    check_same(same[:2])
    check_same([clip(str(k), None) for k in range(3)])


@pytest.mark.parametrize("text", ["", "...", " \u200b ", "— ?!", "\n"])
def test_a_text_without_letters_says_nothing(tmp_path, text):
    assert words(text) is None
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "a.txt").write_text(text)
    (entry,) = read_source(tmp_path)
    assert entry.text is None


@pytest.mark.parametrize("text", ["Oh!", "3", "你好。", "ไทย", "हाँ"])
def test_a_text_in_any_script_says_something(text):
    assert words(f" {text}\n") == text


# --- what each training of an encoder learns from ---------------------------------------------------------------------


def configured(miniature, **changes):
    own = {"model": str(miniature), "data.path": "x", "encoder.pairs.per_voice": 4}
    return load_run_config("configs/voxtral_speaker.yaml", {**own, **changes})


def few(count: int) -> PreparedData:
    """So many clips of 4 s, a crop each, and one held out."""
    train, held = [clip(str(k), f"text {k}", 4.0) for k in range(count)], [clip("held", "more", 4.0)]
    return PreparedData(None, train, held, _by_speaker={("ann", "train"): train})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, None),  # encoder.train has a batch of 8, and 12 sentences, each three times, to learn from
        ({"encoder.refine.batch_size": 6}, "encoder.refine: batch_size 6 is larger than the training data .5 items"),
        ({"encoder.train.batch_size": 37}, "encoder.train: batch_size 37 is larger than the training data .36 items"),
        ({"encoder.train.epochs": 1}, None),  # of pairs, which are not made yet
        ({"encoder.refine.epochs": 1}, "encoder.refine: warmup_steps 20 must be less than the 1 steps"),
        ({"speaker.encoder": None}, "encoder.train: batch_size 8 is larger than the training data .5 items"),
        ({"speaker.encoder": None, "encoder.train.batch_size": 5, "encoder.refine.batch_size": 6}, "encoder.refine: b"),
        (
            {"speaker.encoder": None, "encoder.train.batch_size": 5, "encoder.refine.batch_size": 6, "judge.rounds": 0},
            None,
        ),
    ],
)
def test_batches_are_held_against_what_they_are_made_of(miniature, changes, text):
    """A base encoder learns from pairs, and is refined on recordings."""
    config, data = configured(miniature, **changes), few(5)
    if text is None:
        checks.check_data(config, data)
    else:
        with pytest.raises(ConfigError, match=text):
            checks.check_data(config, data)


def test_too_few_clips_are_counted_before_any_batch(miniature):
    with pytest.raises(DataError, match=r"\(1 training, 1 held out, 2 of them with a text\); at least two to learn"):
        checks.check_data(configured(miniature), few(1))
