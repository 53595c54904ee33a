"""A Whisper in mlx-whisper's format: found, checked and loaded (optional extra `transcribe`).

What it is called, how large it is and what it is made of are known from its files alone; mlx-whisper itself (several
seconds of imports) is needed only to run it.
"""

import hashlib
import importlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from mlx_voxclone.errors import DataError
from mlx_voxclone.files.paths import expanded
from mlx_voxclone.files.plain import read_json
from mlx_voxclone.whisper.alignment import CONTEXT_FRAMES

CONFIG = "config.json"
WEIGHTS = ("weights.safetensors", "weights.npz")  # the order in which mlx-whisper looks for them
Progress = Callable[[int, int, str], object]  # done, total, what
LOADING = "loading"  # what progress is reported under
_PIECE = 16 << 20  # bytes that are read at once
_SIZES = (
    *("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer"),
    *("n_vocab", "n_text_ctx", "n_text_state", "n_text_head", "n_text_layer"),
)
_GGML = (b"lmgg", b"ggml", b"GGUF")  # at the beginning of a file
_MELS = (80, 128)  # what mlx-whisper has filters for
_VOCABULARIES = (51864, 51865, 51866)  # English only, 99 and 100 languages: what its tokenizers are for


_WANTED = (
    f"a directory in mlx-whisper's format ({CONFIG} and {WEIGHTS[0]}), or a Hub id such as"
    " mlx-community/whisper-small-mlx"
)


class CheckedDecoder:
    """A Whisper's decoder that calls a function before each token, so that hearing can be ended within a clip.

    Args:
        decoder: an mlx_whisper TextDecoder.
        check: what it raises ends the decoding.
    """

    def __init__(self, decoder: Any, check: Callable[[], object]) -> None:
        self._decoder, self._check = decoder, check

    def __call__(self, *args: Any, **options: Any) -> Any:
        self._check()
        return self._decoder(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


class WhisperFiles:
    """The files of a Whisper; nothing is read before it is asked for.

    Args:
        model: directory in mlx-whisper's format (config.json and weights.safetensors or .npz), or a hub id.
    """

    def __init__(self, model: str) -> None:
        self.name = str(model)

    @cached_property
    def directory(self) -> Path:
        """Where the files lie; a hub id is fetched first.

        Raises:
            DataError: neither a directory nor a model that the hub hands out.
        """
        path = Path(expanded(self.name))
        if path.is_dir():
            return path
        if path.exists():
            what = "a Whisper of whisper.cpp (GGML); " if _is_ggml(path) else "a file; "
            raise DataError(f"{path}: {what}name {_WANTED}")
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.name, allow_patterns=[CONFIG, *WEIGHTS]))
        except Exception as e:  # network, authorisation, unknown name: a dozen classes of several libraries
            raise self._not_loaded(e) from None

    @cached_property
    def sizes(self) -> dict[str, int]:
        """mlx-whisper's ModelDimensions by name.

        Raises:
            DataError: no usable config.json, or a Whisper of sizes that mlx-whisper's audio or text do not fit.
        """
        path = self.directory / CONFIG
        if what := other_format(self.directory):
            raise DataError(f"{self.name}: {what}")
        try:
            config = read_json(path)
            sizes = {name: config[name] for name in _SIZES}
            if any(type(size) is not int or size < 0 for size in sizes.values()):
                raise ValueError("sizes must be whole numbers")
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise self._not_loaded(e) from None
        faults = [
            (sizes["n_text_layer"] < 1, "it has no text decoder, whose states are what is learned from"),
            (sizes["n_mels"] not in _MELS, f"n_mels is {sizes['n_mels']}, but its spectrogram has 80 or 128 bands"),
            (
                sizes["n_audio_ctx"] != CONTEXT_FRAMES,
                f"n_audio_ctx is {sizes['n_audio_ctx']}, but 30 s of audio are {CONTEXT_FRAMES} frames",
            ),
            (
                sizes["n_audio_state"] != sizes["n_text_state"],
                f"n_audio_state {sizes['n_audio_state']} and n_text_state {sizes['n_text_state']} differ",
            ),
            (
                sizes["n_vocab"] not in _VOCABULARIES,
                f"n_vocab is {sizes['n_vocab']}, but its tokenizers have {_VOCABULARIES[0]} to {_VOCABULARIES[-1]}",
            ),
        ]
        if wrong := [text for fault, text in faults if fault]:
            raise DataError(f"{path}: not a Whisper that can be used: {'; '.join(wrong)}")
        return sizes

    @property
    def is_multilingual(self) -> bool:
        """Whether it knows more than English. Raises DataError as `sizes`."""
        return self.sizes["n_vocab"] > _VOCABULARIES[0]

    def check(self) -> None:
        """Find out, before any work, whether it can be used, as far as its files' names and sizes tell.

        Raises:
            DataError: mlx-whisper is not installed, no such model, or one of another format.
        """
        whisper_module("load_models")
        self.sizes  # noqa: B018
        if not self.weights.is_file():
            raise self._not_loaded(FileNotFoundError(f"neither {' nor '.join(WEIGHTS)} is there"))

    @property
    def weights(self) -> Path:
        return next((p for name in WEIGHTS if (p := self.directory / name).is_file()), self.directory / WEIGHTS[0])

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of weights and configuration: which model it is, wherever it lies.

        Raises:
            DataError: a file is missing or cannot be read.
        """
        try:
            parts = [_sha256(path) for path in (self.weights, self.directory / CONFIG)]
        except OSError as e:
            raise self._not_loaded(e) from None
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def load(self, progress: Progress | None = None) -> tuple[Any, bool]:
        """The model (mlx_whisper.whisper.Whisper), and whether it computes in float16 (on a GPU) or float32.

        Args:
            progress: called with the bytes read, those in all, and "loading"; what it raises ends the loading.

        Raises:
            DataError: mlx-whisper is not installed, or the model cannot be loaded, or its tensors do not fit.
        """
        loader = whisper_module("load_models")
        sizes = self.sizes
        import mlx.core as mx

        half = mx.default_device() == mx.Device(mx.gpu)  # float16 is slow on a CPU
        dtype = mx.float16 if half else mx.float32
        if progress is not None:
            self._read_ahead(progress)
        try:
            model = loader.load_model(str(self.directory), dtype)
            stored = mx.load(str(self.weights))
        except Exception as e:  # a chain of other people's code: any failure ends here
            raise self._not_loaded(e) from None
        self._check_tensors(model, stored)
        if {name: getattr(model.dims, name) for name in sizes} != sizes:
            raise DataError(f"{self.name}: {CONFIG} was changed while it was being read; run again")
        model.set_dtype(dtype)  # the file's own may be the other one
        model.freeze()
        return model, half

    def _read_ahead(self, progress: Progress) -> None:
        """Read the weights into the file cache piece by piece, with progress; mlx-whisper loads them in one call after
        that."""
        try:
            with open(self.weights, "rb", buffering=0) as file:
                total, done = self.weights.stat().st_size, 0
                progress(done, total, LOADING)
                while count := len(file.read(_PIECE)):
                    done += count
                    progress(min(done, total), total, LOADING)
        except OSError as e:
            raise self._not_loaded(e) from None

    def _check_tensors(self, model: Any, stored: dict[str, Any]) -> None:
        """mlx-whisper takes what the file has and leaves the rest as it was drawn at random, whatever its shape."""
        from mlx.utils import tree_flatten

        shapes = {name: value.shape for name, value in tree_flatten(type(model)(model.dims).parameters())}
        shapes.pop("alignment_heads")  # an old conversion has none; then they are all heads of the upper layers
        # Where linear layers are quantised, their shapes are other ones.
        plain = {name for name in shapes if name.rpartition(".")[0] + ".scales" not in stored}
        wrong = [n for n in sorted(shapes) if n not in stored or (n in plain and stored[n].shape != shapes[n])]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise DataError(
                f"{self.weights}: does not fit {CONFIG}: missing or of another shape: {', '.join(wrong[:3])}{more}"
            )

    def _not_loaded(self, error: Exception) -> DataError:
        detail = " ".join(str(error).split())[:200]
        return DataError(
            f"{self.name}: cannot be loaded as a Whisper model ({type(error).__name__}: {detail}); "
            "name a directory or a hub id in mlx-whisper's format"
        )


def other_format(directory: Path) -> str | None:
    """What a directory holds, and what to do, if it is a Whisper of another program; None: nothing is known of that."""
    names = {path.name for path in directory.iterdir()}
    try:
        config = read_json(directory / CONFIG)
    except (OSError, ValueError):
        config = None
    config = config if isinstance(config, dict) else {}
    maker = None
    if "model.bin" in names and not names & set(WEIGHTS):
        maker = "CTranslate2 (faster-whisper)"
    elif any(_is_ggml(directory / name) for name in sorted(names) if name.endswith((".bin", ".gguf"))):
        maker = "whisper.cpp (GGML)"
    elif "d_model" in config or "architectures" in config:
        kind = config.get("model_type")
        if kind != "whisper":
            return f"not a Whisper, by its {CONFIG} (model_type {kind!r}); name {_WANTED}"
        maker = "transformers"
    elif any(name.endswith(".mlmodelc") for name in names):
        maker = "Core ML (WhisperKit)"
    elif names and CONFIG not in names and any(name.endswith(".pt") for name in names):
        maker = "OpenAI (PyTorch)"
    return maker and f"a Whisper in the format of {maker}, which is not read; name {_WANTED}"


def _is_ggml(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) in _GGML
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def whisper_module(name: str) -> ModuleType:
    """A module of mlx-whisper.

    Raises:
        DataError: mlx-whisper is not installed.
    """
    try:
        return importlib.import_module(f"mlx_whisper.{name}")
    except ImportError as e:
        raise DataError(
            f"a Whisper needs mlx-whisper ({e}); install it with: pip install 'mlx-voxclone[transcribe]'"
        ) from None
