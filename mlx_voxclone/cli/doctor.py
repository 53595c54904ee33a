"""`voxclone doctor`: what this machine can train, how long it takes, and what to change if it cannot."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from mlx_voxclone.cli.common import (
    Parser,
    add_device,
    add_quiet,
    entry,
    format_bytes,
    format_seconds,
    message,
    set_device,
    set_quiet,
)

if TYPE_CHECKING:
    from mlx_voxclone.machine import Machine
    from mlx_voxclone.run_config import RunConfig
    from mlx_voxclone.train.forecast import Forecast

_DESCRIPTION = """Say what this machine can train.

Without a configuration: what the machine is. With one: real steps of its trainings in the small, and from them memory
by part, time, disk, and a verdict. At the release's sizes a speaker's take a minute on a CPU."""
TIGHT = 0.9  # of what is usable


@entry
def main(argv: list[str]) -> None:
    parser = Parser("doctor", _DESCRIPTION)
    parser.add_argument("--config", metavar="C", help="YAML file, such as configs/voxtral_speaker.yaml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", help="any key of the configuration; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    add_device(parser)
    add_quiet(parser)
    options = parser.parse_args(argv)
    set_quiet(options.quiet)
    set_device(options.device)
    if options.set and not options.config:
        parser.error("--set changes a configuration; name one with --config")

    from mlx_voxclone.machine import this_machine

    machine = this_machine()
    if not options.config:
        print(json.dumps(asdict(machine), indent=1) if options.json else describe(machine))
        return
    from mlx_voxclone.checkpoint.writer import free_bytes
    from mlx_voxclone.run_config import load_run_config, parse_set
    from mlx_voxclone.train.forecast import disk_needed, forecast

    config = load_run_config(options.config, parse_set(options.set))
    found = []
    for stage in config.stages:
        message(f"{stage}: trying steps in the small")
        found.append(forecast(config, stage))
    disk, free = disk_needed(config), free_bytes(config.run_dir)
    if options.json:
        stages = [asdict(stage) | {"peak": stage.peak} for stage in found]
        print(json.dumps({"machine": asdict(machine), "stages": stages, "disk": disk, "free": free}, indent=1))
        return
    print("\n".join([describe(machine), *(table(stage, machine) for stage in found), _disk(disk, free)]))
    for line in advice(config, found, machine, disk, free):
        print(line)


def describe(machine: "Machine") -> str:
    """The machine in two lines."""
    return (
        f"{'machine':<12} {machine.chip}, {machine.cores} cores, {format_bytes(machine.memory)}, {machine.system}\n"
        f"{'device':<12} {machine.device}, MLX {machine.mlx}, {format_bytes(machine.usable)} usable"
    )


def table(stage: "Forecast", machine: "Machine") -> str:
    """A stage: memory by part, time."""
    lines = [f"\n{stage.stage} ({stage.note})"]
    lines += [f"  {name:<32} {format_bytes(size):>8}" for name, size in stage.parts.items() if size]
    lines.append(f"  {'memory at its peak':<32} {format_bytes(stage.peak):>8}  {_verdict(stage.peak, machine)}")
    whole = f", {stage.steps} steps: {format_seconds(stage.steps * stage.step_seconds)}" if stage.steps else ""
    lines.append(f"  {'time of a step':<32} {format_seconds(stage.step_seconds):>8}{whole}")
    return "\n".join(lines)


def _verdict(peak: float, machine: "Machine") -> str:
    share = peak / machine.usable if machine.usable else float("inf")
    word = "fits" if share <= TIGHT else "tight" if share <= 1 else "does not fit"
    return f"{word}: {share:.0%} of what is usable"


def _disk(disk: dict[str, float], free: int) -> str:
    lines = ["\ndisk"] + [f"  {name:<32} {format_bytes(size):>8}" for name, size in disk.items()]
    return "\n".join([*lines, f"  {'needed / free':<32} {format_bytes(sum(disk.values()))} / {format_bytes(free)}"])


def advice(
    config: "RunConfig", stages: "list[Forecast]", machine: "Machine", disk: dict[str, float], free: int
) -> list[str]:
    """The verdict, and what to change."""
    lines = []
    for stage in stages:
        if stage.peak > TIGHT * machine.usable:
            changes = _encoder_changes(config) if stage.stage == "encoder" else _speaker_changes(config)
            what = f"; try {', '.join(f'--set {change}' for change in changes)}" if changes else ""
            lines.append(f"{stage.stage}: too much memory for this machine{what or '; it needs a larger one'}")
    if sum(disk.values()) > free:
        lines.append(f"disk: free {format_bytes(sum(disk.values()) - free)} more, or set `output` to another disk")
    return ["", *(lines or ["verdict: this machine can train it"])]


def _encoder_changes(config: "RunConfig") -> list[str]:
    section, changes = config.encoder, []
    if section.discriminators.enabled:
        changes.append("encoder.discriminators.enabled=false")
    if section.train.batch_size > 1:
        half = section.train.batch_size // 2
        changes += [f"encoder.train.batch_size={half}", f"encoder.train.accumulate={2 * section.train.accumulate}"]
    if section.crop_seconds > 2:
        changes.append(f"encoder.crop_seconds={section.crop_seconds / 2:g}")
    return changes


def _speaker_changes(config: "RunConfig") -> list[str]:
    section, changes = config.speaker, []
    if not section.recompute:
        changes.append("speaker.recompute=true")
    if section.quantise.bits != 4:
        changes.append(f"speaker.quantise.bits={8 if section.quantise.bits == 0 else 4}")
    if section.train.batch_size > 1:
        changes.append("speaker.train.batch_size=1")
    if section.max_seconds > 10:
        changes.append("speaker.max_seconds=10")
    if section.reference_seconds[1] > 10:
        changes.append(f"'speaker.reference_seconds=[{section.reference_seconds[0]:g}, 10]'")
    return changes
