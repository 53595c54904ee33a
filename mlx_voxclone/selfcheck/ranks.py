"""Two ranks of one training on this machine, started as `mlx.launch` starts them."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from mlx_voxclone.errors import TrainingError

COUNT, PATIENCE = 2, 500  # ranks; seconds until they are given up


def train(folder: Path, *, gpus: bool) -> None:
    """The training of `selfcheck.training` in a directory, in two processes, which MLX's ring connects.

    Args:
        gpus: each rank sees a GPU of its own (CUDA).

    Raises:
        TrainingError: one of them failed, or they did not end.
    """
    hosts = folder.with_suffix(".json")
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in _free_ports()]))
    command = [sys.executable, "-m", "mlx_voxclone.selfcheck.ranks", str(folder), "gpu" if gpus else "cpu"]
    started = []
    for rank in range(COUNT):
        own = {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)} | (
            {"CUDA_VISIBLE_DEVICES": str(rank)} if gpus else {}
        )
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(subprocess.Popen(command, env=os.environ | own, **quiet))
    try:
        codes = [process.wait(PATIENCE) for process in started]
    except subprocess.TimeoutExpired:
        raise TrainingError(f"two ranks did not end within {PATIENCE} s") from None
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
    if any(codes):
        raise TrainingError(f"two ranks ended with the codes {codes}")


def _free_ports() -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(COUNT)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    from mlx_voxclone.process.device import set_device
    from mlx_voxclone.selfcheck.training import training
    from mlx_voxclone.train.loop.distributed import join

    together = join()
    set_device(sys.argv[2])
    training(Path(sys.argv[1]), ranks=together).run()
