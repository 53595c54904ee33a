"""The speech that the benchmark's codec is trained and measured on: many speakers, and what sounds are where.

Synthetic speakers (`mlx_voxclone.miniature.synth`) come with exact labels; flite's voices, where it is installed, with
the segments that it prints itself; espeak-ng's and real recordings without any. A label is the sound at the centre of a
latent frame, one of `UNITS`: the synthesiser's letters and the pause. Held-out clips are of speakers that no training
clip has, but for readers with many clips: they have both kinds, and their held-out clips are counted beside those of
real speakers who are unseen.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, normalise_level, read_audio, read_samples, write_wav
from mlx_voxclone.errors import DataError
from mlx_voxclone.files.atomic import atomic_directory
from mlx_voxclone.miniature.synth import LEVEL, PHONES, ROOM, SyntheticSpeaker, Unit, random_text, synthesise_aligned
from mlx_voxclone.pairs.prompts import load_prompts

UNITS = ("", *sorted(PHONES))  # "" is the pause
FRAME = 1920  # samples of a latent frame
TRACK_HOP = 240  # samples between the values of a label track: crops may start anywhere on this grid
CLIPS, TRACKS, ABOUT = "corpus.jsonl", "units.npz", "about.json"
KINDS = ("synthetic", "flite", "espeak", "real")
HELDOUT_EVERY = 10  # of the real speakers with a folder each, every so many is held out

# flite's phones (its US English set) as the letter of the synthesiser that sounds most alike.
FLITE_PHONES = {
    phone: unit
    for unit, phones in {
        "": ("pau",),
        "a": ("aa", "ah", "aw", "ay"),
        "e": ("ae", "ax", "eh", "ey"),
        "i": ("ih", "iy"),
        "o": ("ao", "ow", "oy"),
        "u": ("uh", "uw"),
        "j": ("y",),
        "r": ("er", "r"),
        "n": ("n", "ng"),
        "h": ("hh",),
        "f": ("f", "th"),
        "v": ("v", "dh"),
        "x": ("sh",),
        "z": ("z", "zh"),
        "c": ("ch", "jh"),
        **{same: (same,) for same in "bdgklmpstw"},
    }.items()
    for phone in phones
}
FLITE_TRAIN, FLITE_HELDOUT = ("slt", "awb", "kal16"), ("rms",)
# Voice, pitch from 0 to 99, words per minute. The prompts have sentences in each language.
ESPEAK_TRAIN = (
    *("en-us+m1 35 165", "en-us+f2 55 170", "en-gb+m3 50 160", "en-gb+f4 40 165", "de+m2 45 165", "de+f1 60 160"),
    *("fr-fr+m4 40 165", "fr-fr+f5 50 170", "es+m5 55 170", "es+f3 45 165", "it+m6 50 165", "nl+m8 40 160"),
)
ESPEAK_HELDOUT = ("en-us+m7 45 165", "pt-br+female1 50 165", "en-gb+klatt2 50 165")


@dataclass(frozen=True)
class CorpusSize:
    """How much of what. Seconds per synthetic clip vary by a fifth."""

    train_speakers: int
    heldout_speakers: int
    clips_per_speaker: int
    heldout_clips: int
    seconds: float
    flite_clips: int = 0  # per training voice
    espeak_clips: int = 0
    external_heldout: int = 0  # per held-out voice of either engine
    real_train: int = 0  # recordings of a reader with many
    real_heldout: int = 8  # recordings of such a reader after these
    speaker: Callable[[int], SyntheticSpeaker] = SyntheticSpeaker.sample  # the synthetic speaker of a number


_FULL = CorpusSize(64, 8, 10, 4, 3.0, flite_clips=40, espeak_clips=8, external_heldout=6, real_train=24)
SIZES = {
    "quick": CorpusSize(12, 4, 6, 3, 2.5),
    "full": _FULL,
    "words": _FULL,
    "speaking": CorpusSize(160, 8, 8, 3, 3.0, speaker=SyntheticSpeaker.varied),  # see benchmarks/speaking
}


@dataclass(frozen=True)
class CorpusClip:
    """One recording at 24 kHz.

    `units` [frames] int32: index into `UNITS` at the centre of each 1920-sample frame; `track` the same every 240
    samples. None: nobody knows.
    """

    id: str
    path: Path
    speaker: str
    kind: str  # one of KINDS
    split: str  # "train" or "heldout"
    units: np.ndarray | None = field(default=None, compare=False, repr=False)
    track: np.ndarray | None = field(default=None, compare=False, repr=False)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Float32 `[samples]`, 24 kHz mono, or those from `start` to `stop` alone."""
        return read_samples(self.path, start, stop)[0]


@dataclass(frozen=True)
class Corpus:
    """All clips, in a fixed order, and `about`: how they were made, and what was not at hand."""

    directory: Path
    clips: list[CorpusClip]
    about: dict

    def split(self, split: str, kind: str | None = None) -> list[CorpusClip]:
        return [clip for clip in self.clips if clip.split == split and kind in (None, clip.kind)]

    @staticmethod
    def load(directory: str | Path) -> "Corpus":
        """Open what `build_corpus` wrote.

        Raises:
            DataError: no corpus there.
        """
        directory = Path(directory)
        try:
            lines = [json.loads(line) for line in (directory / CLIPS).read_text(encoding="utf-8").splitlines()]
            about = json.loads((directory / ABOUT).read_text(encoding="utf-8"))
            with np.load(directory / TRACKS) as file:
                tracks = dict(file)
        except FileNotFoundError as e:
            raise DataError(f"{directory}: no corpus of the recovery benchmark ({Path(e.filename).name})") from e
        clips = []
        for line in lines:
            track = tracks.get(line["id"])
            units = None if track is None else units_of(track)
            clips.append(CorpusClip(**{**line, "path": directory / line["path"]}, units=units, track=track))
        return Corpus(directory, clips, about)


def label_track(alignment: list[Unit], samples: int) -> np.ndarray:
    """Index into `UNITS` every `TRACK_HOP` samples, uint8 `[ceil(samples / 240)]`, at the centre of each hop.

    Samples that no unit covers are a pause, as are units that are not letters.
    """
    track = np.zeros(-(-samples // TRACK_HOP), np.uint8)
    for unit in alignment:
        first, last = (-(-(at - TRACK_HOP // 2) // TRACK_HOP) for at in (unit.start, unit.end))
        track[max(0, first) : max(0, last)] = UNITS.index(unit.unit) if unit.unit in PHONES else 0
    return track


def units_of(track: np.ndarray, first: int = 0, frames: int | None = None) -> np.ndarray:
    """Labels at the centres of latent frames, int32, from sample `first * TRACK_HOP` on.

    The centre of a frame lies between two values of the track; the later one counts. Behind the end is a pause.
    """
    per_frame = FRAME // TRACK_HOP
    frames = -(-(len(track) - first) // per_frame) if frames is None else frames
    at = first + per_frame // 2 + per_frame * np.arange(frames)
    return np.where(at < len(track), track[np.minimum(at, len(track) - 1)], 0).astype(np.int32)


def build_corpus(directory: str | Path, size: str = "full", seed: int = 0, speech: str | Path | None = None) -> Corpus:
    """Make a corpus on disk; equal arguments give equal synthetic audio.

    Args:
        directory: to be made.
        size: "quick" (a few synthetic speakers) or "full" (everything that is at hand).
        seed: of speakers, texts and readings.
        speech: with "full": a directory of real speech. A folder of FLAC files is of one reader: the first 24 are for
            training and the next 8 held out. A folder of such folders has a speaker in each: every tenth is held out.
            A file without a folder is a held-out recording of a speaker of its own.

    Raises:
        DataError: unknown size, `speech` without recordings. CheckpointError: the directory exists and is not empty.
    """
    if size not in SIZES:
        raise DataError(f"corpus size {size!r}: there are {' and '.join(SIZES)}")
    chosen, directory = SIZES[size], Path(directory)
    about = {"size": size, "seed": seed, "units": list(UNITS), "not_at_hand": []}
    with atomic_directory(directory) as home:
        builder = _Builder(home, seed, about["not_at_hand"])
        builder.synthetic(chosen)
        builder.flite(chosen)
        builder.espeak(chosen)
        if speech is not None and chosen.real_train:
            builder.real(Path(speech), chosen)
        elif chosen.real_train:
            about["not_at_hand"].append("real speech")
        builder.finish(about)
    return Corpus.load(directory)


class _Builder:
    """Writes clips one by one; see `build_corpus`."""

    def __init__(self, home: Path, seed: int, missing: list[str]):
        self.home, self.seed, self.missing = home, seed, missing
        self.clips: list[CorpusClip] = []
        self.tracks: dict[str, np.ndarray] = {}
        (home / "audio").mkdir()

    def add(self, clip: CorpusClip, samples: np.ndarray, track: np.ndarray | None = None) -> None:
        clip = replace(clip, id=f"{clip.speaker}-{clip.id}")
        clip = replace(clip, path=Path("audio", f"{clip.id}.wav"))
        write_wav(self.home / clip.path, samples)
        self.clips.append(clip)
        if track is not None:
            self.tracks[clip.id] = track

    def finish(self, about: dict) -> None:
        names = ("id", "path", "speaker", "kind", "split")
        lines = [json.dumps({name: str(getattr(clip, name)) for name in names}) for clip in self.clips]
        (self.home / CLIPS).write_text("\n".join(lines) + "\n", encoding="utf-8")
        (self.home / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        np.savez_compressed(self.home / TRACKS, **self.tracks)

    def synthetic(self, size: CorpusSize) -> None:
        for k in range(size.train_speakers + size.heldout_speakers):
            # Even numbers are low voices and odd ones high: half of the held-out speakers are of either kind.
            speaker = size.speaker(1000 * self.seed + k)
            split, clips = (
                ("train", size.clips_per_speaker) if k < size.train_speakers else ("heldout", size.heldout_clips)
            )
            for i in range(clips):
                rng = np.random.default_rng([self.seed, k, i])
                length = size.seconds * rng.uniform(0.8, 1.2)
                text = random_text(rng, max(1, round(length * 4 * speaker.rate)))
                reading = int(rng.integers(2**31))
                samples, alignment = synthesise_aligned(text, speaker, reading, level="phone")
                clip = CorpusClip(f"{i:03d}", Path(), speaker.name, "synthetic", split)
                self.add(clip, samples, label_track(alignment, len(samples)))

    def flite(self, size: CorpusSize) -> None:
        program = shutil.which("flite") if size.flite_clips else None
        if program is None:
            self.missing += ["flite"] * bool(size.flite_clips)
            return
        sentences = [text for _, text in load_prompts(["en"])]
        voices = [(v, "train", size.flite_clips) for v in FLITE_TRAIN]
        voices += [(v, "heldout", size.external_heldout) for v in FLITE_HELDOUT]
        for voice, split, clips in voices:
            for i in range(clips):
                wav = self.home / "spoken.wav"
                command = [program, "-voice", voice, "-psdur", "-t", sentences[i % len(sentences)], "-o", str(wav)]
                printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                samples = _taken(wav, i)
                track = label_track(flite_alignment(printed), len(samples))
                self.add(CorpusClip(f"{i:03d}", Path(), f"flite-{voice}", "flite", split), samples, track)

    def espeak(self, size: CorpusSize) -> None:
        program = shutil.which("espeak-ng") if size.espeak_clips else None
        if program is None:
            self.missing += ["espeak-ng"] * bool(size.espeak_clips)
            return
        voices = [(v, "train", size.espeak_clips) for v in ESPEAK_TRAIN]
        voices += [(v, "heldout", size.external_heldout) for v in ESPEAK_HELDOUT]
        for k, (spoken, split, clips) in enumerate(voices):
            voice, pitch, speed = spoken.split()
            sentences = [text for _, text in load_prompts([voice[:2]])]
            for i in range(clips):
                wav, text = self.home / "spoken.wav", sentences[(k + 7 * i) % len(sentences)]
                command = [program, "-v", voice, "-p", pitch, "-s", speed, "-w", str(wav), text]
                subprocess.run(command, check=True, capture_output=True)
                name = re.sub(r"\W", "-", f"espeak-{voice}")
                self.add(CorpusClip(f"{i:03d}", Path(), name, "espeak", split), _taken(wav, i))

    def real(self, speech: Path, size: CorpusSize) -> None:
        found = 0
        for folder in sorted(path for path in speech.iterdir() if path.is_dir()):
            read = sorted(folder.glob("*.flac"))[: size.real_train + size.real_heldout]
            found += len(read)
            for i, path in enumerate(read):
                self.recording(path, path.stem, folder.name, "train" if i < size.real_train else "heldout")
            speakers = sorted(path for path in folder.iterdir() if path.is_dir())
            for k, speaker in enumerate(speakers):
                split = "heldout" if k % HELDOUT_EVERY == 0 else "train"
                for path in sorted(speaker.glob("*.flac")):
                    self.recording(path, path.stem, f"{folder.name}-{speaker.name}", split)
                    found += 1
        if found <= size.real_train:
            raise DataError(
                f"{speech}: needs more than {size.real_train} recordings in folders, such as ljspeech/*.flac"
            )
        for path in sorted(speech.glob("*.flac")):
            self.recording(path, "000", path.stem, "heldout")

    def recording(self, path: Path, name: str, speaker: str, split: str) -> None:
        self.add(CorpusClip(name, Path(), speaker, "real", split), normalise_level(read_audio(path)))


def flite_alignment(printed: str) -> list[Unit]:
    """Units of what `flite -psdur` prints: `phone:end` in seconds, one after the other.

    Raises:
        DataError: a phone that flite's US English does not have.
    """
    alignment, start = [], 0
    for phone, end in re.findall(r"(\w+):([\d.]+)", printed):
        if phone not in FLITE_PHONES:
            raise DataError(f"flite printed the phone {phone!r}, which is none of its US English set")
        stop = round(float(end) * SAMPLE_RATE)
        alignment.append(Unit(FLITE_PHONES[phone], start, stop))
        start = stop
    return alignment


def _taken(wav: Path, seed: int) -> np.ndarray:
    """The samples of an engine's file at the level of all others, with a room's noise; the file is gone afterwards.

    Engines speak out of digital silence, and one of them nothing above 8 kHz. On a logarithmic scale a codec that has
    to render such silence learns little else.
    """
    samples = normalise_level(read_audio(wav))
    wav.unlink()
    noise = np.random.default_rng([seed, 0x4001]).standard_normal(len(samples), dtype=np.float32)
    return samples + noise * np.float32(10 ** ((LEVEL + ROOM) / 20))
