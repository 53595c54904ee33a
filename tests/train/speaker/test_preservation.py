"""Preservation: the released model is the teacher, on the true rows of its voices, and drift is what is measured."""

import inspect
import re
import shutil
from dataclasses import fields, is_dataclass, replace

import mlx.core as mx
import numpy as np
import pytest
from golden import relative_error
from kept_made import kept, kept_item
from mlx.utils import tree_flatten, tree_unflatten
from pairs_on_disk import write_some
from speaker_made import losses, utterance
from tasks_data import full_model

from mlx_voxclone.adapters.lora import add_lora
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.errors import ConfigError, DataError
from mlx_voxclone.losses import flow_matching_targets
from mlx_voxclone.model.quantizer import levels_to_values
from mlx_voxclone.process.progress import Reporter
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.settings.schema import SpeakerSection
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.loop.gradients import Gradients, Masters
from mlx_voxclone.train.loop.loader import Group, MicroBatch, to_device
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.speaker import preservation
from mlx_voxclone.train.speaker.adapted import AdaptedModel
from mlx_voxclone.train.speaker.preservation import KeptPairs, check_kept, kept_before, load_kept, without_adapters
from mlx_voxclone.train.speaker.task import SpeakerData, SpeakerTask

SECTION = SpeakerSection(reference_seconds=[0.4, 0.8], max_seconds=2.0, train={"batch_size": 2})


@pytest.fixture
def make(miniature):
    tokenizer = SpeechTokenizer(Release(miniature).tokenizer_path)

    def build(moved=0.0, share=0.5, preserve=True, **section):
        model = full_model(miniature)
        add_lora(model, rank=4, alpha=8.0)
        if moved:  # as if trained: B is no longer zero
            for k, (name, value) in enumerate(tree_flatten(model.trainable_parameters())):
                if name.endswith("lora_b"):
                    noise = mx.random.normal(value.shape, key=mx.random.key(k))
                    model.update(tree_unflatten([(name, moved * noise)]))
        pairs = KeptPairs([kept(1), kept(2, 3)], [kept(3)], "these") if preserve else None
        asked = SECTION.preserve.model_copy(update={"share": share})
        chosen = SECTION.model_copy(update={"preserve": asked, **section})
        train = [utterance(1, 6), utterance(2, 4), utterance(3, 9)]
        return SpeakerTask(AdaptedModel(model, tokenizer.prompt), SpeakerData(train, [utterance(4, 5)], pairs), chosen)

    return build


def test_its_sequence_is_the_one_of_a_preset(make, miniature):
    task = make()
    item, model = kept_item(task), task.model
    prompt = SpeechTokenizer(Release(miniature).tokenizer_path).prompt("preset 1", 7)
    assert item["ids"].tolist() == prompt + [24] * 5
    frames = model.embed_codes(mx.array(kept(1).codes.T + 2))[None]
    want = mx.concatenate([model.embed_prompt(prompt, mx.array(kept(1).rows)), frames], axis=1)
    assert relative_error(task.embeddings(to_device(task.collate([item]))), want) < 1e-6


def entries(batch):
    """Of the batch and of its kept part, in order."""
    own = [getattr(batch, field.name) for field in fields(batch)]
    return [part for entry in own for part in (entries(entry) if is_dataclass(entry) else [entry])]


def described(batch):
    """Of a batch class and its kept part, in order: the type and the dimensions that its source says."""
    found = []
    for made in (type(batch), *([] if batch.kept is None else [type(batch.kept)])):
        found += re.findall(r"# (int32|float32|bool) (\[[^]]*\])", inspect.getsource(made))
    return found


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("with_kept", [False, True])
def test_every_entry_of_a_batch_has_the_shape_that_is_documented(make, padded, with_kept):
    task = make()
    items = [task.item(0, 0), task.item(0, 1)]
    batch = task.collate([*items, kept_item(task)] if with_kept else items)
    batch = task.padded(batch) if padded else batch
    arrays = [entry for entry in entries(batch) if isinstance(entry, np.ndarray)]
    letters = {"dim": 64}
    for entry, (dtype, shape) in zip(arrays, described(batch), strict=True):
        assert entry.dtype == dtype
        names = shape.strip("[]").split(", ")
        assert entry.ndim == len(names)
        for name, size in zip(names, entry.shape, strict=True):
            assert size == (int(name) if name.isdigit() else letters.setdefault(name, size))
    assert (batch.kept is not None) is with_kept


def test_before_training_nothing_has_drifted(make):
    task = make()
    item = kept_item(task)
    found = losses(task, item)
    assert found["kept_semantic"] == pytest.approx(0, abs=1e-5)
    assert found["kept_flow"] == pytest.approx(0, abs=1e-10)
    assert (found["semantic"], found["flow"]) == (0, 0)  # its frames are no targets of the speaker's
    assert task.targets(task.collate([item])) == {
        "semantic": 0.0,
        "flow": 0.0,
        "kept_semantic": 6.0,  # five frames and END
        "kept_flow": 5.0,
    }


@pytest.mark.parametrize("recompute", [False, True])
def test_the_terms_are_their_formulas_against_the_released_model(make, miniature, recompute):
    task = make(moved=0.05)
    task.model.recompute = recompute
    item = kept_item(task)
    batch = to_device(task.collate([item]))
    released = full_model(miniature)
    head, inputs = released.acoustic_transformer, task.embeddings(batch)
    task.model.recompute = False
    ours, theirs = (np.array(m.hidden_states(inputs)[0]) for m in (task.model, released))
    at = batch.semantic_positions.tolist()
    p, q = (
        np.array(mx.softmax(head.masked_semantic_logits(mx.array(states[at])), axis=-1), np.float64)
        for states in (theirs, ours)
    )
    where = p > 0
    divergence = (p[where] * (np.log(p[where]) - np.log(q[where]))).sum()
    x_t, _ = flow_matching_targets(levels_to_values(batch.acoustic, 21), batch.noise, batch.time)
    a, b = (np.array(head.velocity(x_t, batch.time, mx.array(states[at[:-1]]))) for states in (theirs, ours))
    task.model.recompute = recompute
    found = losses(task, item)
    assert divergence > 0.01
    assert found["kept_semantic"] == pytest.approx(divergence, rel=1e-3)
    assert found["kept_flow"] == pytest.approx(np.square(a - b).mean(axis=1).sum(), rel=1e-3)


def test_a_mixed_batch_is_the_sum_of_its_items(make):
    task = make(moved=0.05)
    items = [kept_item(task, 2), task.item(0, 0), kept_item(task, 1), task.item(0, 2)]
    together = losses(task, *items)
    apart = [losses(task, item) for item in items]
    for name in task.weights:
        assert together[name] == pytest.approx(sum(found[name] for found in apart), rel=1e-4)
    counts = [task.targets(task.collate([item])) for item in items]
    assert task.targets(task.collate(items)) == {name: sum(c[name] for c in counts) for name in task.weights}


@pytest.mark.parametrize("term", ["kept_semantic", "kept_flow"])
def test_the_gradient_is_that_of_finite_differences(make, term):
    """The teacher is part of the same model and must not be differentiated."""
    task = make(moved=0.05)
    task.weights = dict.fromkeys(("semantic", "flow", "kept_semantic", "kept_flow"), 0.0) | {term: 1.0}
    batch = task.collate([kept_item(task), task.item(0, 0)])
    group = Group(0, [MicroBatch(batch, ["x"])], task.targets(batch), 2, (0, 2))
    masters = Masters(task, "float32")
    gradients, _, _ = Gradients(task, masters)(group, 0)
    rng, start = np.random.default_rng(0), dict(masters.values)
    direction = {name: rng.standard_normal(value.shape).astype(np.float32) for name, value in start.items()}

    def value(step):
        masters.replace({name: v + step * mx.array(direction[name]) for name, v in start.items()})
        return float(task.losses(to_device(batch))[term]) / group.targets[term]

    wanted = (value(1e-3) - value(-1e-3)) / 2e-3
    got = sum(float((np.array(gradients[name], np.float64) * direction[name]).sum()) for name in gradients)
    assert abs(wanted) > 1e-4
    assert got == pytest.approx(wanted, rel=0.02)


def test_the_adapters_are_back_afterwards(make):
    task = make(moved=0.05)
    before = losses(task, task.item(0, 0))
    with pytest.raises(ZeroDivisionError), without_adapters(task.model):
        1 / 0  # noqa: B018
    losses(task, kept_item(task))
    assert losses(task, task.item(0, 0)) == before


def test_a_share_of_the_items_is_kept(make):
    task = make(share=0.25)
    assert task.n_items == 4
    kinds = [[task.item(epoch, k)["kept"] for k in range(4)] for epoch in range(8)]
    assert kinds == [[False, False, False, True]] * 8
    assert len({task.item(epoch, 3)["id"] for epoch in range(8)}) == 2  # drawn anew from both
    assert make(share=0.01).n_items == 4  # never none
    assert make(preserve=False).n_items == 3


def test_without_pairs_nothing_is_changed(make):
    task = make(preserve=False)
    assert set(task.weights) == {"semantic", "flow"}
    assert all(batch.kept is None for batch in task.heldout_batches())


def test_held_out_pairs_measure_the_drift(make, tmp_path):
    task = make()
    batches = list(task.heldout_batches())
    assert [batch.kept is not None for batch in batches] == [False, True]
    settings = TrainSettings(steps=6, learning_rate=1e-2, eval_every=0)
    result = Trainer(task, settings, tmp_path / "run", quiet=True).run()
    first, last = (evaluation["metrics"] for evaluation in (result.evaluations[0], result.evaluations[-1]))
    assert first["kept_semantic"] == pytest.approx(0, abs=1e-5)
    assert last["kept_semantic"] > 1e-4
    assert last["kept_flow"] > 0


@pytest.mark.slow
def test_presets_drift_less_when_they_are_preserved(make, tmp_path):
    """The same training on a clip, with the terms at work and with them only measured."""
    drift = {}
    for weight in (0.0, 3.0):
        task = make(losses=SECTION.losses.model_copy(update={"kept": weight}))
        settings = TrainSettings(steps=25, batch_size=3, learning_rate=5e-3, eval_every=0, grad_clip=0.0)
        metrics = Trainer(task, settings, tmp_path / f"{weight}", quiet=True).run().evaluations[-1]["metrics"]
        drift[weight] = (metrics["kept_semantic"], metrics["kept_flow"])
    assert drift[3.0][0] < 0.6 * drift[0.0][0]
    assert drift[3.0][1] < 0.6 * drift[0.0][1]


def test_other_pairs_are_another_run(make):
    task = make()
    before = task.fingerprint()
    task._kept = replace(task._kept, identity="others")
    assert task.fingerprint() != before


# --- from disk --------------------------------------------------------------------------------------------------------
"""

"""


def configured(miniature, pairs, **changes):
    given = {"model": str(miniature), "speaker.preserve.path": None if pairs is None else str(pairs), **changes}
    return load_run_config("configs/voxtral_speaker.yaml", given)


def test_pairs_come_with_the_rows_of_their_voice(miniature, tmp_path):
    pairs, release = write_some(miniature, tmp_path / "pairs", voice="casual_male"), Release(miniature)
    found = load_kept(configured(miniature, pairs), release)
    assert len(found.train) + len(found.heldout) == 6
    assert {item.text for item in found.train}.isdisjoint({item.text for item in found.heldout})
    for item in (*found.train, *found.heldout):
        np.testing.assert_array_equal(item.rows, np.array(release.voice("casual_male").astype(mx.float32)))
    assert load_kept(configured(miniature, pairs, **{"speaker.preserve.share": 0.0}), release) is None
    off = {"speaker.losses.kept": 0.0}
    assert load_kept(configured(miniature, pairs, **off), release) is None
    assert load_kept(configured(miniature, None), release) is None


@pytest.fixture
def own(miniature, tmp_path, monkeypatch):
    """In the place of the automatic pairs; `asked` counts how often they were asked for."""
    directory, asked = write_some(miniature, tmp_path / "own", voice="casual_male"), []

    def own_pairs(*arguments):
        asked.append(arguments)
        return directory

    monkeypatch.setattr(preservation, "own_pairs", own_pairs)
    return asked


def automatic(miniature, task, **changes):
    return configured(miniature, "auto", task=task, **changes)


def test_task_clone_keeps_the_pairs_that_the_encoder_learns_from(miniature, tmp_path, own):
    release = Release(miniature)
    found = load_kept(automatic(miniature, "clone"), release)
    assert len(found.train) + len(found.heldout) == 6
    assert len(own) == 1
    given = [tmp_path / "own", write_some(miniature, tmp_path / "strange", frames=(5, 7, 6), voice="moved/casual_male")]
    same = load_kept(automatic(miniature, "clone", **{"encoder.pairs.path": [str(place) for place in given]}), release)
    assert [item.text for item in same.heldout] == [item.text for item in found.heldout]
    assert len(same.train) == len(found.train)  # of the other directory none is in a voice of the model
    said = []
    assert (
        load_kept(
            automatic(miniature, "clone", **{"encoder.pairs.path": str(given[1])}),
            release,
            reporter=Reporter(said.append),
        )
        is None
    )
    assert "too few pairs in its own voices" in said.pop()
    assert (
        load_kept(
            automatic(miniature, "clone", **{"encoder.pairs.path": None}), release, reporter=Reporter(said.append)
        )
        is None
    )
    assert "encoder.pairs.path is null" in said.pop()
    assert (
        load_kept(
            automatic(miniature, "clone", **{"speaker.preserve.share": 0.0}), release, reporter=Reporter(said.append)
        )
        is None
    )
    assert len(own) == 1
    assert said == []


@pytest.mark.parametrize("task", ["speaker", "language"])
def test_other_tasks_keep_what_is_cached(miniature, tmp_path, own, monkeypatch, task):
    """And go on as they began, whether or not it still is."""
    release, config, said = Release(miniature), automatic(miniature, task), []
    assert load_kept(config, release, reporter=Reporter(said.append)) is None
    (line,) = said
    assert "no run of task clone or encoder has made any with this model yet; run one" in line
    assert load_kept(config, release, begun=True, reporter=Reporter(said.append)) is not None
    assert len(own) == 1
    monkeypatch.setattr(preservation, "cached_own_pairs", lambda config, release: tmp_path / "own")
    assert load_kept(config, release, reporter=Reporter(said.append)) is not None
    assert load_kept(config, release, begun=False, reporter=Reporter(said.append)) is None
    assert (len(own), len(said)) == (1, 1)


def test_a_model_without_voices_keeps_nothing(miniature, tmp_path, own):
    model, said = shutil.copytree(miniature, tmp_path / "mute"), []
    shutil.rmtree(model / "voice_embedding")
    assert load_kept(automatic(model, "clone"), Release(model), reporter=Reporter(said.append)) is None
    assert said == ["speaker.preserve: the model's own voices are not preserved: it has none"]
    assert own == []
    check_kept(automatic(model, "clone"), Release(model))


def test_early_checks_make_nothing(miniature, own, monkeypatch):
    asked = []
    monkeypatch.setattr(preservation, "check_automatic", lambda *arguments, **options: asked.append(options))
    for task in ("speaker", "clone"):
        check_kept(automatic(miniature, task), Release(miniature))
    assert asked == [{"own_only": True}]
    assert own == []


def test_whether_a_training_has_begun_to_keep(make, tmp_path):
    assert kept_before(tmp_path) is None
    for preserve in (True, False):
        settings = TrainSettings(steps=1, batch_size=2, learning_rate=1e-3, eval_every=0, save_every=0)
        Trainer(make(preserve=preserve), settings, run_dir=tmp_path / str(preserve), quiet=True).run()
        assert kept_before(tmp_path / str(preserve)) is preserve


def test_pairs_that_cannot_be_kept(miniature, tmp_path):
    release = Release(miniature)
    strange = write_some(miniature, tmp_path / "strange")
    with pytest.raises(DataError, match="was spoken with ann"):
        load_kept(configured(miniature, strange), release)
    one = write_some(miniature, tmp_path / "one", frames=(9,), voice="casual_male")
    with pytest.raises(DataError, match="too few texts"):
        load_kept(configured(miniature, one), release)
    with pytest.raises(ConfigError, match="speaker.preserve.path to null"):
        configured(miniature, tmp_path / "nowhere", **{"data.path": str(tmp_path), "voice": "x"}).check_paths()
