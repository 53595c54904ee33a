"""MLX's limits on an Apple GPU, which there is none of here: what is asked of MLX, and who counts with it."""

import mlx.core as mx
import pytest

from mlx_voxclone.cli.front.doctor import describe
from mlx_voxclone.process import device
from mlx_voxclone.process.machine import this_machine
from mlx_voxclone.process.memory import MemoryLimits, memory_limits

WORKING = 11_453_251_584  # of a Mac with 16 GB
INFO = {"device_name": "Apple M4", "memory_size": 17_179_869_184, "max_recommended_working_set_size": WORKING}


@pytest.fixture
def mac(monkeypatch):
    """An Apple GPU, and what is set on it."""
    asked = {}
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(mx, "set_default_device", lambda chosen: None)
    monkeypatch.setattr(mx, "device_info", lambda *_: INFO)
    for name in ("memory", "cache", "wired"):
        monkeypatch.setattr(mx, f"set_{name}_limit", lambda size, name=name: asked.update({name: size}))
    return asked


def test_a_gpu_gets_limits_from_the_machine(mac):
    assert device.set_device("auto") == "gpu"
    assert mac == {"memory": WORKING, "cache": WORKING // 4, "wired": WORKING}
    assert str(memory_limits()) == "11.5 GB for MLX, wired; up to 2.86 GB of it for freed buffers"


def test_a_system_that_wires_less_is_no_end(mac, monkeypatch):
    def refused(size):
        raise ValueError("[metal::set_wired_limit] Setting a wired limit larger than the maximum working set")

    monkeypatch.setattr(mx, "set_wired_limit", refused)
    assert device.set_device("gpu") == "gpu"
    assert mac.keys() == {"memory", "cache"}


def test_doctor_counts_with_them(mac):
    machine = this_machine()
    assert (machine.usable, machine.cache) == (WORKING, WORKING // 4)
    assert "11.5 GB usable (wired, 2.86 GB of it for freed buffers)" in describe(machine)


def test_nothing_is_limited_elsewhere(monkeypatch):
    for name in ("memory", "cache", "wired"):
        monkeypatch.setattr(mx, f"set_{name}_limit", None)
    assert device.set_device("cpu") == "cpu"
    assert memory_limits() is None
    assert MemoryLimits.of({"total_memory": 10**11, "free_memory": 10**10}) is None  # CUDA
    assert this_machine().cache == 0
    assert "wired" not in describe(this_machine())
