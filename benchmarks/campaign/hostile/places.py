"""Links that lead out: as outputs, among temporaries and locks, in run directories, in what is published."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.campaign.hostile.scene import MADE, RESUME, SECRET, TRAIN, Probe, Scene
from benchmarks.campaign.place import JOBS, Job

WHOLE = {job.name: job for job in JOBS if not job.name.startswith("train")}
TRAINED = Job("train encoder", TRAIN, "out")


# ---- outputs -------------------------------------------------------------------------------------------------------


def _to(scene: Scene, job: Job, target: str) -> None:
    (scene.place / job.output).symlink_to(scene.outside / target)


OUTPUTS = {
    "a link to the secret": "secret.txt",
    "a link to a folder outside": "folder",
    "a link to nothing outside": f"{MADE}/below",  # whose folder is missing: only what makes it would write there
}


def outputs() -> Iterator[Probe]:
    """The output of every command is a link to what must not be replaced."""
    for attack, target in OUTPUTS.items():
        for job in (*WHOLE.values(), TRAINED):
            # Pairs and runs go into a folder that is there, whichever link leads to it: nothing of ours to refuse.
            if target == "folder" and job.name in ("pairs", "train encoder"):
                continue
            yield Probe(attack, job.name, job.argv, partial(_to, job=job, target=target))


# ---- temporaries ---------------------------------------------------------------------------------------------------


def _beside(scene: Scene, job: Job, name: str, target: str, *, inside: bool = False) -> None:
    output = scene.place / job.output
    place = output if inside else output.parent
    place.mkdir(exist_ok=True)
    (place / name.replace("OUT", output.name)).symlink_to(scene.outside / target)


def _emptied(scene: Scene, job: Job) -> None:
    """A temporary of a dead process that holds a link to a folder outside."""
    place = scene.place / f".{Path(job.output).name}.999999-0123abcd.partial"
    place.mkdir()
    (place / "way").symlink_to(scene.folder)


TEMPORARIES: dict[str, Callable[[Scene, Job], None]] = {
    "a dead process's temporary is a link to a folder": partial(
        _beside, name=".OUT.999999-0123abcd.partial", target="folder"),
    "a dead process's temporary is a link to the secret": partial(
        _beside, name=".OUT.999999-0123abcd.partial", target="secret.txt"),
    "a dead process's temporary is a link to nothing": partial(
        _beside, name=".OUT.999999-0123abcd.partial", target=MADE),
    "a dead process's temporary holds a link": _emptied,
    "a lock beside it is a link to the secret": partial(_beside, name=".lock", target="secret.txt"),
    "a new one beside it is a link": partial(_beside, name=".OUT.new", target="folder"),
    "an old one beside it is a link": partial(_beside, name=".OUT.old", target="folder"),
}  # fmt: skip
INSIDE: dict[str, Callable[[Scene, Job], None]] = {
    "the lock inside is a link to the secret": partial(_beside, name=".lock", target="secret.txt", inside=True),
    "the lock inside is a link to nothing": partial(_beside, name=".lock", target=MADE, inside=True),
    "audio inside is a link to a folder": partial(_beside, name="audio", target="folder", inside=True),
    "checkpoints inside are a link to a folder": partial(_beside, name="checkpoints", target="folder", inside=True),
}


def temporaries() -> Iterator[Probe]:
    """Links in the place of what commands write on the way, and clear."""
    for attack, make in TEMPORARIES.items():
        for job in WHOLE.values():
            yield Probe(attack, job.name, job.argv, partial(make, job=job))
    for attack, make in INSIDE.items():
        for job in (WHOLE["pairs"], TRAINED):
            yield Probe(attack, job.name, job.argv, partial(make, job=job))


# ---- run directories -----------------------------------------------------------------------------------------------

_PUBLISH = ("publish", "--dry-run", "--consent", "it is my own voice", "--repo", "ann/x")


def _configured(scene: Scene, **values: str) -> None:
    path = scene.place / "run" / "config.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    for key, value in values.items():
        lines = [line for line in lines if not line.startswith(f"{key}:")]
        lines.append(f"{key}: {json.dumps(value.format(outside=scene.outside))}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _replaced(scene: Scene, name: str, target: str) -> None:
    """A part of the run directory is a link."""
    path = scene.place / "run" / name
    if path.exists():
        path.rename(scene.place / f"kept-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(scene.outside / target)


RUNS: dict[str, Callable[[Scene], None]] = {
    "output elsewhere": partial(_configured, output="{outside}/executed"),
    "output above": partial(_configured, output="../outside/executed"),
    "model above": partial(_configured, model="../outside"),
    "model is the secret": partial(_configured, model="{outside}/secret.txt"),
    "model is a device": partial(_configured, model="/dev/zero"),
    "task is a path": partial(_configured, task="../../outside/executed"),
    "voice is a path": partial(_configured, voice="../../outside/executed"),
    "samples are a link to a folder": partial(_replaced, name="samples", target="folder"),
    "best is a link to a folder": partial(_replaced, name="best", target="folder"),
    "the log is a link to the secret": partial(_replaced, name="log.jsonl", target="secret.txt"),
    "the result is a link to the secret": partial(_replaced, name="result.json", target="secret.txt"),
    "the summary is a link to the secret": partial(_replaced, name="summary.json", target="secret.txt"),
    "the time spent is a link to the secret": partial(_replaced, name="spent.json", target="secret.txt"),
    "the lock is a link to the secret": partial(_replaced, name=".lock", target="secret.txt"),
    "the report is a link to a folder": partial(_replaced, name="report", target="folder"),
    "checkpoints are a link to a folder": partial(_replaced, name="checkpoints", target="folder"),
    "a checkpoint is a link to a folder": partial(_replaced, name="checkpoints/step-9", target="folder"),
    "the state is a link to the secret": partial(_replaced, name="checkpoints/step-2/state.json", target="secret.txt"),
    "the weights are a link to the secret": partial(
        _replaced, name="checkpoints/step-2/model.safetensors", target="secret.txt"),
    "a cleared checkpoint is a link": partial(_replaced, name="checkpoints/.step-1.old", target="folder"),
    "a new checkpoint is a link": partial(_replaced, name="checkpoints/.step-3.new", target="folder"),
    "a temporary is a link": partial(_replaced, name="samples/.a.999999-0123abcd.partial", target="folder"),
    "the data is a link to a folder": partial(_replaced, name="data", target="folder"),
}  # fmt: skip


def runs() -> Iterator[Probe]:
    """Run directories that lead elsewhere, gone on with and published."""
    for attack, make in RUNS.items():
        yield Probe(attack, "train --resume", RESUME, make)
        yield Probe(attack, "publish", (*_PUBLISH, "run"), make, unnamed=("secret.txt", "kept.txt"))


# ---- publications --------------------------------------------------------------------------------------------------


def _put(scene: Scene, folder: str, name: str, content: str | None) -> None:
    path = scene.place / folder / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if content is None:
        path.symlink_to(scene.secret)
    else:
        path.write_text(content, encoding="utf-8")


def _recorded(scene: Scene, folder: str, name: str) -> None:
    path = scene.place / folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((scene.outside / "recording.wav").read_bytes())


LEAKS: dict[str, tuple[str, Callable[[Scene, str], None]]] = {
    "a recording": ("private.wav", lambda s, f: _recorded(s, f, "private.wav")),
    "a folder of recordings": ("private.wav", lambda s, f: _recorded(s, f, "recordings/private.wav")),
    "a token in a hidden file": (".env", lambda s, f: _put(s, f, ".env", f"TOKEN={SECRET}")),
    "a link to the secret as a licence": ("LICENSE-private", lambda s, f: _put(s, f, "LICENSE-private", None)),
    "a link to the secret as a notice": ("NOTICE", lambda s, f: _put(s, f, "NOTICE", None)),
    "a link to the secret as a licence's text": ("LICENSE.txt", lambda s, f: _put(s, f, "LICENSE.txt", None)),
    "a link to the secret as a voice": (
        "private.safetensors", lambda s, f: _put(s, f, "voice_embedding/private.safetensors", None)),
    "a link to the secret as the card": ("secret.txt", lambda s, f: _put(s, f, "README.md", None)),
    "a link to the secret as the configuration": ("config.json", lambda s, f: _put(s, f, "config.json", None)),
    "samples that are recordings": ("private.wav", lambda s, f: _recorded(s, f, "samples/private.wav")),
    "a path of this machine in a text": (
        "secret.txt", lambda s, f: _put(s, f, "config.json", json.dumps({"a": str(s.secret)}))),
}  # fmt: skip


def publications() -> Iterator[Probe]:
    """What lies beside what is published; nothing is sent."""
    for attack, (name, make) in LEAKS.items():
        for folder in ("baked", "adapters", "run"):
            yield Probe(attack, folder, (*_PUBLISH, folder), partial(make, f=folder), unnamed=(name,))
