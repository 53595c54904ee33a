"""The last steps of task `clone`: bake, check that the result is the adapter model, speak before and after."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.adapters.files import TENSORS
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
from mlx_voxclone.train.clone.fold_check import fold_check
from mlx_voxclone.train.clone.originals import SENTENCE, VOICE, write_originals
from mlx_voxclone.train.judge.recovered import Recovered
from mlx_voxclone.train.loop.compute import Compute
from mlx_voxclone.train.saved.result import TrainResult
from mlx_voxclone.train.saved.state import BEST

VOICE_FILE, DELIVERED = "delivered.safetensors", "delivered"  # in codes/, and the key of its metadata
ROWS_FILE = "voice-rows.safetensors"  # in codes/: what becomes the voice, as `bake` takes it
SECONDS_PER_CHARACTER, MIN_LIMIT, MAX_LIMIT = 0.2, 4.0, 60.0  # a runaway is cut off well beyond any slow reader


def finish(
    config: RunConfig,
    data: PreparedData,
    found: Recovered,
    run_dir: Path,
    summary: Any,
    quiet: bool,
    say: Callable[[str], None],
) -> None:
    """Choose what is delivered, bake `config.baked_dir` (unless an earlier sitting did), measure it, write `samples/`;
    fills in `summary`.

    Raises:
        CheckpointError: the directory holds something else than this run would bake.
    """
    release, best = Release(config.model), run_dir / "speaker" / BEST
    delivery = delivered(config, data, found, best, summary.results["speaker"], run_dir, quiet, say)
    adapters, voice, encoder = best if delivery["name"] == ADAPTED else None, delivery["codes"], found.encoder
    rows = load_model(release, parts=["lm"]).voice_embedding(voice)
    if config.baked_dir.exists() and any(config.baked_dir.iterdir()):
        _check_baked(config, rows, encoder, adapters)
    else:
        say(f"bake: writing {config.baked_dir}")
        embedding = run_dir / "codes" / ROWS_FILE
        save_tensors(embedding, {"embedding": rows}, overwrite=True)
        bake(
            release,
            config.baked_dir,
            encoder=encoder,
            adapters=adapters,
            voices={config.voice: embedding},
            target=config.bake.target,
        )
    summary.delivered = {key: delivery[key] for key in ("name", "why", "measured")}
    summary.baked = {"path": str(config.baked_dir), "voice": config.voice, "reference": delivery["voice"]}
    heldout = next((c for c in data.heldout if c.text), None) or next(c for c in data.train if c.text)
    if adapters is None:
        say(f"the adapters are kept: say --adapters {best} speaks with them")
    else:
        codes = found.judged.codes.get(heldout.id, found.codes[heldout.id])
        fold = fold_check(release, Release(config.baked_dir), adapters, heldout.text, voice, codes)
        if fold["fold_error"] > fold["adapter_effect"] / 2:
            say(
                "warning: the adapters changed so little that folding them into BF16 loses most of it (the adapter's"
                f" effect is {fold['adapter_effect']:.2%} of the hidden states' RMS, the folding error"
                f" {fold['fold_error']:.2%}); train longer, or speak with say --adapters {adapters}"
            )
        summary.baked |= fold
    say("say: before and after")
    write_originals(data, delivery.get("clips", ()), config.bake.reference, heldout, run_dir, say)
    summary.speech = before_and_after(config, release, voice, run_dir, heldout.text)


def delivered(
    config: RunConfig,
    data: PreparedData,
    found: Recovered,
    adapters: Path,
    result: TrainResult,
    run_dir: Path,
    quiet: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """What `deliver` chooses: `name`, `why`, `measured`, `voice` (its recordings), `clips` (ids of these) and `codes`
    `[37, N]` of it.

    Kept in `codes/delivered.safetensors`; a resumed run finds it there, as long as encoder and adapters are the same.
    """
    path = run_dir / "codes" / VOICE_FILE
    made_from = {
        "adapters": file_sha256(adapters / TENSORS),
        "encoder": "" if found.encoder is None else file_sha256(found.encoder),
        "reference": f"{config.bake.reference} {config.bake.deliver}",
        "data": data.fingerprint(),
    }
    if path.is_file():
        file = TensorFile(path)
        if all(file.metadata.get(key) == value for key, value in made_from.items()):
            try:
                return {**parse_json(file.metadata[DELIVERED]), "codes": file.codes("codes")}
            except (KeyError, TypeError, ValueError):
                raise CheckpointError(
                    f"{path}: its description of the voice is damaged; delete it, run again"
                ) from None
    chosen = deliver(config, data, found, adapters, result, quiet, say)
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
    """Whether a run has come as far as choosing what it bakes."""
    return (run_dir / "codes" / VOICE_FILE).is_file()


def _check_baked(config: RunConfig, rows: mx.array, encoder: Path | None, adapters: Path | None) -> None:
    """Refuse a directory that was baked from other adapters, encoder or voice than this run's (it went on since)."""
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


def before_and_after(
    config: RunConfig, release: Release, reference_codes: np.ndarray, run_dir: Path, heldout: str
) -> list[dict[str, Any]]:
    """Speak each sentence with the base model and with the baked one, on the same voice rows and seed.

    "Before" is the released model given the new encoder's rows: zero-shot cloning. "After" is what was baked. The text
    of a held-out recording is among the sentences, as the one that the voice's owner can be heard to say.
    """
    dtype = Compute.of(config).dtype
    (run_dir / "samples").mkdir(exist_ok=True)
    spoken: list[dict[str, Any]] = [
        {"text": text, "original": {"file": SENTENCE if text == heldout else VOICE, "same_text": text == heldout}}
        for text in dict.fromkeys([*config.say, heldout])
    ]
    for when, source in (("before", release), ("after", Release(config.baked_dir))):
        model = load_model(source, dtype=dtype)
        model.speaks_only = True
        tokenizer = SpeechTokenizer.of(source)
        rows = source.voice(config.voice) if when == "after" else model.voice_embedding(reference_codes)
        for i, entry in enumerate(spoken):
            result = _speak(model, tokenizer, rows, entry["text"], config.seed)
            name = f"samples/{when}-{i + 1}.wav" if result.frames else None  # END at once: nothing to hear
            if name:
                write_wav(run_dir / name, result.samples)
            entry[when] = {"file": name, "frames": result.frames, "ended": result.ended}
        del model
        mx.clear_cache()
    return spoken


def _speak(model: Voxtral, tokenizer: SpeechTokenizer, rows: mx.array, text: str, seed: int) -> SpeechResult:
    seconds = min(MAX_LIMIT, max(MIN_LIMIT, SECONDS_PER_CHARACTER * len(text)))
    frames = round(seconds * model.config.codec.frame_rate)
    return speak(model, tokenizer.prompt(text, rows.shape[0], frames), rows, max_frames=frames, seed=seed)
