"""How long do the studio's pages take for a voice of hundreds of takes and uploads?
`python -m benchmarks.studio_pages [--takes 600] [--uploads 300]`

Short recordings of a synthetic speaker, brought as a browser brings them; then each page and each POST of the step,
milliseconds of the process's CPU (the best of three) and kilobytes of the answer, at a third of them and at all.
"""

import argparse
import re
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
from starlette.testclient import TestClient

from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.process.network import Names
from mlx_voxclone.studio.home import Project
from mlx_voxclone.studio.record.prompts import SYLLABLES
from mlx_voxclone.studio.record.shelf import Shelf
from mlx_voxclone.studio.record.takes import Takes
from mlx_voxclone.studio.record.uploads import Uploads
from mlx_voxclone.studio.state import Studio
from mlx_voxclone.studio.web.access import Access
from mlx_voxclone.studio.web.app import application
from mlx_voxclone.studio.web.closed import closed

CONSENT = {"who": "Ann", "when": "2026-11-30T10:00:00+00:00", "purpose": "a benchmark", "statement": "Yes."}
RATE, TURNS = 24_000, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--takes", type=int, default=600)
    parser.add_argument("--uploads", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        studio = Studio(Path(place, "studio"))
        person = studio.home.person("me")
        person.change_settings(model="rehearsal")
        project = person.new_project("Ann", SYLLABLES)
        project.change(consent=CONSENT)
        door = Access(application(studio), Names("127.0.0.1"), tell=closed)
        browser = TestClient(door, base_url="http://127.0.0.1", client=("127.0.0.1", 1))
        sounds = Sounds()
        print("| takes, uploads | what | ms | KB |\n|---|---|---|---|")
        for share in (3, 1):
            many = options.takes // share, options.uploads // share
            grow(project, sounds, *many)
            for what, milliseconds, size in times(browser, project, sounds):
                print(f"| {many[0]}, {many[1]} | {what} | {milliseconds:.0f} | {size} |")
        studio.tasks.close()


class Sounds:
    """Recordings of a second or two, no two the same."""

    def __init__(self) -> None:
        self.speech = synthesise("papa mino lesu, tara koni sewu, nalu wera.", SyntheticSpeaker.sample(4), 0)
        self.rng = np.random.default_rng(0)

    def wav(self) -> bytes:
        length = self.rng.integers(RATE, 2 * RATE)
        start = self.rng.integers(0, len(self.speech) - length) if len(self.speech) > length else 0
        silence = np.zeros(RATE // 3, np.float32)
        made = np.concatenate([silence, self.speech[start : start + length], silence])
        buffer = BytesIO()
        noise = 3e-4 * self.rng.normal(size=len(made))
        soundfile.write(buffer, (made + noise).astype(np.float32), RATE, subtype="PCM_24", format="WAV")
        return buffer.getvalue()


def grow(project: Project, sounds: Sounds, takes: int, uploads: int) -> None:
    """Record and bring until there are so many."""
    kept, brought = Takes(project), Uploads(project)
    for _ in range(takes - len(Shelf(project.takes).ids())):
        slots = len(Shelf(project.takes).ids())
        kept.record(f"{SYLLABLES}-{1 + slots % 40:03d}.{2 + slots // 40}", sounds.wav())
    place = project.folder / "arrives"
    for number in range(len(Shelf(project.uploads).ids()), uploads):
        place.write_bytes(sounds.wav())
        brought.add(f"ann/{number}.wav", place)
    place.unlink(missing_ok=True)


def times(browser: TestClient, project: Project, sounds: Sounds) -> list[tuple[str, float, int]]:
    """(what, milliseconds, kilobytes) of each page and POST."""
    at = f"/voices/{project.id}/record"
    csrf = re.search(r'name="csrf" content="([0-9a-f]+)"', browser.get("/tasks").text)[1]
    headers = {"x-csrf": csrf, "hx-request": "true"}
    numbers = iter(range(10**6, 10**7))

    def send(address: str, **form: str):
        return browser.post(address, data=form, headers=headers)

    def take():
        return browser.post(
            f"{at}/takes", params={"slot": f"{SYLLABLES}-001.90"}, content=sounds.wav(), headers=headers
        )

    def upload(name: str, content: bytes):
        return browser.post(f"{at}/files/one", params={"name": name}, content=content, headers=headers)

    first_take, last_take = (Shelf(project.takes).ids()[k] for k in (0, -1))
    first_file = Shelf(project.uploads).ids()[0]
    table = "".join(f"{k}|papa mino lesu\n" for k in range(len(Shelf(project.uploads).ids()))).encode()
    acts = {
        "page of the microphone": lambda: browser.get(at),
        "page of files": lambda: browser.get(f"{at}/files"),
        "page of training": lambda: browser.get(f"/voices/{project.id}/train"),
        "page of voices": lambda: browser.get("/voices"),
        "a take": take,
        "a take's text": lambda: send(f"{at}/takes/{first_take}/text", text=f"papa mino {next(numbers)}"),
        "skip": lambda: send(f"{at}/skip", slot=f"{SYLLABLES}-001.90"),
        "own text": lambda: send(f"{at}/own", text=f"papa mino {next(numbers)}"),
        "delete a take": lambda: send(f"{at}/takes/{Shelf(project.takes).ids()[-1]}/delete"),
        "an upload": lambda: upload(f"{next(numbers)}.wav", sounds.wav()),
        "a text": lambda: upload(f"{next(numbers)}.txt", b"papa mino"),
        "a file's text": lambda: send(f"{at}/sounds/uploads/{first_file}/text", text=f"papa mino {next(numbers)}"),
        "delete a file": lambda: send(f"{at}/sounds/uploads/{Shelf(project.uploads).ids()[-1]}/delete"),
        "a sound": lambda: browser.get(f"{at}/sounds/takes/{last_take}"),
    }
    found = [(what, *best(act)) for what, act in acts.items()]
    return [*found, ("a table of all texts", *best(lambda: upload("metadata.csv", table), 1))]


def best(act, turns: int = TURNS) -> tuple[float, int]:
    spent = []
    for _ in range(turns):
        began = time.process_time()
        answer = act()
        spent.append(1000 * (time.process_time() - began))
        if answer.status_code not in (200, 206):
            raise SystemExit(f"{answer.status_code}: {answer.text[:500]}")
    return min(spent), round(len(answer.content) / 1000)


if __name__ == "__main__":
    main()
