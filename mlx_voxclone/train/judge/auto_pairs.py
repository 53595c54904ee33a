"""Pairs that a run makes itself: `encoder.pairs.path: auto`.

The stock model says sentences with each of the voices it came with (`make`), and each pair is moved in code space
(`moved`). Both are kept beside the model's fingerprint in the cache (`files/cache.py`): the next run, for whatever
voice, finds them. They depend on the model, the sentences and the settings of `encoder.pairs`, and on no run's seed.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.bake.record import own_voices
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.errors import CheckpointError, DataError, VoxcloneError
from mlx_voxclone.files.cache import Entry, unwritable
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.pairs import make
from mlx_voxclone.pairs.data import PairData
from mlx_voxclone.pairs.files import SETTINGS, SHARDS, audio_of, read_shard
from mlx_voxclone.pairs.moved import BEYOND, DEVIATIONS, move_pairs
from mlx_voxclone.process.amounts import format_seconds
from mlx_voxclone.process.progress import Reporter
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.train.judge.judge import CodeJudge
from mlx_voxclone.train.judge.text_gain import pairs_gain
from mlx_voxclone.train.saved.rng import separate_rng
from mlx_voxclone.train.stages.compute import Compute

PAIRS, MOVED = "pairs", "moved"  # kinds of entries
SEED = 0  # of what is said and how it is moved
BYTES_PER_SECOND = 50_000  # of audio: 44 kB as 24-bit FLAC, over 24 recordings; and its codes
TEXT_GAIN = "text_gain"  # fact of complete pairs: how much their texts explain of what was said (`pairs_gain`)
NONE = "encoder.pairs.path: null trains without pairs"


@dataclass(frozen=True)
class AutomaticPairs:
    """The pairs of a configuration, made or not.

    Attributes:
        release: the model that says them.
        listed: what is said.
        moves, max_seconds, batch: of the configuration's `encoder.pairs`.
        dtype: of the language model.
        choices: what a user would be told if they were changed.
    """

    release: Release
    listed: Sequence[make.Sentence]
    moves: int
    max_seconds: float
    batch: int
    dtype: mx.Dtype
    choices: dict[str, Any]

    @classmethod
    def of(cls, config: RunConfig, release: Release) -> "AutomaticPairs":
        """What a configuration asks for.

        Raises:
            DataError: the model has no voice of its own; sentences that cannot be read.
        """
        section, voices = config.encoder.pairs, own_voices(release)
        if not voices:
            raise DataError(f"{release.path}: has no voice of its own to make pairs with; {NONE}")
        texts = make.read_texts(section.texts) if section.texts is not None else None
        listed = make.sentences(voices, texts, section.per_voice, SEED)
        choices = {"voices": voices, "per_voice": section.per_voice, "seed": SEED}
        dtype = Compute.of(config).dtype
        return cls(release, listed, section.moves, section.max_seconds, section.batch, dtype, choices)

    @cached_property
    def rows(self) -> dict[str, mx.array]:
        """`[N, dim]` of the voices, by name."""
        return {name: self.release.voice(name) for name in self.choices["voices"]}

    @cached_property
    def made_from(self) -> dict[str, Any]:
        """What the pairs depend on, as JSON holds it."""
        depends = make.identity(self.release, make.precision_of(self.dtype), self.listed, self.rows)
        return {**self.choices, "max_seconds": self.max_seconds, **depends}

    @cached_property
    def moved_from(self) -> dict[str, Any]:
        """What the moved pairs depend on, as JSON holds it."""
        return {**self.made_from, "moves": self.moves, "beyond": BEYOND, "deviations": list(DEVIATIONS)}

    @property
    def home(self) -> Path:
        """The directory of both."""
        return self.pairs.path.parent

    @cached_property
    def pairs(self) -> Entry:
        return Entry(self.release.fingerprint(), PAIRS, self.made_from)

    @cached_property
    def moved(self) -> Entry:
        return Entry(self.release.fingerprint(), MOVED, self.moved_from)

    def facts(self, entry: Entry) -> dict[str, Any] | None:
        """Of one of the two, if it is complete and what these pairs would be; else None."""
        facts = entry.facts()
        return facts if facts and "pairs" in facts and self.fits(entry) else None

    def fits(self, entry: Entry) -> bool:
        """Whether what lies at its place was made from what these pairs are made from, or can be gone on with."""
        try:
            settings = dict(read_json(entry.path / SETTINGS))
        except (OSError, ValueError, TypeError):  # killed before anything was there, or damaged
            return False
        expected = self.made_from if entry is self.pairs else {"of": self.pairs.path.name, "moves": self.moves}
        return all(settings.get(key) == value for key, value in expected.items())

    def missing(self, own_only: bool = False) -> tuple[list[make.Sentence], list[make.Sentence]]:
        """What is still to be said, and what is still to be moved: sentences, each as often as it will be copied."""
        said, copied = (self._left(entry) for entry in (self.pairs, self.moved))
        return said, [] if own_only else copied * self.moves

    def _left(self, entry: Entry) -> list[make.Sentence]:
        there = len(list(entry.path.glob(SHARDS)))
        return [] if self.facts(entry) is not None else list(self.listed[there * make.SHARD_SENTENCES :])

    def missing_bytes(self, own_only: bool = False) -> float:
        """About how much will still be written."""
        said, copied = self.missing(own_only)
        return BYTES_PER_SECOND * make.expected_seconds([*said, *copied], self.max_seconds)


def check_automatic(config: RunConfig, release: Release, own_only: bool = False) -> None:
    """Refuse early what `automatic_pairs` would refuse late.

    Raises:
        DataError: no voices, no sentences, or one that is too long for the model.
        CheckpointError: the cache cannot be written, or its disk has no room.
    """
    wanted = AutomaticPairs.of(config, release)
    tokenizer = SpeechTokenizer.of(release)
    make.check_context(tokenizer, release.config, wanted.listed, wanted.rows, wanted.max_seconds)
    if needed := wanted.missing_bytes(own_only):
        wanted.pairs.check_place(needed)


def automatic_pairs(config: RunConfig, release: Release, reporter: Reporter) -> list[Path]:
    """Directories of the pairs and of the moved ones, found in the cache or made now.

    Interrupted, it goes on after the last complete shard when it is called again.

    Args:
        config: its section `encoder.pairs`, its precision.
        release: the model.
        reporter: shows a line or two, and progress.

    Raises:
        DataError: see `check_automatic`; none of the first sentences gave a pair.
        CheckpointError: the cache cannot be written, is full, or was deleted meanwhile.
    """
    wanted = AutomaticPairs.of(config, release)
    found = wanted.facts(wanted.pairs)
    facts = found or _made_pairs(wanted, reporter)
    if wanted.moves and facts["voices"] < 2:
        reporter.say("warning: pairs: moving needs at least two voices and there is one, so none is moved")
    moving = wanted.moves > 0 and facts["voices"] > 1
    moved = wanted.facts(wanted.moved) if moving else None
    if found and (moved or not moving):
        beside = f" + {moved['pairs']} moved" if moved else ""
        reporter.say(f"pairs: {found['pairs']}{beside}, from the cache {wanted.home}")
    elif moving and not moved:
        _made_moved(wanted, facts["pairs"], reporter, anew=not found)
    return [wanted.pairs.path, wanted.moved.path] if moving else [wanted.pairs.path]


def own_pairs(config: RunConfig, release: Release, reporter: Reporter) -> Path:
    """Directory of what the model said with its own voices, found in the cache or made now; see `automatic_pairs`."""
    wanted = AutomaticPairs.of(config, release)
    if wanted.facts(wanted.pairs) is None:
        _made_pairs(wanted, reporter)
    return wanted.pairs.path


def said_gain(config: RunConfig, release: Release) -> float | None:
    """How much their texts explain of the automatic pairs; None if these are not there, or it was not measured."""
    wanted = AutomaticPairs.of(config, release)
    return (wanted.facts(wanted.pairs) or {}).get(TEXT_GAIN)


def cached_own_pairs(config: RunConfig, release: Release) -> Path | None:
    """What `own_pairs` gives, if it is there."""
    if not own_voices(release):
        return None
    wanted = AutomaticPairs.of(config, release)
    return wanted.pairs.path if wanted.facts(wanted.pairs) is not None else None


def _made_pairs(wanted: AutomaticPairs, reporter: Reporter) -> dict[str, Any]:
    """Make what is missing; facts of the pairs."""
    entry, count = wanted.pairs, len(wanted.listed)
    with entry.locked(reporter.say):
        if (facts := wanted.facts(entry)) is not None:  # another process has made them meanwhile
            return facts
        _clear_damaged(wanted, entry, reporter.say)
        reporter.say(f"pairs: generating {count} sentences with the model, kept for later runs in {entry.path}")
        bar = reporter.bar(total=count, unit="sentence", desc="pairs")
        with _explained(entry), separate_rng(SEED), bar:
            speaker = Speaker.load(wanted.release.path, dtype=wanted.dtype)
            report = make.generate_pairs(
                speaker,
                entry.path,
                wanted.listed,
                settings=wanted.choices,
                max_seconds=wanted.max_seconds,
                batch=wanted.batch,
                remedy=NONE,
                progress=bar.update,
            )
            facts = {"pairs": report.kept, "voices": report.voices, "seconds": report.seconds}
            said = PairData.of_model([entry.path], wanted.release, heldout=0.0).train
            gain = pairs_gain(CodeJudge(speaker.model, speaker.tokenizer.prompt), said)
            facts[TEXT_GAIN] = None if gain is None else round(gain, 3)  # the last bits depend on what was run before
            entry.complete(facts)
        mx.clear_cache()
    runaways, empty = report.rejected[make.RUNAWAY], report.rejected[make.EMPTY]
    left_out = [f"{runaways} did not end within {wanted.max_seconds:g} s"] if runaways else []
    left_out += [f"{empty} were empty"] if empty else []
    why = f" ({', '.join(left_out)})" if left_out else ""
    reporter.say(f"pairs: {report.kept} of {count} sentences, {format_seconds(report.seconds)}{why}")
    return facts


def _made_moved(wanted: AutomaticPairs, pairs: int, reporter: Reporter, *, anew: bool) -> None:
    """Make the missing copies of complete pairs; `anew`: all of them, as the pairs have just been made."""
    entry = wanted.moved
    with entry.locked(reporter.say):
        if wanted.facts(entry) is not None:  # another process has made them meanwhile
            return
        if anew:
            shutil.rmtree(entry.path, ignore_errors=True)  # begun with pairs that are no more
        _clear_damaged(wanted, entry, reporter.say)
        bar = reporter.bar(total=wanted.moves * pairs, unit="pair", desc="moving pairs")
        with _explained(entry), separate_rng(SEED), bar:
            codec = load_model(wanted.release, parts=["codec"]).audio_tokenizer
            settings = {"of": wanted.pairs.path.name}
            count = move_pairs(
                codec, wanted.pairs.path, entry.path, wanted.moves, settings=settings, seed=SEED, progress=bar.update
            )
            entry.complete({"pairs": count})
        mx.clear_cache()
    reporter.say(f"pairs: {count} moved to voices that the model does not have, in {entry.path}")


def _clear_damaged(wanted: AutomaticPairs, entry: Entry, say: Callable[[str], None]) -> None:
    """Delete the shards of an entry that are not whole, so that they are made again."""
    gone = set(entry.damaged())
    entry.reopen()
    if not wanted.fits(entry):
        if any(entry.path.glob(SHARDS)):
            say(f"pairs: {entry.path} is damaged or of another model; it is made again")
        shutil.rmtree(entry.path, ignore_errors=True)
        return
    size = wanted.release.config.codec.frame_size
    damaged = [path for path in entry.path.glob(SHARDS) if path.name in gone or not _is_whole(path, gone, size)]
    for path in damaged:
        path.unlink()
    if damaged:
        say(f"pairs: {len(damaged)} damaged shard{'s' * (len(damaged) > 1)} in {entry.path} made again")


def _is_whole(path: Path, gone: set[str], frame_size: int) -> bool:
    try:
        _, lines, _ = read_shard(path)
        return not gone.intersection(audio_of(lines)) and all(
            audio_info(path.parent / name).frames == line["frames"] * frame_size
            for line in lines
            for name in audio_of([line])
        )
    except (VoxcloneError, KeyError, TypeError):
        return False


@contextmanager
def _explained(entry: Entry) -> Iterator[None]:
    """What goes wrong with the cache's disk or directory, as one line that says so."""
    try:
        yield
    except (OSError, VoxcloneError) as e:
        cause = e if isinstance(e, OSError) else e.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise unwritable(entry.path, cause) from e
        if isinstance(cause, OSError) or not (entry.path / SETTINGS).is_file():
            raise CheckpointError(
                f"{entry.path}: was deleted while it was being made; run again to make it again"
            ) from e
        raise
