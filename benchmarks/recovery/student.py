"""What trains into the benchmark's codec, and its losses. See `codec.py`."""

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from benchmarks.recovery.batches import PITCHES
from benchmarks.recovery.corpus import UNITS
from mlx_voxclone.audio.spectral.stft import stft
from mlx_voxclone.losses import commitment_loss, log_mel_loss, multi_resolution_stft_loss, waveform_l1
from mlx_voxclone.losses.codes import acoustic_code_loss, semantic_code_loss
from mlx_voxclone.losses.distillation import distillation_loss
from mlx_voxclone.model.codec import Codec

PHASE_FFT, PHASE_POWER, PHASE_FLOOR = 1024, 0.4, 1e-3
SPREAD = 0.5  # deviation that the acoustic values, in -1..1, should have: an even draw of the levels has 0.6
NEARLY_1 = 0.999  # the outermost level of acoustic values, whose latent is finite


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
    told: bool = False  # what is decoded are the batch's components, and the encoder does not learn from it


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
    spoken = latents
    if stage.told:
        values = mx.clip(batch["components"], -NEARLY_1, NEARLY_1)
        spoken = mx.concatenate([latents[..., :dim], mx.arctanh(values)], axis=-1)  # [B, T, D + A]
    quantised, z, rows = codec.quantizer.straight_through(spoken, noise)
    rows = rows if stage.quantise else mx.stop_gradient(z)
    decoded = codec.decode_latents(mx.stop_gradient(quantised) if stage.told else quantised)
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
        distance = mx.square(mx.tanh(latents[..., dim:]) - batch["components"])  # [B, T, A]
        terms["components"] = mx.mean(batch["component_weights"] * distance)
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
