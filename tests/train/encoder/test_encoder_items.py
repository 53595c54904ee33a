"""What the encoder learns from: crops of recordings and of pairs, their mixture over time, their batches."""

import numpy as np
import pytest
from pairs_on_disk import load_some
from tasks_data import clip

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.pairs.data import Pair
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.train.encoder.items import CONTEXT_FRAMES, EncoderItems
from mlx_voxclone.train.loop.heldout import spread

CLIPS = [clip(0), clip(1), clip(2, 7000)]
HELD = [clip(4, 15000)]
FRAME = 1920


@pytest.fixture(scope="module")
def pairs(miniature, tmp_path_factory):
    return load_some(miniature, tmp_path_factory.mktemp("pairs") / "p", augmented=True)


def items(miniature, pairs=None, states=None, **section):
    own = {"dispersed": 0.0} | {k: section.pop(k) for k in ("augmented", "dispersed") if k in section}
    pair_keys = {k: section.pop(k) for k in ("share", "alone_steps") if k in section}
    section = EncoderSection(crop_seconds=0.48, pairs=pair_keys, **section)
    made = EncoderItems(CLIPS, HELD, pairs, section, Release(miniature).config.codec, 3, states)
    for name, value in own.items():
        setattr(made, name, value)
    return made


def drawn(made, step=0, epochs=20):
    return [made.item(epoch, index, step) for epoch in range(epochs) for index in range(len(made))]


def clean(pairs, item):
    """What a crop of a pair would be if nothing changed it: found by its codes. And its first frame."""
    pair = next(pair for pair in pairs.pairs if item["id"] == f"pair {pair.id}")
    frames = item["codes"].shape[1]
    starts = [k for k in range(pair.frames - frames + 1) if (pair.codes[:, k : k + frames] == item["codes"]).all()]
    assert len(starts) == 1
    return pair.read()[starts[0] * FRAME : (starts[0] + frames) * FRAME], starts[0]


def test_a_crop_of_a_pair_has_the_codes_of_its_own_samples(miniature, pairs):
    made = items(miniature, pairs, share=1.0, augmented=0.0)
    for item in drawn(made, epochs=10):
        audio, start = clean(pairs, item)
        assert len(item["waveform"]) == item["codes"].shape[1] * FRAME <= made.crop
        assert (item["waveform"] == audio).all()
        assert item["skip"] == (CONTEXT_FRAMES if start else 0)


def test_a_crop_reads_no_more_than_itself(miniature, pairs, monkeypatch):
    """Of recordings, with judged codes and without, and of pairs."""
    read, asked = Pair.read, []

    def part(self, augmented=False, start=0, stop=None):
        asked.append((start, stop))
        return read(self, augmented, start, stop)

    monkeypatch.setattr(Pair, "read", part)
    monkeypatch.setattr(
        type(CLIPS[0]), "read", lambda self, start=0, stop=None: asked.append((start, stop)) or self.wave[start:stop]
    )
    judged = {one.id: np.zeros((37, -(-one.samples // FRAME)), np.int32) for one in CLIPS}
    made = items(miniature, pairs, share=0.5)
    made._judged = judged
    assert len(drawn(made)) == len(asked)
    assert all(stop - start <= made.crop for start, stop in asked)


def test_pairs_keep_their_level_and_recordings_do_not(miniature, pairs):
    made = items(miniature, pairs, share=0.5, augmented=0.0, gain_db=[6.0, 6.0])
    for item in drawn(made):
        if "codes" in item:
            assert (item["waveform"] == clean(pairs, item)[0]).all()
    gained = items(miniature, gain_db=[6.0, 6.0]).item(0, 0, 0)["waveform"]
    plain = items(miniature, gain_db=[0.0, 0.0]).item(0, 0, 0)["waveform"]
    assert np.allclose(gained, plain * 10**0.3, atol=1e-6)


def test_what_is_heard_as_if_recorded_keeps_its_codes(miniature, pairs):
    made = items(miniature, pairs, share=1.0, augmented=0.5)
    halved = [np.allclose(2 * i["waveform"], clean(pairs, i)[0], atol=1e-6) for i in drawn(made)]
    same = [np.array_equal(i["waveform"], clean(pairs, i)[0]) for i in drawn(made)]
    assert all(a != b for a, b in zip(halved, same))
    assert 0.3 < np.mean(halved) < 0.7


def test_phases_change_on_the_way_in_alone(miniature, pairs):
    listed = drawn(items(miniature, pairs, share=1.0, augmented=0.0, dispersed=0.5))
    both = [(item["waveform"], clean(pairs, item)[0]) for item in listed]
    same = [np.array_equal(*pair) for pair in both]
    assert 0.3 < np.mean(same) < 0.7
    for pair in (pair for pair, alike in zip(both, same) if not alike):
        inner = slice(FRAME // 4, -FRAME // 4)  # what the ends lose
        energies = [np.square(audio[inner]).sum() for audio in pair]
        assert energies[0] == pytest.approx(energies[1], rel=0.2)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_pairs(miniature, pairs, share):
    found = np.mean(["codes" in item for item in drawn(items(miniature, pairs, share=share), epochs=60)])
    assert abs(found - share) < (0.08 if 0 < share < 1 else 1e-9)


def test_pairs_alone_come_first(miniature, pairs):
    made = items(miniature, pairs, share=0.0, alone_steps=5)
    assert all("codes" in item for item in drawn(made, step=4))
    assert not any("codes" in item for item in drawn(made, step=5))


def test_long_pairs_are_drawn_as_often_as_their_length_says(miniature, pairs):
    made = items(miniature, pairs, share=1.0)
    counts = {f"pair {pair.id}": 0 for pair in pairs.train}
    for item in drawn(made, epochs=100):
        counts[item["id"]] += 1
    crops = {f"pair {pair.id}": -(-pair.frames // made.frames) for pair in pairs.train}
    total = sum(crops.values())
    for name, count in counts.items():
        assert count / sum(counts.values()) == pytest.approx(crops[name] / total, abs=0.05)


def test_held_out_pairs_never_train(miniature, pairs):
    held = {f"pair {pair.id}" for pair in pairs.heldout}
    made = items(miniature, pairs, share=1.0)
    assert held
    assert not held & {item["id"] for item in drawn(made)}


def test_items_are_the_same_again(miniature, pairs):
    a, b = (items(miniature, pairs, dispersed=0.5, quantisation_noise=True).item(2, 1, 7) for _ in range(2))
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[k], b[k]) for k in a if k not in ("quantisation", "id"))
    assert a["id"] == b["id"]


def test_a_batch_of_both_kinds(miniature, pairs):
    made = items(miniature, pairs, share=0.5)
    listed = drawn(made, epochs=3)
    batch = made.collate(listed)
    coded = [k for k, item in enumerate(listed) if "codes" in item]
    assert batch["coded"] == coded
    assert 0 < len(coded) < len(listed)
    assert batch["waveform"].shape == (len(listed), made.crop)
    assert batch["codes"].shape == (len(coded), 37, made.frames)
    assert batch["codes"].dtype == np.int32
    for row, k in enumerate(coded):
        n = listed[k]["codes"].shape[1]
        assert batch["coded_frames"][row] == n
        assert (batch["codes"][row, :, :n] == listed[k]["codes"]).all()
        assert (batch["codes"][row, :, n:] == 0).all()
    alone = made.collate([item for item in listed if "codes" not in item])
    assert "codes" not in alone


def test_states_of_the_teacher_are_of_the_crop(miniature, pairs):
    asked = []

    def states(clip, start, frames):
        asked.append((clip.id, start, frames))
        return None if clip.id == "clip1" else np.full((frames, 8), start, np.float32)

    made = items(miniature, pairs, states, share=0.3, gain_db=[0.0, 0.0])
    listed = drawn(made, epochs=4)
    assert len(asked) == len(listed)
    for item, (name, start, frames) in zip(listed, asked):
        assert frames == -(-len(item["waveform"]) // FRAME)
        if "codes" in item:
            _, first = clean(pairs, item)
            assert (f"pair {name}", start, frames) == (item["id"], first * FRAME, item["codes"].shape[1])
        else:
            source = next(c for c in CLIPS if c.id == name)
            assert (source.wave[start : start + len(item["waveform"])] == item["waveform"]).all()
    batch = made.collate(listed)
    understood = [k for k, item in enumerate(listed) if item.get("teacher") is not None]
    assert batch["taught"] == understood
    assert 0 < len(understood) < sum("teacher" in item for item in listed)
    assert batch["teacher"].shape == (len(understood), made.frames, 8)
    assert {"teacher"} & next(iter(made.heldout_pairs(2))).keys() == set()


def test_held_out_batches_are_clean_and_whole(miniature, pairs):
    made = items(miniature, pairs, augmented=1.0, dispersed=1.0)
    seen = np.concatenate([b["waveform"] for b in made.heldout_clips(2)])
    assert (seen[0] == HELD[0].wave[: made.crop]).all()
    batches = list(made.heldout_pairs(2))
    assert sum(sum(b["coded_frames"]) for b in batches) == sum(pair.frames for pair in pairs.heldout)
    whole = {pair.id: np.pad(pair.read(), (0, made.crop)) for pair in pairs.heldout}
    crops = [wave[k * made.crop :][: made.crop] for wave in whole.values() for k in range(len(wave) // made.crop)]
    assert all(any((wave == crop).all() for crop in crops) for b in batches for wave in b["waveform"])
    assert not any("step" in b for b in batches)
    assert list(items(miniature).heldout_pairs(2)) == []


def test_spread_takes_from_the_whole_list():
    assert spread(list(range(5)), 8) == [0, 1, 2, 3, 4]
    assert spread(list(range(100)), 4) == [0, 25, 50, 75]


def test_half_of_the_items_of_a_judged_recording_teach_its_codes(miniature):
    config, recording = Release(miniature).config.codec, clip(0, 12 * FRAME)
    codes = {recording.id: np.random.default_rng(0).integers(0, 21, (37, 12)).astype(np.int32)}
    section = EncoderSection(crop_seconds=0.48, gain_db=[6.0, 6.0])
    made = EncoderItems([recording, clip(1)], HELD, None, section, config, 3, judged=codes)
    own = [item for item in drawn(made, epochs=100) if item["id"] == recording.id]
    coded = [item for item in own if "codes" in item]
    assert 0.4 < len(coded) / len(own) < 0.6
    assert not any("codes" in item for item in drawn(made, epochs=5) if item["id"] != recording.id)
    for item in coded:  # its own samples behind these codes, at their own level
        frames = item["codes"].shape[1]
        wave, whole = recording.read(), codes[recording.id]
        starts = [k for k in range(13 - frames) if (whole[:, k : k + frames] == item["codes"]).all()]
        assert [k for k in starts if (wave[k * FRAME : (k + frames) * FRAME] == item["waveform"]).all()]
