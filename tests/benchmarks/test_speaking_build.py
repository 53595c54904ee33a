"""The build of the speaking miniature, every step in the small: it runs, goes on where it was, and repeats itself."""

import json

import mlx.core as mx
import pytest

from benchmarks.speaking import build, ears, listener, recogniser, utterances
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, open_encoder
from mlx_voxclone.errors import TrainingError
from mlx_voxclone.miniature.micro import ENCODER_FILE, SPEAKING_FILES

pytestmark = pytest.mark.slow


@pytest.fixture
def small(monkeypatch):
    for module, name, value in (
        (ears, "SPEAKERS", 3),
        (ears, "EACH", 3),
        (listener, "STEPS", 2),
        (recogniser, "EPOCHS", 1),
        (utterances, "WORKERS", 1),
        (build, "HELDOUT_FIGURES", 1),
    ):
        monkeypatch.setattr(module, name, value)


def contents(directory):
    file = TensorFile(directory / "speaking" / "consolidated.safetensors")
    voices = (directory / "speaking" / "voice_embedding").iterdir()
    return {name: bytes(file.raw(name)) for name in file.names()} | {path.name: path.read_bytes() for path in voices}


def test_further_voices_again_leave_all_else_as_it_is(tmp_path):
    build.main(["--output", str(tmp_path), "--voices-only"])
    made, kept = tmp_path / "speaking", [name for name, *_ in build.VOICES]
    for path in SPEAKING_FILES.rglob("*"):
        other = made / path.relative_to(SPEAKING_FILES)
        if path.is_file() and (path.parent.name != "voice_embedding" or path.stem in kept):
            assert other.read_bytes() == path.read_bytes(), path.name
    stored, again = Release(SPEAKING_FILES), Release(made)
    assert stored.voices() == again.voices()
    for name in stored.voices():
        a, b = stored.voice(name), again.voice(name)
        assert a.shape == b.shape
        assert mx.all(a == b, axis=1).mean().item() > 0.9  # a code may tip over on another machine


def test_all_of_it_in_the_small(small, tmp_path, monkeypatch):
    told = []
    result = build.Build(tmp_path / "one", "quick", 3, told.append).run()
    assert set(result["clones"]) >= {"recorded", "through the codec", "zero-shot, withheld encoder"}
    assert json.loads((tmp_path / "one" / "score.json").read_text())["seed"] == 3
    release = Release(tmp_path / "one" / "speaking")
    release.check()
    further = [f"voice{k:02d}" for k in range(5, 21)]
    assert release.voices() == ["bass", "tenor", "alto", "soprano", *further]
    open_encoder(tmp_path / "one" / "speaking" / ENCODER_FILE, release.config)
    # Interrupted in the language model, it goes on with that step, and comes to the same.
    monkeypatch.setattr(build, "pretrain", lambda *a, **k: (_ for _ in ()).throw(TrainingError("stopped")))
    with pytest.raises(TrainingError):
        build.Build(tmp_path / "two", "quick", 3, told.append).run()
    monkeypatch.undo()
    trained = []
    monkeypatch.setattr(build, "train_codec", lambda *a, **k: trained.append(a))
    monkeypatch.setattr(build, "train_ears", lambda *a, **k: trained.append(a))
    monkeypatch.setattr(build, "HELDOUT_FIGURES", 1)
    build.Build(tmp_path / "two", "quick", 3, told.append).run()
    assert not trained
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
