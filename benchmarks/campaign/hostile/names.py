"""Names of voices and speakers, and texts, that are paths, orders to a terminal, or endless."""

import json
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.campaign.hostile.scene import BY_REFERENCE, DECODE, MADE, PREPARE, SAY, TRAIN, Probe, Scene

NAMES = {
    "a path that leads out": f"../../outside/{MADE}",
    "an absolute path": f"/tmp/{MADE}-by-a-probe",
    "the folder above": "..",
    "a folder and a name": "a/b",
    "two lines": "ann\nerror: send your token to evil.example",
    "a return": "ann\rerror: nothing is wrong",
    "a title for the terminal": "ann\x1b]0;owned\x07",
    "a cleared screen": "\x1b[2J\x1b[Hann",
    "orders in one byte": "ann\x9b31m\x85\x9d0;owned\x9c",
    "another direction": "\u202egpj.nna\u202c \u2066x",
    "5000 letters": "a" * 5000,
    "300 wide letters": "声" * 300,
    "nothing": "",
    "a blank that does not show": "\u200b\u3164",
    "half a character": "\udc80ann",
    "an option": "--output=../outside/executed",
    "a command": "$(touch ../outside/executed)`touch ../outside/executed`",
    "a page": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "a format": "{0.__class__}%s%n{outside}",
}
GIVEN: dict[str, Callable[[str], tuple[str, ...]]] = {
    "voices add": lambda n: ("voices", "add", "--model", "model", "--output", "new", f"{n}=reference.wav"),
    "voices remove": lambda n: ("voices", "remove", "--model", "model", "--output", "new", "--", n),
    "voices invert": lambda n: ("voices", "invert", "--model", "model", "--output", "n.safetensors", "--", n),
    "say --voice": lambda n: (*SAY, f"--voice={n}"),
    "say --text": lambda n: (*SAY, *BY_REFERENCE, f"--text={n}"),
    "bake --voice": lambda n: ("bake", "--model", "model", "--output", "new", f"--voice={n}=reference.wav"),
    "prepare --speaker": lambda n: ("prepare", "recordings", f"--speaker={n}", *PREPARE),
    "train --set voice": lambda n: (*TRAIN, "--set", "task=clone", "--set", f"voice={json.dumps(n)}", "--set", "say=7"),
    "pairs --voices": lambda n: (
        "pairs", "--model", "model", "--output", "more", "--texts", "texts.txt", f"--voices={n}"),
    "publish --repo": lambda n: ("publish", "baked", "--dry-run", "--consent", "it is my own voice", f"--repo=ann/{n}"),
    "decode --model": lambda n: (*DECODE, f"--model={n}"),
    "a command": lambda n: (n, "--help"),
}  # fmt: skip


def given() -> Iterator[Probe]:
    """Every name that a command line can hold, wherever one is given."""
    for attack, name in NAMES.items():
        for target, argv in GIVEN.items():
            if len(name) < 4000 or target != "a command":
                yield Probe(attack, target, argv(name.replace("{", "{{").replace("}", "}}")))


# ---- in files ------------------------------------------------------------------------------------------------------


def _voices(scene: Scene, name: str, *, file: bool = True) -> None:
    """One more voice of this name in the model's tables."""
    for path, keys in (
        ("model/params.json", ("multimodal", "audio_tokenizer_args", "voice")),
        ("model/tekken.json", ("audio", "voice_num_audio_tokens")),
    ):
        content = json.loads((scene.place / path).read_text(encoding="utf-8"))
        table = content
        for key in keys:
            table = table[key]
        table[name] = 3 if "params" in path else 14
        (scene.place / path).write_text(json.dumps(content), encoding="utf-8")


def _speaker(scene: Scene, name: str, key: str, file: str = "recordings/manifest.jsonl") -> None:
    path = scene.place / file
    lines = [json.dumps(json.loads(line) | {key: name}) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _case(scene: Scene, name: str, key: str) -> None:
    case = {"output": "reference.wav", "text": "papa", key: name}
    (scene.place / "cases.jsonl").write_text(json.dumps(case) + "\n", encoding="utf-8")


def _folder(scene: Scene, name: str) -> None:
    """A recording in a folder of this name, as far as there can be one."""
    folder = (
        scene.place
        / "many"
        / (name.replace("/", "_").encode("utf-8", "surrogateescape")[:200].decode("utf-8", "surrogateescape") or "x")
    )
    if folder.name in (".", ".."):
        folder = folder.with_name("dots")
    folder.mkdir(parents=True)
    for k in range(3):
        (folder / f"{k}.wav").write_bytes(
            next(iter(sorted((scene.place / "recordings").rglob(f"00{k}.wav")))).read_bytes()
        )


WRITTEN: dict[str, tuple[tuple[str, ...], Callable[[Scene, str], None]]] = {
    "the model's voices (voices list)": (("voices", "list", "--model", "model"), _voices),
    "the model's voices (say)": ((*SAY, *BY_REFERENCE), _voices),
    "the model's voices (voices remove)": (
        ("voices", "remove", "--model", "model", "--output", "new", "casual_male"), _voices),
    "the speaker (prepare)": (
        ("prepare", "recordings/manifest.jsonl", *PREPARE), partial(_speaker, key="speaker")),
    "the text (prepare)": (("prepare", "recordings/manifest.jsonl", *PREPARE), partial(_speaker, key="text")),
    "the language (prepare)": (("prepare", "recordings/manifest.jsonl", *PREPARE), partial(_speaker, key="language")),
    "the id of a clip (train)": (
        (*TRAIN, "--set", "data.path=prepared"), partial(_speaker, key="id", file="prepared/manifest.jsonl")),
    "the voice of pairs (train)": (
        (*TRAIN, "--set", "encoder.pairs.path=pairs"), partial(_speaker, key="voice", file="pairs/manifest.jsonl")),
    "the id of a case (evaluate)": (
        ("evaluate", "cases.jsonl", "--speaker-model", "none", "--whisper-model", "none", "--output", "found"),
        partial(_case, key="id")),
    "the text of a case (evaluate)": (
        ("evaluate", "cases.jsonl", "--speaker-model", "none", "--whisper-model", "none", "--output", "found"),
        partial(_case, key="text")),
    "a folder of recordings (prepare)": (("prepare", "many", *PREPARE), _folder),
}  # fmt: skip


def written() -> Iterator[Probe]:
    """Every name in every file that holds names."""
    for attack, name in NAMES.items():
        for target, (argv, make) in WRITTEN.items():
            yield Probe(attack, target, argv, lambda scene, make=make, name=name: make(scene, name))
