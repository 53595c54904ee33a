"""One rank of toy trainings, for test_distributed.py: `python rank_worker.py JOBS`, a JSON file with a list of jobs.

A job: {"run_dir", "settings", "toy", "poisoned", "resume", "slow", "random", "mine": {RANK: what differs there},
"fails": true}. Each ends in a line of JSON on stdout: what came of it.
"""

import json
import os
import signal
import sys
import time
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
from toy_task import ToyTask, settings

from mlx_voxclone.cli.common import entry
from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.train.loop import distributed
from mlx_voxclone.train.loop.trainer import Trainer

os.fsync = lambda descriptor: None
signal.signal(signal.SIGINT, signal.default_int_handler)  # off in a shell's background jobs


def parameters(trainer) -> int:
    value = 0
    for array in (*trainer.masters.values.values(), *trainer.optimizers.slots().values()):
        value = zlib.crc32(np.array(array).tobytes(), value)
    return value


def carry_out(job: dict, ranks) -> dict:
    job = job | job.get("mine", {}).get(str(ranks.rank), {})
    toy = ToyTask(**job.get("toy", {}))
    toy.poisoned = set(job.get("poisoned", ()))
    losses = toy.losses

    def slow_losses(batch):
        time.sleep(job["slow"])
        return losses(batch)

    if "slow" in job:
        toy.losses = slow_losses
    if "random" in job:  # whatever this process did before
        mx.random.seed(job["random"])
    place = {"resume": job["run_dir"]} if job.get("resume") else {"run_dir": job["run_dir"]}
    trainer = Trainer(toy, settings(**job["settings"]), **place, quiet=True, ranks=ranks)
    result = trainer.run()
    return {"losses": [result.first_loss, result.last_loss], "parameters": parameters(trainer)}


@entry
def main(argv: list[str]) -> int:
    mx.set_default_device(mx.cpu)
    ranks = distributed.join()
    for job in json.loads(Path(argv[0]).read_text()):
        try:
            told = carry_out(job, ranks)
        except VoxcloneError as error:
            if not job.get("fails"):
                raise
            told = {"error": str(error)}
        print(json.dumps(told), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
