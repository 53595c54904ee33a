"""Task `distill`: the teacher has no adapters and the true codes, the student the encoder's; the same is refused."""

import json

import mlx.core as mx
import numpy as np
import pytest
import yaml
from mlx.utils import tree_flatten, tree_unflatten
from pairs_on_disk import write_some
from speaker_made import codes
from tasks_data import full_model

from mlx_voxclone.adapters.files import load_adapters
from mlx_voxclone.adapters.lora import add_lora
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.losses.divergence import divergence
from mlx_voxclone.pairs.data import PairData
from mlx_voxclone.settings.training import TrainSettings
from mlx_voxclone.train.distill.data import (
    DistillItem,
    TwiceCoded,
    make_items,
    preset_voices,
    refuse_identical,
    text_pool,
    variants,
)
from mlx_voxclone.train.distill.task import DistillTask, matched_layers
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.speaker.adapted import AdaptedModel, save_nothing

pytest_plugins = ["commands"]
pytestmark = pytest.mark.usefixtures("no_fsync")


def voice(n, same=False, frames=9):
    true = codes(frames, n)
    return TwiceCoded(f"v{n}", "alto", true, true if same else codes(frames, 50 + n))


def item(n, kept=False, spoken=True, same=False):
    return DistillItem(f"i{n}", voice(n, same), 1, 6, f"text {n}", codes(4 + n, 70 + n) if spoken else None, kept)


@pytest.fixture
def make(miniature, tmp_path):
    tokenizer = SpeechTokenizer(Release(miniature).tokenizer_path)

    def build(train=None, heldout=None, moved=0.0, teach=True, cache="teacher", **more):
        model = full_model(miniature)
        add_lora(model, rank=4, alpha=8.0)
        if moved:
            for k, (name, value) in enumerate(tree_flatten(model.trainable_parameters())):
                if name.endswith("lora_b"):
                    noise = mx.random.normal(value.shape, key=mx.random.key(k))
                    model.update(tree_unflatten([(name, moved * noise)]))
        train = train or [item(1), item(2, kept=True), item(3, spoken=False)]
        heldout = heldout or [item(4), item(5, kept=True)]
        task = DistillTask(
            AdaptedModel(model, tokenizer.prompt, more.pop("save", save_nothing), more.pop("identity", {})),
            train,
            heldout,
            cache=tmp_path / cache,
            **more,
        )
        if teach:
            task.teach()
        return task

    return build


def arrays(batch):
    return {k: mx.array(v) if isinstance(v, np.ndarray) else v for k, v in batch.items()}


def losses(task, *indices, epoch=0):
    batch = task.collate([task.item(epoch, k) for k in indices])
    return {name: value.item() for name, value in task.losses(arrays(batch)).items()}


def test_the_teacher_is_the_released_model_behind_the_true_codes(make, miniature):
    task = make(moved=0.5)  # adapters that change a lot: none of it may be in the teacher's states
    plain = full_model(miniature)
    for k, one in enumerate(task._items):
        rows = plain.voice_embedding(one.voice.true[:, 1:7])
        ids = task._adapted.prompt(one.text, 7)
        x = plain.embed_prompt(ids, rows)
        if one.codes is not None:
            x = mx.concatenate([x, plain.embed_codes(mx.array(one.codes.T + 2))[None]], axis=1)
        inputs = []
        final = plain.hidden_states(x, layer_inputs=inputs)
        after = 2 + 7  # <s>, [BEGIN_AUDIO] and the voice
        want = np.stack([np.array(inputs[1][0, after:]), np.array(final[0, after:])], axis=1)
        assert np.allclose(task.teacher.read(k), want, atol=1e-4)


def test_without_a_difference_there_is_no_loss_and_with_one_there_is(make):
    task = make([item(1, same=True), item(1), item(1, kept=True)])
    assert all(abs(value) < 1e-6 for value in losses(task, 0).values())
    apart = losses(task, 1)
    assert min(apart["hidden"], apart["semantic"], apart["flow"]) > 1e-6
    assert (apart["kept_semantic"], apart["kept_flow"]) == (0, 0)
    # What is to be kept gets the true codes: nothing has changed yet.
    assert all(abs(value) < 1e-6 for value in losses(task, 2).values())
    moved = losses(make([item(1, kept=True)], moved=0.5), 0)
    assert min(moved["kept_semantic"], moved["kept_flow"]) > 1e-6
    assert (moved["semantic"], moved["flow"]) == (0, 0)


def test_the_losses_are_those_of_states_distributions_and_velocities(make):
    """Against plain numbers, one item."""
    task = make([item(1)], moved=0.3)
    one, model = task._train[0], task.model
    made = task.item(0, 0)
    x = mx.concatenate(
        [
            model.embed_prompt(task._adapted.prompt(one.text, 7), model.voice_embedding(one.voice.ours[:, 1:7])),
            model.embed_codes(mx.array(one.codes.T + 2))[None],
        ],
        axis=1,
    )
    inputs = []
    final = model.hidden_states(x, layer_inputs=inputs)
    ours = np.stack([np.array(inputs[1][0, 9:]), np.array(final[0, 9:])], axis=1)
    theirs = task.teacher.read(0)
    share = np.square(ours - theirs).sum(-1) / np.square(theirs).sum(-1)
    found = losses(task, 0)
    assert found["hidden"] == pytest.approx(share.mean(axis=1).sum(), rel=1e-3)
    head, first = model.acoustic_transformer, made["first"]
    p, q = (
        np.array(mx.softmax(head.masked_semantic_logits(mx.array(s[:, 1]))[first - 9 :], axis=-1)).astype(float)
        for s in (theirs, ours)
    )
    nats = np.where(p > 0, p * (np.log(np.maximum(p, 1e-30)) - np.log(np.maximum(q, 1e-30))), 0).sum()
    assert found["semantic"] == pytest.approx(nats, rel=1e-3)
    n = one.codes.shape[1]
    then, now = (
        np.array(head.velocity(mx.array(made["points"]), mx.array(made["time"]), mx.array(s[first - 9 :, 1][:n])))
        for s in (theirs, ours)
    )
    assert found["flow"] == pytest.approx(np.square(then - now).mean(axis=1).sum(), rel=1e-3)


def test_items_of_a_batch_do_not_touch_each_other(make):
    task = make()
    alone = [losses(task, k) for k in range(3)]
    together = losses(task, 0, 1, 2)
    for name, value in together.items():
        assert value == pytest.approx(sum(one[name] for one in alone), rel=1e-4, abs=1e-6)
    targets = [task.targets(task.collate([task.item(0, k)])) for k in range(3)]
    assert task.targets(task.collate([task.item(0, k) for k in range(3)])) == {
        name: sum(one[name] for one in targets) for name in task.weights
    }
    assert targets[0]["semantic"] == 6  # five frames and END
    assert (targets[1]["semantic"], targets[1]["kept_semantic"]) == (0, 7)
    assert (targets[2]["semantic"], targets[2]["flow"]) == (1, 1)  # the start alone


def test_the_gradient_is_that_of_finite_differences(make):
    task = make([item(1)], moved=0.3)
    batch = arrays(task.collate([task.item(0, 0)]))
    parameters = dict(tree_flatten(task.model.trainable_parameters()))
    name = "layers.1.attention.wo.lora_b"

    def loss(value):
        task.model.update(tree_unflatten([(name, value)]))
        found = task.losses(batch)
        return found["hidden"] + found["semantic"] + found["flow"]

    start = parameters[name]
    gradient = mx.grad(loss)(start)
    direction = mx.random.normal(start.shape, key=mx.random.key(1))
    step = 1e-2
    measured = (loss(start + step * direction) - loss(start - step * direction)).item() / (2 * step)
    assert measured == pytest.approx((gradient * direction).sum().item(), rel=2e-2)


def test_the_teachers_states_are_made_once_and_belong_to_their_run(make, tmp_path):
    task = make()
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "teacher").iterdir()}
    assert len(written) == 5
    asked = []
    again = make(moved=0.5, teach=False)
    again._states = lambda *a, **k: asked.append(a)
    again.teach()
    assert not asked
    other = make([item(7)], teach=False)
    with pytest.raises(CheckpointError, match="made from something else"):
        other.teacher.read(0)
    other.teach()
    assert other.teacher.read(0).shape[1] == 2
    assert task.fingerprint() == again.fingerprint() != other.fingerprint()


@pytest.mark.slow
def test_it_learns(make, tmp_path):
    task = make([item(1), item(2), item(3)], [item(1)])
    settings = TrainSettings(steps=12, learning_rate=2e-2, accumulate=3, eval_every=6, save_every=0)
    result = Trainer(task, settings, tmp_path / "run", quiet=True).run()
    before, after = (result.evaluations[k]["metrics"] for k in (0, -1))
    assert after["loss"] < 0.8 * before["loss"]
    assert "kept_flow" not in after  # nothing is to be kept here


def test_layers_are_a_quarter_half_and_three_quarters():
    assert matched_layers(26) == [6, 13, 19]
    assert matched_layers(2) == [1]


def test_the_same_codes_are_refused():
    different = voice(1)
    assert refuse_identical([voice(2, same=True), different]) == [different]
    with pytest.raises(DataError, match="the true codes for all 2 voices"):
        refuse_identical([voice(1, same=True), voice(2, same=True)])
    with pytest.raises(DataError, match="voxclone pairs"):
        refuse_identical([])


def test_texts_take_turns_with_variants_and_the_shipped_ones():
    assert variants("Good morning, dear old friend.") == ["good morning, dear old friend", "dear old friend."]
    assert variants("yes") == []
    pool = text_pool(["Good morning, dear old friend.", "Yes."])
    assert pool[:2] == ["Good morning, dear old friend.", "good morning, dear old friend"]
    assert "Yes." in pool[:6]
    assert len(pool) == len(set(pool)) > 380


def test_an_answer_is_by_the_same_voice_and_never_the_clip_itself(miniature, tmp_path):
    write_some(miniature, tmp_path / "pairs")
    pairs = PairData.load(tmp_path / "pairs", Release(miniature).config.codec).pairs
    voices = [TwiceCoded(p.name, p.voice, p.codes, p.codes) for p in pairs]
    limits = {"kept": 0.3, "reference_frames": (2, 3), "most_frames": 100}
    items = make_items(voices, pairs, 60, seed=1, **limits)
    by_codes = {pair.codes.tobytes(): pair for pair in pairs}
    spoken = [one for one in items if one.codes is not None]
    assert 0 < len(spoken) < 60
    for one in spoken:
        answer = by_codes[one.codes.tobytes()]
        assert (answer.text, answer.voice) == (one.text, one.voice.speaker)
        assert answer.name != one.voice.name
    assert 5 < sum(one.kept for one in items) < 35
    for one in items:
        assert 1 <= one.frames <= 3
        assert one.first + one.frames <= one.voice.true.shape[1]
    more = make_items(voices, pairs, 80, seed=1, **limits)
    assert [one.id for one in more[:60]] == [one.id for one in items]


@pytest.mark.slow  # three voices to be searched for
def test_presets_are_voices_whose_codes_are_recovered(whole):
    from mlx_voxclone.checkpoint.release import load_model

    release = Release(whole)
    model = load_model(release)
    heard = []
    found = preset_voices(release, model.audio_tokenizer, heard.append)
    assert sum(heard) == len(release.voices())
    for one in found:
        rows = release.voice(one.speaker).astype(mx.float32)
        made = model.voice_embedding(one.true)
        assert mx.abs(made - rows).max().item() < 0.05
        assert one.ours.shape == one.true.shape


def test_divergence_is_kullback_and_leiblers():
    a, b = (mx.array([[1.0, 2.0, -mx.inf], [0.0, 0.5, -mx.inf]]), mx.array([[0.0, 1.0, -mx.inf], [3.0, 0.5, -mx.inf]]))
    p, q = (np.exp(np.array(x)) / np.exp(np.array(x)).sum(-1, keepdims=True) for x in (a, b))
    want = (p[:, :2] * np.log(p[:, :2] / q[:, :2])).sum(-1)
    assert np.allclose(np.array(divergence(a, b)), want, atol=1e-6)


@pytest.mark.slow
def test_the_command_makes_adapters_and_goes_on_where_it_was(whole, encoder_file, tmp_path, monkeypatch, capsys):
    from commands import TINY_RUN

    monkeypatch.chdir(tmp_path)
    write_some(whole, tmp_path / "pairs")
    content = {"task": "distill", "model": str(whole), "speaker": TINY_RUN["speaker"]}
    content["distill"] = {"pairs": "pairs", "items": 6, "presets": False}  # these take seconds
    (tmp_path / "distill.yaml").write_text(yaml.safe_dump(content))
    assert voxclone(["train", "--config", "distill.yaml", "--quiet"]) == 0
    result = json.loads((tmp_path / "runs" / "distill" / "result.json").read_text())
    first, last = (result["evaluations"][k]["metrics"] for k in (0, -1))
    assert last["loss"] < first["loss"]
    _, adapter = load_adapters(tmp_path / "runs" / "distill" / "best")
    assert adapter.base_fingerprint == Release(whole).fingerprint()
    page = (tmp_path / "runs" / "distill" / "report" / "index.html").read_text()
    assert {"agreement", "hidden"} <= first.keys()
    assert "agreement" in page
    more = ["train", "--resume", "runs/distill", "--set", "speaker.train.steps=6", "--quiet"]
    assert voxclone(more) == 0
    assert voxclone(["train", "--config", "distill.yaml", "--set", "distill.pairs=null", "--set", "output=x"]) == 2
    assert "distill.pairs: missing" in capsys.readouterr().err
    assert voxclone(["train", "--config", "distill.yaml", "--set", "distill.pairs=gone", "--set", "output=x"]) == 2
    assert "gone does not exist" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
