"""mlx-audio opens what `bake --for mlx-audio` writes, and its language model and head do with it what ours do.

Its codec starts the ALiBi slopes at another value than the serving code; that is all in which its sound differs.
"""

import re

import mlx.core as mx
import numpy as np
import pytest
from golden import relative_error

from mlx_voxclone.bake.bake import bake
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.model.config import N_SPECIAL_CODES

tts = pytest.importorskip("mlx_audio.tts.utils")

pytest_plugins = ["baking", "commands"]

TEXT = "Hello there."
FRAMES = 6


@pytest.fixture(scope="module")
def release(base, adapters, encoder_file, voice_file, tmp_path_factory) -> Release:
    """Folded adapters and a voice; the encoder hears the voice and stays out."""
    output = tmp_path_factory.mktemp("mlx-audio") / "baked"
    bake(base, output, target="mlx-audio", adapters=adapters, encoder=encoder_file, voices={"anna": voice_file})
    return Release(output)


@pytest.fixture(scope="module")
def model(release):
    return load_model(release)


@pytest.fixture(scope="module")
def theirs(release):
    """The checkpoint in mlx-audio, whose loader refuses missing and unexpected weights; then in float32."""
    model = tts.load_model(release.path, strict=True)
    model.set_dtype(mx.float32)
    return model


@pytest.fixture(scope="module")
def prompt(release, model) -> mx.array:
    """Embeddings `[1, T, dim]` of the baked voice and the text."""
    rows = release.voice("anna")
    return model.embed_prompt(SpeechTokenizer(release.tokenizer_path).prompt(TEXT, rows.shape[0]), rows)


def test_a_checkpoint_with_an_encoder_is_refused(base, encoder_file, tmp_path):
    bake(base, tmp_path / "whole", encoder=encoder_file)
    with pytest.raises(ValueError, match=re.escape("audio_tokenizer.encoder_blocks")):
        tts.load_model(tmp_path / "whole", strict=True)


def test_prompts_are_the_same(theirs, release, prompt):
    ids = theirs._encode_text(TEXT, "anna")
    assert ids == SpeechTokenizer(release.tokenizer_path).prompt(TEXT, release.voice("anna").shape[0])
    embeddings = theirs._build_input_embeddings(mx.array(ids)[None], "anna")
    assert relative_error(embeddings, prompt) < 1e-6


def test_hidden_states_are_the_same(theirs, model, prompt):
    ids = mx.zeros(prompt.shape[:2], mx.int32)
    hidden = theirs.language_model.model.model(ids, input_embeddings=prompt)
    assert relative_error(hidden, model.hidden_states(prompt)) < 1e-4


def test_a_baked_voice_says_the_same(theirs, model, prompt, monkeypatch):
    """Frame by frame, each fed back, with the same noise."""
    heard = []
    decode = theirs.audio_tokenizer.decode
    monkeypatch.setattr(theirs.audio_tokenizer, "decode", lambda codes: heard.append(np.array(codes)) or decode(codes))
    mx.random.seed(3)
    (result,) = theirs.generate(text=TEXT, voice="anna", max_tokens=FRAMES)
    mx.random.seed(3)
    frames, cache = [], model.new_cache()
    hidden = model.hidden_states(prompt, cache)[:, -1]
    for _ in range(FRAMES):
        noise = mx.random.normal((1, model.config.codec.acoustic_dim))
        frames.append(model.acoustic_transformer.decode_frame(hidden, noise))
        hidden = model.hidden_states(model.embed_codes(frames[-1])[:, None], cache)[:, -1]
    np.testing.assert_array_equal(heard[0][0], np.concatenate(frames))
    assert result.audio.shape == (FRAMES * 1920,)
    assert 0.001 < float(mx.std(result.audio)) < 1


def test_sound_is_the_same_but_for_the_slopes(theirs, model, monkeypatch):
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size - N_SPECIAL_CODES, 40) for size in model.config.codec.code_sizes])
    ours = model.audio_tokenizer.decode(mx.array(codes)[None])
    codec, frames = theirs.audio_tokenizer, mx.array(codes.T + N_SPECIAL_CODES)[None]
    assert relative_error(codec.decode(frames), ours) > 0.01
    slopes = codec._alibi_slopes
    monkeypatch.setattr(codec, "_alibi_slopes", slopes / slopes[0])
    assert relative_error(codec.decode(frames), ours) < 1e-4
