"""Lists that name what is not theirs, YAML that makes objects, JSON without measure."""

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.campaign.hostile.scene import BY_REFERENCE, DECODE, MADE, PREPARE, RESUME, SAY, TRAIN, Probe, Scene

EVALUATE = ("--speaker-model", "none", "--whisper-model", "none", "--output", "found")


# ---- paths ---------------------------------------------------------------------------------------------------------


def _link(scene: Scene, folder: Path) -> str:
    (folder / "linked.wav").symlink_to(scene.secret)
    return "linked.wav"


def _below_link(scene: Scene, folder: Path) -> str:
    (folder / "way").symlink_to(scene.outside)
    return "way/secret.txt"


def _pipe(scene: Scene, folder: Path) -> str:
    os.mkfifo(folder / "pipe.wav")
    return "pipe.wav"


PATHS: dict[str, Callable[[Scene, Path], str]] = {
    "an absolute path": lambda scene, folder: str(scene.secret),
    "a path that leads out": lambda scene, folder: os.path.relpath(scene.secret, folder),
    "a path of Windows that leads out": lambda scene, folder: os.path.relpath(scene.secret, folder).replace("/", "\\"),
    "file://": lambda scene, folder: f"file://{scene.secret}",
    "http:// to this machine": lambda scene, folder: "http://127.0.0.1:9/x.wav",
    "a device without end": lambda scene, folder: "/dev/zero",
    "the environment": lambda scene, folder: "/proc/self/environ",
    "standard input": lambda scene, folder: "/dev/stdin",
    "a link to the secret": _link,
    "a way through a link": _below_link,
    "a pipe": _pipe,
    "a command": lambda scene, folder: f"|touch {scene.outside / MADE}",
    "a null": lambda scene, folder: "a\0b.wav",
    "a name of 5000 letters": lambda scene, folder: "a" * 5000 + ".wav",
    "a name that moves the cursor": lambda scene, folder: "\x1b]0;owned\x07\x1b[2J\u202egpj.wav",
}


def _lines(scene: Scene, name: str, attack: Callable, form: str) -> None:
    """Every line of a manifest names the hostile path; `form` has `%s` in its place, as JSON or bare."""
    path = scene.place / name
    path.parent.mkdir(exist_ok=True)
    place = attack(scene, path.parent)
    path.write_text(form % (json.dumps(place) if form.startswith(("{", "[")) else place), encoding="utf-8")


def _key(scene: Scene, name: str, attack: Callable, key: str) -> None:
    """The key of the first line of a JSON Lines file that is there."""
    path = scene.place / name
    lines = path.read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0]) | {key: attack(scene, path.parent)}
    path.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n", encoding="utf-8")


def _index(scene: Scene, attack: Callable) -> None:
    folder = scene.place / "sharded"
    folder.mkdir()
    row = {"id": "a", "offset": 0, "size": 10, "sha256": "0" * 64, "samples": 24_000, "text": "papa", "speaker": "a"}
    lines = [{"shard": attack(scene, folder), "bytes": 30, "sha256": None}, row | {"split": "train"}]
    (folder / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _beside(scene: Scene, attack: Callable, folder: str) -> None:
    """A transcript that is the hostile thing itself."""
    place = scene.place / folder
    place.mkdir()
    (place / "a.wav").write_bytes((scene.place / "reference.wav").read_bytes())
    target = attack(scene, place)
    if "\0" not in target and len(target) < 250 and (target.startswith("/") or (place / target).exists()):
        (place / "a.txt").symlink_to(target)
    else:
        (place / "a.txt").write_text(target, encoding="utf-8")


def _data(path: str) -> tuple[str, ...]:
    return (*TRAIN, "--set", f"data.path={path}")


LISTED: dict[str, tuple[tuple[str, ...], Callable[[Scene, Callable], None]]] = {
    "manifest.jsonl (prepare)": (
        ("prepare", "listed/manifest.jsonl", *PREPARE),
        lambda s, a: _lines(s, "listed/manifest.jsonl", a, '{"audio": %s, "text": "papa mino", "speaker": "a"}\n'),
    ),
    "metadata.csv (prepare)": (
        ("prepare", "listed/metadata.csv", *PREPARE),
        lambda s, a: _lines(s, "listed/metadata.csv", a, "%s|papa mino\n"),
    ),
    "x.list (prepare)": (
        ("prepare", "listed/x.list", *PREPARE),
        lambda s, a: _lines(s, "listed/x.list", a, "%s|ann|EN|papa mino\n"),
    ),
    "manifest.json (prepare)": (
        ("prepare", "listed/manifest.json", *PREPARE),
        lambda s, a: _lines(s, "listed/manifest.json", a, '[{"audio": %s, "text": "papa mino"}]'),
    ),
    "ref_audio (prepare)": (
        ("prepare", "recordings/manifest.jsonl", *PREPARE),
        lambda s, a: _key(s, "recordings/manifest.jsonl", a, "ref_audio"),
    ),
    "prepared/manifest.jsonl (train)": (
        _data("prepared"), lambda s, a: _key(s, "prepared/manifest.jsonl", a, "audio")),
    "audio of pairs (train)": (
        (*TRAIN, "--set", "encoder.pairs.path=pairs"), lambda s, a: _key(s, "pairs/manifest.jsonl", a, "audio")),
    "codes of pairs (train)": (
        (*TRAIN, "--set", "encoder.pairs.path=pairs"), lambda s, a: _key(s, "pairs/manifest.jsonl", a, "codes")),
    "index.jsonl (train)": (_data("sharded"), _index),
    "output of a case (evaluate)": (
        ("evaluate", "listed/cases.jsonl", *EVALUATE),
        lambda s, a: _lines(s, "listed/cases.jsonl", a, '{"output": %s, "text": "papa"}\n'),
    ),
    "x.lst (evaluate)": (
        ("evaluate", "listed/x.lst", "--outputs", "listed", *EVALUATE),
        lambda s, a: _lines(s, "listed/x.lst", a, "x|papa|%s|mino\n"),
    ),
    "id of x.lst (evaluate)": (
        ("evaluate", "listed/x.lst", "--outputs", "listed", *EVALUATE),
        lambda s, a: _lines(s, "listed/x.lst", a, "%s|papa|x.wav|mino\n"),
    ),
    "transcript (prepare)": (("prepare", "beside", *PREPARE), lambda s, a: _beside(s, a, "beside")),
    "transcript (evaluate)": (("evaluate", "beside", *EVALUATE), lambda s, a: _beside(s, a, "beside")),
}  # fmt: skip


def paths() -> Iterator[Probe]:
    """Every path in every list."""
    for attack, make in PATHS.items():
        for target, (argv, put) in LISTED.items():
            yield Probe(attack, target, argv, lambda scene, put=put, make=make: put(scene, make))


# ---- YAML ----------------------------------------------------------------------------------------------------------

_BOMB = "\n".join([f"a0: &a0 [{', '.join(['x'] * 9)}]", *(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12))])  # fmt: skip
_MERGES = "\n".join(["a0: &a0 {k0: 1}", *(
    f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 9)}], k{k}: 1}}" for k in range(1, 12))])  # fmt: skip
YAML: dict[str, Callable[[Scene], str]] = {
    "a call": lambda s: f"task: !!python/object/apply:os.system ['touch {s.outside / MADE}']",
    "an open file": lambda s: f"task: !!python/object/new:io.open ['{s.outside / MADE}', 'w']",
    "a module": lambda s: "task: !!python/module:antigravity",
    "a tag of its own": lambda s: "task: !<tag:\u202eevil> x",
    "aliases without measure": lambda s: _BOMB,
    "merges without measure": lambda s: _MERGES,
    "a part that contains itself": lambda s: "task: &a [*a]",
    "100,000 brackets": lambda s: "task: " + "[" * 100_000,
    "a number of 200,000 digits": lambda s: "seed: " + "9" * 200_000,
    "a key twice": lambda s: "task: encoder\ntask: speaker",
    "a key that moves the cursor": lambda s: '"\\e]0;owned\\a\\e[2J": 1',
    "a value that moves the cursor": lambda s: 'task: "\\e]0;owned\\a\\u202e"',
    "the secret included": lambda s: f"include: {s.secret}",
    "a device included": lambda s: "include: /dev/zero",
    "the environment included": lambda s: "include: /proc/self/environ",
    "binary": lambda s: "task: !!binary gAN9cQAu",
    "a hundred documents": lambda s: "---\ntask: encoder\n" * 100,
}


def yaml() -> Iterator[Probe]:
    """Every text as a configuration, as what one includes, and as that of a run."""
    targets = {
        "c.yaml (train)": ("c.yaml", ("train", "--config", "c.yaml", "--quiet")),
        "an included file (train)": ("below.yaml", ("train", "--config", "above.yaml", "--quiet")),
        "config.yaml of a run (train --resume)": ("run/config.yaml", RESUME),
        "c.yaml (doctor)": ("c.yaml", ("doctor", "--config", "c.yaml")),
    }
    for attack, text in YAML.items():
        for target, (file, argv) in targets.items():
            yield Probe(attack, target, argv, partial(_yaml, file=file, text=text))


def _yaml(scene: Scene, file: str, text: Callable[[Scene], str]) -> None:
    (scene.place / "above.yaml").write_text("include: below.yaml\ntask: encoder\n", encoding="utf-8")
    (scene.place / file).write_text(text(scene) + "\n", encoding="utf-8")


# ---- JSON ----------------------------------------------------------------------------------------------------------


def _with(text: str, key: str, value: str) -> str:
    return f"{{{json.dumps(key)}: {value}, {text.lstrip()[1:]}"


JSON: dict[str, Callable[[str], str]] = {
    "100,000 brackets": lambda t: _with(t, "x", "[" * 100_000 + "]" * 100_000),
    "a number of 200,000 digits": lambda t: _with(t, "x", "9" * 200_000),
    "a number of 10^308": lambda t: t.replace("1", "1e308", 1),
    "a million keys": lambda t: _with(t, "x", "{" + ",".join(f'"{k}":0' for k in range(1_000_000)) + "}"),
    "every key twice": lambda t: t.rstrip()[:-1] + "," + t.lstrip()[1:],
    "a key that moves the cursor": lambda t: _with(t, "\x1b]0;owned\x07\x1b[2J", "1"),
    "every text moves the cursor": lambda t: _deep(t, "\x1b]0;owned\x07\u202e\x9b31m"),
    "every text leads out": lambda t: _deep(t, f"../../outside/{MADE}"),
    "every text is code": lambda t: _deep(t, "__import__('os').system('touch ../outside/executed')"),
}
READERS: dict[str, tuple[str, ...]] = {
    "model/params.json": (*SAY, *BY_REFERENCE),
    "model/tekken.json": (*SAY, *BY_REFERENCE),
    "model/config.json": DECODE,
    "adapters/adapter_config.json": (*SAY, *BY_REFERENCE, "--adapters", "adapters"),
    "recordings/manifest.jsonl": ("prepare", "recordings/manifest.jsonl", *PREPARE),
    "prepared/manifest.jsonl": _data("prepared"),
    "prepared/summary.json": _data("prepared"),
    "pairs/settings.json": (
        "pairs",
        "--model",
        "model",
        "--output",
        "pairs",
        "--texts",
        "texts.txt",
        "--max-seconds",
        "4",
    ),
    "baked/voxclone.json": ("unbake", "--model", "baked", "--base", "model", "--output", "back"),
    "run/checkpoints/step-2/state.json": RESUME,
    "run/spent.json": RESUME,
    "run/best/info.json": RESUME,
}


def json_texts() -> Iterator[Probe]:
    """Every change to every file of JSON."""
    for attack, change in JSON.items():
        for file, argv in READERS.items():
            yield Probe(attack, f"{file} ({argv[0]})", argv, partial(_json, file=file, change=change))


def _json(scene: Scene, file: str, change: Callable[[str], str]) -> None:
    path = scene.place / file
    text = path.read_text(encoding="utf-8") if path.is_file() else '{"seconds": 1.0}'
    lines = text.splitlines() if path.suffix == ".jsonl" else [json.dumps(json.loads(text))]
    path.write_text("\n".join([change(lines[0]), *lines[1:]]) + "\n", encoding="utf-8")


def _deep(text: str, value: str) -> str:
    return json.dumps(_replaced(json.loads(text), value), ensure_ascii=False)


def _replaced(content: Any, value: str) -> Any:
    if isinstance(content, dict):
        return {key: _replaced(below, value) for key, below in content.items()}
    if isinstance(content, list):
        return [_replaced(below, value) for below in content[:100]]
    return value if isinstance(content, str) else content
