"""Training from Python: the command's training, from what Python has, told to functions and resumed after Ctrl-C."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import yaml

import mlx_voxclone
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.errors import CheckpointError, ConfigError, DataError
from mlx_voxclone.settings.config import RunConfig, load_run_config, schema_keys

pytest_plugins = ["commands"]


def tensors(path: Path) -> dict[str, np.ndarray]:
    file = TensorFile(path)
    return {name: file.numpy(name) for name in file.names()}


def equal(a: Path, b: Path) -> bool:
    a, b = tensors(a), tensors(b)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.fixture
def content(config_file):
    """The configuration of an encoder's training of seconds, as nested mappings with paths."""
    found = yaml.safe_load(config_file("encoder").read_text(encoding="utf-8"))
    found["data"]["path"], found["model"] = Path(found["data"]["path"]), Path(found["model"])
    return found


@pytest.mark.slow
def test_a_run_told_interrupted_and_resumed(content, config_file, tmp_path, capsys, miniature):
    """From a mapping it is the run of the file; interrupted by `progress` and resumed, too."""
    told, lines = [], []
    before, untouched = mx.default_device(), repr(content)
    run = mlx_voxclone.train(
        content,
        output=tmp_path / "whole",
        encoder={"train": {"save_every": 1}},
        progress=lambda *step: told.append(step),
        message=lines.append,
    )
    assert repr(content) == untouched
    assert mx.default_device() == before
    assert capsys.readouterr() == ("", "")
    assert (run.directory, run.checkpoint, run.voice) == (tmp_path / "whole", None, None)
    assert run.report.is_file()
    assert run.results["encoder"].steps == 4
    assert [step for step in told if step[2] == "encoder"] == [(n, 4, "encoder") for n in range(1, 5)]
    assert {what for _, _, what in told} > {"encoder"}  # the preparation tells, too
    assert any("encoder: training the codec's encoder" in line for line in lines)
    with pytest.raises(CheckpointError, match="bakes no checkpoint"):
        run.load()
    assert mlx_voxclone.load(miniature, encoder=run.best).has_encoder

    def stop(done, total, what):
        if (done, what) == (2, "encoder"):
            raise KeyboardInterrupt

    path, output = config_file("encoder"), tmp_path / "stopped"
    given = {"output": str(output), "encoder.train.save_every": 1}
    with pytest.raises(KeyboardInterrupt, match="continue with --resume"):
        mlx_voxclone.train(path, progress=stop, **given)
    again = mlx_voxclone.train(resume=str(output))
    assert again.results["encoder"].steps == 4
    assert equal(again.best, run.best)
    assert capsys.readouterr() == ("", "")


def test_overrides_are_keys_of_the_configuration(monkeypatch, config_file):
    taken = []
    monkeypatch.setattr("mlx_voxclone.api.training.run", lambda config, **_: taken.append(config) or _summary(config))
    path = config_file("speaker")
    wanted = load_run_config(
        path,
        {
            "seed": 3, "speaker.lora.rank": 4, "data.heldout": 0.3, "speaker.reference_seconds": [0.5, 0.7],
            "output": "runs/x",
        },
    )  # fmt: skip
    given = {
        "speaker.lora.rank": 4, "data": {"heldout": 0.3}, "speaker__reference_seconds": (0.5, 0.7), "encoder": {},
        "output": Path("runs/x"), "seed": 3,
    }  # fmt: skip
    for source in (path, str(path), yaml.safe_load(path.read_text(encoding="utf-8"))):
        run = mlx_voxclone.train(source, **given)
        assert taken.pop().model_dump() == wanted.model_dump()
        assert (run.directory, run.best) == (Path("runs/x"), Path("runs/x/best"))


def _summary(config):
    from mlx_voxclone.train.run import RunSummary

    return RunSummary(config.task, str(config.run_dir))


def test_no_key_is_called_like_an_argument():
    keys = list(schema_keys())
    assert not {"resume", "progress", "message"} & set(keys)
    assert not [key for key in keys if "__" in key]
    assert (
        not [  # a mapping is a section: of it, single keys can be set
            name for name, field in RunConfig.model_fields.items() if "dict" in str(field.annotation)
        ]
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"encoder__train__stepz": 3},
            "^override: encoder.train.stepz: unknown key; did you mean encoder.train.steps",
        ),
        ({"encoder": {"train": {"steps": -1}}}, "^override: encoder.train.steps: must be at least 0; got -1"),
        ({"data__path": Path("gone")}, "^override: data.path: gone does not exist"),
        ({"speed": {}}, "^override: speed: unknown key"),
        ({"data": None}, "^override: data: a section cannot be null"),
        ({"seed__x": 1}, "seed: expected a whole number; got"),
        ({"device": "tpu"}, "^override: device: expected one of auto, gpu or cpu; got"),
    ],
)
def test_a_mistake_is_one_line(content, given, said):
    with pytest.raises(ConfigError, match=said) as caught:
        mlx_voxclone.train(content, **given)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_a_mapping(content):
    with pytest.raises(ConfigError, match="^configuration: speed: unknown key; did you mean seed"):
        mlx_voxclone.train(content | {"speed": 1})
    with pytest.raises(ConfigError, match="^configuration: include: only a file includes another"):
        mlx_voxclone.train({"include": "x.yaml"})
    with pytest.raises(ConfigError, match="^configuration: task: missing"):
        mlx_voxclone.train({})


@pytest.mark.parametrize(
    ("config", "resume", "said"),
    [
        (None, None, "give a configuration"),
        (3, None, "a path or a mapping.*got 3"),
        ("gone.yaml", None, "gone.yaml: no such configuration file"),
        ("", None, "is no path"),
        (None, "gone", "cannot resume: gone is not a run directory"),
        (None, 3, "resume: a path"),
    ],
)
def test_no_configuration(config, resume, said):
    with pytest.raises(ConfigError, match=said):
        mlx_voxclone.train(config, resume=resume)


def test_an_error_leaves_everything_as_it_was(content, tmp_path, capsys):
    before = mx.default_device()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        mlx_voxclone.train(content, data__path=tmp_path / "empty", output=tmp_path / "run", message=lambda line: None)
    assert not (tmp_path / "run").exists()
    assert mx.default_device() == before
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_clone_from_recordings_to_a_checkpoint(config_file, tmp_path, capsys):
    run = mlx_voxclone.train(config_file("clone"), output=tmp_path / "run", progress=lambda *step: None)
    assert capsys.readouterr() == ("", "")
    assert run.checkpoint == tmp_path / "run" / "baked"
    assert (run.voice, run.best) == ("clone", None)
    tts = run.load()
    assert "clone" in tts.voices
    assert tts.has_encoder
    again = mlx_voxclone.train(config_file("clone"), output=tmp_path / "again")
    assert equal(again.checkpoint / "consolidated.safetensors", run.checkpoint / "consolidated.safetensors")
