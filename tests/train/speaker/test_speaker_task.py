"""Task `speaker`: the sequence is the server's, the labels are where generation looks for them, END is a target."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from golden import relative_error
from speaker_made import SECTION, codes, utterance
from tasks_data import full_model

from mlx_voxclone.adapters.files import AdapterConfig, load_adapters, save_adapters
from mlx_voxclone.adapters.lora import add_lora, lora_parameters
from mlx_voxclone.adapters.names import TARGETS
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.errors import DataError
from mlx_voxclone.model import generation
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.loop.loader import to_device
from mlx_voxclone.train.loop.optimizers import groups as optimizers
from mlx_voxclone.train.loop.task import fingerprint_changes
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.speaker import task as speaker_task
from mlx_voxclone.train.speaker.adapted import AdaptedModel, save_nothing
from mlx_voxclone.train.speaker.preservation import Kept, KeptPairs
from mlx_voxclone.train.speaker.task import SpeakerData, SpeakerTask, Utterance

SETTINGS = {"learning_rate": 5e-3, "eval_every": 0, "save_every": 0}


@pytest.fixture(scope="module")
def tokenizer(miniature):
    return SpeechTokenizer(Release(miniature).tokenizer_path)


@pytest.fixture
def make(miniature, tokenizer):
    """A task on a fresh, unquantised model; keywords change the section or the utterances."""

    def build(train=None, heldout=None, seed=0, lora=True, save=None, **section):
        model = full_model(miniature)
        if lora:
            add_lora(model, rank=4, alpha=8.0)
        train = [utterance(1, 6), utterance(2, 4), utterance(3, 9)] if train is None else train
        heldout = [utterance(4, 5)] if heldout is None else heldout
        chosen = SECTION.model_copy(update=section)
        adapted = AdaptedModel(model, tokenizer.prompt, save or save_nothing)
        return SpeakerTask(adapted, SpeakerData(train, heldout), chosen, seed=seed)

    return build


def test_the_sequence_is_the_one_that_generation_sees(make, tokenizer):
    """Prompt with the voice rows and END row, then one row per frame: equal to embed_prompt + embed_codes."""
    task = make()
    item = task.item(0, 0)
    model = task.model
    n_voice = int((item["ids"][: item["first"] + 1] == 24).sum())
    prompt = tokenizer.prompt("words number 1", n_voice)
    assert item["ids"].tolist() == prompt + [24] * 6
    assert item["first"] == len(prompt) - 1
    voice = item["codes"][:n_voice]
    assert voice[-1].tolist() == [1] + [0] * 36  # the END row is part of the voice
    speech = item["codes"][n_voice:]
    assert (utterance(1).codes == speech.T - 2).all()
    rows = model.embed_codes(mx.array(voice))
    frames = model.embed_codes(mx.array(speech))[None]
    want = model.hidden_states(mx.concatenate([model.embed_prompt(prompt, rows), frames], axis=1))[0]
    assert relative_error(task.hidden_states(to_device(task.collate([item]))), want) < 1e-5


def test_labels_are_what_the_model_itself_would_say(make, tokenizer):
    """Teach a model its own words: it must predict every one of them. Off by one, and it predicts none."""
    reference = codes(8, 9)
    base = make(lora=False).model
    rows = base.voice_embedding(reference)
    prompt = base.embed_prompt(tokenizer.prompt("her own words", rows.shape[0]), rows)
    spoken = np.stack(list(generation.generate(base, prompt, max_frames=20, seed=3)), axis=1)
    own = Utterance("own", "her own words", spoken, (reference,))
    task = make(train=[own], heldout=[own], reference_seconds=[8 / 12.5, 8 / 12.5])
    item = task.item(0, 0)
    batch = to_device(task.collate([item]))
    hidden = task.hidden_states(batch)[batch.semantic_positions]
    chosen = np.array(mx.argmax(task.model.acoustic_transformer.masked_semantic_logits(hidden), axis=-1))
    assert spoken.shape[1] > 3
    assert (chosen[: spoken.shape[1]] == item["semantic"][: spoken.shape[1]]).all()


def test_end_is_the_last_target_and_has_no_flow(make):
    task = make()
    item = task.item(0, 0)
    assert len(item["semantic"]) == 7
    assert item["semantic"][-1] == 1
    assert len(item["acoustic"]) == len(item["noise"]) == len(item["time"]) == 6
    assert task.targets(task.collate([item])) == {"semantic": 7.0, "flow": 6.0}
    assert (item["semantic"][:-1] == utterance(1).codes[0] + 2).all()
    assert (item["acoustic"] == utterance(1).codes[1:].T).all()


def test_a_clip_that_was_cut_short_does_not_end(make):
    """The limit cuts a long clip; to teach END there would teach the model to stop in the middle of a word."""
    task = make(train=[utterance(1, 40)])
    item = task.item(0, 0)
    assert len(item["semantic"]) == len(item["acoustic"]) == 25
    assert 1 not in item["semantic"]
    assert len(item["ids"]) - item["first"] - 1 == 24  # the 25th frame is a target only


def test_only_audio_positions_are_targets(make):
    """Every predicting position is the prompt's last one or a frame: none belongs to text or voice."""
    task = make()
    items = [task.item(0, i) for i in range(3)]
    batch = task.collate(items)
    width = batch.ids.shape[1]
    want = [row * width + item["first"] + k for row, item in enumerate(items) for k in range(len(item["semantic"]))]
    assert batch.semantic_positions.tolist() == want


def test_a_batch_is_the_sum_of_its_items(make):
    """Right padding and neighbours change nothing: sequences of one batch do not leak into each other."""
    task = make()
    items = [task.item(0, i) for i in range(3)]
    together = task.losses(to_device(task.collate(items)))
    alone = [task.losses(to_device(task.collate([item]))) for item in items]
    for term in together:
        assert float(together[term]) == pytest.approx(sum(float(one[term]) for one in alone), rel=1e-5)


def test_the_flow_loss_is_its_formula(make):
    task = make()
    task.hidden_dropout = 0.5
    item = task.item(0, 0)
    batch = to_device(task.collate([item]))
    hidden = np.array(task.hidden_states(batch))
    x1 = item["acoustic"] / 10.0 - 1.0
    t = item["time"][:, None]
    x_t = (1 - t) * item["noise"] + t * x1
    condition = hidden[item["first"] + np.arange(6)] * ~item["drop"][:, None]
    assert 0 < item["drop"].sum() < 6
    head = task.model.acoustic_transformer
    v = np.array(head.velocity(mx.array(x_t.astype(np.float32)), mx.array(item["time"]), mx.array(condition)))
    want = ((v - (x1 - item["noise"])) ** 2).mean(axis=1).sum()
    assert float(task.losses(batch)["flow"]) == pytest.approx(want, rel=1e-5)


def test_dropping_the_hidden_state_leaves_the_semantic_loss_alone(make):
    never, always = make(), make()
    never.hidden_dropout, always.hidden_dropout = 0.0, 0.999
    a, b = (task.losses(to_device(task.collate([task.item(0, 0)]))) for task in (never, always))
    assert float(a["semantic"]) == float(b["semantic"])
    assert float(a["flow"]) != float(b["flow"])


def test_the_hidden_state_is_dropped_a_tenth_of_the_time(make):
    task = make(train=[utterance(1, 25)])
    share = np.mean([task.item(epoch, 0)["drop"].mean() for epoch in range(100)])
    assert share == pytest.approx(0.1, abs=0.02)


def test_the_reference_is_another_clip_drawn_anew(make):
    task = make()
    utterance_1 = utterance(1)
    lengths, starts = set(), set()
    for epoch in range(12):
        item = task.item(epoch, 0)
        n = int((item["ids"][: item["first"] + 1] == 24).sum())
        voice = (item["codes"][: n - 1] - 2).T
        lengths.add(n - 1)
        a, b = utterance_1.references
        found = [
            (k, i)
            for k, reference in enumerate((a, b, np.concatenate([a, b], axis=1), np.concatenate([b, a], axis=1)))
            for i in range(reference.shape[1] - n + 2)
            if (reference[:, i : i + n - 1] == voice).all()
        ]
        assert found
        starts.add(found[0])
    assert len(lengths) > 1
    assert len(starts) > 2
    assert (task.item(3, 0)["noise"] == task.item(3, 0)["noise"]).all()


def test_a_long_reference_is_several_clips_one_after_the_other(make):
    a, b = codes(12, 101), codes(7, 201)  # references of utterance 1
    task = make(reference_seconds=[1.4, 1.5])  # 18 or 19 frames, more than either has
    seen = set()
    for epoch in range(8):
        item = task.item(epoch, 0)
        n = int((item["ids"][: item["first"] + 1] == 24).sum()) - 1
        assert n in (18, 19)
        voice = (item["codes"][:n] - 2).T
        for order, joined in (("ab", np.concatenate([a, b], axis=1)), ("ba", np.concatenate([b, a], axis=1))):
            if any((joined[:, i : i + n] == voice).all() for i in range(19 - n + 1)):
                seen.add(order)
    assert seen == {"ab", "ba"}


def test_only_lora_gets_a_gradient(make, tmp_path):
    task = make()
    before = {k: np.array(v) for k, v in dict(tree_of(task.model)).items()}
    Trainer(task, TrainSettings(steps=2, **SETTINGS), tmp_path / "run", quiet=True).run()
    for name, value in tree_of(task.model):
        moved = (np.array(value) != before[name]).any()
        assert moved == name.endswith((".lora_a", ".lora_b")), name


def tree_of(model):
    from mlx.utils import tree_flatten

    return tree_flatten(model.parameters())


def test_micro_batches_equal_one_batch(make, tmp_path, monkeypatch):
    """Clips of 6, 4 and 9 frames: a plain mean over micro-batches would weigh their frames unequally."""
    monkeypatch.setattr(optimizers, "EPS", 1e-4)
    results = []
    for name, batch_size, accumulate in (("one", 3, 1), ("three", 1, 3)):
        task = make()
        settings = TrainSettings(steps=3, batch_size=batch_size, accumulate=accumulate, **SETTINGS)
        result = Trainer(task, settings, tmp_path / name, quiet=True).run()
        results.append((result.last_loss, {k: np.array(v) for k, v in lora_parameters(task.model).items()}))
    (loss_one, a), (loss_three, b) = results
    assert loss_three == pytest.approx(loss_one, rel=1e-5)
    assert max(np.abs(a[k] - b[k]).max() for k in a) < 1e-5


def test_other_texts_and_codes_are_another_training(make):
    now, first = make().fingerprint(), utterance(1, 6)
    for other in (replace(first, text="others"), replace(first, codes=first.codes[:, ::-1])):
        (change,) = fingerprint_changes(now, make([other, utterance(2, 4), utterance(3, 9)]).fingerprint())
        assert change.startswith("contents: ")
    before = {name: value for name, value in json.loads(now).items() if name != "contents"}
    assert fingerprint_changes(json.dumps(before), now) == []  # an earlier version did not write it


def test_resumed_equals_uninterrupted(make, tmp_path):
    def trained(directory, **kwargs):
        task = make()
        settings = {"steps": 10, "batch_size": 2, **SETTINGS, **kwargs.pop("settings", {})}
        Trainer(task, TrainSettings(**settings), directory, quiet=True, **kwargs).run()
        return {k: np.array(v) for k, v in lora_parameters(task.model).items()}

    whole = trained(tmp_path / "whole")
    trained(tmp_path / "half", settings={"stop_after": 5})
    resumed = trained(None, resume=tmp_path / "half")
    assert all((whole[k] == resumed[k]).all() for k in whole)


def test_it_overfits_one_clip(make, tmp_path):
    one = [utterance(1)]
    task = make(train=one, heldout=one)
    task.hidden_dropout = 0.0
    result = Trainer(task, TrainSettings(steps=40, **SETTINGS), tmp_path / "run", quiet=True).run()
    first, last = (e["metrics"] for e in (result.evaluations[0], result.evaluations[-1]))
    assert last["semantic"] < 0.3 * first["semantic"]
    assert last["semantic_accuracy"] == 1.0


def test_best_is_an_adapter_that_says_its_alpha(make, tmp_path):
    config = AdapterConfig(4, 8.0, TARGETS, "base")
    task = make(save=lambda directory, tensors: save_adapters(directory, tensors, config))
    Trainer(task, TrainSettings(steps=2, **SETTINGS), tmp_path / "run", quiet=True).run()
    tensors, loaded = load_adapters(tmp_path / "run" / "best")
    assert (loaded.rank, loaded.alpha, loaded.base_fingerprint) == (4, 8.0, "base")
    assert set(tensors) == set(lora_parameters(task.model))


def test_samples_are_spoken_with_the_adapter(make, tmp_path):
    make().write_samples(tmp_path, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["u4.wav"]


def test_refusals(make):
    with pytest.raises(DataError, match="training clip"):
        make(train=[])
    with pytest.raises(DataError, match="held-out clip"):
        make(heldout=[])
    bad = utterance(1)
    bad.codes[3, 2] = 21
    with pytest.raises(DataError, match="u1.*codebook 3, frame 2"):
        make(train=[bad])


def test_of_many_held_out_clips_some_are_measured_by(make, monkeypatch):
    monkeypatch.setattr(speaker_task, "MAX_HELDOUT", 3)
    task = make(heldout=[utterance(n, 3) for n in range(4, 13)])
    assert [u.id for u in task._heldout] == ["u4", "u7", "u10"]
    assert sum(len(batch.ids) for batch in task.heldout_batches()) == 3


def test_what_is_to_be_kept_is_heard_as_it_was(miniature, make):
    """Wrong codes behind the model's own voices would ask it to keep what it never said."""
    task = make()
    frames = codes(6, 5)
    task._kept = KeptPairs(
        [Kept("k", "words", frames, np.zeros((4, task.model.config.backbone.dim), np.float32))], [], ""
    )
    item = task.item(0, len(task._train))
    assert item["kept"]
    np.testing.assert_array_equal(item["codes"], frames.T + 2)
