"""The parts of a publication: an encoder, adapters, a voice, a baked checkpoint; each checked before it is added."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mlx_voxclone.adapters.files import CONFIG as ADAPTER_CONFIG
from mlx_voxclone.adapters.files import TENSORS, load_adapters
from mlx_voxclone.bake.record import HISTORY, NOTICE, added_voices, read_object
from mlx_voxclone.bake.voice_removal import voice_files
from mlx_voxclone.checkpoint.dtypes import FLOATS
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import CONFIG, LEGAL_TEXTS, PARAMS, TEKKEN, WEIGHTS, Release, part_of
from mlx_voxclone.checkpoint.voices import EMBEDDING, VOICE_DIRECTORY, check_voice_name, read_voice
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.hub import ENCODER_FILE
from mlx_voxclone.publish.publication import Publication, PublishedAdapters

WHAT = (
    "a run directory, a baked checkpoint, a directory of adapters, an encoder.safetensors or the NAME.safetensors of a"
    " voice can be published"
)


def add_encoder(publication: Publication, path: Path) -> None:
    """Raises CheckpointError for tensors of anything else, or numbers that are not finite."""
    file, name = TensorFile(path), f"encoder/{ENCODER_FILE}"
    if foreign := [tensor for tensor in file.names() if part_of(tensor) != "encoder"]:
        raise CheckpointError(f"{path}: holds {foreign[0]}, which is not of an encoder; {WHAT}")
    _check_finite(file, file.names())
    publication.files[name], publication.encoder = path, name
    types = ", ".join(sorted({file.info(tensor).dtype for tensor in file.names()}))
    publication.facts.append(("encoder", f"{len(file)} tensors, {types}"))


def add_adapters(
    publication: Publication, directory: Path, staging: Path, folder: str = "adapters", weight: float = 1.0
) -> None:
    """Raises CheckpointError for adapters that cannot be loaded, or of another base than others of the publication."""
    _, config = load_adapters(directory)
    known = publication.base_fingerprint
    if known not in (None, config.base_fingerprint):
        raise CheckpointError(f"{directory}: trained on another model than the one it would be published with")
    text = staging / folder / ADAPTER_CONFIG
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text(config.text(), encoding="utf-8")  # the known keys alone, whatever else may have been added
    publication.files |= {f"{folder}/{TENSORS}": directory / TENSORS, f"{folder}/{ADAPTER_CONFIG}": text}
    publication.adapters.append(PublishedAdapters(folder, weight, config))
    publication.base_fingerprint = config.base_fingerprint
    targets = ", ".join(config.targets)
    publication.facts.append((folder, f"LoRA, rank {config.rank}, alpha {config.alpha:g}, of {targets}"))


def add_voice(publication: Publication, path: Path, voice: str) -> None:
    """Raises CheckpointError for a file that holds more than a voice, or a name that cannot be one."""
    check_voice_name(voice)
    rows, dim = _voice_alone(path)
    name = f"voices/{voice}.safetensors"
    publication.files[name], publication.voices[voice] = path, name
    publication.facts.append((f"voice {voice}", f"{rows} rows of {dim}"))


def _voice_alone(path: Path) -> tuple[int, ...]:
    """The shape of a voice's rows, in a file of nothing else."""
    if path.suffix != ".pt" and (more := sorted(set(TensorFile(path).names()) - {EMBEDDING})):
        raise CheckpointError(
            f"{path}: holds {', '.join(more[:3])} beside the voice; publish a file of the voice alone, such as"
            f" {VOICE_DIRECTORY}/NAME.safetensors of a baked checkpoint"
        )
    return tuple(read_voice(path).shape)


def add_baked(publication: Publication, directory: Path) -> None:
    """Raises CheckpointError for a checkpoint that was not baked here, or is not whole."""
    if not (directory / HISTORY).is_file():
        raise CheckpointError(
            f"{directory}: was not baked by voxclone, it has no {HISTORY}; only what voxclone made is published"
        )
    release = Release(directory)
    release.check()
    for name in (WEIGHTS, PARAMS, TEKKEN, CONFIG, HISTORY, NOTICE):
        if (directory / name).is_file():
            publication.files[name] = directory / name
    for pattern in LEGAL_TEXTS:  # of the model that it was made of
        publication.files |= {path.name: path for path in sorted(directory.glob(pattern)) if path.is_file()}
    known = set(release.config.voices)
    for voice, paths in voice_files(directory).items():
        for path in paths if voice in known else ():
            _voice_alone(path)
            publication.files[f"{VOICE_DIRECTORY}/{path.name}"] = path
    publication.baked = True
    publication.baked_voices = sorted(added_voices(directory) & known)
    publication.base_fingerprint = first_bake(directory).get("base_fingerprint")
    publication.facts.append(("checkpoint", f"{len(release.tensors)} tensors, {len(known)} voices"))


def first_bake(directory: Path) -> dict:
    """The first entry of `voxclone.json`."""
    return _bakes(directory)[0]


def last_bake(directory: Path) -> dict:
    """The last entry of `voxclone.json`."""
    return _bakes(directory)[-1]


def _bakes(directory: Path) -> list[dict]:
    bakes = read_object(directory / HISTORY).get("bakes")
    if not isinstance(bakes, list) or not bakes or not all(isinstance(bake, dict) for bake in bakes):
        raise CheckpointError(f"{directory / HISTORY}: not the record of a bake; bake again")
    return bakes


def _check_finite(file: TensorFile, names: Iterable[str]) -> None:
    for name in names:
        if file.info(name).dtype not in FLOATS or not np.isfinite(file.numpy(name)).all():
            raise CheckpointError(f"{file.path}: {name} holds numbers that are not finite; train this encoder again")
