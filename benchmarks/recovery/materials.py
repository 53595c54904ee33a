"""What the trainer is given: the training speakers' recordings as prepared data, and pairs of codes and decoded audio.

Nothing of the hidden encoder but the codes of the pairs, as a user has the codes of what the stock model says.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.recovery.corpus import Corpus, CorpusClip
from benchmarks.recovery.gates import group_of
from mlx_voxclone.audio.augment import augment
from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.checkpoint.digests import decoder_digest
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.entries import CLIPS, HELDOUT, MANIFEST, SUMMARY, TRAIN
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.atomic import atomic_directory
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.pairs.files import SpokenPair, write_pairs
from mlx_voxclone.pairs.moved import move_pairs

MOVES = 2  # copies of each pair
TRAINERS_HELDOUT = 8  # clips of training speakers for the trainer's own measurements: enough to notice a blow-up


def prepare_speech(corpus: Corpus, directory: Path) -> PreparedData:
    """The recordings of the training speakers, whole and as they are, in the form that `voxclone prepare` writes.

    Neither trimmed nor levelled: the hidden encoder heard them as they are. The last clips of some speakers are the
    trainer's held-out ones; the benchmark's held-out speakers are not among them.

    Raises:
        DataError: too few training clips.
    """
    directory = Path(directory)
    if not directory.exists():
        clips = corpus.split("train")
        held = _trainers_heldout(clips)
        with atomic_directory(directory) as home:
            (home / CLIPS).mkdir()
            lines = [json.dumps(_line(clip, clip.id in held, home)) + "\n" for clip in clips]
            (home / MANIFEST).write_text("".join(lines), encoding="utf-8")
            (home / SUMMARY).write_text(json.dumps({"source": "recovery benchmark"}) + "\n", encoding="utf-8")
    return PreparedData.load(directory)


def _trainers_heldout(clips: Sequence[CorpusClip]) -> set[str]:
    """The last clip of every n-th speaker, by id."""
    last = list({clip.speaker: clip.id for clip in clips}.values())
    if len(clips) <= len(last):
        raise DataError(f"{len(clips)} training clips of {len(last)} speakers: too few to hold some out")
    return set(last[:: -(-len(last) // TRAINERS_HELDOUT)])


def _line(clip: CorpusClip, heldout: bool, home: Path) -> dict:
    """A clip's line of the manifest; its recording is linked into `home`, or copied from another disk."""
    name = f"{CLIPS}/{clip.id}{clip.path.suffix}"
    try:
        os.link(clip.path.resolve(), home / name)
    except OSError:
        shutil.copyfile(clip.path, home / name)
    return {
        "id": clip.id,
        "audio": name,
        "samples": len(clip.read()),
        "text": None,
        "speaker": clip.speaker,
        "language": None,
        "split": HELDOUT if heldout else TRAIN,
        "reference": None,
        "source": clip.path.name,
        "start": 0.0,
    }


def make_pairs(
    hidden: Codec,
    release: Release,
    corpus: Corpus,
    directory: Path,
    share: float,
    seed: int,
    *,
    recorded: bool = False,
) -> int:
    """Write pairs: the hidden encoder's codes of training clips, and what the decoder makes of them.

    Args:
        hidden: the codec with the hidden encoder.
        release: the codec without it, as the trainer gets it.
        corpus: its training clips are encoded.
        directory: to be made; left as it is if it is complete.
        share: of the training speakers of each kind, that are heard in the pairs: at least one.
        seed: of the augmented copies.
        recorded: the recordings themselves in the place of decoded audio: what no user has, to see what is possible.

    Returns:
        Number of pairs written, 0 if they were there.
    """
    if directory.exists():
        return 0
    speakers = pair_speakers(corpus, share)
    clips = [clip for clip in corpus.split("train") if clip.speaker in speakers]
    settings = {"codec": decoder_digest(release.tensors), "speakers": sorted(speakers), "seed": seed}
    with atomic_directory(directory) as home:
        return write_pairs(home, _pairs(hidden, clips, seed, recorded), settings)


def move(codec: Codec, pairs: Path, directory: Path, seed: int) -> None:
    """Write copies of the pairs in voices that nobody has; what is there stays."""
    if not directory.exists():
        with atomic_directory(directory) as home:
            move_pairs(codec, pairs, home, MOVES, settings={"of": pairs.name}, seed=seed)


def pair_speakers(corpus: Corpus, share: float) -> set[str]:
    """The speakers whose codes the trainer gets to see: of each kind every n-th, at least one."""
    chosen = set()
    for kind in sorted({clip.kind for clip in corpus.split("train")}):
        own = list(dict.fromkeys(clip.speaker for clip in corpus.split("train", kind)))
        places = np.linspace(0, len(own) - 1, max(1, round(share * len(own)))).round().astype(int)
        chosen |= {own[place] for place in places}
    return chosen


def _pairs(hidden: Codec, clips: Sequence[CorpusClip], seed: int, recorded: bool) -> Iterator[SpokenPair]:
    for number, clip in enumerate(clips):
        samples = clip.read()
        codes = hidden.audio_codes(samples)
        if recorded:
            samples = np.pad(samples, (0, codes.shape[1] * hidden.config.frame_size - len(samples)))
        else:
            samples = hidden.decode_audio(codes)
        room = augment(samples, [seed, number])
        yield SpokenPair(f"{number:06d}", codes, samples, text=clip.id, voice=clip.speaker, augmented=room)


def scored_clips(corpus: Corpus, seconds: float) -> list[CorpusClip]:
    """Held-out clips to score on: of each kind up to about `seconds`, its speakers in turn.

    Kinds are the groups of the gates: clips of a speaker who is in the training data as well are apart.
    """
    seen = {clip.speaker for clip in corpus.split("train")}
    clips = [replace(clip, kind=group_of(clip, seen)) for clip in corpus.split("heldout")]
    chosen = []
    for kind in sorted({clip.kind for clip in clips}):
        left, by_speaker = seconds, {}
        for clip in clips:
            if clip.kind == kind:
                by_speaker.setdefault(clip.speaker, []).append(clip)
        turns = max(map(len, by_speaker.values()))
        for clip in (own[turn] for turn in range(turns) for own in by_speaker.values() if turn < len(own)):
            if left > 0:
                chosen.append(clip)
                left -= audio_info(clip.path).seconds
    return chosen
