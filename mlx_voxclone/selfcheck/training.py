"""A small training, to be stopped, resumed and shared, and what it has learnt."""

from pathlib import Path

import mlx.core as mx

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.doctor.rehearsal import encoder_task
from mlx_voxclone.miniature.layout import PRESETS, params_json
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.loop.distributed import ALONE, Ranks
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.saved.state import CHECKPOINTS

STEPS = 4


def training(folder: Path, *, stop_after: int = 0, resume: bool = False, ranks: Ranks = ALONE) -> Trainer:
    """A training of a miniature encoder with opponents in a directory, or what continues it."""
    section = EncoderSection(
        crop_seconds=0.48,
        stft_sizes=[512, 256],
        quantisation_noise=True,
        discriminators={"enabled": True, "sizes": [126, 76], "channels": 4, "warmup_steps": 1},
    )
    task = encoder_task(params_json(PRESETS["tiny"], {}), section, mx.float32, [0.4, 1.0, 0.3, 0.9])
    settings = TrainSettings(
        steps=STEPS,
        stop_after=stop_after,
        batch_size=2,
        accumulate=2,
        warmup_steps=1,
        eval_every=2,
        save_every=2,
        log_every=1,
        sample_every=0,
        patience=0,
    )
    where = {"resume": folder} if resume else {"run_dir": folder}
    return Trainer(task, settings, **where, quiet=True, ranks=ranks)


def trained(folder: Path) -> dict[str, mx.array]:
    """What a finished training has learnt, and its optimiser's state."""
    last = folder / CHECKPOINTS / f"step-{STEPS}"
    files = {name: TensorFile(last / name) for name in ("model.safetensors", "optimizer.safetensors")}
    return {f"{name}:{key}": file.array(key) for name, file in files.items() for key in file.names()}


def largest_difference(ours: dict[str, mx.array], theirs: dict[str, mx.array]) -> float:
    """Of arrays of the same names, over each one's largest value."""
    pairs = [(ours[name].astype(mx.float32), theirs[name].astype(mx.float32)) for name in ours]
    sizes = [(mx.abs(a - b).max() / mx.maximum(mx.abs(a).max(), 1e-30)).item() for a, b in pairs if a.size]
    return max(sizes)
