"""Task `encoder`: who gets gradient, what a batch is, and that accumulation, padding and resume change nothing."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from golden import relative_error
from mlx.utils import tree_flatten
from tasks_data import MemoryData, clip, encoder_parameters, scratch_codec

from mlx_voxclone.checkpoint.release import Release, load_model, open_encoder
from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.encoder.stage import encoder_codec
from mlx_voxclone.train.encoder.start import calibrate_encoder, latent_rms, mirror_decoder
from mlx_voxclone.train.encoder.task import EncoderTask
from mlx_voxclone.train.loop.loader import to_device
from mlx_voxclone.train.loop.optimizers import groups as optimizers
from mlx_voxclone.train.loop.trainer import Trainer

SECTION = EncoderSection(crop_seconds=0.48, stft_sizes=[512, 128])
DATA = MemoryData([clip(0), clip(1), clip(2, 7000), clip(3, 1921)], [clip(4, 15000)])
SETTINGS = {"learning_rate": 1e-3, "eval_every": 0, "save_every": 0}


@pytest.fixture
def task(miniature):
    return EncoderTask(scratch_codec(miniature), DATA, SECTION, seed=1)


def batch_of(task, *indices, epoch=0):
    return to_device(task.collate([task.item(epoch, i) for i in indices]))


def gradients(task, batch):
    """Gradient of the weighted sum of the terms with respect to everything trainable, by name."""
    names = dict(tree_flatten(task.model.trainable_parameters()))

    def objective(parameters):
        task.model.load_weights(list(parameters.items()), strict=False)
        return sum(task.weights[k] * v for k, v in task.losses(batch).items())

    result = mx.grad(objective)(names)
    task.model.load_weights(list(names.items()), strict=False)
    return {k: np.array(v) for k, v in result.items()}


def test_the_gradient_reaches_every_encoder_parameter_and_no_other(task):
    trainable = {k for k, _ in tree_flatten(task.model.trainable_parameters())}
    assert trainable == {"codec." + k.removeprefix("audio_tokenizer.") for k in encoder_parameters(task.codec)}
    assert len(trainable) == 114
    grads = gradients(task, batch_of(task, 0, 1, 2))
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in grads.values())


@pytest.mark.parametrize("term", ["l1", "stft", "mel", "commitment"])
def test_every_term_has_a_gradient(task, term):
    """A loss without gradient trains nothing and looks fine: each alone must move the last convolution."""
    task.weights = {name: float(name == term) for name in task.weights}
    grads = gradients(task, batch_of(task, 0))
    assert np.abs(grads["codec.encoder_blocks.7.conv.parametrizations.weight.original1"]).max() > 0


def test_training_moves_the_encoder_and_nothing_else(task, tmp_path):
    before = {k: np.array(v) for k, v in tree_flatten(task.model.parameters())}
    Trainer(task, TrainSettings(steps=3, batch_size=2, **SETTINGS), tmp_path / "run", quiet=True).run()
    for name, value in tree_flatten(task.model.parameters()):
        moved = (np.array(value) != before[name]).any()
        assert moved == name.startswith(("codec.input_proj.", "codec.encoder_blocks.")), name


def test_items_are_deterministic_and_change_with_the_epoch(task):
    a, b, c = task.item(0, 0), task.item(0, 0), task.item(1, 0)
    assert (a["waveform"] == b["waveform"]).all()
    assert a["waveform"].shape != c["waveform"].shape or (a["waveform"] != c["waveform"]).any()
    assert all(len(task.item(e, i)["waveform"]) <= task.crop for e in range(3) for i in range(task.n_items))


def test_an_epoch_covers_all_of_the_data(task):
    assert task.n_items == sum(-(-c.samples // task.crop) for c in DATA.train)
    heard = {i: 0 for i in range(len(DATA.train))}
    for index in range(task.n_items):
        heard[next(i for i, c in enumerate(DATA.train) if c.id == task.item(0, index)["id"])] += 1
    assert all(heard.values())


def test_the_gain_is_random_within_its_range(miniature):
    data = MemoryData([clip(0, 5760)], [clip(4)])
    loud = EncoderTask(scratch_codec(miniature), data, SECTION.model_copy(update={"gain_db": [6.0, 6.0]}))
    plain = EncoderTask(scratch_codec(miniature), data, SECTION.model_copy(update={"gain_db": [0.0, 0.0]}))
    ratio = loud.item(0, 0)["waveform"] / plain.item(0, 0)["waveform"]
    assert np.nanmax(np.abs(ratio - 10**0.3)) < 1e-4
    held = next(iter(loud.heldout_batches()))["waveform"][0]
    assert (held[:100] == data.heldout[0].wave[:100]).all()  # measuring is done at the level the recording has


def test_an_item_does_not_see_its_neighbours(task):
    together = {k: float(v) for k, v in task.losses(batch_of(task, 0, 1, task.n_items - 1)).items()}
    alone = [task.losses(batch_of(task, i)) for i in (0, 1, task.n_items - 1)]
    for term, value in together.items():
        assert value == pytest.approx(sum(float(one[term]) for one in alone), rel=1e-4)


@pytest.mark.slow
def test_micro_batches_equal_one_batch(miniature, tmp_path, monkeypatch):
    """Items of unequal length, so that a plain mean over micro-batches would be wrong."""
    monkeypatch.setattr(optimizers, "EPS", 1e-3)
    results = []
    for name, batch_size, accumulate in (("one", 4, 1), ("four", 1, 4)):
        task = EncoderTask(scratch_codec(miniature), DATA, SECTION, seed=1)
        settings = TrainSettings(steps=2, batch_size=batch_size, accumulate=accumulate, **SETTINGS)
        result = Trainer(task, settings, tmp_path / name, quiet=True).run()
        results.append((result, {k: np.array(v) for k, v in encoder_parameters(task.codec).items()}))
    (one, a), (four, b) = results
    assert four.last_loss == pytest.approx(one.last_loss, rel=1e-5)
    for name in a:
        assert np.abs(a[name] - b[name]).max() < 1e-5, name


@pytest.mark.slow
def test_resumed_equals_uninterrupted(miniature, tmp_path):
    def trained(directory, **kwargs):
        task = EncoderTask(scratch_codec(miniature), DATA, SECTION, seed=1)
        settings = {"steps": 6, "batch_size": 2, **SETTINGS, **kwargs.pop("settings", {})}
        Trainer(task, TrainSettings(**settings), directory, quiet=True, **kwargs).run()
        return {k: np.array(v) for k, v in encoder_parameters(task.codec).items()}

    whole = trained(tmp_path / "whole")
    trained(tmp_path / "half", settings={"stop_after": 3})
    resumed = trained(None, resume=tmp_path / "half")
    assert all((whole[k] == resumed[k]).all() for k in whole)


def test_export_is_an_encoder_that_the_release_takes(task, miniature, tmp_path):
    parameters = dict(tree_flatten(task.codec.trainable_parameters()))
    task.export(tmp_path, {"codec." + name: value for name, value in parameters.items()})
    file = open_encoder(tmp_path / "encoder.safetensors", Release(miniature).config)
    for name, value in parameters.items():
        assert (file.numpy("audio_tokenizer." + name) == np.array(value)).all()


@pytest.mark.slow
def test_it_overfits_one_clip(miniature, tmp_path):
    """The first thing any trainer must do: one second of speech, heard again and again, comes out better."""
    wave = clip(1).wave[:11520]
    data = MemoryData([clip(1, 11520)], [clip(1, 11520)])
    data.train[0].wave = data.heldout[0].wave = wave
    section = SECTION.model_copy(update={"gain_db": [0.0, 0.0]})
    task = EncoderTask(scratch_codec(miniature), data, section)
    settings = TrainSettings(steps=60, learning_rate=5e-3, warmup_steps=5, eval_every=0, save_every=0)
    result = Trainer(task, settings, tmp_path / "run", quiet=True).run()
    first, last = (e["metrics"] for e in (result.evaluations[0], result.evaluations[-1]))
    assert last["loss"] < 0.85 * first["loss"]
    assert last["stft"] < first["stft"]


def test_metrics_of_the_codes(task):
    metrics = task.extra_metrics()
    assert 0 < metrics["semantic_codes_used"] <= 1
    assert 0 <= metrics["level_entropy_bits"] <= np.log2(21)


def test_samples_are_the_original_and_its_reconstruction(task, tmp_path):
    task.write_samples(tmp_path, 3)
    written = sorted(p.name for p in tmp_path.iterdir())
    assert written == ["clip4-original.wav", "clip4-reconstructed.wav", "code_usage.safetensors"]


def test_bf16_activations_train_float32_masters(miniature, tmp_path):
    task = EncoderTask(scratch_codec(miniature), DATA, SECTION, seed=1, compute_dtype=mx.bfloat16)
    settings = TrainSettings(steps=1, batch_size=2, precision="bf16", **SETTINGS)
    result = Trainer(task, settings, tmp_path / "run", quiet=True).run()
    reference = EncoderTask(scratch_codec(miniature), DATA, SECTION, seed=1)
    exact = Trainer(reference, TrainSettings(steps=1, batch_size=2, **SETTINGS), tmp_path / "exact", quiet=True).run()
    assert result.last_loss == pytest.approx(exact.last_loss, rel=2e-2)
    assert all(v.dtype == mx.float32 for v in encoder_parameters(task.codec).values())


def test_refusals(miniature):
    codec = scratch_codec(miniature)
    with pytest.raises(ConfigError, match="shorter than one frame"):
        EncoderTask(codec, DATA, SECTION.model_copy(update={"crop_seconds": 0.01}))
    with pytest.raises(DataError, match="held-out"):
        EncoderTask(codec, MemoryData(DATA.train, []), SECTION)
    with pytest.raises(DataError, match="training"):
        EncoderTask(codec, MemoryData([], DATA.heldout), SECTION)
    with pytest.raises(ConfigError, match="without an encoder"):
        EncoderTask(type(codec)(codec.config, encoder=False), DATA, SECTION)


def test_fingerprint_names_what_differs(miniature):
    codec = scratch_codec(miniature)
    prints = {
        EncoderTask(codec, DATA, SECTION, seed=seed).fingerprint()
        for seed in (0, 1)
    }  # fmt: skip
    other = SECTION.model_copy(update={"gain_db": [0.0, 1.0]})
    assert len(prints | {EncoderTask(codec, DATA, other).fingerprint()}) == 3


def test_padding_of_the_batch_does_not_reach_the_latents(task):
    """A clip shorter than the crop: its frames equal those of the clip encoded alone."""
    index = task.n_items - 1
    batch = batch_of(task, 0, index)
    latents = task.codec.encode_latents(batch["waveform"], batch["lengths"])[1]
    alone = task.codec.encode_latents(mx.array(task.item(0, index)["waveform"])[None])[0]
    assert relative_error(latents[: alone.shape[0]], alone) < 1e-5


def test_calibration_brings_latents_to_the_scale_of_the_codes(miniature):
    """Without it, nearly all frames of a new encoder share one code and the middle levels; with it, codes differ."""
    waves = [c.wave for c in DATA.train]
    raw, calibrated = scratch_codec(miniature), scratch_codec(miniature)
    calibrate_encoder(calibrated, waves)
    rms = [
        np.sqrt(np.mean(np.square(np.concatenate([np.array(c.encode_audio(w)) for w in waves])), axis=0))
        for c in (raw, calibrated)
    ]
    assert rms[0].max() < 0.05
    assert relative_error(rms[1], latent_rms(calibrated)) < 1e-3
    codes = [np.array(c.quantize(c.encode_audio(waves[0])[None])[0]) for c in (raw, calibrated)]
    assert len(np.unique(codes[0][0])) < 4
    assert len(np.unique(codes[1][0])) > 5
    assert len(np.unique(codes[1][1:])) > 15


def test_calibration_on_silence_stays_finite(miniature):
    codec = scratch_codec(miniature)
    calibrate_encoder(codec, [np.zeros(4000, dtype=np.float32)])
    assert all(np.isfinite(np.array(v)).all() for v in encoder_parameters(codec).values())


def test_a_given_encoder_is_spoken_with_as_it_is_baked_and_trained_on_in_full(task, miniature, tmp_path):
    """Used, it is rounded to BF16 (so encode, say and a baked checkpoint agree on codes); trained on, it is not."""
    parameters = dict(tree_flatten(task.codec.trainable_parameters()))
    task.export(tmp_path, {"codec." + name: value for name, value in parameters.items()})
    file, release = tmp_path / "encoder.safetensors", Release(miniature)
    used = load_model(release, parts=["codec"], encoder_file=file).audio_tokenizer
    trained_on = encoder_codec(release, EncoderSection(weights=file), MemoryData(DATA.train), 0, mx.float32)
    for name, value in parameters.items():
        exact = np.array(value)
        assert (np.array(dict(tree_flatten(trained_on.parameters()))[name]) == exact).all(), name
        rounded = np.array(value.astype(mx.bfloat16).astype(mx.float32))
        assert (np.array(dict(tree_flatten(used.parameters()))[name]) == rounded).all(), name


# ---- where a new encoder starts --------------------------------------------------------------------------------------


def test_a_mirrored_encoder_has_the_decoders_weights_turned_round(miniature):
    """Convolutions of one step: out and in exchanged. Those that halve the rate are the adjoint of those that double
    it, one frame late (an output needs its two inputs and the two before). Transformers of one rate are copies."""
    codec, rng = scratch_codec(miniature), np.random.default_rng(0)
    mirror_decoder(codec)
    heard, spoken = (np.array(conv.weight) for conv in (codec.input_proj, codec.output_proj))
    np.testing.assert_allclose(heard, spoken.transpose(1, 0, 2), atol=1e-6)
    last, first = (np.array(conv.weight) for conv in (codec.encoder_blocks[-1], codec.decoder_blocks[0]))
    np.testing.assert_allclose(last, first.transpose(1, 0, 2), atol=1e-6)
    ups, downs = codec.decoder_blocks[2::2], codec.encoder_blocks[1:-1:2]
    for up, down in zip(ups[::-1], downs, strict=True):
        x, y = (rng.standard_normal((1, n, codec.config.dim)).astype(np.float32) for n in (9, 18))
        x[:, -1] = 0.0
        later = np.array(down(mx.array(np.pad(y, ((0, 0), (0, 2), (0, 0))))))[:, 1:10]
        left, right = (np.array(up(mx.array(x))) * y).sum(), (x * later).sum()
        assert left == pytest.approx(right, rel=1e-3)
    halves = codec.encoder_blocks[::2], codec.decoder_blocks[::-2]
    for mine, other in zip(*halves, strict=True):
        for layer, counterpart in zip(mine.layers, other.layers[::-1], strict=True):
            found, expected = (dict(tree_flatten(block.parameters())) for block in (layer, counterpart))
            assert all((np.array(found[name]) == np.array(expected[name])).all() for name in expected)


def test_a_new_encoder_is_mirrored_unless_it_is_to_be_random(miniature):
    release, data, found = Release(miniature), MemoryData(DATA.train), {}
    for start, seed in (("mirror", 0), ("mirror", 1), ("random", 0), ("random", 1)):
        codec = encoder_codec(release, EncoderSection(start=start), data, seed, mx.float32)
        found[start, seed] = np.array(codec.encoder_blocks[0].layers[0].feed_forward.w1.weight)
    decoder = np.array(codec.decoder_blocks[-1].layers[-1].feed_forward.w1.weight)
    assert (found["mirror", 0] == decoder).all()
    assert (found["mirror", 1] == decoder).all()
    assert (found["random", 0] != decoder).any()
    assert (found["random", 0] != found["random", 1]).any()


def test_a_decoder_that_is_no_mirror_image_is_refused(miniature):
    codec = scratch_codec(miniature)
    codec._config = replace(codec.config, decoder_strides=(2, 2, 2, 1))
    with pytest.raises(ConfigError, match=r"encoder\.start: .* set encoder.start to random"):
        mirror_decoder(codec)
