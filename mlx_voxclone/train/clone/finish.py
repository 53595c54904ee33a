"""The last steps of task `clone`: bake, check that the result is the adapter model, speak before and after."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.checkpoint.adapters import TENSORS
from mlx_voxclone.checkpoint.bake import bake
from mlx_voxclone.checkpoint.bake_files import HISTORY, read_json
from mlx_voxclone.checkpoint.release import Release, file_sha256, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.data.clips import Clip, PreparedData
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.run_config import RunConfig
from mlx_voxclone.synthesis import SpeechResult, read_reference, speak
from mlx_voxclone.train.clone.fold_check import fold_check
from mlx_voxclone.train.clone.recover import Recovered
from mlx_voxclone.train.stages import Compute
from mlx_voxclone.train.state import BEST

REFERENCE_TARGET = 12.0  # seconds; the model works best with 3 to 25 s of reference
SECONDS_PER_CHARACTER, MIN_LIMIT, MAX_LIMIT = 0.2, 4.0, 60.0  # a runaway is cut off well beyond any slow reader


def finish(
    config: RunConfig,
    data: PreparedData,
    found: Recovered,
    run_dir: Path,
    summary: Any,
    say: Callable[[str], None],
) -> None:
    """Bake `config.baked_dir` (unless an earlier sitting did), measure it, write `samples/`; fills in `summary`.

    Raises:
        CheckpointError: the directory holds something else than this run would bake.
    """
    release, adapters = Release(config.model), run_dir / "speaker" / BEST
    encoder, codes = found.encoder, found.codes
    reference, reference_codes = choose_reference(config, data, codes, release, encoder)
    rows = load_model(release, parts=["lm"]).voice_embedding(reference_codes)
    if config.baked_dir.exists() and any(config.baked_dir.iterdir()):
        _check_baked(config, rows, encoder, adapters)
    else:
        say(f"bake: writing {config.baked_dir}")
        embedding = run_dir / "codes" / f"{config.voice}.safetensors"
        save_tensors(embedding, {"embedding": rows}, overwrite=True)
        bake(
            release,
            config.baked_dir,
            encoder=encoder,
            adapters=adapters,
            voices={config.voice: embedding},
            target=config.bake.target,
        )
    heldout = next((c for c in data.heldout if c.text), None) or next(c for c in data.train if c.text)
    fold = fold_check(release, Release(config.baked_dir), adapters, heldout.text, reference_codes, codes[heldout.id])
    if fold["fold_error"] > fold["adapter_effect"] / 2:
        say(
            "warning: the adapters changed so little that folding them into BF16 loses most of it (the adapter's effect"
            f" is {fold['adapter_effect']:.2%} of the hidden states' RMS, the folding error {fold['fold_error']:.2%});"
            f" train longer, or speak with say --adapters {adapters}"
        )
    summary.baked = {"path": str(config.baked_dir), "voice": config.voice, "reference": reference, **fold}
    say("say: before and after")
    summary.speech = before_and_after(config, release, reference_codes, run_dir, heldout.text)


def _check_baked(config: RunConfig, rows: mx.array, encoder: Path | None, adapters: Path) -> None:
    """Refuse a directory that was baked from other adapters, encoder or voice than this run's (it went on since)."""
    history = read_json(config.baked_dir / HISTORY) if (config.baked_dir / HISTORY).is_file() else {}
    last = (history.get("bakes") or [{}])[-1]
    with_encoder = encoder is not None and config.bake.target != "mlx-audio"
    changed = {
        "bake.target": last.get("target") != config.bake.target,
        "the adapters": [a["sha256"] for a in last.get("adapters", [])] != [file_sha256(adapters / TENSORS)],
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


def choose_reference(
    config: RunConfig, data: PreparedData, codes: Mapping[str, np.ndarray], release: Release, encoder: Path | None
) -> tuple[str, np.ndarray]:
    """Name and codes of the clip that becomes the voice: `bake.reference`, else the training clip nearest to 12 s."""
    if config.bake.reference is not None:
        wave = read_reference(config.bake.reference)
        codec = load_model(release, parts=["codec"], encoder_file=encoder).audio_tokenizer
        return str(config.bake.reference), codec.audio_codes(wave)
    clips: list[Clip] = data.train or data.heldout
    if not clips:
        raise DataError("there is no clip to take the voice from")
    clip = min(clips, key=lambda c: (abs(c.seconds - REFERENCE_TARGET), c.id))
    return str(clip.source), codes[clip.id]


def before_and_after(
    config: RunConfig, release: Release, reference_codes: np.ndarray, run_dir: Path, fallback: str
) -> list[dict[str, Any]]:
    """Speak each sentence with the base model and with the baked one, on the same voice rows and seed.

    "Before" is the released model given the new encoder's rows: zero-shot cloning. "After" is what was baked.
    """
    sentences, dtype = config.say or [fallback], Compute.of(config).dtype
    (run_dir / "samples").mkdir(exist_ok=True)
    spoken: list[dict[str, Any]] = [{"text": text} for text in sentences]
    for when, source in (("before", release), ("after", Release(config.baked_dir))):
        model = load_model(source, dtype=dtype)
        tokenizer = SpeechTokenizer(source.tokenizer_path, model.config.backbone.vocab_size)
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
    ids = tokenizer.prompt(text, rows.shape[0])
    return speak(model, ids, rows, max_frames=round(seconds * model.config.codec.frame_rate), seed=seed)
