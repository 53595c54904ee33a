"""The miniature as Voxtral was released, its encoder hidden: what the product's own encoder makes of zero-shot cloning.

    python -m benchmarks.speaking.recover --output DIR [--model DIR] [--steps N]

Pairs by the miniature's own voices, recordings of other speakers, task `encoder` as it is shipped (lengths and rates of
a miniature), then task `distill` behind that encoder. Scored are clones of speakers that none of them has heard: behind
the withheld encoder's codes, behind the recovered one's, and behind these with the distilled adapters.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from benchmarks.recovery.recipes import LAST_RATE
from benchmarks.speaking.adapt import Adapting
from benchmarks.speaking.build import score_checkpoint
from benchmarks.speaking.ears import Ears
from benchmarks.speaking.score import Case, score_model, summary, table
from benchmarks.speaking.utterances import HELDOUT, readings
from mlx_voxclone.checkpoint.adapter_mix import AdapterSource, mix_adapters
from mlx_voxclone.checkpoint.micro import make_micro
from mlx_voxclone.checkpoint.release import load_model
from mlx_voxclone.checkpoint.writer import write_text_atomic
from mlx_voxclone.data.synth import SyntheticSpeaker, write_corpus
from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.run_config import load_run_config
from mlx_voxclone.train.lora import apply_adapters
from mlx_voxclone.train.run import run

CONFIGS = Path(__file__).parents[2] / "configs"
RECORDED = 400_000  # number of the first speaker of the recordings
SPEAKERS, CLIPS, SECONDS = 64, 6, 2.5
AGREEMENT_CLIPS = 24
ENCODER_STEPS, DISTILL_STEPS = 1500, 200


def encoder_overrides(model: Path, pairs: Path, recordings: Path, steps: int, output: Path) -> dict[str, Any]:
    """The shipped recipe in the lengths and rates of a miniature."""
    return {
        "model": str(model),
        "output": output,
        "precision": "float32",
        "data": {"path": recordings, "min_seconds": 0.5, "heldout": 0.05, "trim_silence": False},
        "encoder.crop_seconds": 1.04,
        "encoder.gain_db": [-4.0, 4.0],
        "encoder.pairs.path": pairs,
        "encoder.pairs.alone_steps": steps // 4,
        "encoder.train": {
            "steps": steps,
            "batch_size": 8,
            "accumulate": 1,
            "learning_rate": 2e-3,
            "min_lr_ratio": LAST_RATE,
            "warmup_steps": steps // 30,
            "betas": [0.8, 0.98],
            "eval_every": steps // 3,
            "save_every": 0,
            "sample_every": 0,
        },
    }


def distill_overrides(model: Path, pairs: Path, encoder: Path, steps: int, output: Path) -> dict[str, Any]:
    return {
        "model": str(model),
        "output": output,
        "precision": "float32",
        "distill": {"pairs": pairs, "items": 4 * steps, "presets": False},
        "speaker.encoder": encoder,
        "speaker.lora": {"rank": 8, "alpha": 16.0},
        "speaker.max_seconds": 4.0,
        "speaker.reference_seconds": [1.0, 3.0],
        "speaker.train": {
            "steps": steps,
            "batch_size": 8,
            "accumulate": 1,
            "learning_rate": 1e-3,
            "warmup_steps": steps // 20,
            "eval_every": steps // 4,
            "save_every": 0,
            "sample_every": 0,
            "patience": 0,
        },
    }


def agreement(true: Codec, other: Codec) -> dict[str, float]:
    """How two encoders code clips of unseen speakers: share of equal semantic codes, mean distance of levels."""
    same = total = 0
    distances = []
    for reading in readings(HELDOUT + 500, AGREEMENT_CLIPS, 1, 5):
        a, b = true.audio_codes(reading.wave()), other.audio_codes(reading.wave())
        same, total = same + int((a[0] == b[0]).sum()), total + a.shape[1]
        distances.append(np.abs(a[1:] - b[1:]).mean(axis=0))
    return {"semantic": same / total, "levels": float(np.concatenate(distances).mean())}


def score(adapting: Adapting, encoder: Path, adapters: Path | None = None) -> dict[str, float]:
    """Clones behind what `encoder` makes of the references."""
    true = adapting.codec()
    model = load_model(adapting.release, encoder_file=encoder)
    if adapters is not None:
        source = [AdapterSource(adapters)]
        apply_adapters(model, mix_adapters(source, adapting.release.fingerprint(), adapters).changes)

    def rows(case: Case) -> mx.array:
        return model.voice_embedding(model.audio_tokenizer.audio_codes(case.reference_wave()))

    heard = score_model(adapting.ears, true, model, adapting.prompt, adapting.cases, rows, seed=adapting.seed)
    return summary(heard)


def recover(adapting: Adapting, steps: int, say: Callable[[str], None]) -> dict[str, dict]:
    """Train the encoder, distil behind it, score both."""
    home, rows, began = adapting.home, {}, time.perf_counter()
    recordings = home / "recordings"
    if not recordings.exists():
        speakers = [SyntheticSpeaker.varied(RECORDED + k) for k in range(SPEAKERS)]
        write_corpus(recordings, speakers, CLIPS, adapting.seed, seconds=SECONDS)
    place = home / "encoder"
    if not place.exists():
        overrides = encoder_overrides(adapting.directory, adapting.pairs, recordings, steps, place)
        run(load_run_config(CONFIGS / "voxtral_encoder.yaml", overrides), quiet=True, say=say)
        say(f"encoder: {time.perf_counter() - began:.0f} s")
    encoder = place / "best" / "encoder.safetensors"
    codec = load_model(adapting.release, parts=["codec"], encoder_file=encoder).audio_tokenizer
    rows["recovered encoder"] = score(adapting, encoder) | agreement(adapting.codec(), codec)
    say(table({"recovered encoder": rows["recovered encoder"]}))
    place, began = home / "distill", time.perf_counter()
    if not place.exists():
        overrides = distill_overrides(adapting.directory, adapting.pairs, encoder, DISTILL_STEPS, place)
        run(load_run_config(CONFIGS / "voxtral_distill.yaml", overrides), quiet=True, say=say)
        say(f"distill: {time.perf_counter() - began:.0f} s")
    rows["recovered encoder, distilled"] = score(adapting, encoder, place / "best")
    return rows


def main(argv: list[str] | None = None) -> int:
    """Recover, score, print; 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speaking.recover", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="directory for everything, continued if it is there")
    parser.add_argument("--model", type=Path, help="a speaking miniature (the one that comes with the package)")
    parser.add_argument("--ears", type=Path, help="its judges (those that come with it)")
    parser.add_argument("--speakers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=ENCODER_STEPS, help="of the encoder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        model = args.model or args.output / "model"
        if not model.exists():
            make_micro(model, "speaking")
        ears = Ears.load(args.ears) if args.ears else Ears.load()
        adapting = Adapting(model, args.output, ears, args.speakers, args.seed, per_voice=120)
        rows = score_checkpoint(model, ears, adapting.cases, args.seed)
        rows |= recover(adapting, args.steps, lambda line: print(line, flush=True))
        print(table(rows))
        print(json.dumps({name: rows["recovered encoder"][name] for name in ("semantic", "levels")}))
        write_text_atomic(args.output / "recovered.json", json.dumps(rows, indent=1) + "\n")
    except VoxcloneError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
