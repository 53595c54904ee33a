"""Task `encoder`: train the codec's missing encoder against the frozen decoder and codebook.

What it learns from is in `items.py`, the terms of its loss in `terms.py`. Every term is weighted by its valid samples
or frames. With `quantisation_noise`, what reaches the decoder in training is not always quantised; in measuring it
always is. Recordings teach by their sound, pairs by their codes, and so they are measured.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.audio.spectral import choice
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.evaluate.code_usage import write_code_usage
from mlx_voxclone.files.hub import ENCODER_FILE
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.discriminator import MultiResolutionDiscriminator
from mlx_voxclone.pairs.data import HELDOUT_TEXTS, PairData
from mlx_voxclone.pairs.statistics import CodeStatistics
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.train.encoder.items import EncoderItems, States
from mlx_voxclone.train.encoder.terms import (
    CODES,
    OF_RECORDINGS,
    OPPONENTS,
    EncoderModel,
    EncoderTerms,
    code_constants,
    in_few_shapes,
    recordings,
    term_weights,
)
from mlx_voxclone.train.loop.task import ParameterGroup, fingerprint_of

SAMPLES_WRITTEN = 4  # held-out clips written as audio at each listening point
DISCRIMINATOR_BETAS = (0.5, 0.9)  # short memories, as two models follow each other; EnCodec's
CODEC_PREFIX = "audio_tokenizer."
_OWN = "codec."  # of the encoder's parameters in the model that trains


@dataclass(frozen=True)
class Teacher:
    """A frozen speech recogniser: `states(clip, first sample, frames)`, their width, and what it is."""

    states: States
    dim: int
    identity: str


class EncoderTask:
    """See `Task`. An item is one crop of at most `crop_seconds`; an epoch visits every second of the data once.

    Args:
        codec: built with an encoder; everything but the encoder gets frozen.
        data: prepared clips.
        section: the configuration's `encoder` section.
        seed: of crops and gains, and of what is trained beside the encoder.
        compute_dtype: dtype of the encoder's activations; the frozen decoder runs in the dtype of its weights.
        identity: what else must be unchanged on resume, e.g. the digest of the frozen codec.
        pairs: true codes and their audio, if any.
        teacher: for the distillation term, where it is enabled.
        prior: what the codes of the model usually look like, to be compared with.
        judged: codes of recordings, see `EncoderItems`.
    """

    name = "encoder"
    metric = "loss"  # with judged codes of held-out recordings their loss
    training_only = frozenset(OPPONENTS)

    def __init__(
        self,
        codec: Codec,
        data: PreparedData,
        section: EncoderSection,
        seed: int = 0,
        compute_dtype: mx.Dtype = mx.float32,
        identity: Mapping[str, Any] | None = None,
        pairs: PairData | None = None,
        teacher: Teacher | None = None,
        prior: CodeStatistics | None = None,
        judged: Mapping[str, np.ndarray] | None = None,
    ):
        if not data.train:
            raise DataError("task encoder: the prepared data holds no training clips")
        self.codec, self.data, self.section, self.seed = codec, data, section, seed
        self._identity, self.pairs, self._teacher, self._prior = dict(identity or {}), pairs, teacher, prior
        freeze_all_but_encoder(codec)
        codec.fold_decoder()
        self._judged = dict(judged or {})
        states = None if teacher is None else teacher.states
        self.items = EncoderItems(data.train, data.heldout, pairs, section, codec.config, seed, states, judged)
        self.crop, self.n_items = self.items.crop, len(self.items)
        if self._judged and any(True for _ in self.items.heldout_judged(1)):
            self.metric = JUDGED_LOSS
        if not self.items.measurable:
            raise DataError("task encoder: the prepared data holds no held-out clips to select the best encoder by")
        self.weights = self._weights()
        self.model = self._model()
        self.groups = self._groups()
        self._terms = EncoderTerms(self.model, section, self.crop, compute_dtype, self.semantic_from_sound)

    # --- what trains, and by which terms --------------------------------------------------------------------------

    def _weights(self) -> dict[str, float]:
        """The terms whose source is there: codes need pairs, distillation a teacher, and so on."""
        losses, opponents = term_weights(self.section.losses), self.section.discriminators.enabled
        coded = self.pairs is not None or self.metric == JUDGED_LOSS
        there = {**dict.fromkeys(CODES, coded), "feature_matching": opponents, "commitment": self.semantic_from_sound}
        there |= {"distillation": self._teacher is not None}
        found = {name: weight for name, weight in losses.items() if there.get(name, True)}
        return found | ({"discriminator": 1.0} if opponents else {})

    @property
    def semantic_from_sound(self) -> bool:
        """Whether recordings without codes move the semantic latents; where no pairs do, nothing else does."""
        section = self.section
        return self.pairs is None or not section.losses.semantic_code or section.sound_teaches == "all"

    def _model(self) -> EncoderModel:
        """Draws what is trained beside the encoder from `seed`, and leaves MLX's random state to be seeded anew."""
        section = self.section
        mx.random.seed(self.seed)
        judges = section.discriminators
        discriminators = MultiResolutionDiscriminator(judges.sizes, judges.channels) if judges.enabled else None
        projection = None
        if self._teacher is not None:
            projection = nn.Linear(self.codec.config.semantic_dim, self._teacher.dim)
        model = EncoderModel(self.codec, discriminators, projection)
        mx.eval(model.parameters())
        return model

    def _groups(self) -> tuple[ParameterGroup, ...]:
        judges = self.section.discriminators
        if not judges.enabled:
            return ()
        return (ParameterGroup("discriminators.", judges.learning_rate, DISCRIMINATOR_BETAS, 0.0),)

    def weights_at(self, step: int) -> dict[str, float]:
        """Opponents are heard after their warm-up."""
        judges, weights = self.section.discriminators, dict(self.weights)
        if judges.enabled and step < judges.warmup_steps:
            weights["feature_matching"] = 0.0
        return weights

    # --- batches --------------------------------------------------------------------------------------------------

    def item(self, epoch: int, index: int, step: int = 0) -> dict[str, Any]:
        return self.items.item(epoch, index, step)

    def order(self, seed: int, epoch: int) -> Any | None:
        return self.items.order(seed, epoch)

    def collate(self, items: list[Mapping[str, Any]]) -> dict[str, Any]:
        """See `EncoderItems.collate`; recordings first, then pairs, so that there are few kinds of batches."""
        return self.items.collate(sorted(items, key=_kind))

    def padded(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """See `Padded`. Crops are of one length; of the step, what counts is which terms it asks for."""
        return in_few_shapes(batch, self.crop) | {"asked": self._asked(batch)}

    def decisions(self) -> dict[str, bool]:
        """See `Decides`: by window size, whether its spectra run on the Metal kernels."""
        return choice.decisions()

    def take_decisions(self, found: Mapping[str, bool]) -> None:
        choice.take_decisions(found)

    def heldout_batches(self) -> Iterable[dict[str, Any]]:
        """Recordings, then pairs; without pairs recordings again, with their judged codes."""
        size = self.section.train.batch_size
        yield from self.items.heldout_clips(size)
        yield from self.items.heldout_pairs(size) if self.pairs is not None else self.items.heldout_judged(size)

    def targets(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """Valid samples for what is heard, frames for codes and states; 0 for what is not looked at in this batch."""
        heard = recordings(batch)
        counts = dict.fromkeys(OF_RECORDINGS, float(sum(batch["lengths"][k] for k in heard)))
        counts |= dict.fromkeys(CODES, float(sum(batch.get("coded_frames", [])) - sum(batch.get("skip", []))))
        counts |= {"distillation": float(sum(batch.get("taught_frames", [])))}
        if "step" not in batch:  # measuring: every term of interest, on the data it is of interest on
            return {name: 0.0 if name in OPPONENTS else counts[name] for name in self.weights}
        weights = self.weights_at(batch["step"])
        return {name: counts[name] if weights[name] else 0.0 for name in self.weights}

    # --- loss -----------------------------------------------------------------------------------------------------

    def losses(self, batch: Mapping[str, Any]) -> dict[str, mx.array]:
        """Sums over the targets. A batch without `quantisation` (held-out data, or the noise switched off) is quantised
        throughout; a term without targets in it is 0 and costs nothing."""
        sums = dict.fromkeys(self.weights, mx.array(0.0))
        return sums | self._terms(batch, batch["asked"] if "asked" in batch else self._asked(batch))

    def _asked(self, batch: Mapping[str, Any]) -> list[str]:
        return [name for name, count in self.targets(batch).items() if count]

    # --- looking at it --------------------------------------------------------------------------------------------

    def extra_metrics(self) -> dict[str, float]:
        """Codes of the held-out recordings: share of the semantic codebook in use, entropies (bits), and how far that
        is from what is usual; on held-out pairs, how many codes are the true ones."""
        codes = self._heldout_codes()
        if codes is None:  # a training that has blown up: there are no codes to count
            names = ("semantic_codes_used", "semantic_entropy_bits", "level_entropy_bits")
            names += _AGREEMENT if self.pairs is not None else ()
            return dict.fromkeys((*names, JUDGED_LOSS) if self.metric == JUDGED_LOSS else names, math.nan)
        statistics = CodeStatistics.from_codes(codes, self.codec.config)
        return statistics.metrics(self._prior) | self._agreement() | self._judged_loss()

    def _heldout_codes(self) -> list[np.ndarray] | None:
        """`[37, T]` of every held-out crop of the recordings; None if a latent is not finite."""
        found = []
        for batch in self.items.heldout_clips(self.section.train.batch_size):
            latents = self.codec.encode_latents(mx.array(batch["waveform"]), batch["lengths"])
            if not mx.isfinite(latents).all():
                return None
            codes = np.array(self.codec.quantize(latents))
            found += [item[:, : self.codec.config.n_frames(n)] for item, n in zip(codes, batch["lengths"])]
        return found

    def _agreement(self) -> dict[str, float]:
        """Of the codes of held-out pairs with the true ones; {} without pairs."""
        wrong = []
        for batch in self.items.heldout_pairs(self.section.train.batch_size):
            latents = self.codec.encode_latents(mx.array(batch["waveform"]), batch["lengths"])
            codes = np.array(self.codec.quantize(latents))
            for found, true, skip, n in zip(codes, batch["codes"], batch["skip"], batch["coded_frames"]):
                wrong.append(np.abs(found[:, skip:n] - true[:, skip:n]))  # [37, n - skip]
        if not wrong:
            return {}
        wrong = np.concatenate(wrong, axis=1)  # [37, frames of all pairs]
        values = np.mean(wrong[0] == 0), np.mean(wrong[1:]), np.mean(wrong[1:] == 0)
        return dict(zip(_AGREEMENT, map(float, values), strict=True))

    def _judged_loss(self) -> dict[str, float]:
        """Of held-out recordings: cross-entropy of the judged semantic codes (nats) plus distance to the judged levels,
        weighted as in training; {} without judged codes. It selects the best encoder: the sound says little about
        which of many codes for it is the one that the language model knows."""
        total, frames = 0.0, 0
        for batch in self.items.heldout_judged(self.section.train.batch_size):
            arrays = {k: mx.array(v) if isinstance(v, np.ndarray) else v for k, v in batch.items()}
            sums = self._terms(arrays, [name for name in CODES if self.weights.get(name)])
            total += float(sum(self.weights[name] * value for name, value in sums.items()))
            frames += sum(batch["coded_frames"]) - sum(batch["skip"])
        return {JUDGED_LOSS: total / frames} if frames else {}

    def write_samples(self, directory: Path, step: int) -> None:
        """Held-out clips as they are and through the codec, and how often each code occurs."""
        for clip in self.data.heldout[:SAMPLES_WRITTEN]:
            wave = clip.read()
            codes = self.codec.audio_codes(wave)
            write_wav(directory / f"{clip.id}-original.wav", wave)
            write_wav(directory / f"{clip.id}-reconstructed.wav", self.codec.decode_audio(codes)[: len(wave)])
        if codes := self._heldout_codes():
            write_code_usage(directory, codes, self.codec.config, self._prior)

    def export(self, directory: Path, parameters: dict[str, mx.array]) -> None:
        """`encoder.safetensors`: the encoder's tensors under the release's full names, float32."""
        from mlx_voxclone.checkpoint.writer import save_tensors

        own = {name.removeprefix(_OWN): value for name, value in parameters.items() if name.startswith(_OWN)}
        save_tensors(directory / ENCODER_FILE, {CODEC_PREFIX + name: value for name, value in own.items()})

    def fingerprint(self) -> str:
        section = self.section.model_dump(mode="json", exclude={"train", "refine", "weights", "pairs", "losses"})
        return fingerprint_of(
            task=self.name,
            data=self.data.fingerprint(),
            crop=self.crop,
            losses=self.weights,
            pairs=None if self.pairs is None else self.pairs.fingerprint(),
            drawing=self.section.pairs.model_dump(include=set(_DRAWING)) | self._drawing(),
            codes=code_constants(),
            teacher=None if self._teacher is None else self._teacher.identity,
            seed=self.seed,
            **section,
            **self._identity,
            **({"judged": _digest_of(self._judged)} if self._judged else {}),
        )

    def _drawing(self) -> dict[str, float]:
        items = self.items
        return {"augmented": items.augmented, "dispersed": items.dispersed, "heldout": HELDOUT_TEXTS}


def _digest_of(codes: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (hex) of codes by clip id."""
    digest = hashlib.sha256()
    for name in sorted(codes):
        digest.update(name.encode() + np.ascontiguousarray(codes[name], dtype=np.int32).tobytes())
    return digest.hexdigest()


def _kind(item: Mapping[str, Any]) -> tuple:
    """What decides over an item's place in a batch: items of the same kinds make the same kind of batch."""
    return "codes" in item, item.get("skip", 0), item.get("teacher") is not None, -len(item["waveform"])


_DRAWING = ("share", "alone_steps")  # of pairs; what they are is theirs to tell
JUDGED_LOSS = "judged_loss"
_AGREEMENT = ("pairs_semantic_agreement", "pairs_level_error", "pairs_levels_exact")


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
