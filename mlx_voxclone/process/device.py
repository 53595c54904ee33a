"""Where MLX computes."""

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.process.memory import limit_memory


def set_device(name: str) -> str:
    """Make `auto`, `gpu` or `cpu` MLX's default device, within the limits of `process.memory`; returns `gpu` or `cpu`.

    Raises:
        ConfigError: `gpu` where MLX sees neither Metal nor CUDA.
    """
    import mlx.core as mx  # here: --help does without it

    cuda = getattr(mx, "cuda", None)
    found = mx.metal.is_available() or (cuda is not None and cuda.is_available())
    if name == "gpu" and not found:
        raise ConfigError("device gpu: MLX sees neither Metal nor CUDA on this machine; take cpu or auto")
    chosen = "gpu" if found and name != "cpu" else "cpu"
    mx.set_default_device(mx.gpu if chosen == "gpu" else mx.cpu)
    if chosen == "gpu":
        limit_memory()
    return chosen
