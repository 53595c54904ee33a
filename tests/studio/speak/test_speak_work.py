"""The work: sentence by sentence, cancelled, gone on with, and said again."""

import errno
import shutil

import numpy as np
import pytest
from short_speeches import SHORT, TEXT, begun, level_of, quiet

import mlx_voxclone
from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.miniature.micro import SPEAKING_FILES
from mlx_voxclone.studio.mistakes import Cancelled, Missing, Mistake
from mlx_voxclone.studio.models import Models
from mlx_voxclone.studio.speak import sound, work
from mlx_voxclone.studio.speak.history import seconds_of


def test_a_sentence_is_said_again_by_the_model_that_said_it(me, models, quick, miniature):
    speech = begun(me, seed="0")
    work.speak(speech, models, quiet)
    me.change_settings(model=str(miniature))
    work.again(speech, 0, models, quiet)
    assert level_of(speech) == [1, 1, 2]


@pytest.mark.slow
def test_it_speaks_what_narrate_speaks_and_again_with_the_same_pause_and_level(me, monkeypatch):
    monkeypatch.setattr(work, "_AT_ONCE", (1, 1))
    speech, models, calls = begun(me, text=SHORT, steps="3"), Models(), []
    work.speak(speech, models, lambda *call: calls.append(call))
    expected = list(mlx_voxclone.load(SPEAKING_FILES).narrate(SHORT, "alto", seed=3, steps=3, batch=1))
    first = speech.sentences()
    assert len(first) == len(expected) == 2
    heard = read_audio(sound.joined(speech, first).path)
    assert np.abs(heard - np.clip(np.concatenate(expected), -1, 1)).max() < 1e-4
    assert (calls[0][2], calls[-1]) == (work.LOADING, (2, 2, work.SPEAKING))
    assert seconds_of(first) == pytest.approx(len(heard) / 24000)

    work.again(speech, 0, models, quiet)
    second = speech.sentences()
    assert second[1].take == first[1].take
    assert second[0].take.seed == first[0].take.seed + 1
    old, new = (read_audio(speech.takes / one[0].take.file) for one in (first, second))
    for samples in (old, new):
        last = np.flatnonzero(np.abs(samples) > 1e-3)[-1]
        assert (len(samples) - last) / 24000 > first[0].pause / 2
    assert abs(20 * np.log10(np.sqrt((old**2).mean() / (new**2).mean()))) < 4


def test_the_first_sentence_comes_alone(me, models, quick):
    speech = begun(me, text=" ".join([TEXT] * 4), seed="0")
    work.speak(speech, models, quiet)
    assert [len(batch) for batch in quick] == [1, 2, 4, 4, 1]
    assert level_of(speech) == list(range(12))


def test_cancelled_it_keeps_what_was_spoken_and_goes_on_later(me, models, quick):
    speech, calls = begun(me, seed="0"), []

    def cancel(done, total, what):
        calls.append((done, total))
        if done == 1:
            raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        work.speak(speech, models, cancel)
    assert calls[-1] == (1, 3)
    assert level_of(speech) == [0]
    work.speak(speech, models, quiet)
    assert level_of(speech) == [0, 1, 2]
    assert quick == [[0], [1], [2]]  # of two that are left the first one comes alone again


def test_cancelling_needs_no_whole_sentence(me, models):
    """Between two frames, not between two sentences."""
    frames = 0

    def cancel(done, total, what):
        nonlocal frames
        if what == work.SPEAKING:
            frames += 1
        if frames == 4:
            raise Cancelled("cancelled")

    speech = begun(me)
    with pytest.raises(Cancelled):
        work.speak(speech, models, cancel)
    assert frames == 4
    assert all(one.take is None for one in speech.sentences())


def test_a_sentence_is_said_again_and_taken_back(me, models, quick):
    speech = begun(me, seed="0")
    work.speak(speech, models, quiet)
    work.again(speech, 1, models, quiet)
    assert level_of(speech) == [0, 2, 2]
    work.again(speech, 1, models, quiet)
    assert level_of(speech) == [0, 3, 2]
    speech.use(1, 0)
    assert level_of(speech) == [0, 1, 2]
    work.again(speech, 1, models, quiet)
    assert [take.seed for take in speech.sentences()[1].takes] == [1, 2, 3, 4]
    assert speech.sentences()[1].used == 3
    for number, take in ((1, 4), (1, -1), (9, 0), (-1, 0)):
        with pytest.raises(Missing):
            speech.use(number, take)


def test_until_the_new_one_is_there_the_old_one_is_heard(me, models, quick, monkeypatch):
    speech = begun(me, seed="0")
    work.speak(speech, models, quiet)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlx_voxclone.studio.speak.history.write_wav", full)
        with pytest.raises(Mistake, match="disk_full"):
            work.again(speech, 1, models, quiet)
    assert level_of(speech) == [0, 1, 2]


def test_it_goes_on_without_a_voice_that_is_deleted_while_it_speaks(me, models, quick, tmp_path):
    folder = shutil.copytree(SPEAKING_FILES, tmp_path / "model")
    me.change_settings(model=str(folder))
    speech = begun(me, seed="0")

    def delete(done, total, what):
        if done == 1:
            shutil.rmtree(folder, ignore_errors=True)

    work.speak(speech, models, delete)
    assert level_of(speech) == [0, 1, 2]
    with pytest.raises(Mistake, match="model_gone"):
        work.again(speech, 0, models, quiet)
    assert level_of(speech) == [0, 1, 2]


def test_of_what_is_all_spoken_nothing_is_spoken_again(me, models, quick):
    speech = begun(me, seed="0")
    work.speak(speech, models, quiet)
    work.speak(speech, models, quiet)  # a second tab has asked for what was missing
    assert level_of(speech) == [0, 1, 2]
