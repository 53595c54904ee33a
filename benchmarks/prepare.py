"""What does `prepare` cost, from raw files to clips? `python -m benchmarks.prepare SPEECH [--files N]`

CPU seconds per hour of audio of the command on a folder of recordings, beside what decodes and resamples the same files
to 24 kHz mono and does nothing else: soundfile and soxr in one process, and ffmpeg (one process a file) where it is
installed. And its peak memory with a quarter of the files and with all of them.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.quality import audio_files
from mlx_voxclone.audio.decode import audio_info

PLAIN = """
import sys, soundfile, soxr
for path in sys.argv[1:]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    soxr.resample(samples.mean(axis=1), rate, 24000, quality="HQ")
"""


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of the processes that `work` starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prepare(files: list[Path], place: Path) -> tuple[float, float]:
    """CPU seconds, peak memory in MB."""
    source, output = place / "in", place / "out"
    source.mkdir()
    for number, path in enumerate(files):
        shutil.copyfile(path, source / f"{number:04d}{path.suffix}")
    code = (
        "import resource, sys; from mlx_voxclone.cli import main\n"
        "try: main(['prepare', *sys.argv[1:], '--quiet'])\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    told: list[str] = []
    argv = [sys.executable, "-c", code, str(source), "--output", str(output)]
    seconds = cpu(lambda: told.append(subprocess.run(argv, check=True, capture_output=True, text=True).stdout))
    return seconds, int(told[0].split()[-1]) / 1024


def ffmpeg(files: list[Path]) -> None:
    for path in files:
        argv = ["ffmpeg", "-nostdin", "-v", "error", "-threads", "1", "-i", path, "-ar", "24000", "-ac", "1"]
        subprocess.run([*argv, "-f", "f32le", "-y", "/dev/null"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--files", type=int, default=10_000)
    options = parser.parse_args()
    files = audio_files(options.speech)[: options.files]
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
