"""A small source-filter synthesiser of speech-like voices, for the smoke test and the tests.

A glottal pulse train (Rosenberg's shape, differentiated by the lips) and noise pass formant resonators that the letters
of a text move; a "speaker" is a pitch range and a vocal-tract length. Nobody will take it for a person, but it has what
the models have to learn: pitch, formants that say what is spoken and scale with who speaks, voiceless sounds, pauses.
Equal arguments give equal samples.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav
from mlx_voxclone.errors import DataError

LEVEL = -23.0  # dB of full scale, RMS over the clip: where speech is usually recorded
PEAK = 0.9  # no sample beyond this
ROOM = -50.0  # dB below the speech: a room is never quite silent
MANIFEST = "manifest.jsonl"
_HOP, _WINDOW, _FFT = 240, 960, 2048  # samples: 10 ms, 40 ms, and room for the resonances to ring out
# Bandwidths (Hz) of the three formants that letters move, and the fixed formants above (one per kHz in a 17 cm tube).
_BANDWIDTHS = np.array([70, 90, 140, *range(200, 1000, 100)], float)
_UPPER_FORMANTS = np.arange(3500, 11_000, 1000, dtype=float)
_OPEN_QUOTIENT = 0.6  # part of a pitch period in which the glottis is open


class Phone(NamedTuple):
    """How one letter sounds; formants of a neutral tract (17 cm)."""

    seconds: float
    formants: tuple[float, float, float]  # Hz
    voice: float  # amplitude of the glottal source
    noise: float = 0.0  # amplitude of the noise source
    band: tuple[float, float] = (3000.0, 2000.0)  # Hz, centre and width of the noise
    burst: bool = False  # closed first, the noise only at the end


class Unit(NamedTuple):
    """One syllable, phone or pause of a text and its samples: `start` included, `end` not."""

    unit: str
    start: int
    end: int


# Vowel formants after Peterson & Barney (1952), rounded; consonants by their place of articulation.
PHONES = {
    "a": Phone(0.13, (730, 1150, 2500), 1.0),
    "e": Phone(0.12, (500, 1850, 2500), 1.0),
    "i": Phone(0.11, (290, 2250, 2950), 0.9),
    "o": Phone(0.13, (470, 850, 2450), 1.0),
    "u": Phone(0.12, (310, 830, 2250), 0.9),
    "y": Phone(0.10, (280, 1900, 2300), 0.8),
    "m": Phone(0.07, (250, 1000, 2200), 0.45),
    "n": Phone(0.07, (250, 1500, 2500), 0.45),
    "l": Phone(0.06, (360, 1200, 2700), 0.6),
    "r": Phone(0.06, (420, 1250, 1650), 0.6),
    "w": Phone(0.06, (300, 650, 2200), 0.6),
    "j": Phone(0.06, (280, 2200, 2950), 0.6),
    "b": Phone(0.07, (300, 800, 2200), 0.15, 0.25, (900, 900), True),
    "d": Phone(0.07, (300, 1700, 2600), 0.15, 0.25, (3500, 1800), True),
    "g": Phone(0.07, (300, 2000, 2300), 0.15, 0.25, (2000, 900), True),
    "p": Phone(0.09, (400, 800, 2200), 0.0, 0.5, (900, 900), True),
    "t": Phone(0.09, (400, 1700, 2600), 0.0, 0.5, (4500, 2200), True),
    "k": Phone(0.09, (400, 2000, 2300), 0.0, 0.5, (2100, 900), True),
    "f": Phone(0.09, (400, 1100, 2200), 0.0, 0.25, (6000, 7000)),
    "s": Phone(0.10, (400, 1700, 2600), 0.0, 0.5, (7000, 2500)),
    "x": Phone(0.10, (400, 1900, 2500), 0.0, 0.5, (3200, 1500)),  # as in "ship"
    "h": Phone(0.06, (500, 1500, 2500), 0.0, 0.35, (1800, 3500)),
    "v": Phone(0.07, (300, 1100, 2200), 0.5, 0.12, (6000, 7000)),
    "z": Phone(0.08, (300, 1700, 2600), 0.5, 0.25, (7000, 2500)),
    "c": Phone(0.10, (400, 1900, 2500), 0.0, 0.5, (3800, 1800), True),  # as in "chip"
    "q": Phone(0.09, (400, 1500, 2200), 0.0, 0.5, (1400, 700), True),
}
VOWELS = "aeiouy"
PAUSES = {" ": 0.05, ",": 0.2, ".": 0.3, "!": 0.3, "?": 0.3, ";": 0.2, ":": 0.2, "'": 0.0, "-": 0.0, "\n": 0.3}  # s
_SILENCE = Phone(0.0, (500, 1500, 2500), 0.0)
_ONSETS = "mnlrwbdgptkfsxvz"  # the consonants that random texts use


@dataclass(frozen=True)
class SyntheticSpeaker:
    """Who speaks.

    Attributes:
        name: for manifests.
        pitch_hz: median pitch, 60 to 400 Hz.
        pitch_range: semitones between the high and low ends of a phrase.
        formant_scale: 17 cm over the length of the vocal tract; about 0.95 for a tall man, 1.2 for a woman.
        breathiness: noise in the voice, 0 to 1.
        rate: speed, 1 is about 5 syllables per second.
    """

    name: str = "speaker"
    pitch_hz: float = 120.0
    pitch_range: float = 4.0
    formant_scale: float = 1.0
    breathiness: float = 0.1
    rate: float = 1.0

    @classmethod
    def sample(cls, seed: int, name: str | None = None) -> "SyntheticSpeaker":
        """Speaker number `seed`. Even numbers have long tracts and low voices, odd ones short tracts and high ones."""
        rng = np.random.default_rng([seed, 0x5EA])
        low = seed % 2 == 0
        return cls(
            name=name or f"synthetic-{seed}",
            pitch_hz=round(float(rng.uniform(85, 135) if low else rng.uniform(170, 250)), 1),
            pitch_range=round(float(rng.uniform(3, 7)), 2),
            formant_scale=round(float(rng.uniform(0.92, 1.02) if low else rng.uniform(1.12, 1.25)), 3),
            breathiness=round(float(rng.uniform(0.03, 0.25)), 3),
            rate=round(float(rng.uniform(0.9, 1.15)), 3),
        )

    @classmethod
    def varied(cls, seed: int) -> "SyntheticSpeaker":
        """Speaker number `seed` of another kind, for small models: slow, monotonous, and of any tract at any pitch.

        The pitch is a multiple of 25 Hz. So is the frame rate of a codec's decoder (100 Hz) of such a pitch: what a
        decoder says begins every 40 ms in the same phase, and it need not keep count. Tract and pitch say nothing about
        each other, so that whoever is to say a text in such a voice has to hear both.
        """
        rng = np.random.default_rng([seed, 0x7A51])
        return cls(
            name=f"varied-{seed}",
            pitch_hz=50.0 * int(rng.integers(2, 6)),
            pitch_range=0.0,
            formant_scale=round(float(rng.uniform(0.9, 1.25)), 3),
            breathiness=round(float(rng.uniform(0.03, 0.25)), 3),
            rate=round(float(rng.uniform(0.7, 0.9)), 3),
        )


def random_text(rng: np.random.Generator, n_units: int) -> str:
    """`n_units` consonant-vowel syllables in words of one to three, with commas and a full stop."""
    words, left = [], n_units
    while left > 0:
        size = min(left, int(rng.integers(1, 4)))
        words.append("".join(rng.choice(list(_ONSETS)) + rng.choice(list("aeiou")) for _ in range(size)))
        left -= size
    commas = rng.random(len(words)) < 0.15
    commas[-1] = False
    return " ".join(word + "," * int(comma) for word, comma in zip(words, commas)) + "."


def synthesise(text: str, speaker: SyntheticSpeaker, seed: int = 0) -> np.ndarray:
    """Speak a text: the samples of `synthesise_aligned`."""
    return synthesise_aligned(text, speaker, seed)[0]


def synthesise_aligned(
    text: str, speaker: SyntheticSpeaker, seed: int = 0, *, level: str = "syllable"
) -> tuple[np.ndarray, list[Unit]]:
    """Speak a text and tell where its syllables (`level="syllable"`) or its letters' sounds (`level="phone"`) are.

    Args:
        text: latin letters (case does not matter), spaces and `,.!?;:'-`.
        seed: of the intonation, the timing and the noise: another reading of the same text.
        level: what the units are; pauses are units of their own in either case, and the samples are the same.
    Returns:
        float32 [samples] at 24 kHz, RMS -23 dB of full scale, peaks below 0.9; and the units from the first to the
        last letter, one after the other.
    Raises:
        DataError: a text without a letter, or with a character that has no sound here.
        ValueError: a level that there is not.
    """
    if level not in ("syllable", "phone"):
        raise ValueError(f'level must be "syllable" or "phone", got {level!r}')
    units = _syllables(text)
    rng = np.random.default_rng([seed, 0x7A1C])
    if level == "phone":  # the timing goes phone by phone anyway
        units = [letter for unit in units for letter in unit]
    phones, ends, alignment = _timing(units, speaker, rng)
    n = ends[-1]
    tracks = _Tracks(phones, ends, speaker.formant_scale)
    pitch = _pitch(tracks.voice, speaker, rng)
    sources = (
        (_glottal_source(pitch, tracks.voice, n, speaker, rng), tracks.response),
        (_white(rng, n) * _per_sample(tracks.noise, n), _noise_response(tracks.band)),
    )
    speech = _filtered(sources, n)
    speech += _white(rng, n) * (_rms(speech) * 10 ** (ROOM / 20))
    gain = 10 ** (LEVEL / 20) / _rms(speech)
    return (speech * min(gain, PEAK / np.abs(speech).max())).astype(np.float32), alignment


def write_corpus(
    directory: str | Path,
    speakers: Sequence[SyntheticSpeaker],
    clips_per_speaker: int,
    seed: int = 0,
    *,
    seconds: float = 3.0,
) -> Path:
    """Write a corpus: `SPEAKER/NNN.wav` and `manifest.jsonl` with text and speaker, as a user would bring it.

    Args:
        seconds: about the length of a clip; it varies by a fifth.
    Returns:
        The manifest.
    """
    directory, lines = Path(directory), []
    for k, speaker in enumerate(speakers):
        (directory / speaker.name).mkdir(parents=True, exist_ok=True)
        for i in range(clips_per_speaker):
            rng = np.random.default_rng([seed, k, i])
            length = seconds * rng.uniform(0.8, 1.2)
            text = random_text(rng, max(1, round(length * 4 * speaker.rate)))
            audio = f"{speaker.name}/{i:03d}.wav"
            write_wav(directory / audio, synthesise(text, speaker, int(rng.integers(2**31))))
            lines.append(json.dumps({"audio": audio, "text": text, "speaker": speaker.name}))
    (directory / MANIFEST).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory / MANIFEST


def _syllables(text: str) -> list[str]:
    """Letters up to and with each vowel; what follows the last vowel of a word goes with it; pauses alone."""
    units: list[str] = []
    for character in text.strip().lower():
        if character in PAUSES:
            units.append(character)
        elif character not in PHONES:
            raise DataError(f"the synthesiser has no sound for {character!r}; it speaks a to z and ,.!?;:'-")
        elif units and units[-1] not in PAUSES and units[-1][-1] not in VOWELS:
            units[-1] += character
        else:
            units.append(character)
    merged: list[str] = []
    for unit in units:  # a consonant cluster that ends a word
        alone = unit not in PAUSES and unit[-1] not in VOWELS
        if alone and merged and merged[-1] not in PAUSES:
            merged[-1] += unit
        else:
            merged.append(unit)
    if all(unit in PAUSES for unit in merged):
        raise DataError("the synthesiser needs a text with at least one letter")
    return merged


def _timing(
    units: list[str], speaker: SyntheticSpeaker, rng: np.random.Generator
) -> tuple[list[Phone], list[int], list[Unit]]:
    """Phones, the sample at which each ends, and the alignment; 50 ms of silence at both ends."""
    phones, ends, alignment = [_SILENCE], [SAMPLE_RATE // 20], []
    for unit in units:
        start = ends[-1]
        letters = [_SILENCE._replace(seconds=PAUSES[unit])] if unit in PAUSES else [PHONES[c] for c in unit]
        for phone in letters:
            phones.append(phone)
            ends.append(ends[-1] + round(phone.seconds * rng.uniform(0.85, 1.2) / speaker.rate * SAMPLE_RATE))
        if ends[-1] > start:
            alignment.append(Unit(unit, start, ends[-1]))
    return [*phones, _SILENCE], [*ends, ends[-1] + SAMPLE_RATE // 20], alignment


class _Tracks:
    """What the phones say over time, one row per `_HOP` samples; smoothed, since a mouth takes time to move."""

    def __init__(self, phones: list[Phone], ends: list[int], formant_scale: float) -> None:
        at = np.arange(0, ends[-1] + _HOP, _HOP)
        index = np.minimum(np.searchsorted(ends, at, side="right"), len(phones) - 1)
        starts = np.array([0, *ends[:-1]])
        through = (at - starts[index]) / np.maximum(1, np.array(ends) - starts)[index]
        noise = np.array([p.noise for p in phones])[index]
        closed = np.array([p.burst for p in phones])[index] & (through < 0.6)
        moving = _smooth(np.array([p.formants for p in phones], float)[index], 7) * formant_scale
        fixed = _UPPER_FORMANTS[None] * formant_scale
        self.response = _resonators(moving, _BANDWIDTHS[:3]) * _resonators(fixed, _BANDWIDTHS[3:])  # [frames, bins]
        self.voice = _smooth(np.array([p.voice for p in phones])[index], 3)  # [frames]
        self.noise = _smooth(np.where(closed, 0.0, noise), 2)  # [frames]
        self.band = np.array([p.band for p in phones], float)[index] * (np.sqrt(formant_scale), 1.0)  # [frames, 2], Hz


def _pitch(voice: np.ndarray, speaker: SyntheticSpeaker, rng: np.random.Generator) -> np.ndarray:
    """Pitch per frame in Hz: falls over the phrase, with accents; its median where there is voice is the speaker's."""
    n = len(voice)
    accents = _smooth(np.repeat(rng.standard_normal(n // 25 + 1), 25)[:n], 21)
    semitones = speaker.pitch_range * (np.linspace(0.5, -0.5, n) + 0.35 * accents)
    semitones -= np.median(semitones[voice > 0.2]) if (voice > 0.2).any() else 0.0
    return speaker.pitch_hz * 2 ** (semitones / 12)


def _glottal_source(
    pitch: np.ndarray, voice: np.ndarray, n: int, speaker: SyntheticSpeaker, rng: np.random.Generator
) -> np.ndarray:
    """Derivative of the glottal flow x^2 - x^3 (Klatt & Klatt 1990), and breath while the glottis is open: [n]."""
    phase = np.cumsum(_per_sample(pitch, n)) / SAMPLE_RATE
    cycle = phase.astype(np.int64)
    x = (phase - cycle) / _OPEN_QUOTIENT
    is_open = x < 1
    shimmer = 1 + 0.04 * rng.standard_normal(int(cycle[-1]) + 1)
    pulses = np.where(is_open, 2 * x - 3 * x * x, 0.0) * shimmer[cycle]
    breath = _white(rng, n) * speaker.breathiness * np.where(is_open, 0.5, 0.15)
    return ((pulses + breath) * _per_sample(voice, n)).astype(np.float32)


def _resonators(formants: np.ndarray, bandwidths: np.ndarray) -> np.ndarray:
    """All-pole response of resonators in a row, unit gain at 0 Hz.

    Args:
        formants: [frames, n], Hz; kept below the Nyquist frequency.
        bandwidths: [n], Hz.
    Returns:
        complex64 [frames, bins].
    """
    radius = np.exp(-np.pi * bandwidths / SAMPLE_RATE)
    middle = -2 * radius * np.cos(2 * np.pi * np.minimum(formants / SAMPLE_RATE, 0.48))  # z^-1 coefficients
    denominator = np.ones((len(formants), 1))
    for k in range(formants.shape[1]):  # multiply the quadratics out: one product with the bins instead of one each
        padded = np.pad(denominator, ((0, 0), (0, 2)))
        padded[:, 1:-1] += middle[:, k, None] * denominator
        padded[:, 2:] += radius[k] ** 2 * denominator
        denominator = padded
    powers = np.exp(-2j * np.pi / _FFT * np.outer(np.arange(denominator.shape[1]), np.arange(_FFT // 2 + 1)))
    return (denominator.sum(axis=1, keepdims=True) / (denominator @ powers)).astype(np.complex64)


def _noise_response(band: np.ndarray) -> np.ndarray:
    """A bell around the centre: [frames, 2] (centre, width in Hz) -> [frames, bins]."""
    bins = np.arange(_FFT // 2 + 1, dtype=np.float32) * (SAMPLE_RATE / _FFT)
    centre, width = band.astype(np.float32).T[:, :, None]
    return np.exp(-2 * np.square((bins - centre) / width))


def _filtered(sources: Sequence[tuple[np.ndarray, np.ndarray]], n: int) -> np.ndarray:
    """Sum of sources [n], each through its time-varying response [frames, bins]; overlap-add of Hann windows: [n]."""
    from scipy import fft  # here, so that `--help` need not wait for it

    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)).astype(np.float32) / (_WINDOW / _HOP / 2)
    spectrum = 0
    for source, response in sources:
        padded = np.pad(source.astype(np.float32), (_WINDOW // 2, len(response) * _HOP + _WINDOW - n))
        frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][: len(response)]
        spectrum = spectrum + fft.rfft(frames * window, _FFT) * response
    pieces = -(-_FFT // _HOP)
    blocks = np.pad(fft.irfft(spectrum, _FFT), ((0, 0), (0, pieces * _HOP - _FFT))).reshape(-1, pieces, _HOP)
    out = np.zeros((len(blocks) + pieces, _HOP), np.float32)
    for k in range(pieces):
        out[k : k + len(blocks)] += blocks[:, k]
    return out.reshape(-1)[_WINDOW // 2 : _WINDOW // 2 + n]


def _per_sample(track: np.ndarray, n: int) -> np.ndarray:
    return np.interp(np.arange(n), np.arange(len(track)) * _HOP, track)


def _smooth(track: np.ndarray, frames: int) -> np.ndarray:
    """Moving average along the first axis; the ends repeat."""
    padded = np.pad(track, [(frames // 2, frames - 1 - frames // 2)] + [(0, 0)] * (track.ndim - 1), mode="edge")
    total = np.cumsum(np.concatenate([np.zeros_like(padded[:1]), padded]), axis=0)
    return (total[frames:] - total[:-frames]) / frames


def _white(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal(n, dtype=np.float32)


def _rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
