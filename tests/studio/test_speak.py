"""Speaking in the studio, without its pages: what is asked for, what is kept, what goes wrong."""

import errno
import io
import json
import os
import shutil

import mlx.core as mx
import numpy as np
import pytest
import soundfile

import mlx_voxclone
from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.miniature.micro import SPEAKING_FILES
from mlx_voxclone.speech.narration import Spoken
from mlx_voxclone.studio.home import Home
from mlx_voxclone.studio.keep import removal
from mlx_voxclone.studio.mistakes import Cancelled, Missing, Mistake
from mlx_voxclone.studio.models import Models
from mlx_voxclone.studio.speak import sound, work
from mlx_voxclone.studio.speak.history import PER_PAGE, Speech, new_speech, seconds_of, speech_of, speeches
from mlx_voxclone.studio.speak.voices import bring, delivered, source_of, take_away, voices_of
from mlx_voxclone.studio.speak.wanted import MOST_LETTERS, wanted

TEXT = (
    "papa mino lesu tara koni sewu papa mino. tara koni sewu papa lesu mino tara koni. lesu mino papa tara koni sewu."
)
SHORT = "papa mino lesu tara koni sewu. lesu mino papa tara koni sewu."
FORM = {"text": TEXT, "voice": "model:alto", "language": "en", "seed": "3", "steps": "", "guidance": ""}


@pytest.fixture
def me(tmp_path):
    person = Home(tmp_path / "studio").person("me")
    person.change_settings(model=str(SPEAKING_FILES))
    return person


@pytest.fixture(scope="module")
def models():
    return Models()


@pytest.fixture
def quick(monkeypatch):
    """A narration that says a tenth of a second of its seed, and remembers the batches it was asked for."""
    batches = []

    class Quick:
        def __init__(self, speaker, chunks, rows, *, memory, seeds, batch, n_steps, cfg_alpha, on_frame):
            self.chunks, self.seeds, self.on_frame, self.memory = chunks, seeds, on_frame, memory
            batches.append(list(seeds))

        def __iter__(self):
            for number, seed in enumerate(self.seeds):
                self.on_frame(1)
                yield Spoken(number, tone(seed), 1, None)

    monkeypatch.setattr(work, "Narration", Quick)
    return batches


def tone(seed):
    return np.full(2400, (1 + seed % 50) / 100, np.float32)


def quiet(done, total, what):
    pass


def begun(person, **changed):
    return new_speech(person, wanted(person, FORM | changed))


def level_of(speech):
    """The seeds that are heard, one after the other, by the level of their tones."""
    samples = read_audio(sound.joined(speech, speech.sentences()).path)
    return [round(float(value) * 100) - 1 for value in samples[1200::2400]]


# ---- what is asked for -----------------------------------------------------------------------------------------------


def test_what_is_asked_for(me):
    asked = wanted(me, FORM | {"guidance": "1,5", "steps": "12"})
    assert (asked.seed, asked.steps, asked.guidance, asked.title) == (3, 12, 1.5, "alto")
    assert [one.text[:4] for one in asked.chunks] == ["papa", "tara", "lesu"]
    assert wanted(me, FORM | {"text": "Guten Morgen.\r\n\r\nWie geht es?", "language": "de"}).chunks[0].pause > 0.5
    assert wanted(me, FORM | {"seed": ""}).seed != wanted(me, FORM | {"seed": ""}).seed


@pytest.mark.parametrize(
    ("changed", "field", "key"),
    [
        ({"text": " \n"}, "text", "empty"),
        ({"text": "..."}, "text", "no_words"),
        ({"text": "a" * (MOST_LETTERS + 1)}, "text", "too_long"),
        ({"text": "a\ufffdb\0"}, "text", "damaged"),
        ({"voice": ""}, "voice", "choose_voice"),
        ({"voice": "model:nobody"}, "voice", "voice_gone"),
        ({"voice": "model:../alto"}, "voice", "voice_gone"),
        ({"voice": "own:0123456789ab"}, "voice", "voice_gone"),
        ({"voice": "files:../x.pt"}, "voice", "voice_gone"),
        ({"voice": "other:alto"}, "voice", "voice_gone"),
        ({"language": "xx"}, "language", "choose_language"),
        ({"seed": "-1"}, "seed", "bad_seed"),
        ({"seed": "1.5"}, "seed", "bad_seed"),
        ({"seed": "²"}, "seed", "bad_seed"),
        ({"seed": str(2**63)}, "seed", "bad_seed"),
        ({"steps": "0"}, "steps", "bad_steps"),
        ({"steps": "many"}, "steps", "bad_steps"),
        ({"guidance": "nan"}, "guidance", "bad_guidance"),
        ({"guidance": "-1"}, "guidance", "bad_guidance"),
        ({"guidance": "strong"}, "guidance", "bad_guidance"),
    ],
)
def test_a_mistake_names_its_field(me, changed, field, key):
    with pytest.raises(Mistake) as caught:
        wanted(me, FORM | changed)
    assert (caught.value.field, caught.value.key) == (field, f"speak.{key}")


def test_without_a_model_that_is_said(me, tmp_path):
    me.change_settings(model=None)
    with pytest.raises(Mistake, match="no_model"):
        wanted(me, FORM)
    me.change_settings(model=str(tmp_path / "gone"))
    assert voices_of(me) == []
    with pytest.raises(Mistake, match="model_gone"):
        wanted(me, FORM)


def test_a_model_of_the_hub_is_the_one_that_was_fetched(me, monkeypatch):
    me.change_settings(model="somebody/voxtral", model_kind="hub")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda model, file: None)
    assert voices_of(me) == []
    with pytest.raises(Mistake, match="model_gone"):
        wanted(me, FORM)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda model, file: str(SPEAKING_FILES / file))
    assert source_of(me, "model:alto").model == SPEAKING_FILES


def test_a_sentence_is_said_again_by_the_model_that_said_it(me, models, quick, miniature):
    speech = begun(me, seed="0")
    work.speak(speech, models, quiet)
    me.change_settings(model=str(miniature))
    work.again(speech, 0, models, quiet)
    assert level_of(speech) == [1, 1, 2]


# ---- voices ----------------------------------------------------------------------------------------------------------


def test_voices_of_trainings_come_first(me, tmp_path):
    project = me.new_project("Ann", "de")
    assert delivered(project) is None
    shutil.copytree(SPEAKING_FILES, project.run / "baked")
    (project.run / "summary.json").write_text(json.dumps({"baked": {"path": "elsewhere", "voice": "tenor"}}))
    found = voices_of(me)
    assert (found[0].key, found[0].title, found[0].language) == (f"own:{project.id}", "Ann", "de")
    assert found[1].group == "model"
    source = source_of(me, found[0].key)
    assert (source.model, source.voice) == (project.run / "baked", "tenor")
    shutil.rmtree(project.run / "baked")
    assert delivered(project) is None
    with pytest.raises(Mistake, match="voice_gone"):
        source_of(me, f"own:{project.id}")


def test_a_run_in_a_folder_below_is_found(me):
    project = me.new_project("Ann", "de")
    shutil.copytree(SPEAKING_FILES, project.run / "2" / "baked")
    (project.run / "2" / "summary.json").write_text(json.dumps({"baked": {"path": "elsewhere", "voice": "tenor"}}))
    assert delivered(project).voice == "tenor"


def test_adapters_over_their_base_are_a_voice(me, tmp_path):
    project = me.new_project("Ann", "de")
    (project.run / "best").mkdir(parents=True)
    (project.run / "best" / "adapters.safetensors").write_bytes(b"")
    (project.run / "config.yaml").write_text(f"task: speaker\nmodel: {SPEAKING_FILES}\nvoice: tenor\n")
    assert delivered(project) is None  # it has not ended
    (project.run / "summary.json").write_text("{}")
    source = delivered(project)
    assert (source.model, source.voice, source.adapters) == (SPEAKING_FILES, "tenor", (project.run / "best",))


def rows_file(path, width, value=0.5):
    save_tensors(path, {"embedding": mx.full((4, width), value).astype(mx.bfloat16)})
    return path.read_bytes()


def test_a_voice_is_brought_as_a_file(me, tmp_path):
    dim = Release(SPEAKING_FILES).config.backbone.dim
    content = rows_file(tmp_path / "x.safetensors", dim)
    voice = bring(me, "C:\\My Voice.safetensors", lambda file: file.write(content))
    second = bring(me, "my-voice.safetensors", lambda file: file.write(content))
    pt = (SPEAKING_FILES / "voice_embedding" / "alto.pt").read_bytes()
    third = bring(me, "alto.pt", lambda file: file.write(pt))
    assert (voice.key, second.key) == ("files:my-voice.safetensors", "files:my-voice-2.safetensors")
    assert [one.key for one in voices_of(me)[:3]] == [third.key, second.key, voice.key]
    assert source_of(me, third.key).voice.read_bytes() == pt
    take_away(me, voice.key)
    with pytest.raises(Missing):
        take_away(me, voice.key)
    with pytest.raises(Mistake, match="voice_gone"):
        source_of(me, voice.key)


def test_what_is_no_voice_is_not_kept(me, tmp_path):
    other = rows_file(tmp_path / "a.safetensors", 7)
    wild = rows_file(tmp_path / "b.safetensors", 7, float("nan"))

    def full(file):
        raise OSError(errno.ENOSPC, "full")

    for name, content, key in (
        ("a.wav", b"RIFF", "file_kind"),
        ("a.pt", b"no", "file_no_voice"),
        ("a.safetensors", b"no", "file_no_voice"),
        ("a.safetensors", wild, "file_no_voice"),
        ("a.safetensors", other, "file_other_model"),
        ("a.safetensors", b"\0" * (33 << 20), "file_large"),
    ):
        with pytest.raises(Mistake) as caught:
            bring(me, name, lambda file, content=content: file.write(content))
        assert (caught.value.field, caught.value.key) == ("file", f"speak.{key}")
    with pytest.raises(Mistake, match="disk_full_file"):
        bring(me, "a.pt", full)
    assert not list((me.folder / "brought").iterdir())


# ---- speaking --------------------------------------------------------------------------------------------------------


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


# ---- history ---------------------------------------------------------------------------------------------------------


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


def test_of_what_is_all_spoken_nothing_is_spoken_again(me, models, quick):
    speech = begun(me, seed="0")
    work.speak(speech, models, quiet)
    work.speak(speech, models, quiet)  # a second tab has asked for what was missing
    assert level_of(speech) == [0, 1, 2]


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
