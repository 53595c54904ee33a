"""The configuration that a run was started with: where it is saved, in what it differs from another one."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.files.yaml_files import parse_yaml
from mlx_voxclone.settings.config import RunConfig, removed_keys
from mlx_voxclone.settings.removed import take_over, without_removed
from mlx_voxclone.settings.training import FREE_ON_RESUME, LENGTHS

CONFIG_FILE = "config.yaml"


def own_config(run_dir: str | Path) -> Path:
    """The configuration of a run that goes on.

    Raises:
        ConfigError: not a run directory.
    """
    path = Path(run_dir) / CONFIG_FILE
    if not path.is_file():
        above = [place for place in Path(run_dir).parents if (place / CONFIG_FILE).is_file()]
        hint = f"; it is part of the run {above[0]}" if above and Path(run_dir).exists() else ""
        raise ConfigError(f"cannot resume: {run_dir} is not a run directory (it has no {CONFIG_FILE}){hint}")
    return path


def config_differences(saved: str, config: RunConfig, open_stages: Collection[str] = ()) -> list[str]:
    """Dotted keys in which a run's saved configuration differs from `config`, as `key: saved -> now`.

    What may change between sittings (lengths, intervals, device, where results go) is left out, and so are the sections
    of `open_stages`, those that have not begun.
    """
    sections = (*_SECTIONS, *(f"{stage}." for stage in open_stages))
    content = parse_yaml(saved, lambda line: "config.yaml of the run") or {}
    take_over(content)
    if gone := removed_keys(content):
        return [f"keys that were removed, remove their lines from its config.yaml: {', '.join(gone)}"]
    old, new = flat(without_removed(content)), flat(config.model_dump(mode="json"))
    keys = [k for k in sorted(old.keys() | new.keys()) if k not in _FREE and not k.startswith(sections)]
    return [f"{k}: {json.dumps(old.get(k))} -> {json.dumps(new.get(k))}" for k in keys if old.get(k) != new.get(k)]


_TRAININGS = ("encoder.train", "encoder.refine", "speaker.train")
_FREE = frozenset(
    {
        "device",
        "output",
        "say",
        "report_to",
        "notify",
        "data.cache",
        "data.cache_gb",
        "speaker.recompute",
        "encoder.pairs.batch",
    }
    | {f"{training}.{key}" for training in _TRAININGS for key in LENGTHS | FREE_ON_RESUME}
)
_SECTIONS = ("bake.",)


def flat(content: Mapping, prefix: str = "") -> dict:
    """Nested keys as dotted ones."""
    found = {}
    for key, value in content.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
