"""A batch that sequences join and leave: every one's codes are those it gets alone."""

import numpy as np
import pytest

from mlx_voxclone.model import generation
from mlx_voxclone.model.flow_head import INVALID_CODE, FlowMatchingHead
from mlx_voxclone.model.running import RunningBatch
from mlx_voxclone.speech.speaker import Speaker

FRAMES = 14
SEEDS = range(10, 15)


@pytest.fixture(scope="module")
def speaker(miniature):
    return Speaker.load(miniature)


@pytest.fixture(scope="module")
def prompts(speaker):
    """Of unequal lengths."""
    words = ["papa", "mino lesu tara koni", "a", "sewu papa mino lesu tara koni papa mino", "lesu tara ko"]
    voices = [speaker.voice_rows(name) for name in speaker.voices]
    made = []
    for k, text in enumerate(words):
        rows = voices[k % len(voices)]
        made.append(speaker.model.embed_prompt(speaker.tokenizer.prompt(text, rows.shape[0]), rows)[0])
    assert len({prompt.shape[0] for prompt in made}) == len(made)
    return made


def alone(speaker, prompt, seed) -> np.ndarray:
    """`[37, T]`, T at most FRAMES, by `generate`."""
    return frames_of(list(generation.generate(speaker.model, prompt[None], max_frames=FRAMES, seed=seed)))


def frames_of(frames) -> np.ndarray:
    return np.array(frames, dtype=np.int32).reshape(-1, 37).T


def test_those_that_come_and_go_are_as_alone(speaker, prompts):
    """They join at other frames, the longest prompt among the last, leave in the middle, and the batch runs empty."""
    batch, said = RunningBatch(speaker.model), {}
    joins = {0: [0, 1], 3: [2], 5: [3], 40: [4]}  # frame: sequences
    for frame in range(60):
        for k in joins.get(frame, ()):
            batch.join(k, prompts[k], seed=SEEDS[k])
            said[k] = []
            assert k in batch
        step = batch.step()
        assert not step.damaged
        for k, codes in step.frames.items():
            said[k].append(codes)
        batch.leave([k for k in step.frames if len(said[k]) == FRAMES] + ["a key that has left"])
    assert len(batch) == 0
    for k, prompt in enumerate(prompts):
        np.testing.assert_array_equal(frames_of(said[k]), alone(speaker, prompt, SEEDS[k]))
    assert sum(len(frames) == FRAMES for frames in said.values()) >= 3


def test_the_columns_of_those_gone_go_too(speaker, prompts):
    batch = RunningBatch(speaker.model)
    batch.join("long", prompts[3], seed=0)
    batch.join("short", prompts[2], seed=0)
    for _ in range(4):
        batch.step()
    batch.leave(["long"])
    assert batch._cache[0].offset == prompts[2].shape[0] + 4
    assert [layer.keys.shape[0] for layer in batch._cache] == [1] * len(batch._cache)


def test_who_ends_or_breaks_leaves_and_nobody_else(speaker, prompts, monkeypatch):
    decode, calls = FlowMatchingHead.decode_frame, []

    def decoded(self, hidden, *arguments):
        codes = decode(self, hidden, *arguments)
        if hidden.shape[0] == 3:
            calls.append(1)
            if len(calls) == 2:
                codes[0, 0] = generation.END_CODE
                codes[2, 5] = INVALID_CODE
        return codes

    monkeypatch.setattr(FlowMatchingHead, "decode_frame", decoded)
    batch = RunningBatch(speaker.model)
    for k in range(3):
        batch.join(k, prompts[k], seed=k)
    said, steps = [], []
    for _ in range(FRAMES):
        steps.append(batch.step())
        said.append(steps[-1].frames[1])
    assert [step.ended for step in steps[:4]] == [[], [], [0], []]
    assert [step.damaged for step in steps[:4]] == [[], [], [2], []]
    monkeypatch.undo()
    np.testing.assert_array_equal(frames_of(said), alone(speaker, prompts[1], 1))


def test_nothing_in_it(speaker):
    batch = RunningBatch(speaker.model)
    step = batch.step()
    assert (step.frames, step.ended, step.damaged, len(batch)) == ({}, [], [], 0)
    batch.leave([1])
