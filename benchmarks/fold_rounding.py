"""How should adapters be rounded into BF16 weights? `python -m benchmarks.fold_rounding [--rank N] [--inputs N]`

A random weight of the LM's size and a random low-rank change of it, folded four ways. Columns: `kept`, the part of the
change that is there, along itself; `direction`, the cosine; `rounding`, norm of the error over that of the change (what
inputs in any direction see of it); `read`, the same for inputs in the span that the change reads alone.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mlx_voxclone.adapters.mix import AdapterMix, LowRank
from mlx_voxclone.bake.fold import Folding
from mlx_voxclone.checkpoint.dtypes import bfloat16_to_float32, decode, encode, float32_to_bfloat16
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.writer import Entry, write_safetensors

MODULE = "layers.0.feed_forward.w1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=3072)
    parser.add_argument("--outputs", type=int, default=1024)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    values = 0.02 * rng.standard_normal((options.outputs, options.inputs)).astype(np.float32)
    print("change  rounding of            kept  direction  rounding    read  seconds")
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "weight.safetensors")
        write_safetensors(path, [Entry(f"{MODULE}.weight", "BF16", values.shape, lambda: encode(values, "BF16"))])
        file = TensorFile(path)
        weight = file.numpy(f"{MODULE}.weight")
        for relative in (0.0003, 0.001, 0.003, 0.01, 0.02, 0.03):
            a = rng.standard_normal((options.inputs, options.rank)).astype(np.float32)
            b = rng.standard_normal((options.rank, options.outputs)).astype(np.float32)
            change = LowRank(a, b * np.float32(relative * np.linalg.norm(weight) / np.linalg.norm(b.T @ a.T)))
            ways: dict[str, Callable[[], np.ndarray]] = {
                "nearest": lambda c=change: folded(file, c, "nearest"),
                "stochastic": lambda c=change: stochastic(weight + c.rows(), rng),
                "error feedback, row": lambda c=change: error_feedback(weight + c.rows()),
                "compensated": lambda c=change: folded(file, c, "compensated"),
            }
            for name, way in ways.items():
                print(f"{relative:<7g} {name:<20} {line(weight, change, way)}")


def line(weight: np.ndarray, change: LowRank, way: Callable[[], np.ndarray]) -> str:
    began = time.perf_counter()
    after = way()
    seconds = time.perf_counter() - began
    wanted, got, basis = change.rows(), after - weight, np.linalg.qr(change.a)[0]
    error, size = got - wanted, np.linalg.norm(wanted)
    product = float((got * wanted).sum(dtype=np.float64))
    figures = product / size**2, product / size / np.linalg.norm(got), np.linalg.norm(error) / size
    return "{:>6.3f} {:>10.3f} {:>9.3f} {:>7.3f} {:>8.2f}".format(
        *figures, np.linalg.norm(error @ basis) / size, seconds
    )


def folded(file: TensorFile, change: LowRank, rounding: str) -> np.ndarray:
    bits, measured = Folding(AdapterMix({MODULE: change}, ()), file, rounding).fold(f"{MODULE}.weight")
    return decode(bits, measured.dtype)


def stochastic(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Up or down by chance, so that the mean is right."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return bfloat16_to_float32(((bits + rng.integers(0, 1 << 16, bits.shape, np.uint32)) >> 16).astype(np.uint16))


def error_feedback(values: np.ndarray) -> np.ndarray:
    """Each element's error goes into the next one of its row."""
    after, error = np.empty_like(values), np.zeros(len(values), np.float32)
    for k in range(values.shape[1]):
        after[:, k] = bfloat16_to_float32(float32_to_bfloat16(values[:, k] - error))
        error += after[:, k] - values[:, k]
    return after


if __name__ == "__main__":
    main()
