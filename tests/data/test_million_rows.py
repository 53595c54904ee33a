"""A million rows: memory that a corpus takes, time to load it, and references of a speaker with many clips."""

import time
from pathlib import Path

import pytest
from million import ROWS, TEXT, growth

from mlx_voxclone.data.clips import Clip, PreparedData


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_a_million_prepared_clips(tmp_path):
    """Their files are one: a folder under many names would take longer to make than to read."""
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.flac").touch()
    sides = ("train", "heldout")
    with (tmp_path / "manifest.jsonl").open("w") as stream:
        for k in range(ROWS):
            speaker = f"speaker-{k % 1000}"
            stream.write(
                f'{{"id": "{speaker}-utterance-{k:07d}", "audio": "clips/{"./" * 15}a.flac", "samples": {48_000 + k}, '
                f'"text": "{TEXT} {k}", "speaker": "{speaker}", "language": "en", "split": "{sides[k % 20 == 0]}", '
                f'"reference": null, "source": "train/{speaker}/utterance-{k:07d}.flac", "start": {k % 100 / 7}, '
                f'"digest": "{k:016x}"}}\n'
            )
    kept, peak, seconds = growth("PreparedData.load(sys.argv[1])", tmp_path)
    print(f"clips: {kept:.0f} bytes a row, {peak:.0f} at the peak, {seconds:.1f} s")
    assert kept < 680
    assert peak < 750
    assert seconds < 30


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_a_million_listed_recordings(tmp_path):
    with (tmp_path / "m.jsonl").open("w") as stream:
        for k in range(ROWS):
            speaker = f"speaker-{k % 1000}"
            audio = f"train/{speaker}/utterance-{k:07d}.flac"
            stream.write(f'{{"audio": "{audio}", "text": "{TEXT} {k}", "speaker": "{speaker}"}}\n')
    kept, peak, seconds = growth("read_source(sys.argv[1])", tmp_path / "m.jsonl")
    print(f"entries: {kept:.0f} bytes a row, {peak:.0f} at the peak, {seconds:.1f} s")
    assert kept < 500
    assert peak < 600
    assert seconds < 45


@pytest.mark.slow
def test_references_of_a_speaker_with_very_many_clips():
    clips = [Clip(f"c{k}", "x.flac", 24_000, "anna") for k in range(200_000)]
    data = PreparedData(Path(), clips, [], [], {}, {("anna", "train"): clips})
    start = time.process_time()
    for clip in clips[::20]:
        assert len(data.references(clip)) == 64
    seconds = time.process_time() - start
    print(f"references: {seconds / 10_000 * 1e6:.0f} us each")
    assert seconds < 10  # looking at all clips for each would take minutes
