"""Bad input, as a user meets it: one line that names it, exit code 2 (Ctrl-C: 130), nothing lost or half-written.

What the layers below do with each mistake is tested beside them; here it is the commands'.
"""

import errno
import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
import soundfile
import yaml

from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.train import run as run_module
from mlx_voxclone.train.encoder.task import EncoderTask

pytest_plugins = ["commands"]
WEIGHTS = "consolidated.safetensors"


def voxclone_code(*arguments) -> int:
    return voxclone([str(a) for a in arguments])


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    monkeypatch.setattr(run_module, "write_report", lambda run_dir: "no report")


# ---- recordings ----------------------------------------------------------------------------------------------------


def bad_recording(kind: str, folder) -> None:
    """A folder whose only recording is `kind`."""
    folder.mkdir()
    path = folder / "voice.wav"
    wave = synthesise("papa mino lesu, tara koni.", SyntheticSpeaker.sample(0), 0)
    if kind == "text":
        path.write_text("this is no audio")
    elif kind == "cut":
        soundfile.write(path, wave, 24_000)
        path.write_bytes(path.read_bytes()[:30_000])
    elif kind != "nothing":
        samples, rate = {
            "zero": (wave[:0], 24_000),
            "silent": (np.zeros(48_000), 24_000),
            "clipped": (np.clip(wave * 40, -1, 1), 24_000),
            "nan": (np.where(np.arange(len(wave)) == 9_000, np.nan, wave), 24_000),
            "eight": (np.stack([wave] * 8, axis=1), 24_000),
            "narrow": (wave[::3], 8_000),
            "short": (wave[:9_600], 24_000),
        }[kind]
        soundfile.write(path, samples, rate, subtype="FLOAT" if kind == "nan" else "PCM_16")


RECORDINGS = {
    "nothing": "no audio in this folder",
    "text": "unreadable",
    "zero": "zero-length",
    "silent": "silent",
    "clipped": "clipped",
    "nan": "non-finite",
    "eight": "channels",
    "narrow": "8000 Hz",
    "short": "0.40 s",
    "cut": "truncated",
}


@pytest.mark.parametrize("kind", RECORDINGS)
@pytest.mark.parametrize("command", ["prepare", "train"])
def test_recordings_that_cannot_be_used(refused, config_file, tmp_path, command, kind):
    folder = tmp_path / "recordings"
    bad_recording(kind, folder)
    if command == "prepare":
        argv = ["prepare", folder, "--output", tmp_path / "out"]
    else:
        argv = ["train", "--config", config_file("clone"), "--set", f"data.path={folder}"]
        argv += ["--set", f"output={tmp_path / 'new' / 'run'}"]
    refused(argv, str(folder), RECORDINGS[kind])


@pytest.mark.slow
def test_a_corrected_command_is_the_same_command(refused, config_file, corpus, tmp_path, capsys):
    """A start that failed leaves no run directory in the way of the next one."""
    folder = tmp_path / "recordings"
    bad_recording("text", folder)
    argv = ["train", "--config", config_file("encoder"), "--max-steps", "1", "--set", f"data.path={folder}"]
    argv += ["--set", f"output={tmp_path / 'run'}"]
    refused(argv, "unreadable")
    shutil.copytree(corpus, folder, dirs_exist_ok=True)
    assert voxclone_code(*argv, "--quiet") == 0


def without_texts(corpus, folder) -> None:
    shutil.copytree(corpus, folder)
    (folder / "manifest.jsonl").unlink()


def one_speaker_each(corpus, folder) -> None:
    shutil.copytree(corpus, folder)
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    texts = [json.dumps(line | {"speaker": f"s{i}"}) for i, line in enumerate(lines)]
    (folder / "manifest.jsonl").write_text("\n".join(texts))


@pytest.mark.parametrize(
    ("make", "settings", "text"),
    [
        (without_texts, [], "task speaker needs texts, and none of the clips has one"),
        (one_speaker_each, [], "clip has a text and another clip of its speaker"),
        (shutil.copytree, ["data.heldout=0"], "held-out clip"),
        (shutil.copytree, ["speaker.train.batch_size=9"], "speaker.train: batch_size 9 is larger than the training"),
        (shutil.copytree, ["speaker.train.epochs=1", "speaker.train.warmup_steps=9"], "speaker.train: warmup_steps 9"),
    ],
)
@pytest.mark.parametrize("task", ["speaker", "clone"])
def test_data_that_the_speaker_stage_cannot_use_is_refused_before_any_training(
    config_file, corpus, whole, miniature, tmp_path, capsys, monkeypatch, task, make, settings, text
):
    monkeypatch.setattr(EncoderTask, "losses", None)  # in task clone that stage would take hours
    make(corpus, tmp_path / "recordings")
    config = config_file(task, model=str(whole if task == "speaker" else miniature))
    values = [f"data.path={tmp_path / 'recordings'}", f"output={tmp_path / 'run'}", *settings]
    assert voxclone_code("train", "--config", config, *[p for v in values for p in ("--set", v)], "--quiet") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert text in captured.err
    assert captured.out == ""
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"data"}  # which the corrected command uses


def test_what_is_doubtful_is_said_before_any_training(config_file, corpus, tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise DataError("stopped")

    monkeypatch.setattr(run_module, "recover", stop)
    shutil.copytree(corpus, tmp_path / "recordings")
    lines = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]
    lines[0]["text"] *= 40
    (tmp_path / "recordings" / "manifest.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    values = [f"data.path={tmp_path / 'recordings'}", f"output={tmp_path / 'run'}"]
    assert voxclone_code("train", "--config", config_file("clone"), *[p for v in values for p in ("--set", v)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert "s of speech to learn from; 5 to 30 minutes" in said[0]
    assert "is too long for" in said[1]


# ---- models --------------------------------------------------------------------------------------------------------


def change_tensors(directory, change) -> None:
    tensors = mx.load(str(directory / WEIGHTS))
    change(tensors)
    mx.eval(tensors)
    save_tensors(directory / WEIGHTS, tensors, {"format": "pt"}, overwrite=True)


def edit_json(directory, name, change) -> None:
    content = json.loads((directory / name).read_text())
    change(content)
    (directory / name).write_text(json.dumps(content))


def truncate(directory) -> None:
    content = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(content[: len(content) // 2])


NORM, TABLE = "norm.weight", "mm_audio_embeddings.tok_embeddings.weight"
MODELS = {
    "truncated": (truncate, ["truncated at", "copy or download it again"]),
    "empty": (lambda d: (d / WEIGHTS).write_bytes(b""), ["not a safetensors file"]),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), ["no such file"]),
    "missing tensor": (lambda d: change_tensors(d, lambda t: t.pop(NORM)), [f"missing: {NORM}"]),
    "wrong shape": (lambda d: change_tensors(d, lambda t: t.update({NORM: t[NORM][:-1]})), [f"misshapen: {NORM}"]),
    "unexpected tensor": (lambda d: change_tensors(d, lambda t: t.update(more=t[NORM])), ["unexpected: more"]),
    "no params": (lambda d: (d / "params.json").unlink(), ["params.json: not found"]),
    "broken params": (lambda d: (d / "params.json").write_text("{"), ["params.json: not readable as JSON"]),
    "params without dim": (lambda d: edit_json(d, "params.json", lambda c: c.pop("dim")), ["key 'dim' is missing"]),
    "no tokenizer": (lambda d: (d / "tekken.json").unlink(), ["tekken.json: not found"]),
    "broken tokenizer": (lambda d: (d / "tekken.json").write_text("[]"), ["tekken.json: not a"]),
}
COMMANDS = {
    "say": ["--text", "papa", "--voice", "casual_male", "--output", "out.wav"],
    "encode": ["voice.wav", "--output", "x.safetensors"],
    "decode": ["codes.safetensors", "--output", "out.wav"],
    "bake": ["--voice", "new=codes.safetensors", "--output", "baked"],
    "train": ["--config", "clone.yaml", "--set", "output=run", "--set", "model=model"],
}


@pytest.mark.parametrize(
    ("command", "case"),
    [
        (command, case)
        for command in COMMANDS
        for case in MODELS
        if "tokenizer" not in case or command not in ("encode", "decode")  # which need none
    ],
)
def test_models_that_do_not_fit_together(refused, whole, config_file, voice_file, tmp_path, monkeypatch, command, case):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, tmp_path / "model")
    shutil.copy(voice_file, tmp_path / "voice.wav")
    save_tensors(tmp_path / "codes.safetensors", {"codes": np.ones((37, 2), np.int32)})
    config_file("clone")
    change, texts = MODELS[case]
    change(tmp_path / "model")
    model = [] if command == "train" else ["--model", "model"]
    refused([command, *model, *COMMANDS[command]], "model", *texts)


def test_task_speaker_without_any_encoder(refused, config_file, tmp_path, monkeypatch):
    """Found before the recordings are prepared."""
    monkeypatch.setattr(run_module, "prepare", None)
    argv = ["train", "--config", config_file("speaker"), "--set", f"output={tmp_path / 'run'}"]
    refused(argv, "has no codec encoder, which task speaker needs; set speaker.encoder")


def silent(tmp_path) -> str:
    soundfile.write(tmp_path / "ref.wav", np.zeros(48_000), 24_000)
    return f"bake.reference={tmp_path / 'ref.wav'}"


def another_encoder(tmp_path) -> str:
    save_tensors(tmp_path / "e.safetensors", {"x": np.zeros(2, np.float32)})
    return f"speaker.encoder={tmp_path / 'e.safetensors'}"


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (silent, "ref.wav: the reference clip is silent"),
        (another_encoder, "e.safetensors does not fit params.json"),
        (lambda t: another_encoder(t).replace("speaker.encoder", "encoder.weights"), "e.safetensors does not fit"),
        (lambda t: "voice=casual_male", "voice casual_male: this checkpoint has one of that name"),
        (lambda t: f"bake.output={t / 'mine'}", "mine: exists already; set bake.output"),
        (lambda t: f"bake.output={t / 'tiny' / 'baked'}", "lies inside the model directory"),
    ],
)
def test_what_only_the_end_of_a_clone_needs_is_checked_at_its_start(
    refused, config_file, miniature, tmp_path, monkeypatch, setting, text
):
    monkeypatch.setattr(run_module, "prepare", None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("x")
    shutil.copytree(miniature, tmp_path / "tiny")
    config = config_file("clone", model=str(tmp_path / "tiny"))
    value = setting(tmp_path)
    refused(["train", "--config", config, "--set", f"output={tmp_path / 'run'}", "--set", value], text)


# ---- configurations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: clone\nspekaer: {}", "spekaer: unknown key; did you mean speaker?"),
        ("task: clone\nspeaker: {lora: {rnak: 4}}", "speaker.lora.rnak: unknown key; did you mean speaker.lora.rank?"),
        ("task: clone\nencoder: {train: {steps: many}}", "encoder.train.steps: expected a whole number"),
        ("task: clone\ndata: {path: gone}", "data.path: gone does not exist"),
        ("task: clone", "data.path: missing"),
        ("task: clone\ndata: {path: a: b}", ":2: not valid YAML"),
        ("", "the file is empty"),
        (None, "no such configuration file"),
    ],
)
def test_configurations(refused, tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "run.yaml").write_text(text)
    refused(["train", "--config", "run.yaml"], "run.yaml", said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--config is missing"),
        (["--config", "c.yaml", "--set", "data.pth=x"], "data.pth: unknown key; did you mean data.path?"),
        (["--config", "c.yaml", "--set", "seed"], "--set seed: expected KEY=VALUE"),
        (["--config", "c.yaml", "--lr", "fast"], "argument --lr: invalid float value"),
        (["--config", "c.yaml", "--lr", "nan"], "speaker.train.learning_rate: expected a finite number"),
        (["--config", "c.yaml", "--max-steps", "0"], "steps and epochs are both 0"),
        (["--config", "c.yaml", "--max-steps", "-3"], "must be at least 0; got -3"),
        (["--config", "c.yaml", "--epochs", "1", "--max-steps", "1"], "--max-steps and --epochs"),
        (["--config", "c.yaml", "--epoch", "1"], "unrecognized arguments: --epoch"),
        (["--config", "c.yaml", "--device", "gpu"], "neither Metal nor CUDA"),
    ],
)
def test_flags(refused, tmp_path, corpus, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    monkeypatch.setattr(mx.cuda, "is_available", lambda: False)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"task": "clone", "data": {"path": str(corpus)}}))
    refused(["train", *arguments], said)


def test_a_hub_model_that_cannot_be_fetched(refused, config_file, tmp_path):
    argv = ["train", "--config", config_file("encoder", model="nobody/none"), "--set", f"output={tmp_path / 'run'}"]
    refused(argv, "nobody/none", "not fetched from the hub")


# ---- outputs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["directory", "file"])
@pytest.mark.parametrize("command", ["train", "prepare", "micro", "bake"])
def test_outputs_that_exist(refused, config_file, corpus, whole, tmp_path, command, kind):
    output = tmp_path / "out"
    if kind == "directory":
        output.mkdir()
        (output / "notes.txt").write_text("mine")
    else:
        output.write_text("mine")
    save_tensors(tmp_path / "codes.safetensors", {"codes": np.ones((37, 2), np.int32)})
    arguments = {
        "train": ["--config", config_file("encoder"), "--set", f"output={output}"],
        "prepare": [corpus, "--output", output],
        "micro": ["--output", output],
        "bake": ["--model", whole, "--voice", f"new={tmp_path / 'codes.safetensors'}", "--output", output],
    }[command]
    refused([command, *arguments], str(output), unchanged=(whole, corpus))


@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("prepare", "within"),  # how much a corpus becomes is known at its end
        *[(command, how) for command in ("micro", "bake", "train") for how in ("before", "within")],
    ],
)
def test_no_space_left(refused, config_file, corpus, whole, tmp_path, monkeypatch, command, how):
    save_tensors(tmp_path / "codes.safetensors", {"codes": np.ones((37, 2), np.int32)})
    config = config_file("encoder")
    if how == "before":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    else:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
    output = tmp_path / "out"
    arguments = {
        "train": ["--config", config, "--set", f"output={output}", "--quiet"],
        "prepare": [corpus, "--output", output, "--min-seconds", "0.5"],
        "micro": ["--output", output],
        "bake": ["--model", whole, "--voice", f"new={tmp_path / 'codes.safetensors'}", "--output", output],
    }[command]
    if command == "train" and how == "before":  # what fits (data) is there; the encoder does not
        assert voxclone_code(command, *arguments) == 2
        assert {path.name for path in output.iterdir()} >= {"data"}
        return
    refused([command, *arguments], "no space left", unchanged=(whole, corpus))
