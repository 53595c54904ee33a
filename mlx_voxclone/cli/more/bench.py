"""`voxclone bench`: how fast this machine does what the product does, and how near its limit."""

import json
from typing import TYPE_CHECKING

from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import add_shared, quantisation

if TYPE_CHECKING:
    from mlx_voxclone.bench.measure import Row
    from mlx_voxclone.model.widths import Quantisation

_DESCRIPTION = """Measure speed, memory and share of the hardware's limit on this machine, with random weights.

Nothing is downloaded. From a checkout of the repository, mlx-lm does the same work by turns; so do mlx-audio and the
serving code (vLLM-Omni with PyTorch), where VOXCLONE_MLX_AUDIO_PYTHON and VOXCLONE_SERVING_PYTHON name interpreters
that have them.
docs/PERFORMANCE.md explains each line."""
FEW = 30  # frames, where quantised speaking is slow
FEWEST_PAIRS = 5  # runs beside another program: single ones of speech differ by a quarter
LAYERS = 2  # of the language model, where its step is timed
WORKS = {
    "spectral": "STFT and mel losses of a step",
    "encoder": "a training step of the encoder",
    "decode": "codes to audio",
    "lora": "a training step of the adapters",
    "say": "text to speech",
}


def _options(parser: Parser) -> None:
    parser.add_argument(
        "--only", metavar="A,B", default=",".join(WORKS), help="some of " + ", ".join(WORKS) + " (default: all)"
    )
    parser.add_argument(
        "--sizes",
        choices=("release", "small", "tiny"),
        default="release",
        help="of the model: the release's (with two layers of its language model), or a miniature's",
    )
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each kind of work, after a warm-up")
    add_shared(parser, "--bits", note=", where speaking is measured")
    add_shared(parser, "--group-size")
    parser.add_argument("--no-peers", action="store_true", help="do not run other programs for comparison")
    add_shared(
        parser,
        "--output",
        required=False,
        metavar="FILE",
        help="JSON file to write with the figures; replaced if it exists",
    )
    add_shared(parser, "--device", "--quiet")


def _check(parser: Parser, options) -> None:
    options.only = [name.strip() for name in options.only.split(",") if name.strip()]
    for name in options.only:
        if name not in WORKS:
            parser.error(f"--only {name}: choose from {', '.join(WORKS)}")
    if not options.only:
        parser.error("--only: name at least one of " + ", ".join(WORKS))
    options.quantisation = quantisation(parser, options)
    if options.quantisation is not None and "say" not in options.only:
        parser.error("--bits is for the work say; name it with --only")
    if not 1 <= options.repeats <= 1000:
        parser.error(f"--repeats must be from 1 to 1000, got {options.repeats}")


@command(_DESCRIPTION, _options, _check)
def main(options) -> None:
    import mlx.core as mx

    from mlx_voxclone.audio.output import check_output
    from mlx_voxclone.bench import measure as measuring
    from mlx_voxclone.bench.table import as_json, number, render
    from mlx_voxclone.cli.front.doctor import describe
    from mlx_voxclone.files.atomic import write_text_atomic
    from mlx_voxclone.process.machine import this_machine

    if options.output:
        check_output(options.output)
    machine = this_machine()
    precisions = {"float32": mx.float32} | ({} if machine.device == "cpu" else {"bfloat16": mx.bfloat16})
    rates = {name: measuring.product_rate(dtype=dtype)[0] for name, dtype in precisions.items()}
    told = ", ".join(f"{name} {number(rate / 1e12)} TFLOP/s" for name, rate in rates.items())
    print(describe(machine), f"{'products':<12} {told}", "", sep="\n", flush=True)
    if not options.no_peers and (line := measuring.without_peers()):
        message(line)
    rows = []
    for name in options.only:
        message(f"{name}: {WORKS[name]}")
        rows.append(row := measure(name, options.sizes, options.repeats, not options.no_peers, options.quantisation))
        message(f"{row.name}: {number(row.speed)} {row.unit}")
        mx.clear_cache()
    print(render(rows))
    if options.output:
        write_text_atomic(options.output, json.dumps(as_json(machine, rates, rows), indent=1) + "\n")


def on_cpu() -> bool:
    import mlx.core as mx

    return mx.default_device() == mx.cpu


def measure(name: str, sizes: str, repeats: int, peers: bool, quantised: "Quantisation | None" = None) -> "Row":
    """One row: a work of `WORKS` at the release's sizes or a miniature's; `quantised`: of speaking."""
    if name == "spectral":
        from mlx_voxclone.bench.spectral import measure_spectral

        return measure_spectral(repeats=repeats, peers=peers)
    if name in ("encoder", "decode"):
        from mlx_voxclone.bench.codec import measure_decode, measure_encoder_step

        return (measure_decode if name == "decode" else measure_encoder_step)(sizes, repeats=repeats, peers=peers)
    if name == "lora":
        from mlx_voxclone.bench.lora import LENGTHS, measure_lora_step
        from mlx_voxclone.miniature.layout import PRESETS, params_json

        params = params_json(PRESETS["full" if sizes == "release" else sizes], {})
        # On a CPU mlx-lm takes half a minute for the shortest of the sequences alone.
        lengths = LENGTHS[:1] if sizes == "release" and on_cpu() else LENGTHS
        params |= {"n_layers": min(LAYERS, params["n_layers"])}
        return measure_lora_step(params, lengths=lengths, repeats=repeats, peer=peers)
    from mlx_voxclone.bench.speech import measure_say

    preset, repeats = "tiny" if sizes == "tiny" else "speaking", max(repeats, FEWEST_PAIRS) if peers else repeats
    if quantised is None:
        return measure_say(preset, repeats=repeats, peers=peers)
    return measure_say(preset, FEW if on_cpu() else 100, repeats, peers, quantised)
