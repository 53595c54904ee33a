"""Disk that a run will take, before it starts."""

from pathlib import Path

import numpy as np

from mlx_voxclone.checkpoint.release import PARAMS, expected_shapes
from mlx_voxclone.doctor.encoder import EncoderPlan
from mlx_voxclone.doctor.forecast import encoder_size, longest_sequence, model_params, speaker_weights
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.distill.stage import HELDOUT_ITEMS
from mlx_voxclone.train.distill.task import matched_layers
from mlx_voxclone.train.stages.compute import Compute


def disk_needed(config: RunConfig, encoders: EncoderPlan) -> dict[str, float]:
    """Bytes that a run will write, by what they are for, and those of a model that has to be fetched first.

    What goes into the cache is not among them: see `PairsPlan.nbytes`, `EncoderPlan.cache_bytes`.
    """
    params = model_params(config.model)
    shapes = expected_shapes(VoxtralConfig.from_dict(params), ["lm", "head", "decoder", "encoder"])
    encoder = encoder_size(config.model)
    total = sum(float(np.prod(shape)) for shape in shapes.values())
    needed = {}
    if not (Path(config.model) / PARAMS).is_file():
        needed["model, to be fetched"] = 2 * (total - encoder)
    if encoders.trainings:
        needed["encoder's checkpoints"] = encoders.run_bytes(config)
    if "speaker" in config.stages:
        lora = speaker_weights(params, config, Compute("bf16"))["adapters, gradients, optimiser"] / 5
        needed["adapters' checkpoints"] = lora * (3 * (config.speaker.train.keep + 1) + 2)
    if config.task == "distill":
        lengths, layers = longest_sequence(config), matched_layers(params["n_layers"])
        width = 4 if Compute.of(config).precision == "float32" else 2
        positions = lengths["text"] + lengths["frames"]  # of the longest; half of the items are texts alone
        states = (len(layers) + 1) * params["dim"] * width * positions
        needed["teacher's states"] = states * (config.distill.items + HELDOUT_ITEMS)
    if config.task == "clone":
        needed["baked checkpoint"] = 2 * total
    return needed
