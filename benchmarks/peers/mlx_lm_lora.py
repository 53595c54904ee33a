"""A step of mlx-lm's LoRA trainer on a model of the shapes of ours; `mlx_voxclone/bench/lora.py` takes turns with it.

It runs in this very process, as mlx-lm is on MLX, too: its `default_loss` and `iterate_batches` in a step as its
`train` makes it (AdamW, no clipping), on its llama.
"""

from collections.abc import Callable, Sequence
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map

from mlx_voxclone.adapters.lora import GROUP_SIZE
from mlx_voxclone.bench.lora import positions
from mlx_voxclone.doctor.rehearsal import Length
from mlx_voxclone.model.blocks.dequantised import dequantising
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.settings.schema import SpeakerSection

# Where the release's names of the linears are in mlx-lm's llama.
_NAMES = {
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "w1": "mlp.gate_proj",
    "w2": "mlp.down_proj",
    "w3": "mlp.up_proj",
}


def lora_step(
    config: VoxtralConfig,
    section: SpeakerSection,
    dtype: mx.Dtype,
    lengths: Sequence[Length],
    batch_size: int,
    vocabulary: int,
    direct: bool,
) -> Callable[[], object]:
    """A step of mlx-lm's trainer over the same lengths; `direct`: its quantised linears are of our kind."""
    from mlx_lm.models.llama import Model, ModelArgs  # takes seconds
    from mlx_lm.tuner.utils import linear_to_lora_layers

    backbone, lora, quantise = config.backbone, section.lora, section.quantise
    mx.random.seed(0)
    model = Model(
        ModelArgs(
            model_type="llama",
            hidden_size=backbone.dim,
            num_hidden_layers=backbone.n_layers,
            intermediate_size=backbone.hidden_dim,
            num_attention_heads=backbone.n_heads,
            num_key_value_heads=backbone.n_kv_heads,
            head_dim=backbone.head_dim,
            rms_norm_eps=backbone.norm_eps,
            vocab_size=vocabulary,
            rope_theta=backbone.rope_theta,
            rope_traditional=True,
        )
    )
    model.set_dtype(dtype)
    for layer in model.layers:
        if quantise.bits:
            nn.quantize(layer, GROUP_SIZE, quantise.bits)
        mx.eval(layer.parameters())
        if direct:
            dequantising(layer)
    model.freeze()
    scale = lora.alpha / lora.rank
    keys = {_NAMES[target] for target in lora.targets}
    asked = {"rank": lora.rank, "scale": scale, "dropout": lora.dropout, "keys": keys}
    linear_to_lora_layers(model, min(lora.layers or backbone.n_layers, backbone.n_layers), asked)
    mx.eval(model.parameters())
    # Its AdamW is the plain one, with parameters in float32 as LoRA makes them.
    return trainer_step(model, lengths, batch_size, vocabulary, section.recompute)


def trainer_step(
    model: nn.Module, lengths: Sequence[Length], batch_size: int, vocabulary: int, recompute: bool
) -> Callable[[], object]:
    from mlx_lm.tuner.trainer import default_loss, grad_checkpoint, iterate_batches

    rng = np.random.default_rng(0)
    # One more token than positions, as the last one is a target alone; targets are what is said.
    data = [(rng.integers(0, vocabulary, positions(n) + 1).tolist(), positions(n) + 1 - n.frames) for n in lengths]
    optimizer = optim.AdamW(learning_rate=1e-6)
    optimizer.init(model.trainable_parameters())
    mx.eval(optimizer.state)
    value_and_grad = nn.value_and_grad(model, default_loss)
    state, count = [model.state, optimizer.state, mx.random.state], len(data) // batch_size

    @partial(mx.compile, inputs=state, outputs=state)
    def micro_step(batch, gathered, update):
        (value, tokens), gradients = value_and_grad(model, *batch)
        if gathered is not None:
            gradients = tree_map(lambda a, b: a + b, gradients, gathered)
        if update:
            optimizer.update(model, tree_map(lambda g: g / count, gradients) if count > 1 else gradients)
            gradients = None
        return value, tokens, gradients

    def step():
        kind = type(model.layers[0])
        plain = kind.__call__
        if recompute:
            grad_checkpoint(model.layers[0])  # changes the class
        try:
            model.train()
            gathered, longest = None, max(map(positions, lengths)) + 64
            for k, batch in enumerate(iterate_batches(data, batch_size, longest)):
                value, tokens, gathered = micro_step(batch, gathered, k == count - 1)
                mx.eval(state, value, tokens, gathered)
        finally:
            kind.__call__ = plain

    return step
