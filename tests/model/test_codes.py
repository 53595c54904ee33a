"""The codec's codes and the language model's frames: each is the other, turned and two apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from places import ROOT

from mlx_voxclone.model.codes import end_frame, from_lm, lm_frames, with_end
from mlx_voxclone.model.config import VoxtralConfig

CODES = st.tuples(st.integers(1, 40), st.integers(0, 30)).flatmap(
    lambda shape: arrays(st.sampled_from([np.int16, np.int32, np.int64]), shape, elements=st.integers(0, 8191))
)


@given(CODES)
def test_there_and_back(codes):
    frames = lm_frames(codes)
    assert frames.shape == codes.shape[::-1]
    for t, frame in enumerate(frames):
        np.testing.assert_array_equal(frame, codes[:, t] + 2)
        np.testing.assert_array_equal(from_lm(frame), codes[:, t])
    for ours in (from_lm(frames), frames):
        assert ours.dtype == np.int32
        assert ours.flags.c_contiguous
    np.testing.assert_array_equal(from_lm(frames), codes)


@given(CODES)
def test_the_end_is_one_frame_more(codes):
    ended = with_end(lm_frames(codes))
    assert ended.dtype == np.int32
    np.testing.assert_array_equal(ended[:-1], lm_frames(codes))
    assert ended[-1].tolist() == [1] + [0] * (len(codes) - 1) == end_frame(len(codes)).tolist()
    # what is no code of the codec stays outside of every codebook
    assert from_lm(ended)[:, -1].tolist() == [-1] + [-2] * (len(codes) - 1)


@pytest.mark.parametrize("sizes", [(8192, 36, 21), (5, 2, 3)])
def test_the_table_has_two_rows_more_for_each_codebook(sizes):
    params = ROOT / "tests" / "fixtures" / "golden" / "params.json"
    codec = VoxtralConfig.from_file(params).codec
    semantic, acoustic, levels = sizes
    codec = type(codec)(
        **vars(codec) | {"semantic_codebook_size": semantic, "acoustic_dim": acoustic, "acoustic_codebook_size": levels}
    )
    assert codec.codebook_sizes == (semantic, *[levels] * acoustic)
    assert codec.code_sizes == tuple(size + 2 for size in codec.codebook_sizes)
    last = np.array(codec.codebook_sizes)[:, None] - 1
    assert (lm_frames(last)[0] == np.array(codec.code_sizes) - 1).all()
