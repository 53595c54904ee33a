"""What a synthetic speaker says into a microphone, and recordings with their texts to be uploaded."""

import json
from pathlib import Path

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise, write_corpus

SPEAKER = SyntheticSpeaker.sample(3)
_ROOM = 1e-4  # RMS of a quiet room


def microphone_file(path: Path, sentences: list[str]) -> float:
    """A WAV that Chromium plays as its microphone, again and again; returns its seconds."""
    rng = np.random.default_rng(0)
    quiet = SAMPLE_RATE // 2
    parts = [np.zeros(quiet)]
    for k, sentence in enumerate(sentences):
        parts += [synthesise(sentence, SPEAKER, k), np.zeros(quiet)]
    samples = np.concatenate(parts)
    write_wav(path, (samples + _ROOM * rng.standard_normal(len(samples))).astype(np.float32))
    return len(samples) / SAMPLE_RATE


def recordings_with_texts(folder: Path, count: int, seconds: float) -> list[Path]:
    """`001.wav` and `001.txt` and so on, as somebody uploads them; all of these files."""
    corpus, files = folder / "corpus", []
    manifest = write_corpus(corpus, [SPEAKER], count, seed=5, seconds=seconds)
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), start=1):
        entry, sound = json.loads(line), folder / f"{number:03d}.wav"
        (corpus / entry["audio"]).rename(sound)
        sound.with_suffix(".txt").write_text(entry["text"] + "\n", encoding="utf-8")
        files += [sound, sound.with_suffix(".txt")]
    return files
