"""The encoder's training as a stage of a run."""

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_voxclone.checkpoint.digests import codec_digest
from mlx_voxclone.checkpoint.release import Release, open_encoder
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.shards.data import ShardData
from mlx_voxclone.files.hub import ENCODER_FILE
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.train.encoder.inputs import EncoderInputs
from mlx_voxclone.train.encoder.start import calibrate_encoder, mirror_decoder
from mlx_voxclone.train.encoder.task import EncoderTask
from mlx_voxclone.train.saved.result import TrainResult
from mlx_voxclone.train.saved.state import BEST
from mlx_voxclone.train.stages.running import Run
from mlx_voxclone.train.stages.stage import run_trainer, train_settings

CALIBRATION_CLIPS, CALIBRATION_SAMPLES = 8, 4 * 24000


def encoder_codec(
    release: Release, section: EncoderSection, data: PreparedData, seed: int, decoder_dtype: mx.Dtype
) -> Codec:
    """The release's codec with an encoder to train: from `section.weights`, else the release's own, else a new one.

    The encoder is float32 (the trainer's master); the frozen decoder has `decoder_dtype`, the codebook float32.
    """
    weights = section.weights
    own = weights is None and release.has_encoder
    tensors = release.load_parameters(["decoder", "encoder"] if own else ["decoder"])
    if weights is not None:
        tensors |= open_encoder(weights, release.config).arrays()  # all of their digits, unlike what is spoken with
    mx.random.seed(seed)
    model = Voxtral(release.config, encoder=True)
    model.load_weights(list(tensors.items()), strict=False)
    codec = model.audio_tokenizer
    codec.set_dtype(mx.float32)
    if weights is None and not own:
        if section.start == "mirror":
            mirror_decoder(codec)
        calibrate_encoder(codec, [clip.read(0, CALIBRATION_SAMPLES) for clip in data.train[:CALIBRATION_CLIPS]])
    for part in (*codec.decoder_blocks, codec.output_proj):
        part.set_dtype(decoder_dtype)
    mx.eval(codec.parameters())
    return codec


def train_encoder(
    config: RunConfig,
    data: PreparedData,
    inputs: EncoderInputs,
    run: Run,
    judged: Mapping[str, np.ndarray] | None = None,
) -> TrainResult:
    """Task `encoder` in the run's directory; `best/encoder.safetensors` is its result. `judged`: see `EncoderItems`."""
    compute, section, release = run.compute, config.encoder, run.release
    codec = encoder_codec(release, section, data, config.seed, compute.dtype)
    identity = {"codec": codec_digest(release, section.weights)}
    if isinstance(data, ShardData):
        identity["data.mix_shards"] = data.mix  # the order of the items depends on it
    task = EncoderTask(
        codec,
        data,
        section,
        config.seed,
        compute.dtype,
        identity=identity,
        pairs=inputs.pairs,
        teacher=inputs.teacher,
        prior=inputs.prior,
        judged=judged,
    )
    settings = train_settings(section.train, config, compute)
    return run_trainer(task, settings, run.directory, run.reporter)


def best_encoder(directory: Path) -> Path:
    return directory / BEST / ENCODER_FILE
