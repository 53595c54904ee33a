"""Kills, signals, closed pipes, full disks and second processes, on every command that writes."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.campaign.place import JOBS, Job, copy_of, digests, leftovers
from benchmarks.campaign.process import HANG_SECONDS, Ended, ended, run, start

PYTHON_STARTS = 0.2  # seconds, before which no program of ours hears a signal
IN_A_ROW = 4  # kills of one job before it may end
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
LIMITS = (1_000, 30_000, 300_000, 1_000_000)  # bytes of the largest file


@dataclass(frozen=True)
class Tried:
    """One try: of which kind, what was done, and what did not hold."""

    kind: str
    what: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Undisturbed:
    """What a job does when nothing happens: its seconds, and digests of what it writes."""

    seconds: float
    written: dict[str, str]


class Interruptions:
    """Tries on copies of the good inputs in `home/place`.

    Args:
        good: the inputs.
        home: where to work.
        seed: of the moments.
    """

    def __init__(self, good: Path, home: Path, seed: int = 0):
        self.good, self.place = good, home / "place"
        self.rng = np.random.default_rng([seed, 0xCA1])
        self.inputs = digests(copy_of(good, self.place))
        self.undisturbed = {job.name: self._undisturbed(job) for job in JOBS}

    def _undisturbed(self, job: Job) -> Undisturbed:
        copy_of(self.good, self.place)
        done = run(job.argv, self.place)
        if done.code:
            raise RuntimeError(f"{job.name} does not work undisturbed: {done.errors[-500:]}")
        return Undisturbed(done.seconds, digests(self.place / job.output, lasting=True))

    def kills(self, count: int) -> Iterator[Tried]:
        """`kill -9` at any moment; the same command again must end as if nothing had been, and leave nothing else."""
        tried = 0
        while tried < count:
            for job in JOBS:
                copy_of(self.good, self.place)
                for _ in range(IN_A_ROW):
                    process = start(job.repeat(self.place), self.place)
                    time.sleep(self._moment(job))
                    process.send_signal(signal.SIGKILL)
                    done = ended(process, self.place, HANG_SECONDS)
                    tried += 1
                    if done.code == 0:  # it was faster
                        break
                yield from self._group("kill", job, IN_A_ROW)
                if tried >= count:
                    return

    def signals(self, count: int) -> Iterator[Tried]:
        """Ctrl-C, SIGTERM and SIGHUP: one line, the right code, soon; and the same command again goes on."""
        wanted = list(CODES)
        for number in range(count):
            job, sent = JOBS[number % len(JOBS)], wanted[(number // len(JOBS) + number) % len(wanted)]
            copy_of(self.good, self.place)
            process = start(job.argv, self.place)
            time.sleep(max(PYTHON_STARTS, self._moment(job)))
            process.send_signal(sent)
            done = ended(process, self.place, HANG_SECONDS)
            faults = [*done.faults, *_lines(done)]
            if done.code not in (0, CODES[sent]):
                faults.append(f"exit code {done.code}, {CODES[sent]} expected")
            if done.code and (left := leftovers(self.place)):
                faults.append(f"left behind: {', '.join(left)}")
            yield Tried("signal", f"{job.name}: {sent.name}", (*faults, *self._again(job)))

    def pipes(self) -> Iterator[Tried]:
        """Nobody reads what is said."""
        for job in JOBS:
            copy_of(self.good, self.place)
            reader, writer = os.pipe()
            process = start(job.argv, self.place, stdout=writer)
            os.close(writer)
            os.close(reader)
            done = ended(process, self.place, 60 + 10 * self.undisturbed[job.name].seconds)
            faults = list(done.faults)
            if done.code not in (0, 141):
                faults.append(f"exit code {done.code}")
            yield Tried("closed pipe", job.name, (*faults, *self._again(job)))

    def full_disks(self) -> Iterator[Tried]:
        """No file may become larger than so much, which fails as a full disk does."""
        for job in JOBS:
            for limit in LIMITS:
                copy_of(self.good, self.place)
                done = run(job.argv, self.place, 60 + 10 * self.undisturbed[job.name].seconds, file_bytes=limit)
                faults = [*done.faults, *(_lines(done) if done.code else [])]
                yield Tried("full disk", f"{job.name}: {limit} bytes", (*faults, *self._again(job)))

    def pairs_of_processes(self) -> Iterator[Tried]:
        """Two of one command at once, in one place: one ends as if alone, the other one, too, or with one line."""
        for job in JOBS:
            copy_of(self.good, self.place)
            first = start(job.argv, self.place)
            second = subprocess.Popen(
                first.args, cwd=self.place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=None
            )
            done = ended(first, self.place, 120 + 20 * self.undisturbed[job.name].seconds)
            errors = second.communicate(timeout=120)[1].decode(errors="replace")
            other = Ended(second.returncode, errors, 0.0)
            faults = [*done.faults, *other.faults]
            if done.code and other.code:
                faults.append("both failed")
            yield Tried("two processes", job.name, (*faults, *self._whole(job)))

    def _moment(self, job: Job) -> float:
        """Seconds until something happens: at any time of the undisturbed run."""
        return float(self.rng.uniform(0.02, 1.0) * self.undisturbed[job.name].seconds)

    def _group(self, kind: str, job: Job, tries: int) -> Iterator[Tried]:
        """The tries of a group, of which the last one bears what did not hold at its end."""
        for _ in range(tries - 1):
            yield Tried(kind, job.name)
        yield Tried(kind, job.name, tuple(self._again(job)))

    def _again(self, job: Job) -> list[str]:
        """What does not hold after the job is run again."""
        for argv in (job.repeat(self.place), job.again if (self.place / job.output).exists() else None):
            if argv is None:
                continue
            done = run(argv, self.place)
            if done.code == 0 or "exists" in done.errors or "finished" in done.errors:
                return [*done.faults, *self._whole(job)]
        return [*done.faults, f"again: exit code {done.code}: {done.errors.strip()[-200:]}"]

    def _whole(self, job: Job) -> list[str]:
        """What is not as in an undisturbed run."""
        if not (self.place / job.output).exists():
            return ["nothing was written"]
        expected, found = self.undisturbed[job.name].written, digests(self.place / job.output, lasting=True)
        differing = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        faults = [f"not as undisturbed: {', '.join(differing[:5])}"] if differing else []
        if left := leftovers(self.place):
            faults.append(f"left behind: {', '.join(left)}")
        now = digests(self.place)
        if changed := sorted(k for k, v in self.inputs.items() if now.get(k) != v):
            faults.append(f"an input was changed: {', '.join(changed[:5])}")
        return faults


def _lines(done: Ended) -> list[str]:
    """A mistake or an interruption is told in one line, after those of progress."""
    said = [line for line in done.errors.splitlines() if line.startswith(("error", "interrupted", "terminated"))]
    return [] if done.code == 0 or len(said) == 1 else [f"{len(said)} lines of error: {' | '.join(said)[:200]}"]
