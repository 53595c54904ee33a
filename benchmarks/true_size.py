"""The release's own sizes in this machine: time and anonymous memory of loading, a LoRA step, and baking.

    python -m benchmarks.true_size --work DIR [--only load,step,doctor,bake,speak] [--tokens 256] [--bits 8,4]

DIR needs 26 GB free. `DIR/model` is `voxclone micro --preset full`, made once. Each stage runs in a process of its own:

- load: the language model in 8 bits with LoRA, head and decoder, ready to train;
- step: one optimiser step of task `speaker` on one sequence of `--tokens` positions, layers computed again in the
  backward pass, with everything the trainer does around it: both evaluations, checkpoint, export;
- doctor: what `voxclone doctor` foretells of that step;
- speak: quantised while loading, by `--bits` (0: in full), then one frame of speech;
- bake: a random encoder, random adapters of rank 16 on all linears and a voice into a new checkpoint, against `cp`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from benchmarks.memory import AnonymousPeak, anonymous
from mlx_voxclone.adapters.files import AdapterConfig, save_adapters
from mlx_voxclone.adapters.names import TARGETS, module_name, tensor_names
from mlx_voxclone.bake.bake import bake
from mlx_voxclone.checkpoint.release import WEIGHTS, Release, expected_shapes
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.data.options import LETTERS_PER_SECOND
from mlx_voxclone.doctor.forecast import TEXT, forecast, longest_sequence
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.model.widths import Quantisation
from mlx_voxclone.settings.config import RunConfig, load_run_config
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.train.speaker.adapted import AdaptedModel
from mlx_voxclone.train.speaker.stage import lora_model
from mlx_voxclone.train.speaker.task import SpeakerData, SpeakerTask, Utterance
from mlx_voxclone.train.stages.compute import Compute
from mlx_voxclone.train.stages.stage import run_trainer

CONFIG = Path(__file__).parents[1] / "configs" / "voxtral_speaker.yaml"
STAGES = ("load", "step", "doctor", "bake", "speak")
RANK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default=",".join(STAGES))
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--preset", default="full", help="a miniature, to try this program")
    parser.add_argument("--bits", default="8,4", help="widths to speak in")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--width", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    model = options.work / "model"
    if options.stage:
        mx.set_default_device(mx.cpu)
        found = {"load": load, "step": step, "doctor": doctor, "bake": bake_once, "speak": speak}[options.stage](
            model, options
        )
        print(json.dumps(found))
        return
    if not model.exists():
        with AnonymousPeak() as use:
            make_micro(model, options.preset)
        report("make", {"seconds": use.seconds, "peak_bytes": use.peak, "bytes": (model / WEIGHTS).stat().st_size})
    for stage in options.only.split(","):
        for width in options.bits.split(",") if stage == "speak" else ["0"]:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.true_size", *sys.argv[1:], "--stage", stage, "--width", width],
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            )
            name = f"speak in {width} bits" if stage == "speak" else stage
            report(name, json.loads(done.stdout.splitlines()[-1]))


def report(stage: str, found: dict) -> None:
    def text(key: str, value: float) -> str:
        if key.endswith("bytes_per_second"):
            return f"{key[:-17].rstrip('_') or 'rate'} {value / 1e6:.0f} MB/s"
        return f"{key.replace('_bytes', '')} {value / 1e9:.3f} GB" if "bytes" in key else f"{key} {value:.4g}"

    print(f"{stage}: {', '.join(text(k, v) for k, v in found.items())}", flush=True)


def configured(model: Path, tokens: int) -> RunConfig:
    """Task `speaker` with one clip a step, the longest of which has at most so many positions."""
    base = {"model": str(model), "task": "speaker", "precision": "float32", "speaker.recompute": True}
    base |= {"speaker.reference_seconds": [3.0, 3.0], "speaker.train.accumulate": 1, "speaker.train.batch_size": 1}
    config = load_run_config(CONFIG, base | {"data.path": "."})
    for seconds in np.arange(60.0, 1.0, -0.04):
        section = config.speaker.model_copy(update={"max_seconds": round(float(seconds), 2)})
        fitting = config.model_copy(update={"speaker": section})
        if sum(longest_sequence(fitting).values()) <= tokens:
            return fitting
    raise SystemExit(f"--tokens {tokens}: too few for a prompt of 3 s")


def ready(model: Path, tokens: int):
    config, release = configured(model, tokens), Release(model)
    return config, release, lora_model(release, config, Compute.of(config))


def load(model: Path, options) -> dict:
    """Ready to train."""
    before = anonymous()
    with AnonymousPeak() as use:
        _, _, lm = ready(model, options.tokens)
    trainable = sum(array.size for _, array in tree_flatten(lm.trainable_parameters()))
    return {
        "seconds": use.seconds,
        "before_bytes": before,
        "ready_bytes": anonymous(),
        "peak_bytes": use.peak,
        "trainable": trainable,
    }


def step(model: Path, options) -> dict:
    """One optimiser step through the trainer."""
    config, release, lm = ready(model, options.tokens)
    begun = anonymous()
    tokenizer = SpeechTokenizer.of(release)
    rng, sizes = np.random.default_rng(0), release.config.codec.codebook_sizes
    longest = longest_sequence(config)
    letters = int(config.speaker.max_seconds * LETTERS_PER_SECOND)
    text, voice = (TEXT * (1 + letters // len(TEXT)))[:letters], longest["voice"] - 1

    def codes(count: int) -> np.ndarray:
        return np.stack([rng.integers(0, size, count) for size in sizes]).astype(np.int32)

    utterances = [Utterance(str(k), text, codes(longest["frames"]), (codes(voice),)) for k in range(2)]
    section = config.speaker
    data = SpeakerData(utterances[:1], utterances[1:])
    task = SpeakerTask(AdaptedModel(lm, tokenizer.prompt), data, section)
    positions = task.collate([task.item(0, 0)]).ids.shape[1]
    settings = TrainSettings(steps=1, learning_rate=2e-5, eval_every=0, save_every=0)
    directory = options.work / "run"
    shutil.rmtree(directory, ignore_errors=True)
    with AnonymousPeak() as use:
        run_trainer(task, settings, directory)
    records = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    shutil.rmtree(directory)
    (trained,) = [record for record in records if "event" not in record]
    return {
        "tokens": positions,
        "loss": trained["loss"],
        "step_seconds": trained["seconds"],
        "seconds": use.seconds,
        "begun_bytes": begun,
        "peak_bytes": use.peak,
        "mlx_peak_bytes": 1e9 * trained["peak_memory_gb"],
    }


def doctor(model: Path, options) -> dict:
    """What is foretold of `step`, and how long that takes."""
    config = configured(model, options.tokens)
    began = time.perf_counter()
    foretold = forecast(config, "speaker")
    return {
        "took_seconds": time.perf_counter() - began,
        "tokens": sum(longest_sequence(config).values()),
        "step_seconds": foretold.step_seconds,
        "mlx_peak_bytes": foretold.peak,
    }


def speak(model: Path, options) -> dict:
    """Load as `say --bits` does, all weights read; then one frame behind a voice."""
    before = anonymous()
    quantisation = Quantisation(options.width) if options.width else None
    with AnonymousPeak() as loading:
        speaker = Speaker.load(model, quantisation=quantisation)
        mx.eval(speaker.model.parameters())
    held = anonymous()
    with AnonymousPeak() as use:
        said = speaker.say("Hello.", speaker.voices[0], max_seconds=0.08)
    return {
        "seconds": loading.seconds,
        "before_bytes": before,
        "peak_bytes": loading.peak,
        "held_bytes": held,
        "frames": said.frames,
        "speaking_seconds": use.seconds,
        "speaking_peak_bytes": use.peak,
    }


def bake_once(model: Path, options) -> dict:
    """Everything at once into a new checkpoint; `cp` of the weights for comparison, before it."""
    release, output = Release(model), options.work / "baked"
    _make_parts(release, options.work)
    shutil.rmtree(output, ignore_errors=True)
    size, copy = (model / WEIGHTS).stat().st_size, options.work / "copy"
    began = time.perf_counter()
    subprocess.run(["sh", "-c", f"cp '{model / WEIGHTS}' '{copy}' && sync '{copy}'"], check=True)
    copying = time.perf_counter() - began
    copy.unlink()
    before = anonymous()
    with AnonymousPeak() as use:
        made = bake(
            release,
            output,
            encoder=options.work / "encoder.safetensors",
            adapters=options.work / "adapters",
            voices={"anna": next((model / "voice_embedding").glob("*.pt"))},
        )
    shutil.rmtree(output)
    return {
        "seconds": use.seconds,
        "before_bytes": before,
        "peak_bytes": use.peak,
        "bytes_per_second": made.n_bytes / use.seconds,
        "cp_bytes_per_second": size / copying,
        "folded": len(made.folded),
    }


def _make_parts(release: Release, work: Path) -> None:
    rng = np.random.default_rng(0)
    if not (work / "encoder.safetensors").exists():
        tensors = {}
        for name, shape in expected_shapes(release.config, ["encoder"]).items():
            tensors[name] = 0.02 * rng.standard_normal(shape, dtype=np.float32)
        save_tensors(work / "encoder.safetensors", tensors)
    if not (work / "adapters").exists():
        tensors = {}
        for layer in range(release.config.backbone.n_layers):
            for leaf in TARGETS:
                module = module_name(layer, leaf)
                outputs, inputs = release.tensors.info(f"{module}.weight").shape
                a, b = tensor_names(module)
                tensors[a] = rng.standard_normal((inputs, RANK), dtype=np.float32)
                tensors[b] = 1e-5 * rng.standard_normal((RANK, outputs), dtype=np.float32)
        save_adapters(work / "adapters", tensors, AdapterConfig(RANK, 32.0, TARGETS, release.fingerprint()))


if __name__ == "__main__":
    main()
