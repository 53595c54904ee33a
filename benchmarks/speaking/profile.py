"""The lengths and rates in which the miniature learns: what its profile says beside the shipped configuration."""

from pathlib import Path
from typing import Any

from mlx_voxclone.files.yaml_files import parse_yaml
from mlx_voxclone.settings.differences import flat

CONFIGS = Path(__file__).parents[2] / "configs"
PROFILE = CONFIGS / "profiles" / "speaking-miniature.yaml"


def overrides(*sections: str) -> dict[str, Any]:
    """The profile's own keys (dotted) in sections such as `encoder` and `speaker.train`."""
    content = flat(parse_yaml(PROFILE.read_text(encoding="utf-8"), lambda line: f"{PROFILE}:{line}"))
    return {key: value for key, value in content.items() if key.startswith(tuple(f"{s}." for s in sections))}
