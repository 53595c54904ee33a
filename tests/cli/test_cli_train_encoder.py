"""`voxclone train` on pairs, with opponents and a teacher: whole runs of seconds, and what is refused before them."""

import json
import math
import shutil

import pytest
from commands import TINY_RUN
from pairs_on_disk import write_some
from tiny_whisper import write_whisper

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.evaluate.code_usage import CODE_USAGE_FILE, read_code_usage
from mlx_voxclone.files.run_log import read_log
from mlx_voxclone.model import generation
from mlx_voxclone.train import run
from mlx_voxclone.train.encoder import code_prior
from mlx_voxclone.train.encoder import inputs as encoder_inputs
from mlx_voxclone.train.encoder.task import EncoderTask
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.saved.state import list_checkpoints

pytest_plugins = ["commands"]
JUDGES = {"enabled": True, "sizes": [126, 76], "channels": 2, "warmup_steps": 2}


@pytest.fixture(scope="module")
def pairs(miniature, tmp_path_factory):
    return write_some(miniature, tmp_path_factory.mktemp("pairs") / "p", augmented=True)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return write_whisper(tmp_path_factory.mktemp("whisper") / "w", heads=[[0, 0], [1, 1]])


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    monkeypatch.setattr(run, "write_report", lambda run_dir: "no report")


def encoder_section(**keys) -> dict:
    train = TINY_RUN["encoder"]["train"] | {"batch_size": 3, "sample_every": 4}
    return {"encoder": TINY_RUN["encoder"] | {"train": train} | keys}


def train(*arguments) -> int:
    return voxclone(["train", *map(str, arguments), "--quiet"])


def evaluations(place) -> list[dict]:
    return [line["metrics"] for line in read_log(place / "log.jsonl") if line.get("event") == "eval"]


@pytest.mark.parametrize("task", [pytest.param("encoder", marks=pytest.mark.slow), "speaker"])
def test_what_was_interrupted_before_its_first_checkpoint_goes_on(config_file, whole, tmp_path, monkeypatch, task):
    """Whatever it had made by then."""
    place = tmp_path / "run"
    config = config_file(task, model=str(whole))

    def interrupted(*_, **keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "__init__", interrupted)  # as late as can be
        assert train("--config", config, "--set", f"output={place}") == 130
    assert (place / "config.yaml").is_file()
    assert not list_checkpoints(place)
    assert voxclone(["train", "--resume", str(place), "--quiet"]) == 0
    assert list_checkpoints(place)


def steps(place) -> list[dict]:
    return [line for line in read_log(place / "log.jsonl") if "event" not in line]


@pytest.mark.slow
def test_everything_at_once_and_going_on_after_a_stop(config_file, pairs, whisper, tmp_path, monkeypatch):
    """Pairs, opponents, teacher: the log tells of each; a run in two sittings ends as one in a single one, and
    the second sitting neither hears the recordings again nor recovers the voices again."""
    config = config_file(
        "encoder",
        **encoder_section(
            pairs={"path": str(pairs), "share": 0.6, "alone_steps": 1},
            discriminators=JUDGES,
            distillation={"enabled": True, "whisper_model": str(whisper)},
            quantisation_noise=True,
        ),
    )
    place, other = tmp_path / "one", tmp_path / "two"
    assert train("--config", config, "--set", f"output={place}") == 0
    last = evaluations(place)[-1]
    assert all(math.isfinite(value) for value in last.values())
    expected = {"semantic_code", "acoustic_code", "distillation", "pairs_semantic_agreement"}
    assert expected <= last.keys()
    logged = set().union(*steps(place))
    assert {"feature_matching", "discriminator"} <= logged
    assert "feature_matching" not in steps(place)[0]  # which begins at step 2
    assert len(TensorFile(place / "best" / "encoder.safetensors").names()) == 114
    usage = read_code_usage(place / "samples" / "step-4" / CODE_USAGE_FILE)
    assert usage.prior.semantic.sum() > 0

    losses, calls = EncoderTask.losses, []

    def interrupted(task, batch):
        calls.extend(["step"] * ("step" in batch))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return losses(task, batch)

    monkeypatch.setattr(EncoderTask, "losses", interrupted)
    assert train("--config", config, "--set", f"output={other}") == 130
    monkeypatch.setattr(EncoderTask, "losses", losses)
    monkeypatch.setattr(encoder_inputs.AsrTeacher, "states", lambda *_: pytest.fail("heard again"))
    monkeypatch.setattr(code_prior, "preset_statistics", lambda *_, **__: pytest.fail("recovered again"))
    assert train("--config", config, "--set", f"output={other}", "--resume", other) == 0
    a, b = (TensorFile(where / "checkpoints" / "step-4" / "model.safetensors") for where in (place, other))
    assert all(bytes(a.raw(name)) == bytes(b.raw(name)) for name in a.names())


@pytest.mark.slow
def test_true_codes_alone(config_file, pairs, tmp_path):
    off = {"sound": 0}
    section = encoder_section(pairs={"path": [str(pairs)], "share": 1.0}, losses=off)
    assert train("--config", config_file("encoder", **section), "--set", f"output={tmp_path / 'run'}") == 0
    assert all("mel" not in line for line in steps(tmp_path / "run"))
    assert "mel" in evaluations(tmp_path / "run")[0]


@pytest.mark.slow
def test_without_presets_or_pairs_there_is_no_prior(config_file, tmp_path):
    section = encoder_section(prior={"presets": False})
    assert train("--config", config_file("encoder", **section), "--set", f"output={tmp_path / 'run'}") == 0
    assert not (tmp_path / "run" / "prior").exists()
    assert not any("divergence" in name for name in evaluations(tmp_path / "run")[0])


@pytest.mark.slow
def test_recordings_that_will_never_be_heard(config_file, pairs, tmp_path, capsys):
    for alone, warned in ((3, False), (4, True)):
        section = encoder_section(pairs={"path": str(pairs), "alone_steps": alone})
        config = config_file("encoder", **section)
        assert voxclone(["train", "--config", str(config), "--set", f"output={tmp_path / str(alone)}"]) == 0
        printed = "".join(capsys.readouterr())
        assert ("your recordings will not be used" in printed) == warned


# ---- pairs that the run makes itself ------------------------------------------------------------------------------

AUTOMATIC = {"path": "auto", "per_voice": 4, "max_seconds": 1.0}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def last_weights(place, step=4) -> dict[str, bytes]:
    file = TensorFile(place / "checkpoints" / f"step-{step}" / "model.safetensors")
    return {name: bytes(file.raw(name)) for name in file.names()}


@pytest.mark.slow
def test_a_run_makes_its_pairs_and_the_next_one_finds_them(config_file, cache, tmp_path, monkeypatch, capsys):
    config = config_file("encoder", **encoder_section(pairs=AUTOMATIC))
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        assert voxclone(["train", "--config", str(config), "--set", f"output={place}"]) == 0
        monkeypatch.setattr(generation, "generate_batch", lambda *_, **__: pytest.fail("said again"))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pairs: ")]
    assert "generating 12 sentences with the model" in lines[0]
    assert lines[-2].endswith(f", from the cache {next(cache.iterdir())}")
    assert lines[-1] == lines[3]  # as many to learn from, as many held out
    assert "path: auto" in (places[0] / "config.yaml").read_text()
    assert "pairs_semantic_agreement" in evaluations(places[0])[-1]
    assert last_weights(places[0]) == last_weights(places[1])  # making them left no trace in what is drawn


@pytest.mark.slow
def test_pairs_that_are_deleted_during_the_run(config_file, cache, tmp_path, monkeypatch, capsys):
    """One line; going on makes the same ones again and ends as a run that nobody disturbed."""
    config = config_file("encoder", **encoder_section(pairs=AUTOMATIC))
    whole, place = tmp_path / "whole", tmp_path / "run"
    command = ["--config", config, "--set", "encoder.train.steps=16"]
    assert train(*command, "--set", f"output={whole}") == 0
    save = Trainer._save

    def deleting(trainer, prune=True):
        save(trainer, prune)
        shutil.rmtree(cache, ignore_errors=True)

    monkeypatch.setattr(Trainer, "_save", deleting)
    capsys.readouterr()
    assert train(*command, "--set", f"output={place}") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert str(cache) in error
    assert f"continue with --resume {place}" in error
    monkeypatch.setattr(Trainer, "_save", save)
    assert train(*command, "--set", f"output={place}", "--resume", place) == 0
    assert last_weights(place, 16) == last_weights(whole, 16)


@pytest.mark.slow
def test_what_the_pairs_of_an_encoder_keep(config_file, cache, tmp_path, monkeypatch, capsys):
    """Task clone keeps the model's own voices by them, and so does a speaker after it, to the end of its training."""
    speaker = {"speaker": TINY_RUN["speaker"] | {"preserve": {"path": "auto", "share": 0.5}}}
    clone = config_file("clone", **encoder_section(pairs=AUTOMATIC), **speaker)
    place, other = tmp_path / "clone", tmp_path / "speaker"
    assert train("--config", clone, "--set", f"output={place}") == 0
    assert "kept_semantic" in evaluations(place / "speaker")[0]
    encoder = place / "encoder" / "best" / "encoder.safetensors"
    again = ["--config", clone, "--set", "task=speaker", "--set", f"speaker.encoder={encoder}"]
    again += ["--set", f"output={other}"]
    assert train(*again, "--max-steps", "2") == 0
    assert "kept_semantic" in evaluations(other)[0]
    shutil.rmtree(cache)
    assert train(*again, "--resume", other) == 0  # which makes them again
    assert len(list(cache.glob("*/pairs-*"))) == 1
    assert list(cache.glob("*/moved-*")) == []
    shutil.rmtree(cache)
    assert train(*again, "--set", f"output={tmp_path / 'new'}", "--max-steps", "2") == 0  # a new one does not
    assert "kept_semantic" not in evaluations(tmp_path / "new")[0]
    assert not cache.exists()
    assert train(*again, "--set", f"output={tmp_path / 'new'}", "--resume", tmp_path / "new") == 0
    assert "not preserved" not in capsys.readouterr().err.splitlines()[-1]


def test_a_cache_that_cannot_be_written(config_file, refused, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path / "file"))
    config = config_file("encoder", **encoder_section(pairs=AUTOMATIC))
    texts = ("the cache cannot be written (not a directory)", "VOXCLONE_CACHE")
    refused(["train", "--config", config, "--set", f"output={tmp_path / 'run'}"], *texts)


def test_no_disk_for_the_pairs(config_file, refused, cache, tmp_path, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=100_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    config = config_file("encoder", **encoder_section(pairs={**AUTOMATIC, "per_voice": 500, "max_seconds": 9.0}))
    texts = (str(cache), "no space left: ", "or set VOXCLONE_CACHE to a directory on another disk")
    refused(["train", "--config", config, "--set", f"output={tmp_path / 'run'}"], *texts)


@pytest.mark.slow
def test_a_model_that_does_not_speak(config_file, cache, tmp_path, monkeypatch, capsys):
    """Found out when the recordings are prepared; those are used again by the corrected command."""
    generate = generation.generate_batch
    monkeypatch.setattr(generation, "generate_batch", lambda *a, **k: generate(*a, **k | {"max_frames": 0}))
    config = config_file("encoder", **encoder_section(pairs=AUTOMATIC))
    command = ["--config", config, "--set", f"output={tmp_path / 'run'}"]
    assert train(*command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "none of the first 12 sentences gave a pair (12 did not end within 1 s" in error
    assert "encoder.pairs.path: null trains without pairs" in error
    assert train(*command, "--set", "encoder.pairs.path=null") == 0


# ---- refused before anything is prepared -------------------------------------------------------------------------


def broken(pairs, tmp_path, change):
    """A copy of the pairs with something changed."""
    copy = tmp_path / "broken"
    shutil.copytree(pairs, copy)
    change(copy)
    return copy


def out_of_range(directory):
    path = directory / "pairs-00000.safetensors"
    file = TensorFile(path)
    codes = {name: file.stored(name).copy() for name in file.names()}
    codes["003"][0, 2] = 5000
    metadata = dict(file.metadata)
    path.unlink()
    save_tensors(path, codes, metadata)


def shorter_audio(directory):
    write_wav(directory / "audio" / "x.wav", [0.0] * 1920)
    (directory / "audio" / "002.flac").unlink()
    path = directory / "pairs-00000.safetensors"
    file = TensorFile(path)
    codes = {name: file.stored(name).copy() for name in file.names()}
    lines = json.loads(file.metadata["pairs"])
    for line in lines["kept"]:
        if line["id"] == "002":
            line["audio"] = "audio/x.wav"
    path.unlink()
    save_tensors(path, codes, {"pairs": json.dumps(lines)})


def other_codec(directory):
    path = directory / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"codec": "0" * 64}))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (out_of_range, "pair 003: code 5000 at codebook 0, frame 2 is outside 0..127"),
        (shorter_audio, "1920 samples where its 6 frames of codes make 11520"),
        (other_codec, "decoded by another codec than this model's"),
    ],
)
def test_pairs_that_are_none_are_refused(config_file, pairs, refused, tmp_path, change, text):
    section = encoder_section(pairs={"path": str(broken(pairs, tmp_path, change))})
    config = config_file("encoder", **section)
    refused(["train", "--config", config, "--set", f"output={tmp_path / 'run'}"], text)


def test_pairs_that_are_not_there(config_file, refused, tmp_path):
    config = config_file("encoder", **encoder_section(pairs={"path": str(tmp_path / "none")}))
    refused(
        ["train", "--config", config, "--set", f"output={tmp_path / 'run'}"], "encoder.pairs.path", "does not exist"
    )


def test_pairs_that_would_teach_nothing(config_file, pairs, refused, tmp_path):
    losses = dict.fromkeys(("semantic_code", "acoustic_code"), 0.0)
    config = config_file("encoder", **encoder_section(pairs={"path": str(pairs)}, losses=losses))
    texts = ("encoder.losses: semantic_code, acoustic_code are all 0", "encoder.pairs.path to null")
    refused(["train", "--config", config, "--set", f"output={tmp_path / 'run'}"], *texts)


def test_discriminators_that_do_not_fit_into_memory(config_file, refused, tmp_path):
    section = encoder_section(discriminators={"enabled": True, "channels": 1024}, crop_seconds=60.0)
    config = config_file("encoder", **section)
    texts = ("GB are available", "encoder.discriminators.channels")
    refused(["train", "--config", config, "--set", f"output={tmp_path / 'run'}"], *texts)


@pytest.mark.parametrize(
    ("dims", "text"),
    [
        ({"n_audio_ctx": 750}, "n_audio_ctx is 750"),
        ({"n_text_layer": 0}, "no text decoder"),
        (None, "cannot be loaded"),
    ],
)
def test_a_whisper_of_the_wrong_size(config_file, refused, whisper, tmp_path, dims, text):
    directory = tmp_path / "whisper"
    directory.mkdir()
    sizes = json.loads((whisper / "config.json").read_text()) | (dims or {"n_mels": "many"})
    (directory / "config.json").write_text(json.dumps(sizes))
    section = encoder_section(distillation={"enabled": True, "whisper_model": str(directory)})
    config = config_file("encoder", **section)
    refused(["train", "--config", config, "--set", f"output={tmp_path / 'run'}"], text)


@pytest.mark.slow
def test_going_on_with_another_whisper(config_file, refused, whisper, tmp_path):
    section = encoder_section(distillation={"enabled": True, "whisper_model": str(whisper)})
    config, place = config_file("encoder", **section), tmp_path / "run"
    assert train("--config", config, "--set", f"output={place}", "--set", "encoder.train.steps=2") == 0
    other = write_whisper(tmp_path / "other", seed=1, heads=[[0, 0]], n_text_state=64, n_audio_state=64)
    arguments = ["train", "--config", config, "--set", f"encoder.distillation.whisper_model={other}"]
    refused([*arguments, "--set", f"output={place}", "--resume", place], "encoder.distillation.whisper_model")
