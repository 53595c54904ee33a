"""The stages of a run: prepared data, a trained encoder, the data as codes, a trained adapter.

Each stage looks at what is in its directory already: a complete result is used again, an incomplete one is resumed. So
an interrupted run goes on where it was, whatever stage that is.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import CODEC_PREFIX, Release, file_sha256, load_model, open_encoder
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.collect import Progress
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.shards.data import ShardData
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.files.run_log import LOG_NAME
from mlx_voxclone.files.yaml_files import parse_yaml
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.model.config import N_SPECIAL_CODES
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.process.temporaries import clear_below
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.schema import EncoderSection, TrainSection
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.compute import Compute
from mlx_voxclone.train.encoder.inputs import EncoderInputs
from mlx_voxclone.train.encoder.start import calibrate_encoder, mirror_decoder
from mlx_voxclone.train.encoder.task import ENCODER_FILE, EncoderTask
from mlx_voxclone.train.loop.distributed import current
from mlx_voxclone.train.loop.task import Task, fingerprint_changes
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.saved.result import RESULT_NAME, TrainResult
from mlx_voxclone.train.saved.state import BEST, CHECKPOINTS, SAMPLES, list_checkpoints, load_checkpoint

CODES_FILE = "codes.safetensors"
CALIBRATION_CLIPS, CALIBRATION_SAMPLES = 8, 4 * 24000


def trained(config: RunConfig) -> tuple[str, ...]:
    """The stages that this configuration trains: `clone` with an encoder at hand leaves out the first."""
    at_hand = config.speaker.encoder_file is not None or Release(config.model).has_encoder
    return ("speaker",) if config.task == "clone" and at_hand else config.stages


def prepare_options(config: RunConfig) -> PrepareOptions:
    """How a configuration's recordings are prepared."""
    of_shards = {"path", "cache", "cache_gb", "mix_shards"}
    return PrepareOptions(**config.data.model_dump(exclude=of_shards), seed=config.seed)


def train_settings(section: TrainSection, config: RunConfig, compute: Compute) -> TrainSettings:
    """The trainer's settings of a configuration's `train` section."""
    return TrainSettings(**section.model_dump(), seed=config.seed, precision=compute.precision)


def run_trainer(task: Task, settings: TrainSettings, directory: Path, *, quiet: bool) -> TrainResult:
    """Train in `directory`, continue what stopped there, or return the result of what is complete.

    Complete is what has all the steps that are asked for now: more of them continue it.

    Raises:
        CheckpointError: what is there was trained on other data, codes or weights than the task's.
    """
    ranks = current()
    plan = ranks.from_first(lambda: _plan(task, settings, directory))
    if plan["done"] is not None:
        return TrainResult(**plan["done"])
    place = {"resume": directory} if plan["begun"] else {"run_dir": directory}
    return Trainer(task, settings, **place, quiet=quiet, announce_resume=False, ranks=ranks).run()


def _plan(task: Task, settings: TrainSettings, directory: Path) -> dict[str, Any]:
    """What `run_trainer` finds: a complete result, or whether there is something to continue."""
    done, checkpoints = TrainResult.load(directory), list_checkpoints(directory)
    if done is not None and done.complete and done.total_steps == settings.total_steps(task.n_items):
        if checkpoints:
            _refuse_other_task(task, checkpoints[-1][1])
        return {"done": asdict(done)}
    if not checkpoints:
        _clear_unsaved(directory)
    return {"done": None, "begun": bool(checkpoints)}


def _refuse_other_task(task: Task, checkpoint: Path) -> None:
    changes = fingerprint_changes(load_checkpoint(checkpoint).document["fingerprint"], task.fingerprint())
    if changes:
        raise CheckpointError(
            f"{checkpoint.parent.parent}: was trained from something else ({'; '.join(changes)}); start a new run"
        )


def _clear_unsaved(directory: Path) -> None:
    """Remove what a training left that was killed before its first checkpoint: nothing of it can be continued."""
    for name in (LOG_NAME, RESULT_NAME):
        (directory / name).unlink(missing_ok=True)
    for name in (BEST, f".{BEST}.new", f".{BEST}.old", CHECKPOINTS, SAMPLES):
        shutil.rmtree(directory / name, ignore_errors=True)
    clear_below(directory)


# --- encoder -------------------------------------------------------------------------------------------------------


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
        calibrate_encoder(codec, [clip.read()[:CALIBRATION_SAMPLES] for clip in data.train[:CALIBRATION_CLIPS]])
    for part in (*codec.decoder_blocks, codec.output_proj):
        part.set_dtype(decoder_dtype)
    mx.eval(codec.parameters())
    return codec


def train_encoder(
    config: RunConfig,
    data: PreparedData,
    inputs: EncoderInputs,
    directory: Path,
    quiet: bool,
    judged: Mapping[str, np.ndarray] | None = None,
) -> TrainResult:
    """Task `encoder` in `directory`; `best/encoder.safetensors` is its result. `judged`: see `EncoderItems`."""
    compute, section, release = Compute.of(config), config.encoder, Release(config.model)
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
    return run_trainer(task, settings, directory, quiet=quiet)


def best_encoder(directory: Path) -> Path:
    return directory / BEST / ENCODER_FILE


# --- codes ---------------------------------------------------------------------------------------------------------


def clip_codes(
    release: Release,
    encoder: Path | None,
    data: PreparedData,
    path: Path,
    progress: Progress = lambda clips, total, what: clips,
) -> dict[str, np.ndarray]:
    """Codes of every clip, `{id: 0-based int32 [37, T]}`; kept in `path` and read from there next time.

    The file remembers the encoder and the clips it was made from; made from others, it is made again.
    """
    made_from = {"codec": codec_digest(release, encoder), "data": data.fingerprint()}
    if path.is_file():
        file = TensorFile(path)
        if all(file.metadata.get(k) == v for k, v in made_from.items()):
            sizes = [size - N_SPECIAL_CODES for size in release.config.codec.code_sizes]
            kept = {name: file.codes(name, sizes) for name in file.names()}
            if kept.keys() != {clip.id for clip in data.clips}:
                raise CheckpointError(f"{path}: holds codes of other clips than the data has; delete it, run again")
            return kept
    codec = load_model(release, parts=["codec"], encoder_file=encoder).audio_tokenizer
    codes = {}
    for clip in progress(data.clips, len(data.clips), "encoding"):
        codes[clip.id] = codec.audio_codes(clip.read())
    save_tensors(path, codes, made_from, overwrite=True)
    return codes


def codec_digest(release: Release, encoder: Path | None = None) -> str:
    """SHA-256 (hex) of the release's codec, and of the encoder file that is used with it."""
    digest = hashlib.sha256()
    for name in sorted(n for n in release.tensors.names() if n.startswith(CODEC_PREFIX)):
        digest.update(name.encode())
        digest.update(release.tensors.raw(name))
    if encoder is not None:
        digest.update(bytes.fromhex(file_sha256(encoder)))
    return digest.hexdigest()


# --- resuming ------------------------------------------------------------------------------------------------------


def config_differences(saved: str, config: RunConfig, open_stages: Collection[str] = ()) -> list[str]:
    """Dotted keys in which a run's saved configuration differs from `config`, as `key: saved -> now`.

    What may change between sittings (lengths, intervals, device, where results go) is left out, and so are the sections
    of `open_stages`, those that have not begun.
    """
    lengths = (f"{s}.{k}" for s in ("encoder.train", "encoder.refine", "speaker.train") for k in _FREE)
    free = ("device", "say", "bake.", "data.cache", "speaker.recompute", "encoder.pairs.batch", *lengths)
    free += tuple(f"{stage}." for stage in open_stages)
    old, new = (
        flat(parse_yaml(saved, lambda line: "config.yaml of the run") or {}),
        flat(config.model_dump(mode="json")),
    )
    keys = [k for k in sorted(old.keys() | new.keys()) if not k.startswith(free) and k != "output"]
    return [f"{k}: {json.dumps(old.get(k))} -> {json.dumps(new.get(k))}" for k in keys if old.get(k) != new.get(k)]


_FREE = ("steps", "epochs", "eval_every", "save_every", "log_every", "sample_every", "keep", "patience", "max_skipped")


def flat(content: Mapping, prefix: str = "") -> dict:
    """Nested keys as dotted ones."""
    found = {}
    for key, value in content.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
