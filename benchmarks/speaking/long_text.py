"""Long texts on the speaking miniature: errors, seams, memory, and frames per second by how many are spoken at once.

    python -m benchmarks.speaking.long_text memory --output DIR --minutes 60
    python -m benchmarks.speaking.long_text sentences --output DIR --sentences 300
    python -m benchmarks.speaking.long_text batches --output DIR

Each writes `DIR/NAME.json` and prints it as a table. What the model says depends on the seed; times depend on what else
the machine does.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.memory import AnonymousPeak, anonymous
from mlx_voxclone.miniature.micro import SPEAKING, make_micro
from mlx_voxclone.miniature.synth import random_text
from mlx_voxclone.speech.chunks import split_text
from mlx_voxclone.speech.growing_wav import partial_names
from mlx_voxclone.speech.long_speech import write_long
from mlx_voxclone.speech.speaker import Speaker

VOICE, SYLLABLES = "tenor", (4, 9)
WAV_BYTES = 48_000  # of a second
PAGE = 2  # minutes of audio: what a page of a book takes
SENTENCE_SECONDS = 3.0  # with its pause, at least


def sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences in the miniature's language, each beginning with a capital."""
    rng = np.random.default_rng([seed, 0x10E6])
    return [random_text(rng, int(rng.integers(SYLLABLES[0], SYLLABLES[1] + 1))).capitalize() for _ in range(count)]


def book(count: int, seed: int = 0) -> str:
    """Each sentence a paragraph: the miniature has learnt none longer, and says two in a row badly."""
    return "\n\n".join(sentences(count, seed))


def memory(output: Path, speaker: Speaker, minutes: float, batch: int) -> dict:
    """Peak of anonymous memory in every minute of audio of one text, written as `voxclone say` writes it."""
    chunks = split_text(book(round(minutes * 60 / SENTENCE_SECONDS)))
    path, peaks = output / "book.wav", []
    audio, _ = partial_names(path)

    with AnonymousPeak() as watch:

        def on_chunk(done: int) -> None:
            minute = int(audio.stat().st_size / WAV_BYTES / 60)
            while len(peaks) <= minute:
                peaks.append(0)
            peaks[minute] = max(peaks[minute], watch.peak)
            watch.peak = anonymous()

        said = write_long(path, speaker, chunks, speaker.voice_rows(VOICE), on_chunk=on_chunk, batch=batch)
    path.unlink()
    return {
        "chunks": said.chunks,
        "again": said.again,
        "doubtful": len(said.doubts),
        "minutes": said.seconds / 60,
        "batch": batch,
        "page_mb": max(peaks[:PAGE]) / 1e6,
        "rest_mb": max(peaks[PAGE:], default=0) / 1e6,
        "last_mb": peaks[-1] / 1e6,
        "by_minute_mb": [round(peak / 1e6, 1) for peak in peaks],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory",))
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N", help="of audio, at least")
    parser.add_argument("--batch", type=int, default=4, metavar="N")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    model = options.output / "miniature"
    speaker = Speaker.load(model if model.exists() else make_micro(model, SPEAKING))
    found = memory(options.output, speaker, options.minutes, options.batch)
    (options.output / f"{options.what}.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
