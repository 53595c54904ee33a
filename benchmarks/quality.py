"""Do the figures of a recording's quality follow the truth? `python -m benchmarks.quality SPEECH [--clips N]`

SPEECH is a folder of clean recordings (one corpus). To each of N of them is added what is known: noise at a level, a
band limit, a room (decaying noise of a reverberation time), and the figures are printed beside it: the median and the
10th and 90th percentile over the clips.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.signal

from mlx_voxclone.audio.io import audio_info, read_blocks
from mlx_voxclone.audio.measure.quality import Quality, QualityMeter
from mlx_voxclone.audio.segment import frame_levels, speech_level, speech_mask

Change = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def audio_files(speech: Path) -> list[Path]:
    """The recordings below a folder."""
    return sorted(p for p in speech.rglob("*") if p.suffix in (".flac", ".wav"))


def evenly(files: list[Path], count: int) -> list[Path]:
    """Up to so many of the files, evenly over all of them."""
    return files[:: max(1, len(files) // count)][:count]


def coloured_noise(samples: int, power: float, rng: np.random.Generator) -> np.ndarray:
    """White noise (power 0) or pink noise (1): float64 [samples], at any level."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (power / 2)
    return np.fft.irfft(spectrum, samples)


def with_noise(snr: float, power: float = 0.0) -> Change:
    """White noise (power 0) or pink noise (1), `snr` dB under the speech."""

    def change(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
        levels = frame_levels([samples], rate)
        noise = coloured_noise(len(samples), power, rng)
        level = speech_level(levels, speech_mask(levels)) - snr
        return samples + noise / np.sqrt(np.mean(noise**2)) * 10 ** (level / 20)

    return change


def up_to(hertz: float) -> Change:
    """Nothing above a frequency, as after a lower sampling rate or a lossy codec."""

    def change(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
        if hertz >= rate / 2:
            return samples
        taps = scipy.signal.firwin(801, hertz, fs=rate, window=("kaiser", 10.0))
        return scipy.signal.fftconvolve(samples, taps, "same")

    return change


def in_room(seconds: float, direct: float = 0.0) -> Change:
    """In a room of a reverberation time; `direct` sound over the room's in dB."""

    def change(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
        times = np.arange(int(1.3 * seconds * rate)) / rate
        room = rng.standard_normal(len(times)) * 10 ** (-3 * times / seconds)
        room[: round(0.003 * rate)] = 0
        room *= 10 ** (-direct / 20) / np.sqrt(np.square(room).sum())
        room[0] = 1
        return scipy.signal.fftconvolve(samples, room)[: len(samples)]

    return change


CHANGES: list[tuple[str, Change]] = [
    ("as it is", lambda samples, rate, rng: samples),
    *((f"white noise, {snr} dB", with_noise(snr)) for snr in (40, 30, 20, 10, 5)),
    *((f"pink noise, {snr} dB", with_noise(snr, 1.0)) for snr in (30, 20, 10)),
    *((f"up to {khz:g} kHz", up_to(1000 * khz)) for khz in (12, 8, 5.5, 3.4)),
    *((f"room of {s} s, direct {d:+d} dB", in_room(s, d)) for s, d in ((0.15, 3), (0.3, 0), (0.5, 0), (0.5, -5))),
    *((f"room of {s} s, direct +0 dB", in_room(s)) for s in (0.7, 1.0)),
    ("room of 0.5 s and pink noise, 25 dB", lambda s, r, g: with_noise(25, 1.0)(in_room(0.5)(s, r, g), r, g)),
]  # fmt: skip


def measured(samples: np.ndarray, rate: int) -> Quality:
    """The figures of samples [S]."""
    meter, levels = QualityMeter(rate), frame_levels([samples], rate)
    meter.add(samples)
    return meter.quality(levels, speech_mask(levels), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--clips", type=int, default=12)
    options = parser.parse_args()
    files = evenly(audio_files(options.speech), options.clips)
    print("| added | over noise, dB | bandwidth, kHz | reverberation, s |\n|---|---|---|---|")
    for name, change in CHANGES:
        found = []
        for number, path in enumerate(files):
            samples, rate = _read(path)
            found.append(measured(change(samples, rate, np.random.default_rng(number)), rate))
        rooms = [q.reverberation for q in found if q.reverberation is not None]
        cells = [_spread([q.snr for q in found], 0), _spread([q.bandwidth / 1000 for q in found], 1), _spread(rooms, 2)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _read(path: Path) -> tuple[np.ndarray, int]:
    return np.concatenate(list(read_blocks(path)))[:, 0].astype(np.float64), audio_info(path).sample_rate


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    low, middle, high = np.percentile(values, [10, 50, 90])
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
