"""Voices that can speak: of the model, of trainings, and brought as files."""

import contextlib
import errno
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import pytest

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.miniature.micro import SPEAKING_FILES
from mlx_voxclone.studio.mistakes import Missing, Mistake
from mlx_voxclone.studio.speak.voices import bring, delivered, source_of, take_away, voices_of


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


def test_of_two_files_of_one_name_both_are_kept(me, tmp_path):
    dim, both = Release(SPEAKING_FILES).config.backbone.dim, threading.Barrier(2)
    contents = [rows_file(tmp_path / f"{value}.safetensors", dim, value) for value in (0.5, 0.25)]

    def write(file, content):
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # neither comes second, if both may write at once
        file.write(content)

    with ThreadPoolExecutor(2) as tabs:
        found = list(tabs.map(lambda one: bring(me, "a.safetensors", lambda file: write(file, one)), contents))
    assert {voice.key for voice in found} == {"files:a.safetensors", "files:a-2.safetensors"}
    assert [source_of(me, voice.key).voice.read_bytes() for voice in found] == contents


@pytest.mark.parametrize("damaged", ["voice.json", "summary.json"])
def test_a_damaged_voice_leaves_the_others(me, damaged):
    for title in ("Ann", "Ben"):
        project = me.new_project(title, "de")
        shutil.copytree(SPEAKING_FILES, project.run / "baked")
        (project.run / "summary.json").write_text(json.dumps({"baked": {"path": "elsewhere", "voice": "tenor"}}))
    assert [voice.title for voice in voices_of(me) if voice.group == "own"] == ["Ben", "Ann"]
    (project.folder if damaged == "voice.json" else project.run).joinpath(damaged).write_text("{")
    assert [voice.title for voice in voices_of(me) if voice.group == "own"] == ["Ann"]


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
