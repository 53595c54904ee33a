"""The configuration of a voice's training: the shipped main job in the profile of this machine, or the rehearsal's."""

import importlib.util
import re
import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.pairs.prompts import LANGUAGES, load_prompts
from mlx_voxclone.process.machine import Machine
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.studio.home import Project
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.model.choice import Chosen
from mlx_voxclone.studio.record.listing import Progress, progress, to_recordings
from mlx_voxclone.studio.record.prompts import SYLLABLES

PROFILES = ((24e9, "mac-16gb"), (48e9, "mac-32gb"), (float("inf"), "mac-64gb"))  # up to how much memory (bytes)
REHEARSAL = "speaking-miniature"
SPEAKER_MODEL, WHISPER = "Wespeaker/wespeaker-ecapa-tdnn512-LM", "mlx-community/whisper-small-mlx"
SPECTRAL = "spectral"  # judges without a model
FEWEST = 4  # recordings: three to learn from, and one held out
HELDOUT = 0.1  # of the recordings
_STEPS, _BATCH, _MEASURED = 60, 4, 4  # of the rehearsal: optimiser steps, clips in one, measurements
_SPOKEN = 2  # sentences that are said before and after
_VOICE = "voice"  # where a title has no letter that a voice's name may have
_LETTERS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "æ": "ae", "ø": "o", "ł": "l"})


def profile(machine: Machine) -> str:
    """Name of the shipped profile for a machine, by its memory."""
    return next(name for most, name in PROFILES if machine.memory < most)


def voice_name(title: str, taken: Collection[str] = ()) -> str:
    """A voice's name in a checkpoint (a-z, 0-9, `_`, `-`), by its title and unlike those that are `taken`."""
    plain = unicodedata.normalize("NFKD", title.lower().translate(_LETTERS)).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or _VOICE
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found


def judges() -> dict[str, str | None]:
    """Who judges the speech of a real training: models, as far as the packages that run them are installed."""
    hears = importlib.util.find_spec("mlx_whisper") is not None
    knows = all(importlib.util.find_spec(name) is not None for name in ("onnxruntime", "kaldi_native_fbank"))
    return {"speaker_model": SPEAKER_MODEL if knows else SPECTRAL, "whisper_model": WHISPER if hears else None}


def settings(
    chosen: Chosen, machine: Machine, *, recordings: int, language: str | None = None, judged: bool = True
) -> dict[str, Any]:
    """What a training says of itself beside where it reads and writes.

    Args:
        recordings: how many there are; steps take in no more than these.
        language: code of the recordings.
        judged: whether models judge the speech, which are fetched once.
    """
    learnt = max(1, recordings - max(1, round(HELDOUT * recordings)))
    listen = {"speaker_model": SPECTRAL, "whisper_model": None, "texts": 2}
    data = {"heldout": max(HELDOUT, 1.01 / recordings if recordings else 0)} | (
        {"language": language} if language else {}
    )
    if chosen.rehearses:
        every = _STEPS // _MEASURED
        train = {
            "steps": _STEPS, "batch_size": min(_BATCH, learnt), "accumulate": 1, "learning_rate": 2e-4,
            "warmup_steps": _STEPS // 10, "eval_every": every, "save_every": every, "sample_every": every,
        }  # fmt: skip
        speaker = {"encoder": str(chosen.encoder), "max_seconds": 20.0, "preserve": {"path": None}}
        speaker |= {"listen": listen, "train": train}
        # To its language model no text of a person's fits: nothing could be judged by it.
        data |= {"trim_silence": True}
        return {"include": REHEARSAL, "data": data, "speaker": speaker, "judge": {"enabled": False}}
    name = profile(machine)
    shipped = load_run_config(name).speaker.train
    accumulate = max(1, min(shipped.accumulate, learnt // shipped.batch_size))
    train = {"accumulate": accumulate, "sample_every": shipped.eval_every}
    speaker = {"listen": {**listen, **(judges() if judged else {})}, "train": train}
    if chosen.encoder is not None:
        speaker["encoder"] = str(chosen.encoder)
    found = {"include": name, "data": data, "speaker": speaker}
    return found | ({"say": sentences(language)} if language in LANGUAGES else {})


def sentences(language: str) -> list[str]:
    """What is said before and after, in a language that there are sentences in."""
    return [text for _, text in load_prompts([language])[:_SPOKEN]]


def recordings_of(project: Project) -> tuple[Path, Progress]:
    """The list of recordings that a voice is trained from, and how much there is.

    Raises:
        Mistake: there is no consent, no recording with a text, or too few of them.
        CheckpointError: the list cannot be written.
    """
    if not project.info().get("consent"):
        raise Mistake("", "train.mistake.consent")
    there = progress(project)
    if not there.recordings:
        raise Mistake("", "train.mistake.none")
    if there.recordings < FEWEST:
        raise Mistake("", "train.mistake.few", count=there.recordings, fewest=FEWEST)
    return to_recordings(project), there


def write(project: Project, chosen: Chosen, machine: Machine, file: Path, *, judged: bool = True) -> str:
    """Write the configuration of a voice's training; returns the name that the voice will have in its checkpoint.

    Raises:
        Mistake: there are no recordings or too few, or the model cannot be read.
    """
    place, there = recordings_of(project)
    info = project.info()
    language = info.get("language")
    language = None if language == SYLLABLES else language
    content = settings(chosen, machine, recordings=there.recordings, language=language, judged=judged)
    content["data"] = {"path": str(place), **content["data"]}
    try:
        taken = Release(chosen.model).config.voices
    except VoxcloneError as e:
        raise Mistake("", "train.mistake.unusable", line=str(e)) from None
    name = voice_name(str(info.get("title", "")), taken)
    content = {"task": "clone", "model": chosen.model, "output": str(project.run), "voice": name} | content
    head = "# Written by the studio; `voxclone train --config` takes it as well.\n"
    write_text_atomic(file, head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    try:
        load_run_config(file)
    except VoxcloneError:
        file.unlink()
        raise
    return name
