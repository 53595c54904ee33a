"""Long texts on the speaking miniature: errors, seams, memory, and frames per second by how many are spoken at once.

    python -m benchmarks.speaking.long_text memory --output DIR --minutes 60
    python -m benchmarks.speaking.long_text sentences --output DIR --sentences 300
    python -m benchmarks.speaking.long_text batches --output DIR

Each writes `DIR/NAME.json` as it goes, so that what an interruption leaves is of use, and prints it. `--minutes-limit`
ends it after so much time of the clock; the same command with `--resume` goes on where it was. Times are CPU seconds of
the process: other work on the machine moves them less.
"""

import argparse
import contextlib
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.memory import AnonymousPeak, anonymous
from benchmarks.speaking.ears import Ears
from benchmarks.speaking.recogniser import edits, said
from benchmarks.speaking.score import interval
from mlx_voxclone.audio.prosody import pitch
from mlx_voxclone.audio.segment import FRAME_SECONDS, frame_levels, speech_mask
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.miniature.micro import SPEAKING, make_micro
from mlx_voxclone.miniature.synth import random_text
from mlx_voxclone.model.generation import generate_batch
from mlx_voxclone.speech.chunks import split_text
from mlx_voxclone.speech.narration import Narration
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.speech.to_files.growing_wav import growing_wav

VOICE, SYLLABLES = "tenor", (4, 9)
PAGE = 2  # minutes of audio: what a page of a book takes
SENTENCE_SECONDS = 2.6  # with its pause, at least
EDGE = 240  # samples, 10 ms


def sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences in the miniature's language, each beginning with a capital."""
    rng = np.random.default_rng([seed, 0x10E6])
    return [random_text(rng, int(rng.integers(SYLLABLES[0], SYLLABLES[1] + 1))).capitalize() for _ in range(count)]


def book(count: int, seed: int = 0) -> str:
    """Each sentence a paragraph: the miniature has learnt none longer, and says two in a row badly."""
    return "\n\n".join(sentences(count, seed))


def memory(output: Path, speaker: Speaker, minutes: float, batch: int, resume: bool) -> Iterator[dict]:
    """Peak of anonymous memory in every minute of audio of one text, written as `voxclone say` writes it."""
    chunks = split_text(book(round(minutes * 60 / SENTENCE_SECONDS)))
    rate, peaks = speaker.sampling_rate, []
    identified = {"text": str(minutes), "batch": batch}
    with AnonymousPeak() as watch, growing_wav(output / "book.wav", identified, resume=resume) as wav:
        if wav.chunks:
            found = json.loads((output / "memory.json").read_text())
            peaks = [round(1e6 * peak) for peak in found["by_minute_mb"]]
        samples = round(wav.seconds * rate)
        rows = speaker.voice_rows(VOICE)
        narration = Narration(speaker, chunks, rows, first=wav.chunks, memory=wav.memory, batch=batch)
        for spoken in narration:
            wav.append(spoken.samples, narration.memory)
            samples += len(spoken.samples)
            minute = int(samples / rate / 60)
            peaks += [0] * (minute + 1 - len(peaks))
            peaks[minute] = max(peaks[minute], watch.peak)
            watch.peak = anonymous()
            yield {
                "chunks": spoken.number + 1,
                "minutes": samples / rate / 60,
                "batch": batch,
                "page_mb": max(peaks[:PAGE]) / 1e6,
                "rest_mb": max(peaks[PAGE:], default=0) / 1e6,
                "by_minute_mb": [round(peak / 1e6, 1) for peak in peaks],
            }


def spoken_sentences(output: Path, speaker: Speaker, count: int, batch: int, resume: bool) -> Iterator[dict]:
    """Unit errors of a long text and of its sentences one by one, with the same seeds; the joins of the long one.

    `DIR/sentences.jsonl` keeps what was measured of each, and what the narration knew then.
    """
    chunks, rows, ears = split_text(book(count)), speaker.voice_rows(VOICE), Ears.load()
    assert len(chunks) == count
    kept = output / "sentences.jsonl"
    lines = [json.loads(line) for line in kept.read_text().splitlines(keepends=True) if line.endswith("\n")] if (
        resume and kept.exists()
    ) else []  # fmt: skip
    if lines and lines[-1]["batch"] != batch:
        raise SystemExit(f"{kept}: was measured with --batch {lines[-1]['batch']}")
    write_text_atomic(kept, "".join(json.dumps(line) + "\n" for line in lines))
    narration = Narration(
        speaker, chunks, rows, first=len(lines), memory=lines[-1]["memory"] if lines else None, batch=batch
    )
    for one in narration:
        text = chunks[one.number].text
        alone = speaker.say(text, rows, seed=one.number)
        heard = [ears.recogniser.hear(wave) for wave in (one.samples, alone.samples)]
        lines.append(
            {
                "wrong": [edits(said(text), words) for words in heard],
                "units": len(said(text)),
                "alike": heard[0] == heard[1],
                "again": one.tries > 1,
                "doubtful": one.doubt is not None,
                "ends": _ends(one.samples, speaker.sampling_rate),
                "edges": [one.samples[:EDGE].tolist(), one.samples[-EDGE:].tolist()],
                "steepest": float(np.abs(np.diff(one.samples)).max()),
                "memory": narration.memory,
                "batch": batch,
            }
        )
        with kept.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        if len(lines) % 5 == 0 or len(lines) == count:
            yield _summary(lines)


def _summary(lines: list[dict]) -> dict:
    wrong, units = np.array([line["wrong"] for line in lines]), [line["units"] for line in lines]
    rates = wrong / np.mean(units)
    return {
        "sentences": len(lines),
        "again": sum(line["again"] for line in lines),
        "doubtful": sum(line["doubtful"] for line in lines),
        "unit_error_long": wrong[:, 0].sum() / sum(units),
        "unit_error_alone": wrong[:, 1].sum() / sum(units),
        "difference": float((rates[:, 0] - rates[:, 1]).mean()),
        "difference_interval": interval(rates[:, 0] - rates[:, 1]),
        "heard_alike": float(np.mean([line["alike"] for line in lines])),
        **seams(lines),
    }


def seams(lines: list[dict]) -> dict:
    """Steps of level (dB) and pitch (semitones): from a chunk's end to the next one's beginning, beside the steps from
    the beginning to the end of one chunk; the steepest step from sample to sample, at joins and elsewhere."""
    within = [line["ends"] for line in lines]
    joins = [(a[1], b[0]) for a, b in itertools.pairwise(within)]
    found: dict = {}
    for name, pairs in (("join", joins), ("within", within)):
        levels = [abs(a[0] - b[0]) for a, b in pairs]
        tones = [abs(12 * np.log2(a[1] / b[1])) for a, b in pairs if np.isfinite(a[1]) and np.isfinite(b[1])]
        found[f"{name}_level_db"] = np.quantile(levels, [0.5, 0.95]).round(2).tolist()
        found[f"{name}_pitch_semitones"] = np.quantile(tones, [0.5, 0.95]).round(2).tolist()
    edges = [a["edges"][1] + b["edges"][0] for a, b in itertools.pairwise(lines)]
    at = max(float(np.abs(np.diff(edge)).max()) for edge in edges)
    return found | {"steepest_at_joins": at, "steepest": max(line["steepest"] for line in lines)}


def _ends(wave: np.ndarray, rate: int, seconds: float = 0.5) -> list[tuple[float, float]]:
    """Level and median pitch of the first and the last half second of a chunk's speech."""
    frames = np.flatnonzero(speech_mask(frame_levels([wave], rate)))
    start, stop = (int(k * FRAME_SECONDS * rate) for k in (frames[0], frames[-1] + 1))
    n = min(int(seconds * rate), (stop - start) // 2)
    parts = wave[start : start + n], wave[stop - n : stop]
    return [(float(10 * np.log10(np.mean(np.square(part)) + 1e-12)), float(pitch(part).median)) for part in parts]


def batches(speaker: Speaker, count: int, sizes: tuple[int, ...] = (1, 2, 4, 8, 16)) -> Iterator[dict]:
    """Frames per CPU second by how many sentences are spoken at once, and the share of codes that are those of one
    alone. They are compared within one run, so it does not go on with another one's."""
    rows, model = speaker.voice_rows(VOICE), speaker.model
    texts = sentences(count)
    prompts = [model.embed_prompt(speaker.tokenizer.prompt(text, rows.shape[0]), rows)[0] for text in texts]
    alone: list[np.ndarray] = []
    found: dict = {}
    for size in sizes:
        began, codes = time.process_time(), []
        for start in range(0, count, size):
            part = prompts[start : start + size]
            seeds = list(range(start, start + len(part)))
            codes += [one.codes for one in generate_batch(model, part, max_frames=100, seeds=seeds)]
        spent, frames = time.process_time() - began, sum(one.shape[1] for one in codes)
        alone = alone or codes
        equal = [a.shape == b.shape and bool((a == b).all()) for a, b in zip(alone, codes)]
        found[str(size)] = {
            "frames_per_cpu_second": round(frames / spent, 1),
            "frames": frames,
            "sentences_with_equal_codes": sum(equal),
            "of": count,
        }
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "sentences", "batches"))
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N", help="of audio, for `memory`")
    parser.add_argument("--sentences", type=int, default=300, metavar="N", help="for `sentences` and `batches`")
    parser.add_argument("--batch", type=int, default=4, metavar="N")
    parser.add_argument("--resume", action="store_true", help="go on with `memory` or `sentences`")
    parser.add_argument("--minutes-limit", type=float, default=math.inf, metavar="N", help="of the clock, to end after")
    options = parser.parse_args()
    if options.resume and options.what == "batches":
        parser.error("--resume goes on with memory and sentences; batches are compared within one run")
    until = time.monotonic() + 60 * options.minutes_limit
    options.output.mkdir(parents=True, exist_ok=True)
    model = options.output / "miniature"
    speaker = Speaker.load(model if model.exists() else make_micro(model, SPEAKING))
    if options.what == "memory":
        results = memory(options.output, speaker, options.minutes, options.batch, options.resume)
    elif options.what == "sentences":
        results = spoken_sentences(options.output, speaker, options.sentences, options.batch, options.resume)
    else:
        results = batches(speaker, options.sentences)
    found, ended = None, True
    with contextlib.closing(results):
        for found in results:
            write_text_atomic(options.output / f"{options.what}.json", json.dumps(found, indent=2) + "\n")
            if time.monotonic() >= until:
                ended = False
                break
    print(json.dumps(found) if ended else f"stopped after {options.minutes_limit:g} min; go on with --resume")


if __name__ == "__main__":
    main()
