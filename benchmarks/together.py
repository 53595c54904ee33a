"""Is music under a voice told, and a second voice over it? `python -m benchmarks.together SPEECH [--clips N]`

SPEECH holds clean recordings, each of one person: all of them, as they are, say how often the measure of
`audio.measure.together` tells of something that is not there. To N of them is added music (chords that are held, chords
that are plucked, both with drums, drums alone) and the recording of somebody else, at several levels under the speech.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.quality import audio_files, coloured_noise, evenly
from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio
from mlx_voxclone.audio.measure.together import TogetherMeter, together
from mlx_voxclone.audio.segment import frame_levels, speech_level, speech_mask

RATE = SAMPLE_RATE
Sound = Callable[[int, np.random.Generator], np.ndarray]


def _chord(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    root, third = 110 * 2 ** (rng.integers(0, 12) / 12), rng.integers(3, 5)
    pitches = [root * 2 ** (step / 12) for step in (0, third, 7, 12)]
    partials = [(p * k, 1 / k) for p in pitches for k in range(1, 7)]
    return sum(weight * np.sin(2 * np.pi * hertz * times + rng.uniform(0, 6)) for hertz, weight in partials)


def held(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Chords of 1 to 2.5 s, as of an organ."""
    out, at = np.zeros(samples + 3 * RATE), 0
    while at < samples:
        times = np.arange(int(rng.uniform(1, 2.5) * RATE)) / RATE
        edges = np.clip(np.minimum(times, times[-1] - times) / 0.1, 0, 1)
        out[at : at + len(times)] += edges * _chord(rng, times)
        at += len(times)
    return out[:samples]


def plucked(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Two chords a second that die away."""
    out, times = np.zeros(samples + RATE), np.arange(RATE) / RATE
    for at in range(0, samples, RATE // 2):
        out[at : at + RATE] += np.exp(-3 * times) * _chord(rng, times)
    return out[:samples]


def drums(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Four strokes a second: a bass drum, and noise that dies away."""
    out, times = np.zeros(samples + RATE), np.arange(RATE // 4) / RATE
    for number, at in enumerate(range(0, samples, RATE // 4)):
        stroke = rng.standard_normal(len(times)) * np.exp(-25 * times) * (1.0 if number % 4 == 2 else 0.3)
        if number % 2 == 0:
            stroke += 2 * np.sin(2 * np.pi * (60 * times - np.exp(-30 * times))) * np.exp(-18 * times)
        out[at : at + len(times)] += stroke
    return out[:samples]


def band(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Plucked chords and drums, as loud as each other."""
    chords, beat = plucked(samples, rng), drums(samples, rng)
    return chords / chords.std() + beat / beat.std()


def under(speech: np.ndarray, sound: np.ndarray, decibels: float) -> np.ndarray:
    """Speech with a sound [S] each, the sound's power so much below that of the words."""
    levels = frame_levels([speech], RATE)
    level = speech_level(levels, speech_mask(levels)) - decibels
    return (speech + sound / np.sqrt(np.mean(sound**2)) * 10 ** (level / 20)).astype(np.float32)


def share(samples: np.ndarray) -> float:
    meter = TogetherMeter(RATE)
    meter.add(samples)
    return meter.shares([(0.0, len(samples) / RATE)])[0]


def row(name: str, shares: list[float]) -> None:
    found = sum(map(together, shares))
    low, middle, high = np.percentile(shares, [10, 50, 90])
    print(f"| {name} | {found} of {len(shares)} | {middle:.3f} ({low:.3f} to {high:.3f}) |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--clips", type=int, default=24)
    options = parser.parse_args()
    files = audio_files(options.speech)
    chosen = evenly(files, options.clips)
    print("| sound | found in | share of frames with two pitches, median (10th to 90th) |\n|---|---|---|")
    spent = seconds = 0.0
    found = {}
    for path in files:
        samples = read_audio(path)
        began = time.process_time()
        found[path] = share(samples)
        spent, seconds = spent + time.process_time() - began, seconds + len(samples) / RATE
    corpora = {path: path.relative_to(options.speech).parts[0] for path in files}
    for corpus in sorted(set(corpora.values())):
        row(f"{corpus}, as it is", [found[path] for path in files if corpora[path] == corpus])
    print("most:", ", ".join(f"{path.stem} {found[path]:.3f}" for path in sorted(files, key=lambda p: -found[p])[:8]))
    speech = [read_audio(path) for path in chosen]
    kinds: dict[str, Sound] = {"chords held": held, "chords plucked": plucked, "chords and drums": band, "drums": drums}
    kinds["pink noise"] = lambda samples, rng: coloured_noise(samples, 1.0, rng)
    for name, make in kinds.items():
        sounds = [make(len(one), np.random.default_rng(k)) for k, one in enumerate(speech)]
        for decibels in (0, 10, 20):
            row(f"{name}, {decibels} dB under", [share(under(*pair, decibels)) for pair in zip(speech, sounds)])
    others = [np.resize(other, len(one)) for one, other in zip(speech, speech[7:] + speech[:7])]
    for decibels in (0, 5, 10, 15):
        row(f"somebody else, {decibels} dB under", [share(under(*pair, decibels)) for pair in zip(speech, others)])
    print(f"CPU: {3600 * spent / seconds:.0f} s per hour of audio")


if __name__ == "__main__":
    main()
