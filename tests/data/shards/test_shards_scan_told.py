"""An index of shards that others have made: who speaks in them, and which parts are left out."""

import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from recordings import folder_of, rejections, silence, talk

from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.data.shards.data import ShardData


def packed(folder: Path, path: Path) -> Path:
    """A tar shard of the recordings in a folder."""
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for recording in sorted(folder.rglob("*.wav")):
            tar.add(recording, recording.relative_to(folder))
    return path


@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_speakers_that_are_named_by_folders_are_found_however_they_are_composed(tmp_path, asked):
    zoe, jose = (unicodedata.normalize("NFD", name) for name in ("Zoë", "José"))
    folder_of(tmp_path / "r", a=talk(2))
    folder_of(tmp_path / "r" / zoe, b=talk(2, 1), c=talk(2, 2))
    place = packed(tmp_path / "r", tmp_path / jose / "x.tar").parent
    prepare(place, tmp_path / "all", PrepareOptions(heldout=0))
    assert ShardData(tmp_path / "all").speakers == ["José", "Zoë"]
    name = unicodedata.normalize(asked, "Zoë")
    report = prepare(place, tmp_path / "one", PrepareOptions(speaker=name, heldout=0))
    assert {name: own["clips"] for name, own in report.speakers.items()} == {"Zoë": 2}


def test_parts_that_stay_too_short_are_told(tmp_path):
    long = np.concatenate([talk(8.0), silence(0.5), talk(8.0, 1), silence(5.0), talk(2.0, 2)])
    place = packed(folder_of(tmp_path / "r", long=long, other=talk(12.0, 3)), tmp_path / "a" / "x.tar")
    report = prepare(place, tmp_path / "i", PrepareOptions(min_seconds=10.0, max_seconds=18.0, heldout=0))
    line = rejections(tmp_path / "i")["long.wav"]
    assert (line["reason"], line["where"]) == ("short-part", str(place))
    assert line["seconds"] == pytest.approx(4.7, abs=0.3)
    assert report.rejected == {"short-part": 1}
    assert [note for note in report.notes if "shorter than --min-seconds: left out (long.wav)" in note]
