"""MLX-native voice cloning for Voxtral-4B-TTS.

    tts = mlx_voxclone.load("voxtral")
    mlx_voxclone.write_wav("hello.wav", tts.say("Good morning.", voice="ann"))

Importing this is quick: MLX and all else that is heavy is imported when it is first used.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mlx_voxclone import errors as errors

if TYPE_CHECKING:
    from mlx_voxclone.api.baking import bake as bake
    from mlx_voxclone.api.codec import SpeechCodec as SpeechCodec
    from mlx_voxclone.api.sound import read_audio as read_audio
    from mlx_voxclone.api.sound import write_wav as write_wav
    from mlx_voxclone.api.speech import TextToSpeech as TextToSpeech
    from mlx_voxclone.api.speech import load as load
    from mlx_voxclone.api.stream import Stream as Stream
    from mlx_voxclone.api.training import Run as Run
    from mlx_voxclone.api.training import train as train
    from mlx_voxclone.api.voice import Voice as Voice

from mlx_voxclone.version import __version__

__all__ = [
    "Run",
    "SpeechCodec",
    "Stream",
    "TextToSpeech",
    "Voice",
    "__version__",
    "bake",
    "errors",
    "load",
    "read_audio",
    "train",
    "write_wav",
]

_PLACES = {
    "load": "speech",
    "TextToSpeech": "speech",
    "Stream": "stream",
    "SpeechCodec": "codec",
    "Voice": "voice",
    "train": "training",
    "Run": "training",
    "bake": "baking",
    "read_audio": "sound",
    "write_wav": "sound",
}


def _function(name: str) -> Any:
    return getattr(importlib.import_module(f"mlx_voxclone.api.{_PLACES[name]}"), name)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = _function(name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Callable(ModuleType):
    # A package that is a function as well: `mlx_voxclone.train(...)` beside `mlx_voxclone.train.run`.
    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.__wrapped__(*arguments, **keywords)

    @property
    def __wrapped__(self) -> Any:  # where `inspect.signature` looks, too
        return _function(self.__name__.rpartition(".")[2])

    @property
    def __doc__(self) -> Any:
        return self.__wrapped__.__doc__


if not TYPE_CHECKING:
    for _name in ("bake", "train"):
        importlib.import_module(f"mlx_voxclone.{_name}")
        sys.modules[f"mlx_voxclone.{_name}"].__class__ = _Callable
    del _name
