"""Do the judges behave on real speech? Recordings, with noise of known levels, and through a codec, by `evaluate`.

    python -m benchmarks.judges --output DIR --speech SPEECH --whisper DIR --speaker-model FILE [--codec DIR]

SPEECH holds folders with recordings: READER/*.flac with READER/metadata.csv (`id|text`), SPEAKERS/NAME/*.flac of many
speakers without texts. Where there is no text, what the Whisper hears in the recording itself takes its place, and the
recording is not judged. `--codec` is what `benchmarks.recovery.codec` wrote; `--corpus`, what that was trained on: the
real speakers held out from it are judged, too.

Word error rates and similarities with their intervals; how often an interval from clips drawn anew holds the figure of
the clips that they are drawn from; and how well the speaker model tells speakers apart (halves of one clip against
clips of others).
"""

import argparse
import csv
import itertools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.recovery.codec import load_codec
from benchmarks.recovery.corpus import Corpus
from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio, write_flac
from mlx_voxclone.data.transcribe import Transcriber
from mlx_voxclone.evaluate.cases import Case
from mlx_voxclone.evaluate.measure import Evaluation, evaluate, summarise
from mlx_voxclone.evaluate.speakers import SpeakerModel, speaker_model
from mlx_voxclone.files.atomic import write_text_atomic

NOISE_DB = (30, 20, 10, 5, 0)  # speech to white noise
DRAWS = 400  # sets of clips whose intervals are looked at
MANY_SPEAKERS = 40  # clips for telling speakers apart
FIGURES = {"wer": "{:.1f} %", "cer": "{:.1f} %", "ge2e_similarity": "{:.3f}", "similarity": "{:.3f}", "estoi": "{:.2f}"}


@dataclass(frozen=True)
class Recording:
    id: str
    path: Path
    text: str | None
    language: str | None


def readers(speech: Path, clips: int, languages: dict[str, str]) -> dict[str, list[Recording]]:
    """Folder -> up to `clips` recordings, evenly spread: one for each speaker, or those of the one reader."""
    groups = {}
    for folder in sorted(path for path in speech.iterdir() if path.is_dir()):
        texts, table = {}, folder / "metadata.csv"
        if table.is_file():
            with table.open(encoding="utf-8", newline="") as lines:
                texts = {row[0]: row[1] for row in csv.reader(lines, delimiter="|", quoting=csv.QUOTE_NONE)}
        speakers = sorted(path for path in folder.iterdir() if path.is_dir())
        paths = [next(iter(sorted(s.glob("*.flac")))) for s in speakers] or sorted(folder.glob("*.flac"))
        spread = np.unique(np.linspace(0, len(paths) - 1, min(clips, len(paths))).astype(int))
        chosen = [paths[k] for k in spread]
        language = languages.get(folder.name)
        groups[folder.name] = [Recording(path.stem, path, texts.get(path.stem), language) for path in chosen]
    return groups


def held_out(directory: Path) -> list[Recording]:
    """Clips of real speakers that the codec's training has not heard."""
    corpus = Corpus.load(directory)
    seen = {clip.speaker for clip in corpus.split("train")}
    clips = [clip for clip in corpus.split("heldout", "real") if clip.speaker not in seen]
    return [Recording(clip.id, clip.path, None, None) for clip in clips]


def conditions(codec_directory: Path | None) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What becomes of a wave [samples], by name."""
    found = {f"noise {db} dB": lambda wave, db=db: with_noise(wave, db) for db in NOISE_DB}
    if codec_directory:
        codec, *_ = load_codec(codec_directory)
        found["codec"] = lambda wave: codec.decode_audio(codec.audio_codes(wave))[: len(wave)]
    return found


def with_noise(wave: np.ndarray, db: float) -> np.ndarray:
    """White noise `db` below the wave's mean power."""
    noise = np.random.default_rng(len(wave)).standard_normal(len(wave))
    return (wave + noise * np.sqrt(np.mean(np.square(wave)) * 10 ** (-db / 10))).astype(np.float32)


def judge(
    home: Path,
    recordings: list[Recording],
    made: dict[str, Callable[[np.ndarray], np.ndarray]],
    speaker: SpeakerModel,
    whisper: Transcriber,
) -> dict[str, Evaluation]:
    """Condition -> its evaluation; `original` is the recording itself, beside another clip of its speaker."""
    texts = {r.id: r.text or whisper.transcribe(r.path, r.language)[0] for r in recordings}
    known = [r for r in recordings if texts[r.id]]
    found = {}
    if all(r.text for r in recordings):
        others = dict(zip([r.id for r in known], [*known[1:], known[0]]))
        cases = [Case(r.id, r.path, texts[r.id], others[r.id].path, language=r.language) for r in known]
        found["original"] = evaluate(cases, speaker, whisper)
    for name, make in made.items():
        cases, folder = [], home / name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        for r in known:
            wave = make(read_audio(r.path))
            write_flac(folder / f"{r.id}.flac", wave / max(1.0, float(np.abs(wave).max())))
            cases.append(Case(r.id, folder / f"{r.id}.flac", texts[r.id], r.path, r.path, r.language))
        found[name] = evaluate(cases, speaker, whisper)
        write_text_atomic(folder / "evaluation.json", found[name].to_json())
        print(f"{home.name}, {name}: {cells(found[name])}", flush=True)
    return found


def cells(evaluation: Evaluation) -> dict[str, str]:
    """Figure -> mean and interval."""
    return {
        name: f"{form.format(i.mean)} ({i.ends('.3g')})"
        for name, form in FIGURES.items()
        if (i := evaluation.summary.get(name)) is not None
    }


def coverage(evaluation: Evaluation, figure: str) -> float:
    """Share of sets of as many clips, drawn from these with repetition, whose 95 % interval holds the mean of these."""
    rng, n = np.random.default_rng(0), len(evaluation.cases)
    truth, held = evaluation.summary[figure].mean, 0
    for draw in range(DRAWS):
        drawn = rng.integers(0, n, n)
        interval = summarise([evaluation.cases[k] for k in drawn], seed=draw)[figure]
        held += interval.low <= truth <= interval.high
    return held / DRAWS


def telling_apart(model: SpeakerModel, recordings: list[Recording]) -> dict[str, float]:
    """Cosines of the halves of a clip, and of clips of two speakers; the equal error rate."""
    halves = []
    for r in recordings:
        wave = read_audio(r.path)
        if len(wave) >= 6 * SAMPLE_RATE:
            halves.append([model.embed(part) for part in np.array_split(wave, 2)])
    same = np.array([a @ b for a, b in halves])
    different = np.array([one[0] @ other[1] for one, other in itertools.permutations(halves, 2)])
    bars = np.linspace(-1, 1, 2001)
    rates = [(np.mean(same < bar), np.mean(different >= bar)) for bar in bars]
    error = float(min(max(pair) for pair in rates))
    return {"clips": len(halves), "same": same.mean(), "different": different.mean(), "equal_error_rate": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--whisper", required=True)
    parser.add_argument("--speaker-model", required=True)
    parser.add_argument("--codec", type=Path)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--clips", type=int, default=24, help="of each folder")
    parser.add_argument("--only", nargs="*", help="folders of SPEECH to take (default: all)")
    parser.add_argument(
        "--language", nargs="*", default=[], metavar="FOLDER=CODE", help="of folders; others: found out"
    )
    options = parser.parse_args()
    speaker, languages = speaker_model(options.speaker_model), dict(one.split("=") for one in options.language)
    made, results = conditions(options.codec), {}
    groups = readers(options.speech, options.clips, languages)
    if options.corpus:
        groups["held-out"] = held_out(options.corpus)
    with Transcriber(options.whisper) as whisper:
        for name, recordings in groups.items():
            if options.only and name not in options.only:
                continue
            texted = all(r.text for r in recordings)
            wanted = made if texted else {k: v for k, v in made.items() if k == "codec"}
            if wanted:
                results[name] = judge(options.output / name, recordings, wanted, speaker, whisper)
    print(f"\nJudges: {options.whisper}, {speaker.name}\n\n| speech | condition | {' | '.join(FIGURES)} | held |")
    print("|" + "---|" * (len(FIGURES) + 3))
    for name, found in results.items():
        for condition, evaluation in found.items():
            told = cells(evaluation)
            held = f"{100 * coverage(evaluation, 'wer'):.0f} %"
            print(f"| {name} | {condition} | {' | '.join(told.get(f, '') for f in FIGURES)} | {held} |")
    many = max(
        readers(options.speech, MANY_SPEAKERS, languages).values(), key=lambda r: len({x.path.parent for x in r})
    )
    apart = {k: round(float(v), 3) for k, v in telling_apart(speaker, many).items()}
    print(f"\ntelling speakers apart: {apart}")
    told = {name: {c: asdict(e)["summary"] for c, e in found.items()} for name, found in results.items()}
    write_text_atomic(options.output / "judges.json", json.dumps({"groups": told, "apart": apart}, indent=1) + "\n")


if __name__ == "__main__":
    main()
