"""Time, memory and arithmetic of one optimiser step of the encoder through the frozen decoder.

    python -m benchmarks.encoder_step [--clip-seconds 4] [--steps 5] [--peers] [--json FILE]

The step and what of it is counted: `mlx_voxclone/bench/encoder_step.py`. There is a share of the machine's rate of
large products by time on the clock and one by CPU time; where other processes take the cores, only the latter means
anything. With `--peers` the serving code's codec on PyTorch takes turns with it, where VOXCLONE_SERVING_PYTHON names an
interpreter that has it.
"""

import argparse
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx

from mlx_voxclone.bench.codec import measure_encoder_step
from mlx_voxclone.bench.measure import Row
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.miniature.layout import PRESETS


def describe(row: Row) -> str:
    """The figures as lines to read."""
    more = row.more
    operations, seconds = more["operations"], more["seconds"]
    parts = ", ".join(f"{name.replace('_', ' ')} {n / 1e9:.2f}" for name, n in operations.items() if name != "total")
    lines = [
        f"{platform.system()} {platform.machine()}, {mx.default_device()}, MLX {mx.__version__}",
        f"{row.what}, {more['frozen_parameters'] / 1e6:.1f} M parameters frozen",
        f"step: {row.seconds:.2f} s (median of {len(seconds)}, {min(seconds):.2f} to {max(seconds):.2f}), "
        f"{row.cpu_seconds:.2f} s of CPU time",
        f"memory: {row.peak / 1e9:.2f} GB of arrays at the peak, the process {more['peak_resident'] / 1e9:.2f} GB "
        "resident",
        f"operations: {operations['total'] / 1e9:.1f} GFLOP ({parts})",
        f"rate: {operations['total'] / row.seconds / 1e9:.1f} GFLOP/s, {more['share_by_the_clock']:.0%} of the "
        f"{more['product_rate'] / 1e9:.1f} GFLOP/s of large products; {row.share:.0%} by CPU time",
    ]
    lines += [
        f"{peer.name}: {peer.seconds:.2f} s, {peer.cpu_seconds:.2f} s of CPU time, {peer.peak / 1e9:.2f} GB "
        f"({peer.memory}); ours takes {row.cpu_seconds / peer.cpu_seconds:.2f} times its CPU time"
        for peer in row.peers
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder_step", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["release", *PRESETS], default="release", help="sizes of the codec")
    parser.add_argument("--clip-seconds", type=float, default=4.0, help="length of the clip (default: %(default)g)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps after a first one (default: %(default)s)")
    parser.add_argument("--peers", action="store_true", help="compare with what is installed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args(argv)
    if not 0.08 <= arguments.clip_seconds <= 60 or arguments.steps < 1:
        parser.error("--clip-seconds must be from 0.08 to 60 and --steps at least 1")
    row = measure_encoder_step(arguments.preset, arguments.clip_seconds, arguments.steps, arguments.peers)
    print(describe(row))
    if arguments.json is not None:
        write_text_atomic(arguments.json, json.dumps(asdict(row), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
