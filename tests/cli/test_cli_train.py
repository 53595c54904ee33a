"""`voxclone train`, whole runs of seconds: each task, what it leaves on the disk, going on after Ctrl-C anywhere."""

import json
import re
import shutil
import signal

import numpy as np
import pytest
import yaml
from pairs_on_disk import write_some
from places import ROOT

from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.files.run_log import read_log
from mlx_voxclone.train import run
from mlx_voxclone.train.clone import finish, recover
from mlx_voxclone.train.encoder.task import EncoderTask
from mlx_voxclone.train.saved.schema import CHECKSUM
from mlx_voxclone.train.saved.state import list_checkpoints
from mlx_voxclone.train.speaker.task import SpeakerTask
from mlx_voxclone.train.stages import stage as loop_stage

pytest_plugins = ["commands"]


def train(*arguments) -> int:
    return voxclone(["train", *map(str, arguments)])


def names(directory) -> set[str]:
    return {path.name for path in directory.iterdir()}


def tensors(path) -> dict[str, bytes]:
    file = TensorFile(path)
    return {name: bytes(file.raw(name)) for name in file.names()}


def steps_of(log) -> list[int]:
    return [record["step"] for record in read_log(log) if "event" not in record]


@pytest.fixture(autouse=True)
def _cheap(request, monkeypatch):
    """Half of the time would go into plots of the report, and four seconds are a long sentence here."""
    monkeypatch.setattr(finish, "MIN_LIMIT", 0.8)
    if "with_report" not in request.fixturenames:
        monkeypatch.setattr(run, "write_report", lambda run_dir: "no report")


@pytest.fixture
def with_report():
    """Asked for by tests of runs that write their report."""


@pytest.fixture(scope="module")
def clone_config(miniature, corpus, tmp_path_factory):
    """The configuration file of a clone; `output` is to be set."""
    from commands import TINY_RUN

    path = tmp_path_factory.mktemp("clone") / "clone.yaml"
    content = {"task": "clone", "model": str(miniature), "voice": "clone", **TINY_RUN}
    content["data"] = {"path": str(corpus), **TINY_RUN["data"]}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def uninterrupted(clone_config, tmp_path_factory):
    """A complete clone run. Read it only. `loads.json` beside it: which language models its last steps have read."""
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        loads = count_loads(patch)
        patch.setattr(finish, "MIN_LIMIT", 0.8)
        patch.setattr(run, "write_report", lambda run_dir: "no report")
        assert train("--config", clone_config, "--set", f"output={directory}", "--quiet") == 0
    (directory.parent / "loads.json").write_text(json.dumps(loads))
    return directory


def count_loads(patch) -> list[str]:
    """Names of the checkpoints whose language model is read after the last training, in order."""
    loads, load, started, finished = [], Release.load_parameters, [], finish.finish

    def counted(self, parts):
        parts = list(parts)
        if started and "lm" in parts:
            loads.append(self.path.name)
        return load(self, parts)

    patch.setattr(Release, "load_parameters", counted)
    patch.setattr(run, "finish", lambda *a, **k: started.append(True) or finished(*a, **k))
    return loads


# ---- the tasks -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_task_encoder(with_report, config_file, uninterrupted, tmp_path, capsys):
    place = tmp_path / "run"
    settings = ["--set", f"output={place}", "--set", "encoder.train.sample_every=4"]
    assert train("--config", config_file("encoder"), *settings) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("encoder: 4 steps; held-out loss ")
    assert out[1].startswith(f"{place}: ")
    assert len(out) == 2
    expected = {"config.yaml", "log.jsonl", "checkpoints", "best", "report", "samples", "data", "prior"}
    assert names(place) == expected | {"result.json", "summary.json"}
    assert names(place / "checkpoints") == {"step-2", "step-4"}
    assert names(place / "checkpoints" / "step-4") == {"model.safetensors", "optimizer.safetensors", "state.json"}
    assert names(place / "best") == {"encoder.safetensors", "info.json"}
    assert all(name.startswith("audio_tokenizer.") for name in TensorFile(place / "best/encoder.safetensors").names())
    assert "<html" in (place / "report" / "index.html").read_text()
    sounds = names(place / "samples" / "step-4")
    assert sounds
    assert {name.rpartition("-")[2] for name in sounds} == {
        "original.wav",
        "reconstructed.wav",
        "code_usage.safetensors",
    }
    for sound in sounds:  # through the codec, and not the recording under another name
        if sound.endswith("-original.wav"):
            pair = [
                read_audio(place / "samples/step-4" / n) for n in (sound, sound.replace("original", "reconstructed"))
            ]
            assert len(pair[0]) == len(pair[1])
            assert not np.array_equal(*pair)
    assert steps_of(place / "log.jsonl") == [1, 2, 3, 4]
    trained = [tensors(p / "best/encoder.safetensors") for p in (place, uninterrupted / "encoder")]
    assert trained[0] == trained[1]  # the same seed; task clone's first stage is this task
    saved = yaml.safe_load((place / "config.yaml").read_text())
    assert (saved["task"], saved["output"], saved["encoder"]["train"]["steps"]) == ("encoder", str(place), 4)


@pytest.mark.slow
def test_task_speaker_with_the_models_own_encoder(config_file, whole, tmp_path, capsys):
    place = tmp_path / "run"
    settings = ["--set", f"output={place}", "--set", "speaker.train.sample_every=4", "--quiet"]
    assert train("--config", config_file("speaker", model=str(whole)), *settings) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("speaker: 4 steps; held-out loss ")
    assert [line for line in captured.err.splitlines() if not line.startswith("warning: ")] == []
    expected = {"config.yaml", "log.jsonl", "checkpoints", "best", "samples", "data", "codes"}
    assert names(place) == expected | {"result.json", "summary.json"}
    assert names(place / "best") == {"adapters.safetensors", "adapter_config.json", "info.json"}
    adapter = json.loads((place / "best" / "adapter_config.json").read_text())
    assert (adapter["rank"], adapter["alpha"]) == (2, 4.0)
    assert adapter["base_fingerprint"] == Release(whole).fingerprint()
    argv = ["say", "--model", whole, "--text", "papa", "--voice", "casual_male", "--max-seconds", "0.4"]
    assert voxclone([*map(str, argv), "--adapters", str(place / "best"), "--output", str(tmp_path / "o.wav")]) == 0


@pytest.mark.slow
def test_task_speaker_with_a_given_encoder(config_file, encoder_file, tmp_path, whole):
    """The same codes as from the checkpoint that has this encoder baked in."""
    for name, keys in (("a", {"speaker": {"encoder": str(encoder_file)}}), ("b", {"model": str(whole)})):
        settings = ["--set", f"output={tmp_path / name}", "--max-steps", "1", "--quiet"]
        if "speaker" in keys:
            settings += ["--set", f"speaker.encoder={encoder_file}"]
            keys = {}
        assert train("--config", config_file("speaker", **keys), *settings) == 0
    assert tensors(tmp_path / "a/codes/codes.safetensors") == tensors(tmp_path / "b/codes/codes.safetensors")


def test_task_clone(uninterrupted, capsys):
    place = uninterrupted
    trained = {"encoder", "encoder-2", "speaker"}  # a round of judging: the encoder is trained on judged codes
    made = {"config.yaml", "summary.json", "data", "prior", "codes", "encoder.safetensors", "baked", "samples"}
    assert names(place) == made | trained | {"originals"}
    for name in trained:
        assert names(place / name) == {"log.jsonl", "result.json", "checkpoints", "best"}
    release = Release(place / "baked")
    release.check()
    assert release.has_encoder
    assert "clone" in release.voices()
    summary = json.loads((place / "summary.json").read_text())
    assert summary["baked"]["fold_error"] < 0.01
    assert set(summary["results"]) == trained
    assert [one["encoder"] for one in summary["rounds"]] == ["encoder", "encoder-2"]
    assert summary["delivered"]["name"] == "adapted"
    assert {one["name"] for one in summary["delivered"]["measured"]} == {"zero-shot", "adapted"}
    data = PreparedData.load(place / "data")
    heldout = next(clip for clip in data.heldout if clip.text)
    assert [entry["text"] for entry in summary["speech"]] == ["papa mino.", "tara koni lesu.", heldout.text]
    assert [entry["original"]["same_text"] for entry in summary["speech"]] == [False, False, True]
    np.testing.assert_array_equal(read_audio(place / summary["speech"][2]["original"]["file"]), heldout.read())
    taken = json.loads(TensorFile(place / "codes" / "delivered.safetensors").metadata["delivered"])["clips"]
    clips = {clip.id: clip for clip in data.clips}
    voice = np.concatenate([clips[name].read() for name in taken])[: 10 * SAMPLE_RATE]
    np.testing.assert_array_equal(read_audio(place / summary["speech"][0]["original"]["file"]), voice)
    said = {entry[when]["file"] for entry in summary["speech"] for when in ("before", "after")} - {None}
    assert {f"samples/{name}" for name in names(place / "samples")} == said


def test_each_language_model_is_read_once_after_the_training(uninterrupted, miniature):
    """The released one to choose, for the voice and to speak before; the baked one to check it and to speak after."""
    assert json.loads((uninterrupted.parent / "loads.json").read_text()) == [miniature.name, "baked"]


def test_the_baked_checkpoint_serves_every_command(uninterrupted, voice_file, tmp_path):
    model = ["--model", str(uninterrupted / "baked")]
    tail = ["--text", "papa", "--max-seconds", "0.4", "--output", str(tmp_path / "o.wav")]
    assert voxclone(["say", *model, *tail, "--voice", "clone"]) == 0
    assert voxclone(["say", *model, *tail, "--ref-audio", str(voice_file)]) == 0
    assert voxclone(["encode", str(voice_file), *model, "--output", str(tmp_path / "x.safetensors")]) == 0
    assert voxclone(["decode", str(tmp_path / "x.safetensors"), *model, "--output", str(tmp_path / "o.wav")]) == 0


@pytest.mark.slow
def test_prepared_data_is_used_as_it_is(config_file, corpus, tmp_path):
    assert voxclone(["prepare", str(corpus), "--output", str(tmp_path / "prepared"), "--min-seconds", "0.5"]) == 0
    settings = ["--set", f"data.path={tmp_path / 'prepared'}", "--set", f"output={tmp_path / 'run'}"]
    assert train("--config", config_file("encoder"), *settings, "--max-steps", "1") == 0
    assert "data" not in names(tmp_path / "run")


# ---- the flags -----------------------------------------------------------------------------------------------------


def test_flags_reach_the_run(config_file, whole, tmp_path):
    flags = ["--lr", "2e-5", "--lora-rank", "3", "--max-steps", "2", "--seed", "5", "--device", "cpu"]
    flags += ["--set", "speaker.lora.targets=[wq, w2]", "--set", "speaker.train.weight_decay=2e-1"]
    place = tmp_path / "run"
    config = config_file("speaker", model=str(whole))
    assert train("--config", config, *flags, "--set", f"output={place}", "--quiet") == 0
    assert steps_of(place / "log.jsonl") == [1, 2]
    start = read_log(place / "log.jsonl")[0]
    assert start["settings"]["learning_rate"] == 2e-5
    assert start["settings"]["weight_decay"] == 0.2
    assert start["settings"]["seed"] == 5
    assert read_log(place / "log.jsonl")[2]["lr"] == 2e-5  # the first step of a run without warm-up
    found = TensorFile(place / "best" / "adapters.safetensors")
    assert {name.split(".")[-2] for name in found.names()} == {"wq", "w2"}
    assert {min(found.info(name).shape) for name in found.names()} == {3}
    saved = yaml.safe_load((place / "config.yaml").read_text())
    assert (saved["speaker"]["train"]["learning_rate"], saved["seed"], saved["device"]) == (2e-5, 5, "cpu")


@pytest.mark.slow
def test_epochs_reach_the_run(config_file, tmp_path):
    place = tmp_path / "run"
    assert train("--config", config_file("encoder"), "--epochs", "1", "--set", f"output={place}", "--quiet") == 0
    crops = sum(-(-clip.samples // 9_600) for clip in PreparedData.load(place / "data").train)
    assert steps_of(place / "log.jsonl") == list(range(1, -(-crops // 2) + 1))
    assert read_log(place / "log.jsonl")[-1]["step"] == -(-crops // 2)


@pytest.mark.slow
def test_a_few_steps_of_the_shipped_configuration(miniature, corpus, tmp_path):
    """`--max-steps` below the file's warm-up of 200 steps is a trial, not a mistake."""
    shipped = ROOT / "configs" / "voxtral_encoder.yaml"
    smaller = ["encoder.crop_seconds=0.4", "encoder.stft_sizes=[256]", "encoder.train.batch_size=2"]
    pairs = write_some(miniature, tmp_path / "pairs")
    values = [f"data.path={corpus}", f"model={miniature}", f"output={tmp_path / 'run'}", *smaller]
    values.append(f"encoder.pairs.path={pairs}")
    settings = [part for value in values for part in ("--set", value)]
    assert train("--config", shipped, *settings, "--max-steps", "2", "--quiet") == 0
    assert read_log(tmp_path / "run" / "log.jsonl")[0]["settings"]["warmup_steps"] == 0


@pytest.mark.slow
def test_quiet_and_output_default(config_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train("--config", config_file("encoder"), "--max-steps", "1", "--quiet") == 0
    assert (tmp_path / "runs" / "encoder" / "best" / "encoder.safetensors").is_file()
    captured = capsys.readouterr()
    assert "warning: encoder: held-out loss never improved" not in captured.out
    assert captured.out.splitlines()[-1].startswith("runs/encoder: ")


# ---- Ctrl-C and going on -------------------------------------------------------------------------------------------


def interrupt(monkeypatch, owner, name, call=1):
    """A SIGINT, as Ctrl-C sends it, at the start of call number `call` of a function."""
    function, calls = getattr(owner, name), []

    def wrapped(*arguments, **keywords):
        calls.append(None)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return function(*arguments, **keywords)

    monkeypatch.setattr(owner, name, wrapped)


STAGES = {
    "encoder, before its first step": (EncoderTask, "extra_metrics", 1),
    "encoder, a step": (EncoderTask, "collate", 3),  # on the loader's thread, which makes four of them in any case
    "encoder, an evaluation": (EncoderTask, "extra_metrics", 2),
    "codes": (recover, "clip_codes", 1),
    "judging": (recover, "judged_codes", 1),
    "encoder, a step on judged codes": (EncoderTask, "collate", 2),
    "judging again": (recover, "judged_codes", 2),  # after the codes of the round before, found again
    "speaker, a step": (SpeakerTask, "losses", 6),
    "speaker, the evaluation after its last step": (SpeakerTask, "extra_metrics", 2),
    "comparing": (finish, "deliver", 1),
    "speaking": (finish, "speak_sentences", 1),
    "bake": (finish, "bake", 1),
    "speaking with what was baked": (finish, "speak_sentences", 2),
}


def result(directory) -> dict:
    """What a run is for: weights by name, files of the baked directory byte by byte."""
    files = [path for path in (directory / "baked").rglob("*") if path.is_file()]
    adapters, encoder = (
        tensors(directory / path) for path in ("speaker/best/adapters.safetensors", "encoder/best/encoder.safetensors")
    )
    last = {
        stage: tensors(list_checkpoints(directory / stage)[-1][1] / "model.safetensors")
        for stage in ("encoder", "encoder-2", "speaker")
    }
    baked = {str(path.relative_to(directory)): path.read_bytes() for path in files}
    return {"encoder": encoder, "adapters": adapters, "last": last, "baked": baked}


@pytest.mark.slow
def test_a_clone_interrupted_in_every_stage_ends_as_if_it_had_not_been(
    clone_config, uninterrupted, tmp_path, monkeypatch, capsys
):
    place, arguments = tmp_path / "run", ["--config", clone_config, "--set", f"output={tmp_path / 'run'}"]
    for stage, (owner, name, call) in STAGES.items():
        with monkeypatch.context() as patch:
            interrupt(patch, owner, name, call)
            assert train(*arguments, "--quiet") == 130, stage
        captured = capsys.readouterr()
        assert captured.out == ""
        last = captured.err.splitlines()[-1]
        training = "step" in stage or "evaluation" in stage
        told = re.fullmatch(r"interrupted: (after step \d+ of \d+; )?continue with --resume (.+)", last)
        assert told[2] == str(place)
        assert (told[1] is not None) == training, stage
        assert sum("interrupted" in line.partition("/")[0] for line in captured.err.splitlines()) == 1
        assert captured.err.count("--resume") == 1
        assert (place / "baked").exists() == (stage == "speaking with what was baked")
        arguments = ["--resume", place]
    assert train(*arguments, "--quiet") == 0
    assert result(place) == result(uninterrupted)
    assert names(place) == names(uninterrupted)
    for part, steps in (("encoder", 4), ("encoder-2", 2), ("speaker", 4)):
        assert steps_of(place / part / "log.jsonl") == list(range(1, steps + 1))
    sounds = [{path.name: path.read_bytes() for path in (p / "samples").iterdir()} for p in (place, uninterrupted)]
    assert sounds[0] == sounds[1]


def test_interrupted_while_preparing_nothing_is_left(clone_config, tmp_path, monkeypatch, capsys):
    from mlx_voxclone.data import collect

    with monkeypatch.context() as patch:
        interrupt(patch, collect.Collector, "ingest")
        assert train("--config", clone_config, "--set", f"output={tmp_path / 'new' / 'run'}", "--quiet") == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert names(tmp_path) == set()


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_its_stage_again(
    clone_config, uninterrupted, tmp_path, monkeypatch
):
    """SIGKILL leaves log and best/ of a training, and no checkpoint: nothing to continue, nothing in the way."""
    place = tmp_path / "run"
    shutil.copytree(uninterrupted, place)
    for part in ("baked", "samples", "codes", "speaker", "encoder-2"):
        shutil.rmtree(place / part)
    (place / "summary.json").unlink()
    (place / "encoder" / "result.json").unlink()
    shutil.rmtree(place / "encoder" / "checkpoints")
    (place / "encoder" / ".best.1234abcd.partial").mkdir()
    assert train("--resume", place, "--quiet") == 0
    assert result(place) == result(uninterrupted)
    assert steps_of(place / "encoder" / "log.jsonl") == [1, 2, 3, 4]


def test_a_complete_run_resumed_trains_and_bakes_nothing_anew(uninterrupted, tmp_path, capsys, monkeypatch):
    place = tmp_path / "run"
    shutil.copytree(uninterrupted, place)
    before = result(place)
    monkeypatch.setattr(finish, "bake", None)
    monkeypatch.setattr(loop_stage, "Trainer", None)
    loads = count_loads(monkeypatch)
    assert train("--resume", place, "--quiet") == 0
    assert result(place) == before
    assert len(loads) == 2
    assert "encoder: 4 steps" in capsys.readouterr().out


@pytest.mark.slow
def test_more_steps_continue_a_complete_training_where_it_is_now(config_file, tmp_path, capsys):
    """Not "complete" after training nothing: what is asked for is what is trained."""
    assert train("--config", config_file("encoder"), "--set", f"output={tmp_path / 'a'}", "--quiet") == 0
    place = (tmp_path / "a").rename(tmp_path / "b")
    assert train("--resume", place, "--max-steps", "6", "--quiet") == 0
    assert names(tmp_path) == {"b", "encoder.yaml"}
    assert steps_of(place / "log.jsonl") == [1, 2, 3, 4, 5, 6]
    assert json.loads((place / "result.json").read_text())["steps"] == 6
    capsys.readouterr()
    assert train("--resume", place, "--max-steps", "5") == 2
    assert "nothing left to train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        pytest.param(  # the codes under the adapters change
            "encoder.train.steps=6", "was trained from something else", marks=pytest.mark.slow
        ),
        pytest.param(
            "speaker.train.steps=8",
            "baked: exists already and was not baked from this run as it is now (the adapters",
            marks=pytest.mark.slow,
        ),
        ("bake.target=mlx-audio", "exists already and was not baked from this run as it is now (bake.target"),
    ],
)
def test_no_stage_of_a_clone_is_left_behind_by_an_earlier_one(uninterrupted, tmp_path, capsys, setting, text):
    place = tmp_path / "run"
    shutil.copytree(uninterrupted, place)
    # What is best must change with the further steps: here none has been good so far.
    for stage in ("encoder", "speaker"):
        for state in (place / stage / "checkpoints").glob("*/state.json"):
            content = json.loads(state.read_text())
            del content[CHECKSUM]
            best, measured = content["state"]["best"], content["state"]["evaluations"]
            for metrics in (best["metrics"], *(evaluation["metrics"] for evaluation in measured)):
                metrics[best["metric"]] = 1e9
            best |= {"value": 1e9, "step": measured[0]["step"]}
            state.write_text(json.dumps(content))
        info = place / stage / "best" / "info.json"
        best = json.loads(info.read_text())
        best["value"] = best["metrics"][best["metric"]] = 1e9
        info.write_text(json.dumps(best))
    before = (place / "baked" / "consolidated.safetensors").read_bytes()
    capsys.readouterr()
    assert train("--resume", place, "--set", setting, "--quiet") == 2
    err = capsys.readouterr().err
    assert text in err.splitlines()[-1]
    assert (place / "baked" / "consolidated.safetensors").read_bytes() == before


# ---- what a resume refuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["--lora-rank", "4"], "speaker.lora.rank: 2 -> 4"),
        (["--set", "data.path=tests"], "data.path: "),
        (["--set", "encoder.train.learning_rate=5e-3"], "encoder.train.learning_rate: 0.001 -> 0.005"),
        (["--set", "task=encoder"], 'task: "clone" -> "encoder"'),
        (["--seed", "3"], "seed: 0 -> 3"),
        (["--set", "voice=other"], 'voice: "clone" -> "other"'),
    ],
)
def test_resume_with_another_configuration_names_the_key(refused, uninterrupted, clone_config, settings, named):
    for config in ([], ["--config", clone_config]):
        argv = ["train", *config, "--resume", uninterrupted, *settings]
        line = refused(argv, "started with another configuration", named, unchanged=(uninterrupted,))
        assert line.count("->") == 1, "only what differs is named"


def test_what_is_no_run_directory(refused, uninterrupted, clone_config, tmp_path):
    (tmp_path / "empty").mkdir()
    for config in ([], ["--config", clone_config]):
        refused(["train", *config, "--resume", tmp_path / "empty"], "empty is not a run directory")
        refused(["train", *config, "--resume", tmp_path / "gone"], "gone is not a run directory")
    argv = ["train", "--resume", uninterrupted / "encoder"]
    refused(argv, f"it is part of the run {uninterrupted}", unchanged=(uninterrupted,))


def test_a_run_directory_in_use_is_not_started_again(refused, uninterrupted, clone_config):
    argv = ["train", "--config", clone_config, "--set", f"output={uninterrupted}", "--set", "bake.output=elsewhere"]
    refused(argv, "is not empty: continue with --resume", unchanged=(uninterrupted,))
