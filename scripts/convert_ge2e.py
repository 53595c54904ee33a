"""Write the GE2E speaker encoder as safetensors, for `voxclone evaluate --speaker-model ge2e.safetensors`.

    pip download --no-deps resemblyzer==0.1.4
    python scripts/convert_ge2e.py Resemblyzer-0.1.4-py3-none-any.whl ge2e.safetensors

The weights (Apache-2.0) lie in the package as a file of PyTorch's older format, a pickle. Only the few functions that
tensors of numbers need are known here; a file that names another one is refused, nothing of it runs.
"""

import collections
import io
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

INSIDE = "resemblyzer/pretrained.pt"
LARGEST = 64 << 20  # bytes
HEADERS = 3  # pickles before that of the tensors: magic number, version, byte order


class _Storage:
    """Stands for a class of storages; the numbers follow at the end of the file."""


class _Tensors(pickle.Unpickler):
    """Reads tensors as (storage, offset, sizes, strides), and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, sizes, strides, *_: (storage, offset, tuple(sizes), tuple(strides))
        if (module, name) == ("torch", "FloatStorage"):
            return _Storage
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> str:
        return str(pid[2])  # ("storage", class, key, device, size, view)


def read_tensors(data: bytes) -> dict[str, np.ndarray]:
    """The float32 tensors of `model_state` in a file of PyTorch's older format. Raises ValueError for anything else."""
    file = io.BytesIO(data)
    try:
        for _ in range(HEADERS):
            _Tensors(file).load()
        state, keys = _Tensors(file).load()["model_state"], _Tensors(file).load()
        storages = {}
        for key in keys:
            (count,) = struct.unpack("<q", file.read(8))
            if not 0 <= 4 * count <= LARGEST:
                raise ValueError(f"a storage of {count} numbers")
            storages[str(key)] = np.frombuffer(file.read(4 * count), "<f4")
        return {name: _tensor(storages, *parts) for name, parts in state.items()}
    except (pickle.UnpicklingError, KeyError, TypeError, AttributeError, EOFError, struct.error, IndexError) as e:
        raise ValueError(f"not the weights of the GE2E encoder ({type(e).__name__}: {e})") from None


def _tensor(
    storages: dict[str, np.ndarray], key: str, offset: int, sizes: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray:
    count = int(np.prod(sizes))
    if strides != tuple(int(np.prod(sizes[k + 1 :])) for k in range(len(sizes))):
        raise ValueError(f"a tensor with strides {strides}")
    return storages[key][offset : offset + count].reshape(sizes)


def main(argv: list[str]) -> int:
    from mlx_voxclone.checkpoint.writer import save_tensors
    from mlx_voxclone.errors import VoxcloneError
    from mlx_voxclone.evaluate.ge2e import Ge2eModel

    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    source, target = map(Path, argv)
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as wheel:
                if wheel.getinfo(INSIDE).file_size > LARGEST:
                    raise ValueError(f"{INSIDE} is larger than {LARGEST >> 20} MB")
                data = wheel.read(INSIDE)
        else:
            data = source.read_bytes()
        tensors = {k: v for k, v in read_tensors(data).items() if k.startswith(("lstm.", "linear."))}
        save_tensors(target, tensors)
        Ge2eModel(target)
    except (OSError, KeyError, ValueError, VoxcloneError) as e:
        print(f"error: {source}: {e}", file=sys.stderr)
        return 1
    print(f"written: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
