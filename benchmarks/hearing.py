"""A real Whisper on real speech: chapters cut with their text, texts that are wrong, and times of words.

    python -m benchmarks.hearing chapters --whisper WHISPER --corpus ljspeech --language en --output OUT
    python -m benchmarks.hearing texts    --whisper WHISPER --corpus kerstin --language de --clips 40
    python -m benchmarks.hearing words    --whisper WHISPER --corpus ljspeech --language en --clips 20

A corpus is a folder with a `metadata.csv` (`id|text`) and FLAC or WAV files. What was heard is kept in the cache of the
program (VOXCLONE_CACHE), so that an interrupted measurement goes on.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio, resample, write_wav
from mlx_voxclone.audio.segment import FRAME_SECONDS, frame_levels, speech_mask, trim
from mlx_voxclone.data.hearing.chapters import cut_chapter
from mlx_voxclone.data.hearing.check import MOST_WRONG
from mlx_voxclone.data.listings.manifest import read_source
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.process.progress import progress_over
from mlx_voxclone.whisper.alignment import encoder_frames, token_weights
from mlx_voxclone.whisper.compare import letters, units
from mlx_voxclone.whisper.hearing import Listener, speech_frames, spelled
from mlx_voxclone.whisper.matching import difference, match
from mlx_voxclone.whisper.reader import WHISPER_RATE, Reader
from mlx_voxclone.whisper.words import FRAME, MEDIAN, timed_words, token_frames, warped

LATENT = 0.08  # seconds of a frame of the codec
BARS = (0.2, 0.3, 0.35, 0.4, 0.5, 0.6)


def clips(options) -> list[tuple[np.ndarray, str]]:
    """Samples at 24 kHz and text of some clips of a corpus."""
    found = [entry for entry in read_source(options.corpus) if entry.text][options.first :][: options.clips]
    return [(read_audio(entry.audio), entry.text) for entry in found]


# --- chapters ---------------------------------------------------------------------------------------------------------


def chapters(options) -> None:
    """Clips joined with pauses of 0.3 to 0.9 s into one recording, with their texts, and with texts that do not fit."""
    rng, parts, truth, at = np.random.default_rng(options.seed), [], [], 0.0
    read = clips(options)
    for samples, text in read:
        mask = speech_mask(frame_levels([samples], SAMPLE_RATE))
        speech = trim(mask)
        pause = rng.normal(0, 3e-4, int(SAMPLE_RATE * rng.uniform(0.3, 0.9))).astype(np.float32)
        start, end = speech.start * FRAME_SECONDS, min(len(samples) / SAMPLE_RATE, speech.end * FRAME_SECONDS)
        truth.append((at + start, at + end, text))
        parts += [samples, pause]
        at += (len(samples) + len(pause)) / SAMPLE_RATE
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "chapter.wav"
    write_wav(path, np.concatenate(parts))
    texts = [text for _, _, text in truth]
    third = len(texts) // 3
    strange = [" ".join(text.split()[::-1]) for text in texts[:4]]
    kinds = {
        "right": texts,
        "a page missing": texts[:third] + texts[2 * third :],
        "a preface and a page too much": strange + texts[:third] + strange[::-1] + texts[third:],
        "every tenth text another": [
            texts[(k + len(texts) // 2) % len(texts)] if k % 10 == 5 else text for k, text in enumerate(texts)
        ],
    }
    with Listener(options.whisper) as listener:
        for kind, given in kinds.items():
            began = time.process_time()
            found = cut_chapter(path, " ".join(given), options.language, listener, PrepareOptions(), progress_over)
            spent = time.process_time() - began
            print(f"{kind}: {json.dumps(judged(found, truth, given))}, {spent:.1f} s of CPU for {at:.0f} s", flush=True)


def judged(found, truth, given) -> dict[str, float]:
    """Clips against what is known: which words are said between which joints."""
    there = sum(len(plain(text).split()) for _, _, text in truth if text in given)
    joints, exact, wrong, edges = 0, 0, 0, []
    for (start, end), text in zip(found.plan.pieces, found.texts):
        middle = [(a, b, said) for a, b, said in truth if a < end and b > start]
        inside = [said for a, b, said in middle if start <= a + 0.15 and end >= b - 0.15]
        if len(inside) == len(middle):
            joints += 1
            exact += plain(" ".join(inside)) == plain(text)
            edges += [start - middle[0][0], end - middle[-1][1]]
        words, all_words = plain(text).split(), plain(" ".join(said for _, _, said in middle)).split()
        wrong += len(words) - len(match(words, all_words))
    written = sum(len(plain(text).split()) for text in found.texts)
    return {
        "clips": len(found.texts),
        "words kept of those said and written, %": round(100 * (written - wrong) / there, 1),
        "clips from joint to joint": joints,
        "with exactly their text": exact,
        "words": written,
        "not said there": wrong,
        "largest distance from a joint, s": round(float(np.abs(edges).max()), 2) if edges else 0.0,
        "parts left out": len(found.left),
    }


def plain(text: str) -> str:
    return " ".join(letters(text[a:b]) for a, b in units(text))


# --- texts ------------------------------------------------------------------------------------------------------------


def texts(options) -> None:
    """How much right, swapped and damaged texts differ from what is heard."""
    read = clips(options)
    with Listener(options.whisper) as listener:
        heard = [
            listener.hear(samples, options.language).text for samples, _ in progress_over(read, len(read), "clips")
        ]
    right = [text for _, text in read]
    half = [" ".join(text.split()[: max(1, len(text.split()) // 2)]) for text in right]
    kinds = {
        "right": right,
        "the next clip's": right[1:] + right[:1],
        "first half alone": half,
        "with the next clip's behind it": [f"{a} {b}" for a, b in zip(right, right[1:] + right[:1])],
        "every third word another": [
            " ".join(
                w if k % 3 else right[n - 1].split()[k % len(right[n - 1].split())] for k, w in enumerate(t.split())
            )
            for n, t in enumerate(right)
        ],
    }
    print(f"{'texts':<32} median  90 %  " + "  ".join(f">{bar}" for bar in BARS), f" (bar: {MOST_WRONG})")
    for kind, given in kinds.items():
        wrong = np.array([difference(text, said) for text, said in zip(given, heard)])
        beyond = "  ".join(f"{(wrong > bar).sum():4d}" for bar in BARS)
        print(f"{kind:<32} {np.median(wrong):6.3f} {np.quantile(wrong, 0.9):6.3f} {beyond} of {len(wrong)}", flush=True)


# --- words ------------------------------------------------------------------------------------------------------------


def words(options) -> None:
    """Times of words: ours, and those of the distillation's target, against `word_timestamps` of mlx-whisper."""
    import importlib

    module = importlib.import_module("mlx_whisper.transcribe")
    reader = Reader(options.whisper, options.language)
    module.ModelHolder.model, module.ModelHolder.model_path = reader.model, options.whisper
    heads = reader.published_heads()
    apart: dict[str, list[float]] = {"word times": [], "with pauses left out": [], "distillation's target": []}
    for number, (samples, _) in enumerate(clips(options)):
        theirs = module.transcribe(
            resample(samples, SAMPLE_RATE, WHISPER_RATE),
            path_or_hf_repo=options.whisper,
            language=options.language,
            temperature=0.0,
            condition_on_previous_text=False,
            word_timestamps=True,
            fp16=False,
        )
        said = [word for segment in theirs["segments"] for word in segment["words"]]
        reading = reader.read(samples, "".join(word["word"] for word in said), options.language)
        if reading is None:
            continue
        scores = np.stack([reading.attention(layer)[head] for layer, head in heads])
        frames, (text, ends) = encoder_frames(len(samples)), spelled(reading.tokens, reading.tokenizer)
        weights = token_weights(scores, reading.predicting, frames, MEDIAN)
        rows, columns = warped(-weights)
        target = np.append(columns[np.flatnonzero(np.diff(rows, prepend=-1))], frames)
        times = {
            "word times": timed_words(text, ends, token_frames(scores, reading.predicting, frames)),
            "with pauses left out": timed_words(
                text, ends, token_frames(scores, reading.predicting, frames, speech_frames(samples))
            ),
            "distillation's target": timed_words(text, ends, target),
        }
        for kind, own in times.items():
            apart[kind] += distances(kind, own, said, number)
    for kind, found in apart.items():
        off = np.abs(found)
        near = [100 * np.mean(off <= limit + 1e-6) for limit in (FRAME, LATENT)]
        print(
            f"{kind:<24} {len(off)} words: median {np.median(off):.3f} s, within {FRAME} s {near[0]:.1f} %,"
            f" within {LATENT} s {near[1]:.1f} %, most {off.max():.2f} s"
        )


def distances(kind: str, own, said, clip: int) -> list[float]:
    """Seconds between the starts of the same words; those beyond a latent frame are printed."""
    found, at = [], 0
    for word in said:
        n = len(units(word["word"]))
        if n and at + n <= len(own):
            found.append(own[at].start - word["start"])
            if abs(found[-1]) > LATENT:
                times = f"at {word['start']:.2f} s, ours {own[at].start:.2f} s"
                print(f"  {kind}, clip {clip}: {word['word']!r} {times}", flush=True)
        at += n
    return found if at == len(own) else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("chapters", "texts", "words"))
    parser.add_argument("--whisper", required=True, help="directory in mlx-whisper's format, or a Hub id")
    parser.add_argument("--corpus", required=True, type=Path)
    parser.add_argument("--language", default="en")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--first", type=int, default=0, help="clips to pass over")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/hearing"))
    options = parser.parse_args()
    {"chapters": chapters, "texts": texts, "words": words}[options.what](options)


if __name__ == "__main__":
    main()
