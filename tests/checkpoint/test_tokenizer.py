"""The speech prompt: the ids that a server's own tokenizer makes."""

import base64
import io
import json

import numpy as np
import pytest
import soundfile
from mistral_common.protocol.speech.request import SpeechRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.errors import CheckpointError, DataError

TEXTS = ["Hello there, the world.", "Grüße, 你好! 42 [AUDIO] <s>", " \tx\n"]


@pytest.fixture(scope="module")
def tokenizers(miniature):
    path = miniature / "tekken.json"
    return SpeechTokenizer(path), MistralTokenizer.from_file(str(path))


@pytest.mark.parametrize("text", TEXTS)
def test_a_preset_voice_gives_the_servers_prompt(tokenizers, text):
    ours, theirs = tokenizers
    expected = theirs.encode_speech_request(SpeechRequest(input=text, voice="casual_male")).tokens
    assert ours.prompt(text, n_voice_rows=19) == expected


@pytest.mark.parametrize(("samples", "excess"), [(1, 0), (1919, 0), (1920, 0), (1921, 0), (13440, 1), (24000, 0)])
def test_reference_audio_gives_the_servers_prompt_up_to_its_rounding(tokenizers, samples, excess):
    """mistral-common counts frames in floats; at 13440 samples (7 frames) it is one too many."""
    ours, theirs = tokenizers
    file = io.BytesIO()
    soundfile.write(file, np.full(samples, 0.1, np.float32), 24000, format="WAV", subtype="FLOAT")
    request = SpeechRequest(input="Hi.", ref_audio=base64.b64encode(file.getvalue()).decode())
    expected = theirs.encode_speech_request(request).tokens
    rows = -(-samples // 1920) + 1
    assert ours.prompt("Hi.", rows + excess) == expected
    assert expected.count(24) == rows + excess


def test_the_prompt_by_its_ids(tokenizers):
    ours, _ = tokenizers
    prompt = ours.prompt("abc", 3)
    assert prompt[:6] == [1, 25, 24, 24, 24, 36]
    assert prompt[-2:] == [35, 25]
    assert prompt[6:-2] == ours.encode("abc")
    with pytest.raises(ValueError, match="at least one row"):
        ours.prompt("abc", 0)


def test_bytes_and_merges(tokenizers):
    ours, _ = tokenizers
    assert ours.encode("q") == [40 + ord("q")]
    (the,) = ours.encode(" the")
    assert the >= 40 + 256
    assert max(ours.encode("".join(map(chr, range(32, 500))))) < ours.vocab_size


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_nothing_to_say(tokenizers, text):
    with pytest.raises(DataError, match="text is empty"):
        tokenizers[0].prompt(text, 3)


def test_bad_tokenizer_files(tmp_path, miniature):
    path = tmp_path / "tekken.json"
    with pytest.raises(CheckpointError, match="not found"):
        SpeechTokenizer(path)
    good = json.loads((miniature / "tekken.json").read_text())
    no_audio = [t for t in good["special_tokens"] if t["token_str"] != "[NEXT_AUDIO_TEXT]"]
    bad = [
        "{",
        "{}",
        json.dumps(good | {"vocab": good["vocab"][:10]}),
        json.dumps(good | {"special_tokens": no_audio}),
    ]
    for content in bad:
        path.write_text(content)
        with pytest.raises(CheckpointError, match="not a tokenizer of a speech model") as caught:
            SpeechTokenizer(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["default_num_special_tokens", "default_vocab_size"])
@pytest.mark.parametrize("value", [10**9, 10**400, -1, 0, 2.5, None, "40", True, [], float("nan")], ids=repr)
def test_numbers_of_tokens_that_nobody_could_make(tmp_path, miniature, key, value):
    good = json.loads((miniature / "tekken.json").read_text())
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps(good | {"config": good["config"] | {key: value}}))
    with pytest.raises(CheckpointError, match="default_num_special_tokens are") as caught:
        SpeechTokenizer(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    path.write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="nested too deeply"):
        SpeechTokenizer(path)


def test_ids_beyond_the_model(miniature):
    assert SpeechTokenizer(miniature / "tekken.json", vocab_size=320).vocab_size == 320
    with pytest.raises(CheckpointError, match="320 ids, but the model embeds only 319"):
        SpeechTokenizer(miniature / "tekken.json", vocab_size=319)
