"""Task `speaker`: LoRA on the quantised language model, teacher-forced on (text, audio codes).

The sequence is the server's own: a reference clip of the same speaker as voice rows, the text, then the frames of the
clip. Loss on audio positions only: semantic cross-entropy with an END target after the last frame, and flow matching of
the acoustic codes with the hidden state dropped now and then for guidance (paper section 3, SPEC section 4).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.adapters.lora import lora_parameters
from mlx_voxclone.data.text_checks import check_said
from mlx_voxclone.errors import DataError
from mlx_voxclone.losses import flow_matching_loss, flow_matching_targets, semantic_cross_entropy
from mlx_voxclone.model.codes import lm_frames, with_end
from mlx_voxclone.model.quantizer import levels_to_values
from mlx_voxclone.model.widths import GROUP_SIZE
from mlx_voxclone.pairs.data import HELDOUT_TEXTS
from mlx_voxclone.settings.schema import SpeakerSection
from mlx_voxclone.train.loop.heldout import spread
from mlx_voxclone.train.loop.loader import to_device
from mlx_voxclone.train.loop.task import fingerprint_of
from mlx_voxclone.train.speaker import listening as listen
from mlx_voxclone.train.speaker.adapted import AdaptedModel
from mlx_voxclone.train.speaker.batch import KeptBatch, SpeakerBatch
from mlx_voxclone.train.speaker.buckets import padded_speech
from mlx_voxclone.train.speaker.preservation import (
    KEPT_FIELD,
    FlowPath,
    Kept,
    KeptPairs,
    preservation_terms,
    without_adapters,
)
from mlx_voxclone.train.speaker.preservation import TERMS as KEPT_TERMS

_END_TO_END = ("rows", "codes", "semantic", "acoustic", "noise", "time", "drop", "semantic_weight", "flow_weight")
MAX_HELDOUT = 64  # clips by which an evaluation measures, however large the corpus
HELDOUT_KEPT = 8  # utterances of the model's own voices by which their drift is measured
HELDOUT_EPOCH = 2**31  # held-out noise is drawn from an epoch that training never reaches


@dataclass(frozen=True)
class Utterance:
    """One transcribed clip as the model sees it."""

    id: str
    text: str
    codes: np.ndarray  # 0-based [37, T], int32
    references: tuple[np.ndarray, ...]  # 0-based codes of other clips of the speaker, each [37, N]


@dataclass(frozen=True, eq=False)
class SpeakerData:
    """What task `speaker` learns from and is measured by.

    Attributes:
        train: utterances to learn from.
        heldout: utterances that select the best adapter; of many, 64 spread over them.
        kept: what the released model says with its own voices, if that is to be preserved; `speaker.preserve.share` of
            the items are drawn from it.
    """

    train: Sequence[Utterance]
    heldout: Sequence[Utterance]
    kept: KeptPairs | None = None


class SpeakerTask:
    """See `Task`. An item is one utterance with one reference, drawn anew every epoch.

    Args:
        adapted: the model; its trainable parameters are A and B.
        data: what it learns from and is measured by.
        section: the configuration's `speaker` section.
        seed: of references, noise, times and dropped hidden states.
        listening: speaks and judges at each measurement; the best model is then chosen by that.
        name: for messages: `speaker` or `language`.

    Attributes:
        hidden_dropout: how often the flow head's conditioning is zeroed, for classifier-free guidance.
    """

    hidden_dropout = 0.1

    def __init__(
        self,
        adapted: AdaptedModel,
        data: SpeakerData,
        section: SpeakerSection,
        *,
        seed: int = 0,
        listening: listen.Listening | None = None,
        name: str = "speaker",
    ):
        self.name = name
        self.model, self.section, self.seed, self._adapted = adapted.model, section, seed, adapted
        self._listening, self.metric = listening, "loss" if listening is None else listen.METRIC
        self._train, self._heldout = list(data.train), spread(list(data.heldout), MAX_HELDOUT)
        self._kept = kept = data.kept
        for kind, utterances in (("training", self._train), ("held-out", self._heldout)):
            if not utterances:
                raise DataError(
                    f"task {self.name}: no {kind} clip has a text and another clip of its speaker; add transcripts"
                    " (manifest, metadata.csv, .txt beside the audio, or prepare --transcribe) or more clips"
                )
        share = section.preserve.share if kept is not None else 0.0
        self.n_items = max(len(self._train) + (share > 0), round(len(self._train) / (1 - share)))
        self.weights = {"semantic": section.losses.semantic, "flow": section.losses.flow}
        self.weights |= dict.fromkeys(KEPT_TERMS, section.losses.kept) if kept is not None else {}
        codec = self.model.config.codec
        self._frame_limit = int(section.max_seconds * codec.frame_rate)
        self._reference_frames = [max(1, round(s * codec.frame_rate)) for s in section.reference_seconds]
        for utterance in [*self._train, *self._heldout]:
            try:
                for codes in (utterance.codes, *utterance.references):
                    self.model.audio_tokenizer.check_codes(codes)
            except ValueError as e:  # an embedding look-up out of range would go unnoticed
                raise DataError(f"clip {utterance.id}: {e}") from None
        for one in [*self._train, *self._heldout, *([] if kept is None else [*kept.train, *kept.heldout])]:
            check_said(f"clip {one.id}", one.text, one.codes.shape[1] / codec.frame_rate)

    # --- batches --------------------------------------------------------------------------------------------------

    def item(self, epoch: int, index: int, step: int = 0) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, epoch, index])
        if index < len(self._train):
            return self._item(self._train[index], rng)
        return self._item(self._kept.train[rng.integers(len(self._kept.train))], rng)

    def _item(self, utterance: Utterance | Kept, rng: np.random.Generator) -> dict[str, Any]:
        """Ids, LM codes (+2) of all audio positions in order, targets and noise of one utterance.

        Of what is to be kept, the voice is rows of its own, its frames weigh nothing as targets, and no hidden state is
        dropped.
        """
        kept = isinstance(utterance, Kept)
        voice = np.zeros((0, utterance.codes.shape[0]), np.int32) if kept else self._voice(utterance, rng)
        rows = utterance.rows if kept else np.zeros((0, self.model.config.backbone.dim), np.float32)
        ended = utterance.codes.shape[1] <= self._frame_limit
        codes = utterance.codes[:, : self._frame_limit]  # [37, T], 0-based
        frames = lm_frames(codes)  # [T, 37]
        prompt = np.array(self._adapted.prompt(utterance.text, len(voice) + len(rows)), dtype=np.int32)
        audio_id, n = self.model.config.audio_token_id, len(frames)
        # The last frame is an input only where there is something left to predict after it: END.
        inputs = frames if ended else frames[:-1]
        semantic = (with_end(frames) if ended else frames)[:, 0]  # [T + 1] or [T]
        weights = np.full(len(semantic), 0.0 if kept else 1.0, dtype=np.float32)  # of the frames, and of END
        return {
            "id": utterance.id,
            "length": len(prompt) + len(inputs),
            "ids": np.concatenate([prompt, np.full(len(inputs), audio_id, dtype=np.int32)]),
            "rows": rows,  # at the first [AUDIO] ids
            "codes": np.concatenate([voice, inputs]).astype(np.int32),  # at the others, in order
            "first": len(prompt) - 1,  # position whose hidden state predicts the first frame
            "semantic": semantic.astype(np.int32),
            "acoustic": codes[1:].T.astype(np.int32),
            "semantic_weight": weights,
            "flow_weight": weights[:n],
            "noise": rng.standard_normal((n, frames.shape[1] - 1)).astype(np.float32),
            "time": rng.uniform(size=n).astype(np.float32),
            "drop": rng.uniform(size=n) < (0.0 if kept else self.hidden_dropout),
            "kept": kept,
        }

    def _voice(self, utterance: Utterance, rng: np.random.Generator) -> np.ndarray:
        """LM codes `[N, 37]` of a length that is drawn, END last: a part of a reference, or of as many of them, one
        after the other, as it takes."""
        low, high = self._reference_frames
        wanted, taken, frames = int(rng.integers(low, high + 1)), [], 0
        for k in rng.permutation(len(utterance.references)):
            taken.append(utterance.references[k])
            frames += taken[-1].shape[1]
            if frames >= wanted:
                break
        joined, length = np.concatenate(taken, axis=1), min(wanted, frames)
        start = int(rng.integers(frames - length + 1))
        return with_end(lm_frames(joined[:, start : start + length]))

    def collate(self, items: list[Mapping[str, Any]]) -> SpeakerBatch:
        """Right-pads the sequences; all that concerns frames is laid end to end, with flat positions.

        Right padding is harmless: the model is causal, and nothing after an item's end is a target.
        """
        width = max(len(item["ids"]) for item in items)
        ids = np.zeros((len(items), width), dtype=np.int32)  # [B, T]
        row_positions, code_positions, semantic_positions, flow_positions = [], [], [], []
        for row, item in enumerate(items):
            ids[row, : len(item["ids"])] = item["ids"]
            audio = row * width + np.flatnonzero(item["ids"] == self.model.config.audio_token_id)
            row_positions.append(audio[: len(item["rows"])])
            code_positions.append(audio[len(item["rows"]) :])
            first = row * width + item["first"]
            semantic_positions.append(first + np.arange(len(item["semantic"])))
            flow_positions.append(first + np.arange(len(item["acoustic"])))
        return SpeakerBatch(
            ids=ids,
            start=min(item["first"] for item in items),
            code_positions=_end_to_end(code_positions),
            row_positions=_end_to_end(row_positions),
            semantic_positions=_end_to_end(semantic_positions),
            flow_positions=_end_to_end(flow_positions),
            kept=_kept_batch(items, width) if any(item["kept"] for item in items) else None,
            **{name: np.concatenate([item[name] for item in items]) for name in _END_TO_END},
        )

    def padded(self, batch: SpeakerBatch) -> SpeakerBatch:
        """See `Padded`: positions up to a multiple of 64, frames of 32."""
        return padded_speech(batch)

    def targets(self, batch: SpeakerBatch) -> dict[str, float]:
        """END counts as a semantic target; there is no flow at END, where the server writes fixed codes.

        A frame to be kept counts only as such.
        """
        counts = {"semantic": batch.semantic_weight, "flow": batch.flow_weight}
        if batch.kept is not None:
            counts |= {"kept_semantic": batch.kept.semantic_weight, "kept_flow": batch.kept.flow_weight}
        return {name: float(counts[name].sum(dtype=np.float64)) if name in counts else 0.0 for name in self.weights}

    def heldout_batches(self) -> Iterable[SpeakerBatch]:
        """Of the clips, then of what is to be kept: no batch has both."""
        size = self.section.train.batch_size
        kept = [] if self._kept is None else self._kept.heldout[:HELDOUT_KEPT]
        for number, utterances in enumerate((self._heldout, kept)):
            for first in range(0, len(utterances), size):
                chosen = range(first, min(first + size, len(utterances)))
                rngs = {i: np.random.default_rng([self.seed, HELDOUT_EPOCH + number, i]) for i in chosen}
                yield self.collate([self._item(utterances[i], rngs[i]) for i in chosen])

    # --- loss -----------------------------------------------------------------------------------------------------

    def embeddings(self, batch: SpeakerBatch) -> mx.array:
        """Inputs of the first layer, `[B, T, dim]`."""
        ids = batch.ids  # [B, T]
        x = self.model.mm_audio_embeddings.tok_embeddings(ids).reshape(ids.size, -1)  # [B * T, dim]
        x[batch.code_positions] = self.model.embed_codes(batch.codes).astype(x.dtype)  # [P, 37] -> [P, dim]
        if batch.kept is not None:
            x[batch.row_positions] = batch.rows.astype(x.dtype)  # [R, dim]
        return mx.stop_gradient(x).reshape(*ids.shape, -1)  # [B, T, dim]; the embeddings are frozen

    def hidden_states(self, batch: SpeakerBatch) -> mx.array:
        """Hidden states of a collated batch, flattened to `[B * T, dim]`."""
        return self.model.hidden_states(self.embeddings(batch)).reshape(batch.ids.size, -1)

    def losses(self, batch: SpeakerBatch) -> dict[str, mx.array]:
        codec, head = self.model.config.codec, self.model.acoustic_transformer
        inputs = self.embeddings(batch)  # [B, T, dim]
        hidden = _flat(self.model.hidden_states(inputs, start=batch.start))  # [B * (T - start), dim]
        batch = batch.from_start()
        logits = head.semantic_logits(hidden[batch.semantic_positions])  # [S, rows]
        nats = semantic_cross_entropy(logits, batch.semantic, codec.code_sizes[0])  # [S]
        values = levels_to_values(batch.acoustic, codec.acoustic_codebook_size)  # [F, 36]
        x_t, velocity = flow_matching_targets(values, batch.noise, batch.time)  # [F, 36] each
        condition = hidden[batch.flow_positions]  # [F, dim]
        condition = mx.where(batch.drop[:, None], mx.zeros_like(condition), condition)
        predicted = head.velocity(x_t, batch.time, condition)  # [F, 36]
        sums = dict.fromkeys(self.weights, mx.array(0.0))
        sums["semantic"] = mx.sum(nats * batch.semantic_weight)
        sums["flow"] = flow_matching_loss(predicted, velocity, batch.flow_weight[:, None])
        if batch.kept is not None and self._kept is not None:
            path = FlowPath(x_t, batch.time, predicted)
            sums |= preservation_terms(head, batch.kept, hidden, self._released(inputs, batch), path)
        return sums

    def _released(self, inputs: mx.array, batch: SpeakerBatch) -> mx.array:
        """Hidden states of the model without adapters on the sequences to be preserved, `[K * (T - start), dim]`."""
        with without_adapters(self.model):
            states = self.model.hidden_states(inputs[batch.kept.sequences], start=batch.start)  # [K, T - start, dim]
        return mx.stop_gradient(_flat(states))

    # --- looking at it --------------------------------------------------------------------------------------------

    def extra_metrics(self) -> dict[str, float]:
        """Share of held-out semantic codes (END among them) that the model would have chosen itself; what it sounds
        like, where that is listened to."""
        right = total = 0
        for batch in self.heldout_batches():
            if batch.kept is not None:
                continue
            arrays = to_device(batch)
            hidden = _flat(self.model.hidden_states(self.embeddings(arrays), start=batch.start))
            hidden = hidden[arrays.from_start().semantic_positions]  # [S, dim]
            chosen = mx.argmax(self.model.acoustic_transformer.masked_semantic_logits(hidden), axis=-1)  # [S]
            right += int((chosen == arrays.semantic).sum())
            total += len(batch.semantic)
        measured = self._listening.metrics(self.model) if self._listening is not None else {}
        return {"semantic_accuracy": right / total, **measured}

    def derived_metrics(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """What the best model is chosen by, where it is not the loss; see `Listening.choice`."""
        return self._listening.choice(metrics) if self._listening is not None else {}

    def write_samples(self, directory: Path, step: int) -> None:
        """The first held-out text, or those that are listened to, spoken with the adapter as it is."""
        if self._listening is not None:
            self._listening.write(self.model, directory)
            return
        from mlx_voxclone.audio.io import write_wav
        from mlx_voxclone.speech.speaker import speak

        utterance = self._heldout[0]
        voice = self.model.voice_embedding(utterance.references[0][:, : self._reference_frames[1]])
        ids = self._adapted.prompt(utterance.text, voice.shape[0])
        result = speak(self.model, ids, voice, max_frames=2 * utterance.codes.shape[1] + 25, seed=self.seed)
        write_wav(directory / f"{utterance.id}.wav", result.samples)

    def export(self, directory: Path, parameters: dict[str, mx.array]) -> None:
        self._adapted.save(directory, parameters)

    def fingerprint(self) -> str:
        section = self.section.model_dump(
            mode="json",
            exclude={"train": True, "encoder": True, "recompute": True, "listen": True, "preserve": {"path"}},
        )
        kept = section["losses"].pop("kept")
        section["losses"] |= dict.fromkeys(KEPT_TERMS, kept)
        section["quantise"]["group_size"] = GROUP_SIZE
        section["preserve"]["heldout"], section["hidden_dropout"] = HELDOUT_TEXTS, self.hidden_dropout
        utterances = [*self._train, *self._heldout]
        clips = [(u.id, u.codes.shape[1], int(u.codes.sum())) for u in utterances]
        adapter = sorted((k, v.shape) for k, v in lora_parameters(self.model).items())
        fields = {f"speaker.{key}": value for key, value in section.items()} | dict(self._adapted.identity)
        if self._listening is not None:
            fields["speaker.listen"] = self._listening.identity
        if self._kept is not None:
            fields[KEPT_FIELD] = self._kept.identity
        contents = _digest(utterances)
        return fingerprint_of(task=self.name, seed=self.seed, data=clips, contents=contents, adapter=adapter, **fields)


def _digest(utterances: Iterable[Utterance]) -> str:
    """Of texts and codes, in their order."""
    digest = hashlib.sha256()
    for utterance in utterances:
        digest.update(json.dumps([utterance.id, utterance.text, utterance.codes.shape]).encode())
        digest.update(np.ascontiguousarray(utterance.codes, "<i4").tobytes())
    return digest.hexdigest()


def _kept_batch(items: list[Mapping[str, Any]], width: int) -> KeptBatch:
    """Of items some of which are to be preserved, in sequences of `width` positions."""
    sequences, semantic, released_semantic, frames, released_flow = [], [], [], [], []
    frames_before = 0
    for row, item in enumerate(items):
        n, targets = len(item["acoustic"]), np.arange(len(item["semantic"]))
        if item["kept"]:
            alone = len(sequences) * width + item["first"]
            sequences.append([row])
            semantic.append(row * width + item["first"] + targets)
            released_semantic.append(alone + targets)
            frames.append(frames_before + np.arange(n))
            released_flow.append(alone + np.arange(n))
        frames_before += n
    return KeptBatch(
        sequences=_end_to_end(sequences),
        frames=_end_to_end(frames),
        semantic_positions=_end_to_end(semantic),
        released_semantic_positions=_end_to_end(released_semantic),
        released_flow_positions=_end_to_end(released_flow),
        semantic_weight=np.ones(sum(map(len, semantic)), np.float32),
        flow_weight=np.ones(sum(map(len, frames)), np.float32),
    )


def _end_to_end(indices: list) -> np.ndarray:
    return np.concatenate(indices).astype(np.int32)


def _flat(states: mx.array) -> mx.array:
    """`[B, T, dim]` -> `[B * T, dim]`."""
    return states.reshape(-1, states.shape[-1])
