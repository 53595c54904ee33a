"""`import mlx_voxclone` brings nothing heavy and every public name, two of them functions and packages as well."""

import ast
import importlib
import inspect
import subprocess
import sys

import pytest
from places import ROOT

import mlx_voxclone

HEAVY = ("mlx", "numpy", "scipy", "soundfile", "soxr", "yaml", "pydantic", "tqdm", "huggingface_hub", "mistral_common")


def _in_a_new_process(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_importing_imports_nothing_heavy():
    code = "import sys, mlx_voxclone; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(ast.literal_eval(_in_a_new_process(code)))
    assert loaded.isdisjoint(HEAVY)


def test_sound_needs_no_training():
    """A name brings what it needs, not the whole package."""
    code = "import sys, mlx_voxclone; mlx_voxclone.write_wav; print('mlx_voxclone.train.run' in sys.modules)"
    assert _in_a_new_process(code) == "False"


def test_every_public_name_is_there_and_told():
    assert dir(mlx_voxclone) == sorted(mlx_voxclone.__all__)
    for name in mlx_voxclone.__all__:
        assert getattr(mlx_voxclone, name) is not None
        assert name == "__version__" or getattr(mlx_voxclone, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = mlx_voxclone.lod


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "mlx_voxclone" / "__init__.py").read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {alias.asname: node.module for node in blocks[0].body for alias in node.names}
    assert {*seen, "errors", "__version__"} == set(mlx_voxclone.__all__)
    assert {name: module.rpartition(".")[2] for name, module in seen.items()} == mlx_voxclone._PLACES
    assert (ROOT / "mlx_voxclone" / "py.typed").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("first", ["", "import mlx_voxclone.train.run, mlx_voxclone.bake.bake"])
def test_functions_that_are_packages_too(first):
    """Whatever was imported before: they can be called, and their modules are found below them."""
    code = first + (
        "\nimport inspect, mlx_voxclone\n"
        "from mlx_voxclone import bake, train\n"
        "def check():\n"
        "    assert mlx_voxclone.train is train and mlx_voxclone.bake is bake\n"
        "    print(*('progress' in inspect.signature(function).parameters for function in (train, bake)))\n"
        "check()\n"
        "import mlx_voxclone.train.run as run, mlx_voxclone.bake.bake as module\n"
        "assert mlx_voxclone.train.run is run and mlx_voxclone.bake.bake is module\n"
        "check()"
    )
    assert _in_a_new_process(code).split() == ["True"] * 4


def test_called_it_is_the_function(monkeypatch):
    for name, place in (("train", "training"), ("bake", "baking")):
        module = importlib.import_module(f"mlx_voxclone.api.{place}")
        monkeypatch.setattr(module, name, lambda *given, **named: (given, named))
        assert getattr(mlx_voxclone, name)("a", b=1) == (("a",), {"b": 1})


def test_docstrings_tell_of_arguments_and_errors():
    """Shapes, units and errors stand where `help()` shows them."""
    for name in ("load", "train", "bake", "read_audio", "write_wav", "Voice"):
        text = inspect.getdoc(getattr(mlx_voxclone, name))
        assert "Raises:" in text, name
    for name in ("say", "stream", "voice_from"):
        assert "Error" in inspect.getdoc(getattr(mlx_voxclone.TextToSpeech, name)) or name == "stream"
    for method in (mlx_voxclone.SpeechCodec.encode, mlx_voxclone.SpeechCodec.decode):
        assert "[37, " in inspect.getdoc(method)
