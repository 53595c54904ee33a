"""What a run may not find out late: everything that can be refused before hours of preparation and training.

`check_inputs` looks at files, `check_data` at the prepared clips. The stages check again what they need themselves.
"""

from mlx_voxclone.checkpoint.bake_files import check_places, read_json
from mlx_voxclone.checkpoint.release import PARAMS, TEKKEN, Release, open_encoder
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.checkpoint.voices import register_voice
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.errors import CheckpointError, ConfigError, DataError
from mlx_voxclone.run_config import RunConfig
from mlx_voxclone.train import stages


def check_inputs(config: RunConfig, *, resuming: bool) -> None:
    """Refuse a model, encoder, reference clip, voice name or output that some later stage would refuse.

    Raises:
        CheckpointError, DataError: one line that names it.
    """
    release = Release(config.model)
    release.check()
    if "encoder" in config.stages and config.encoder.weights is not None:
        open_encoder(config.encoder.weights, release.config)
    if "speaker" in config.stages:
        SpeechTokenizer(release.tokenizer_path, release.config.backbone.vocab_size)
    if "speaker" in config.stages and config.speaker.encoder is not None:
        open_encoder(config.speaker.encoder, release.config)
    elif config.task == "speaker" and not release.has_encoder:
        raise CheckpointError(
            f"{config.model}: has no codec encoder, which task speaker needs; set speaker.encoder, bake one in, or use"
            " task clone"
        )
    if config.task == "clone":
        _check_bake(config, release, resuming)


def _check_bake(config: RunConfig, release: Release, resuming: bool) -> None:
    if not resuming and config.baked_dir.exists() and any(config.baked_dir.iterdir()):
        raise CheckpointError(f"{config.baked_dir}: exists already; set bake.output to another directory")
    if not config.baked_dir.exists():
        check_places(release.path, config.baked_dir)
    register_voice(read_json(release.path / PARAMS), read_json(release.path / TEKKEN), config.voice, rows=1)
    if config.bake.reference is not None:
        from mlx_voxclone.synthesis import read_reference

        read_reference(config.bake.reference)


def check_data(config: RunConfig, data: PreparedData) -> None:
    """Refuse clips that the speaker stage could not learn from, which in task `clone` is the second one.

    Raises:
        DataError: no texts, or no clip with a text and another clip of its speaker to learn from or to measure by.
        ConfigError: fewer such clips than the stage's settings ask for.
    """
    if "speaker" not in config.stages:
        return
    if not any(clip.text for clip in data.train):
        raise DataError(
            "task speaker needs texts, and none of the clips has one: put them into the manifest, metadata.csv or a"
            " .txt beside each audio file, or set data.transcribe: true"
        )
    found = {name: stages.usable(clips, data) for name, clips in (("training", data.train), ("held-out", data.heldout))}
    for name, clips in found.items():
        if not clips:
            raise DataError(
                f"task speaker: no {name} clip has a text and another clip of its speaker; add transcripts (manifest,"
                " metadata.csv, .txt beside the audio, or prepare --transcribe) or more clips"
            )
    settings = stages.train_settings(config.speaker.train, config, stages.Compute.of(config))
    try:
        settings.total_steps(len(found["training"]))
    except ConfigError as e:
        raise ConfigError(f"speaker.train: {e}") from None
