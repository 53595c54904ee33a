"""Shared by all tests: nothing reaches the network, markers know what this machine has, one miniature for everybody."""

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

# Before any library reads them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads wait for each other on a busy machine
os.environ.pop("VOXCLONE_DEBUG", None)

import hypothesis
import mlx.core as mx
import pytest

# Its limit of 200 ms for an example says nothing on a busy machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# A shell's background jobs have Ctrl-C switched off, those of nohup SIGHUP; what is tested is a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Folders whose tests need no training: `pytest -m core`, within a minute on two cores.
CORE = ("adapters", "checkpoint", "files", "losses", "model", "settings")


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the `core` tests; `metal` and `torch` tests are skipped, with the reason, where there is neither."""
    missing = {
        "metal": None if mx.metal.is_available() else "needs a Mac with Metal",
        "torch": None if importlib.util.find_spec("torch") else "PyTorch is not installed",
    }
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in CORE and not {"slow", "metal"} & item.keywords.keys():
            item.add_marker("core")
        for marker, reason in missing.items():
            if reason and marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def users_cache(tmp_path_factory) -> Iterator[Path]:
    """Where all tests keep what a user's runs keep in the home directory."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("cache")
        patch.setenv("VOXCLONE_CACHE", str(directory))
        yield directory


@pytest.fixture(scope="session", autouse=True)
def no_fsync() -> Iterator[None]:
    """It protects from power cuts, which no test makes, and costs up to a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def miniature(tmp_path_factory) -> Path:
    """A `tiny` miniature checkpoint (no encoder), made once. Read it only; copy it to change it."""
    from mlx_voxclone.miniature.micro import make_micro

    directory = tmp_path_factory.mktemp("miniature") / "tiny"
    make_micro(directory, preset="tiny", seed=0)
    return directory
