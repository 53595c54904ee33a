"""Task `encoder` with true codes, opponents, a teacher, a prior: each term has its source, its switch, its gradient."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from encoder_made import ALL, JUDGES, TEACHER, batch_of, make, mixed
from mlx.utils import tree_flatten
from tasks_data import encoder_parameters

from mlx_voxclone.model.blocks.conv import row_lengths
from mlx_voxclone.model.quantizer import nearest_distance
from mlx_voxclone.settings.encoder import EncoderLosses
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.encoder import terms
from mlx_voxclone.train.encoder.items import EncoderItems
from mlx_voxclone.train.encoder.terms import later_frames
from mlx_voxclone.train.loop.heldout import heldout_metrics
from mlx_voxclone.train.loop.loader import to_device
from mlx_voxclone.train.loop.task import fingerprint_changes
from mlx_voxclone.train.loop.trainer import Trainer

pytest_plugins = ["encoder_made"]

LAST = "codec.encoder_blocks.7.conv.parametrizations.weight.original1"
SETTINGS = {"learning_rate": 1e-3, "eval_every": 0, "save_every": 0, "batch_size": 2}


CODES_ALONE = {"sound": 0.0}
ONLY_PAIRS = {"path": "somewhere", "share": 1.0}


@pytest.fixture
def full(miniature, pairs, prior):
    return make(miniature, pairs, TEACHER, prior, losses=ALL, discriminators=JUDGES, sound_teaches="all")


def gradients(task, batch, term):
    values = dict(tree_flatten(task.model.trainable_parameters()))

    def objective(parameters):
        task.model.load_weights(list(parameters.items()), strict=False)
        return task.losses(batch)[term]

    found = mx.grad(objective)(values)
    task.model.load_weights(list(values.items()), strict=False)
    return {name: np.array(value) for name, value in found.items()}


# ---- sources and switches --------------------------------------------------------------------------------------------


def test_a_term_is_there_when_its_source_is(miniature, pairs, prior):
    plain = {"l1", "stft", "mel", "commitment"}
    assert set(make(miniature).weights) == plain
    assert set(make(miniature, pairs, sound_teaches="all").weights) == plain | {"semantic_code", "acoustic_code"}
    assert set(make(miniature, pairs).weights) == plain - {"commitment"} | {"semantic_code", "acoustic_code"}
    untaught = make(miniature, pairs, losses={"semantic_code": 0.0})
    assert set(untaught.weights) == plain | {"semantic_code", "acoustic_code"}
    assert set(make(miniature, discriminators=JUDGES).weights) == plain | {"feature_matching", "discriminator"}
    assert set(make(miniature, teacher=TEACHER).weights) == plain | {"distillation"}
    assert set(make(miniature, prior=prior).weights) == plain


def test_what_trains_and_under_which_optimiser(full):
    names = {name for name, _ in tree_flatten(full.model.trainable_parameters())}
    own = {name for name in names if name.startswith("codec.")}
    assert len(own) == 114
    assert {name.split(".")[0] for name in names} == {"codec", "discriminators", "projection"}
    assert [group.prefix for group in full.groups] == ["discriminators."]


def test_what_is_exported_is_the_encoder_alone(full, tmp_path):
    from mlx_voxclone.checkpoint.reader import TensorFile

    full.export(tmp_path, dict(tree_flatten(full.model.trainable_parameters())))
    assert len(TensorFile(tmp_path / "encoder.safetensors").names()) == 114


# ---- gradients -------------------------------------------------------------------------------------------------------


HEARD = ("l1", "commitment", "feature_matching", "distillation")
ENCODED = ("semantic_code", "acoustic_code")


@pytest.mark.parametrize("term", [*HEARD, *ENCODED])
def test_every_term_moves_the_encoder(full, term):
    found = gradients(full, mixed(full), term)
    assert np.isfinite(found[LAST]).all()
    assert np.abs(found[LAST]).max() > 0
    judged = max(np.abs(value).max() for name, value in found.items() if name.startswith("discriminators."))
    assert judged == 0


@pytest.mark.parametrize("teaches", ["acoustic", "all"])
@pytest.mark.parametrize("term", ["l1", "stft", "mel", "feature_matching"])
def test_beside_pairs_the_sound_moves_the_acoustic_latents_alone(miniature, pairs, term, teaches):
    task = make(miniature, pairs, discriminators=JUDGES, sound_teaches=teaches)
    found, semantic = gradients(task, mixed(task), term)[LAST], task.codec.config.semantic_dim
    assert np.abs(found[semantic:]).max() > 0
    assert (np.abs(found[:semantic]).max() > 0) == (teaches == "all")


def test_without_pairs_the_sound_moves_all_latents(miniature):
    task = make(miniature)
    found = gradients(task, batch_of(task, 0, 1), "mel")[LAST]
    assert np.abs(found[: task.codec.config.semantic_dim]).max() > 0


def test_pairs_tell_the_projection_what_their_codes_mean(miniature, pairs):
    """Of a pair, the rows of its true codes are compared: the projection learns from it, the encoder does not."""
    task = make(miniature, pairs, TEACHER, drawing=ONLY_PAIRS)
    batch = batch_of(task, 0, 1)
    found = gradients(task, batch, "distillation")
    assert np.abs(found["projection.weight"]).max() > 0
    assert all(np.abs(value).max() == 0 for name, value in found.items() if name.startswith("codec."))
    rows = np.array(task.codec.quantizer.semantic_codebook.embedding)[np.array(batch["codes"])[:, 0]]
    said = np.array(task.model.projection(mx.array(rows)))
    cosine = (said * np.array(batch["teacher"])).sum(-1)
    cosine /= np.linalg.norm(said, axis=-1) * np.linalg.norm(np.array(batch["teacher"]), axis=-1) + 1e-12
    expected = sum((1 - cosine[k, :n]).sum() for k, n in enumerate(batch["taught_frames"]))
    assert task.losses(batch)["distillation"].item() == pytest.approx(expected, rel=1e-4)


def test_the_discriminators_learn_and_the_encoder_does_not_hear_of_it(full):
    found = gradients(full, mixed(full), "discriminator")
    assert all(np.abs(v).max() == 0 for k, v in found.items() if not k.startswith("discriminators."))
    assert max(np.abs(v).max() for k, v in found.items() if k.startswith("discriminators.")) > 0


def test_the_projection_learns_from_its_term_alone(full):
    batch = mixed(full)
    assert np.abs(gradients(full, batch, "distillation")["projection.weight"]).max() > 0
    assert np.abs(gradients(full, batch, "mel")["projection.weight"]).max() == 0


def test_the_gradient_of_the_codes_is_that_of_finite_differences(full):
    """Along the gradient of the last convolution; the terms are smooth but for levels that enter their margin."""
    batch = mixed(full)
    for term in ("semantic_code", "distillation"):
        if term == "distillation":  # its codes jump; on the projection it is smooth
            name = "projection.weight"
        else:
            name = LAST
        found = gradients(full, batch, term)[name]
        values = dict(tree_flatten(full.model.trainable_parameters()))
        step = 1e-2 * float(mx.linalg.norm(values[name].reshape(-1))) * found / np.linalg.norm(found)
        ends = []
        for sign in (-1, 1):
            full.model.load_weights([(name, values[name] + sign * mx.array(step))], strict=False)
            ends.append(full.losses(batch)[term].item())
        full.model.load_weights([(name, values[name])], strict=False)
        assert ends[1] - ends[0] == pytest.approx(2 * float((found * step).sum()), rel=0.03), term


# ---- values ----------------------------------------------------------------------------------------------------------


def test_recordings_teach_by_their_sound_and_pairs_by_their_codes(miniature, pairs):
    """Each batch's targets, and what is decoded: the recordings of the batch, nothing where there are none."""
    task = make(miniature, pairs)
    batch, decoded = mixed(task), []
    plain = type(task.codec).decode_latents
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(task.codec), "decode_latents", lambda c, z: decoded.append(z.shape[0]) or plain(c, z))
        task.losses(batch)
        only = make(miniature, pairs, drawing=ONLY_PAIRS)
        alone = batch_of(only, 0, 1)
        sums = only.losses(alone)
    heard = [k for k in range(4) if k not in batch["coded"]]
    assert decoded == [len(heard)]
    samples, frames = sum(batch["lengths"][k] for k in heard), sum(batch["coded_frames"]) - sum(batch["skip"])
    expected = dict.fromkeys(("l1", "stft", "mel"), samples)
    assert task.targets(batch) == expected | {"semantic_code": frames, "acoustic_code": frames}
    assert all(only.targets(alone)[name] == 0 == sums[name].item() for name in expected)


def test_an_item_does_not_see_its_neighbours(full):
    items = [full.item(epoch, index, 0) for epoch in range(3) for index in range(4)]
    together = full.losses(to_device(full.collate(items)))
    alone = [full.losses(to_device(full.collate([item]))) for item in items]
    counts = [full.targets(full.collate([item])) for item in items]
    assert sum(c["semantic_code"] for c in counts) > 0
    for term in full.weights:
        assert together[term].item() == pytest.approx(sum(one[term].item() for one in alone), rel=2e-4), term
        total = full.targets(full.collate(items))
        assert total[term] == sum(count[term] for count in counts)


def test_true_latents_have_no_code_loss_and_wrong_ones_do(full, monkeypatch):
    """The latents that the codes stand for: all codes are right; the cross-entropy falls with the temperature."""
    batch = mixed(full)
    codec = full.codec
    exact = codec.quantizer.decode(batch["codes"])
    split = codec.config.semantic_dim
    latents = mx.concatenate([exact[..., :split], mx.arctanh(0.999 * exact[..., split:])], axis=-1)
    whole = mx.zeros((len(batch["lengths"]), *latents.shape[1:]))
    whole[mx.array(batch["coded"])] = latents
    monkeypatch.setattr(type(codec), "encode_latents", lambda _, x, n=None: whole[: x.shape[0]])
    right = full.losses(batch)
    assert right["acoustic_code"].item() < 1e-3
    frames = full.targets(batch)["semantic_code"]
    assert right["semantic_code"].item() / frames < np.log(codec.config.semantic_codebook_size)
    monkeypatch.setattr(type(codec), "encode_latents", lambda _, x, n=None: whole[: x.shape[0], ::-1])
    wrong = full.losses(batch)
    assert wrong["acoustic_code"].item() / frames > 0.5
    assert wrong["semantic_code"].item() > 1.5 * right["semantic_code"].item()


def test_skipped_frames_do_not_count(full):
    batch = mixed(full)
    for row in range(len(batch["coded"])):
        batch["skip"][row] = 2
    codes = np.array(batch["codes"])
    before = {k: full.losses(batch)[k].item() for k in ("semantic_code", "acoustic_code")}
    codes[:, :, :2] = (codes[:, :, :2] + 3) % 20
    batch["codes"] = mx.array(codes)
    after = full.losses(batch)
    assert all(after[k].item() == value for k, value in before.items())


def test_later_frames():
    x = mx.arange(12).reshape(2, 3, 2)
    assert (np.array(later_frames(x, [0, 0])) == np.array(x)).all()
    moved = np.array(later_frames(x, [0, 2]))
    assert (moved[0] == np.array(x)[0]).all()
    assert (moved[1] == np.array(x)[1, [2, 2, 2]]).all()


def test_the_scale_of_a_codebook():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 7)).astype(np.float32)
    distances = np.square(rows[:, None] - rows[None]).sum(-1) + np.diag(np.full(300, np.inf))
    assert nearest_distance(mx.array(rows), chunk=128) == pytest.approx(np.median(distances.min(1)), rel=1e-4)
    assert nearest_distance(mx.zeros((8, 3))) == 1.0


# ---- over time -------------------------------------------------------------------------------------------------------


def test_weights_over_time(miniature, pairs):
    judges = JUDGES | {"warmup_steps": 15}
    section = {"losses": {"sound": 1.0}, "discriminators": judges, "sound_teaches": "all"}
    task = make(miniature, pairs, **section)
    assert task.weights_at(1000) == task.weights
    assert task.weights_at(0) == task.weights | {"feature_matching": 0.0}
    present = {step: task.targets(task.collate([task.item(0, 0, step)])) for step in (0, 14, 15)}
    assert [bool(present[step]["discriminator"]) for step in (0, 14, 15)] == [True, True, True]
    assert [bool(present[step]["feature_matching"]) for step in (0, 14, 15)] == [False, False, True]


def test_a_switched_off_term_costs_nothing(miniature, pairs, monkeypatch):
    """True codes only: nothing is decoded in training; the sound is still measured on held-out recordings."""
    task = make(miniature, pairs, losses=CODES_ALONE, drawing=ONLY_PAIRS)
    batch = batch_of(task, 0, 1)
    metrics = heldout_metrics(task)
    assert {"l1", "stft", "mel", "semantic_code", "pairs_semantic_agreement"} <= metrics.keys()
    monkeypatch.setattr(type(task.codec), "decode_latents", lambda *_: pytest.fail("decoded for nothing"))
    sums = task.losses(batch)
    assert sums["mel"].item() == 0
    assert sums["semantic_code"].item() > 0


def test_held_out_figures(full):
    """The sound of recordings alone, the codes of pairs alone; opponents are not measured."""
    metrics = heldout_metrics(full)
    assert not {"discriminator", "feature_matching"} & metrics.keys()
    names = {"pairs_semantic_agreement", "pairs_level_error", "pairs_levels_exact", "semantic_divergence_bits"}
    assert names <= metrics.keys()
    no_pairs = list(full.items.heldout_clips(2))
    sums = sum(full.losses(to_device(b))["l1"].item() for b in no_pairs)
    assert metrics["l1"] == pytest.approx(sums / sum(sum(b["lengths"]) for b in no_pairs))
    assert 0 <= metrics["pairs_semantic_agreement"] <= 1
    assert 0 < metrics["pairs_level_error"] < 20


# ---- training --------------------------------------------------------------------------------------------------------


def trained(task, directory, **settings):
    resume = settings.pop("resume", None)
    options = TrainSettings(**({"steps": 6} | SETTINGS | settings))
    result = Trainer(task, options, directory, resume=resume, quiet=True).run()
    return result, {k: np.array(v) for k, v in tree_flatten(task.model.trainable_parameters())}


@pytest.mark.slow
def test_resumed_equals_uninterrupted_with_everything_on(miniature, pairs, prior, tmp_path):
    def task():
        judges = JUDGES | {"warmup_steps": 3}
        return make(miniature, pairs, TEACHER, prior, losses=ALL, discriminators=judges, quantisation_noise=True)

    _, whole = trained(task(), tmp_path / "whole")
    trained(task(), tmp_path / "half", stop_after=3)
    _, resumed = trained(task(), None, resume=tmp_path / "half")
    assert all((whole[name] == resumed[name]).all() for name in whole)


@pytest.mark.slow
def test_training_on_true_codes_finds_them(miniature, pairs, tmp_path):
    """The losses of the codes alone, on a few pairs that are learnt by heart."""
    pairs = replace(pairs, heldout=pairs.train)
    task = make(miniature, pairs, losses=CODES_ALONE, drawing=ONLY_PAIRS)
    result, _ = trained(task, tmp_path / "run", steps=80, learning_rate=5e-3, warmup_steps=5, batch_size=3)
    first, last = (e["metrics"] for e in (result.evaluations[0], result.evaluations[-1]))
    assert last["pairs_level_error"] < 0.75 * first["pairs_level_error"]
    assert result.last_loss < 0.5 * result.first_loss


@pytest.mark.slow
def test_nothing_but_what_trains_moves(full, tmp_path):
    before = {k: np.array(v) for k, v in tree_flatten(full.model.parameters())}
    trained(full, tmp_path / "run", steps=4)
    own = tuple(f"codec.{part}." for part in ("input_proj", "encoder_blocks"))
    for name, value in tree_flatten(full.model.parameters()):
        if name.startswith(own):
            assert (np.array(value) != before[name]).any(), name
        elif name.startswith("codec."):
            assert (np.array(value) == before[name]).all(), name


def test_fingerprints_tell_what_differs(miniature, pairs, prior, monkeypatch):
    base = make(miniature, pairs).fingerprint()
    assert make(miniature, pairs).fingerprint() == base
    others = [
        make(miniature),
        make(miniature, pairs, drawing={"share": 0.4}),
        make(miniature, pairs, teacher=TEACHER),
        make(miniature, pairs, discriminators=JUDGES),
        make(miniature, pairs, quantisation_noise=True),
    ]
    others = [task.fingerprint() for task in others]
    monkeypatch.setattr(terms, "MARGIN", 0.4)
    others.append(make(miniature, pairs).fingerprint())
    monkeypatch.setattr(EncoderItems, "augmented", 0.4)
    others.append(make(miniature, pairs).fingerprint())
    assert len({base, *others}) == 8


def test_a_fingerprint_of_an_earlier_version_is_the_same(miniature, pairs):
    """Its fields for keys that are gone say nothing that the configuration does not."""
    now = make(miniature, pairs).fingerprint()
    before = json.dumps(json.loads(now) | {"refine": {"steps": 3}})
    assert fingerprint_changes(before, now) == []
    assert json.loads(now)["codes"] == {"temperature": 1.0, "margin": 0.5}
    assert set(json.loads(now)["drawing"]) == {"share", "alone_steps", "augmented", "dispersed", "heldout"}


def test_weights_of_the_terms_follow_from_those_of_the_configuration():
    weights = terms.term_weights(EncoderLosses(sound=2.0, semantic_code=3.0))
    sound = {"l1": 2.0, "stft": 2.0, "mel": 2.0, "commitment": terms.COMMITMENT}
    rest = {"semantic_code": 3.0, "acoustic_code": 1.0, "feature_matching": 1.0, "distillation": 1.0}
    assert weights == sound | rest
    assert terms.term_weights(EncoderLosses(sound=0.0))["commitment"] == 0


@pytest.mark.parametrize("scale", [1 / 64, 16.0])
def test_how_large_the_codebooks_values_are_changes_nothing(miniature, pairs, scale):
    """The same codec with semantic latents and codebook times a power of 2 has the same losses, all of them."""
    task = make(miniature, pairs, sound_teaches="all")
    batch, names = mixed(task), list(task.weights)
    before = {name: value.item() for name, value in task.losses(batch).items()}
    codec, dim = task.codec, task.codec.config.semantic_dim
    codec.quantizer.semantic_codebook.embedding_sum *= scale
    by = mx.concatenate([mx.full((dim,), scale), mx.ones((codec.config.acoustic_dim,))])
    codec.encoder_blocks[-1].conv.parametrizations.weight.original0 *= by[:, None, None]
    norm = codec.decoder_blocks[0].conv.parametrizations.weight
    weight = norm() / by[:, None]  # [dim, D + A, kernel]
    norm.original0, norm.original1 = row_lengths(weight), weight
    again = terms.EncoderTerms(task.model, task.section, task.crop, semantic_from_sound=True)
    after = {name: value.item() for name, value in again(batch, names).items()}
    assert set(after) == set(before) >= {"commitment", "mel", "semantic_code"}
    assert after == pytest.approx(before, rel=2e-3)


def test_the_encoder_does_not_depend_on_what_else_is_drawn(miniature, pairs):
    plain, full = make(miniature, pairs), make(miniature, pairs, discriminators=JUDGES)
    a, b = encoder_parameters(plain.codec), encoder_parameters(full.codec)
    assert all(mx.array_equal(a[name], b[name]).item() for name in a)
