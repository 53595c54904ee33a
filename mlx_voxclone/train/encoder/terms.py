"""The terms of task `encoder`, and the model that trains: the codec with what helps to train its encoder.

On recordings, reconstruction (L1, multi-resolution STFT magnitude, log-mel) through straight-through quantisers, and
the commitment loss of the semantic one (arXiv 2603.25551, SPEC section 4). On pairs, whose true codes are known, the
codes themselves, and nothing is decoded: that would tell less and take most of a step. Opponents' feature matching and
a speech recogniser's states where they are configured.

Many codes give nearly one sound. To an encoder that has learnt them from pairs, the sound of a voice therefore teaches
the acoustic ones alone (`encoder.sound_teaches`): what it taught the semantic latents of the speaking miniature made
fewer of their codes right. A long training on pairs and many recordings lets it teach both (docs/LOG.md).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_voxclone.audio.spectral.plain import Lengths, alike, as_floats
from mlx_voxclone.audio.spectral.spectra import Spectra
from mlx_voxclone.losses import (
    acoustic_code_loss,
    adversarial_losses,
    commitment_loss,
    distillation_loss,
    log_mel_loss,
    multi_resolution_stft_loss,
    semantic_code_loss,
    waveform_l1,
)
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.config import CodecConfig
from mlx_voxclone.model.discriminator import MultiResolutionDiscriminator
from mlx_voxclone.model.quantizer import QuantisationNoise, nearest_distance
from mlx_voxclone.settings.encoder import EncoderLosses, EncoderSection

SOUND = ("l1", "stft", "mel")  # what decoding gives against what it should give
CODES = ("semantic_code", "acoustic_code")
OPPONENTS = ("feature_matching", "discriminator")
# Weight beside the sound, in the codebook's own scale: for the speaking miniature's codebook nearly the paper's 0.1,
# and as much for one of another size. None is worse, ten times as much no better, sixty times fatal (docs/LOG.md).
COMMITMENT = 0.05
# Of the semantic cross-entropy, in the codebook's own scale: 1/4 is worse, 4 worse for semantic codes (docs/LOG.md).
TEMPERATURE = 1.0
MARGIN = 0.5  # how much of a level's cell is near enough: 0 is the centre alone, 1 all of it; a choice, not a finding
OF_RECORDINGS = (*SOUND, *OPPONENTS, "commitment")


def term_weights(losses: EncoderLosses) -> dict[str, float]:
    """Of every term by the configuration's; without the sound there is nothing to commit to."""
    return {
        **dict.fromkeys(SOUND, losses.sound),
        "commitment": COMMITMENT if losses.sound else 0.0,
        "semantic_code": losses.semantic_code,
        "acoustic_code": losses.acoustic_code,
        "feature_matching": 1.0,
        "distillation": 1.0,
    }


def code_constants() -> dict[str, float]:
    """What decides over the losses on true codes, for a training's identity."""
    return {"temperature": TEMPERATURE, "margin": MARGIN}


class EncoderModel(nn.Module):
    """What trains: the codec's encoder, and what only training needs. Parameters are named by these attributes.

    Args:
        codec: built with an encoder.
        discriminators: opponents, if any.
        projection: from the semantic latent to the width of the speech recogniser's states, if one teaches.
    """

    def __init__(
        self,
        codec: Codec,
        discriminators: MultiResolutionDiscriminator | None = None,
        projection: nn.Linear | None = None,
    ):
        super().__init__()
        self.codec = codec
        if discriminators is not None:
            self.discriminators = discriminators
        if projection is not None:
            self.projection = projection


class EncoderTerms:
    """Computes the terms of a batch, and no more than is asked for.

    Args:
        model: see there.
        section: the configuration's `encoder` section.
        crop: samples of a batch's items.
        compute_dtype: of the encoder's activations; the frozen decoder computes in the dtype of its weights.
        semantic_from_sound: whether the sound of recordings moves their semantic latents.
    """

    def __init__(
        self,
        model: EncoderModel,
        section: EncoderSection,
        crop: int,
        compute_dtype: mx.Dtype = mx.float32,
        semantic_from_sound: bool = True,
    ):
        self.model, self.section, self.crop, self._dtype = model, section, crop, compute_dtype
        self._semantic_from_sound = semantic_from_sound
        self._codebook = model.codec.quantizer.semantic_codebook.embedding
        nearest = nearest_distance(self._codebook)
        self.temperature = TEMPERATURE * nearest  # in units of squared distance
        self._spacing = nearest / self._codebook.shape[1]  # mean square over the dimensions

    def __call__(self, batch: Mapping[str, Any], names: Sequence[str]) -> dict[str, mx.array]:
        """Sums over the batch's targets of the named terms (see `targets`)."""
        codec, lengths = self.model.codec, batch["lengths"]
        latents = codec.encode_latents(batch["waveform"].astype(self._dtype), lengths)  # [B, crop] -> [B, T, D]
        sums: dict[str, mx.array] = {}
        if set(names) & {*OF_RECORDINGS, "distillation"}:
            noise = QuantisationNoise(**batch["quantisation"]) if "quantisation" in batch else None
            quantised, *semantic = codec.quantizer.straight_through(latents, noise)
            if set(names) & set(OF_RECORDINGS):
                sums |= self._recorded(quantised, *semantic, batch, names)
            if "distillation" in names:
                sums["distillation"] = self._distillation(quantised, batch)
        if set(names) & set(CODES):
            sums |= {name: value for name, value in self._codes(latents, batch).items() if name in names}
        return sums

    def _recorded(
        self, quantised: mx.array, z: mx.array, entries: mx.array, batch: Mapping[str, Any], names: Sequence[str]
    ) -> dict[str, mx.array]:
        """Of the recordings: what `quantised` decodes to, and how far the semantic latents `z` are from `entries`."""
        codec, rows = self.model.codec, recordings(batch)
        at, lengths = mx.array(rows), _chosen(batch["lengths"], rows)
        weight = as_floats(lengths)  # [R]
        target = batch["waveform"][at]  # [B, crop] -> [R, crop]
        sums: dict[str, mx.array] = {}
        if "commitment" in names:
            frames = _frames(lengths, codec.config)
            distances = commitment_loss(z[at], entries[at], frames, "none") / self._spacing  # [R]
            sums["commitment"] = mx.sum(weight * distances)
        if set(names) & {*SOUND, *OPPONENTS}:
            of_recordings = quantised[at]  # [B, T, D] -> [R, T, D]
            if not self._semantic_from_sound:
                of_recordings = self._acoustic_alone(of_recordings)
            decoded = codec.decode_latents(of_recordings.astype(_decoder_dtype(codec)))[:, : self.crop]  # [R, crop]
            judged = self.section.discriminators.sizes if set(names) & set(OPPONENTS) else ()
            ours, theirs = (Spectra(x, lengths, judged) for x in (decoded, target))
            sound = self._sound(ours, theirs)
            sums |= {name: mx.sum(weight * sound[name]()) for name in SOUND if name in names}
            if set(names) & set(OPPONENTS):
                opponents = self._opponents(ours, theirs)
                sums |= {name: mx.sum(weight * value) for name, value in opponents.items() if name in names}
        return sums

    def _acoustic_alone(self, quantised: mx.array) -> mx.array:
        """The same `[B, T, D]`, with gradients to the acoustic part alone."""
        dim = self.model.codec.config.semantic_dim
        return mx.concatenate([mx.stop_gradient(quantised[..., :dim]), quantised[..., dim:]], axis=-1)

    def _sound(self, ours: Spectra, theirs: Spectra) -> dict[str, Callable[[], mx.array]]:
        section, lengths = self.section, ours.lengths
        return {
            "l1": lambda: waveform_l1(ours.signals, theirs.signals, lengths, "none"),
            "stft": lambda: multi_resolution_stft_loss(ours, theirs, None, "none", sizes=section.stft_windows),
            "mel": lambda: log_mel_loss(ours, theirs, None, "none"),
        }

    def _opponents(self, ours: Spectra, theirs: Spectra) -> dict[str, mx.array]:
        """Feature matching moves the encoder alone, the hinge loss the discriminators alone.

        They judge whole items, silence behind a shorter one included; where all are whole, the losses' spectra serve.
        """
        if not alike(ours.lengths) or ours.lengths[0] < self.crop:
            inside = mx.arange(self.crop)[None, :] < mx.array(ours.lengths)[:, None]  # [R, crop]
            ours, theirs = (Spectra(mx.where(inside, x.signals.astype(mx.float32), 0.0)) for x in (ours, theirs))
        hinge, matching = adversarial_losses(self.model.discriminators, theirs, ours)
        return {"discriminator": hinge, "feature_matching": matching}

    def _codes(self, latents: mx.array, batch: Mapping[str, Any]) -> dict[str, mx.array]:
        """Of the pairs, against their true codes."""
        config = self.model.codec.config
        counts = mx.array(batch["coded_frames"]) - mx.array(batch["skip"])  # [P]
        latents = later_frames(latents[mx.array(batch["coded"])], batch["skip"])  # [B, T, D] -> [P, T, D]
        codes = later_frames(batch["codes"].swapaxes(1, 2), batch["skip"])  # [P, 37, T] -> [P, T, 37]
        semantic = latents[..., : config.semantic_dim]  # [P, T, S]
        acoustic = latents[..., config.semantic_dim :]  # [P, T, 36]
        where = (counts, "none")
        losses = {  # [P] each
            "semantic_code": semantic_code_loss(
                semantic, codes[..., 0], self._codebook, *where, temperature=self.temperature
            ),
            "acoustic_code": acoustic_code_loss(
                acoustic, codes[..., 1:], *where, levels=config.acoustic_codebook_size, margin=MARGIN
            ),
        }
        weight = as_floats(counts)
        return {name: mx.sum(weight * value) for name, value in losses.items()}

    def _distillation(self, quantised: mx.array, batch: Mapping[str, Any]) -> mx.array:
        """Of recordings, the semantic latents; of pairs, the rows of their true codes.

        The pairs so tell the projection what each code of this very codebook means, and recordings can be taught in the
        same terms. Without them the projection is free, and any codebook's codes would do.
        """
        semantic = quantised[..., : self.model.codec.config.semantic_dim].astype(self._codebook.dtype)  # [B, T, S]
        if "coded" in batch:
            semantic[mx.array(batch["coded"])] = self._codebook[batch["codes"][:, 0]]  # [P, T] -> [P, T, S]
        semantic = semantic[mx.array(batch["taught"])]  # [B, T, S] -> [Q, T, S]
        counts = batch["taught_frames"]
        values = distillation_loss(self.model.projection(semantic), batch["teacher"], counts)  # [Q, T, W] each -> [Q]
        weight = batch["taught_weight"] if "taught_weight" in batch else as_floats(counts)
        return mx.sum(weight * values)


def recordings(batch: Mapping[str, Any]) -> list[int]:
    """Indices of the items without true codes."""
    return [k for k in range(len(batch["lengths"])) if k not in batch.get("coded", ())]


def later_frames(x: mx.array, skip: Sequence[int] | mx.array) -> mx.array:
    """x `[P, T, D]` with each item's first `skip[p]` frames gone; what follows the last repeats it."""
    if not isinstance(skip, mx.array) and not any(skip):
        return x
    frames = mx.minimum(mx.arange(x.shape[1])[None] + mx.array(skip)[:, None], x.shape[1] - 1)
    return x[mx.arange(x.shape[0])[:, None], frames]  # indices [P, 1] and [P, T]


def in_few_shapes(batch: Mapping[str, Any], crop: int) -> dict[str, Any]:
    """A batch of `EncoderItems.collate` with the same losses, of a kind that many are of (see `loop.task.Padded`).

    Lengths and counts become arrays, but the lengths where every item is a whole crop. With a teacher there are as many
    taught items as items: those that were added weigh nothing (`taught_weight`).
    """
    found = {key: value for key, value in batch.items() if key != "step"}
    if min(batch["lengths"]) < crop:
        found["lengths"] = np.array(batch["lengths"], np.int32)
    if "coded" in batch:
        found |= {key: np.array(batch[key], np.int32) for key in ("coded_frames", "skip")}
    if "taught" in batch:
        more = len(batch["lengths"]) - len(batch["taught"])
        found["taught"] = np.array(batch["taught"] + [0] * more, np.int32)
        found["taught_frames"] = np.array(batch["taught_frames"] + [1] * more, np.int32)
        found["taught_weight"] = np.array(batch["taught_frames"] + [0] * more, np.float32)
        found["teacher"] = np.pad(batch["teacher"], ((0, more), (0, 0), (0, 0)))
    return found


def _chosen(lengths: Lengths, rows: list[int]) -> Lengths:
    return lengths[mx.array(rows)] if isinstance(lengths, mx.array) else [lengths[k] for k in rows]


def _frames(lengths: Lengths, config: CodecConfig) -> Lengths:
    """`config.n_frames` of each."""
    if not isinstance(lengths, mx.array):
        return [config.n_frames(n) for n in lengths]
    return (lengths + config.frame_size - 1) // config.frame_size


def _decoder_dtype(codec: Codec) -> mx.Dtype:
    return codec.output_proj.conv.parametrizations.weight.original1.dtype
