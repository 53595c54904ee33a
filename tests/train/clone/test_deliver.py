"""What a run delivers: candidates compared clip by clip, voices by likelihood."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from mlx_voxclone.errors import DataError
from mlx_voxclone.train.clone import deliver
from mlx_voxclone.train.clone.deliver import ADAPTED, ZERO_SHOT, Measured, choose, main_speaker, worse
from mlx_voxclone.train.clone.voice import Scored, Voice, candidates, ranked_voices, voice_losses

VOICE = Voice("a.wav", np.zeros((37, 3), np.int32))
N = 12


def measured(name: str, seed: int = 0, **shift: float) -> Measured:
    rng = np.random.default_rng(seed)
    figures = ("code_loss", "unexplained", "voice_distance", "not_ended")
    return Measured(name, VOICE, {f: rng.normal(1.0, 0.02, N) + shift.get(f, 0.0) for f in figures})


def test_worse_needs_more_than_two_standard_errors():
    base, noise = np.zeros(N), np.random.default_rng(1).normal(0, 1, N)
    noise -= noise.mean()
    error = noise.std(ddof=1) / np.sqrt(N)
    assert not worse(base + noise + 1.9 * error, base)
    assert worse(base + noise + 2.1 * error, base)
    assert not worse(base - 5, base)
    assert not worse(base, base)
    assert not worse(np.full(N, np.nan), base)


@pytest.mark.parametrize("figure", ["unexplained", "voice_distance", "not_ended"])
def test_adapters_that_spoil_something_are_not_delivered(figure):
    chosen, why = choose(measured(ZERO_SHOT), measured(ADAPTED, 1, code_loss=-0.5, **{figure: 0.3}), 0.0, 0.1)
    assert chosen.name == ZERO_SHOT
    assert figure in why


def test_adapters_that_predict_the_recordings_better_are_delivered():
    chosen, why = choose(measured(ZERO_SHOT), measured(ADAPTED, 0, code_loss=-0.5), 0.05, 0.1)
    assert chosen.name == ADAPTED
    assert "better" in why


def test_adapters_that_bring_nothing_or_change_the_models_voices_are_not_delivered():
    for change in (0.01, 0.0):
        assert choose(measured(ZERO_SHOT), measured(ADAPTED, 0, code_loss=change), None, 0.1)[0].name == ZERO_SHOT
    chosen, why = choose(measured(ZERO_SHOT), measured(ADAPTED, 0, code_loss=-0.5), 0.2, 0.1)
    assert chosen.name == ZERO_SHOT
    assert "0.200 nats (limit 0.1)" in why


@dataclass
class Source:
    id: str

    @property
    def source(self) -> str:
        return f"{self.id}.wav"


def test_candidates_are_clips_alone_and_joined_up_to_the_longest_prompt():
    codes = {str(k): np.full((37, 10 + k), k, np.int32) for k in range(30)}
    clips = [Source(name) for name in codes]
    found = candidates(clips, codes, 12.5, 6.0, seed=3)
    assert max(voice.codes.shape[1] for voice in found) <= 75
    alone = [voice for voice in found if voice.source]
    assert [voice.codes.shape[1] for voice in alone] == [*range(39, 31, -1)]  # the eight longest
    for voice in alone:
        assert (voice.codes == codes[voice.source.removesuffix(".wav")]).all()
    joined = [voice for voice in found if voice.source is None]
    assert all(voice.codes.shape[1] == 75 for voice in joined)
    assert len({voice.codes.tobytes() for voice in joined}) > 1
    again = candidates(clips, codes, 12.5, 6.0, seed=3)
    assert [voice.name for voice in again] == [voice.name for voice in found]


def test_one_short_clip_is_a_candidate():
    codes = {"a": np.zeros((37, 5), np.int32)}
    assert [voice.codes.shape[1] for voice in candidates([Source("a")], codes, 12.5, 25.0)] == [5]


class Likelihoods:
    """A judge to which the voice's first code is the loss of every clip."""

    def nats(self, evidence, codes):
        return np.array([float(one.voice[0, 0]) for one in evidence])

    def flow_losses(self, evidence, codes):
        return np.array([float(one.voice[1, 0]) for one in evidence])


def test_voices_are_ordered_by_how_likely_held_out_clips_are_behind_them():
    heldout = [Scored("papa", np.zeros((37, 4), np.int32))] * 3
    voices = []
    for semantic, flow in ((3, 0), (1, 2), (2, 1)):
        codes = np.zeros((37, 2), np.int32)
        codes[0], codes[1] = semantic, flow
        voices.append(Voice(f"{semantic}{flow}", codes))
    done = []
    assert [voice.name for voice in ranked_voices(Likelihoods(), voices, heldout, done.append)] == ["12", "21", "30"]
    assert done == [1, 1, 1]
    assert voice_losses(Likelihoods(), voices[1], heldout, 1.0, 10.0).tolist() == [21.0] * 3


def test_of_the_likeliest_voices_the_one_whose_speech_follows_its_text_is_taken(monkeypatch):
    """The likeliest is first; the last one would speak best, but held-out clips are too unlikely behind it."""
    explained = [0.3, 0.2, 0.4, 0.25, 0.1]
    voices = [Voice(str(k), np.zeros((37, 3), np.int32)) for k in range(5)]
    heard = [Scored("papa", np.zeros((37, 4), np.int32))]
    monkeypatch.setattr(deliver, "ranked_voices", lambda judge, found, by, progress: voices if by is heard else [])
    monkeypatch.setattr(deliver, "voice_losses", lambda judge, voice, *args: np.full(3, float(voice.name)))
    bench = object.__new__(deliver._Bench)
    section = SimpleNamespace(losses=SimpleNamespace(semantic=1.0, flow=10.0))
    bench.config, bench.judge, bench.scored, bench.texts = SimpleNamespace(speaker=section), None, [], ["a", "b"]
    bench.encoded, spoken, done = heard, [], []
    bench._spoken = lambda voice: spoken.append(voice.name) or {"unexplained": np.full(2, explained[int(voice.name)])}
    chosen = bench.measure(ADAPTED, voices, done.append)
    assert spoken == ["0", "1", "2", "3"]
    assert (chosen.voice.name, chosen.name, sum(done)) == ("1", ADAPTED, 8)
    assert chosen.values["code_loss"].tolist() == [1.0] * 3
    assert chosen.figures() == {"name": ADAPTED, "voice": "1", "code_loss": 1.0, "unexplained": 0.2}


@pytest.mark.parametrize(("longest", "expected"), [(10.0, (25.0, 10.0)), (30.0, (30.0, 30.0))])
def test_without_adapters_a_voice_may_be_longer_than_those_that_adapters_learnt_from(longest, expected):
    config = SimpleNamespace(speaker=SimpleNamespace(reference_seconds=[3.0, longest]))
    assert tuple(deliver.longest_prompt(config, adapted) for adapted in (False, True)) == expected


@pytest.mark.parametrize("texts", [["papa", "mino lesu", "kake"], ["papa"] * 3])
def test_what_a_text_does_not_explain_is_measured_against_another_text(texts):
    class Judge:
        def nats(self, evidence, codes):
            own = {3: texts[0], 2: texts[2]}  # by the length of what was said
            return np.array([1.0 if one.text == own[c.shape[1]] else 4.0 for one, c in zip(evidence, codes)])

    bench = object.__new__(deliver._Bench)
    bench.judge, bench.model = Judge(), SimpleNamespace(modules=list)
    codes = [np.zeros((37, n), np.int32) for n in (3, 0, 2)]
    share = bench._unexplained(VOICE, texts, codes)
    if len(set(texts)) == 1:
        assert share is None  # there is nothing to compare with
    else:
        assert share.tolist() == [0.25, 1.0, 0.25]  # nothing was said: nothing is explained


@dataclass
class Spoken:
    speaker: str
    seconds: float


def test_a_voice_is_that_of_the_speaker_with_most_speech():
    data = SimpleNamespace(train=[Spoken("bob", 3.0), Spoken("ann", 2.0), Spoken("ann", 2.0)], heldout=[])
    assert main_speaker(data) == "ann"
    with pytest.raises(DataError, match="no clip to take the voice from"):
        main_speaker(SimpleNamespace(train=[], heldout=[]))
