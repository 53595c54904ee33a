"""How much faster is the STFT loss with hand-written gradients? `python -m benchmarks.spectral [--repeats N]`

Value and gradient of the multi-resolution STFT loss, size by size, uncompiled, in one process and by turns. `plain`:
`as_strided` frames, `rfft` and MLX's own gradient, which scatters. `ours`: `mlx_voxclone.losses`, on the Metal kernels
where `VOXCLONE_SPECTRAL` and the machine choose them. Times are the least of the repeats, in milliseconds, of the
process's CPU on a CPU, of the clock on a GPU. `gradients` is the RMS of the difference over the RMS: signs of the L1
flip where two magnitudes are nearly equal. The last line: what is saved where losses and discriminators share spectra.
"""

import argparse
import math
import time
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.spectral.choice import use_metal
from mlx_voxclone.audio.spectral.spectra import Spectra
from mlx_voxclone.bench.spectral import plain_stft_loss
from mlx_voxclone.losses import log_mel_loss, multi_resolution_stft_loss
from mlx_voxclone.losses.stft import STFT_SIZES

SAMPLE_RATE = 24000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{options.batch} x {options.seconds:g} s, {'Metal kernels' if use_metal() else 'MLX operations'}")
    print(" n_fft     plain      ours  ratio  gradients")
    total = np.zeros(2)
    for size in STFT_SIZES:
        times, error = compare(size, options.batch, round(options.seconds * SAMPLE_RATE), options.repeats)
        total += times
        print(f"{size:>6} {1e3 * times[0]:>9.1f} {1e3 * times[1]:>9.1f} {times[0] / times[1]:>6.2f}  {error:.1e}")
    own, shared = compare_shared(options.batch, round(options.seconds * SAMPLE_RATE), options.repeats)
    print(f"   all {1e3 * total[0]:>9.1f} {1e3 * total[1]:>9.1f} {total[0] / total[1]:>6.2f}")
    print(
        f"losses and what discriminators see: {1e3 * own:.1f}, on shared spectra {1e3 * shared:.1f}, {own / shared:.2f}"
    )


def compare_shared(batch: int, samples: int, repeats: int) -> np.ndarray:
    """Seconds with spectra of each reader's own, and with shared ones: the STFT and mel losses, and what discriminators
    of the same eight sizes look at (without their convolutions), value and gradient."""
    noise = np.random.default_rng(0).standard_normal((2, batch, samples))
    pred, target = mx.array((0.1 * noise).astype(np.float32))

    def terms(ours, theirs):
        seen = zip(*([Spectra.of(x).pairs(size) for size in STFT_SIZES] for x in (ours, theirs)))
        judged = sum(mx.square(a - mx.stop_gradient(b)).mean() for a, b in seen)
        return multi_resolution_stft_loss(ours, theirs) + log_mel_loss(ours, theirs) + judged

    ways = [
        mx.value_and_grad(lambda x: terms(x, target)),
        mx.value_and_grad(lambda x: terms(Spectra(x, paired=STFT_SIZES), Spectra(target, paired=STFT_SIZES))),
    ]
    mx.eval([way(pred) for way in ways])
    return best_times([lambda way=way: mx.eval(way(pred)) for way in ways], repeats)


def compare(size: int, batch: int, samples: int, repeats: int) -> tuple[np.ndarray, float]:
    """Seconds (plain, ours) of the loss of one size with its gradient, and how far the gradients are apart."""
    noise = np.random.default_rng(0).standard_normal((2, batch, samples))
    pred, target = mx.array((0.1 * noise).astype(np.float32))
    ways = [
        mx.value_and_grad(lambda x: plain_stft_loss(x, target, size)),
        mx.value_and_grad(lambda x: multi_resolution_stft_loss(x, target, sizes=(size,))),
    ]
    plain, ours = (np.array(way(pred)[1]) for way in ways)
    times = best_times([lambda way=way: mx.eval(way(pred)) for way in ways], repeats)
    return times, math.sqrt(np.square(ours - plain).mean() / np.square(plain).mean())


def best_times(calls: list[Callable[[], None]], repeats: int) -> np.ndarray:
    """Least seconds of each call, the calls taking turns."""
    clock = time.process_time if mx.default_device() == mx.cpu else time.perf_counter
    seconds = np.empty((repeats, len(calls)))
    for turn in range(repeats):
        for index, call in enumerate(calls):
            began = clock()
            call()
            seconds[turn, index] = clock() - began
    return seconds.min(axis=0)


if __name__ == "__main__":
    main()
