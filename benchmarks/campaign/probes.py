"""Security probes: hostile inputs, and whether anything was read, written, run or filled that must not be.

Each runs a command as users do, in a fresh copy of the good inputs with a secret beside it. Nothing of the secret may
be in what the command says or writes; nothing outside of the copy may change; no code of an input may run; the command
ends soon, in little memory, with exit code 0 or 2 and one line of error without an order to a terminal.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.campaign.forked import Forked
from benchmarks.campaign.hostile import probes as all_probes
from benchmarks.campaign.hostile.names import NAMES
from benchmarks.campaign.hostile.remote import serving
from benchmarks.campaign.hostile.scene import SECRET, TRAIN, Probe, Scene, state_of
from benchmarks.campaign.interruptions import Tried
from benchmarks.campaign.malformed import MEMORY
from benchmarks.campaign.process import TRACEBACK
from benchmarks.campaign.process import run as run_command
from mlx_voxclone.errors import VoxcloneError

LOOK = 0.1  # seconds between two looks at a process
WAITING = 20  # times the limit that a process may take on a machine that is busy with others
# Orders to a terminal, in one byte or several, and marks that turn the direction of writing around.
ORDERS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_PAGE, _TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
_PAGE_THAT_RUNS = NAMES["a page"].partition("</")[0].encode()
_MADE_BY_PROBES = re.compile(r"executed.*")


@dataclass(frozen=True)
class Watched:
    """How a process ended: exit code, what it said, bytes of memory at the most, whether it had to be ended."""

    code: int
    output: bytes
    errors: bytes
    memory: int
    slow: bool = False


def watched(forked: Forked, argv: Sequence[str], scene: Scene, seconds: float) -> Watched:
    """Run a command until it ends, takes more memory than it may, or more time.

    Time is what it computes, or what it sleeps in a row: how long it waits for others on a busy machine is not its own.
    """
    temporary = scene.place / "tmp"
    temporary.mkdir(exist_ok=True)
    places = {name: str(scene.place / "home" / name) for name in ("HF_HOME", "XDG_CACHE_HOME")}
    places["MPLCONFIGDIR"] = str(scene.place.parent.parent / "matplotlib")  # its list of fonts takes a while to make
    environment = {
        **os.environ, **places, "VOXCLONE_CACHE": str(scene.place / "cache"), "TMPDIR": str(temporary),
        "HOME": str(scene.place / "home"), "HF_HUB_OFFLINE": "1", "PROBED_SECRET": SECRET,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        streams = [Path(place, name) for name in ("output", "errors")]
        for path in streams:
            path.touch()
        pid = forked.start(list(argv), scene.place, environment, *streams)
        began = asleep = time.monotonic()
        spent, memory, slow = -1.0, 0, False
        while (state := _state(pid)) is not None:
            now = time.monotonic()
            memory = max(memory, state[1])
            if state[0] or state[2] != spent:
                spent, asleep = state[2], now
            slow = slow or spent > seconds or now - asleep > seconds or now - began > WAITING * seconds
            if slow or memory > MEMORY:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                break
            time.sleep(LOOK)
        code, most = forked.ended()
        output, errors = (path.read_bytes() for path in streams)
        return Watched(code, output, errors, max(memory, most * (1 if sys.platform == "darwin" else 1024)), slow)


def _state(pid: int) -> tuple[bool, int, float] | None:
    """Whether a process computes, its memory in bytes, the seconds it has computed; None: it has ended."""
    try:
        parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _told(pid)
    if parts[0] == "Z":
        return None
    return parts[0] == "R", int(parts[21]) * _PAGE, (int(parts[11]) + int(parts[12])) / _TICKS


def _told(pid: int) -> tuple[bool, int, float] | None:
    """`_state` where there is no /proc."""
    said = subprocess.run(
        ["ps", "-o", "state=,rss=,time=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    parts = said.stdout.split()
    if len(parts) != 3 or parts[0][0] == "Z":
        return None
    clock = re.split(r"[:-]", parts[2])
    seconds = sum(float(part) * unit for part, unit in zip(reversed(clock), (1, 60, 3600, 86400)))
    return parts[0][0] == "R", int(parts[1]) * 1024, seconds


def tried(forked: Forked, probe: Probe, good: Path, home: Path) -> tuple[str, ...]:
    """What did not hold."""
    with contextlib.ExitStack() as stack:
        asked = any("{server}" in part for part in probe.argv)
        server = stack.enter_context(serving(home / "place")) if asked else ""
        scene = Scene.fresh(good, home, server)
        probe.make(scene)
        argv = [part.format(outside=scene.outside, server=server) for part in probe.argv]
        if any("\0" in part for part in argv):
            return ()
        before, inside = state_of(scene.outside), state_of(scene.place, whole=False)
        made_before = _elsewhere()
        done = watched(forked, argv, scene, probe.seconds)
        changed = sorted(str(name) for name, value in _difference(before, state_of(scene.outside)) if not value)
        faults = [*_said(done), *([f"outside changed: {', '.join(changed[:3])}"] if changed else [])]
        faults += [f"made outside: {name}" for name in sorted(_elsewhere() - made_before)]
        faults += [f"made outside: {path.name}" for path in home.iterdir() if path.name not in ("place", "outside")]
        return (*faults, *_leaked(probe, scene, inside, done))


def _difference(before: dict, after: dict) -> Iterator[tuple[str, bool]]:
    for name in before.keys() | after.keys():
        yield name, before.get(name) == after.get(name)


def _elsewhere() -> set[str]:
    """What probes try to make in the directory of temporary files."""
    return {name for name in os.listdir("/tmp") if _MADE_BY_PROBES.fullmatch(name)}


def _said(done: Watched) -> list[str]:
    """What must not be said, and how a command must not end."""
    errors = done.errors.decode("utf-8", "replace")
    lines = [line for line in errors.splitlines() if line.startswith("error")]
    faults = []
    if done.slow:
        faults.append("took too long")
    elif done.memory > MEMORY:
        faults.append(f"took {done.memory / 1e9:.1f} GB")
    elif done.code not in (0, 2):
        faults.append(f"exit code {done.code}: {errors.strip()[-200:]!r}")
    elif len(lines) != (done.code == 2):
        faults.append(f"exit code {done.code} and {len(lines)} lines of error: {errors.strip()[-200:]!r}")
    if TRACEBACK in errors:
        faults.append(f"traceback: {errors.strip().splitlines()[-1][:200]!r}")
    for name, stream in (("stderr", done.errors), ("stdout", done.output)):
        if found := ORDERS.search(stream.decode("utf-8", "replace")):
            text = stream.decode("utf-8", "replace")
            faults.append(
                f"an order to the terminal on {name}: {text[max(0, found.start() - 40) : found.end() + 20]!r}"
            )
    return faults


def _leaked(probe: Probe, scene: Scene, before: dict, done: Watched) -> list[str]:
    """Where the secret, or what must not be named, has come to stand."""
    secret, faults = SECRET.encode(), []
    places = [name for name, stream in (("stdout", done.output), ("stderr", done.errors)) if secret in stream]
    results = [done.output.decode("utf-8", "replace")]
    for name, state in state_of(scene.place, whole=False).items():
        path = scene.place / name
        if before.get(name) == state or path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        if secret in content:
            places.append(name)
        if path.suffix == ".html" and _PAGE_THAT_RUNS in content:
            faults.append(f"{name} would run what an input says")
        if path.name == "published.json":
            results.append(content.decode("utf-8", "replace"))
    if places:
        faults.append(f"the secret is in {', '.join(places[:3])}")
    if named := [name for name in probe.unnamed if any(name in text for text in results)]:
        faults.append(f"would be published: {', '.join(named)}")
    return faults


def prepared(good: Path, home: Path) -> Path:
    """The good inputs and, beside them, a run that can be gone on with where the probes take place."""
    target = home / "with-a-run"
    if not target.exists():
        place = Scene.fresh(good, home / "probe").place
        argv = [part.replace("output=out", "output=run") for part in TRAIN]
        done = run_command(argv, place)
        if done.code:
            raise VoxcloneError(f"the run of the probes: {done.errors.strip()[-300:]}")
        (place / "stderr.txt").unlink()
        shutil.rmtree(place / "cache", ignore_errors=True)
        place.rename(target)
    return target


def probes(good: Path, home: Path, count: int | None) -> Iterator[Tried]:
    """Try `count` probes, of every family in turn; None: all."""
    if count == 0:
        return
    source = prepared(good, home)
    with Forked() as forked:
        for family, probe in all_probes(count):
            yield Tried(f"probe: {family}", probe.what, tried(forked, probe, source, home / "probe"))
    shutil.rmtree(home / "probe", ignore_errors=True)
