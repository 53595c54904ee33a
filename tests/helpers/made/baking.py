"""What the tests of baking bake: a base, adapters, an encoder, a recording (a pytest plugin, see `pytest_plugins`)."""

import shutil

import numpy as np
import pytest
import soundfile

from mlx_voxclone.adapters.files import AdapterConfig, save_adapters
from mlx_voxclone.checkpoint.release import Release, expected_shapes
from mlx_voxclone.checkpoint.writer import save_tensors

TARGETS = {"attention": ("wq", "wk", "wv", "wo"), "feed_forward": ("w1", "w2", "w3")}


@pytest.fixture(scope="module")
def base(miniature, tmp_path_factory):
    """The miniature with what else a downloaded directory holds."""
    directory = tmp_path_factory.mktemp("base") / "base"
    shutil.copytree(miniature, directory)
    (directory / "README.md").write_text("the model card")
    (directory / ".cache").mkdir()
    (directory / ".cache" / "junk").write_text("x")
    (directory / ".consolidated.safetensors.abcd.partial").write_text("left over")
    (directory / "voice_embedding" / "casual_male.safetensors").unlink()  # the release has .pt files alone
    (directory / "voice_embedding" / "neutral_female.pt").unlink()  # and a conversion may have the others alone
    return directory


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    """Trained-looking adapters on every LM linear: the delta is about 3 % of the weight."""
    rng = np.random.default_rng(0)
    release, tensors = Release(base), {}
    for layer in range(release.config.backbone.n_layers):
        for block, leaves in TARGETS.items():
            for leaf in leaves:
                module = f"layers.{layer}.{block}.{leaf}"
                outputs, inputs = release.tensors.info(f"{module}.weight").shape
                tensors[f"{module}.lora_a"] = rng.standard_normal((inputs, 4)).astype(np.float32) / inputs**0.5
                tensors[f"{module}.lora_b"] = rng.standard_normal((4, outputs)).astype(np.float32) * 0.01
    directory = tmp_path_factory.mktemp("adapters")
    leaves = tuple(leaf for group in TARGETS.values() for leaf in group)
    save_adapters(directory, tensors, AdapterConfig(4, 8.0, leaves, release.fingerprint()))
    return directory


@pytest.fixture(scope="module")
def encoder(base, tmp_path_factory):
    rng = np.random.default_rng(1)
    tensors = {}
    for name, shape in expected_shapes(Release(base).config, ["encoder"]).items():
        fan_in = np.float32(np.prod(shape[1:]) if len(shape) > 1 else 1)
        one = name.endswith(("_norm.weight", "original0"))
        tensors[name] = (
            np.ones(shape, np.float32) if one else rng.standard_normal(shape).astype(np.float32) / fan_in**0.5
        )
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    save_tensors(path, tensors)
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("audio") / "voice.wav"
    time = np.arange(30000) / 24000
    soundfile.write(path, (0.2 * np.sin(2 * np.pi * 150 * time) * np.sin(9 * time)).astype(np.float32), 24000)
    return path


@pytest.fixture
def assert_refused(capsys):
    """`assert_refused(exit code, text of the line, expected code)` after a command has run."""

    def check(code, match, expected=2):
        captured = capsys.readouterr()
        assert code == expected
        assert match in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""

    return check
