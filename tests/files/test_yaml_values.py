"""Values of YAML that mean something else than what they look like."""

import pytest
import yaml

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.settings.config import load_run_config, parse_set
from mlx_voxclone.settings.schema import DataSection


def loaded(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(f"task: speaker\n{text}\n")
    return load_run_config(path)


@pytest.mark.parametrize(
    "number", ["0500", "0_5", "1_000", "1_", "0x1F4", "0b111", "0o500", "1:30", "08", "-0500", "+1_0"]
)
def test_whole_numbers_that_few_read_so(tmp_path, number):
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, f"speaker:\n  train:\n    steps: {number}")
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'c.yaml'}:4: {number} is a number that YAML reads as ")
    assert text.endswith("write it in plain decimal (500, 0.5, 1e-5), or in quotes if it is text")
    read = yaml.safe_load(number)
    assert f"reads as {'text' if isinstance(read, str) else read};" in text
    with pytest.raises(ConfigError, match="is a number that YAML reads"):
        parse_set([f"speaker.train.steps={number}"])


@pytest.mark.parametrize("number", ["1_5", "1_5.5", "1:30.5", "0x1", "190:20:30"])
def test_other_numbers_that_few_read_so(tmp_path, number):
    with pytest.raises(ConfigError, match=r"c.yaml:3: .* is a number that YAML reads"):
        loaded(tmp_path, f"data:\n  max_seconds: {number}")


@pytest.mark.parametrize("text", ['"1_5"', "'1e1_0'", "1e1_0", '"١٥"', "15,5", "0x", "abc"])
def test_texts_that_are_no_decimal_number(tmp_path, text):
    with pytest.raises(ConfigError, match="data.max_seconds: expected a number"):
        loaded(tmp_path, f"data:\n  max_seconds: {text}")


@pytest.mark.parametrize(
    ("text", "value"),
    [("15", 15), ("+15", 15), ("15.", 15), ("1.5e+1", 15), ("15e0", 15), ("1.5e1", 15), ('"15"', 15), ("015.0", 15)],
)
def test_plain_decimals_are_taken(tmp_path, text, value):
    assert loaded(tmp_path, f"data:\n  max_seconds: {text}").data.max_seconds == value


def test_zero_is_zero(tmp_path):
    assert loaded(tmp_path, "seed: 0").seed == 0


@pytest.mark.parametrize("date", ["2024-01-01", "2024-01-01 10:00:00", "2001-12-14t21:59:43.10-05:00"])
@pytest.mark.parametrize("key", ["data:\n  speaker", "say:\n  -", "voice"])
def test_dates(tmp_path, date, key):
    line = f"{key} {date}" if key.endswith("-") else f"{key}: {date}"
    with pytest.raises(ConfigError, match=r"c.yaml:\d: .* is a date to YAML; put it in quotes if it is text"):
        loaded(tmp_path, line)
    assert loaded(tmp_path, f'data:\n  speaker: "{date}"').data.speaker == date


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "true", "No", "OFF"])
@pytest.mark.parametrize("key", ["language", "speaker", "whisper_model", "heldout_speakers"])
def test_words_that_yaml_takes_for_true_and_false(tmp_path, word, key):
    value = f"[{word}]" if isinstance(DataSection().model_dump()[key], list) else word
    with pytest.raises(
        ConfigError, match=r"expected text; got (true|false) \(YAML reads yes, no, on and off as true or false"
    ):
        loaded(tmp_path, f"data:\n  {key}: {value}")


def test_numbers_as_names_stand_in_quotes(tmp_path):
    with pytest.raises(ConfigError, match="007 is a number that YAML reads as 7"):
        loaded(tmp_path, "data:\n  speaker: 007")
    assert loaded(tmp_path, "data:\n  speaker: '007'").data.speaker == "007"
    with pytest.raises(ConfigError, match="data.speaker: expected text; got 12"):
        loaded(tmp_path, "data:\n  speaker: 12")
