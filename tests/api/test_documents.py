"""What docs/python.md and examples/ show runs as it stands there, on a miniature under the names that they use."""

import json
import re
import runpy
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import yaml
from places import ROOT

import mlx_voxclone
from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.bake.bake import bake

pytest_plugins = ["commands", "baking"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
EXAMPLES = ROOT / "examples"
TRAINING = "Training"


def snippets(page: Path) -> list[tuple[str, str]]:
    """(section, code) of every Python block of a page."""
    found, section = [], ""
    for heading, code in re.findall(r"^## ([^\n]+)$|^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
        section = heading or section
        found += [(section, code)] if code else []
    return found


@pytest.fixture
def desk(tmp_path, monkeypatch, base, adapters, encoder_file, voice_file, corpus, config_file) -> Path:
    """A working directory with everything that the documents name."""
    released = tmp_path / "released"
    shutil.copytree(base, released)
    bake(released, tmp_path / "voxtral", encoder=encoder_file, voices={"ann": voice_file_of(released)})
    shutil.copytree(adapters, tmp_path / "adapters")
    shutil.copyfile(encoder_file, tmp_path / "encoder.safetensors")
    for name in ("001.wav", "002.wav"):
        shutil.copyfile(voice_file, tmp_path / name)
    shutil.copytree(corpus, tmp_path / "recordings")
    config_file("clone").rename(tmp_path / "ann.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def voice_file_of(checkpoint: Path) -> Path:
    return checkpoint / "voice_embedding" / "casual_female.pt"


def run_snippets(chosen: list[tuple[str, str]]) -> dict:
    names: dict = {}
    for section, code in chosen:
        exec(compile(code, f"docs/python.md: {section}", "exec"), names)
    return names


@pytest.mark.slow
def test_the_guide_runs(desk, capsys):
    all_of_them = snippets(ROOT / "docs" / "python.md")
    assert len(all_of_them) > 8
    names = run_snippets([pair for pair in all_of_them if pair[0] != TRAINING])
    assert len(read_audio("hello.wav")) > 1920
    assert names["report"].voices.keys() == {"ann", "ben"}
    assert mlx_voxclone.load("baked").voices[-2:] == ["ann", "ben"]
    assert "no voice called 'nobody'" in capsys.readouterr().out


@pytest.mark.slow
def test_the_guide_trains(desk, capsys):
    names = run_snippets([pair for pair in snippets(ROOT / "docs" / "python.md") if pair[0] in ("", TRAINING)])
    assert names["run"].checkpoint == Path("runs/ann/baked")
    assert "encoder 4 " in capsys.readouterr().out


def example(name: str, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.slow
def test_examples_speak(desk, capsysbinary):
    example("clone.py", "voxtral", "001.wav", "Good morning.", "out.wav")
    tts = mlx_voxclone.load("voxtral")
    said = tts.say("Good morning.", tts.voice_from("001.wav"))
    assert np.abs(read_audio("out.wav") - np.clip(said, -1, 1)).max() < 1e-4
    assert np.array_equal(tts.say("Good morning.", "out.safetensors"), said)
    capsysbinary.readouterr()
    example("stream.py", "voxtral", "ann", "Good morning.")
    assert capsysbinary.readouterr().out == tts.say("Good morning.", "ann").tobytes()


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_examples_tell_how_they_are_called(name):
    with pytest.raises(SystemExit, match=f"python examples/{name} "):
        example(name)


@pytest.mark.slow
def test_the_example_trains_and_goes_on(desk, capsys):
    example("train.py", "ann.yaml", "recordings", "ann")
    assert Path("runs/ann/hello.wav").is_file()
    assert capsys.readouterr().out.splitlines()[-1] == "runs/ann/report/index.html"
    content = yaml.safe_load(Path("runs/ann/config.yaml").read_text(encoding="utf-8"))
    assert (content["voice"], content["data"]["path"]) == ("ann", "recordings")


# ---- the notebook ----------------------------------------------------------------------------------------------------


def test_the_notebook_is_one_and_holds_no_outputs():
    content = json.loads((EXAMPLES / "miniature.ipynb").read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert content["metadata"]["kernelspec"]["language"] == "python"
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        common = {"cell_type", "id", "metadata", "source"}
        assert cell.keys() == common | ({"outputs", "execution_count"} if cell["cell_type"] == "code" else set())
        assert cell["source"]
        assert all(isinstance(line, str) for line in cell["source"])
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            compile("".join(cell["source"]), cell["id"], "exec")


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch, tmp_path):
    heard: list = []
    shown = types.ModuleType("IPython.display")
    shown.Audio = lambda samples, rate: heard.append((samples, rate))
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names: dict = {}
    for cell in json.loads((EXAMPLES / "miniature.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert len(heard) == 4
    assert all(rate == 24_000 and len(samples) > 1920 for samples, rate in heard)
    assert names["ann"].voices[-1] == "ann"
