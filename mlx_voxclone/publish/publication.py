"""What is published: files by their names in the repository, and what the model card says about them.

A repository holds any of
    encoder/encoder.safetensors
    adapters/adapters.safetensors, adapters/adapter_config.json
    voices/NAME.safetensors
    samples/NAME.wav                  generated speech, never a recording
    a baked checkpoint, at the top
    README.md, published.json         the model card; names, sizes and SHA-256 of all other files
so that `hf://OWNER/NAME` alone is an encoder, adapters, a voice or a model, by what is asked for.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_voxclone.adapters.files import AdapterConfig
from mlx_voxclone.checkpoint.release import file_sha256
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.publish.privacy import check_file
from mlx_voxclone.version import __version__

CARD, LIST = "README.md", "published.json"
MADE_WITH = "voxclone"


@dataclass(frozen=True)
class PublishedAdapters:
    """Adapters: their directory in the repository, how much of them is wanted (1: as trained), what they are."""

    folder: str
    weight: float
    config: AdapterConfig


@dataclass(frozen=True)
class Sample:
    """A sentence and its generated speech: `before`, `after`, ... -> name in the repository."""

    text: str
    speech: dict[str, str]


@dataclass
class Publication:
    """Everything that goes up.

    Args:
        source: what it was made of.
        files: name in the repository -> file here.
        encoder: name of the encoder in the repository.
        adapters: see there.
        voices: name of each voice kept apart -> name of its file in the repository.
        baked: whether a whole checkpoint is at the top.
        baked_voices: voices that bakes have added to it.
        base_model: hub id of the model that it is for.
        base_fingerprint: of that model's language model and head, where it is known.
        facts: (what, value) of the parts, for the card.
        figures: (what, value) that the run measured.
        samples: generated speech.
        left_out: names of files beside them that stay here.
    """

    source: Path
    base_model: str
    files: dict[str, Path] = field(default_factory=dict)
    encoder: str | None = None
    adapters: list[PublishedAdapters] = field(default_factory=list)
    voices: dict[str, str] = field(default_factory=dict)
    baked: bool = False
    baked_voices: list[str] = field(default_factory=list)
    base_fingerprint: str | None = None
    facts: list[tuple[str, str]] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def n_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files.values())

    def check(self) -> None:
        """Raise CheckpointError if a file is no plain file, or names a path of this machine."""
        for name, path in self.files.items():
            if not path.is_file():
                raise CheckpointError(f"{path}: not a readable file; it was to be published as {name}")
            if name != "tekken.json":  # a tokenizer's vocabulary holds pieces of paths, of nobody's machine
                check_file(path, name)

    def complete(self, card: str, staging: Path, progress: Callable[[int], None] = lambda count: None) -> None:
        """Add the model card and the list of files, both written into `staging`.

        Args:
            card: the model card, Markdown.
            progress: called with the bytes of files read since the last call.
        """
        entries = {}
        for name, path in sorted(self.files.items()):
            entries[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            progress(entries[name]["bytes"])
        text = json.dumps({"made_with": MADE_WITH, "version": __version__, "files": entries}, indent=2) + "\n"
        for name, content in ((CARD, card), (LIST, text)):
            self.files[name] = staging / name
            self.files[name].write_text(content, encoding="utf-8")


def listed_files(content: Any) -> dict[str, dict[str, Any]] | None:
    """The files that a `published.json` lists, by name; None: it is none of ours."""
    if not isinstance(content, dict) or content.get("made_with") != MADE_WITH:
        return None
    files = content.get("files")
    return files if isinstance(files, dict) and all(isinstance(entry, dict) for entry in files.values()) else None
