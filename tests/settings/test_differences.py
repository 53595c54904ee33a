"""What may change between two sittings of a run: its configuration and its checkpoints are judged by one list."""

import pytest

from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.settings.differences import config_differences
from mlx_voxclone.settings.training import FREE_ON_RESUME, LENGTHS, TrainSettings, changed


def other(value):
    """Another value of the same kind that a training may have."""
    if isinstance(value, list | tuple):
        return [0.5] * len(value)
    return 2 * value + 1 if isinstance(value, int) else (value or 1.0) / 2


def changed_config(config: RunConfig, path: str, key: str) -> RunConfig:
    """The same with another value of a key of a training's section."""
    section, train = path.split(".")
    of = getattr(getattr(config, section), train)
    of = of.model_copy(update={key: other(getattr(of, key))})
    return config.model_copy(update={section: getattr(config, section).model_copy(update={train: of})})


@pytest.mark.parametrize("path", ["encoder.train", "encoder.refine", "speaker.train"])
def test_both_judges_of_a_resume_agree_on_every_key_of_a_training(path):
    config, settings = RunConfig(task="clone", model="m"), TrainSettings(steps=1)
    section, train = path.split(".")
    keys = set(type(getattr(getattr(config, section), train)).model_fields)
    free = keys & (FREE_ON_RESUME | LENGTHS)
    assert len(free) == (2 if path == "encoder.refine" else 8)
    for key in sorted(keys):
        differing = config_differences(config.dump(), changed_config(config, path, key))
        assert [line.split(":")[0] for line in differing] == ([] if key in free else [f"{path}.{key}"]), key
        if key in TrainSettings.model_fields:
            now = {key: other(getattr(settings, key))} | ({"steps": 0} if key == "epochs" else {})
            differing = changed(settings.as_dict(), settings.model_copy(update=now).as_dict())
            assert [line.split(":")[0] for line in differing] == ([] if key in free else [key]), key


def test_keys_that_begin_like_free_ones_are_compared():
    """`data.cache` is free, and so is `say`; what merely begins so is not."""
    config = RunConfig(task="clone", model="m")
    assert config_differences(config.dump() + "\nsayings: 3\noutput_format: 1\n", config) == [
        "output_format: 1 -> null",
        "sayings: 3 -> null",
    ]
