"""What trains into the benchmark's codec: its first weights, its batches, its losses. See `codec.py`."""

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from benchmarks.recovery.buzz import Components, on_impulses
from benchmarks.recovery.corpus import FRAME, KINDS, TRACK_HOP, UNITS, Corpus, CorpusClip, units_of
from benchmarks.recovery.heard import HeardStates, crop_of
from mlx_voxclone.audio.spectral.stft import stft
from mlx_voxclone.losses import commitment_loss, log_mel_loss, multi_resolution_stft_loss, waveform_l1
from mlx_voxclone.losses.codes import acoustic_code_loss, semantic_code_loss
from mlx_voxclone.losses.distillation import distillation_loss
from mlx_voxclone.miniature.synth import PHONES, SyntheticSpeaker
from mlx_voxclone.model.blocks.conv import CausalConv1d, CausalConvTranspose1d, row_lengths
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.config import CodecConfig
from mlx_voxclone.model.quantizer import QuantisationNoise
from mlx_voxclone.train.encoder.items import draw_quantisation
from mlx_voxclone.train.encoder.start import calibrate_encoder

STFT_SCALES = (1024, 512, 256, 128)
MEL_SCALES = ((2048, 160), (1024, 80), (512, 80), (256, 40), (128, 20))
SHARES = dict(zip(KINDS, (0.35, 0.15, 0.1, 0.4)))  # of a batch's crops; kinds that are not at hand leave theirs
PHASE_FFT, PHASE_POWER, PHASE_FLOOR = 1024, 0.4, 1e-3
PITCHES = (100.0, 150.0, 200.0, 250.0)  # Hz, of `SyntheticSpeaker.varied`
VOICED = [k for k, unit in enumerate(UNITS) if unit and PHONES[unit].voice > 0.4]
GAIN_DB = 4.0  # crops are made louder or softer by up to this
SPREAD = 0.5  # deviation that the acoustic values, in -1..1, should have: an even draw of the levels has 0.6
# What the ear hardly hears must not change the codes, or decoded audio and recordings would be read in different ways.
DISTURBED_NOISE = 3e-3  # white noise
DISTURBED_MS = 4.0  # frequencies are delayed against each other, and all of them together, by up to this
DISTURBED_DB = 2.0  # and louder or softer by up to this
STARTING_CLIPS, STARTING_SECONDS = 24, 4  # speech that the first weights are scaled by


@dataclass(frozen=True)
class LossWeights:
    """Factors of the terms' means."""

    l1: float = 0.0  # decoded waveforms do not follow the recorded ones at this bit rate, only their spectra do
    phase: float = 0.0  # the same, but for voices whose pitch is in step with the frames
    stft: float = 4.0
    mel: float = 1.0
    commitment: float = 0.5
    units: float = 1.5
    heard: float = 0.0  # that quantised semantic latents tell what a Whisper hears (cosine distance)
    pitch: float = 0.0  # that acoustic values tell the pitch, of voices that keep to a few
    components: float = 0.0  # that acoustic values are principal components of log bands (squared distance)
    spread: float = 1.0
    cycle_semantic: float = 0.2
    cycle_acoustic: float = 0.3


@dataclass(frozen=True)
class Stage:
    """What of the losses is in force at a step."""

    quantise: bool = True  # false: the semantic latents pass as they are, there is no codebook yet
    cycle: float = 1.0  # factor on the weights of the cycle terms; 0: they are not computed
    temperature: float = 1.0  # of the cycle's semantic cross-entropy, in squared distance


class Student(nn.Module):
    """The codec, and what reads its quantised semantic latents: a linear classifier of units, a map to heard states.

    The codebook is moved by `CodebookTrainer`, not by gradients, so it is frozen here.

    Args:
        heard_dim: width of a Whisper's states; 0: none is used.
    """

    def __init__(self, codec: Codec, heard_dim: int = 0):
        super().__init__()
        self.codec = codec
        self.classifier = nn.Linear(codec.config.semantic_dim, len(UNITS))
        self.pitch = nn.Linear(codec.config.acoustic_dim, len(PITCHES))
        if heard_dim:
            self.heard = nn.Linear(codec.config.semantic_dim, heard_dim)
        codec.quantizer.freeze()


def new_student(corpus: Corpus, config: CodecConfig, layer_scale: float, seed: int, heard_dim: int = 0) -> Student:
    """Random weights, scaled by some training clips so that every layer starts with signals of ordinary size.

    The LayerScales start at `layer_scale`: at the 0.01 of the release, the transformers of a short run stay idle.
    """
    mx.random.seed(seed)
    codec = Codec(config, encoder=True)
    scales = [(k, v) for k, v in tree_flatten(codec.parameters()) if k.endswith(("attention_scale", "ffn_scale"))]
    codec.load_weights([(name, mx.full(value.shape, layer_scale)) for name, value in scales], strict=False)
    hear_and_speak_bands(codec)
    clips = corpus.split("train")
    clips = clips[:: max(1, len(clips) // STARTING_CLIPS)]
    waves = [clip.read()[: STARTING_SECONDS * config.sampling_rate] for clip in clips]
    calibrate_encoder(codec, waves)
    level = float(np.sqrt(np.mean([np.mean(np.square(wave)) for wave in waves])))
    calibrate_decoder(codec, [codec.encode_latents(mx.array(wave[None])) for wave in waves], level)
    return Student(codec, heard_dim)


def hear_and_speak_bands(codec: Codec) -> None:
    """Start the first convolution as a bank of band filters and the last one as the bank that speaks these bands.

    The codec's input is raw samples, 240 at a time: from random filters, it takes most of a short run to find out that
    sounds have frequencies. Gains are left to the calibration.
    """
    config = codec.config
    kernel, patch = config.patch_kernel, config.patch_size
    bank = band_filters(config.dim, kernel * patch, config.sampling_rate)  # ends with the newest sample
    heard = bank.reshape(config.dim, kernel, patch).transpose(0, 2, 1)
    spoken = bank[:, ::-1].reshape(config.dim, kernel, patch)[:, ::-1].transpose(2, 0, 1)  # the last tap sounds first
    for conv, v in ((codec.input_proj, heard), (codec.output_proj, spoken)):
        norm = conv.conv.parametrizations.weight
        norm.original1 = mx.array(np.ascontiguousarray(v))
        norm.original0 = row_lengths(norm.original1)


def band_filters(count: int, size: int, rate: int) -> np.ndarray:
    """Windowed cosines and sines at frequencies even on the mel scale, unit energy: float32 `[count, size]`.

    Each pair sounds at the end of the `size` samples, for 40 ms at the lowest frequency and 20 ms from 1 kHz on.
    """
    mel = np.linspace(_mel(60.0), _mel(0.45 * rate), count // 2)
    frequency = 700 * (10 ** (mel / 2595) - 1)
    filters = np.zeros((count, size), np.float32)
    for k, hertz in enumerate(np.repeat(frequency, 2)):
        length = min(size, round(rate * (0.04 - 0.02 * min(1.0, hertz / 1000))))
        time = np.arange(length)
        wave = np.hanning(length + 2)[1:-1] * np.cos(2 * np.pi * hertz / rate * time - (k % 2) * np.pi / 2)
        filters[k, size - length :] = wave / np.sqrt(np.square(wave).sum())
    return filters


def _mel(hertz: float) -> float:
    return 2595 * np.log10(1 + hertz / 700)


def calibrate_decoder(codec: Codec, latents: list[mx.array], level: float) -> None:
    """Scale the decoder's convolutions so that each gives signals of RMS 1 for raw `latents`, the last of `level`."""
    xs = [codec.quantizer.straight_through(x)[0] for x in latents]
    blocks = [*codec.decoder_blocks, codec.output_proj]
    for block in blocks:
        xs = [block(x) for x in xs]
        if isinstance(block, CausalConv1d | CausalConvTranspose1d):
            power = sum(mx.mean(mx.square(x)) for x in xs) / len(xs)
            gain = (level if block is blocks[-1] else 1.0) / mx.sqrt(power)
            norm = block.conv.parametrizations.weight
            norm.original0 = norm.original0 * gain
            xs = [x * gain for x in xs]
        mx.eval(xs)
    mx.eval(codec.parameters())


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
        self._pools = []  # per kind: (samples as int16, to hold an hour in 170 MB; labels; pitch; heard states)
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
        `components` [B, T, A].

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
        if self._components is not None:
            buzz = {"target": mx.array(on_impulses(waves)), "components": mx.array(self._components(waves))}
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


def disturbed(waves: mx.array, filters: mx.array, hiss: mx.array) -> mx.array:
    """Waves [B, S] through `filters` [B, S + 1] (see `disturbance`), noise added."""
    samples = waves.shape[1]
    spectra = mx.fft.rfft(mx.pad(waves, [(0, 0), (0, samples)])) * filters
    return mx.fft.irfft(spectra)[:, :samples] + hiss


def losses(student: Student, batch: dict[str, Any], weights: LossWeights, stage: Stage) -> tuple[mx.array, dict]:
    """The weighted sum; each term, and beside them `z` [B, T, D] and `codes` [B, T], semantic latents and their codes.

    The cycle: what the decoder made of the codes, disturbed and encoded again, must give these codes (cross-entropy
    over the codebook and the distance to the levels' cells, as on true codes), and so must the recordings, disturbed.
    Its gradient goes through both halves of the codec: the decoder learns to say its codes clearly, the encoder to read
    them from what is heard. Undisturbed, they agree on a private language that is not in recordings.
    """
    codec, waves, noise = student.codec, batch["waves"], batch["noise"]
    dim = codec.config.semantic_dim
    latents = codec.encode_latents(waves)
    codes = codec.quantize(mx.stop_gradient(latents))
    if not stage.quantise:
        noise = replace(noise, semantic=mx.zeros_like(noise.semantic))
    quantised, z, rows = codec.quantizer.straight_through(latents, noise)
    rows = rows if stage.quantise else mx.stop_gradient(z)
    decoded = codec.decode_latents(quantised)
    target = batch.get("target", waves)
    through = z + mx.stop_gradient(rows - z)  # [B, T, D]: post-VQ, the gradient passing straight
    terms = {
        "l1": waveform_l1(decoded, target),
        "commitment": commitment_loss(z, rows),
        "units": unit_loss(student.classifier(through), batch["units"]),
        "spread": spread_loss(latents[..., dim:]),
    }
    if weights.stft:
        terms["stft"] = multi_resolution_stft_loss(decoded, target, sizes=batch["stft"])
    if weights.mel:
        terms["mel"] = log_mel_loss(decoded, target, scales=batch["mel"])
    if weights.components:
        terms["components"] = mx.mean(mx.square(mx.tanh(latents[..., dim:]) - batch["components"]))
    if weights.pitch:
        values = mx.tanh(latents[..., dim:])
        terms["pitch"] = unit_loss(student.pitch(values), batch["pitch"])
    if weights.heard:
        terms["heard"] = heard_loss(student.heard(through), batch["heard"])
    if weights.phase:
        terms["phase"] = phase_loss(decoded, target)
    factors = dict.fromkeys(terms, 1.0)
    if stage.cycle > 0:
        half = waves.shape[0] // 2
        heard = mx.concatenate([decoded[:half], waves[half:]])
        again, codes_then = codec.encode_latents(disturbed(heard, batch["filters"], batch["hiss"])), codes
        book = codec.quantizer.semantic_codebook.embedding
        terms["cycle_semantic"] = semantic_code_loss(
            again[..., :dim], codes_then[:, 0], book, temperature=stage.temperature
        )
        terms["cycle_acoustic"] = acoustic_code_loss(
            again[..., dim:], codes_then[:, 1:].swapaxes(1, 2), levels=codec.config.acoustic_codebook_size
        )
        factors |= {"cycle_semantic": stage.cycle, "cycle_acoustic": stage.cycle}
    total = sum(factors[name] * getattr(weights, name) * value for name, value in terms.items())
    return total, terms | {"z": z, "codes": codes[:, 0]}


def unit_loss(logits: mx.array, units: mx.array) -> mx.array:
    """Cross-entropy in nats of logits [B, T, units], mean over the frames whose unit is known (not -1)."""
    known = units >= 0
    chosen = mx.take_along_axis(logits, mx.maximum(units, 0)[..., None], axis=-1)[..., 0]
    values = mx.where(known, mx.logsumexp(logits, axis=-1) - chosen, 0.0)
    return values.sum() / mx.maximum(known.sum(), 1)


def heard_loss(predicted: mx.array, states: mx.array) -> mx.array:
    """Mean of 1 - cosine of predicted [B, T, D] and heard states [B, T, D], over frames whose state is not 0."""
    shape = (-1, 1, states.shape[-1])
    known = mx.any(states != 0, axis=-1).reshape(-1)  # [B T]
    distance = distillation_loss(predicted.reshape(shape), states.reshape(shape))  # [B T]
    return mx.where(known, distance, 0.0).sum() / mx.maximum(known.sum(), 1)


def phase_loss(decoded: mx.array, waves: mx.array) -> mx.array:
    """Squared distance of complex spectra of waves [B, S], magnitudes compressed to their power `PHASE_POWER`.

    As a share of the recorded spectra's squared length: 1 for silence (after Ephrat et al. 2018).
    """
    theirs, ours = (compressed(x) for x in (waves, decoded))
    distance = sum(mx.square(a - b).sum() for a, b in zip(theirs, ours))
    return distance / (sum(mx.square(a).sum() for a in theirs) + 1e-6)


def compressed(x: mx.array) -> tuple[mx.array, mx.array]:
    """Real and imaginary part of the spectra of x [B, S], each value's magnitude to the power `PHASE_POWER`."""
    spectra = stft(x, PHASE_FFT, PHASE_FFT // 4)
    real, imaginary = mx.real(spectra), mx.imag(spectra)
    gain = mx.power(mx.square(real) + mx.square(imaginary) + PHASE_FLOOR, (PHASE_POWER - 1) / 2)
    return real * gain, imaginary * gain


def spread_loss(z: mx.array) -> mx.array:
    """How far each dimension of tanh(z), z [B, T, A], is from mean 0 and deviation `SPREAD` over the batch, squared.

    Left alone, the cycle silences a quarter of the dimensions (nothing is easier to recognise than a constant) and
    drives others to the two outermost levels.
    """
    values = mx.tanh(z).reshape(-1, z.shape[-1])
    deviation = mx.sqrt(mx.var(values, axis=0) + 1e-6)
    return mx.mean(mx.square(values.mean(axis=0)) + mx.square(deviation - SPREAD))


def _as_int16(samples: np.ndarray) -> np.ndarray:
    return np.round(samples * 32767).astype(np.int16)
