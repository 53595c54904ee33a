"""Where speech starts and ends: levels beside Silero VAD. `python -m benchmarks.activity SPEECH [--clips N]`

SPEECH is a folder of clean recordings of sentences. Each is trimmed to its words (40 dB under its loudest syllable),
and recordings of six of them are put together with 0.6 to 2 s of near silence between: where words are is known. Then
noise, music or breaths are added, and each way of finding speech is measured:

- boundary: error of the starts and ends of the sentences (median and 90th percentile, ms);
- lost: share of the words' 10 ms frames that no clip would hold, after trimming and cutting with margins;
- kept: share of the frames without words that are taken for speech.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.signal

from benchmarks.quality import audio_files, coloured_noise, evenly
from mlx_voxclone.audio.activity.silero import SileroMeter
from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.audio.segment import FRAME_SECONDS, cut_at_pauses, frame_levels, smoothed, speech_mask

RATE, SENTENCES = 24_000, 6
Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def by_levels(samples: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return speech_mask(levels)


def by_silero(samples: np.ndarray, levels: np.ndarray) -> np.ndarray:
    meter = SileroMeter(RATE)
    meter.add(samples.astype(np.float32))
    return meter.mask(len(levels))


def recordings(files: list[Path], rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Samples, and which frames hold words."""
    made = []
    for first in range(0, len(files) - SENTENCES + 1, SENTENCES):
        parts, words = [np.zeros(RATE // 2)], [np.zeros(50, bool)]
        for path in files[first : first + SENTENCES]:
            clip = read_audio(path).astype(np.float64)
            level = smoothed(frame_levels([clip], RATE))
            loud = np.flatnonzero(level > level.max() - 40)
            clip = clip[loud[0] * 240 : (loud[-1] + 1) * 240]
            clip *= 0.05 / np.sqrt(np.mean(clip**2))
            gap = int(rng.integers(60, 200))
            parts += [clip, np.zeros(gap * 240)]
            words += [np.ones(len(clip) // 240, bool), np.zeros(gap, bool)]
        samples = np.concatenate(parts)
        samples += 3e-5 * rng.standard_normal(len(samples))
        made.append((samples, np.concatenate(words)[: len(samples) // 240]))
    return made


def added(samples: np.ndarray, sound: np.ndarray, snr: float) -> np.ndarray:
    """Samples [S] with a sound [S], `snr` dB under speech of RMS 0.05."""
    return samples + sound / np.sqrt(np.mean(sound**2)) * 0.05 * 10 ** (-snr / 20)


def noise(snr: float, tilt: float) -> Change:
    def change(samples: np.ndarray, words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return added(samples, coloured_noise(len(samples), tilt, rng), snr)

    return change


def babble(snr: float, voices: list[np.ndarray]) -> Change:
    """Other people, six at once."""

    def change(samples: np.ndarray, words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        sound = sum(np.resize(np.roll(v, rng.integers(len(v))), len(samples)) for v in voices)
        return added(samples, sound, snr)

    return change


def music(snr: float) -> Change:
    """Chords of plucked, decaying notes with overtones, two a second."""

    def change(samples: np.ndarray, words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        sound, times = np.zeros(len(samples) + RATE), np.arange(RATE) / RATE
        for at in range(0, len(samples), RATE // 2):
            root = 110 * 2 ** (rng.integers(0, 12) / 12)
            for step in (0, 4, 7, 12):
                for overtone in range(1, 7):
                    pitch = root * 2 ** (step / 12) * overtone
                    tone = np.sin(2 * np.pi * pitch * times) * np.exp(-3 * times) / overtone
                    sound[at : at + RATE] += tone
        sound = sound[: len(samples)]
        return added(samples, sound, snr)

    return change


def breaths(level: float) -> Change:
    """A breath in the middle of each pause: 0.4 s of noise around 1 to 6 kHz, `level` dB under the speech."""

    def change(samples: np.ndarray, words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        out = samples.copy()
        edges = np.flatnonzero(np.diff(words.astype(int)))
        for end, start in zip(edges[1::2], edges[2::2]):
            middle, size = (end + start) // 2 * 240, int(0.4 * RATE)
            sound = scipy.signal.sosfilt(
                scipy.signal.butter(2, (1000, 6000), "band", fs=RATE, output="sos"), rng.standard_normal(size)
            ) * np.hanning(size)
            part = slice(max(0, middle - size // 2), max(0, middle - size // 2) + size)
            room = len(out[part])
            out[part] += (sound / np.sqrt(np.mean(sound**2)) * 0.05 * 10 ** (-level / 20))[:room]
        return out

    return change


def scored(mask: np.ndarray, levels: np.ndarray, words: np.ndarray) -> tuple[list[float], float, float]:
    """Boundary errors in ms, share of words lost, share of the rest kept."""
    size = len(words)
    mask, levels = mask[:size], levels[:size]
    held = np.zeros(size, bool)
    for piece in cut_at_pauses(levels, mask, 2.0, 20.0) if mask.any() else []:
        held[piece.start : piece.end] = True
    spoken = np.flatnonzero(mask)
    edges, errors = np.flatnonzero(np.diff(words.astype(int))) + 1, []
    changes = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    starts, ends = changes[::2], changes[1::2]
    for number, edge in enumerate(edges):
        near = starts if number % 2 == 0 else ends
        errors.append(1000 * FRAME_SECONDS * (np.abs(near - edge).min() if len(spoken) else 100))
    return errors, float((words & ~held).sum() / words.sum()), float((mask & ~words).sum() / (~words).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--clips", type=int, default=36)
    options = parser.parse_args()
    files = audio_files(options.speech)
    chosen = evenly(files, options.clips)
    others = [read_audio(path).astype(np.float64) for path in files[1:200:30]][:6]
    made = recordings(chosen, np.random.default_rng(0))
    changes: list[tuple[str, Change]] = [
        ("as it is", lambda samples, words, rng: samples),
        *((f"white noise, {snr} dB", noise(snr, 0)) for snr in (20, 10, 5)),
        *((f"pink noise, {snr} dB", noise(snr, 1)) for snr in (20, 10, 5)),
        *((f"babble, {snr} dB", babble(snr, others)) for snr in (20, 10)),
        *((f"music, {snr} dB", music(snr)) for snr in (25, 15, 5)),
        *((f"breaths, {level} dB", breaths(level)) for level in (30, 20, 10)),
    ]
    ways = {"levels": by_levels, "Silero": by_silero}
    print("| added | way | boundary, ms (90th) | words lost, % | silence kept, % |\n|---|---|---|---|---|")
    spent = dict.fromkeys(ways, 0.0)
    for name, change in changes:
        changed = [change(s, w, np.random.default_rng(k)) for k, (s, w) in enumerate(made)]
        for way, mask_of in ways.items():
            errors, lost, kept = [], [], []
            for samples, (_, words) in zip(changed, made):
                levels = frame_levels([samples], RATE)
                began = time.process_time()
                mask = mask_of(samples, levels)
                spent[way] += time.process_time() - began
                one = scored(mask, levels, words)
                errors, lost, kept = [*errors, *one[0]], [*lost, one[1]], [*kept, one[2]]
            middle, most = np.percentile(errors, [50, 90])
            shares = f"{100 * np.mean(lost):.2f} | {100 * np.mean(kept):.1f}"
            print(f"| {name} | {way} | {middle:.0f} ({most:.0f}) | {shares} |", flush=True)
    hours = len(changes) * sum(len(s) for s, _ in made) / RATE / 3600
    print("CPU per hour of audio: " + ", ".join(f"{way} {seconds / hours:.0f} s" for way, seconds in spent.items()))


if __name__ == "__main__":
    main()
