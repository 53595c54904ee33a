"""Codes without an encoder: the latents of one clip, optimised until the frozen decoder gives the clip back.

A long clip is done in pieces of 4 s, one after the other: the decoder is causal and looks back 21 frames, so codes that
are settled are exact context for those that are not, and memory does not grow with the clip. A piece is also judged on
the frame before it, so that no seam goes unheard.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from mlx_voxclone.audio.spectral.spectra import Spectra
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.losses import commitment_loss, log_mel_loss, multi_resolution_stft_loss, waveform_l1
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.quantizer import levels_to_values
from mlx_voxclone.train.loop.schedule import learning_rate as scheduled

if TYPE_CHECKING:
    from mlx_voxclone.settings.encoder import EncoderSection

STEPS, LEARNING_RATE, PATIENCE = 300, 0.1, 50
PIECE_FRAMES = 50  # 4 s
TOTAL = "total"
_SEAM = 1  # frames before a piece that are heard with it; an STFT frame across the seam reaches back half a window
_WARMUP, _MIN_RATIO, _BETAS = 10, 0.1, (0.9, 0.99)
_MIN_GAIN = 1e-3  # of the loss: less than this within `patience` steps is standing still
_COMMITMENT = 0.3  # weight of the squared distance to the nearest row, in units of the codebook's spread
_TRIALS = 64  # semantic codes tried for a start; a trial costs a third of a step
_START_NOISE = 0.1  # of the acoustic latents before tanh
_DAMAGED = "the codec's decoder gives audio that is not finite: its weights are damaged"


@dataclass(frozen=True)
class OptimisedCodes:
    """What `optimise_codes` found.

    Attributes:
        codes: 0-based `[37, T]`, int32: `quantize(latents)`.
        latents: raw (acoustic values before tanh) `[T, D]`, float32.
        loss: `l1`, `stft`, `mel` and their weighted sum `total`, of the clip decoded from `codes`; as
            `reconstruction_loss` gives them.
        start_loss: the same of the start.
        steps: of the optimiser, all pieces together.
        seconds: it took.
    """

    codes: np.ndarray
    latents: np.ndarray
    loss: dict[str, float]
    start_loss: dict[str, float]
    steps: int
    seconds: float


def optimise_codes(
    codec: Codec,
    waveform: np.ndarray,
    *,
    start: np.ndarray | mx.array | None = None,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    patience: int = PATIENCE,
    seed: int = 0,
    losses: "EncoderSection | None" = None,
    piece_frames: int = PIECE_FRAMES,
    progress: Callable[[int], None] | None = None,
) -> OptimisedCodes:
    """Find codes from which the decoder gives a clip back; no encoder is needed, one as a start helps.

    Adam on the raw latents through the straight-through quantisers, so that every step hears what the codes would
    decode to; the commitment loss keeps the semantic latents near the codebook's rows. Of all steps the best by the
    reconstruction is kept, the start among them: the result is never worse than the start.

    Args:
        codec: with or without an encoder; nothing in it changes.
        waveform: float32 `[S]`, 24 kHz mono, at least one frame.
        start: raw latents `[T, D]` to start from, an encoder's for one; None: the middle levels, and for each frame
            the best of 64 semantic codes drawn by `seed`.
        steps: most steps for each piece.
        learning_rate: peak of the rate (10 steps of linear warm-up, cosine down to a tenth), in units of the semantic
            codebook's spread (RMS distance of its entries from their mean) and of the acoustic latents before tanh.
        patience: a piece ends after this many steps without a gain of 0.1 %.
        seed: of the start where none is given; the same gives the same codes on the same device.
        losses: weights, STFT sizes and mel as in a configuration's section `encoder`; None: its defaults, with
            all weights 1.
        piece_frames: latent frames optimised at once; memory is proportional to it.
        progress: hears of the steps done, `steps` for each piece in all; what an early end saved counts as done.

    Raises:
        DataError: a clip shorter than one frame, or not finite.
        CheckpointError: the decoder gives audio that is not finite.
        ValueError: arguments out of range or shape.
    """
    began = time.perf_counter()
    waveform = np.asarray(waveform, dtype=np.float32)
    _check(codec, waveform, steps, learning_rate, patience, piece_frames)
    objective = _Objective(codec, losses)
    shape = (codec.config.n_frames(len(waveform)), codec.config.latent_dim)
    started = np.zeros(shape, np.float32) if start is None else np.array(start, dtype=np.float32)
    if started.shape != shape:
        raise ValueError(f"start must be {list(shape)} for this clip, got {list(started.shape)}")
    if not np.isfinite(started).all():
        raise CheckpointError("the latents to start from are not finite: the encoder's weights are damaged")
    adam = _Adam(objective, steps, learning_rate, patience, progress or (lambda n: None))
    found, used = started.copy(), 0
    for first in range(0, len(found), piece_frames):
        place = slice(first, min(first + piece_frames, len(found)))
        piece = _Piece(objective, waveform, found, place)
        if start is None:
            started[place] = piece.start(seed)
        found[place], n = adam.run(piece.loss, started[place])
        used += n
    start_loss = objective.of_codes(_codes(codec, started), waveform, piece_frames)
    loss = objective.of_codes(_codes(codec, found), waveform, piece_frames)
    if loss[TOTAL] > start_loss[TOTAL]:  # a piece's gain may cost the next one, whose context it is, more than that
        found, loss = started, start_loss
    return OptimisedCodes(_codes(codec, found), found, loss, start_loss, used, time.perf_counter() - began)


def reconstruction_loss(
    codec: Codec,
    codes: np.ndarray,
    waveform: np.ndarray,
    losses: "EncoderSection | None" = None,
    piece_frames: int = PIECE_FRAMES,
) -> dict[str, float]:
    """`l1`, `stft`, `mel` and `total` of a clip `[S]` decoded from codes `[37, T]`: what `optimise_codes` reports.

    The mean over pieces (with the frame before each), weighted by their samples; a clip of one piece is one item of
    the losses of the same names. Memory does not grow with the clip. Raises ValueError for codes that do not fit.
    """
    return _Objective(codec, losses).of_codes(codes, np.asarray(waveform, dtype=np.float32), piece_frames)


def _check(codec: Codec, waveform: np.ndarray, steps: int, rate: float, patience: int, piece_frames: int) -> None:
    if waveform.ndim != 1:
        raise ValueError(f"waveform must be [S], got {list(waveform.shape)}")
    if min(steps, patience, piece_frames) < 1 or not 0 < rate < math.inf:
        raise ValueError("steps, patience and piece_frames must be at least 1, learning_rate above 0 and finite")
    frame, rate_hz = codec.config.frame_size, codec.config.sampling_rate
    if len(waveform) < frame:
        raise DataError(
            f"{len(waveform) / rate_hz:.3g} s of audio is shorter than one frame of codes ({frame / rate_hz:g} s)"
        )
    if not np.isfinite(waveform).all():
        raise DataError("the audio holds NaN or infinite samples")


def _codes(codec: Codec, latents: np.ndarray) -> np.ndarray:
    return np.array(codec.quantize(mx.array(latents)[None])[0])


class _Objective:
    """The reconstruction of one clip, by the terms and weights of an `encoder` section."""

    def __init__(self, codec: Codec, section: "EncoderSection | None"):
        if section is None:
            from mlx_voxclone.settings.encoder import EncoderLosses, EncoderSection

            section = EncoderSection(losses=EncoderLosses(sound=1.0))
        self.codec, self.section = codec, section
        self.weights = dict.fromkeys(("l1", "stft", "mel"), section.losses.sound)
        rows = codec.quantizer.semantic_codebook.embedding
        self.centre = rows.mean(axis=0)
        self.spread = mx.sqrt(mx.mean(mx.square(rows - self.centre)))  # RMS of the entries around it

    def terms(self, decoded: mx.array, target: mx.array, reduction: str = "mean") -> dict[str, mx.array]:
        """Of `[B, S]` each: the terms and their weighted sum; `reduction` as of the losses."""
        section = self.section
        pair = Spectra(decoded), Spectra(target)
        terms = {
            "l1": waveform_l1(decoded, target, None, reduction),
            "stft": multi_resolution_stft_loss(*pair, None, reduction, sizes=section.stft_windows),
            "mel": log_mel_loss(*pair, None, reduction),
        }
        return terms | {TOTAL: sum(weight * terms[name] for name, weight in self.weights.items())}

    def of_codes(self, codes: np.ndarray, waveform: np.ndarray, piece_frames: int) -> dict[str, float]:
        decoded = self.codec.decode_audio(codes, chunk_frames=piece_frames)
        frame, sums = self.codec.config.frame_size, {}
        for first in range(0, len(waveform), piece_frames * frame):
            stop = min(first + piece_frames * frame, len(waveform))
            heard = slice(max(0, first - _SEAM * frame), stop)
            terms = self.terms(mx.array(decoded[None, heard]), mx.array(waveform[None, heard]))
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + (stop - first) / len(waveform) * value.item()
        if not math.isfinite(sums[TOTAL]):
            raise CheckpointError(_DAMAGED)
        return sums


class _Piece:
    """Frames `place` of a clip `[S]` as a function of their latents; those before, in `latents`, are settled."""

    def __init__(self, objective: _Objective, waveform: np.ndarray, latents: np.ndarray, place: slice):
        codec, frame = objective.codec, objective.codec.config.frame_size
        self.objective, self.codec, self.frame, self.place = objective, codec, frame, place
        begin, self.heard = max(0, place.start - codec.left_context), min(place.start, _SEAM)
        self.skip = (place.start - self.heard - begin) * frame
        self.target = mx.array(waveform[None, (place.start - self.heard) * frame : place.stop * frame])
        self.past = None
        if begin < place.start:
            self.past = codec.quantizer.decode(mx.array(_codes(codec, latents[begin : place.start]))[None])

    def loss(self, latents: mx.array) -> tuple[mx.array, mx.array]:
        """Latents `[n, D]` to what Adam minimises and, of it, the reconstruction."""
        quantised, z, rows = self.codec.quantizer.straight_through(latents[None])
        total = self.objective.terms(self._decode(quantised)[:, : self.target.shape[1]], self.target)[TOTAL]
        return total + _COMMITMENT / mx.square(self.objective.spread) * commitment_loss(z, rows), total

    def start(self, seed: int) -> np.ndarray:
        """Latents `[n, D]` to start from: of some semantic codes at the middle level the best for each frame, alone.

        Every code is held through the piece, so that one decoding tells something of it for every frame.
        """
        config, codebook = self.codec.config, self.codec.quantizer.semantic_codebook
        n, rng = self.place.stop - self.place.start, np.random.default_rng([seed, self.place.start])
        missing = (n + self.heard) * self.frame - self.target.shape[1]
        target = self._framed(mx.pad(self.target, [(0, 0), (0, missing)]))
        size = config.semantic_codebook_size
        best, chosen = np.full(n, np.inf), np.zeros(n, dtype=np.int32)
        for code in rng.choice(size, min(_TRIALS, size), replace=False):
            row = mx.concatenate([codebook.embedding[int(code)], mx.zeros(config.acoustic_dim)])
            decoded = self._framed(self._decode(mx.broadcast_to(row, (1, n, row.shape[0]))))
            values = np.array(self.objective.terms(decoded, target, "none")[TOTAL])
            chosen, best = np.where(values < best, code, chosen), np.minimum(values, best)
        latents = _START_NOISE * rng.standard_normal((n, config.latent_dim), dtype=np.float32)
        latents[:, : config.semantic_dim] = np.array(codebook.decode(mx.array(chosen)))
        return latents

    def _decode(self, quantised: mx.array) -> mx.array:
        """Quantised latents `[1, n, D]` to the samples of the piece and of the frame before it."""
        if self.past is not None:
            quantised = mx.concatenate([self.past, quantised], axis=1)
        dtype = self.codec.output_proj.conv.parametrizations.weight.original1.dtype
        return self.codec.decode_latents(quantised.astype(dtype))[:, self.skip :]

    def _framed(self, samples: mx.array) -> mx.array:
        """The piece's own frames `[n, 1920]`."""
        return samples[0, self.heard * self.frame :].reshape(-1, self.frame)


_PieceLoss = Callable[[mx.array], tuple[mx.array, mx.array]]


class _Adam:
    """Minimises a piece's loss in units that fit both kinds of latents, and keeps the best of all steps."""

    def __init__(self, objective: _Objective, steps: int, rate: float, patience: int, progress: Callable[[int], None]):
        config = objective.codec.config
        self.steps, self.rate, self.patience, self.progress = steps, rate, patience, progress
        semantic, acoustic = config.semantic_dim, config.acoustic_dim
        levels = config.acoustic_codebook_size
        self.offset = mx.concatenate([objective.centre, mx.zeros(acoustic)])
        self.unit = mx.concatenate([mx.full(semantic, objective.spread), mx.ones(acoustic)])
        # Half-way into the outermost levels' cells: further out tanh lets no gradient back, and no code changes.
        edge = math.atanh(levels_to_values(levels - 1.25, levels))
        self.bound = mx.concatenate([mx.full(semantic, math.inf), mx.full(acoustic, edge)])

    def run(self, loss: _PieceLoss, start: np.ndarray) -> tuple[np.ndarray, int]:
        """The best latents `[n, D]` found from a start, and the number of steps."""
        objective = mx.value_and_grad(lambda x: loss(self.offset + self.unit * x))
        optimizer = optim.Adam(self.rate, list(_BETAS), bias_correction=True)
        x = self._bounded((mx.array(start) - self.offset) / self.unit)
        best, found, gained, gain_step, step = math.inf, x, math.inf, 0, 0
        while True:
            (_, total), gradient = objective(x)
            value = total.item()
            if step == 0 and not math.isfinite(value):
                raise CheckpointError(_DAMAGED)
            if value < best:
                best, found = value, x
            if value < gained * (1 - _MIN_GAIN):
                gained, gain_step = value, step
            if step == self.steps or step - gain_step >= self.patience or not math.isfinite(value):
                break
            optimizer.learning_rate = scheduled(step, self.steps, peak=self.rate, warmup=_WARMUP, min_ratio=_MIN_RATIO)
            x = self._bounded(optimizer.apply_gradients({"x": gradient}, {"x": x})["x"])
            mx.eval(x, optimizer.state)
            step += 1
            self.progress(1)
        self.progress(self.steps - step)
        return np.array(self.offset + self.unit * found), step

    def _bounded(self, x: mx.array) -> mx.array:
        return mx.clip(x, -self.bound, self.bound)
