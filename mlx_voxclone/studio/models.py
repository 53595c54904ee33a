"""Models that are loaded, on the thread that computes."""

from collections import OrderedDict
from pathlib import Path

import mlx.core as mx

from mlx_voxclone.api.speech import TextToSpeech, load

MOST = 2  # at once


class Models:
    """Loads on first need and keeps the last ones used; on the main thread alone."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], TextToSpeech] = OrderedDict()

    def speaker(
        self, path: str | Path, *, adapters: tuple[str | Path, ...] = (), encoder: str | Path | None = None
    ) -> TextToSpeech:
        """A checkpoint, ready to speak. Raises CheckpointError, ConfigError."""
        key = (str(path), str(encoder or ""), *map(str, adapters))
        if key not in self._kept:
            while len(self._kept) >= MOST:
                self._kept.popitem(last=False)
                mx.clear_cache()
            self._kept[key] = load(path, adapters=list(adapters), encoder=encoder)
        self._kept.move_to_end(key)
        return self._kept[key]
