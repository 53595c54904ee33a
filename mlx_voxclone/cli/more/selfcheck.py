"""`voxclone selfcheck`: whether this machine computes what it must, in some ten minutes."""

import json

from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import add_shared

_DESCRIPTION = """\
Check that this machine computes what it must: kernels, compiled steps, precisions, quantised layers, streaming,
resuming, memory against its forecast, speed of speech. Each check runs in a process of its own.

Nothing is downloaded. The file of --json holds no paths and no names of users or machines; please paste it into the
issue form "A self-check". Exit code 1 if anything fell short."""


def _options(parser: Parser) -> None:
    parser.add_argument(
        "--full",
        action="store_true",
        help="steps and speech at the release's sizes too: 9 GB of disk, and memory as `voxclone doctor` says",
    )
    parser.add_argument("--only", metavar="A,B", help="some of the checks, by the names that the JSON file has")
    parser.add_argument("--json", metavar="FILE", help="JSON file to write; replaced if it exists")
    add_shared(parser, "--device", "--quiet")


@command(_DESCRIPTION, _options)
def main(options) -> int:
    from mlx_voxclone.audio.io import check_output
    from mlx_voxclone.cli.front.doctor import describe
    from mlx_voxclone.errors import ConfigError
    from mlx_voxclone.files.atomic import write_text_atomic
    from mlx_voxclone.process.machine import this_machine
    from mlx_voxclone.selfcheck.series import NAMES, as_json, good, run_series, table

    only = [name.strip() for name in (options.only or "").split(",") if name.strip()]
    if options.only is not None and (not only or set(only) - set(NAMES)):
        raise ConfigError(f"--only {options.only}: choose from {', '.join(NAMES)}")
    if options.json:
        check_output(options.json)
    machine = this_machine()
    print(describe(machine), "", sep="\n", flush=True)
    found = []
    checks = run_series(
        machine.device,
        full=options.full,
        only=only,
        begin=lambda k, count, check: message(f"{k} of {count}: {check.what}"),
    )
    try:
        for one in checks:
            found.append(one)
            message(f"    {one.outcome.verdict}: {one.outcome.told}")
            if options.json:  # after each: what an interruption leaves is of use
                write_text_atomic(options.json, json.dumps(as_json(found, machine, full=options.full), indent=1) + "\n")
    finally:
        if found:
            print(table(found))
    return 0 if good(found) else 1
