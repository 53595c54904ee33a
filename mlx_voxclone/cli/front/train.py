"""`voxclone train`: carry out a configuration, or the smoke test."""

from pathlib import Path

from mlx_voxclone.cli.common import Parser, command, message, set_quiet
from mlx_voxclone.cli.options import BY_CONFIGURATION, add_shared
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.process.amounts import format_bytes, format_seconds
from mlx_voxclone.process.device import set_device
from mlx_voxclone.process.memory import memory_limits
from mlx_voxclone.process.progress import BARS, SILENT, Reporter

DESCRIPTION = """\
Train from a configuration: the codec's encoder (task encoder), LoRA adapters for a speaker (task speaker), or
everything from recordings to a baked checkpoint (task clone). --resume continues an interrupted run.

Clone only a voice whose owner has agreed to it. Weights derived from Voxtral are CC BY-NC 4.0."""


def _options(parser: Parser) -> None:
    add_shared(parser, "--config")
    parser.add_argument("--smoke-test", action="store_true", help="train a miniature of everything, in about a minute")
    parser.add_argument(
        "--resume",
        metavar="DIR",
        help="continue what an interruption left: a run directory, by default with its own configuration",
    )
    add_shared(parser, "--max-steps", note=" of each training; a longer warm-up is shortened to a tenth of them")
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="passes over the data of each training, instead of steps"
    )
    add_shared(parser, "--lr", note=" (task clone: of the speaker stage)")
    parser.add_argument(
        "--sweep-lr",
        type=float,
        nargs="*",
        metavar="X",
        help="run a short training with each learning rate (60 steps, or --max-steps) and compare the resulting losses;"
        " without numbers, five rates from 1e-7 to 2e-5",
    )
    parser.add_argument("--lora-rank", type=int, metavar="N", help="rank of the LoRA adapters")
    add_shared(parser, "--set")
    add_shared(parser, "--seed", "--device", default=None, note=f" {BY_CONFIGURATION}")
    add_shared(parser, "--quiet")


@command(DESCRIPTION, _options)
def main(options) -> int:
    from mlx_voxclone.train.loop.distributed import join

    ranks = join()
    if ranks.several and (options.smoke_test or options.sweep_lr is not None):
        option = "--smoke-test" if options.smoke_test else "--sweep-lr"
        raise ConfigError(f"{option} is for one process: start it without mlx.launch")
    set_quiet(options.quiet or not ranks.first)
    config = _config(main.parser(), options)
    set_device(config.device)
    if (limits := memory_limits()) is not None:
        message(f"memory: {limits}")
    if options.smoke_test:
        from mlx_voxclone.doctor.smoke import smoke_test

        return smoke_test(config, SILENT if options.quiet else BARS)
    from mlx_voxclone.train.run import run

    reporter = Reporter(message, bars=not options.quiet)
    config.check_paths()
    if options.sweep_lr is not None:
        from mlx_voxclone.train import sweep

        points = sweep.sweep(config, options.sweep_lr or sweep.RATES, reporter=reporter)
        print("\n".join(sweep.lines(points)))
        return 0
    resume = Path(options.resume) if options.resume else None
    summary = run(config, resume=resume, reporter=reporter)
    if ranks.first:
        _print(summary)
    return 0


def _config(parser: Parser, options):
    """The configuration: the file's, or the resumed run's own, under the flags."""
    from mlx_voxclone.files import shipped
    from mlx_voxclone.settings.config import load_run_config, parse_set
    from mlx_voxclone.settings.differences import own_config

    path = options.config
    if path is None and options.resume:
        path = own_config(options.resume)
    if path is None and options.smoke_test:
        path = shipped.shipped(shipped.MAIN)
    if path is None:
        parser.error(f"--config is missing: name a YAML file, or one of {', '.join(shipped.names())}")
    overrides = parse_set(options.set)
    steps = options.max_steps
    if options.sweep_lr is not None:
        from mlx_voxclone.train.sweep import STEPS

        if options.resume or options.lr is not None or options.smoke_test:
            parser.error("--sweep-lr starts trainings of its own: leave out --resume, --lr and --smoke-test")
        steps = STEPS if steps is None and options.epochs is None else steps
    for key in ("seed", "device"):
        if getattr(options, key) is not None:
            overrides[key] = getattr(options, key)
    return load_run_config(
        path,
        overrides,
        max_steps=steps,
        epochs=options.epochs,
        learning_rate=options.lr,
        lora_rank=options.lora_rank,
        shorten_warmup=options.config is not None,
    )


def _print(summary) -> None:
    from mlx_voxclone.train.run import disk_usage

    for name, result in summary.results.items():
        first = result.evaluations[0]["metrics"][result.metric]
        early = ", stopped early" if result.stopped_early else ""
        print(
            f"{name}: {result.steps} steps{early}; held-out {result.metric} {first:.4g} -> {result.best_metric:.4g}"
            f" (best at step {result.best_step}); training loss {result.first_loss:.4g} -> {result.smoothed_loss:.4g}"
        )
    if summary.delivered is not None:
        print(f"delivered: {summary.delivered['name']}; {summary.delivered['why']}")
    if summary.baked is not None:
        fold = ""
        if "fold_error" in summary.baked:
            fold = (
                f"; folded against adapter {summary.baked['fold_error']:.2%}, the adapter's effect"
                f" {summary.baked['adapter_effect']:.2%} of the RMS"
            )
        print(f"baked: {summary.baked['path']} with voice {summary.baked['voice']!r}{fold}")
    files, size = disk_usage(Path(summary.run_dir))
    print(
        f"{summary.run_dir}: {files} files, {format_bytes(size)}; {format_seconds(summary.seconds)},"
        f" peak memory {summary.peak_memory_gb:.2f} GB"
    )
