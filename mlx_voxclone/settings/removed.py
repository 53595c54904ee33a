"""Keys that configurations had once, and why each is gone.

What holds one is refused by name, with what to do. One that says what is done now anyway changes nothing and is passed
over, so that a run which began with it goes on.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

Get = Callable[[str], Any]
"""A dotted key to its value in the configuration that is looked at."""

_NO_GAIN = "no measurement showed a gain"

_OF_TRAINER = {"betas": "[0.9, 0.99]", "eps": "1e-8", "max_skipped": "5"}

_AS_IN_TRAIN = ("min_lr_ratio", "weight_decay", "log_every", "keep", "patience")

# What is done always in the place of a key.
_ALWAYS = {
    **dict.fromkeys(("encoder.train.grad_clip", "encoder.refine.grad_clip", "speaker.train.grad_clip"), 1.0),
    **dict.fromkeys(("encoder.pairs.heldout", "speaker.preserve.heldout", "distill.heldout"), 0.05),
    **dict.fromkeys(("encoder.losses.feature_matching", "encoder.losses.distillation", "encoder.pairs.dispersed"), 1.0),
    "encoder.pairs.augmented": 0.5,
    "speaker.quantise.group_size": 64,
    "speaker.hidden_dropout": 0.1,
    "speaker.listen.max_error_rate": 0.3,
    "speaker.listen.max_drift": 0.1,
}

# A section stands for all of its keys.
REMOVED = {
    "encoder.reconstruction_decay": _NO_GAIN,
    "encoder.losses.level_code": _NO_GAIN,
    "encoder.losses.usage": _NO_GAIN,
    "speaker.label_smoothing": _NO_GAIN,
    "speaker.silence_weight": _NO_GAIN,
    "speaker.code_noise": "at the weight that the flow's loss has now, it made no difference (docs/LOG.md)",
    "speaker.acoustic_weights": _NO_GAIN,
    **{
        f"{training}.{name}": f"it is {value} always"
        for training in ("encoder.train", "encoder.refine", "speaker.train")
        for name, value in _OF_TRAINER.items()
    },
    "encoder.mel": "it is 80 bands in windows of 1024 samples always",
    "encoder.discriminators.betas": "it is [0.5, 0.9] always",
    "encoder.discriminators.start_step": "they learn from the first step on",
    "encoder.distillation.median": "it is 7 frames always, as in Whisper",
    "data.mix_shards": "it is 4 always",
    **{f"encoder.refine.{name}": f"it is that of encoder.train.{name} now" for name in _AS_IN_TRAIN},
    **{f"encoder.refine.{name}": "it is a third of its steps always" for name in ("eval_every", "save_every")},
    "encoder.refine.sample_every": "it is at the end always, unless encoder.train.sample_every is 0",
    **{key: f"it is {value} always" for key, value in _ALWAYS.items()},
    "encoder.codes": "its temperature is 1.0 and its margin 0.5 always",
    **{f"encoder.losses.{name}": "encoder.losses.sound weighs l1, stft and mel" for name in ("l1", "stft", "mel")},
    "encoder.losses.commitment": "it is always what 0.1 was, where the sound has a weight",
    **{f"speaker.losses.{name}": "speaker.losses.kept weighs both" for name in ("kept_semantic", "kept_flow")},
    "distill.losses": "its weights are 1.0 always",
    "distill.layers": "it is a quarter, half and three quarters of them always",
    "distill.kept": "it is 0.25 always",
}


def _at(key: str, get: Get) -> Any:
    return get(key)


def _of_refining(name: str, get: Get) -> Any:
    """See `EncoderSection.refining`."""
    steps, every = get("encoder.refine.steps"), get(f"encoder.train.{name}")
    if get("encoder.refine.epochs") or type(steps) is not int:
        return every
    return (steps if name == "sample_every" else -(-steps // 3)) if every else 0


# What is done now in the place of a removed key, or how that follows from keys that there are.
NOW: dict[str, Any] = {
    **_ALWAYS,
    **{f"encoder.refine.{name}": partial(_at, f"encoder.train.{name}") for name in _AS_IN_TRAIN},
    **{f"encoder.refine.{name}": partial(_of_refining, name) for name in ("eval_every", "save_every", "sample_every")},
    "encoder.codes": {"temperature": 1.0, "margin": 0.5, "learn_temperature": False},
    **{f"encoder.losses.{name}": partial(_at, "encoder.losses.sound") for name in ("l1", "stft", "mel")},
    "encoder.losses.commitment": lambda get: 0.1 if get("encoder.losses.sound") else 0.0,
    **{f"speaker.losses.{name}": partial(_at, "speaker.losses.kept") for name in ("kept_semantic", "kept_flow")},
    "distill.losses": dict.fromkeys(("hidden", "semantic", "flow", "kept_semantic", "kept_flow"), 1.0),
}

# Section, key, and the keys there in whose place it stands.
_SUCCESSORS = (
    ("encoder.losses", "sound", ("l1", "stft", "mel")),
    ("speaker.losses", "kept", ("kept_semantic", "kept_flow")),
)


def take_over(content: dict[str, Any]) -> None:
    """Give a key of a configuration (nested) that stands in the place of several the value that all of these have."""
    for section, new, former in _SUCCESSORS:
        place: Any = content
        for part in section.split("."):
            place = place.get(part) if isinstance(place, dict) else None
        if isinstance(place, dict) and new not in place and set(former) <= place.keys():
            values = [place[name] for name in former]
            place |= {new: values[0]} if values == [values[0]] * len(former) else {}


def removed_settings(names: Iterable[str]) -> list[str]:
    """Those of the names that were settings of the trainer once."""
    return [name for name in names if name in _OF_TRAINER]


def removed(keys: Iterable[str]) -> list[str]:
    """Those of the dotted keys that are in `REMOVED`, or in a section there, as they stand there; each once."""
    found = {}
    for key in keys:
        parts = key.split(".")
        names = (".".join(parts[: n + 1]) for n in range(len(parts)))
        found |= dict.fromkeys(name for name in names if name in REMOVED)
    return list(found)


def says_otherwise(key: str, content: Mapping[str, Any], get: Get) -> bool:
    """Whether a removed key of a configuration (nested) asks for something else than what is done now."""
    value: Any = content
    for part in key.split("."):
        value = value[part]
    now = NOW.get(key)
    now = now(get) if callable(now) else now
    if isinstance(now, Mapping):  # a section
        given = {} if value is None else value
        return not (isinstance(given, Mapping) and all(_same(given[name], now.get(name)) for name in given))
    return not _same(value, now)


def without_removed(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The same configuration (nested) without keys that are gone."""
    left = {name: value for name, value in content.items() if f"{prefix}{name}" not in REMOVED}
    return {
        name: without_removed(value, f"{prefix}{name}.") if isinstance(value, Mapping) else value
        for name, value in left.items()
    }


def _same(value: Any, now: Any) -> bool:
    """Equal as numbers, which YAML may give as text, or else as they are."""
    if now is None or isinstance(value, bool) != isinstance(now, bool):
        return False
    try:
        return float(value) == float(now)
    except (TypeError, ValueError):
        return value == now
