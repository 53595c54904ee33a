"""MLX without a backend that works here: one line that says what to install."""

import importlib.machinery
import os
import subprocess
import sys

import pytest

from mlx_voxclone.process import backend

DRIVER = "libcuda.so.1: cannot open shared object file: No such file or directory"
LIBRARY = "libmlx.so: cannot open shared object file: No such file or directory"


def failure(reason: str) -> ImportError:
    """As Python raises it where `mlx/core.*.so` cannot be loaded."""
    return ImportError(reason, name="core", path="/venv/site-packages/mlx/core.cpython-311-x86_64-linux-gnu.so")


@pytest.fixture
def installed(monkeypatch):
    def set_to(names: list[str], repository: bool = False) -> None:
        monkeypatch.setattr(backend, "_version", dict.fromkeys(names, "0.32.4").get)
        monkeypatch.setattr(backend, "_in_repository", lambda: repository)

    return set_to


@pytest.mark.parametrize(
    ("names", "reason", "said", "remedy"),
    [
        ([], LIBRARY, "no backend", "pip install 'mlx-voxclone[cpu]' (with an NVIDIA GPU: 'mlx-voxclone[cuda]')"),
        (
            ["mlx-cuda-13"],
            DRIVER,
            "needs an NVIDIA GPU",
            "pip uninstall -y mlx-cuda-13 && pip install --force-reinstall --no-deps mlx-cpu==0.32.4",
        ),
        (
            ["mlx-cpu", "mlx-cuda-13"],
            DRIVER,
            "two backends",
            "pip uninstall -y mlx-cuda-13 && pip install --force-reinstall --no-deps mlx-cpu==0.32.4",
        ),
        (["mlx-cpu"], LIBRARY, "its library is gone", ": pip install --force-reinstall --no-deps mlx-cpu==0.32.4"),
        (["mlx-cpu"], "GLIBC_2.38 not found", "cannot be imported (GLIBC_2.38 not found)", "macOS 14"),
    ],
)
def test_what_is_wrong_and_what_to_do(installed, names, reason, said, remedy):
    installed(names)
    line = backend.describe_import_error(failure(reason))
    assert said in line
    assert line.endswith(remedy) or remedy == "macOS 14"
    assert remedy in line
    assert reason in line
    installed(names, repository=True)
    line = backend.describe_import_error(failure(reason))
    assert "pip install" not in line
    assert "uv sync --reinstall-package mlx-cpu" in line if names and remedy != "macOS 14" else "uv sync (" in line


def test_mlx_is_not_installed(installed):
    installed([])
    line = backend.describe_import_error(ModuleNotFoundError("No module named 'mlx'", name="mlx"))
    assert line.startswith("MLX is not installed; install it: pip install 'mlx-voxclone[cpu]'")


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'mlx_lm'", name="mlx_lm"),
        ImportError("cannot import name 'x'", name="mlx_voxclone.audio", path="/x/mlx_voxclone/audio/__init__.py"),
        ImportError("bad", name="_rust", path="/x/safetensors/_rust.so"),
        OSError("libmlx.so"),
    ],
)
def test_other_errors_are_not_described(error):
    assert backend.describe_import_error(error) is None


@pytest.mark.parametrize("arguments", [["doctor"], ["train", "--smoke-test"], ["bench"]])
def test_a_command_ends_in_one_line(tmp_path, arguments):
    """The loader of libraries refuses the file, as it does where one is missing that MLX needs."""
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx" / f"core{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    code = f"import sys; from mlx_voxclone.cli import main; sys.exit(main({arguments!r}))"
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert "MLX" in done.stderr or "mlx-cpu" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
