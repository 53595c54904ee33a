"""The released serving code (vLLM-Omni) takes what bake writes: its loader, its codes, its sound, its voices.

It runs in an interpreter of its own, which the environment variable VOXCLONE_SERVING_PYTHON names; see serving_code.py.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from golden import relative_error
from places import HELPERS

from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.bake.bake import bake
from mlx_voxclone.checkpoint.release import CODEC_PREFIX, HEAD_PREFIX, WEIGHTS, Release, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.checkpoint.writer import save_tensors

pytest_plugins = ["baking", "commands"]

PYTHON = "VOXCLONE_SERVING_PYTHON"
HAS_IT = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm_omni') is None)"
DAMAGED = "audio_tokenizer.input_proj.conv.parametrizations.weight.original1"
TABLES = "mm_audio_embeddings."
MISTRAL = re.compile(
    r"(tok_embeddings|norm|layers\.\d+\.(attention\.w[qkvo]|feed_forward\.w[123]|attention_norm|ffn_norm))\.weight"
)


@pytest.fixture(scope="module")
def serving_code():
    """`serving_code(checkpoint, input, output)` runs the script: (exit code, what it wrote to stderr)."""
    python = os.environ.get(PYTHON)
    if not python or not shutil.which(python) or subprocess.run([python, "-c", HAS_IT], check=False).returncode:
        pytest.skip(f"{PYTHON} names no interpreter that has vllm-omni")
    script = HELPERS / "references" / "serving_code.py"

    def run(*arguments: Path) -> tuple[int, str]:
        command = [python, "-I", str(script), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        return done.returncode, done.stderr

    return run


@pytest.fixture(scope="module")
def release(base, adapters, encoder_file, voice_file, tmp_path_factory) -> Release:
    """Everything that can be baked: an encoder, folded adapters and a voice."""
    output = tmp_path_factory.mktemp("served") / "baked"
    bake(base, output, adapters=adapters, encoder=encoder_file, voices={"anna": voice_file})
    return Release(output)


@pytest.fixture(scope="module")
def model(release):
    return load_model(release)


@pytest.fixture(scope="module")
def given(release, model, voice_file, tmp_path_factory) -> Path:
    """The script's input: the recording of the voice, any codes, and what the LM thinks at the end of a prompt."""
    rng, rows = np.random.default_rng(0), release.voice("anna")
    codes = np.stack([rng.integers(0, size - 2, 40) for size in release.config.codec.code_sizes])
    prompt = model.embed_prompt(SpeechTokenizer(release.tokenizer_path).prompt("hello there", len(rows)), rows)
    path = tmp_path_factory.mktemp("served") / "in.npz"
    np.savez(path, waveform=read_audio(voice_file), codes=codes, hidden=np.array(model.hidden_states(prompt)[0, -8:]))
    return path


@pytest.fixture(scope="module")
def served(serving_code, release, given, tmp_path_factory) -> dict[str, np.ndarray]:
    """What the serving code made of the checkpoint."""
    output = tmp_path_factory.mktemp("served") / "out.npz"
    code, errors = serving_code(release.path, given, output)
    assert code == 0, errors
    return dict(np.load(output))


@pytest.fixture(scope="module")
def our_codes(model, given) -> np.ndarray:
    return model.audio_tokenizer.audio_codes(np.load(given)["waveform"])


def test_every_tensor_is_loaded(served, release):
    names = release.tensors.names()
    codec = [name.removeprefix(CODEC_PREFIX) for name in names if name.startswith(CODEC_PREFIX)]
    head = [name.removeprefix(HEAD_PREFIX) for name in names if name.startswith(HEAD_PREFIX)]
    lm = [name for name in names if not name.startswith((CODEC_PREFIX, HEAD_PREFIX, TABLES))]
    assert sorted([*codec, "audio_token_embedding.embeddings.weight"]) == list(served["audio_tokenizer"])
    assert sorted(head) == list(served["acoustic_transformer"])
    assert sorted([*lm, "tok_embeddings.weight"]) == list(served["language_model"])
    assert all(MISTRAL.fullmatch(name) for name in served["language_model"])


def test_codes_of_a_recording_are_ours(served, our_codes):
    np.testing.assert_array_equal(served["codes"], our_codes)
    assert len(np.unique(our_codes[0])) > 10
    assert len(np.unique(our_codes[1:])) == 21


def test_sound_is_ours(served, model, given):
    ours = model.audio_tokenizer.decode(mx.array(np.load(given)["codes"])[None])[0]
    assert relative_error(ours, served["audio"]) < 1e-4


def test_frames_of_the_head_are_ours(served, model, given):
    hidden, noise = mx.array(np.load(given)["hidden"]), mx.array(served["noise"])
    ours = model.acoustic_transformer.decode_frame(hidden, noise)
    np.testing.assert_array_equal(served["head_codes"], np.array(ours))


def test_voices_are_the_baked_ones(served, release):
    assert sorted(served["voices"]) == sorted(release.voices())
    for name in release.voices():
        np.testing.assert_array_equal(served[f"rows_of_{name}"], np.array(release.voice(name).astype(mx.float32)))


def test_a_baked_voice_is_what_the_server_hears(served, release):
    """A voice made of a recording is that recording as `ref_audio`, but for the rounding to BF16."""
    baked = np.array(release.voice("anna").astype(mx.float32))
    assert (np.abs(baked - served["rows"]) <= 2**-8 * np.abs(served["rows"]) + 1e-6).all()
    assert served["rows_bfloat16"].shape == baked.shape


def test_codes_in_bfloat16(served, our_codes, record_property):
    """As the encoder is served. Its distances to the semantic rows are rounded too: that tips many a close choice."""
    difference = np.abs(served["codes_bfloat16"] - our_codes)
    semantic, acoustic = (difference[0] == 0).mean(), (difference[1:] == 0).mean()
    within_one = (difference[1:] <= 1).mean()
    for name, share in {"semantic": semantic, "acoustic": acoustic, "acoustic_within_one": within_one}.items():
        record_property(name, round(float(share), 4))
    print(f"BF16: semantic {semantic:.1%} equal, acoustic {acoustic:.1%} equal, {within_one:.1%} within one level")
    assert within_one > 0.9
    assert semantic > 0.2


@pytest.mark.parametrize(
    ("new_name", "refusal"),
    [
        ("input_proj.conv.weight", "Weight input_proj.conv.weight not found in model parameters."),
        (None, f"not initialized from the checkpoint: {DAMAGED}"),
    ],
    ids=["renamed", "left out"],
)
def test_a_damaged_encoder_is_refused(serving_code, release, given, tmp_path, new_name, refusal):
    """One of its tensors under another name, or left out."""
    shutil.copytree(release.path, tmp_path / "damaged")
    tensors = mx.load(str(release.path / WEIGHTS))
    tensor = tensors.pop(DAMAGED)
    if new_name is not None:
        tensors[f"{CODEC_PREFIX}{new_name}"] = tensor
    save_tensors(tmp_path / "damaged" / WEIGHTS, tensors, overwrite=True)
    code, errors = serving_code(tmp_path / "damaged", given, tmp_path / "out.npz")
    assert code != 0
    assert refusal in errors.splitlines()[-1]


def test_without_an_encoder_there_is_no_ref_audio(serving_code, base, given, tmp_path):
    code, errors = serving_code(base, given, tmp_path / "out.npz")
    assert code != 0
    assert errors.splitlines()[-1].startswith("no ref_audio")
