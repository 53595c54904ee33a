"""Files that libsndfile decodes in order alone: all of one is read, and parts are where they belong."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import silence, talk

from mlx_voxclone.audio.decode import OpenAudio, audio_info, read_blocks
from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio, resample
from mlx_voxclone.audio.source import AudioBytes
from mlx_voxclone.data.ingest import examine, write_pieces
from mlx_voxclone.data.options import PrepareOptions

KINDS = [
    ("WAV", "GSM610"),
    ("AIFF", "GSM610"),
    ("W64", "GSM610"),
    ("WAV", "G721_32"),
    ("AU", "G721_32"),
    ("AU", "G723_24"),
    ("AU", "G723_40"),
    ("WAV", "NMS_ADPCM_16"),
    ("WAV", "NMS_ADPCM_32"),
]
RATE = 16_000


@pytest.fixture(params=KINDS, ids="-".join)
def recording(request, tmp_path) -> Path:
    """23 s of speech with pauses."""
    kind, subtype = request.param
    samples = np.concatenate([part for seed in range(5) for part in (talk(4, seed), silence(0.6))])
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, resample(samples, SAMPLE_RATE, RATE), RATE, format=kind, subtype=subtype)
    with soundfile.SoundFile(path) as file:
        assert not file.seekable()
    return path


def test_all_of_it_is_read(recording):
    reference, rate = soundfile.read(recording, dtype="float32")  # in one go
    assert rate == RATE
    for source in (recording, AudioBytes("a", recording.read_bytes())):
        assert audio_info(source).frames == len(reference)
        found = np.concatenate(list(read_blocks(source)))
        np.testing.assert_array_equal(found[:, 0], reference)


@pytest.mark.slow
def test_parts_in_any_order_are_those_of_the_whole(recording):
    whole = read_audio(recording)
    parts = [(0.0, 1.0), (1.0, 1.5), (20.0, 22.0), (3.0, 4.0), (3.0, 4.0), (22.0, 99.0)]
    with OpenAudio(audio_info(recording)) as audio:
        for start, end in parts:
            expected = whole[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
            np.testing.assert_allclose(read_audio(audio, start=start, end=end), expected, atol=1e-5)
            np.testing.assert_allclose(read_audio(recording, start=start, end=end), expected, atol=1e-5)


def test_it_is_prepared(recording, tmp_path):
    plan = examine(recording, False, PrepareOptions(max_seconds=10.0))
    written = write_pieces(recording, plan, tmp_path, "a")
    assert len(written) == len(plan.pieces) > 1
    whole = read_audio(recording)
    for piece, (start, _) in zip(written, plan.pieces):
        first = round(start * SAMPLE_RATE)
        np.testing.assert_allclose(read_audio(tmp_path / piece.name), whole[first : first + piece.samples], atol=1e-5)
