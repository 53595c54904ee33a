"""The benchmark of the main job: what it compares, how it decides, and that it runs `voxclone train` and goes on."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks.speaking import main_job, main_job_tables
from benchmarks.speaking.ears import Ears
from benchmarks.speaking.main_job_tables import results, speaker_figures, tables
from benchmarks.speaking.profile import overrides
from benchmarks.speaking.score import Heard, agreement, gain, heldout_cases, summary
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.miniature.readings import HELDOUT, readings, write_sentences

pytest_plugins = ["commands"]
NAN = float("nan")


def outputs(edits, similarity):
    """Of texts of ten units each."""
    return [Heard(e, 10, s, 0.1, 0.02, True) for e, s in zip(edits, similarity, strict=True)]


def speaker(number, zero_shot, delivered):
    """What `MainJob.measured` finds, made up: everything but the two is right."""
    perfect = outputs([0] * len(zero_shot), [1.0] * len(zero_shot))
    heard = dict.fromkeys(main_job_tables.VOICES, perfect)
    heard |= {"zero_shot": zero_shot, "blind": zero_shot[::-1], "delivered": delivered}
    return {
        "number": number,
        "speaker": {"formant_scale": 1.1},
        "delivered": {"name": "adapted", "why": "nothing became worse"},
        "heard": {name: [asdict(one) for one in said] for name, said in heard.items()},
        "codes": {"recovered": {"semantic": 0.1 * number, "levels": 2.0}},
        "seconds": {"encoder": 10.0 * number, f"encoder-{number}": 4.0, "speaker": 5.0, "in all": 20.0},
    }


def test_a_clone_is_worse_or_better_only_beyond_noise():
    noise = np.random.default_rng(0).normal(0, 0.02, 12)
    before = outputs([1] * 12, 0.8 + noise)
    verdicts = {
        "alike": outputs([0, 2, 1] * 4, 0.805 + noise + np.tile([0.05, -0.05], 6)),
        "better": outputs([1] * 12, 0.9 + noise),
        "worse": outputs([4] * 12, 0.9 + noise),  # nearer, but not to be understood
    }
    for verdict, after in verdicts.items():
        assert speaker_figures(speaker(1, before, after))["verdicts"]["zero_shot"] == verdict
    assert speaker_figures(speaker(1, before, outputs([1] * 12, 0.7 + noise)))["verdicts"]["zero_shot"] == "worse"
    silent = [Heard(10, 10, NAN, 24.0, NAN, True)] * 12
    assert speaker_figures(speaker(1, before, silent))["verdicts"]["zero_shot"] == "worse"


def test_intervals_are_over_speakers():
    """Two speakers who differ, each always the same: over outputs the interval would be narrower."""
    heard = outputs([0] * 6, [0.5] * 6) + outputs([5] * 6, [0.9] * 6)
    found = summary(heard, each=6)
    assert found["similarity"] == pytest.approx(0.7)
    assert found["similarity_interval"] == pytest.approx([0.5, 0.9])
    assert found["unit_error_interval"] == pytest.approx([0.0, 0.5])
    assert summary(heard)["similarity_interval"][0] > 0.55
    assert summary(heard)["unit_error"] == found["unit_error"] == pytest.approx(0.25)
    half = [*outputs([0], [0.6]), Heard(10, 10, NAN, 24.0, NAN, False)]
    assert summary(half, each=2)["similarity"] == pytest.approx(0.6)
    assert gain(half, outputs([0, 0], [0.8, 0.8]), each=2)["similarity_gain"] == pytest.approx(0.2)


def test_agreement_counts_frames():
    a = np.zeros((37, 4), np.int32)
    b = a.copy()
    b[0, 0], b[1:, 1] = 7, 2
    assert agreement([(a, a), (a, b)]) == pytest.approx({"semantic": 7 / 8, "levels": 2 / 8})


def test_tables_have_a_row_for_everything_that_all_speakers_have():
    good, bad = outputs([1] * 4, [0.9] * 4), outputs([9] * 4, [0.2] * 4)
    report = results([speaker(1, good, bad), speaker(3, bad, good)], 4)
    assert report["worse"] == {"zero_shot": [1], "blind": [1]}
    assert report["better"] == {"zero_shot": [3], "blind": [3]}
    assert report["codes"]["recovered"]["semantic"] == pytest.approx(0.2)
    assert report["codes"]["recovered"]["semantic_interval"] == pytest.approx([0.1, 0.3])
    assert report["voices"]["delivered"]["similarity_interval"] == pytest.approx([0.2, 0.9])  # over speakers
    assert report["seconds"]["encoder"] == pytest.approx(20)
    assert report["seconds"]["encoder-3"] == pytest.approx(2)  # the first speaker had no such round
    assert report["gains"]["zero_shot"]["similarity_gain"] == pytest.approx(0)
    text = tables(report)
    assert all(f"| {title} |" in text for title in main_job_tables.VOICES.values())
    assert "judged codes" not in text
    assert "worse than zero-shot behind the user's clips: 1 of 2 speakers; better: 1" in text
    for table in text.split("\n\n")[:3]:  # markdown wants as many cells in each row
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_profile_has_lengths_and_rates_alone():
    allowed = (
        "train.",
        "refine.",
        "pairs.per_voice",  # so many minutes of speech; its sentences are short
        "lora.rank",
        "lora.alpha",
        "crop_seconds",
        "gain_db",
        "reference_seconds",
        "max_seconds",
    )
    for section in ("encoder", "speaker"):
        assert all(key.removeprefix(f"{section}.").startswith(allowed) for key in overrides(section))
    assert set(overrides("data")) == {"data.min_seconds", "data.trim_silence"}
    assert not overrides("bake", "distill")


def test_texts_that_are_scored_are_not_among_the_recordings():
    for number in range(16):
        recorded = {one.text for one in readings(HELDOUT + number, 1, main_job.CLIPS, 1)}
        scored = {one.text for one in heldout_cases(1, main_job.TEXTS, first=HELDOUT + number)[0].said}
        assert not recorded & scored


def test_texts_for_pairs_are_the_same_every_time(tmp_path):
    write_sentences(tmp_path / "a.txt", 4, 1)
    write_sentences(tmp_path / "b.txt", 4, 1)
    lines = (tmp_path / "a.txt").read_text().splitlines()
    assert lines == (tmp_path / "b.txt").read_text().splitlines()
    assert len(set(lines)) == 4


def test_the_round_that_a_run_has_kept():
    """The last one that was better than all before; the rounds end with the first that is not."""
    for nats, kept in (([], 1), ([3.0], 1), ([3.0, 2.5], 2), ([3.0, 3.1], 1), ([3.0, 2.5, 2.6], 2), ([NAN], 1)):
        assert main_job.last_round({"rounds": [{"heldout_nats": one} for one in nats]}) == kept
    path = Path("codes") / "judged.safetensors"
    assert main_job.of_round(path, 1) == path
    assert main_job.of_round(path, 3).name == "judged-3.safetensors"


@pytest.mark.slow
def test_the_job_in_the_small(tmp_path, monkeypatch):
    monkeypatch.setattr(main_job, "CLIPS", 12)
    monkeypatch.setattr(main_job, "TEXTS", 2)
    model, ears = make_micro(tmp_path / "model", "speaking"), Ears.load()
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path / "cache"))
    trainings = ("encoder.train", "encoder.refine", "speaker.train")
    short = {f"{training}.{key}": n for training in trainings for key, n in (("steps", 3), ("warmup_steps", 1))}
    short |= {"encoder.pairs.per_voice": 1, "encoder.pairs.moves": 1, "encoder.pairs.max_seconds": 3.0}
    short |= {"encoder.prior.presets": False, "judge.rounds": 1, "judge.check_texts": False}
    job = main_job.MainJob(model, tmp_path, ears, overrides=short)
    found = job.measured(1)
    assert {name: len(said) for name, said in found["heard"].items()} == dict.fromkeys(main_job_tables.VOICES, 2)
    assert found["codes"]["recovered"]["clips"] == 12
    assert 0 < found["codes"]["recovered"]["semantic"] < 0.5
    assert found["codes"]["judged"]["clips"] == 12
    said = json.loads(next(tmp_path.glob("cache/**/manifest.jsonl")).read_text().splitlines()[0])["text"]
    assert said in (tmp_path / "texts.txt").read_text().splitlines()
    report = results([found], 2)
    assert report["voices"]["codec"]["similarity"] > 0.9
    assert report["voices"]["withheld"]["similarity"] > report["voices"]["own"]["similarity"] + 0.2
    assert report["seconds"]["in all"] >= report["seconds"]["encoder"] > 0
    assert "| what the job delivers |" in tables(report)
    # What is there is used; by another configuration it is refused.
    monkeypatch.setattr(main_job, "voxclone", lambda argv: pytest.fail("trained again"))
    assert json.dumps(job.measured(1)) == json.dumps(found)
    other = main_job.MainJob(model, tmp_path, ears, overrides=short | {"speaker.lora.rank": 2})
    with pytest.raises(ConfigError, match=r"other values of speaker\.lora\.rank"):
        other.measured(1)
