"""How far a model has drifted from the one it was made of, where nothing should have changed: its own voices.

Both read what the released model said with its voices (pairs), behind the voices' own rows; compared are the
distributions of semantic codes and the flow's velocities, frame by frame.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from mlx_voxclone.adapters.lora import apply_adapters
from mlx_voxclone.adapters.mix import AdapterSource, mix_adapters
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.errors import DataError
from mlx_voxclone.evaluate.measure import Measured
from mlx_voxclone.losses import flow_matching_targets
from mlx_voxclone.losses.divergence import divergence
from mlx_voxclone.model.codes import lm_frames
from mlx_voxclone.model.quantizer import levels_to_values
from mlx_voxclone.model.voxtral import Voxtral
from mlx_voxclone.pairs.data import Pair, PairData

DRIFT, FLOW, SAME = "preset_drift", "preset_flow", "preset_agreement"
MOST_PAIRS = 100


def check_drift(
    base: Release, other: Release, pairs: str, adapters: Sequence[AdapterSource] = (), *, seed: int = 0
) -> list[str]:
    """Refuse what `measure_drift` refuses, without its work; arguments and errors as there.

    Returns:
        The names of the pairs that it measures.
    """
    if adapters:
        mix_adapters(adapters, other.fingerprint(), other.path)
    return [pair.name for pair in _drawn(base, other, pairs, seed)]


def measure_drift(
    base: Release,
    other: Release,
    pairs: str,
    adapters: Sequence[AdapterSource] = (),
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda n: None,
) -> list[Measured]:
    """One `Measured` per pair, of up to 100 drawn by the seed: `preset_drift` (nats a frame), `preset_flow` (mean
    squared distance of velocities) and `preset_agreement` (per cent of the frames with the same semantic code).

    Args:
        base: the released model.
        other: the baked one, or the released one where adapters are to be measured.
        pairs: directory that `voxclone pairs` wrote with `base`.
        adapters: kept apart, on `other`.

    Raises:
        DataError, CheckpointError: pairs of another codec or voice; models of different sizes; adapters that do not
            fit.
    """
    chosen = _drawn(base, other, pairs, seed)
    dtype = mx.float32 if mx.default_device() == mx.cpu else mx.bfloat16
    model = load_model(base, parts=["lm", "head"], dtype=dtype)
    tokenizer = SpeechTokenizer.of(base)
    rows = {name: base.voice(name) for name in {pair.voice for pair in chosen}}
    before = [_heard(model, tokenizer, pair, rows[pair.voice], seed + k, progress) for k, pair in enumerate(chosen)]
    del model
    mx.clear_cache()
    model = load_model(other, parts=["lm", "head"], dtype=dtype)
    if adapters:
        apply_adapters(model, mix_adapters(adapters, other.fingerprint(), other.path).changes)
    found = []
    for k, (pair, (logits, velocity)) in enumerate(zip(chosen, before)):
        now_logits, now_velocity = _heard(model, tokenizer, pair, rows[pair.voice], seed + k, progress)
        nats = divergence(mx.array(logits), mx.array(now_logits))
        same = np.mean(logits.argmax(axis=-1) == now_logits.argmax(axis=-1))
        metrics = {
            DRIFT: float(np.array(nats).mean()),
            FLOW: float(np.square(velocity - now_velocity).mean()),
            SAME: 100.0 * float(same),
        }
        found.append(Measured(pair.name, {name: float(f"{value:.6g}") for name, value in metrics.items()}))
    return found


def _drawn(base: Release, other: Release, pairs: str, seed: int) -> list[Pair]:
    if base.config.backbone != other.config.backbone or base.config.codec != other.config.codec:
        raise DataError(
            f"{other.path}: has other sizes than {base.path}; drift is measured against the model it was made from"
        )
    data = PairData.of_model(pairs, base, heldout=0.0)
    data.check_voices(base)
    chosen = data.pairs
    if len(chosen) > MOST_PAIRS:
        drawn = np.random.default_rng(seed).choice(len(chosen), MOST_PAIRS, replace=False)
        chosen = [chosen[k] for k in sorted(drawn)]
    return chosen


def _heard(
    model: Voxtral, tokenizer: SpeechTokenizer, pair: Pair, rows: mx.array, seed: int, progress: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Masked logits `[frames, rows]` and velocities `[frames, 36]` at every frame of a pair, float32."""
    frames = mx.array(lm_frames(pair.codes))  # [T, 37]
    prompt = model.embed_prompt(tokenizer.prompt(pair.text, rows.shape[0]), rows)
    x = mx.concatenate([prompt, model.embed_codes(frames[:-1])[None].astype(prompt.dtype)], axis=1)
    hidden = model.hidden_states(x)[0, prompt.shape[1] - 1 :]
    head, codec = model.acoustic_transformer, model.config.codec
    rng = np.random.default_rng([seed, 0xD21F7])
    time = mx.array(rng.uniform(size=pair.frames).astype(np.float32))
    noise = mx.array(rng.standard_normal((pair.frames, codec.acoustic_dim), dtype=np.float32))
    values = levels_to_values(mx.array(pair.codes[1:].T), codec.acoustic_codebook_size)
    points, _ = flow_matching_targets(values, noise, time)
    velocity = head.velocity(points, time, hidden).astype(mx.float32)
    progress(1)
    return np.array(head.masked_semantic_logits(hidden)), np.array(velocity)
