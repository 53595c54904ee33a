"""The miniature as Voxtral was released, its encoder hidden: what the product's own encoder makes of zero-shot cloning.

    python -m benchmarks.speaking.recover --output DIR [--model DIR] [--steps N] [--rounds N] [--per-voice N]

Pairs by the miniature's own voices, recordings of other speakers, task `encoder` as it is shipped (lengths and rates of
a miniature); in every further round pairs in the recordings' voices as the last encoder hears them (`voxclone pairs
--recordings`), and a new encoder taught by all of them; then task `distill` behind the last. Scored are clones of
speakers that none of them has heard: behind the withheld encoder's codes, behind each recovered one's, and behind the
last one's with the distilled adapters.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speaking import profile
from benchmarks.speaking.adapt import TEXTS, Adapting, changes, opened, parser_of
from benchmarks.speaking.score import agreement, gain, summary, table
from mlx_voxclone.cli.common import entry
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.miniature.readings import HELDOUT, readings
from mlx_voxclone.miniature.synth import SyntheticSpeaker, write_corpus
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.process.progress import SILENT, Reporter
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.train.run import run

RECORDED = 400_000  # number of the first speaker of the recordings
SPEAKERS, CLIPS, SECONDS = 64, 6, 2.5
AGREEMENT_CLIPS = 24
PAIRS_PER_VOICE, RECORDED_PAIRS, ENCODER_STEPS, DISTILL_STEPS = 24, 8, 1500, 200


def encoder_overrides(model: Path, pairs: list[Path], recordings: Path, steps: int, output: Path) -> dict[str, Any]:
    """The shipped recipe in the lengths and rates of a miniature."""
    return {
        **profile.overrides("data", "encoder"),
        "model": str(model),
        "output": output,
        "precision": "float32",
        "data.path": recordings,
        "data.heldout": 0.05,
        "encoder.pairs.path": pairs,
        "encoder.pairs.alone_steps": steps // 4,
        "encoder.train.steps": steps,
        "encoder.train.warmup_steps": steps // 30,
        "encoder.train.eval_every": steps // 3,
    }


def distill_overrides(model: Path, pairs: list[Path], encoder: Path, steps: int, output: Path) -> dict[str, Any]:
    return {
        **profile.overrides("speaker"),
        "model": str(model),
        "output": output,
        "precision": "float32",
        "distill": {"pairs": pairs, "items": 4 * steps, "presets": False},
        "speaker.encoder": encoder,
        "speaker.train.steps": steps,
        "speaker.train.warmup_steps": steps // 20,
        "speaker.train.eval_every": steps // 4,
    }


def unseen_agreement(true: Codec, other: Codec) -> dict[str, float]:
    """How two encoders code clips of unseen speakers: see `agreement`."""
    clips = [reading.wave() for reading in readings(HELDOUT + 500, AGREEMENT_CLIPS, 1, 5)]
    return agreement((true.audio_codes(wave), other.audio_codes(wave)) for wave in clips)


def recover(adapting: Adapting, steps: int, rounds: int, say: Callable[[str], None]) -> dict[str, dict]:
    """Train the encoder in rounds, distil behind the last, score all."""
    home, rows, began = adapting.home, {}, time.perf_counter()
    recordings = home / "recordings"
    if not recordings.exists():
        speakers = [SyntheticSpeaker.varied(RECORDED + k) for k in range(SPEAKERS)]
        write_corpus(recordings, speakers, CLIPS, adapting.seed, seconds=SECONDS)
    pairs, former, encoder = [adapting.pairs], None, None
    for k in range(1, rounds + 1):
        if encoder is not None:
            heard = ["--recordings", home / "encoder-1" / "data", "--encoder", encoder]
            pairs.append(adapting.make_pairs(home / f"pairs-{k}", RECORDED_PAIRS, *heard))
        place = home / f"encoder-{k}"
        if not place.exists():
            overrides = encoder_overrides(adapting.directory, pairs, recordings, steps, place)
            run(load_run_config(profile.CONFIGS / "voxtral_encoder.yaml", overrides), reporter=SILENT)
            say(f"{place.name}: {time.perf_counter() - began:.0f} s")
        encoder = place / "best" / "encoder.safetensors"
        before = adapting.score(adapting.cases, encoder=encoder)
        found = summary(before) | unseen_agreement(adapting.codec(), adapting.codec(encoder))
        rows[f"encoder, round {k}"] = found | (gain(former, before, TEXTS) if former else {})
        former = before
        say(f"{table({place.name: found})}\n{found['semantic']:.1%} semantic, {found['levels']:.2f} levels")
    place, began = home / "distill", time.perf_counter()
    if not place.exists():
        overrides = distill_overrides(adapting.directory, pairs, encoder, DISTILL_STEPS, place)
        run(load_run_config(profile.CONFIGS / "voxtral_distill.yaml", overrides), reporter=Reporter(say))
        say(f"distill: {time.perf_counter() - began:.0f} s")
    after = adapting.score(adapting.cases, place / "best", encoder)
    changed = gain(before, after, TEXTS) | {"drift": adapting.drift(place / "best")}
    rows["distilled behind the last"] = summary(after) | changed
    return rows


@entry
def main(argv: list[str]) -> None:
    """Recover, score, print."""
    parser = parser_of("recover", __doc__, speakers=8)
    parser.add_argument("--steps", type=int, default=ENCODER_STEPS, help="of the encoder")
    parser.add_argument("--rounds", type=int, default=2, help="of encoders")
    parser.add_argument("--per-voice", type=int, default=PAIRS_PER_VOICE, help="pairs of each own voice")
    args = parser.parse_args(argv)
    adapting, rows = opened(args, args.per_voice)
    rows |= recover(adapting, args.steps, args.rounds, lambda line: print(line, flush=True))
    print(table(rows))
    print(changes({name: row for name, row in rows.items() if "drift" in row}))
    write_text_atomic(args.output / "recovered.json", json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
