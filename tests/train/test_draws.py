"""What the language model's tasks draw at random has the distribution that the method asks for; seeds are fixed.

Noise is standard normal and times are uniform by Kolmogorov and Smirnov's test; lengths reach both of their ends; what
is measured by is drawn apart from what is learnt from.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest
from speaker_made import SECTION, codes, utterance
from tasks_data import full_model

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.train.distill.data import DistillItem, TwiceCoded
from mlx_voxclone.train.distill.task import DistillTask
from mlx_voxclone.train.judge import judge as judging
from mlx_voxclone.train.judge.judge import CodeJudge, Evidence
from mlx_voxclone.train.speaker.adapted import AdaptedModel
from mlx_voxclone.train.speaker.preservation import Kept, KeptPairs
from mlx_voxclone.train.speaker.task import SpeakerData, SpeakerTask

LEAST = 1e-3  # probability below which a sample is not of its distribution; with the true one, fixed seeds stay above


@pytest.fixture(scope="module")
def model(miniature):
    return full_model(miniature)


@pytest.fixture(scope="module")
def tokenizer(miniature):
    return SpeechTokenizer(Release(miniature).tokenizer_path)


@pytest.fixture
def make(model, tokenizer):
    def build(train, heldout=(), kept=None, **section):
        chosen = SECTION.model_copy(update=section)
        heldout = list(heldout) or [utterance(4)]
        return SpeakerTask(AdaptedModel(model, tokenizer.prompt), SpeakerData(train, heldout, kept), chosen)

    return build


def kept_pairs(frames=20):
    rows = np.random.default_rng(7).standard_normal((6, 64)).astype(np.float32)
    one = Kept("kept", "words", codes(frames, 9), rows)
    return KeptPairs([one], [one], "these")


def voice_frames(task, item):
    """Of the reference, without END."""
    return int((item["ids"][: item["first"] + 1] == task.model.config.audio_token_id).sum()) - 1


def assert_drawn_as_asked(noise, time):
    assert kstest(noise.ravel(), "norm").pvalue > LEAST
    assert kstest(time.ravel(), "uniform").pvalue > LEAST
    assert noise.var() == pytest.approx(1, abs=0.03)
    flat = noise.reshape(len(noise), -1)
    assert abs(np.corrcoef(flat[:-1].ravel(), flat[1:].ravel())[0, 1]) < 0.05  # each for itself
    assert abs(np.corrcoef(np.abs(flat).mean(axis=1), time.ravel())[0, 1]) < 0.15


@pytest.mark.parametrize("index", [0, 1], ids=["learnt", "kept"])
def test_the_flow_of_a_speaker_is_learnt_from_normal_noise_at_uniform_times(make, index):
    task = make([utterance(1, 20)], kept=kept_pairs())
    items = [task.item(epoch, index) for epoch in range(40)]
    assert {item["kept"] for item in items} == {bool(index)}
    assert_drawn_as_asked(*(np.concatenate([item[key] for item in items]) for key in ("noise", "time")))


def test_the_flow_of_a_distillation_is_learnt_from_normal_noise_at_uniform_times(model, tokenizer, tmp_path):
    voice = TwiceCoded("v", "alto", codes(9, 1), codes(9, 2))
    said = codes(20, 3)
    item = DistillItem("i", voice, 1, 6, "words", said, False)
    task = DistillTask(AdaptedModel(model, tokenizer.prompt), [item], [item], cache=tmp_path)
    task.teacher.read = lambda number: np.zeros((1, 2, 64), np.float32)
    items = [task.item(epoch, 0) for epoch in range(40)]
    time = np.stack([item["time"] for item in items])
    points = np.stack([item["points"] for item in items])
    values = 2 * said[1:].T / 20 - 1
    noise = (points - time[..., None] * values) / (1 - time[..., None])  # where the path to the codes began
    assert_drawn_as_asked(noise.reshape(-1, 36), time)
    measured = next(iter(task.heldout_batches()))["time"]
    assert all((measured != task.item(epoch, 0)["time"]).all() for epoch in range(3))


def test_the_flow_is_judged_at_normal_noise_and_uniform_times(model, tokenizer, monkeypatch):
    seen = []

    def noticed(x1, x0, t):
        seen.append((np.array(x0), np.array(t)))
        return flow(x1, x0, t)

    flow = judging.flow_matching_targets
    monkeypatch.setattr(judging, "flow_matching_targets", noticed)
    evidence = Evidence("a", "words", np.zeros((0, 0), np.float32), codes(5, 1))
    CodeJudge(model, tokenizer.prompt).flow_losses([evidence], [codes(200, 2)])
    assert len(seen) == judging.FLOW_DRAWS
    assert_drawn_as_asked(*(np.concatenate(parts) for parts in zip(*seen)))


def test_no_hidden_state_is_dropped_of_what_is_kept(make):
    task = make([utterance(1, 20)], kept=kept_pairs())
    task.hidden_dropout = 0.9
    learnt, preserved = (np.concatenate([task.item(epoch, k)["drop"] for epoch in range(20)]) for k in (0, 1))
    assert learnt.mean() == pytest.approx(0.9, abs=0.05)
    assert not preserved.any()


def test_references_of_every_length_and_every_start_are_drawn(make):
    """5 to 10 frames are asked for; of a clip of 6 frames, 5 begin at its first or at its second."""
    task = make([utterance(1)])
    assert {voice_frames(task, task.item(epoch, 0)) for epoch in range(60)} == {5, 6, 7, 8, 9, 10}
    reference = codes(6, 3)
    task = make([replace(utterance(1), references=(reference,))], reference_seconds=[0.4, 0.4])
    starts = set()
    for epoch in range(20):
        voice = (task.item(epoch, 0)["codes"][:5] - 2).T
        starts |= {k for k in (0, 1) if (reference[:, k : k + 5] == voice).all()}
    assert starts == {0, 1}


def test_what_is_measured_by_is_drawn_apart_from_what_is_learnt_from(make):
    """The same clip on both sides: the measured one has noise of its own."""
    task = make([utterance(1, 20)], [utterance(1, 20)], kept_pairs())
    for k, batch in enumerate(task.heldout_batches()):
        for epoch in range(3):
            for key in ("noise", "time"):
                assert (getattr(batch, key) != task.item(epoch, k)[key]).all()
        frames = utterance(1, 20).codes if k == 0 else kept_pairs().heldout[0].codes
        np.testing.assert_array_equal(batch.codes[-20:], frames.T + 2)
    again = next(iter(task.heldout_batches()))
    np.testing.assert_array_equal(again.noise, next(iter(task.heldout_batches())).noise)


def test_another_length_and_another_order_are_another_training(make):
    one, two = utterance(1), utterance(2)
    longer = replace(one, codes=np.pad(one.codes, ((0, 0), (0, 1))))  # of the same sum
    prints = [make(train).fingerprint() for train in ([one, two], [two, one], [longer, two], [one, two])]
    assert len(set(prints)) == 3
    assert prints[0] == prints[3]
