"""Keys that configurations had once: refused by name, in one line that says what to do."""

import pytest
import yaml

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.settings.config import load_run_config, parse_set, schema_keys
from mlx_voxclone.settings.differences import config_differences
from mlx_voxclone.settings.removed import NOW, REMOVED


@pytest.fixture
def refusal(tmp_path):
    path = tmp_path / "run.yaml"

    def line(text, overrides=None):
        path.write_text("task: clone\n" + text)
        with pytest.raises(ConfigError) as caught:
            load_run_config(path, overrides)
        text = str(caught.value)
        assert "\n" not in text
        return text.replace(str(path), "FILE")

    return line


@pytest.mark.parametrize("key", REMOVED)
def test_a_removed_key_is_named_with_the_reason_and_what_to_do(key, refusal):
    head = f"{key}: this key was removed ({REMOVED[key]}); remove "
    assert refusal("", {key: "x"}) == f"command line: {head}it"
    nested, parts = "", key.split(".")
    for depth, part in enumerate(parts):
        nested += "  " * depth + part + ":" + ("\n" if depth < len(parts) - 1 else " 0.7\n")
    assert refusal(nested) == f"FILE: {head}the line"


def test_no_removed_key_is_one_that_there_is():
    there = set(schema_keys())
    assert not {key for key in there if any(key == one or key.startswith(one + ".") for one in REMOVED)}


def test_several_are_named_at_once(refusal):
    """The saved configuration of a run of an earlier version has all of them."""
    found = refusal("speaker: {label_smoothing: 0.0, code_noise: {semantic: 0.0, acoustic: 0.0}, silence_weight: 1.0}")
    assert found == (
        "FILE: speaker.label_smoothing: this key was removed (no measurement showed a gain); remove the line, and "
        "those of other removed keys: speaker.code_noise, speaker.silence_weight"
    )


def test_a_key_of_a_removed_section_is_the_section(refusal):
    assert refusal("", parse_set(["speaker.code_noise.semantic=0.1"])).startswith(
        "command line: speaker.code_noise: this"
    )


def test_a_line_that_remains_is_found_before_other_mistakes(refusal):
    assert "speaker.silence_weight: this key was removed" in refusal("speaker: {silence_weight: 1.0, loss: 3}")


# What a configuration may say of a removed key, as long as it is what is done anyway; and what it may not.
THE_SAME = {
    "encoder.refine": [
        ({"min_lr_ratio": 0.1, "log_every": 10, "eval_every": 100, "sample_every": 300, "grad_clip": "1e0"}, None),
        ({"min_lr_ratio": 0.02}, "min_lr_ratio"),
        ({"steps": 40, "save_every": 14}, None),
        ({"steps": 40, "save_every": 100}, "save_every"),
        ({"epochs": 2, "save_every": 500}, None),
        ({"grad_clip": True}, "grad_clip"),
    ],
    "encoder": [
        ({"codes": {"temperature": 1, "margin": 0.5}}, None),
        ({"codes": {}}, None),
        ({"codes": {"temperature": 1.0, "margin": 0.4}}, "codes"),
        ({"codes": 1.0}, "codes"),
    ],
    "encoder.losses": [
        ({"l1": 3.0, "stft": 3, "mel": 3.0, "commitment": 0.1, "feature_matching": 1.0, "distillation": 1.0}, None),
        ({"sound": 1.0, "l1": 1.0}, None),
        ({"sound": 1.0, "l1": 3.0}, "l1"),
        ({"sound": 0.0, "commitment": 0.0}, None),
        ({"sound": 0.0, "commitment": 0.1}, "commitment"),
    ],
    "encoder.pairs": [({"augmented": 0.5, "dispersed": 1.0, "heldout": 0.05}, None), ({"heldout": 0.2}, "heldout")],
    "speaker.losses": [
        ({"kept_semantic": 1.0, "kept_flow": 1.0}, None),
        ({"kept": 0.1, "kept_flow": 1.0}, "kept_flow"),
    ],
    "speaker.quantise": [({"group_size": 64}, None), ({"group_size": 32}, "group_size")],
    "distill": [({"heldout": 0.05, "losses": {"hidden": 1.0}}, None), ({"losses": {"hidden": 2.0}}, "losses")],
}


@pytest.mark.parametrize(("section", "keys", "other"), [(s, *case) for s, cases in THE_SAME.items() for case in cases])
def test_a_removed_key_that_says_what_is_done_anyway_changes_nothing(section, keys, other, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("task: clone\n")
    given = {f"{section}.{key}": value for key, value in keys.items()}
    if other is not None:
        with pytest.raises(ConfigError, match=f"{section}.{other}: this key was removed"):
            load_run_config(path, given)
        return
    left = {key: value for key, value in given.items() if key in schema_keys()}
    config = load_run_config(path, left)
    assert load_run_config(path, given).dump() == config.dump()
    saved = yaml.safe_load(config.dump())
    place = saved
    for part in section.split("."):
        place = place[part]
    place.update(keys)
    assert config_differences(yaml.safe_dump(saved), config) == []


@pytest.mark.parametrize("weight", [3.0, 1.0])
def test_several_keys_of_one_value_are_the_one_in_their_place(weight, tmp_path):
    """A run of an earlier version, which names them all, goes on; with other values it does not."""
    path = tmp_path / "run.yaml"
    path.write_text("task: clone\n")
    config = load_run_config(path, {"encoder.losses.sound": weight, "speaker.losses.kept": weight})
    saved = yaml.safe_load(config.dump())
    for section, new, former in (
        ("encoder", "sound", ("l1", "stft", "mel")),
        ("speaker", "kept", ("kept_semantic", "kept_flow")),
    ):
        del saved[section]["losses"][new]
        saved[section]["losses"] |= dict.fromkeys(former, weight)
    assert config_differences(yaml.safe_dump(saved), config) == []
    path.write_text(yaml.safe_dump(saved))
    assert load_run_config(path).dump() == config.dump()
    path.write_text("task: clone\n")
    other = load_run_config(path, {"encoder.losses.sound": weight, "speaker.losses.kept": 0.5})
    assert config_differences(yaml.safe_dump(saved), other) == [f"speaker.losses.kept: {weight} -> 0.5"]
    saved["encoder"]["losses"]["mel"] = 2.0
    assert "encoder.losses.mel" in config_differences(yaml.safe_dump(saved), config)[0]


def test_what_is_done_in_place_of_a_removed_key_is_told_of_removed_keys_alone():
    assert set(NOW) <= set(REMOVED)


def test_a_run_of_an_earlier_version_is_named_as_such(tmp_path):
    """Where its configuration is given anew, so that the saved one is only compared."""
    path = tmp_path / "run.yaml"
    path.write_text("task: speaker\n")
    config = load_run_config(path)
    saved = config.dump().replace("encoder:\n", "encoder:\n  mel: {n_fft: 512}\n", 1)
    saved = saved.replace("  train:\n", "  train:\n    eps: 0.1\n", 1)
    assert config_differences(saved, config) == [
        "keys that were removed, remove their lines from its config.yaml: encoder.mel, encoder.train.eps"
    ]
