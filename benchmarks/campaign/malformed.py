"""Malformed inputs made from good ones by rule, and what the commands that read them say.

Cases run in worker processes, many in each: what kills a worker, or raises anything but the line for the user, fell
short.
"""

import contextlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.campaign.interruptions import Tried
from benchmarks.campaign.process import HANG_SECONDS

MEMORY = 3 << 30  # bytes that a refused input may cost
VALUES = (None, True, -1, 0, 1.5, 10**12, float("nan"), "x", "", [], {}, [[]], "../../etc/passwd")
DEEP = 100_000
SAY = ("say", "--text", "papa", "--max-seconds", "1", "--output", "said.wav", "--model")
READS = {  # file -> the command that reads it
    "model/params.json": (*SAY, "model", "--ref-audio", "reference.wav"),
    "model/tekken.json": (*SAY, "model", "--ref-audio", "reference.wav"),
    "model/consolidated.safetensors": (*SAY, "model", "--ref-audio", "reference.wav"),
    "adapters/adapters.safetensors": (*SAY, "model", "--ref-audio", "reference.wav", "--adapters", "adapters"),
    "adapters/adapter_config.json": (*SAY, "model", "--ref-audio", "reference.wav", "--adapters", "adapters"),
    "reference.wav": ("encode", "reference.wav", "--model", "model", "--output", "new.safetensors"),
    "codes.safetensors": ("decode", "codes.safetensors", "--model", "model", "--output", "new.wav"),
    "recordings/manifest.jsonl": ("prepare", "recordings/manifest.jsonl", "--output", "fresh", "--min-seconds", "1"),
    "prepared/manifest.jsonl": ("train", "--config", "train.yaml", "--quiet", "--set", "task=encoder",
                                "--set", "output=out", "--set", "data.path=prepared", "--set", "encoder.train.steps=2"),
    "prepared/summary.json": ("train", "--config", "train.yaml", "--quiet", "--set", "task=encoder",
                              "--set", "output=out", "--set", "data.path=prepared", "--set", "encoder.train.steps=2"),
    "pairs/manifest.jsonl": ("train", "--config", "train.yaml", "--quiet", "--set", "task=encoder", "--set",
                             "output=out", "--set", "encoder.pairs.path=pairs", "--set", "encoder.train.steps=2"),
    "pairs/settings.json": ("pairs", "--model", "model", "--output", "pairs", "--texts", "texts.txt",
                            "--max-seconds", "4"),
    "train.yaml": ("train", "--config", "train.yaml", "--quiet", "--set", "task=encoder", "--set", "output=out",
                   "--set", "encoder.train.steps=2"),
    "baked/voxclone.json": ("unbake", "--model", "baked", "--base", "model", "--output", "back"),
}  # fmt: skip
OPTIONAL = {"adapters/adapter_config.json", "prepared/summary.json"}


@dataclass(frozen=True)
class Case:
    """A good file made malformed by a rule."""

    file: str
    rule: str
    number: int  # draws what the rule leaves open


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data)))]


def _flipped(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(min(len(data), 4096), size=int(rng.integers(1, 9))):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


UNCHANGED = "unchanged"  # the good file itself: what refuses everything would hold, too
BYTES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "cut": _cut,
    "bits flipped": _flipped,
    "empty": lambda data, rng: b"",
    "zeros": lambda data, rng: bytes(len(data)),
    "noise": lambda data, rng: rng.bytes(len(data)),
    "a page": lambda data, rng: b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>",
    "a pointer": lambda data, rng: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "more behind": lambda data, rng: data + rng.bytes(int(rng.integers(1, 2000))),
    "deep": lambda data, rng: b"[" * DEEP + b"]" * DEEP,
    "wide characters": lambda data, rng: b"\xff\xfe" + data.decode("utf-8", "replace").encode("utf-16-le"),
    "a repeated piece": lambda data, rng: data[: len(data) // 2] + data,
}
PLACES = {
    "a directory": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "nothing": lambda path: None,
    "a link to itself": lambda path: path.symlink_to(path.name),
}


def cases(good: Path, count: int, seed: int = 0) -> list[Case]:
    """`count` cases: every rule on every file, and then more of those that draw."""
    files = [name for name in READS if (good / name).is_file() or name not in OPTIONAL]
    found: list[Case] = []
    for number in range(count):
        rules = [UNCHANGED, *BYTES, *PLACES] if number == 0 else ["cut", "bits flipped"]
        for name in files:
            textual = name.endswith((".json", ".jsonl", ".yaml"))
            found += [Case(name, rule, seed + number) for rule in rules]
            found += [Case(name, "a value", seed + len(files) * number + k) for k in range(6 if textual else 0)]
        if len(found) >= count:
            break
    return found[:count]


def applied(case: Case, place: Path) -> None:
    """Make the case's file malformed in a copy of the good inputs."""
    path, rng = place / case.file, np.random.default_rng([case.number, len(case.file), len(case.rule)])
    if case.rule == UNCHANGED:
        return
    if case.rule in PLACES:
        path.unlink()
        PLACES[case.rule](path)
    elif case.rule == "a value":
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines() if path.suffix == ".jsonl" else [text]
        line = int(rng.integers(len(lines)))
        lines[line] = json.dumps(_changed(json.loads(lines[line]), rng))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        path.write_bytes(BYTES[case.rule](path.read_bytes(), rng))


def _changed(content: Any, rng: np.random.Generator) -> Any:
    """A value anywhere in JSON replaced by another."""
    spots = list(_spots(content))
    parent, key = spots[int(rng.integers(len(spots)))]
    parent[key] = VALUES[int(rng.integers(len(VALUES)))]
    return content


def _spots(content: Any) -> Iterator[tuple[Any, Any]]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items)[:200]:
        yield content, key
        yield from _spots(value)


def tried(case: Case, good: str, place: str) -> Tried:
    """One case in this process."""
    from mlx_voxclone.cli import main

    home = Path(place) / f"{os.getpid()}"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(good, home, ignore=shutil.ignore_patterns("cache"))
    applied(case, home)
    os.chdir(home)
    os.environ["VOXCLONE_CACHE"] = str(home / "cache")
    errors, faults = io.StringIO(), []
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(round(HANG_SECONDS))
    before = _peak()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            code = main(list(READS[case.file]))
        said = [line for line in errors.getvalue().splitlines() if line.startswith("error")]
        if code and case.rule == UNCHANGED:
            faults.append(f"a good input is refused: {errors.getvalue()[-200:]}")
        if code not in (0, 2):
            faults.append(f"exit code {code}")
        if code == 2 and len(said) != 1:
            faults.append(f"{len(said)} lines of error")
    except BaseException as e:
        faults.append("traceback: " + traceback.format_exception_only(e)[-1].strip()[:200])
    finally:
        signal.alarm(0)
    if _peak() - before > MEMORY:
        faults.append(f"{(_peak() - before) / 1e9:.1f} GB")
    return Tried("malformed", f"{case.file}: {case.rule} ({case.number})", tuple(faults))


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"longer than {HANG_SECONDS:g} s")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def malformed(good: Path, home: Path, count: int, workers: int = 2, seed: int = 0) -> Iterator[Tried]:
    """Try `count` cases, each in a worker; a worker that dies is a fault of its case, and replaced."""
    context = multiprocessing.get_context("spawn")
    todo = cases(good, count, seed)
    place = home / "malformed"
    place.mkdir(parents=True, exist_ok=True)
    waiting: Sequence[Case] = todo
    while waiting:
        with context.Pool(workers, maxtasksperchild=50) as pool:
            results = [(case, pool.apply_async(tried, (case, str(good), str(place)))) for case in waiting]
            waiting = []
            for k, (case, result) in enumerate(results):
                try:
                    yield result.get(4 * HANG_SECONDS)
                except multiprocessing.TimeoutError:  # its worker is gone: the cases behind it go to a new pool
                    yield Tried("malformed", f"{case.file}: {case.rule} ({case.number})", ("the process died or hung",))
                    waiting = [later for later, _ in results[k + 1 :]]
                    break
    shutil.rmtree(place, ignore_errors=True)
