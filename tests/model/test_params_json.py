"""`params.json` with something wrong in it: one line that names the file and the key, never a traceback."""

import json

import documents
import pytest
from documents import DELETED
from golden import RELEASE_PARAMS

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.model.config import VoxtralConfig

AUDIO, TOKENIZER = ("multimodal", "audio_model_args"), ("multimodal", "audio_tokenizer_args")
HEAD = (*AUDIO, "acoustic_transformer_args")
UNUSED = {
    *("model_parallel", "max_position_embeddings", "p_uncond", "condition_dropped_token_id", "sigma", "sigma_max"),
    *("model_type", "input_embedding_concat_type", "text_feature_bugged"),
}


def leaves(node, path=()):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def changed(path, value):
    return documents.changed(RELEASE_PARAMS, path, value)


def refusal(raw) -> str:
    with pytest.raises(ConfigError) as caught:
        VoxtralConfig.from_dict(raw, "here/params.json")
    text = str(caught.value)
    assert text.startswith("here/params.json: ")
    assert "\n" not in text
    assert len(text) < 250
    return text


def is_read(path) -> bool:
    """Whether the model depends on the key: the head has no positions, the audio encoding is the server's business."""
    return path[-1] not in UNUSED and path != (*HEAD, "rope_theta") and "audio_encoding_args" not in path


NUMERIC = [path for path, value in leaves(RELEASE_PARAMS) if type(value) in (int, float)]


@pytest.mark.parametrize("value", [-1, 0, None, "x", [], 1e9, 10**9, {}, True, float("nan"), float("inf")], ids=str)
def test_every_number_replaced(value):
    for path in NUMERIC:
        raw = changed(path, value)
        allowed = (
            not is_read(path)
            or (value == 0 and (path[-1].endswith("token_id") or "voice" in path))
            or (value in (1e9, 10**9) and path[-1] in ("norm_eps", "qk_norm_eps", "rope_theta", "layer_scale_init"))
            or (value is True and path[-1] == "channels")  # 1 == True
        )
        if allowed:
            assert VoxtralConfig.from_dict(raw).raw is raw
        else:
            assert path[-1] in refusal(raw)


def test_every_key_deleted():
    optional = {("max_seq_len",), ("causal",), ("tied_embeddings",), ("use_biases",), (*HEAD, "use_biases")}
    for path, _ in leaves(RELEASE_PARAMS):
        raw = changed(path, DELETED)
        if is_read(path) and "voice" not in path and path not in optional:
            assert f"key '{'.'.join(path)}' is missing" in refusal(raw)
        else:
            assert VoxtralConfig.from_dict(raw).raw is raw


@pytest.mark.parametrize("document", [[], None, 3, "text"], ids=str)
def test_a_document_that_is_no_object(document, tmp_path):
    (tmp_path / "params.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"params.json: the document must be an object \{...\}; got "):
        VoxtralConfig.from_file(tmp_path)


def test_nested_too_deeply(tmp_path):
    (tmp_path / "params.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"params.json: not readable as JSON \(nested too deeply\)"):
        VoxtralConfig.from_file(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("head_dim",), -1, "head_dim must be a whole number from 1 to 10000000; got -1"),
        (("head_dim",), 127, "head_dim must be even"),
        (("n_layers",), 1001, "n_layers must be a whole number from 1 to 1000; got 1001"),
        (("n_heads",), 30, "n_heads (30) must be a multiple of n_kv_heads (8)"),
        ((*HEAD, "n_kv_heads"), 5, "acoustic_transformer_args.n_heads (32) must be a multiple of n_kv_heads (5)"),
        (("norm_eps",), 0, "norm_eps must be a finite number above 0; got 0"),
        (("rope_theta",), 10**400, "rope_theta must be a finite number above 0; got 1000"),
        (("multimodal",), [], "multimodal must be an object {...}; got []"),
        (HEAD, "x", 'multimodal.audio_model_args.acoustic_transformer_args must be an object {...}; got "x"'),
        ((*AUDIO, "audio_token_id"), 131072, "audio_token_id must be a whole number from 0 to 131071; got 131072"),
        ((*TOKENIZER, "voice"), ["a"], 'audio_tokenizer_args.voice must be an object of name: number; got ["a"]'),
        ((*TOKENIZER, "voice"), {"a\nb": "x"}, r'must give "a\nb" a whole number from 0 to 10000000; got "x"'),
        ((*TOKENIZER, "half_attn_window_upon_downsampling"), 1, "must be true or false; got 1"),
        ((*TOKENIZER, "n_heads"), 4, "n_kv_heads is 8; this model code implements 4"),
        ((*TOKENIZER, "head_dim"), 64, "n_heads (8) * head_dim (64) must be dim (1024)"),
        ((*TOKENIZER, "decoder_convs_strides_str"), "2,1,2,2", "decoder_convs_strides_str must begin with 1"),
        ((*TOKENIZER, "decoder_convs_strides_str"), "1,2,2,1", "multiplies to 4, the encoder's to 8"),
        ((*TOKENIZER, "channels"), "\n" * 999, r"channels is "),
        ((*TOKENIZER, "attn_sliding_window_size"), 15, "(15) is halved to 1 by encoder_convs_strides_str"),
        ((*TOKENIZER, "attn_sliding_window_size"), 1, "(1) is halved to 0 by encoder_convs_strides_str"),
        ((*TOKENIZER, "encoder_convs_strides_str"), "4,2,1,1", "servers halve the attention window for strides of 2"),
        ((*TOKENIZER, "decoder_convs_strides_str"), "1,4,2,1", "servers halve the attention window for strides of 2"),
        ((*TOKENIZER, "decoder_convs_kernels_str"), "3,1,4,4", "each kernel must be a multiple of its stride"),
        ((*TOKENIZER, "pretransform_patch_size"), 7, "sampling_rate (24000) over 56 samples gives no frame rate"),
    ],
)
def test_refusals_name_the_key_and_what_was_expected(path, value, said):
    assert said in refusal(changed(path, value))


@pytest.mark.parametrize("value", ["", "2,,2", "a", "2,-2", "0,2", "9" * 5000, "2,2,2,999", 4, None, [2], "1," * 2000])
@pytest.mark.parametrize("key", ["encoder_transformer_lengths_str", "decoder_transformer_lengths_str"])
def test_lists_in_a_text(key, value):
    assert f"{key} must be whole numbers above 0" in refusal(changed((*TOKENIZER, key), value))


@pytest.mark.parametrize(("side", "place"), [("encoder", 0), ("encoder", 2), ("decoder", 1), ("decoder", 3)])
def test_convolutions_that_servers_leave_out(side, place):
    """They build none of kernel and stride 1 there, so all later blocks have other numbers in the checkpoint."""
    strides, kernels = (["2", "2", "2", "1"], ["4"] * 4) if side == "encoder" else (["1", "2", "2", "2"], ["4"] * 4)
    strides.insert(place, "1")
    kernels.insert(place, "1")
    raw = changed((*TOKENIZER, f"{side}_convs_strides_str"), ",".join(strides))
    raw["multimodal"]["audio_tokenizer_args"] |= {
        f"{side}_convs_kernels_str": ",".join(kernels),
        f"{side}_transformer_lengths_str": "1,1,1,1,1",
    }
    assert "servers leave out a convolution of kernel and stride 1" in refusal(raw)
    raw["multimodal"]["audio_tokenizer_args"][f"{side}_convs_kernels_str"] = ",".join(kernels).replace("1", "3")
    assert VoxtralConfig.from_dict(raw).raw is raw


def test_the_shortest_window_that_servers_take():
    assert VoxtralConfig.from_dict(changed((*TOKENIZER, "attn_sliding_window_size"), 16)).codec.window == 16
    raw = changed((*TOKENIZER, "attn_sliding_window_size"), 1)
    raw["multimodal"]["audio_tokenizer_args"]["half_attn_window_upon_downsampling"] = False
    assert VoxtralConfig.from_dict(raw).codec.window == 1


def test_spaces_in_a_list_are_allowed():
    raw = changed((*TOKENIZER, "decoder_transformer_lengths_str"), "2, 2, 2, 3")
    assert VoxtralConfig.from_dict(raw).codec.decoder_lengths == (2, 2, 2, 3)
