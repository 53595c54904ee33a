"""LoRA adapters on disk: `adapters.safetensors` and `adapter_config.json`.

Names are those of `adapters.names`. Rank and alpha are
stored, never inferred; the base's fingerprint says which model the adapters were trained on.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_voxclone.adapters.names import is_adapter_tensor, modules, tensor_names
from mlx_voxclone.checkpoint.dtypes import FLOATS
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.atomic import write_text_atomic
from mlx_voxclone.files.plain import read_json, reason_of

TENSORS, CONFIG = "adapters.safetensors", "adapter_config.json"
MAX_ALPHA = 1e6  # far above any; float32 must hold what it does to a weight


@dataclass(frozen=True)
class AdapterConfig:
    """What adapters are: `delta W = (alpha / rank) * (lora_b.T @ lora_a.T)`, `[out, in]`.

    Args:
        rank: inner width.
        alpha: strength; the factor in front is alpha / rank.
        targets: last names of the adapted linear layers, such as `wq`.
        base_fingerprint: `Release.fingerprint()` of the model they were trained on.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    base_fingerprint: str

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def text(self) -> str:
        """The content of `adapter_config.json`."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def check_base(self, fingerprint: str, base: str | Path, where: str | Path) -> None:
        """Refuse a base that the adapters were not trained on: added to other weights they mean nothing.

        Args:
            fingerprint: of the base.
            base: what it is, for the message.
            where: directory of the adapters, for the message.

        Raises:
            CheckpointError: another fingerprint than the one stored.
        """
        if self.base_fingerprint != fingerprint:
            theirs, ours = self.base_fingerprint[:12], fingerprint[:12]
            raise CheckpointError(
                f"{where}: trained on another model (fingerprint {theirs}; {base} has {ours}); "
                f"give the model they were trained on, before any folding"
            )


def save_adapters(
    directory: str | Path,
    tensors: Mapping[str, "mx.array | np.ndarray"],
    config: AdapterConfig,
    *,
    overwrite: bool = False,
) -> None:
    """Write adapters into a directory, which is made if need be.

    Args:
        directory: place of the two files.
        tensors: `MODULE.lora_a` and `MODULE.lora_b` of every adapted module.
        config: see `AdapterConfig`.
        overwrite: replace adapters that are there.

    Raises:
        CheckpointError: adapters are there already, or the tensors do not fit the configuration.
    """
    directory = Path(directory)
    _check({name: tuple(t.shape) for name, t in tensors.items()}, config, str(directory / TENSORS))
    if not overwrite and (directory / CONFIG).exists():
        raise CheckpointError(f"{directory / CONFIG}: exists already; choose another directory")
    save_tensors(directory / TENSORS, tensors, overwrite=overwrite)
    write_text_atomic(directory / CONFIG, config.text(), overwrite=overwrite)


def load_adapters(directory: str | Path) -> tuple[dict[str, mx.array], AdapterConfig]:
    """Read adapters, float32.

    Returns:
        (name -> array, configuration); see `save_adapters`.

    Raises:
        CheckpointError: a file missing or unreadable, a value missing in the configuration, a pair without its other
            half, a rank other than stated, numbers that are not finite.
    """
    directory = Path(directory)
    config = _read_config(directory / CONFIG)
    file = TensorFile(directory / TENSORS)
    _check({name: file.info(name).shape for name in file.names()}, config, str(file.path))
    tensors = {}
    for name in file.names():
        values = file.numpy(name)
        if file.info(name).dtype not in FLOATS or not np.isfinite(values).all():
            raise CheckpointError(f"{file.path}: {name} holds numbers that are not finite; train these adapters again")
        tensors[name] = mx.array(values)
    return tensors, config


def _read_config(path: Path) -> AdapterConfig:
    try:
        raw = read_json(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; a directory of adapters holds {TENSORS} and {CONFIG}") from None
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path}: not readable as JSON ({reason_of(e)})") from None
    try:
        rank, alpha, targets, base = (raw[key] for key in ("rank", "alpha", "targets", "base_fingerprint"))
    except (KeyError, TypeError) as e:
        raise CheckpointError(f"{path}: {e} is missing; rank and alpha are never guessed") from None
    numbers = type(rank) is int and rank > 0 and type(alpha) in (int, float) and abs(alpha) <= MAX_ALPHA
    texts = isinstance(base, str) and isinstance(targets, list) and all(isinstance(t, str) for t in targets)
    if not numbers or not texts:
        raise CheckpointError(f"{path}: rank, alpha, targets or base_fingerprint has a value of the wrong type or size")
    return AdapterConfig(rank, float(alpha), tuple(targets), base)


def _check(shapes: Mapping[str, tuple[int, ...]], config: AdapterConfig, where: str) -> None:
    if not shapes:
        raise CheckpointError(f"{where}: holds no adapters")
    for name in shapes:
        if not is_adapter_tensor(name):
            raise CheckpointError(f"{where}: {name} is no LoRA tensor (MODULE.lora_a or MODULE.lora_b)")
    for module in modules(shapes):
        a, b = (shapes.get(name) for name in tensor_names(module))
        if a is None or b is None:
            raise CheckpointError(f"{where}: {module} lacks its {'lora_a' if a is None else 'lora_b'}")
        if len(a) != 2 or len(b) != 2 or a[1] != config.rank or b[0] != config.rank:
            raise CheckpointError(f"{where}: {module} is {list(a)} and {list(b)}, which is not rank {config.rank}")
        if module.rpartition(".")[2] not in config.targets:
            raise CheckpointError(f"{where}: {module} is not among the targets {', '.join(config.targets)}")
