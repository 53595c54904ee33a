"""A program in the place of `voxclone`: trains nothing, and leaves what a training would. Run by path, not imported.

What it is to do lies in `stand_in.json` of its working directory: `steps` in all, `fail` (a line to end with), `deaf`
(it does not hear SIGTERM), `every` (steps between measurements with a sample; 0: none), `seconds` of a step.
"""

import json
import re
import signal
import sys
import time
import wave
from pathlib import Path

TEXT = "What is said at each measurement."


def main(command: str, option: str, place: str) -> int:
    wanted = {"steps": 20, "fail": "", "deaf": False, "every": 0, "seconds": 0.02}
    if Path("stand_in.json").is_file():
        wanted |= json.loads(Path("stand_in.json").read_text())
    stopped = []
    signal.signal(signal.SIGTERM, signal.SIG_IGN if wanted["deaf"] else lambda number, frame: stopped.append(number))
    run = Path(place) if option == "--resume" else Path(re.search(r"^output: (.+)$", Path(place).read_text(), re.M)[1])
    print("data: speaker      clips  held out  minutes")
    if wanted["fail"]:
        print(f"error: {wanted['fail']}")
        return 2
    log = run / "speaker" / "log.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text("task: clone\nspeaker: {listen: {speaker_model: spectral, whisper_model: null}}\n")
    print(f"codes: encoding\nspeaker: adapting the language model\n{option}")
    at = sum('"loss"' in line for line in log.read_text().splitlines()) if log.exists() else 0
    with open(log, "a", buffering=1) as file:
        if not at:
            start = {
                "event": "start",
                "step": 0,
                "settings": {"eval_every": 5},
                "schedule": {"total_steps": wanted["steps"]},
            }
            file.write(json.dumps(start) + "\n")
        for step in range(at + 1, wanted["steps"] + 1):
            time.sleep(wanted["seconds"])
            file.write(json.dumps({"step": step, "loss": 9.0 - step / 10, "seconds": step * wanted["seconds"]}) + "\n")
            measure(run, file, step, wanted["every"])
            if stopped:
                print(f"interrupted (SIGTERM): after step {step} of {wanted['steps']}; continue with --resume {run}")
                return 143
    (run / "speaker" / "result.json").write_text("{}")
    delivered = {"name": "adapted", "why": "nothing became worse by adapting", "measured": []}
    (run / "summary.json").write_text(json.dumps({"delivered": delivered, "baked": {"voice": "ann"}}))
    print("delivered: adapted; nothing became worse by adapting\nreport: here")
    return 0


def measure(run: Path, log, step: int, every: int) -> None:
    """A measurement and a sample, half a second of a tone, where it is their turn."""
    if not every or step % every:
        return
    (run / "data").mkdir(exist_ok=True)
    (run / "data" / "manifest.jsonl").write_text(json.dumps({"id": "001", "text": TEXT}) + "\n")
    folder = run / "speaker" / "samples" / f"step-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    with wave.open(str(folder / "001.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(24000)
        sound.writeframes(b"".join((300 * (k % 80)).to_bytes(2, "little") for k in range(12000)))
    metrics = {"loss": 9.0 - step / 20, "spectral_similarity": 0.5 + step / 1000, "cer": 0.3}
    log.write(json.dumps({"event": "eval", "step": step, "metrics": metrics, "best": True, "eval_seconds": 0.1}) + "\n")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
