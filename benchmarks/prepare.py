"""What does `prepare` cost, from raw files to clips? `python -m benchmarks.prepare SPEECH [--files N]`

CPU seconds per hour of audio of the command on a folder of recordings, beside what decodes and resamples the same files
to 24 kHz mono and does nothing else: soundfile and soxr in one process, and ffmpeg (one process a file) where it is
installed. And its peak memory with a quarter of the files and with all of them.

`--hours 0.5,1,2,4` measures how memory and time grow instead: so many hours as short files, and as one long file that
is cut at pauses. Where SPEECH is shorter it comes again, each time 3 % faster, so that nothing is a copy.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.quality import audio_files
from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio, resample

PLAIN = """
import sys, soundfile, soxr
for path in sys.argv[1:]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    soxr.resample(samples.mean(axis=1), rate, 24000, quality="HQ")
"""
COMMAND = """
import sys
from benchmarks.memory import AnonymousPeak
from mlx_voxclone.cli import main
with AnonymousPeak() as seen:
    main(["prepare", *sys.argv[1:], "--quiet"])
print(seen.peak)
"""
PAUSE = 0.4  # seconds between the recordings that a long one is made of


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of the processes that `work` starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def command(source: Path, output: Path, *options: str) -> tuple[float, float]:
    """CPU seconds and peak of anonymous memory in MB of `voxclone prepare`."""
    told: list[str] = []
    argv = [sys.executable, "-c", COMMAND, str(source), "--output", str(output), *options]
    seconds = cpu(lambda: told.append(subprocess.run(argv, check=True, capture_output=True, text=True).stdout))
    return seconds, int(told[0].split()[-1]) / 2**20


def prepare(files: list[Path], place: Path) -> tuple[float, float]:
    """CPU seconds, peak memory in MB."""
    source, output = place / "in", place / "out"
    source.mkdir()
    for number, path in enumerate(files):
        shutil.copyfile(path, source / f"{number:04d}{path.suffix}")
    return command(source, output)


def ffmpeg(files: list[Path]) -> None:
    for path in files:
        argv = ["ffmpeg", "-nostdin", "-v", "error", "-threads", "1", "-i", path, "-ar", "24000", "-ac", "1"]
        subprocess.run([*argv, "-f", "f32le", "-y", "/dev/null"], check=True)


def endless(files: list[Path]) -> Iterator[np.ndarray]:
    """The recordings at 24 kHz, again and again, each time faster."""
    for again in count():
        for path in files:
            yield resample(read_audio(path), round(SAMPLE_RATE * 1.03**again), SAMPLE_RATE)


def as_files(files: list[Path], hours: float, place: Path) -> None:
    left = hours * 3600.0
    for number, samples in enumerate(endless(files)):
        soundfile.write(place / f"{number:05d}.flac", samples, SAMPLE_RATE, subtype="PCM_16")
        left -= len(samples) / SAMPLE_RATE
        if left <= 0:
            return


def as_one(files: list[Path], hours: float, place: Path) -> None:
    left, pause = hours * 3600.0, np.zeros(round(PAUSE * SAMPLE_RATE), np.float32)
    with soundfile.SoundFile(place / "long.flac", "w", SAMPLE_RATE, 1, subtype="PCM_16") as long:
        for samples in endless(files):
            long.write(samples)
            long.write(pause)
            left -= len(samples) / SAMPLE_RATE + PAUSE
            if left <= 0:
                return


def growth(files: list[Path], hours: list[float], options: list[str]) -> None:
    """Memory and time for so many hours of audio."""
    print("| recordings | hours | clips | CPU s per hour | anonymous memory, peak MB |\n|---|---|---|---|---|")
    for name, make in (("short files", as_files), ("one file", as_one)):
        for length in hours:
            with tempfile.TemporaryDirectory() as place:
                source, output = Path(place, "in"), Path(place, "out")
                source.mkdir()
                make(files, length, source)
                seconds, peak = command(source, output, *options)
                clips = len(list((output / "clips").iterdir()))
            print(f"| {name} | {length:g} | {clips} | {seconds / length:.0f} | {peak:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--hours", type=lambda text: [float(one) for one in text.split(",")])
    parser.add_argument("--whisper", help="with --hours: a Whisper that transcribes the clips")
    options = parser.parse_args()
    files = audio_files(options.speech)[: options.files]
    if options.hours:
        whisper = ["--transcribe", "--whisper-model", options.whisper] if options.whisper else []
        growth(files, options.hours, whisper)
        return
    hours = sum(audio_info(path).seconds for path in files) / 3600
    rows = {}
    with tempfile.TemporaryDirectory() as place:
        for name, chosen in (("quarter", files[::4]), ("all", files)):
            Path(place, name).mkdir()
            rows[name] = prepare(chosen, Path(place, name))
    empty = cpu(lambda: subprocess.run([sys.executable, "-c", "import mlx_voxclone.data.prepare"], check=True))
    ours = rows["all"][0] / hours
    print(f"{len(files)} files, {60 * hours:.0f} min; importing takes {empty:.1f} s of it")
    print("| way | CPU s per hour of audio | prepare is so many times that |\n|---|---|---|")
    print(f"| prepare | {ours:.0f} | 1 |")
    ways: list[tuple[str, Callable[[], object]]] = [
        ("soundfile and soxr", lambda: subprocess.run([sys.executable, "-c", PLAIN, *files], check=True))
    ]
    if shutil.which("ffmpeg"):
        ways.append(("ffmpeg", lambda: ffmpeg(files)))
    for name, work in ways:
        theirs = cpu(work) / hours
        print(f"| {name} | {theirs:.0f} | {ours / theirs:.1f} |")
    print(f"peak memory: {rows['quarter'][1]:.0f} MB with a quarter of the files, {rows['all'][1]:.0f} MB with all")


if __name__ == "__main__":
    main()
