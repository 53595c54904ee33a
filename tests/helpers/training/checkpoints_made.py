"""Tensors of a checkpoint."""

from mlx_voxclone.checkpoint.reader import TensorFile


def tensors(run_dir, step):
    found = {}
    for name in ("model", "optimizer"):
        file = TensorFile(run_dir / "checkpoints" / f"step-{step}" / f"{name}.safetensors")
        found |= {f"{name}:{key}": (file.info(key).dtype, bytes(file.raw(key))) for key in file.names()}
    return found
