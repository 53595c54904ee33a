"""The last steps of task `clone`: bake, check that the result is the adapter model, speak before and after."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.adapters.files import TENSORS
from mlx_voxclone.adapters.lora import apply_adapters, remove_adapters
from mlx_voxclone.adapters.mix import AdapterSource, mix_adapters
from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.bake.bake import bake
from mlx_voxclone.bake.record import HISTORY, read_object
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, file_sha256, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.plain import parse_json
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.speech.speaker import SpeechResult, speak
from mlx_voxclone.train.clone.deliver import ADAPTED, deliver
from mlx_voxclone.train.clone.fold_check import fold_figures, hidden_states, voice_rows
from mlx_voxclone.train.clone.originals import SENTENCE, VOICE, write_originals
from mlx_voxclone.train.judge.recovered import Recovered
from mlx_voxclone.train.saved.result import TrainResult
from mlx_voxclone.train.saved.state import BEST
from mlx_voxclone.train.speaker.preservation import without_adapters
from mlx_voxclone.train.stages.running import Run

VOICE_FILE, DELIVERED = "delivered.safetensors", "delivered"  # in codes/, and the key of its metadata
SECONDS_PER_CHARACTER, MIN_LIMIT, MAX_LIMIT = 0.2, 4.0, 60.0  # a runaway is cut off well beyond any slow reader


class _Models:
    """The two models of the last steps, each read once: the released one with the run's adapters kept apart, from which
    the candidates are measured, the voice's rows are taken and "before" is spoken; and the baked one.

    One of them is in memory at a time.
    """

    def __init__(self, run: Run, encoder: Path | None, adapters: Path):
        self._run, self._encoder, self._adapters = run, encoder, adapters
        self.tokenizer = SpeechTokenizer.of(run.release)

    @cached_property
    def adapted(self) -> Voxtral:
        """The released model with the run's encoder and adapters; read on first use."""
        source, release = [AdapterSource(self._adapters)], self._run.release
        model = self._loaded(release, self._encoder)
        apply_adapters(model, mix_adapters(source, release.fingerprint(), release.path).changes)
        return model

    def released(self) -> Voxtral:
        """The same without the adapters, which are removed for good."""
        remove_adapters(self.adapted)
        return self.adapted

    def baked(self, release: Release) -> Voxtral:
        """The baked model instead of it."""
        self.__dict__.pop("adapted", None)
        mx.clear_cache()
        return self._loaded(release, None)

    def _loaded(self, release: Release, encoder: Path | None) -> Voxtral:
        model = load_model(release, dtype=self._run.compute.dtype, encoder_file=encoder)
        model.speaks_only = True
        return model


def finish(config: RunConfig, data: PreparedData, recovered: Recovered, summary: Any, run: Run) -> None:
    """Choose what is delivered, bake `config.baked_dir` (unless an earlier sitting did), measure it, write `samples/`;
    fills in `summary`. The released model and the baked one are read once each.

    Raises:
        CheckpointError: the directory holds something else than this run would bake.
    """
    best, say = run.directory / "speaker" / BEST, run.say
    models = _Models(run, recovered.encoder, best)
    delivery = delivered(config, data, recovered, best, models, summary.results["speaker"], run)
    adapters, voice, encoder = best if delivery["name"] == ADAPTED else None, delivery["codes"], recovered.encoder
    rows = voice_rows(models.adapted, voice)
    is_baked = config.baked_dir.exists() and any(config.baked_dir.iterdir())
    if is_baked:
        _check_baked(config, rows, encoder, adapters)
    heldout = next((c for c in data.heldout if c.text), None) or next(c for c in data.train if c.text)
    clip = heldout.text, voice, recovered.judged.codes.get(heldout.id, recovered.codes[heldout.id])
    states = None if adapters is None else _states_before(models, *clip)
    say("say: before and after")
    write_originals(data, delivery.get("clips", ()), config.bake.reference, heldout, run)
    spoken, seed_and_run = sentences(config, heldout.text), (config.seed, run.directory)
    released = models.released()
    speak_sentences(released, models.tokenizer, released.voice_embedding(voice), "before", spoken, *seed_and_run)
    del released
    if not is_baked:
        say(f"bake: writing {config.baked_dir}")
        bake(
            run.release,
            config.baked_dir,
            encoder=encoder,
            adapters=adapters,
            voices={config.voice: rows},
            target=config.bake.target,
        )
    baked = Release(config.baked_dir)
    model = models.baked(baked)
    summary.delivered = {key: delivery[key] for key in ("name", "why", "measured")}
    summary.baked = {"path": str(config.baked_dir), "voice": config.voice, "reference": delivery["voice"]}
    if states is None:
        say(f"the adapters are kept: say --adapters {best} speaks with them")
    else:
        fold = fold_figures(*states, hidden_states(model, SpeechTokenizer.of(baked), *clip))
        if fold["fold_error"] > fold["adapter_effect"] / 2:
            say(
                "warning: the adapters changed so little that folding them into BF16 loses most of it (the adapter's"
                f" effect is {fold['adapter_effect']:.2%} of the hidden states' RMS, the folding error"
                f" {fold['fold_error']:.2%}); train longer, or speak with say --adapters {adapters}"
            )
        summary.baked |= fold
    speak_sentences(model, SpeechTokenizer.of(baked), baked.voice(config.voice), "after", spoken, *seed_and_run)
    summary.speech = spoken


def _states_before(models: _Models, text: str, voice: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states of a clip without the adapters and with them."""
    model = models.adapted
    with without_adapters(model):
        base = hidden_states(model, models.tokenizer, text, voice, codes)
    return base, hidden_states(model, models.tokenizer, text, voice, codes)


def delivered(
    config: RunConfig,
    data: PreparedData,
    recovered: Recovered,
    adapters: Path,
    models: _Models,
    result: TrainResult,
    run: Run,
) -> dict[str, Any]:
    """What `deliver` chooses: `name`, `why`, `measured`, `voice` (its recordings), `clips` (ids of these) and `codes`
    `[37, N]` of it.

    Kept in `codes/delivered.safetensors`; a resumed run finds it there, as long as encoder and adapters are the same.
    """
    path = run.directory / "codes" / VOICE_FILE
    made_from = {
        "adapters": file_sha256(adapters / TENSORS),
        "encoder": "" if recovered.encoder is None else file_sha256(recovered.encoder),
        "reference": f"{config.bake.reference} {config.bake.deliver}",
        "data": data.fingerprint(),
    }
    if path.is_file():
        file = TensorFile(path)
        if file.says(made_from):
            try:
                return {**parse_json(file.metadata[DELIVERED]), "codes": file.codes("codes")}
            except (KeyError, TypeError, ValueError):
                raise CheckpointError(
                    f"{path}: its description of the voice is damaged; delete it, run again"
                ) from None
    chosen = deliver(config, data, recovered, models.adapted, models.tokenizer, result, run)
    document = {
        "name": chosen.chosen.name,
        "why": chosen.why,
        "voice": chosen.chosen.voice.name,
        "clips": chosen.chosen.voice.clips,
        "measured": [one.figures() for one in chosen.measured],
    }
    codes = chosen.chosen.voice.codes.astype(np.int32)
    save_tensors(path, {"codes": codes}, {**made_from, DELIVERED: json.dumps(document)}, overwrite=True)
    return {**document, "codes": codes}


def is_delivered(run_dir: Path) -> bool:
    """Whether a run has chosen what it bakes."""
    return (run_dir / "codes" / VOICE_FILE).is_file()


def _check_baked(config: RunConfig, rows: mx.array, encoder: Path | None, adapters: Path | None) -> None:
    """Refuse a directory baked from other adapters, encoder or voice than this run's (it has been trained further)."""
    history = read_object(config.baked_dir / HISTORY) if (config.baked_dir / HISTORY).is_file() else {}
    last = (history.get("bakes") or [{}])[-1]
    with_encoder = encoder is not None and config.bake.target != "mlx-audio"
    folded = [] if adapters is None else [file_sha256(adapters / TENSORS)]
    changed = {
        "bake.target": last.get("target") != config.bake.target,
        "the adapters": [a["sha256"] for a in last.get("adapters", [])] != folded,
        "the encoder": with_encoder and (last.get("encoder") or {}).get("sha256") != file_sha256(encoder),
    }
    if not any(changed.values()):
        stored = Release(config.baked_dir).voice(config.voice)
        changed["the voice"] = not mx.array_equal(stored, rows.astype(stored.dtype)).item()
    if differing := [name for name, differs in changed.items() if differs]:
        raise CheckpointError(
            f"{config.baked_dir}: exists already and was not baked from this run as it is now ({', '.join(differing)}"
            " differ); set bake.output to another directory, or move it away"
        )


def sentences(config: RunConfig, heldout: str) -> list[dict[str, Any]]:
    """What is spoken before and after. The text of a held-out recording is among the sentences, so that its speech can
    be compared with the owner's."""
    return [
        {"text": text, "original": {"file": SENTENCE if text == heldout else VOICE, "same_text": text == heldout}}
        for text in dict.fromkeys([*config.say, heldout])
    ]


def speak_sentences(
    model: Voxtral,
    tokenizer: SpeechTokenizer,
    rows: mx.array,
    when: str,
    spoken: list[dict[str, Any]],
    seed: int,
    directory: Path,
) -> None:
    """Speak each sentence into `samples/` of a directory, and add to its entry how that went.

    "before" is the released model given the new encoder's rows: zero-shot cloning. "after" is what was baked, with the
    same voice and seed.
    """
    (directory / "samples").mkdir(exist_ok=True)
    for i, entry in enumerate(spoken):
        result = _speak(model, tokenizer, rows, entry["text"], seed)
        name = f"samples/{when}-{i + 1}.wav" if result.frames else None  # END at once: nothing to hear
        if name:
            write_wav(directory / name, result.samples)
        entry[when] = {"file": name, "frames": result.frames, "ended": result.ended}
    mx.clear_cache()


def _speak(model: Voxtral, tokenizer: SpeechTokenizer, rows: mx.array, text: str, seed: int) -> SpeechResult:
    seconds = min(MAX_LIMIT, max(MIN_LIMIT, SECONDS_PER_CHARACTER * len(text)))
    frames = round(seconds * model.config.codec.frame_rate)
    return speak(model, tokenizer.prompt(text, rows.shape[0], frames), rows, max_frames=frames, seed=seed)
