"""Task `encoder` counts what it says: frames that are skipped, silence behind a short item, agreement of codes."""

import mlx.core as mx
import numpy as np
import pytest
from encoder_made import ALL, JUDGES, make, mixed
from pairs_on_disk import load_some

from mlx_voxclone.model.quantizer import nearest_distance
from mlx_voxclone.train.encoder import terms as encoder_losses
from mlx_voxclone.train.loop.loader import to_device


@pytest.fixture(scope="module")
def pairs(miniature, tmp_path_factory):
    return load_some(miniature, tmp_path_factory.mktemp("pairs") / "p")


@pytest.fixture
def task(miniature, pairs):
    """With opponents and all terms on codes."""
    return make(miniature, pairs, losses=ALL, discriminators=JUDGES, sound_teaches="all")


def test_skipped_frames_leave_the_others_their_share(task):
    """The loss of all frames is that of the first two and that of the others, which are each counted once."""
    batch = mixed(task)
    rows = len(batch["coded"])

    def sums(frames, skip):
        values = task.losses(batch | {"coded_frames": [frames] * rows, "skip": [skip] * rows})
        return {name: values[name].item() for name in ("semantic_code", "acoustic_code")}

    whole, first, later = sums(6, 0), sums(2, 0), sums(6, 2)
    for name, value in whole.items():
        assert value == pytest.approx(first[name] + later[name], rel=1e-4)
        assert min(first[name], later[name]) > 0


def test_the_temperature_is_in_units_of_the_codebooks_own_scale(miniature, pairs, monkeypatch):
    """A number of squared distances between neighbouring rows."""
    monkeypatch.setattr(encoder_losses, "TEMPERATURE", 0.7)
    task = make(miniature, pairs)
    scale = nearest_distance(task.codec.quantizer.semantic_codebook.embedding)
    assert not 0.5 < scale < 2
    assert task._terms.temperature == pytest.approx(0.7 * scale)


def test_opponents_hear_silence_behind_a_short_item(task, monkeypatch):
    """Whatever the decoder makes of the padding, and whatever stands behind the recording's end."""
    whole, short = task.item(0, 0, 0), task.item(0, 0, 0)
    short = short | {"waveform": short["waveform"][:4000]}
    batch = to_device({"waveform": np.ones((2, task.crop), np.float32), "lengths": [task.crop, 4000], "step": 0})
    batch["waveform"][0], batch["waveform"][1, :4000] = mx.array(whole["waveform"]), mx.array(short["waveform"])
    heard, adversarial = [], encoder_losses.adversarial_losses

    def noticed(judges, theirs, ours):
        heard.extend([theirs.signals, ours.signals])
        return adversarial(judges, theirs, ours)

    monkeypatch.setattr(encoder_losses, "adversarial_losses", noticed)
    mx.eval(task.losses(batch)["discriminator"])
    assert len(heard) == 2
    for signals in map(np.array, heard):
        assert not signals[1, 4000:].any()
        assert signals[1, :4000].any()
        assert signals[0, 4000:].any()


def test_agreement_leaves_out_skipped_frames_and_what_lies_behind_the_end(task, monkeypatch):
    """Right codes in the frames that count, wrong ones in all others."""
    config, rng = task.codec.config, np.random.default_rng(0)
    true = rng.integers(1, 20, (2, 37, 6)).astype(np.int32)
    skip, ends = [0, 3], [4, 6]
    wave = np.zeros((2, task.crop), np.float32)
    batch = {"waveform": wave, "lengths": [task.crop] * 2, "codes": true, "skip": skip, "coded_frames": ends}
    found = true + 1
    for k, (first, last) in enumerate(zip(skip, ends)):
        found[k, :, first:last] = true[k, :, first:last]
    monkeypatch.setattr(task.items, "heldout_pairs", lambda size: [batch])
    monkeypatch.setattr(type(task.codec), "quantize", lambda _, latents: mx.array(found))
    assert config.n_codebooks == 37
    values = {"pairs_semantic_agreement": 1.0, "pairs_level_error": 0.0, "pairs_levels_exact": 1.0}
    assert task._agreement() == values
    found[1, 0, 3], found[0, 1:, 0] = found[1, 0, 3] + 1, found[0, 1:, 0] + 2  # of 7 frames that count, one each
    assert task._agreement() == pytest.approx(
        {"pairs_semantic_agreement": 6 / 7, "pairs_level_error": 2 / 7, "pairs_levels_exact": 6 / 7}
    )
