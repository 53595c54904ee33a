"""Task `encoder`: train the codec's missing encoder against the frozen decoder and codebook.

Reconstruction (L1, multi-resolution STFT magnitude, log-mel) through straight-through quantisers, and the commitment
loss of the semantic one (paper section 2, SPEC section 4). Every term is weighted by valid samples. With
`quantisation_noise`, what reaches the decoder in training is not always quantised; in measuring it always is.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.config import CodecConfig
from mlx_voxclone.data.clips import Clip, PreparedData
from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.losses import commitment_loss, log_mel_loss, multi_resolution_stft_loss, waveform_l1
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.quantizer import QuantisationNoise
from mlx_voxclone.run_schema import EncoderSection
from mlx_voxclone.train.task import fingerprint_of

MAX_HELDOUT_CROPS = 64  # an evaluation costs at most this many crops, however large the corpus
SAMPLES_WRITTEN = 4  # held-out clips written as audio at each listening point
ENCODER_FILE = "encoder.safetensors"
CODEC_PREFIX = "audio_tokenizer."


class EncoderTask:
    """See `Task`. An item is one crop of at most `crop_seconds`; an epoch visits every second of the data once.

    Args:
        codec: built with an encoder; everything but the encoder gets frozen.
        data: prepared clips.
        section: the configuration's `encoder` section.
        seed: of crops and gains.
        compute_dtype: dtype of the encoder's activations; the frozen decoder runs in the dtype of its weights.
        identity: what else must be unchanged on resume, e.g. the digest of the frozen codec.
    """

    name = "encoder"
    metric = "loss"

    def __init__(
        self,
        codec: Codec,
        data: PreparedData,
        section: EncoderSection,
        seed: int = 0,
        compute_dtype: mx.Dtype = mx.float32,
        identity: Mapping[str, Any] | None = None,
    ):
        if not data.train:
            raise DataError("task encoder: the prepared data holds no training clips")
        self.model, self.data, self.section, self.seed = codec, data, section, seed
        self._dtype, self._identity = compute_dtype, dict(identity or {})
        self.weights = section.losses.model_dump()
        self.crop = crop_samples(section, codec.config)
        freeze_all_but_encoder(codec)
        self._crops = cut_into_crops(data.train, self.crop)
        self.n_items = len(self._crops)
        self._heldout = cut_into_crops(data.heldout, self.crop)[:MAX_HELDOUT_CROPS]
        if not self._heldout:
            raise DataError("task encoder: the prepared data holds no held-out clips to select the best encoder by")

    # --- batches --------------------------------------------------------------------------------------------------

    def item(self, epoch: int, index: int, step: int = 0) -> dict[str, Any]:
        """A crop near its place in the clip, shifted at random, at a random gain."""
        rng = np.random.default_rng([self.seed, epoch, index])
        clip, place = self._crops[index]
        start = max(0, min(int((place + rng.uniform(-0.5, 0.5)) * self.crop), clip.samples - self.crop))
        wave = clip.read()[start : start + self.crop]
        gain = 10.0 ** (rng.uniform(*self.section.gain_db) / 20.0)
        item = {"id": clip.id, "waveform": (wave * gain).astype(np.float32)}
        if self.section.quantisation_noise:
            config = self.model.config
            frames = config.n_frames(len(wave))
            item["quantisation"] = draw_quantisation(rng, frames, config.acoustic_dim, config.acoustic_codebook_size)
        return item

    def collate(self, items: list[Mapping[str, Any]]) -> dict[str, Any]:
        """Pads to the crop's fixed length, so that every batch has one shape."""
        batch = {
            "waveform": _padded([item["waveform"] for item in items], self.crop),
            "lengths": [len(item["waveform"]) for item in items],
        }
        if "quantisation" in items[0]:
            drawn = [item["quantisation"] for item in items]
            batch["quantisation"] = {
                "semantic": np.array([one["semantic"] for one in drawn]),
                "acoustic": np.array([one["acoustic"] for one in drawn]),
                "offset": _padded([one["offset"] for one in drawn], self.model.config.n_frames(self.crop)),
            }
        return batch

    def targets(self, batch: Mapping[str, Any]) -> dict[str, float]:
        return dict.fromkeys(self.weights, float(sum(batch["lengths"])))

    def heldout_batches(self) -> Iterable[dict[str, Any]]:
        size = self.section.train.batch_size
        for first in range(0, len(self._heldout), size):
            items = []
            for clip, place in self._heldout[first : first + size]:
                start = place * self.crop
                items.append({"waveform": clip.read()[start : start + self.crop]})
            yield self.collate(items)

    # --- loss -----------------------------------------------------------------------------------------------------

    def losses(self, batch: Mapping[str, Any]) -> dict[str, mx.array]:
        """Each term's per-item means, added up with the item's valid samples as weight.

        A batch without `quantisation` (held-out data, or the noise switched off) is quantised throughout.
        """
        waveform, lengths = batch["waveform"], batch["lengths"]
        latents = self.model.encode_latents(waveform.astype(self._dtype), lengths)
        noise = QuantisationNoise(**batch["quantisation"]) if "quantisation" in batch else None
        quantised, semantic_z, semantic_q = self.model.quantizer.straight_through(latents, noise)
        decoded = self.model.decode_latents(quantised.astype(_decoder_dtype(self.model)))[:, : self.crop]
        frames = [self.model.config.n_frames(n) for n in lengths]
        section = self.section
        mel = [(section.mel.n_fft, section.mel.n_mels)]
        terms = {
            "l1": lambda: waveform_l1(decoded, waveform, lengths, "none"),
            "stft": lambda: multi_resolution_stft_loss(decoded, waveform, lengths, "none", sizes=section.stft_sizes),
            "mel": lambda: log_mel_loss(decoded, waveform, lengths, "none", scales=mel),
            "commitment": lambda: commitment_loss(semantic_z, semantic_q, frames, "none"),
        }
        weight = mx.array(lengths, dtype=mx.float32)
        return {name: mx.sum(weight * term()) for name, term in terms.items()}

    # --- looking at it --------------------------------------------------------------------------------------------

    def extra_metrics(self) -> dict[str, float]:
        """Codes of the held-out crops: share of the semantic codebook in use, mean entropy of the levels (bits)."""
        semantic, levels = [], []
        for batch in self.heldout_batches():
            latents = self.model.encode_latents(mx.array(batch["waveform"]), batch["lengths"])
            if not mx.isfinite(latents).all():  # a training that has blown up: there are no codes to count
                return dict.fromkeys(("semantic_codes_used", "level_entropy_bits"), math.nan)
            codes = np.array(self.model.quantize(latents))
            for item, n in zip(codes, batch["lengths"]):
                item = item[:, : self.model.config.n_frames(n)]
                semantic.append(item[0])
                levels.append(item[1:])
        used = len(np.unique(np.concatenate(semantic)))
        entropy = [_entropy(row, self.model.config.acoustic_codebook_size) for row in np.concatenate(levels, axis=1)]
        return {
            "semantic_codes_used": used / self.model.config.semantic_codebook_size,
            "level_entropy_bits": float(np.mean(entropy)),
        }

    def write_samples(self, directory: Path, step: int) -> None:
        """Held-out clips as they are and through the codec."""
        for clip in self.data.heldout[:SAMPLES_WRITTEN]:
            wave = clip.read()
            codes = np.array(self.model.quantize(self.model.encode_audio(wave)[None])[0])
            write_wav(directory / f"{clip.id}-original.wav", wave)
            write_wav(directory / f"{clip.id}-reconstructed.wav", self.model.decode_audio(codes)[: len(wave)])

    def export(self, directory: Path, parameters: dict[str, mx.array]) -> None:
        """`encoder.safetensors`: the encoder's tensors under the release's full names, float32."""
        from mlx_voxclone.checkpoint.writer import save_tensors

        save_tensors(directory / ENCODER_FILE, {CODEC_PREFIX + name: value for name, value in parameters.items()})

    def fingerprint(self) -> str:
        return fingerprint_of(
            task=self.name,
            data=self.data.fingerprint(),
            crop=self.crop,
            gain_db=self.section.gain_db,
            quantisation_noise=self.section.quantisation_noise,
            losses=self.weights,
            stft_sizes=self.section.stft_sizes,
            mel=self.section.mel.model_dump(),
            seed=self.seed,
            **self._identity,
        )


def draw_quantisation(rng: np.random.Generator, frames: int, acoustic_dim: int, levels: int) -> dict[str, Any]:
    """What of one training item is quantised, by the codec's own recipe (arXiv 2603.25551, SPEC section 4).

    Semantic: quantised for half of the items. Acoustic, drawn independently: quantised for half of them, uniform noise
    in [-1/levels, 1/levels] on tanh(z) for a quarter, untouched for the rest. One choice holds for the whole item. The
    paper states a magnitude of 1/21 and no more; taken as the largest absolute value, the noise nearly fills a level's
    cell, which reaches 1/20 to either side, as the error of rounding does. The sum is not clipped to [-1, 1].

    Returns:
        `semantic`, `acoustic` (true: quantised) and `offset [frames, acoustic_dim]` float32: the fields of
        `QuantisationNoise`, for one item.
    """
    semantic, kind = rng.random() < 0.5, rng.random()
    offset = np.zeros((frames, acoustic_dim), dtype=np.float32)
    if 0.5 <= kind < 0.75:
        offset = rng.uniform(-1.0 / levels, 1.0 / levels, offset.shape).astype(np.float32)
    return {"semantic": semantic, "acoustic": kind < 0.5, "offset": offset}


def crop_samples(section: EncoderSection, config: CodecConfig) -> int:
    """`encoder.crop_seconds` as samples, whole frames.

    Raises:
        ConfigError: shorter than a frame.
    """
    crop = round(section.crop_seconds * config.frame_rate) * config.frame_size
    if crop < config.frame_size:
        raise ConfigError(f"encoder.crop_seconds: {section.crop_seconds} is shorter than one frame (0.08 s)")
    return crop


def cut_into_crops(clips: list[Clip], crop: int) -> list[tuple[Clip, int]]:
    """One entry per crop of at most `crop` samples: (clip, its place in the clip)."""
    return [(clip, k) for clip in clips for k in range(-(-clip.samples // crop))]


def freeze_all_but_encoder(codec: Codec) -> None:
    """Leave exactly the encoder's parameters trainable.

    Raises:
        ConfigError: the codec was built without an encoder.
    """
    if not codec.has_encoder:
        raise ConfigError("task encoder: the codec was built without an encoder")
    codec.freeze()
    codec.input_proj.unfreeze()
    for block in codec.encoder_blocks:
        block.unfreeze()


def _padded(rows: list[np.ndarray], size: int) -> np.ndarray:
    """Arrays `[n_i, ...]` as one float32 `[B, size, ...]`, zeros behind each."""
    padded = np.zeros((len(rows), size, *rows[0].shape[1:]), dtype=np.float32)
    for place, row in zip(padded, rows):
        place[: len(row)] = row
    return padded


def _decoder_dtype(codec: Codec) -> mx.Dtype:
    return codec.output_proj.conv.parametrizations.weight.original1.dtype


def _entropy(values: np.ndarray, size: int) -> float:
    share = np.bincount(values, minlength=size) / values.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())
