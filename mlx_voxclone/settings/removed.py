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
    **{
        f"{training}.{name}": f"it is {value} always"
        for training in ("encoder.train", "encoder.refine", "speaker.train")
        for name, value in (("betas", "[0.9, 0.99]"), ("eps", "1e-8"), ("max_skipped", "5"))
    },
    "encoder.mel": "it is 80 bands in windows of 1024 samples always",
    "encoder.discriminators.betas": "it is [0.5, 0.9] always",
    "encoder.discriminators.start_step": "they learn from the first step on",
    "encoder.distillation.median": "it is 7 frames always, as in Whisper",
    "data.mix_shards": "it is 4 always",
    "distill.layers": "it is a quarter, half and three quarters of them always",
    "distill.kept": "it is 0.25 always",
}


def removed_settings(names: Iterable[str]) -> list[str]:
    """Those of the names that were keys of a training once."""
    return [name for name in names if f"speaker.train.{name}" in REMOVED]


def removed(keys: Iterable[str]) -> list[str]:
    """Those of the dotted keys that are in `REMOVED`, or in a section there, as they stand there; each once."""
    found = {}
    for key in keys:
        parts = key.split(".")
        names = (".".join(parts[: n + 1]) for n in range(len(parts)))
        found |= dict.fromkeys(name for name in names if name in REMOVED)
    return list(found)
