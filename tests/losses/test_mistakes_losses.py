"""Mistakes other attempts made in their losses, each made here on purpose to show that its check would catch it."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.losses import (
    commitment_loss,
    flow_matching_loss,
    log_mel_loss,
    multi_resolution_stft_loss,
    semantic_cross_entropy,
    waveform_l1,
)

N_VALID, ROWS = 66, 128


def with_masked_logits_at_zero(logits, targets, n_valid_rows):
    """The mistake: rows that can never be spoken are set to 0, and so keep probability."""
    row = np.arange(ROWS)
    logits = mx.where(mx.array((row >= 1) & (row < n_valid_rows)), logits, 0.0)
    chosen = mx.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return (mx.logsumexp(logits, axis=-1) - chosen).sum()


def best_loss(loss):
    """Loss of logits that are certain of their target, on a level far below zero."""
    targets = mx.array([7])
    logits = np.full((1, ROWS), -60.0, np.float32)
    logits[0, 7] = -30.0
    return loss(mx.array(logits), targets, N_VALID).sum().item()


def test_masked_logits_at_zero_are_caught():
    """A certain model has no loss, at whatever level its logits lie; with zeros in the mask it seems hopeless."""
    assert best_loss(semantic_cross_entropy) == pytest.approx(0, abs=1e-6)
    assert best_loss(with_masked_logits_at_zero) > 30


def gradients(loss, shape):
    rng = np.random.default_rng(0)
    pred, target = (mx.array(rng.standard_normal(shape).astype(np.float32)) for _ in range(2))
    return np.array(mx.grad(loss)(pred, target))


def every_element_learns(gradient):
    return np.isfinite(gradient).all() and (gradient != 0).mean() > 0.999


LOSSES = {
    "waveform": (waveform_l1, (2, 1300)),
    "stft": (multi_resolution_stft_loss, (2, 1300)),
    "mel": (log_mel_loss, (2, 1300)),
    "commitment": (commitment_loss, (2, 5, 8)),
    "flow matching": (flow_matching_loss, (2, 5, 36)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_without_gradient_are_caught(name):
    """A loss that is logged but never reaches the model: the mistake is a prediction behind `stop_gradient`."""
    loss, shape = LOSSES[name]
    assert every_element_learns(gradients(loss, shape))
    assert not every_element_learns(gradients(lambda pred, target: loss(mx.stop_gradient(pred), target), shape))


def test_cross_entropy_without_gradient_is_caught():
    targets = mx.array([[1, 30], [41, N_VALID - 1]])

    def learns(through):
        logits = mx.array(np.random.default_rng(1).standard_normal((2, 2, ROWS)).astype(np.float32))
        gradient = mx.grad(lambda x: semantic_cross_entropy(through(x), targets, N_VALID).sum())(logits)
        return every_element_learns(np.array(gradient)[..., 1:N_VALID])

    assert learns(lambda x: x)
    assert not learns(mx.stop_gradient)


def test_padding_counted_as_audio_is_caught():
    """Sequences of one batch leaking into each other: the mistake is to average over the padding as well."""
    rng = np.random.default_rng(2)
    pred, target = (mx.array(rng.standard_normal((1, 1000)).astype(np.float32)) for _ in range(2))

    def changes_with_padding(loss):
        padded = [mx.pad(x, [(0, 0), (0, 500)]) for x in (pred, target)]
        return abs(loss(*padded).item() / loss(pred, target).item() - 1) > 1e-4

    for loss in (waveform_l1, multi_resolution_stft_loss, log_mel_loss):
        assert not changes_with_padding(lambda pred, target, loss=loss: loss(pred, target, [1000]))
        assert changes_with_padding(loss)
