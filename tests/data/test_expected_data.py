"""What a run's clips will be, predicted from headers, against what `prepare` makes of the same recordings."""

import json

import numpy as np
import pytest
from recordings import folder_of, silence, talk

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.data.clips import Clip, PreparedData
from mlx_voxclone.data.expected import expected_data
from mlx_voxclone.data.options import LETTERS_PER_SECOND, PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.errors import DataError


def described(data: PreparedData) -> dict[str, list]:
    """Recordings, lengths and texts of each side."""

    def lines(clips: list[Clip]) -> list[tuple]:
        return sorted((clip.source.rpartition("/")[2], round(clip.seconds, 3), clip.text) for clip in clips)

    return {"train": lines(data.train), "heldout": lines(data.heldout)}


@pytest.fixture
def recordings(tmp_path):
    """Twelve with texts but for one, of three lengths, of one speaker."""
    folder = folder_of(tmp_path / "r", **{f"{k:02d}": talk(1.5 + k % 3, k) for k in range(12)})
    for k in range(11):
        (folder / f"{k:02d}.txt").write_text(f"Words number {k}.")
    return folder


def test_as_they_will_be_prepared(recordings, tmp_path):
    options = PrepareOptions(trim_silence=False, heldout=0.2)
    prepare(recordings, tmp_path / "out", options)
    made = PreparedData.load(tmp_path / "out")
    found, note = expected_data(recordings, options)
    assert described(found) == described(made)
    assert len(found.heldout) > 1
    assert found.speakers == made.speakers
    assert note == "0.5 min in 12 clips"
    again, _ = expected_data(tmp_path / "out", options)
    assert (again.train, again.heldout) == (made.train, made.heldout)
    for data in (found, made):  # who gives a clip its voice prompt
        assert all(len(data.references(clip)) == len(data.train) - 1 for clip in data.train)
        assert all(clip not in data.references(clip) for clip in data.heldout)


def test_long_recordings_without_a_text_are_cut_and_those_with_one_left_out(tmp_path):
    folder = folder_of(tmp_path / "r", a=talk(5.0), b=talk(31.0, 1), c=talk(1.0, 2), d=talk(0.5, 3))
    (folder / "b.txt").write_text("Too long to be cut.")
    options = PrepareOptions(max_seconds=2.0, min_seconds=1.0)
    found, _ = expected_data(folder, options)
    assert [(c.source[-5:], round(c.seconds, 2)) for c in found.clips if "a.wav" in c.source] == [("a.wav", 1.67)] * 3
    assert {clip.source[-5:] for clip in found.clips} == {"a.wav", "c.wav"}
    assert {clip.text for clip in found.clips} == {None}
    heard, _ = expected_data(folder, PrepareOptions(max_seconds=2.0, transcribe=True))
    assert all(abs(len(clip.text) - LETTERS_PER_SECOND * clip.seconds) <= 1 for clip in heard.clips)


def test_speakers_and_sides_of_a_manifest(tmp_path):
    lines = []
    for k in range(6):
        write_wav(tmp_path / f"{k}.wav", talk(1.0 + k, k))
        lines.append({"audio": f"{k}.wav", "text": "Words.", "speaker": "ann" if k < 4 else "bob"})
        lines[-1] |= {"split": "heldout"} if k == 2 else {}
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found, _ = expected_data(tmp_path / "m.jsonl", PrepareOptions(speaker="ann"))
    assert [clip.source[-5:] for clip in found.heldout] == ["2.wav"]
    assert found.speakers == ["ann"]
    both, _ = expected_data(tmp_path / "m.jsonl", PrepareOptions(heldout_speakers=["bob"]))
    assert {clip.speaker for clip in both.heldout} == {"ann", "bob"}


@pytest.mark.parametrize("path", [None, "nowhere", "https://host/shards", "hf://datasets/ann/speech"])
def test_where_nothing_can_be_looked_at(path):
    found, note = expected_data(path, PrepareOptions())
    assert note == "20 min assumed"
    assert found.hours == pytest.approx(20 / 60)
    assert len(found.heldout) == pytest.approx(0.1 * len(found.clips), abs=2)
    assert all(clip.text for clip in found.clips)


def test_nothing_that_could_be_used(tmp_path):
    folder = folder_of(tmp_path / "r", a=silence(0.2), b=np.zeros(10, np.float32))
    with pytest.raises(DataError, match="none of its recordings can be used"):
        expected_data(folder, PrepareOptions())
