"""Where MLX itself cannot be imported: one line that says what to install.

On Linux MLX is two packages: `mlx`, and a backend (`mlx-cpu`, `mlx-cuda-13`) that brings `mlx/lib/libmlx.so`. Without a
backend, with one whose driver is missing, or after the second of two was removed, the import fails.
"""

import importlib.metadata
from pathlib import Path

CPU, CUDA = "mlx-cpu", ("mlx-cuda-13", "mlx-cuda-12")


def describe_import_error(error: BaseException) -> str | None:
    """One line for an import of MLX that failed, None for any other error."""
    if not isinstance(error, ImportError):
        return None
    # A module that is missing has its full name, one that cannot be loaded only the last part of it, and its path.
    if (error.name or "").partition(".")[0] != "mlx" and Path(error.path or "").parent.name != "mlx":
        return None
    reason = " ".join(str(error).split())[:200]
    if isinstance(error, ModuleNotFoundError) and error.name == "mlx":
        return f"MLX is not installed; {_install()}"
    found = {name: version for name in (CPU, *CUDA) if (version := _version(name)) is not None}
    cuda = [name for name in CUDA if name in found]
    if CPU in found and cuda:
        lead = f"two backends of MLX are installed over each other ({', '.join(found)}: {reason})"
        return f"{lead}; keep one: {_repair(found[CPU], cuda)}"
    if cuda:
        lead = f"MLX's CUDA backend cannot be loaded ({reason}); it needs an NVIDIA GPU with its driver"
        return f"{lead}; for the CPU: {_repair(found[cuda[0]], cuda)}"
    if "libmlx" in reason and not found:
        return f"MLX has no backend here ({reason}); {_install()}"
    if "libmlx" in reason and CPU in found:
        return f"{CPU} is installed, but its library is gone ({reason}); put it back: {_repair(found[CPU], [])}"
    return f"MLX cannot be imported ({reason}); on a Mac it needs Apple Silicon and macOS 14 or newer; {_install()}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _in_repository() -> bool:
    return (Path(__file__).resolve().parents[2] / "uv.lock").is_file()


def _install() -> str:
    if _in_repository():
        return "install it: uv sync (with an NVIDIA GPU: uv sync --no-group cpu --extra cuda)"
    return "install it: pip install 'mlx-voxclone[cpu]' (with an NVIDIA GPU: 'mlx-voxclone[cuda]')"


def _repair(version: str, remove: list[str]) -> str:
    """The command that leaves the CPU backend alone in place."""
    if _in_repository():
        return f"uv sync --reinstall-package {CPU}"
    removal = f"pip uninstall -y {' '.join(remove)} && " if remove else ""
    return f"{removal}pip install --force-reinstall --no-deps {CPU}=={version}"
