"""What a path holds that can be published: a run, a baked checkpoint, adapters, an encoder or a voice."""

from pathlib import Path

from mlx_voxclone.adapters.files import CONFIG as ADAPTER_CONFIG
from mlx_voxclone.adapters.files import TENSORS
from mlx_voxclone.adapters.names import is_adapter_tensor
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import PARAMS, WEIGHTS, part_of
from mlx_voxclone.checkpoint.voices import EMBEDDING, VOICE_DIRECTORY
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.hub import ENCODER_FILE, REPOSITORY
from mlx_voxclone.publish.clone_run import add_clone
from mlx_voxclone.publish.parts import WHAT, add_adapters, add_baked, add_encoder, add_voice
from mlx_voxclone.publish.publication import Publication
from mlx_voxclone.publish.run_directory import Run, run_of
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.differences import CONFIG_FILE

RELEASE = RunConfig.model_fields["model"].default  # what all of it derives from


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
    run = source.is_dir() and (source / CONFIG_FILE).is_file()
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


def _add_file(publication: Publication, path: Path) -> None:
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: not a .safetensors file; {WHAT}")
    names = TensorFile(path).names()
    if EMBEDDING in names:
        add_voice(publication, path, path.stem)
    elif names and all(part_of(name) == "encoder" for name in names):
        add_encoder(publication, path)
        _add_measured(publication, path.parent)
    elif any(is_adapter_tensor(name) for name in names):
        raise CheckpointError(f"{path}: adapters are published with {ADAPTER_CONFIG}; name their directory")
    else:
        raise CheckpointError(f"{path}: neither an encoder nor a voice; {WHAT}")


def _add_run(publication: Publication, run: Run, staging: Path, with_baked: bool) -> None:
    if run.config.task == "clone":
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
