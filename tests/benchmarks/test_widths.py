"""The benchmark of quantised speech: its numbers are those of the product, and a model in full changes nothing."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from benchmarks.speaking import widths
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.model.quantised import pack, quantised_linears, unpack
from mlx_voxclone.model.widths import Quantisation
from mlx_voxclone.speech.speaker import Speaker


@pytest.mark.parametrize(("bits", "group_size"), [(8, 64), (6, 32), (4, 64)])
def test_the_numbers_are_those_of_the_product(miniature, bits, group_size):
    release, quantisation = Release(miniature), Quantisation(bits, group_size)
    full, changed = load_model(release), load_model(release)
    widths.quantise(changed, widths.Way(bits, group_size))
    before, after = (dict(tree_flatten(model.parameters())) for model in (full, changed))
    names = {f"{name}.weight" for name, _, _ in quantised_linears(full)}
    for name, value in after.items():
        want = before[name]
        if name in names:
            want = unpack(pack(release.tensors.array(name), quantisation), quantisation)
        assert mx.array_equal(value, want).item()


def test_what_else_is_quantised(miniature):
    model = load_model(Release(miniature))
    before = dict(tree_flatten(model.parameters()))
    widths.quantise(model, widths.Way(4, 32, others=widths.TABLES + widths.CODEC, only="acoustic_transformer."))
    same = {n for n, value in tree_flatten(model.parameters()) if mx.array_equal(value, before[n]).item()}
    assert "layers.0.attention.wq.weight" in same
    assert not {n for n in same if n.startswith("mm_audio_embeddings.")}
    assert not {n for n in same if n.startswith("audio_tokenizer.decoder_blocks.") and n.endswith("w1.weight")}


@pytest.mark.slow
def test_codes_of_the_model_in_full_are_all_the_same(tmp_path):
    directory = make_micro(tmp_path / "speaking", "speaking")
    frames = widths.Frames(Speaker.load(directory), ["papa mino.", "tara koni lesu."])
    assert frames.same(load_model(Release(directory))) == {"semantic": 1.0, "acoustic": 1.0, "levels": 0.0}
    model = load_model(Release(directory))
    widths.quantise(model, widths.Way(4, 64))
    assert 0.4 < frames.same(model)["acoustic"] < 0.95
