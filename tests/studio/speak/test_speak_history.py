"""What is kept of speeches: the list, the sound, and what deletions and full disks leave."""

import errno
import io
import os
import shutil

import pytest
import soundfile
from short_speeches import begun, level_of, quiet

from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.studio.home import Home
from mlx_voxclone.studio.keep import removal
from mlx_voxclone.studio.mistakes import Cancelled, Missing, Mistake
from mlx_voxclone.studio.speak import sound, work
from mlx_voxclone.studio.speak.history import PER_PAGE, Speech, speech_of, speeches


def test_a_full_disk_is_one_sentence_and_loses_nothing(me, models, quick, monkeypatch):
    speech, write = begun(me, seed="0"), work.Speech.add

    def full(self, number, *rest):
        if number == 2:
            raise CheckpointError("x: not written") from OSError(errno.ENOSPC, "full")
        return write(self, number, *rest)

    monkeypatch.setattr(Speech, "add", full)
    with pytest.raises(Mistake) as caught:
        work.speak(speech, models, quiet)
    assert (caught.value.key, caught.value.values) == ("speak.disk_full", {"count": 2})
    assert level_of(speech) == [0, 1]


def test_a_speech_deleted_while_it_speaks_stays_deleted(me, models, quick):
    speech = begun(me, seed="0")

    def delete(done, total, what):
        if done == 1:
            speech.delete()

    with pytest.raises((Cancelled, Missing)):
        work.speak(speech, models, delete)
    assert not speech.folder.exists()
    assert not list(speech.folder.parent.iterdir())


def test_doubts_are_told():
    assert [work._kind(text) for text in (None, "it did not end within 5.0 s", "nothing was said")] == [
        None,
        work.NO_END,
        work.SILENT,
    ]
    assert work._kind("it is 5.0 s long where about 1.0 s were expected") == work.LENGTH


def test_history_is_paged_and_the_newest_first(me):
    made = []
    for number in range(PER_PAGE + 2):
        made.append(begun(me, seed=str(number)))
        os.utime(made[-1].folder / "asked.json", ns=(number, number))
    first, pages = speeches(me, 1)
    second, _ = speeches(me, 2)
    assert pages == 2
    assert [one.id for one in first + second] == [one.id for one in reversed(made)]
    assert [one.id for one in speeches(me, 99)[0]] == [one.id for one in second]
    made[-1].delete()
    with pytest.raises(Missing):
        speech_of(me, made[-1].id)
    assert speeches(me, 1)[0][0].id == made[-2].id
    assert speeches(Home(me.home.path).person("ben"))[0] == []


def test_a_line_that_was_cut_off_spoils_nothing(me, models, quick):
    speech = begun(me, seed="0")
    work.speak(speech, models, quiet)
    with open(speech.folder / "takes.jsonl", "a") as file:
        file.write('\n{"n": 1, "fi\n{"n": 99, "use": 0}\n[]\n{"n": 0, "use": 7}\n{"n": 1, "fi')
    assert level_of(speech) == [0, 1, 2]
    work.again(speech, 0, models, quiet)  # not behind the half line
    assert level_of(speech) == [1, 1, 2]


def test_a_deletion_that_was_ended_in_the_middle_is_finished(me, models, quick, monkeypatch):
    speech = begun(me, seed="0")
    with monkeypatch.context() as ended:
        ended.setattr(shutil, "rmtree", lambda *_, **__: None)
        speech.delete()
    assert list((me.folder / "speech").iterdir())
    removal.clear(me)
    assert not list((me.folder / "speech").iterdir())


def test_the_sound_is_saved_as_wav_mp3_and_with_subtitles(me, models, quick):
    speech = begun(me, seed="20")
    assert sound.joined(speech, speech.sentences()) is None
    work.speak(speech, models, quiet)
    sentences = speech.sentences()
    joined = sound.joined(speech, sentences)
    assert joined.seconds == pytest.approx(0.3)
    assert len(joined.peaks) > 3
    samples, rate = soundfile.read(io.BytesIO(b"".join(sound.mp3(joined.path))))
    assert rate == 24000
    assert len(samples) == pytest.approx(7200, abs=3000)
    lines = sound.subtitles(sentences).splitlines()
    assert lines[:3] == ["1", "00:00:00,000 --> 00:00:00,040", sentences[0].text]
    assert lines[4:7] == ["2", "00:00:00,100 --> 00:00:00,140", sentences[1].text]
    before = joined.path.stat().st_mtime_ns
    assert sound.joined(speech, sentences).path.stat().st_mtime_ns == before
