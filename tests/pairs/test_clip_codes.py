"""Codes of clips are written as they come: an interrupted call goes on, and ends with the same file."""

import numpy as np
import pytest

from mlx_voxclone.checkpoint.digests import codec_digest
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.model.codec import Codec
from mlx_voxclone.pairs import clip_codes as module
from mlx_voxclone.pairs.clip_codes import clip_codes

pytest_plugins = ["commands"]


@pytest.fixture
def made(miniature, encoder_file, corpus, tmp_path, monkeypatch):
    """`made(stop)`: the codes of five clips in parts of two, stopped in the clip of that number; which were encoded."""
    prepare(corpus, tmp_path / "data", PrepareOptions(min_seconds=0.5, trim_silence=False))
    data, encode = PreparedData.load(tmp_path / "data"), Codec.audio_codes
    monkeypatch.setattr(module, "PART_CLIPS", 2)

    def call(stop=None, encoder=encoder_file):
        lengths = []

        def counted(codec, samples):
            if len(lengths) == stop:
                raise KeyboardInterrupt
            lengths.append(len(samples))
            return encode(codec, samples)

        with monkeypatch.context() as patch:
            patch.setattr(Codec, "audio_codes", counted)
            try:
                return clip_codes(Release(miniature), encoder, data, tmp_path / "codes" / "codes.safetensors"), lengths
            except KeyboardInterrupt:
                return None, lengths

    call.data = data
    assert len(data.clips) == 5
    return call


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
        assert a[name].dtype == b[name].dtype == np.int32


def test_an_interrupted_call_goes_on_and_loses_at_most_a_part(made, miniature, encoder_file, tmp_path):
    codec = load_model(Release(miniature), parts=["codec"], encoder_file=encoder_file).audio_tokenizer
    expected = {clip.id: codec.audio_codes(clip.read()) for clip in made.data.clips}
    place = tmp_path / "codes"
    assert len(made(stop=1)[1]) == 1  # nothing whole yet
    assert list(place.rglob("*.safetensors")) == []
    assert len(made(stop=3)[1]) == 3
    assert [p.name for p in (place / "codes-parts").iterdir()] == ["00000.safetensors"]
    codes, encoded = made()
    assert encoded == [clip.samples for clip in made.data.clips[2:]]
    same(codes, expected)
    assert [p.name for p in place.iterdir()] == ["codes.safetensors"]
    codes, encoded = made()
    assert encoded == []
    same(codes, expected)


@pytest.mark.slow
def test_parts_of_other_codes_or_damaged_ones_are_made_again(made, miniature, encoder_file, tmp_path):
    parts = tmp_path / "codes" / "codes-parts"
    made(stop=4)
    assert len(list(parts.iterdir())) == 2
    (parts / "00001.safetensors").write_bytes((parts / "00001.safetensors").read_bytes()[:-1])
    save_tensors(tmp_path / "other.safetensors", {n: 2 * a for n, a in TensorFile(encoder_file).arrays().items()})
    codes, encoded = made(stop=4, encoder=tmp_path / "other.safetensors")  # another encoder: from the start
    assert codes is None
    assert len(encoded) == 4
    made(stop=2)
    (parts / "00001.safetensors").write_bytes(b"no part")
    codes, encoded = made()
    assert len(encoded) == 3  # the damaged part and the last
    digest = {"codec": codec_digest(Release(miniature), encoder_file), "data": made.data.fingerprint()}
    assert TensorFile(tmp_path / "codes" / "codes.safetensors").metadata == digest


def test_a_finished_file_is_read_and_its_parts_vanish(made, tmp_path):
    codes, _ = made()
    (tmp_path / "codes" / "codes-parts").mkdir()  # killed after the file was there and before they were removed
    again, encoded = made()
    assert encoded == []
    same(again, codes)
    assert not (tmp_path / "codes" / "codes-parts").exists()
    file = tmp_path / "codes" / "codes.safetensors"
    save_tensors(file, dict(list(codes.items())[1:]), TensorFile(file).metadata, overwrite=True)
    with pytest.raises(CheckpointError, match="codes of other clips"):
        made()
