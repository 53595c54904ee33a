"""Exact pairs of codes and audio: what the stock model says, which its own language model and decoder define.

`pairs/files.py` says what is written; one shard for 64 sentences, kept or not. A shard appears when all of its
audio is there, so it is what a resumed run counts. Every sentence has a seed of its own, drawn from the run's seed, the
voice and its number: neither the size of the batch nor an interruption decides what is said.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.augment import augment
from mlx_voxclone.checkpoint.digests import decoder_digest
from mlx_voxclone.data.entries import read_lines
from mlx_voxclone.data.options import LETTERS_PER_SECOND
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.locks import held
from mlx_voxclone.files.texts import tidy
from mlx_voxclone.model import generation
from mlx_voxclone.pairs.files import FORMAT, SHARD_SENTENCES, ShardWriter, SpokenPair, digest_of, fill_shards, settle
from mlx_voxclone.pairs.prompts import LANGUAGES, load_prompts
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.text.forms import as_said

if TYPE_CHECKING:
    from mlx_voxclone.checkpoint.release import Release
    from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
    from mlx_voxclone.model.config import VoxtralConfig

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
    voices: int = 0  # that have pairs
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
    lines = [(None, as_said(line, what=f"{path}:{number}")) for number, line in read_lines(path) if tidy(line)]
    if not lines:
        raise DataError(f"{path}: holds no sentence")
    return lines


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
    remedy: str | None = None,
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
        remedy: what to advise where none of the first shard's sentences becomes a pair, which is then an error; None:
            go on.
        progress: hears of the number of sentences done, those of earlier sittings first.

    Raises:
        DataError: a text too long for the model's context; other settings than the directory's; no pairs in the
            first shard (with `remedy`).
        CheckpointError: no such voice; a damaged shard; a directory that holds something else, cannot be written, or
            is in use by another process.
    """
    output, progress = Path(output), progress or (lambda n: None)
    config = speaker.model.config
    max_frames = _most_frames(config, max_seconds)
    given, voices = rows or {}, dict.fromkeys(s.voice for s in listed)
    rows = {voice: given[voice] if voice in given else speaker.voice_rows(voice) for voice in voices}
    check_context(speaker.tokenizer, config, listed, rows, max_seconds)
    made_from = identity(speaker.release, precision_of(speaker.model.norm.weight.dtype), listed, rows)
    report, speaking = PairsReport(output, len(listed)), set()
    shards = [listed[k : k + SHARD_SENTENCES] for k in range(0, len(listed), SHARD_SENTENCES)]

    def say_shard(number: int, writer: ShardWriter) -> None:
        _say_sentences(writer, speaker, shards[number], rows, max_frames, batch, augmented, progress)

    with held(output):
        settle(output, {**settings, "max_seconds": max_seconds, "augment": augmented, **made_from})
        for kept, rejected in fill_shards(output, [len(shard) for shard in shards], say_shard, progress):
            report.kept += len(kept)
            speaking.update(line["voice"] for line in kept)
            report.frames += sum(line["frames"] for line in kept)
            report.rejected.update(rejected)
            if remedy and not report.kept:
                raise _nothing_said(speaker, report, max_seconds, remedy)
    report.voices, report.seconds = len(speaking), report.frames / config.codec.frame_rate
    return report


def _say_sentences(
    writer: ShardWriter,
    speaker: Speaker,
    shard: Sequence[Sentence],
    rows: dict[str, mx.array],
    max_frames: int,
    batch: int,
    augmented: bool,
    progress: Callable[[int], None],
) -> None:
    """Say a shard's sentences and add what became of them."""
    for start in range(0, len(shard), batch):
        part = shard[start : start + batch]
        prompts = []
        for sentence in part:
            ids = speaker.tokenizer.prompt(sentence.text, rows[sentence.voice].shape[0])
            prompts.append(speaker.model.embed_prompt(ids, rows[sentence.voice])[0])
        said = generation.generate_batch(speaker.model, prompts, max_frames=max_frames, seeds=[s.seed for s in part])
        for sentence, result in zip(part, said):
            if not result.ended or not result.codes.size:
                writer.reject(EMPTY if result.ended else RUNAWAY)
                continue
            samples = speaker.model.audio_tokenizer.decode_audio(result.codes)
            recorded = augment(samples, [sentence.seed, _AUGMENTATION]) if augmented else None
            content = {key: value for key, value in asdict(sentence).items() if key != "number"}
            writer.add(SpokenPair(f"{sentence.number:06d}", result.codes, samples, augmented=recorded, **content))
        progress(len(part))


def _nothing_said(speaker: Speaker, report: PairsReport, max_seconds: float, remedy: str) -> DataError:
    count = sum(report.rejected.values())
    return DataError(
        f"{speaker.release.path}: none of the first {count} sentences gave a pair ({report.rejected[RUNAWAY]} did not"
        f" end within {max_seconds:g} s, {report.rejected[EMPTY]} were empty): this language model does not speak;"
        f" {remedy}"
    )


def check_context(
    tokenizer: "SpeechTokenizer",
    config: "VoxtralConfig",
    listed: Sequence[Sentence],
    rows: Mapping[str, mx.array],
    max_seconds: float,
) -> None:
    """Raise DataError if a text is too long for the model's context, answer included."""
    longest, frames = max(r.shape[0] for r in rows.values()), _most_frames(config, max_seconds)
    for text in dict.fromkeys(s.text for s in listed):
        try:
            tokenizer.prompt(text, longest, frames)
        except DataError as e:
            raise DataError(f"sentence {text[:40]!r}: {e}") from None


def _most_frames(config: "VoxtralConfig", max_seconds: float) -> int:
    return max(1, round(max_seconds * config.codec.frame_rate))


def expected_seconds(listed: Sequence[Sentence], max_seconds: float) -> float:
    """Of the audio that sentences will give, by their length."""
    return sum(min(max_seconds, len(s.text) / LETTERS_PER_SECOND) for s in listed)


def identity(release: "Release", precision: str, listed: Sequence[Sentence], rows: Mapping[str, mx.array]) -> dict:
    """What pairs depend on beside the user's choices.

    Args:
        release: the model.
        precision: of its language model, `float32` or `bfloat16`.
        listed: all sentences, in order.
        rows: `[N, dim]` of their voices, by name.
    """
    return {
        "format": FORMAT,
        "model": release.fingerprint(),
        "codec": decoder_digest(release.tensors),
        "voice rows": digest_of(np.array(r.astype(mx.float32)) for r in rows.values()),
        "precision": precision,
        "texts": digest_of(repr((s.text, s.language, s.voice)).encode() for s in listed),
    }


def precision_of(dtype: mx.Dtype) -> str:
    """A type's name, such as `float32`."""
    return str(dtype).removeprefix("mlx.core.")
