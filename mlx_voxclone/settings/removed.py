"""Keys that configurations had once, and why each is gone: what holds one is refused by name, with what to do."""

from collections.abc import Iterable

_NO_GAIN = "no measurement showed a gain"

# A section stands for all of its keys.
REMOVED = {
    "encoder.reconstruction_decay": _NO_GAIN,
    "encoder.losses.level_code": _NO_GAIN,
    "encoder.losses.usage": _NO_GAIN,
    "encoder.codes.learn_temperature": _NO_GAIN,
    "speaker.label_smoothing": _NO_GAIN,
    "speaker.silence_weight": _NO_GAIN,
    "speaker.code_noise": "at the weight that the flow's loss has now, it made no difference (docs/LOG.md)",
    "speaker.acoustic_weights": _NO_GAIN,
}


def removed(keys: Iterable[str]) -> list[str]:
    """Those of the dotted keys that are in `REMOVED`, or in a section there, as they stand there; each once."""
    found = {}
    for key in keys:
        parts = key.split(".")
        names = (".".join(parts[: n + 1]) for n in range(len(parts)))
        found |= dict.fromkeys(name for name in names if name in REMOVED)
    return list(found)
