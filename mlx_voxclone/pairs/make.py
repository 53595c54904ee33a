"""Exact pairs of codes and audio: what the stock model says, which its own language model and decoder define.

`data/pair_files.py` says what is written; one shard for 64 sentences, kept or not. A shard appears when all of its
audio is there, so it is what a resumed run counts. Every sentence has a seed of its own, drawn from the run's seed, the
voice and its number: neither the size of the batch nor an interruption decides what is said.
"""

import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.augment import augment
from mlx_voxclone.checkpoint.writer import write_text_atomic
from mlx_voxclone.data.pair_files import (
    FORMAT,
    SETTINGS,
    SHARD_SENTENCES,
    ShardWriter,
    SpokenPair,
    codec_digest,
    digest_of,
    read_shard,
    shard_path,
    write_manifest,
)
from mlx_voxclone.data.prompts import LANGUAGES, load_prompts
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.synthesis import Speaker

_CONSEQUENCES = ("voice rows", "texts")  # settings that change with others, then not named beside them
_AUGMENTATION = 1  # beside a sentence's seed: randomness of its own
RUNAWAY, EMPTY = "runaway", "empty"  # why a sentence gives no pair: no END within the limit, END at once
_DEFAULT_LANGUAGE = "en"  # of a voice whose name does not begin with a language's code


@dataclass(frozen=True)
class Sentence:
    """One thing to be said."""

    number: int
    text: str
    language: str | None
    voice: str
    seed: int


@dataclass
class PairsReport:
    """Counts of a run, its earlier sittings included."""

    directory: Path
    sentences: int
    kept: int = 0
    frames: int = 0
    rejected: Counter = field(default_factory=Counter)  # reason -> sentences
    seconds: float = 0.0  # of audio kept


def sentences(
    voices: Sequence[str],
    texts: Sequence[tuple[str | None, str]] | None,
    per_voice: int,
    seed: int,
    languages: Mapping[str, str | None] | None = None,
) -> list[Sentence]:
    """What is said, in order: all voices their first sentence, then their second, and so on.

    Args:
        voices: names.
        texts: (language, text) for every voice; None: the shipped sentences in the voice's own language, which is that
            of its name (`fr_female`), else English.
        per_voice: sentences of each voice: the texts in an order of its own, and again with other noise beyond them.
        seed: of the order and the noise.
        languages: of voices, where their names do not say it.
    """
    orders, listed = {}, []
    for voice in voices:
        told = (languages or {}).get(voice)
        language = told if told in LANGUAGES else _language_of(voice)
        own = texts if texts is not None else load_prompts([language])
        rng = np.random.default_rng([seed, zlib.crc32(voice.encode())])
        rounds = [rng.permutation(len(own)) for _ in range(-(-per_voice // len(own)))]
        places = np.concatenate(rounds)[:per_voice]
        orders[voice] = [(*own[i], int(s)) for i, s in zip(places, rng.integers(2**63, size=per_voice))]
    for k in range(per_voice):
        for voice in voices:
            language, text, own_seed = orders[voice][k]
            listed.append(Sentence(len(listed), text, language, voice, own_seed))
    return listed


def _language_of(voice: str) -> str:
    code = voice.split("_", 1)[0]
    return code if code in LANGUAGES else _DEFAULT_LANGUAGE


def read_texts(path: str | Path) -> list[tuple[None, str]]:
    """A user's sentences, one per line; empty lines are passed over.

    Raises:
        DataError: missing, not UTF-8, or nothing in it.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; a text file with one sentence per line is expected")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; save it as such") from None
    if not any(lines):
        raise DataError(f"{path}: holds no sentence")
    return [(None, line) for line in lines if line]


def generate_pairs(
    speaker: Speaker,
    output: str | Path,
    listed: Sequence[Sentence],
    *,
    settings: dict[str, Any],
    max_seconds: float,
    batch: int,
    augmented: bool = False,
    rows: Mapping[str, mx.array] | None = None,
    progress: Callable[[int], None] | None = None,
) -> PairsReport:
    """Let the model say all sentences; go on after the last complete shard where the directory holds some.

    Args:
        speaker: the stock checkpoint.
        output: directory to make or to go on with.
        settings: what the user chose, for `settings.json`; the model and the sentences are added here.
        max_seconds: a sentence that the model has not ended by then is rejected.
        batch: sentences said at once.
        augmented: write every pair's audio a second time, as `audio.augment` changes it.
        rows: `[N, dim]` of the voices that the checkpoint has not (`voices.py`).
        progress: hears of the number of sentences done, those of earlier sittings first.

    Raises:
        DataError: a text too long for the model's context; other settings than the directory's.
        CheckpointError: no such voice; a damaged shard; a directory that holds something else or cannot be written.
    """
    output, progress = Path(output), progress or (lambda n: None)
    config = speaker.model.config
    max_frames = max(1, round(max_seconds * config.codec.frame_rate))
    given, voices = rows or {}, dict.fromkeys(s.voice for s in listed)
    rows = {voice: given[voice] if voice in given else speaker.voice_rows(voice) for voice in voices}
    _check_context(speaker, listed, {v: r.shape[0] for v, r in rows.items()}, max_frames)
    _settle(output, {**settings, "max_seconds": max_seconds, "augment": augmented, **_identity(speaker, listed, rows)})
    report, lines = PairsReport(output, len(listed)), []
    for start in range(0, len(listed), SHARD_SENTENCES):
        shard = listed[start : start + SHARD_SENTENCES]
        path = shard_path(output, start // SHARD_SENTENCES)
        if there := path.exists():
            progress(len(shard))
        else:
            _say_shard(path, speaker, shard, rows, max_frames, batch, augmented, progress)
        kept, rejected = _read_shard(path)
        lines += kept
        report.rejected.update(rejected)
        if not there or start + SHARD_SENTENCES >= len(listed):
            write_manifest(output, lines)
    report.kept, report.frames = len(lines), sum(line["frames"] for line in lines)
    report.seconds = report.frames / config.codec.frame_rate
    return report


def _say_shard(
    path: Path,
    speaker: Speaker,
    shard: Sequence[Sentence],
    rows: dict[str, mx.array],
    max_frames: int,
    batch: int,
    augmented: bool,
    progress: Callable[[int], None],
) -> None:
    """Say a shard's sentences and write them."""
    writer = ShardWriter(path)
    for start in range(0, len(shard), batch):
        part = shard[start : start + batch]
        prompts = []
        for sentence in part:
            ids = speaker.tokenizer.prompt(sentence.text, rows[sentence.voice].shape[0])
            prompts.append(speaker.model.embed_prompt(ids, rows[sentence.voice])[0])
        said = speaker.model.generate_batch(prompts, max_frames=max_frames, seeds=[s.seed for s in part])
        for sentence, result in zip(part, said):
            if not result.ended or not result.codes.size:
                writer.reject(EMPTY if result.ended else RUNAWAY)
                continue
            samples = speaker.model.audio_tokenizer.decode_audio(result.codes)
            recorded = augment(samples, [sentence.seed, _AUGMENTATION]) if augmented else None
            content = {key: value for key, value in asdict(sentence).items() if key != "number"}
            writer.add(SpokenPair(f"{sentence.number:06d}", result.codes, samples, augmented=recorded, **content))
        progress(len(part))
    writer.finish()


def _read_shard(path: Path) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The lines of a shard's pairs, all of whose audio is there, and its rejected sentences by reason."""
    _, kept, rejected = read_shard(path)
    audio = [line[key] for line in kept for key in ("audio", "augmented") if key in line]
    missing = [name for name in audio if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{path}: {missing[0]} is missing; delete the shard and run again, which makes it anew")
    return kept, rejected


def _check_context(speaker: Speaker, listed: Sequence[Sentence], rows: dict[str, int], max_frames: int) -> None:
    limit = speaker.model.config.backbone.max_seq_len
    longest = max(rows.values())
    for text in dict.fromkeys(s.text for s in listed):
        tokens = len(speaker.tokenizer.prompt(text, longest))
        if tokens + max_frames > limit:
            raise DataError(
                f"the text {text[:40]!r} is too long: {tokens} tokens and up to {max_frames} frames exceed the context"
                f" of {limit}"
            )


def _identity(speaker: Speaker, listed: Sequence[Sentence], rows: dict[str, mx.array]) -> dict[str, str]:
    """What the pairs depend on beside the user's choices."""
    return {
        "format": FORMAT,
        "model": speaker.release.fingerprint(),
        "codec": codec_digest(speaker.release.tensors),
        "voice rows": digest_of(np.array(r.astype(mx.float32)) for r in rows.values()),
        "precision": str(speaker.model.norm.weight.dtype).removeprefix("mlx.core."),
        "texts": digest_of(repr((s.text, s.language, s.voice)).encode() for s in listed),
    }


def _settle(output: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a new directory, or compare them with those of one that is to be gone on with."""
    path = output / SETTINGS
    if not path.exists():
        if output.is_dir() and any(output.iterdir()):
            raise CheckpointError(f"{output}: exists and holds no pairs; choose another output or move it away")
        write_text_atomic(path, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
        return
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise CheckpointError(f"{path}: not readable; choose another output or move {output} away") from None
    changed = [key for key, value in settings.items() if before.get(key) != value]
    if changed:
        causes = [key for key in changed if key not in _CONSEQUENCES] or changed
        raise DataError(
            f"{output}: holds pairs made otherwise: {', '.join(causes)} changed; choose another output or delete it"
        )
