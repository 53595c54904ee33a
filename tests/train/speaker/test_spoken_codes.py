"""Which codes the flow-matching head can say: all that there are, none other, and none from numbers that are not."""

import mlx.core as mx
import numpy as np
import pytest
from golden import params_of

from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.model.flow_head import FlowMatchingHead

CODES = 64
ALLOWED = range(1, CODES + 2)  # END and the codebook
ARGS = (
    f'{{"semantic_codebook_size": {CODES}, "acoustic_codebook_size": 21, "n_acoustic_codebook": 36,'
    ' "acoustic_transformer_args": {"input_dim": 32, "dim": 32, "n_layers": 1, "head_dim": 8, "hidden_dim": 64,'
    ' "n_heads": 4, "n_kv_heads": 2}}'
)


@pytest.fixture
def head():
    mx.random.seed(0)
    config = VoxtralConfig.from_dict(params_of({"audio_model_args": ARGS}))
    return FlowMatchingHead(config.acoustic, config.codec)


def said(head, logits):
    """The semantic codes of frames with these logits, by the two ways that there are."""
    head.semantic_logits = lambda hidden: mx.array(logits.astype(np.float32))
    hidden, noise = mx.zeros((len(logits), 32)), mx.zeros((len(logits), 36))
    frames = np.array(head.decode_frame(hidden, noise, n_steps=1))
    masked = np.array(head.masked_semantic_logits(hidden))
    np.testing.assert_array_equal(frames[:, 0], masked.argmax(axis=1))
    np.testing.assert_array_equal(np.isneginf(masked).any(axis=0).nonzero()[0], [0, *range(CODES + 2, logits.shape[1])])
    return frames


@pytest.mark.parametrize("level", [-30.0, 30.0])
def test_every_code_can_be_said_and_no_other(head, level):
    """A frame for each row of the head, in which that row is the likeliest: every code comes out, END as well."""
    rows = head.semantic_codebook_output.weight.shape[0]
    assert rows > CODES + 2  # some only fill up
    frames = said(head, level + 20.0 * np.eye(rows))
    assert frames[ALLOWED.start : ALLOWED.stop, 0].tolist() == list(ALLOWED)
    assert set(frames[:, 0]) == set(ALLOWED)
    assert (frames[1, 1:] == 2).all()  # at END the lowest levels
    assert (frames[2:, 1:] > 2).any()


@pytest.mark.parametrize("part", ["hidden", "semantic_codebook_output", "acoustic_codebook_output"])
def test_a_number_that_is_none_gives_no_code_on_any_device(head, part):
    """Exactly -1: what NaN becomes as an integer is another number on each kind of processor, and may be a code."""
    hidden = mx.random.normal((3, 32), key=mx.random.key(1))
    right = np.array(head.decode_frame(hidden, mx.zeros((3, 36))))
    assert right.min() >= 1
    if part == "hidden":
        hidden = mx.where(mx.array([False, True, False])[:, None], mx.nan, hidden)
    else:
        getattr(head, part).weight *= mx.nan
    found = np.array(head.decode_frame(hidden, mx.zeros((3, 36))))
    if part == "hidden":
        assert (found[1] == -1).all()
        np.testing.assert_array_equal(found[[0, 2]], right[[0, 2]])
    else:
        broken = slice(0, 1) if part.startswith("semantic") else slice(1, None)
        assert (found[:, broken] == -1).all()
