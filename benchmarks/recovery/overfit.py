"""Can the encoder learn one clip by heart? Its sound against that of codes optimised for this clip alone.

    python -m benchmarks.recovery.overfit --benchmark DIR --output DIR

`--benchmark` is an output directory of `benchmarks.recovery.run`: its codec, its pairs, its sizes. The recipe is the
shipped one; the recordings are one clip of 2 s of a held-out speaker, and it is measured on the same clip. Direct
optimisation of the latents (`voxclone encode --method optimise`) is what can be had from this decoder for this clip. An
encoder that cannot come near it on a single clip has too little capacity, gradient or time.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.recovery import training
from benchmarks.recovery.codec import STOCK, load_codec
from benchmarks.recovery.corpus import Corpus
from benchmarks.recovery.recipes import RECIPES, SCALES, Materials, Scale, recipe_config
from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.cli.common import Parser, entry
from mlx_voxclone.cli.options import add_shared
from mlx_voxclone.data.entries import CLIPS, HELDOUT, MANIFEST, SUMMARY, TRAIN
from mlx_voxclone.files.atomic import atomic_directory, write_text_atomic
from mlx_voxclone.process.device import set_device
from mlx_voxclone.train.encoder.optimise import optimise_codes, reconstruction_loss

SECONDS = 2.0
COPIES = 8  # of the clip among the recordings, so that a batch of them can be made


def overfit(codec: Path, pairs: Path | None, clip: np.ndarray, directory: Path, scale: Scale, steps: int) -> dict:
    """Train on the clip and compare.

    Args:
        codec: what `train_codec` wrote.
        pairs: of that codec; None: recordings alone.
        clip: float32 `[samples]`, 24 kHz.
        directory: to be made.
        scale: batch size, crops and learning rate.
        steps: of the training.

    Returns:
        `encoder`, `optimised`, `hidden`: the losses (`mel`, `stft`, `l1`) of what each codes of the clip decode to;
        `mel_ratio` of the first two; `steps`.
    """
    write_recordings(directory / "speech", clip)
    stock = Release(codec / STOCK)
    materials = Materials(stock.path, directory / "speech", pairs)
    recipe = replace(RECIPES["shipped"], pairs=pairs is not None)
    config = recipe_config(recipe, scale, materials, seed=0, steps=steps, save_every=0)
    training.train(config, directory / "run")
    recovered = training.checkpoint_codec(stock, directory / "run", steps)
    hidden = load_codec(codec)[0]

    def losses(codes: np.ndarray) -> dict[str, float]:
        return reconstruction_loss(hidden, codes, clip, config.encoder)

    result = {
        "steps": steps,
        "encoder": losses(recovered.audio_codes(clip)),
        "hidden": losses(hidden.audio_codes(clip)),
    }
    result["optimised"] = losses(optimise_codes(hidden, clip, losses=config.encoder).codes)
    return result | {"mel_ratio": result["encoder"]["mel"] / result["optimised"]["mel"]}


def write_recordings(directory: Path, clip: np.ndarray) -> None:
    """Prepared data of one clip: to learn from, several times, and to measure by."""
    if directory.exists():
        return
    with atomic_directory(directory) as home:
        (home / CLIPS).mkdir()
        write_wav(home / CLIPS / "clip.wav", clip, float32=True)
        names = [(f"clip-{k}", TRAIN) for k in range(COPIES)] + [("clip", HELDOUT)]
        same = {"audio": f"{CLIPS}/clip.wav", "samples": len(clip), "text": None, "speaker": "one", "language": None}
        same |= {"reference": None, "source": "clip.wav", "start": 0.0}
        lines = [json.dumps({"id": name, "split": split, **same}) + "\n" for name, split in names]
        (home / MANIFEST).write_text("".join(lines), encoding="utf-8")
        (home / SUMMARY).write_text(json.dumps({"source": "one clip"}) + "\n", encoding="utf-8")


@entry
def main(argv: list[str]) -> int:
    parser = Parser("overfit", __doc__.splitlines()[0], prog="python -m benchmarks.recovery.overfit")
    parser.add_argument(
        "--benchmark", required=True, type=Path, metavar="DIR", help="output of benchmarks.recovery.run"
    )
    parser.add_argument("--codec", type=Path, metavar="DIR", help="its codec (default: codec/ in it)")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="its corpus (default: corpus/ in it)")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where the run goes")
    parser.add_argument("--size", choices=list(SCALES), default="full", help="batch size and learning rate (full)")
    parser.add_argument("--steps", type=int, default=600, metavar="N", help="optimiser steps (600)")
    parser.add_argument("--kind", default="real", help="kind of the held-out clip (real)")
    add_shared(parser, "--device")
    options = parser.parse_args(argv)
    set_device(options.device)
    clips = Corpus.load(options.corpus or options.benchmark / "corpus").split("heldout", options.kind)
    clip = clips[0].read()[: round(SECONDS * SAMPLE_RATE)]
    codec, pairs = options.codec or options.benchmark / "codec", options.benchmark / "pairs"
    result = overfit(codec, pairs, clip, options.output, SCALES[options.size], options.steps)
    write_text_atomic(options.output / "overfit.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
