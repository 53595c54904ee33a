"""Batches for the benchmark's codec: crops of the corpus, and what the losses compare them with."""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from benchmarks.recovery.buzz import Components, on_impulses
from benchmarks.recovery.corpus import FRAME, KINDS, TRACK_HOP, UNITS, Corpus, CorpusClip, units_of
from benchmarks.recovery.heard import HeardStates, crop_of
from mlx_voxclone.miniature.synth import PHONES, SyntheticSpeaker
from mlx_voxclone.model.config import CodecConfig
from mlx_voxclone.model.quantizer import QuantisationNoise
from mlx_voxclone.train.encoder.items import draw_quantisation

STFT_SCALES = (1024, 512, 256, 128)
MEL_SCALES = ((2048, 160), (1024, 80), (512, 80), (256, 40), (128, 20))
SHARES = dict(zip(KINDS, (0.35, 0.15, 0.1, 0.4)))  # of a batch's crops; kinds that are not at hand leave theirs
PITCHES = (100.0, 150.0, 200.0, 250.0)  # Hz, of `SyntheticSpeaker.varied`
VOICED = [k for k, unit in enumerate(UNITS) if unit and PHONES[unit].voice > 0.4]
GAIN_DB = 4.0  # crops are made louder or softer by up to this
# What the ear hardly hears must not change the codes, or decoded audio and recordings would be read in different ways.
DISTURBED_NOISE = 3e-3  # white noise
DISTURBED_MS = 4.0  # frequencies are delayed against each other, and all of them together, by up to this
DISTURBED_DB = 2.0  # and louder or softer by up to this


@dataclass(frozen=True)
class _Crop:
    wave: np.ndarray  # [S]
    units: np.ndarray  # [T]
    pitch: np.ndarray  # [T]
    heard: np.ndarray  # [T, D]


class Crops:
    """Crops of training clips, drawn by kind, then by clip. A batch depends on the seed and its number alone.

    Args:
        grid: samples between the places where a crop may start, a multiple of `TRACK_HOP`.
        heard: a Whisper's states of clips; None: no batch has any.
        buzz: whether batches have the target of `on_impulses`, and the `Components`.
    """

    def __init__(
        self,
        corpus: Corpus,
        config: CodecConfig,
        size: int,
        frames: int,
        seed: int,
        grid: int = TRACK_HOP,
        heard: HeardStates | None = None,
        buzz: bool = False,
    ):
        self._components = Components(corpus, config.acoustic_dim) if buzz else None
        self._heard_dim = heard.dim if heard else 0
        self.config, self.size, self.frames, self.seed = config, size, frames, seed
        self._every = grid // TRACK_HOP
        # per kind: (samples as int16, to hold an hour in 170 MB; labels; pitch; heard states)
        self._pools = []
        shares = []
        for kind in KINDS:
            pool = [
                (_as_int16(clip.read()), clip.track, pitch_of(clip), heard.of(clip) if heard else None)
                for clip in corpus.split("train", kind)
            ]
            if pool:
                self._pools.append(pool)
                shares.append(SHARES[kind])
        self._shares = np.array(shares) / sum(shares)

    def batch(self, number: int) -> dict[str, Any]:
        """Batch `number`: `waves` [B, S], `units` [B, T] (-1: unknown), `noise`, `hiss`, `filters`, `stft`, `mel`.

        With a Whisper also `heard` [B, T, D], its states, 0 where it says nothing; with a buzz `target` [B, S] and
        `components` [B, T, A], which count by `component_weights` [A].

        One STFT size and two mel scales are drawn per step: on average the loss of all of them, at a third of the time.
        `hiss [B, S]` and `filters [B, S + 1]` (spectra of double length) disturb what is encoded again: half of the
        crops as decoded, half as recorded.
        """
        rng = np.random.default_rng([self.seed, 0xBA7C, number])
        config, frames = self.config, self.frames
        crops = [self._crop(rng) for _ in range(self.size)]
        drawn = [draw_quantisation(rng, frames, config.acoustic_dim, config.acoustic_codebook_size) for _ in crops]
        waves = np.stack([crop.wave for crop in crops])
        heard = {"heard": mx.array(np.stack([crop.heard for crop in crops]))} if self._heard_dim else {}
        buzz = {}
        if self._components:
            buzz = {"target": mx.array(on_impulses(waves)), "components": mx.array(self._components(waves))}
            buzz["component_weights"] = mx.array(self._components.weights)
        return (
            heard
            | buzz
            | {
                "waves": mx.array(waves),
                "units": mx.array(np.stack([crop.units for crop in crops])),
                "pitch": mx.array(np.stack([crop.pitch for crop in crops])),
                "noise": QuantisationNoise(**{k: mx.array(np.stack([one[k] for one in drawn])) for k in drawn[0]}),
                "hiss": mx.array(DISTURBED_NOISE * rng.standard_normal(waves.shape, dtype=np.float32)),
                "filters": mx.array(np.stack([disturbance(rng, waves.shape[1], config.sampling_rate) for _ in crops])),
                "stft": [STFT_SCALES[rng.integers(len(STFT_SCALES))]],
                "mel": [MEL_SCALES[k] for k in rng.permutation(len(MEL_SCALES))[:2]],
            }
        )

    def _crop(self, rng: np.random.Generator) -> "_Crop":
        """A crop that starts on the grid; zeros behind the end of a short clip.

        A pitch is an index into `PITCHES` where there is voice, -1 elsewhere and where it is none of these.
        """
        pool = self._pools[rng.choice(len(self._pools), p=self._shares)]
        samples, track, pitch, states = pool[rng.integers(len(pool))]
        size = self.frames * FRAME
        first = self._every * int(rng.integers(max(1, (len(samples) - size) // (self._every * TRACK_HOP) + 1)))
        piece = samples[first * TRACK_HOP : first * TRACK_HOP + size]
        wave = np.zeros(size, np.float32)
        wave[: len(piece)] = piece * (10 ** (rng.uniform(-GAIN_DB, GAIN_DB) / 20) / 32767)
        units = np.full(self.frames, -1, np.int32) if track is None else units_of(track, first, self.frames)
        pitches = np.where(np.isin(units, VOICED), pitch, -1).astype(np.int32)
        if states is None:
            heard = np.zeros((self.frames, self._heard_dim), np.float32)
        else:
            heard = crop_of(states, first * TRACK_HOP, self.frames)
        return _Crop(wave, units, pitches, heard)


def pitch_of(clip: CorpusClip) -> int:
    """Index into `PITCHES` of a `SyntheticSpeaker.varied`, -1 for anybody else."""
    kind, _, number = clip.speaker.partition("-")
    return PITCHES.index(SyntheticSpeaker.varied(int(number)).pitch_hz) if kind == "varied" else -1


def disturbance(rng: np.random.Generator, samples: int, rate: int) -> np.ndarray:
    """Spectrum of a filter for `samples` padded to twice their number: complex64 `[samples + 1]`.

    Delays and gains that change smoothly over frequency, a delay of everything, and a random phase of everything.
    """
    hertz = np.linspace(0, rate / 2, samples + 1)
    at = np.geomspace(60, rate / 2, int(rng.integers(4, 16)))
    place = np.log(np.maximum(hertz, 60))
    delay = np.interp(place, np.log(at), rng.uniform(-0.5, 0.5, at.size)) + rng.uniform(-0.5, 0.5)
    phase = 2 * np.pi * np.cumsum(delay) * (hertz[1] - hertz[0]) * (rng.uniform(0, DISTURBED_MS) / 1000)
    gain = 10 ** (np.interp(place, np.log(at), rng.uniform(-DISTURBED_DB, DISTURBED_DB, at.size)) / 20)
    return (gain * np.exp(-1j * (phase + rng.uniform(0, 2 * np.pi)))).astype(np.complex64)


def _as_int16(samples: np.ndarray) -> np.ndarray:
    return np.round(samples * 32767).astype(np.int16)
