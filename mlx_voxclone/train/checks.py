"""What a run may not find out late: everything that can be refused before hours of preparation and training.

`check_inputs` looks at files, `check_data` at the prepared clips. The stages check again what they need themselves.
"""

from mlx_voxclone.bake.record import check_places, read_object
from mlx_voxclone.checkpoint.release import PARAMS, TEKKEN, Release, open_encoder
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.checkpoint.voices import register_voice
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.text_checks import check_same
from mlx_voxclone.errors import CheckpointError, ConfigError, DataError
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.speech.options import MAX_SECONDS
from mlx_voxclone.train.clone.base_encoder import starts_from_base
from mlx_voxclone.train.distill.stage import load_distill_pairs
from mlx_voxclone.train.encoder.inputs import check_encoder
from mlx_voxclone.train.encoder.items import Crops, crop_samples
from mlx_voxclone.train.judge.auto_pairs import AutomaticPairs
from mlx_voxclone.train.open_data import check_speakers, no_texts
from mlx_voxclone.train.speaker import stage as adaptation
from mlx_voxclone.train.speaker.listening import check_judges
from mlx_voxclone.train.speaker.preservation import check_kept
from mlx_voxclone.train.stages.compute import Compute
from mlx_voxclone.train.stages.stage import train_settings, trained


def check_inputs(config: RunConfig) -> None:
    """Refuse a model, encoder, reference clip or voice name that some later stage would refuse.

    Raises:
        CheckpointError, DataError: one line that names it.
    """
    release = Release(config.model)
    release.check_full("training")
    release.check()
    if "encoder" in config.stages and config.encoder.weights is not None:
        open_encoder(config.encoder.weights, release.config)
    if "encoder" in trained(config):
        check_encoder(config, release)
    if "speaker" in config.stages:
        _check_sentences(config, release)
    if "speaker" in config.stages and config.speaker.encoder_file is not None:
        open_encoder(config.speaker.encoder_file, release.config)
    elif config.task != "clone" and "speaker" in config.stages and not release.has_encoder:
        raise CheckpointError(
            f"{config.model}: has no codec encoder, which task {config.task} needs; set speaker.encoder, bake one in,"
            " or use task clone"
        )
    if "speaker" in config.stages:
        adaptation.check_lora(config, release)
        adaptation.starting_adapters(config, release)
        if config.task == "distill":
            load_distill_pairs(config, release)
            return
        check_kept(config, release)
        check_judges(config.speaker.listen)
    if config.task == "clone":
        _check_bake(config, release)


def _check_sentences(config: RunConfig, release: Release) -> None:
    """Refuse a sentence of `say` that the model has no room for behind the longest voice."""
    tokenizer = SpeechTokenizer.of(release)
    frames = round(MAX_SECONDS * release.config.codec.frame_rate)
    for number, text in enumerate(config.say, 1):
        try:
            tokenizer.prompt(text, frames + 1, frames)
        except DataError as e:
            raise DataError(f"say: sentence {number} ({text[:40]!r}): {e}") from None


def _check_bake(config: RunConfig, release: Release) -> None:
    if not config.baked_dir.exists():
        check_places(release.path, config.baked_dir)
    register_voice(read_object(release.path / PARAMS), read_object(release.path / TEKKEN), config.voice, rows=1)
    if config.bake.reference is not None:
        from mlx_voxclone.speech.speaker import read_reference

        read_reference(config.bake.reference)


def check_data(config: RunConfig, data: PreparedData) -> None:
    """Refuse clips that the speaker stage could not learn from, which in task `clone` is the second one.

    Raises:
        DataError: several speakers in task `clone`; no texts, or no clip with a text and another clip of its speaker to
            learn from or to measure by.
        ConfigError: fewer such clips than the stage's settings ask for.
    """
    if "speaker" in config.stages:
        usable = _check_usable(config, data)
    check_speakers(config, data.speakers)
    if "encoder" in trained(config):
        _check_encoder_length(config, data)
    if "speaker" in config.stages:
        _check_length(config, "speaker.train", usable)
        longest, low = max(clip.seconds for clip in data.clips), config.speaker.reference_seconds[0]
        if longest < low:
            raise ConfigError(
                f"speaker.reference_seconds: from {low:g} s on, but the longest clip has {longest:.1f} s; lower it"
            )


def _check_usable(config: RunConfig, data: PreparedData) -> int:
    """How many clips the speaker stage can learn from."""
    if not any(clip.text for clip in data.train):
        raise no_texts(config)
    anyone = config.adapts == "language"
    split = {"training": data.train, "held-out": data.heldout}
    found = {name: adaptation.usable(clips, data, anyone) for name, clips in split.items()}
    for name, clips in found.items():
        if not clips:
            raise DataError(
                f"task {config.adapts}: no {name} clip has a text and another clip of its speaker ({_counted(data)});"
                " at least two to learn from and one held out are needed: add transcripts (manifest, metadata.csv, .txt"
                " beside the audio, or prepare --transcribe) or more clips"
            )
    check_same([*data.train, *data.heldout])
    return len(found["training"])


def _counted(data: PreparedData) -> str:
    texts = sum(clip.text is not None for clip in (*data.train, *data.heldout))
    return f"{len(data.train)} training, {len(data.heldout)} held out, {texts} of them with a text"


def _check_encoder_length(config: RunConfig, data: PreparedData) -> None:
    """The trainings of an encoder against what each learns from: recordings, or (a base encoder) pairs."""
    release = Release(config.model)
    crops = len(Crops(data.train, crop_samples(config.encoder, release.config.codec)))
    from_base = starts_from_base(config)
    if not from_base:
        _check_length(config, "encoder.train", crops)
    elif not config.encoder.train.epochs:  # how long passes over pairs are is not known before these are made
        pairs = len(AutomaticPairs.of(config, release).listed) * (1 + config.encoder.pairs.moves)
        _check_length(config, "encoder.train", pairs)
    if from_base or (config.task == "clone" and config.judge.enabled and config.judge.rounds):
        _check_length(config, "encoder.refine", crops)


def _check_length(config: RunConfig, key: str, n_items: int) -> None:
    """Refuse batches or a warm-up that are too long for the items of an epoch; `key` names the section."""
    stage = config.encoder if key.startswith("encoder.") else config.speaker
    try:
        section = stage.refining if key == "encoder.refine" else stage.train
        train_settings(section, config, Compute.of(config)).total_steps(n_items)
    except ConfigError as e:
        raise ConfigError(f"{key}: {e}") from None
