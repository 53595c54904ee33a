"""Voices to make pairs with that the model has not: those of recordings, behind an encoder that was trained before.

Whatever rows the model speaks behind, what it says and how that sounds are an exact pair. A first encoder, taught by
pairs of the model's own voices, hears other voices less well; but what the model says behind its codes is a voice that
none of its own is, and pairs of many such voices teach a second encoder more (docs/LOG.md).
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio
from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.entries import HELDOUT, is_prepared
from mlx_voxclone.data.listings.manifest import read_source
from mlx_voxclone.data.split import draw
from mlx_voxclone.errors import DataError
from mlx_voxclone.speech.speaker import REFERENCE_SECONDS, Speaker, check_reference

SECONDS = 10.0  # of a speaker's recordings, taken for his voice
PREFIX = "recorded/"  # of the name of such a voice: no voice of a model is called so


class _Recording(NamedTuple):
    path: Path
    language: str | None


@dataclass(frozen=True)
class RecordedVoice:
    """Attributes: rows: `[N, dim]`; language: of the recordings, where they say so."""

    rows: mx.array
    language: str | None


def recorded_voices(
    speaker: Speaker, source: str | Path, *, most: int, seed: int = 0, progress: Callable[[int], Any] = lambda n: None
) -> tuple[dict[str, RecordedVoice], list[str]]:
    """The voices of the speakers of a corpus, by name, and notes about those that nothing could be made of.

    Args:
        speaker: the stock checkpoint, with the encoder that is to hear the recordings.
        source: what `prepare` reads, or what it wrote: of that, the clips to learn from alone.
        most: speakers, drawn by the seed where there are more.
        seed: of that draw, and of the recordings that are taken of each, up to 10 s.
        progress: hears of every speaker.

    Raises:
        DataError: nothing to read, or nothing usable of any speaker.
    """
    found, notes = {}, []
    for name, own in sorted(_drawn(source, most, seed).items()):
        clips, why = _clips(own)
        if clips:
            spoken = [recording.language for recording in own if recording.language]
            rows = speaker.voice_rows(reference=clips)
            mx.eval(rows)
            found[PREFIX + name] = RecordedVoice(rows, spoken[0] if spoken else None)
        else:
            notes.append(f"{name}: no recording can be used as a voice ({why})")
        progress(1)
    if not found:
        raise DataError(f"{source}: no speaker's recordings can be used; {notes[0]}")
    return found, notes


def _drawn(source: str | Path, most: int, seed: int) -> dict[str, list[_Recording]]:
    """Speakers and their recordings, in an order of the seed."""
    if is_prepared(source):
        listed = [(c.speaker, _Recording(c.path, c.language)) for c in PreparedData.load(source).train]
    else:
        entries = [entry for entry in read_source(source) if entry.split != HELDOUT]
        listed = [(entry.speaker, _Recording(entry.audio, entry.language)) for entry in entries]
    speakers: dict[str, list[_Recording]] = defaultdict(list)
    for name, recording in sorted(listed, key=lambda one: draw(seed, one[1].path.name)):
        speakers[name].append(recording)
    chosen = sorted(speakers, key=lambda name: draw(seed, name))[:most]
    return {name: speakers[name] for name in chosen}


def _clips(recordings: list[_Recording]) -> tuple[list[np.ndarray], str]:
    """Up to `SECONDS` of recordings that `Speaker.voice_rows` takes; why the first that cannot be had is left out."""
    clips, missing, why = [], SECONDS, ""
    for recording in recordings:
        try:
            samples = read_audio(recording.path, start=0.0, end=max(missing, REFERENCE_SECONDS[0]))
            check_reference(samples, SAMPLE_RATE)
        except DataError as e:
            why = why or (str(e) if isinstance(e, AudioError) else f"{recording.path}: {e}")
            continue
        clips.append(samples)
        missing -= len(samples) / SAMPLE_RATE
        if missing <= 0:
            break
    return clips, why
