"""`voxclone doctor`: what this machine can train, how long it takes, and what to change if it cannot."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import BY_CONFIGURATION, add_shared
from mlx_voxclone.process.amounts import format_bytes, format_seconds
from mlx_voxclone.process.device import set_device

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_voxclone.doctor.forecast import Forecast
    from mlx_voxclone.doctor.speaking import Speaking
    from mlx_voxclone.process.machine import Machine
    from mlx_voxclone.settings.config import RunConfig

_DESCRIPTION = """Predict what this machine can speak in, and train.

Without a configuration: describe the machine, and in which widths it speaks in real time (by how fast it reads weights,
which takes some seconds). With one: run small trial steps of its stages, and predict memory by
part, time and disk space. At the release's sizes that takes some minutes on a CPU."""
TIGHT = 0.9  # of what is usable


def _options(parser: Parser) -> None:
    add_shared(parser, "--config", "--set", "--json")
    add_shared(parser, "--device", default=None, note=f" {BY_CONFIGURATION}")
    add_shared(parser, "--quiet")


def _check(parser: Parser, options) -> None:
    if options.set and not options.config:
        parser.error("--set changes a configuration; name one with --config")


@command(_DESCRIPTION, _options, _check)
def main(options) -> None:
    from mlx_voxclone.process.machine import this_machine

    if not options.config:
        if options.device is None:
            set_device("auto")
        from mlx_voxclone.doctor.speaking import speaking

        machine = this_machine()
        message("speaking: timing products of each width")
        widths = speaking()
        if options.json:
            print(json.dumps(asdict(machine) | {"speaking": asdict(widths)}, indent=1))
        else:
            print(describe(machine), speaking_table(widths, machine), sep="\n")
        return
    from mlx_voxclone.doctor.clone import forecast_clips, in_order, plan_clips
    from mlx_voxclone.doctor.disk import disk_needed
    from mlx_voxclone.doctor.encoder import BASE, ENCODER, plan_encoders
    from mlx_voxclone.doctor.forecast import forecast
    from mlx_voxclone.doctor.pairs import forecast_pairs, plan_pairs
    from mlx_voxclone.files.atomic import free_bytes, same_disk
    from mlx_voxclone.files.cache import ROOT_VARIABLE
    from mlx_voxclone.settings.config import load_run_config, parse_set

    given = {} if options.device is None else {"device": options.device}
    config = load_run_config(options.config, parse_set(options.set) | given)
    set_device(config.device)
    machine = this_machine()
    pairs, encoders, forecasts = plan_pairs(config), plan_encoders(config), []
    clips = plan_clips(config, trains_encoder=bool(encoders.trainings))
    disks = [Disk("disk", "`output`", disk_needed(config, encoders), free_bytes(config.run_dir))]
    if pairs is not None:
        shared = same_disk(pairs.place, config.run_dir)
        need = encoders.cache_bytes(config, shared=shared)
        if pairs.missing:
            message("pairs: running small trial steps")
            forecasts.append(forecast_pairs(config, pairs))
            need = {"automatic pairs": pairs.nbytes(config.encoder.pairs.max_seconds)} | need
        disks[0].needed.update(need if shared else encoders.copy_bytes(config))
        if need and not shared:
            disks.append(Disk(f"disk of {pairs.place}", ROOT_VARIABLE, need, free_bytes(pairs.place)))
    for stage in config.stages:
        if stage == ENCODER and not encoders.trainings:
            continue  # there is one already
        message(f"{stage}: running small trial steps")
        forecasts += encoders.forecasts(config, forecast) if stage == ENCODER else [forecast(config, stage)]
    if clips is not None:
        message("codes, judging, voice: running small trials")
        forecasts = in_order(forecasts, forecast_clips(config, *clips))
    cached = {"pairs": pairs.place} if pairs is not None and not pairs.missing else {}
    cached |= {BASE: encoders.cached} if encoders.cached is not None else {}
    if options.json:
        stages = [asdict(stage) | {"peak": stage.peak, "seconds": stage.seconds} for stage in forecasts]
        content = {"machine": asdict(machine), "stages": stages, "seconds": sum(stage.seconds for stage in forecasts)}
        content |= {"disk": disks[0].needed, "free": disks[0].free}
        content |= {f"{name.replace(' ', '_')}_cached": _text(cached.get(name)) for name in ("pairs", BASE)}
        content |= {"cache_disk": asdict(disks[1]) if len(disks) > 1 else None}
        print(json.dumps(content, indent=1))
        return
    tables = [f"\n{name}: cached in {place}" for name, place in cached.items()]
    tables += [table(stage, machine) for stage in forecasts]
    print("\n".join([describe(machine), *tables, time_table(forecasts), *map(_disk, disks)]))
    for line in advice(config, forecasts, machine, disks):
        print(line)


@dataclass(frozen=True)
class Disk:
    """What a run will write to a disk.

    Attributes:
        name: of the table.
        chosen_by: the key or variable that decides which disk it is.
        needed: bytes, by what they are for.
        free: bytes.
    """

    name: str
    chosen_by: str
    needed: dict[str, float]
    free: int


def describe(machine: "Machine") -> str:
    """The machine in two lines."""
    limits = f" (wired, {format_bytes(machine.cache)} of it for freed buffers)" if machine.cache else ""
    return (
        f"{'machine':<12} {machine.chip}, {machine.cores} cores, {format_bytes(machine.memory)}, {machine.system}\n"
        f"{'device':<12} {machine.device}, MLX {machine.mlx}, {format_bytes(machine.usable)} usable{limits}"
    )


def speaking_table(found: "Speaking", machine: "Machine") -> str:
    """What each width takes, and which of them speak in real time."""
    row = "  {:<10} {:>9} {:>11} {:>20} {:>18}  {}"
    lines = [
        f"\nspeaking (a copy in memory: {format_bytes(found.bandwidth)}/s)",
        row.format("weights", "memory", "a frame", "products read", "real time, at most", "").rstrip(),
    ]
    for width in found.widths:
        rates = " / ".join(f"{rate / 1e9:.3g}" for rate in width.rates) + " GB/s"
        cells = (format_bytes(width.memory), format_bytes(width.frame.all), rates, f"{width.times_real_time:.2g} x")
        lines.append(row.format(width.name, *cells, _verdict(width.memory, machine)))
    return "\n".join([*lines, speaking_verdict(found, machine)])


def speaking_verdict(found: "Speaking", machine: "Machine") -> str:
    """The widest that speaks in real time and fits, in words."""
    from mlx_voxclone.doctor.speaking import SPARE

    fitting = [width for width in found.widths if width.memory <= TIGHT * machine.usable]
    fast = [width for width in fitting if width.times_real_time >= 1]
    if not fitting:
        return "  verdict: none of them fits into this machine"
    if not fast:
        return "  verdict: none of them speaks in real time here; all of them speak, but not as fast as one listens"
    best = next((width for width in fast if width.times_real_time >= SPARE), fast[-1])
    option = f"say --bits {best.name.split()[0]}" if best.name.endswith("bits") else "say"
    close = "" if best.times_real_time >= SPARE else ", with little to spare"
    return f"  verdict: {best.name} in real time{close} ({option}), if nothing but reading the weights takes time"


def table(stage: "Forecast", machine: "Machine") -> str:
    """A stage: memory by part, time."""
    lines = [f"\n{stage.stage} ({stage.note})"]
    lines += [f"  {name:<32} {format_bytes(size):>8}" for name, size in stage.parts.items() if size]
    lines.append(f"  {'memory at its peak':<32} {format_bytes(stage.peak):>8}  {_verdict(stage.peak, machine)}")
    whole = f", {stage.steps} {stage.unit}s: {format_seconds(stage.seconds)}" if stage.steps else ""
    lines.append(f"  {f'time of a {stage.unit}':<32} {format_seconds(stage.step_seconds):>8}{whole}")
    return "\n".join(lines)


def time_table(stages: "list[Forecast]") -> str:
    """The stages together."""
    lines = [f"  {stage.stage:<32} {format_seconds(stage.seconds):>12}" for stage in stages if stage.steps]
    without = [stage.stage for stage in stages if not stage.steps]
    beside = f" and {', '.join(without)}, as long as epochs decide" if without else ""
    total = format_seconds(sum(stage.seconds for stage in stages))
    return "\n".join(["\ntime", *lines, f"  {'in all, about':<32} {total:>12}{beside}"])


def _text(place: "Path | None") -> str | None:
    return None if place is None else str(place)


def _verdict(peak: float, machine: "Machine") -> str:
    share = peak / machine.usable if machine.usable else float("inf")
    word = "fits" if share <= TIGHT else "tight" if share <= 1 else "does not fit"
    return f"{word}: {share:.0%} of what is usable"


def _disk(disk: Disk) -> str:
    lines = [f"\n{disk.name}"] + [f"  {name:<32} {format_bytes(size):>8}" for name, size in disk.needed.items()]
    total = format_bytes(sum(disk.needed.values()))
    return "\n".join([*lines, f"  {'needed / free':<32} {total} / {format_bytes(disk.free)}"])


def advice(config: "RunConfig", stages: "list[Forecast]", machine: "Machine", disks: list[Disk]) -> list[str]:
    """The verdict, and what to change."""
    lines = []
    for stage in stages:
        if stage.peak > TIGHT * machine.usable:
            changes = _changes(config, stage)
            what = f"; try {', '.join(f'--set {change}' for change in changes)}" if changes else ""
            lines.append(f"{stage.stage}: too much memory for this machine{what or '; it needs a larger one'}")
    for disk in disks:
        missing = sum(disk.needed.values()) - disk.free
        if missing > 0:
            lines.append(f"{disk.name}: free {format_bytes(missing)} more, or set {disk.chosen_by} to another disk")
    return ["", *(lines or ["verdict: this machine can train it"])]


def _changes(config: "RunConfig", stage: "Forecast") -> list[str]:
    """Assignments that make a stage need less memory."""
    if stage.stage == "pairs":
        return _pairs_changes(config)
    if stage.stage == "judging":
        bits = config.speaker.quantise.bits
        return [f"speaker.quantise.bits={8 if bits == 0 else 4}"] if bits != 4 else []
    if not stage.settings:  # nothing decides how much it takes
        return []
    return _speaker_changes(config) if stage.stage == "speaker" else _encoder_changes(config, stage)


def _pairs_changes(config: "RunConfig") -> list[str]:
    batch = config.encoder.pairs.batch
    return [f"encoder.pairs.batch={batch // 2}"] if batch > 1 else []


def _encoder_changes(config: "RunConfig", stage: "Forecast") -> list[str]:
    from mlx_voxclone.doctor.encoder import BASE

    section, changes, key = config.encoder, [], stage.settings
    train = getattr(section, key.split(".")[1])
    if section.discriminators.enabled and stage.stage != BASE:
        changes.append("encoder.discriminators.enabled=false")
    if train.batch_size > 1:
        changes += [f"{key}.batch_size={train.batch_size // 2}", f"{key}.accumulate={2 * train.accumulate}"]
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
