"""Odd recordings and clips by name."""

import numpy as np
import pytest

from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.ingest import Plan
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.data.recording.remarks import Remarks
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise

TEXT = "papa mino nalu wera koni lesu tara. "


def test_lines_name_three():
    remarks = Remarks()
    assert remarks.lines() == []
    for k in range(4):
        remarks.add(f"{k}.wav", Plan([(0.0, 1.0)], 1.0, 1.0, notes=("one",)))
    remarks.add(
        "long.wav", Plan([(0.0, 9.0), (9.0, 20.0)], 1.0, 20.0, together=(1,)), ["long~001.flac", "long~002.flac"]
    )
    remarks.add("short.wav", Plan([(0.0, 9.0)], 1.0, 9.0, together=(0,)), ["short.flac"])
    first, second = remarks.lines()
    assert first.startswith("4 recordings: one of the two channels")
    assert first.endswith("(0.wav, 1.wav, 2.wav, ...)")
    assert second.startswith("2 clips: something else with a pitch sounds beside the voice")
    assert second.endswith("(long~002.flac, short.wav)")


@pytest.mark.slow
def test_music_under_a_recording_is_told_by_name(tmp_path):
    said = {
        name: synthesise(TEXT * 2, SyntheticSpeaker.sample(0), k) for k, name in enumerate(("dry", "music", "more"))
    }
    times = np.arange(len(said["music"])) / SAMPLE_RATE
    chord = sum(np.sin(2 * np.pi * pitch * k * times) / k for pitch in (220.0, 277.2, 329.6) for k in range(1, 6))
    level = np.sqrt(np.mean(said["music"] ** 2) / np.mean(chord**2))
    said["music"] = said["music"] + np.float32(0.5 * level) * chord.astype(np.float32)
    (tmp_path / "r").mkdir()
    for name, samples in said.items():
        write_wav(tmp_path / "r" / f"{name}.wav", 0.5 * samples)
    report = prepare(tmp_path / "r", tmp_path / "out")
    (told,) = [note for note in report.notes if "something else" in note]
    assert told.startswith("1 clip: ")
    assert told.endswith("(music.wav)")
    assert len(PreparedData.load(tmp_path / "out").clips) == 3  # they are kept


def test_of_a_long_recording_the_clip_is_named(tmp_path):
    quiet = np.zeros(SAMPLE_RATE, np.float32)
    said = [synthesise(TEXT * 2, SyntheticSpeaker.sample(0), k) for k in range(3)]
    times = np.arange(len(said[1])) / SAMPLE_RATE
    chord = sum(np.sin(2 * np.pi * pitch * k * times) / k for pitch in (220.0, 277.2, 329.6) for k in range(1, 6))
    said[1] = said[1] + (0.5 * said[1].std() / chord.std() * chord).astype(np.float32)
    write_wav(tmp_path / "a.wav", 0.5 * np.concatenate([part for one in said for part in (one, quiet)]))
    longest = 1.2 * max(map(len, said)) / SAMPLE_RATE
    report = prepare(tmp_path / "a.wav", tmp_path / "out", PrepareOptions(max_seconds=longest, heldout=0.3))
    (told,) = [note for note in report.notes if "something else" in note]
    starts = {clip.path.name: clip.start for clip in PreparedData.load(tmp_path / "out").clips}
    named = told[told.rindex("(") + 1 : -1].split(", ")
    first, last = len(said[0]) / SAMPLE_RATE, (len(said[0]) + len(said[1])) / SAMPLE_RATE + 1
    assert named
    assert all(first - 0.5 <= starts[name] <= last + 0.5 for name in named)
