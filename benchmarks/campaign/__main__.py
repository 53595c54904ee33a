"""Try to break the commands: `python -m benchmarks.campaign --output DIR`.

Kills at random moments, signals, closed pipes, full disks, second processes, malformed inputs made by rule, hostile
inputs beside a secret, long trainings, all on a miniature. Prints what was tried, what held and what fell short; exit
code 1 if anything did.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks.campaign.endurance import endurance
from benchmarks.campaign.interruptions import Interruptions, Tried
from benchmarks.campaign.malformed import malformed
from benchmarks.campaign.place import good
from benchmarks.campaign.probes import probes
from mlx_voxclone.cli.common import entry
from mlx_voxclone.files.atomic import write_text_atomic


def table(found: Iterable[Tried]) -> str:
    """Markdown: of each kind what was tried, what held, what fell short; then the faults."""
    found = list(found)
    lines = ["| kind | tried | held | fell short |", "|---|---|---|---|"]
    for kind in dict.fromkeys(one.kind for one in found):
        own = [one for one in found if one.kind == kind]
        short = sum(bool(one.faults) for one in own)
        lines.append(f"| {kind} | {len(own)} | {len(own) - short} | {short} |")
    return "\n".join(
        [*lines, "", *(f"- {one.kind}, {one.what}: {'; '.join(one.faults)}" for one in found if one.faults)]
    )


@entry
def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.campaign", description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="where to work, and where the results go")
    parser.add_argument("--kills", type=int, default=200, help="processes killed at a random moment (%(default)s)")
    parser.add_argument("--signals", type=int, default=100, help="processes interrupted (%(default)s)")
    parser.add_argument("--malformed", type=int, default=1000, help="malformed inputs (%(default)s)")
    parser.add_argument("--probes", type=int, default=100, help="hostile inputs, of every family (%(default)s)")
    parser.add_argument("--steps", type=int, default=3000, help="of the long trainings (%(default)s; 0: none)")
    parser.add_argument("--no-disks", action="store_true", help="leave out pipes, full disks and second processes")
    parser.add_argument("--seed", type=int, default=0, help="of moments and malformations (%(default)s)")
    options = parser.parse_args(argv)
    home = options.output.resolve()
    home.mkdir(parents=True, exist_ok=True)
    inputs, found = good(home), []

    def keep(tries: Iterable[Tried]) -> None:
        for one in tries:
            found.append(one)
            if one.faults:
                print(f"{one.kind}, {one.what}: {'; '.join(one.faults)}", flush=True)
        content = [{"kind": one.kind, "what": one.what, "faults": one.faults} for one in found]
        write_text_atomic(home / "campaign.json", json.dumps(content, indent=1) + "\n")

    keep(malformed(inputs, home, options.malformed, seed=options.seed))
    keep(probes(inputs, home, options.probes))
    if options.kills or options.signals or not options.no_disks:
        tries = Interruptions(inputs, home, options.seed)
        keep(tries.kills(options.kills))
        keep(tries.signals(options.signals))
        if not options.no_disks:
            keep(tries.pipes())
            keep(tries.full_disks())
            keep(tries.pairs_of_processes())
    if options.steps:
        keep(endurance(inputs, home, options.steps))
    print(table(found))
    return int(any(one.faults for one in found))


if __name__ == "__main__":
    raise SystemExit(main())
