"""Every key of the schema with values that no run can use: one line at once, or a meaning."""

import math

import pytest

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.files.yaml_files import MAX_PARTS, parse_yaml
from mlx_voxclone.settings.config import RunConfig, load_run_config, schema_keys

TEXTS = ("model", "output", "voice", "data.path", "data.speaker", "data.language", "data.whisper_model", "data.cache")
TEXTS += ("encoder.weights", "encoder.pairs.texts", "encoder.distillation.whisper_model", "speaker.encoder")
TEXTS += ("speaker.start", "speaker.listen.speaker_model", "distill.pairs", "bake.output", "bake.reference")
TEXTS += ("encoder.pairs.path", "speaker.preserve.path")
MAY_BE_NULL = {
    *(
        "voice",
        "output",
        "data.path",
        "data.speaker",
        "data.language",
        "data.recogniser",
        "data.whisper_model",
        "data.cache",
        "encoder.weights",
        "encoder.stft_sizes",
    ),
    *("encoder.pairs.path", "encoder.pairs.texts", "speaker.encoder", "speaker.start", "speaker.lora.layers"),
    *("speaker.preserve.path", "speaker.listen.speaker_model"),
    *("speaker.listen.whisper_model", "distill.pairs", "bake.output", "bake.reference"),
}
MAY_BE_EMPTY = {"data.heldout_speakers", "encoder.pairs.path", "speaker.preserve.path", "distill.pairs", "say"}
MAY_BE_EMPTY |= {"report_to", "notify"}
# What a thousand million of something means: never, all of them, without a limit, any seed; or a rate that ends in a
# loss that is not finite, which the trainer notices.
MAY_BE_HUGE = ("eval_every", "save_every", "log_every", "sample_every", "keep", "patience", "seed")
MAY_BE_HUGE += ("learning_rate", "alone_steps")
MAY_BE_HUGE += ("encoder.discriminators.warmup_steps",)


@pytest.fixture
def load(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("task: clone\n")

    def loaded(key, value):
        """The configuration, or the line that refuses it."""
        try:
            return load_run_config(path, {key: value})
        except ConfigError as error:
            text = str(error)
        assert "\n" not in text
        assert len(text) < 300
        assert text.startswith(("command line: ", str(path)))
        return text

    return loaded


def keys():
    return [key for key in schema_keys() if key != "task"]


def is_section(key) -> bool:
    return any(other.startswith(f"{key}.") for other in schema_keys())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -1, -1.0, 10**400, [[]], [{}]], ids=repr)
def test_what_no_key_takes(load, value):
    for key in keys():
        assert key.rpartition(".")[2] in load(key, value), key


@pytest.mark.parametrize("value", [10**9, 1e9, 2.0**60], ids=str)
def test_huge_numbers(load, value):
    for key in keys():
        config = load(key, value)
        if not isinstance(config, str):
            assert key.endswith(MAY_BE_HUGE), key


def test_null_and_empty_and_text(load):
    for key in keys():
        accepted = {name: not isinstance(load(key, value), str) for name, value in (("null", None), ("list", []))}
        assert accepted == {"null": key in MAY_BE_NULL, "list": key in MAY_BE_EMPTY}, key
        if key not in TEXTS:
            assert key.rpartition(".")[2] in load(key, "x"), key


def test_no_section_is_anything_else(load):
    for key in filter(is_section, keys()):
        for value in (None, 0, 1, "x", [], [1], True):
            assert load(key, value).startswith(f"command line: {key}: "), (key, value)


@pytest.mark.parametrize(
    "value", [[10**8], [10**9], [65537], [256] * 65, [0], [15], [None], ["x"], [256.0], [True], {}]
)
@pytest.mark.parametrize("key", ["encoder.stft_sizes", "encoder.discriminators.sizes"])
def test_windows(load, key, value):
    assert f"command line: {key}" in load(key, value)
    assert isinstance(load(key, [16, 65536]), RunConfig)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoder.gain_db", [0, 100_000]),
        ("encoder.gain_db", [-61, 0]),
        ("encoder.gain_db", [1, 0]),
        ("encoder.train.accumulate", 10**8),
        ("speaker.train.accumulate", 10**8),
        ("encoder.refine.batch_size", 10**8),
        ("speaker.lora.rank", 10**8),
        ("speaker.lora.alpha", 1e30),
        ("judge.rounds", 10**9),
        ("speaker.reference_seconds", [1, 1e9]),
        ("encoder.losses.sound", 1e30),
    ],
)
def test_numbers_that_a_machine_cannot_follow(load, key, value):
    assert load(key, value).startswith(f"command line: {key}")


def test_the_items_of_a_step_are_bounded_together(load):
    refusal = load("speaker.train", {"batch_size": 200, "accumulate": 200})
    assert "batch_size (200) times accumulate (200) is more than 16384" in refusal
    assert isinstance(load("speaker.train", {"batch_size": 128, "accumulate": 128}), RunConfig)


def test_defaults_lie_within_all_bounds(load):
    config = load("seed", 1)
    assert RunConfig.model_validate(config.model_dump(), strict=False) is not None
    for key in keys():
        value = config
        for part in key.split("."):
            value = getattr(value, part)
        assert not (isinstance(value, float) and not math.isfinite(value)), key


# ---- YAML that is more than it looks ---------------------------------------------------------------------------------


def exploding(levels: int, merged: bool) -> str:
    """Each line ten times the one before."""
    lines = ["a0: &a0 {k: 1}"]
    for level in range(levels):
        parts = ", ".join([f"*a{level}"] * 10)
        lines.append(f"a{level + 1}: &a{level + 1} " + (f"{{<<: [{parts}]}}" if merged else f"[{parts}]"))
    return "\n".join(lines)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("levels", [5, 9, 30])
def test_aliases_that_explode(tmp_path, levels, merged):
    path = tmp_path / "run.yaml"
    path.write_text(f"task: encoder\n{exploding(levels, merged)}\n")
    with pytest.raises(ConfigError, match=rf"run.yaml:\d+: more than {MAX_PARTS} values begin here"):
        load_run_config(path)


def test_aliases_that_do_not(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "task: encoder\nencoder: {train: &t {steps: 7, warmup_steps: 0}, refine: {<<: *t, batch_size: 2}}\n"
    )
    config = load_run_config(path)
    assert (config.encoder.train.steps, config.encoder.refine.steps, config.encoder.refine.batch_size) == (7, 7, 2)


def test_a_configuration_of_megabytes(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("task: encoder\n" + "# nothing\n" * 100_000)
    with pytest.raises(ConfigError, match="not readable as text"):
        load_run_config(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["0x" + "f" * 5000, "1" * 5000, "[" * 5000, "{a: " * 5000], ids=["hex", "int", "[", "{"]
)
def test_values_that_python_cannot_write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(f"task: encoder\nseed: {text}\n")
    with pytest.raises(ConfigError) as error:
        load_run_config(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse_yaml("[" * 5000, lambda line: "here")
