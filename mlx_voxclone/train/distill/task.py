"""Task `distill`: behind the encoder's codes of a voice, the model learns to do what it does behind the true ones.

Teacher and student are the same model on the same text and frames. The teacher has no adapters and hears the voice's
true codes; the student has them and hears what the encoder gives for the same audio. Matched are the hidden states of
some layers wherever there is text or an answer, the distributions of semantic codes and the flow's velocities.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.adapters.lora import lora_parameters
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import free_space_check
from mlx_voxclone.losses.divergence import divergence
from mlx_voxclone.model.codes import from_lm, lm_frames, with_end
from mlx_voxclone.model.quantizer import levels_to_values
from mlx_voxclone.train.distill.data import DistillItem, digest_items
from mlx_voxclone.train.loop.task import fingerprint_of
from mlx_voxclone.train.speaker.adapted import AdaptedModel
from mlx_voxclone.train.speaker.preservation import without_adapters

TERMS = ("hidden", "semantic", "flow", "kept_semantic", "kept_flow")
STATES = "states"
_PLACES = ("places", "compared", "predict", "within", "flow", "flow_within")
_JOINED = ("codes", "states", "points", "time", "kept", "kept_flow")


def matched_layers(n_layers: int) -> list[int]:
    """Layers after which states are matched, beside the last: a quarter, half and three quarters of them."""
    return sorted({max(1, n_layers * part // 4) for part in (1, 2, 3)} - {n_layers})


class TeacherStates:
    """What the teacher makes of every item, kept on disk; a file each, made when first asked for.

    Args:
        directory: of the files; made if need be.
        identity: of model, layers and items; files of another identity are made again.
    """

    def __init__(self, directory: Path, identity: str):
        self.directory, self.identity = directory, identity

    def path(self, number: int) -> Path:
        return self.directory / f"{number:06d}.safetensors"

    def has(self, number: int) -> bool:
        try:
            return TensorFile(self.path(number)).metadata.get("identity") == self.identity
        except CheckpointError:
            return False

    def write(self, number: int, states: mx.array) -> None:
        """`[positions, states, dim]` of item `number`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        save_tensors(self.path(number), {STATES: states}, {"identity": self.identity}, overwrite=True)

    def read(self, number: int) -> np.ndarray:
        """float32 `[positions, states, dim]`; on any thread.

        Raises:
            CheckpointError: missing, or of another run.
        """
        file = TensorFile(self.path(number))
        if file.metadata.get("identity") != self.identity:
            raise CheckpointError(f"{file.path}: made from something else; delete {self.directory}")
        return file.numpy(STATES)


class DistillTask:
    """See `Task`. An item is one text behind one voice; the noise of the flow is drawn anew every epoch.

    Args:
        adapted: the model; its trainable parameters are A and B.
        train, heldout: items.
        cache: directory of the teacher's states.
        batch_size: of held-out batches.
    """

    name = "distill"
    metric = "loss"

    def __init__(
        self,
        adapted: AdaptedModel,
        train: Sequence[DistillItem],
        heldout: Sequence[DistillItem],
        *,
        cache: Path,
        batch_size: int = 1,
        seed: int = 0,
    ):
        self.model, self.seed, self._adapted = adapted.model, seed, adapted
        self._train, self._heldout, self._batch_size = list(train), list(heldout), batch_size
        self.layers = matched_layers(len(self.model.layers))
        self.n_items = len(self._train)
        kept = any(item.kept for item in self._train) and any(item.kept for item in self._heldout)
        self.weights = {name: 1.0 for name in TERMS if kept or not name.startswith("kept_")}
        items = digest_items([*self._train, *self._heldout])
        dtype = str(self.model.mm_audio_embeddings.tok_embeddings.weight.dtype)
        about = {"layers": self.layers, "items": items, "dtype": dtype, **adapted.identity}
        self.teacher = TeacherStates(Path(cache), fingerprint_of(**about))

    # --- the teacher ----------------------------------------------------------------------------------------------

    @property
    def _items(self) -> list[DistillItem]:
        return [*self._train, *self._heldout]

    def teach(self, progress: Callable[[int], None] = lambda n: None) -> None:
        """Make the teacher's states that are not there yet; on the main thread, before training.

        Raises:
            CheckpointError: the disk has no room for them.
        """
        missing = [k for k in range(len(self._items)) if not self.teacher.has(k)]
        width = (len(self.layers) + 1) * self.model.config.backbone.dim * 4
        self.teacher.directory.mkdir(parents=True, exist_ok=True)
        free_space_check(self.teacher.directory, sum(self._positions(self._items[k]) for k in missing) * width)
        progress(len(self._items) - len(missing))
        for k in missing:
            sequence = self._sequence(self._items[k])
            with without_adapters(self.model):
                states = self._states(mx.array(sequence["ids"])[None], mx.array(sequence["true"]))
            self.teacher.write(k, mx.stop_gradient(states[0, sequence["after"] :]))
            progress(1)

    def _positions(self, item: DistillItem) -> int:
        sequence = self._sequence(item)
        return len(sequence["ids"]) - sequence["after"]

    def _states(self, ids: mx.array, codes: mx.array, places: mx.array | None = None) -> mx.array:
        """States after the chosen layers and the final norm, `[B, T, states, dim]`; codes stand at audio ids."""
        inputs: list[mx.array] = []
        x = self.model.mm_audio_embeddings.tok_embeddings(ids).reshape(ids.size, -1)
        if places is None:
            places = mx.array(np.flatnonzero(np.array(ids).reshape(-1) == self.model.config.audio_token_id))
        x[places] = self.model.embed_codes(codes).astype(x.dtype)
        x = mx.stop_gradient(x).reshape(*ids.shape, -1)
        final = self.model.hidden_states(x, layer_inputs=inputs)
        return mx.stack([*(inputs[layer] for layer in self.layers), final], axis=2)

    # --- batches --------------------------------------------------------------------------------------------------

    def _sequence(self, item: DistillItem) -> dict[str, Any]:
        """Ids, the LM codes (+2) of teacher (`true`) and student (`codes`), and where things are."""
        part = slice(item.first, item.first + item.frames)
        frames = np.zeros((0, item.voice.true.shape[0]), np.int32)
        if item.codes is not None:
            frames = lm_frames(item.codes)
        prompt = np.array(self._adapted.prompt(item.text, item.frames + 1), dtype=np.int32)
        audio = self.model.config.audio_token_id
        heard = item.voice.true if item.kept else item.voice.ours
        true, ours = (
            np.concatenate([with_end(lm_frames(codes[:, part])), frames]) for codes in (item.voice.true, heard)
        )
        return {
            "ids": np.concatenate([prompt, np.full(len(frames), audio, dtype=np.int32)]),
            "true": true,
            "codes": ours,
            "after": int(np.flatnonzero(prompt == audio)[-1]) + 1,
            "first": len(prompt) - 1,
            "frames": frames,
        }

    def item(self, epoch: int, index: int, step: int = 0) -> dict[str, Any]:
        return self._item(index, np.random.default_rng([self.seed, epoch, index]))

    def _item(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """The sequence with the teacher's states and the flow's points.

        Where only the start of an answer is asked there is no frame to flow to: its point is noise on the way to a
        random one.
        """
        item = self._items[index]
        sequence = self._sequence(item)
        frames, levels = sequence.pop("frames"), self.model.config.codec.acoustic_codebook_size
        if len(frames):
            acoustic = from_lm(frames)[1:].T
        else:
            acoustic = rng.integers(0, levels, (1, self.model.config.codec.acoustic_dim))
        noise = rng.standard_normal(acoustic.shape, dtype=np.float32)
        time = rng.uniform(size=len(acoustic)).astype(np.float32)
        values = levels_to_values(acoustic, levels).astype(np.float32)
        del sequence["true"]
        return {
            "id": item.id,
            "length": len(sequence["ids"]),
            **sequence,
            "states": self.teacher.read(index),
            "points": (1 - time[:, None]) * noise + time[:, None] * values,
            "time": time,
            "is_kept": item.kept,
        }

    def collate(self, items: list[Mapping[str, Any]]) -> dict[str, Any]:
        """Right-pads the sequences; positions and frames are laid end to end, with flat indices into the batch."""
        width = max(len(item["ids"]) for item in items)
        ids = np.zeros((len(items), width), dtype=np.int32)
        index: dict[str, list[np.ndarray]] = {name: [] for name in _PLACES}
        joined: dict[str, list[np.ndarray]] = {name: [] for name in _JOINED}
        before = 0
        for row, item in enumerate(items):
            n, first, after = len(item["ids"]), item["first"], item["after"]
            ids[row, :n] = item["ids"]
            index["places"].append(row * width + np.flatnonzero(item["ids"] == self.model.config.audio_token_id))
            index["compared"].append(row * width + np.arange(after, n))
            predicting = np.arange(first, n)  # the first frame, those after it, END
            flowing = predicting[: len(item["time"])]
            index["predict"].append(row * width + predicting)
            index["within"].append(before + predicting - after)
            index["flow"].append(row * width + flowing)
            index["flow_within"].append(before + flowing - after)
            joined["codes"].append(item["codes"])
            joined["states"].append(item["states"])
            joined["points"].append(item["points"])
            joined["time"].append(item["time"])
            joined["kept"].append(np.full(len(predicting), item["is_kept"]))
            joined["kept_flow"].append(np.full(len(flowing), item["is_kept"]))
            before += n - after
        return {
            "ids": ids,
            **{name: np.concatenate(values) for name, values in joined.items()},
            **{name: np.concatenate(values).astype(np.int32) for name, values in index.items()},
        }

    def targets(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """Positions that are compared, predictions, frames; those of preservation count for its terms alone."""
        kept, kept_flow = float(batch["kept"].sum()), float(batch["kept_flow"].sum())
        counts = {
            "hidden": float(len(batch["compared"])),
            "semantic": len(batch["kept"]) - kept,
            "flow": len(batch["kept_flow"]) - kept_flow,
            "kept_semantic": kept,
            "kept_flow": kept_flow,
        }
        return {name: counts[name] for name in self.weights}

    def heldout_batches(self) -> Iterable[dict[str, Any]]:
        """The same noise every time."""
        first = len(self._train)
        for start in range(0, len(self._heldout), self._batch_size):
            chosen = range(start, min(start + self._batch_size, len(self._heldout)))
            rngs = {k: np.random.default_rng([self.seed, 2**31, k]) for k in chosen}
            yield self.collate([self._item(first + k, rngs[k]) for k in chosen])

    # --- losses ---------------------------------------------------------------------------------------------------

    def losses(self, batch: Mapping[str, Any]) -> dict[str, mx.array]:
        """`hidden`: squared distance as a share of the teacher's squared length, mean over the layers. The others as in
        `preservation_terms`."""
        head, size = self.model.acoustic_transformer, batch["ids"].size
        states = self._states(batch["ids"], batch["codes"], batch["places"])
        states = states.reshape(size, *states.shape[2:])
        theirs = batch["states"]
        ours = states[batch["compared"]].astype(mx.float32)
        distance = mx.square(ours - theirs).sum(axis=-1) / (mx.square(theirs).sum(axis=-1) + 1e-6)
        sums = {"hidden": distance.mean(axis=-1).sum()}
        final, taught = states[:, -1], theirs[:, -1].astype(states.dtype)
        logits = [head.masked_semantic_logits(x) for x in (taught[batch["within"]], final[batch["predict"]])]
        nats = divergence(*logits)
        points = batch["points"]
        before = head.velocity(points, batch["time"], taught[batch["flow_within"]])
        now = head.velocity(points, batch["time"], final[batch["flow"]])
        away = mx.square(now.astype(mx.float32) - mx.stop_gradient(before).astype(mx.float32)).mean(axis=-1)
        for name, values, kept in (("semantic", nats, batch["kept"]), ("flow", away, batch["kept_flow"])):
            sums[name] = mx.where(kept, 0.0, values).sum()
            sums[f"kept_{name}"] = mx.where(kept, values, 0.0).sum()
        return {name: sums[name] for name in self.weights}

    # --- looking at it --------------------------------------------------------------------------------------------

    def extra_metrics(self) -> dict[str, float]:
        """`agreement`: share of held-out predictions behind the encoder's codes where teacher and student would say the
        same semantic code."""
        same = total = 0
        head = self.model.acoustic_transformer
        for batch in self.heldout_batches():
            arrays = {k: mx.array(v) for k, v in batch.items()}
            states = self._states(arrays["ids"], arrays["codes"], arrays["places"])
            final = states.reshape(batch["ids"].size, *states.shape[2:])[:, -1]
            theirs = arrays["states"][:, -1].astype(final.dtype)
            ours, taught = (
                mx.argmax(head.masked_semantic_logits(x), axis=-1)
                for x in (final[arrays["predict"]], theirs[arrays["within"]])
            )
            asked = ~arrays["kept"]
            same += int(((ours == taught) & asked).sum())
            total += int(asked.sum())
        return {"agreement": same / total} if total else {}

    def write_samples(self, directory: Path, step: int) -> None:
        """The first held-out text behind the encoder's codes and behind the true ones, with the adapters."""
        from mlx_voxclone.audio.io import write_wav
        from mlx_voxclone.speech.speaker import speak

        item = self._heldout[0]
        part = slice(item.first, item.first + item.frames)
        for name, codes in (("encoder", item.voice.ours), ("true", item.voice.true)):
            rows = self.model.voice_embedding(codes[:, part])
            ids = self._adapted.prompt(item.text, rows.shape[0])
            limit = 25 + (2 * item.codes.shape[1] if item.codes is not None else 3 * len(item.text))
            result = speak(self.model, ids, rows, max_frames=limit, seed=self.seed)
            write_wav(directory / f"{name}.wav", result.samples)

    def export(self, directory: Path, parameters: dict[str, mx.array]) -> None:
        self._adapted.save(directory, parameters)

    def fingerprint(self) -> str:
        adapter = sorted((k, v.shape) for k, v in lora_parameters(self.model).items())
        weights = {f"distill.{name}": 1.0 for name in TERMS}
        return fingerprint_of(
            task=self.name,
            seed=self.seed,
            teacher=self.teacher.identity,
            adapter=adapter,
            **weights,
            **self._adapted.identity,
        )
