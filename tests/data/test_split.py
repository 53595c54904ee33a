"""The held-out split by itself: whole recordings, something left to train on, stable as a corpus grows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_voxclone.data.split import Recording, hold_out


def recording(key: str, speaker: str = "anna", clips: int = 1, seconds: float = 5.0) -> Recording:
    return Recording(key, speaker, [f"{key}~{k}" for k in range(clips)], seconds)


recordings = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.floats(1, 600)), min_size=1, max_size=20
).map(lambda items: [recording(f"{k}", speaker, n, seconds) for k, (speaker, n, seconds) in enumerate(items)])


@given(recordings, st.floats(0.01, 0.95), st.integers(0, 5))
def test_recordings_stay_whole_and_both_sides_get_something(found, fraction, seed):
    held, _ = hold_out(found, fraction, seed=seed)
    everything = {clip for r in found for clip in r.clips}
    assert held < everything
    if len(found) > 1:
        assert held
        for r in found:
            assert set(r.clips) <= held or not held & set(r.clips)
    elif len(everything) > 1:
        assert held
        assert max(everything - held) < min(held)  # the last pieces
    assert (held, _) == hold_out(found[::-1], fraction, seed=seed)


@given(recordings, st.floats(0.05, 0.95))
def test_every_speaker_keeps_training_clips_if_there_are_enough(found, fraction):
    held, _ = hold_out(found, fraction)
    for speaker in {r.speaker for r in found}:
        own = [r for r in found if r.speaker == speaker]
        if len(own) > 1:
            assert not all(clip in held for r in own for clip in r.clips)


def test_the_fraction_is_of_the_seconds():
    found = [recording(f"{k}", seconds=1 + k % 7) for k in range(400)]
    for fraction in (0.05, 0.1, 0.3):
        held, notes = hold_out(found, fraction)
        seconds = sum(r.seconds for r in found if r.clips[0] in held)
        assert abs(seconds / sum(r.seconds for r in found) - fraction) < 0.01
        assert notes == []


def test_speakers_with_few_recordings_give_their_share_together():
    """The corpora of many readers: none of them has enough recordings for a twentieth."""
    found = [recording(f"{k}", f"s{k // 6}") for k in range(384)]
    held, _ = hold_out(found, 0.05)
    assert 17 <= len(held) <= 21
    assert len({r.speaker for r in found if r.clips[0] in held}) == len(held)  # one more of each, not all of a few
    # Those who can give nothing do not take it from the others.
    single = [recording(f"x{k}", f"t{k}") for k in range(200)]
    held, _ = hold_out([*found, *single], 0.05)
    per_speaker = [sum(r.clips[0] in held for r in found if r.speaker == f"s{k}") for k in range(64)]
    assert max(per_speaker) == 1
    assert 25 <= sum(per_speaker) <= 31  # a twentieth of all 584


def test_speakers_held_out_and_nothing_else_at_fraction_0():
    found = [recording(f"{k}", "abc"[k % 3]) for k in range(9)]
    assert hold_out(found, 0, ["b"]) == ({clip for r in found if r.speaker == "b" for clip in r.clips}, [])
    held, _ = hold_out(found, 0.34, ["b"])
    assert sum(clip in held for r in found if r.speaker == "a" for clip in r.clips) == 1


def marked(*splits: str | None) -> list[Recording]:
    return [Recording(f"{k}", "anna", [f"{k}~0"], 5.0, split) for k, split in enumerate(splits)]


def test_what_is_marked_as_held_out_is_all_that_is():
    assert hold_out(marked("train", "heldout", *[None] * 20), 0.3) == ({"1~0"}, [])
    assert hold_out(marked("train", "heldout", *[None] * 20), 0.0) == ({"1~0"}, [])


@given(st.lists(st.sampled_from(["train", None]), min_size=2, max_size=12), st.floats(0.01, 0.95), st.integers(0, 5))
def test_what_is_marked_for_training_stays_there(splits, fraction, seed):
    held, notes = hold_out(marked(*splits), fraction, seed=seed)
    assert not held & {f"{k}~0" for k, split in enumerate(splits) if split == "train"}
    assert bool(held) == (None in splits)
    assert bool(notes) == (None not in splits)


def test_a_recording_is_held_out_where_half_of_it_still_fits():
    """So that a long one is as likely as a short one to be drawn, and the sum is nearest to its target."""
    found = [recording("long", seconds=10.0), *(recording(f"short {k}", seconds=2.0) for k in range(10))]
    held = [hold_out(found, 0.2, seed=seed)[0] for seed in range(200)]  # 6 of 30 s
    share = np.mean(["long~0" in clips for clips in held])
    assert 0.04 < share < 0.16  # it is held where it comes first: once in eleven times
    assert {len(clips) for clips in held} == {1, 3}


def test_what_few_recordings_leave_is_given_to_within_half_of_one():
    """Speakers of six recordings of 1 s, of which a twentieth is wanted."""
    for count in range(2, 60):
        found = [recording(f"{k}", f"s{k // 6}", seconds=1.0) for k in range(6 * count)]
        assert abs(len(hold_out(found, 0.05)[0]) - 0.3 * count) <= 0.5 + 1e-9
