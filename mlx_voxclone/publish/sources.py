"""What a path holds that can be published: a run, a baked checkpoint, adapters, an encoder or a voice."""

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
from mlx_voxclone.files.hub import ENCODER_FILE, REPOSITORY
from mlx_voxclone.publish.publication import Publication, PublishedAdapters
from mlx_voxclone.publish.run_directory import Run, run_of
from mlx_voxclone.settings.config import RunConfig

RELEASE = RunConfig.model_fields["model"].default  # what all of it derives from
WHAT = (
    "a run directory, a baked checkpoint, a directory of adapters, an encoder.safetensors or the NAME.safetensors of a"
    " voice can be published"
)


def collect(source: Path, staging: Path, *, with_baked: bool = False) -> Publication:
    """Everything that is published of `source`, checked; nothing else of it is looked at.

    Args:
        source: a run directory, a baked checkpoint, a directory of adapters, or the file of an encoder or a voice.
        staging: directory for files that are made for the occasion.
        with_baked: of a run of task `clone`, its baked checkpoint, too.

    Raises:
        CheckpointError: nothing of the kind, unfinished, damaged, or a file that names a path of this machine.
    """
    if not source.exists():
        raise CheckpointError(f"{source}: no such file or directory; {WHAT}")
    run = source.is_dir() and (source / "config.yaml").is_file()
    if with_baked and not run:
        raise CheckpointError(f"{source}: --baked is for the directory of a run of task clone")
    publication = Publication(source, RELEASE)
    if source.is_file():
        _add_file(publication, source)
    elif run:
        _add_run(publication, Run(source), staging, with_baked)
    elif (source / TENSORS).is_file():
        add_adapters(publication, source, staging)
        _add_measured(publication, source)
    elif (source / ENCODER_FILE).is_file():
        add_encoder(publication, source / ENCODER_FILE)
        _add_measured(publication, source)
    elif (source / WEIGHTS).is_file():
        add_baked(publication, source)
        if source.name == "baked" and (source.parent / "summary.json").is_file():
            _add_run_facts(publication, Run(source.parent))
    else:
        raise CheckpointError(f"{source}: nothing to publish; {WHAT}")
    if source.is_dir() and not run:
        published = {path.resolve() for path in publication.files.values()}
        names = (path.name for path in source.iterdir() if not path.name.startswith("."))
        whole = {VOICE_DIRECTORY, ADAPTER_CONFIG}  # the latter is written anew
        publication.left_out = sorted(
            name for name in names if name not in whole and (source / name).resolve() not in published
        )
    publication.check()
    return publication


# ---- parts ---------------------------------------------------------------------------------------------------------


def add_encoder(publication: Publication, path: Path, name: str = f"encoder/{ENCODER_FILE}") -> None:
    """Raises CheckpointError for tensors of anything else, or numbers that are not finite."""
    file = TensorFile(path)
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


# ---- files and runs ------------------------------------------------------------------------------------------------


def _add_file(publication: Publication, path: Path) -> None:
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: not a .safetensors file; {WHAT}")
    names = TensorFile(path).names()
    if EMBEDDING in names:
        add_voice(publication, path, path.stem)
    elif names and all(part_of(name) == "encoder" for name in names):
        add_encoder(publication, path)
        _add_measured(publication, path.parent)
    elif any(name.endswith(".lora_a") for name in names):
        raise CheckpointError(f"{path}: adapters are published with {ADAPTER_CONFIG}; name their directory")
    else:
        raise CheckpointError(f"{path}: neither an encoder nor a voice; {WHAT}")


def _add_run(publication: Publication, run: Run, staging: Path, with_baked: bool) -> None:
    if run.config.task == "clone":
        from mlx_voxclone.publish.clone_run import add_clone

        add_clone(publication, run, staging, with_baked)
    elif with_baked:
        raise CheckpointError(f"{run.directory}: a run of task {run.config.task} bakes nothing; leave --baked out")
    elif run.config.task == "encoder":
        add_encoder(publication, run.directory / "best" / ENCODER_FILE)
    else:
        add_adapters(publication, run.directory / "best", staging)
    _add_run_facts(publication, run)


def _add_run_facts(publication: Publication, run: Run, stages: set[str] | None = None) -> None:
    publication.figures = run.figures(stages)
    if stages is None:
        publication.samples, files = run.samples()
        publication.files |= files
    if _of_the_hub(run.config.model):
        publication.base_model = run.config.model


def _of_the_hub(model: str) -> bool:
    """Whether a model was fetched from the hub by this name, which may also be that of a directory."""
    from huggingface_hub import try_to_load_from_cache

    if not REPOSITORY.fullmatch(model) or Path(model).exists():
        return False
    return isinstance(try_to_load_from_cache(model, PARAMS), str)


def _add_measured(publication: Publication, directory: Path) -> None:
    """Figures of the run that an encoder or adapters are the result of, where they still lie in it."""
    if (found := run_of(directory)) is not None:
        _add_run_facts(publication, *found)
