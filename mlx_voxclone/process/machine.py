"""What this machine is and has: chip, memory, device."""

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_voxclone.process.memory import MemoryLimits

_SYSTEM = 2_000_000_000  # bytes left to everything else, where nobody says how much may be taken


@dataclass(frozen=True)
class Machine:
    """A machine as training sees it.

    Args:
        chip: name of the chip, or of the graphics card.
        cores: of the CPU.
        memory: bytes of RAM (CUDA: of the card) in all.
        usable: bytes that a process may take without driving others out: Metal's recommended working set, to which
            MLX is limited (`process.memory`), the card's memory, or the RAM less 2 GB.
        device: `gpu` or `cpu`.
        mlx: version of MLX.
        system: name and version.
        cache: of what is usable, the bytes that MLX may keep in freed buffers; 0 where nothing limits them.
    """

    chip: str
    cores: int
    memory: int
    usable: int
    device: str
    mlx: str
    system: str
    cache: int = 0


def this_machine() -> Machine:
    """Look at it; the device is MLX's default."""
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    gpu = mx.default_device() != mx.cpu
    info = mx.device_info() if gpu else {}
    memory = int(info.get("total_memory", info.get("memory_size", ram)))
    limits = MemoryLimits.of(info)
    usable = limits.memory if limits is not None else int(info.get("total_memory", max(0, ram - _SYSTEM)))
    return Machine(
        chip=str(info.get("device_name") or _processor()),
        cores=os.cpu_count() or 1,
        memory=memory,
        usable=usable,
        device="gpu" if gpu else "cpu",
        mlx=mx.__version__,
        system=f"{platform.system()} {platform.mac_ver()[0] or platform.release()}",
        cache=limits.cache if limits is not None else 0,
    )


def _processor() -> str:
    if platform.system() == "Darwin":
        asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        if asked.returncode == 0 and asked.stdout.strip():
            return asked.stdout.strip()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
