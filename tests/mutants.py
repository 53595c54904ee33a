"""Mistakes planted on purpose, to see that a test notices each: `python -m tests.mutants` from the repository's root.

Each is a text of the package that is replaced by another, and the tests that must then fail. They are listed by part in
`planted/`. The work is done in a temporary copy; the checkout is never touched. In that copy the tests must pass before
anything is planted, so that a test that fails anyway kills nothing.

    python -m tests.mutants                  all of them
    python -m tests.mutants --only 3 17      some, by number
    python -m tests.mutants --tenth 4        those whose number ends in 4
    python -m tests.mutants --list --match losses
"""

import argparse
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PLANTED = Path(__file__).parent / "planted"
PACKAGE = "mlx_voxclone"
LIMIT = 600  # seconds of a mutant's tests: what hangs has been noticed
KILLED, SURVIVED, BROKEN = "killed", "survived", "broken"
_FAILED = 1  # pytest's exit code


class Mutant(NamedTuple):
    """One planted mistake.

    Attributes:
        file: in the package, e.g. `losses/codes.py`.
        old: a text that occurs once in it.
        new: what is planted in its place.
        tests: node ids of pytest, without the folder; they pass before and one of them fails afterwards.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def planted() -> list[Mutant]:
    """All of them, in the order of the lists: their numbers."""
    found = []
    for path in sorted(PLANTED.glob("*.py")):
        for file, mistakes in runpy.run_path(str(path))["MISTAKES"].items():
            found += [Mutant(file, old, new, tuple(tests)) for old, new, *tests in mistakes]
    return found


def node_of(test: str) -> str:
    """A test's node id from the root of the repository. Raises ValueError unless one file has that name."""
    name, colons, rest = test.partition("::")
    places = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob(name)]
    if len(places) != 1:
        raise ValueError(f"{name}: {len(places)} such files")
    return f"{places[0]}{colons}{rest}"


class Copy:
    """The repository in a temporary place, in which mistakes are planted one at a time."""

    def __init__(self, root: Path):
        self.root, self._written = root, int(time.time())
        # What belongs to the repository, and nothing else that lies in the folder.
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        for name in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
            source, target = ROOT / name.strip("/"), root / name.strip("/")
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.is_file():
                shutil.copy2(source, target)

    def run(self, tests: Sequence[str]) -> "tuple[int | None, str]":
        """pytest's exit code (None: it hung) and what it said."""
        environment = {**os.environ, "PYTHONPATH": str(self.root)}
        for name in list(environment):
            if name.startswith("PYTEST_"):  # of the session that started this
                del environment[name]
        command = [sys.executable, "-m", "pytest", "-o", "addopts=", "--strict-markers", "-x", "-q", "--tb=line"]
        command += ["-p", "no:cacheprovider", *map(node_of, tests)]
        try:
            done = subprocess.run(
                command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            return None, "no end"
        return done.returncode, done.stdout[-2000:] + done.stderr[-2000:]

    @contextmanager
    def with_mistake(self, mutant: Mutant) -> Iterator[None]:
        """The mistake in the copy, taken back at the end. Raises ValueError unless its place is there, once."""
        path = self.root / PACKAGE / mutant.file
        whole = path.read_text(encoding="utf-8")
        if (count := whole.count(mutant.old)) != 1:
            raise ValueError(f"{mutant.file}: {mutant.old!r} occurs {count} times")
        try:
            self._write(path, whole.replace(mutant.old, mutant.new))
            yield
        finally:
            self._write(path, whole)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        self._written += 2  # or compiled code of a file of the same size and second would count for it
        os.utime(path, (self._written, self._written))


def verdict(copy: Copy, mutant: Mutant) -> tuple[str, str]:
    """KILLED, SURVIVED or BROKEN (no verdict: the mistake cannot be planted, or the tests cannot be run); details."""
    try:
        with copy.with_mistake(mutant):
            code, output = copy.run(mutant.tests)
    except ValueError as error:
        return BROKEN, str(error)
    if code == 0:
        return SURVIVED, ""
    return (KILLED, "") if code in (_FAILED, None) else (BROKEN, output)


def survivors(chosen: Sequence[int], jobs: int = 1, say=lambda line: None) -> list[str]:
    """Plant the mistakes of these numbers, one after the other or `jobs` at a time; a line for each not killed."""
    mutants, found = planted(), []
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        first = Copy(Path(place) / "0")
        code, output = first.run(sorted({test for number in chosen for test in mutants[number].tests}))
        if code != 0:
            return [f"the tests do not pass before anything is planted:\n{output}"]
        copies = [first, *(Copy(Path(place) / str(k)) for k in range(1, jobs))]

        def work(share: int) -> None:
            for number in chosen[share::jobs]:
                mutant, began = mutants[number], time.monotonic()
                result, details = verdict(copies[share], mutant)
                line = f"{number:3d} {result:8s} {time.monotonic() - began:5.1f} s  {mutant.file}: {mutant.new.strip()}"
                say(line)
                if result != KILLED:
                    found.append(f"{line}\n    tests: {', '.join(mutant.tests)}\n{details}")

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(work, range(jobs)))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    mutants = planted()
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="numbers of mistakes")
    parser.add_argument(
        "--tenth", type=int, choices=range(10), metavar="K", help="those whose number ends in K, 0 to 9"
    )
    parser.add_argument("--match", default="", metavar="TEXT", help="those whose file or new text has this in it")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at a time (1)")
    parser.add_argument("--list", action="store_true", help="name them and do nothing")
    options = parser.parse_args(argv)
    if wrong := [n for n in options.only or [] if not 0 <= n < len(mutants)]:
        parser.error(f"--only {wrong[0]}: there are 0 to {len(mutants) - 1}")
    chosen = [
        number
        for number, mutant in enumerate(mutants)
        if (options.only is None or number in options.only)
        and (options.tenth is None or number % 10 == options.tenth)
        and (options.match in mutant.file or options.match in mutant.new)
    ]
    if options.list:
        for number in chosen:
            print(f"{number:3d} {mutants[number].file}: {mutants[number].old!r} -> {mutants[number].new!r}")
        return 0
    left = survivors(chosen, max(1, options.jobs), say=lambda line: print(line, flush=True))
    print(f"{len(chosen) - len(left)} of {len(chosen)} killed")
    for line in left:
        print(line)
    return 1 if left else 0


if __name__ == "__main__":
    raise SystemExit(main())
