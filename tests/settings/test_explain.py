"""What `voxclone config` says: of keys, sections, shipped configurations; and a configuration printed complete."""

from pathlib import Path

import pytest
import yaml
from places import ROOT

import mlx_voxclone
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.settings.config import RunConfig, load_run_config, schema_keys, stages_of
from mlx_voxclone.settings.explain import all_keys, comments, configurations, explain, sections, summaries

KEYS = all_keys()


def config(capsys, *arguments) -> str:
    assert voxclone(["config", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments) -> str:
    assert voxclone(["config", *map(str, arguments)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    return error


def test_a_key_in_full(capsys):
    assert config(capsys, "speaker.lora.rank").splitlines() == [
        "speaker.lora.rank",
        "  type     whole number",
        "  default  16",
        "  bounds   1 to 1024",
        "  meaning  width of the adapters",
        "  used by  tasks distill, language, speaker, clone (mlx_voxclone/adapters/)",
    ]
    text = config(capsys, "data.max_seconds")
    assert "  bounds   1 to 600\n  unit     seconds\n" in text


@pytest.mark.parametrize(
    ("key", "kind", "bounds", "default"),
    [
        ("task", "one of encoder | distill | language | speaker | clone", None, "none"),
        ("seed", "whole number", "at least 0", "0"),
        ("data.path", "path or text, or null", None, "null"),
        ("data.min_seconds", "number", "above 0", "1.0"),
        ("data.heldout", "number", "at least 0, below 1", "0.1"),
        ("encoder.pairs.path", "auto, or list, each a path", None, "auto"),
        ("encoder.gain_db", "list of 2, each a number, -60 to 60", None, "[-6.0, 6.0]"),
        ("speaker.quantise.bits", "one of 0 | 4 | 8", None, "8"),
        ("speaker.lora.layers", "whole number, or null", "1 to 1000", "null"),
        ("voice", "text, or null", "^[a-z0-9_-]+$", "null"),
    ],
)
def test_types_bounds_and_defaults(key, kind, bounds, default):
    found = explain(key)
    assert (found.kind, found.bounds, found.default) == (kind, bounds, default)


def test_every_key_is_explained():
    """Each has a comment and a place that uses it; its default, read again, is the default."""
    defaults = RunConfig(task="clone").model_dump(mode="json")
    for key in KEYS:
        found = explain(key)
        assert found.comment, key
        place = found.used.partition("(mlx_voxclone/")[2].removesuffix(")")
        assert (Path(mlx_voxclone.__file__).parent / place).exists(), found.used
        if key != "task":
            value = defaults
            for part in key.split("."):
                value = value[part]
            read = yaml.safe_load(found.default)
            assert (float(read) if isinstance(value, float) else read) == value, key
    assert all(comments()[key] for key in set(schema_keys()) - set(KEYS))


def test_the_tasks_of_a_key_are_those_that_train_with_it():
    for task in ("encoder", "distill", "language", "speaker", "clone"):
        for stage in ("encoder", "speaker"):
            used = explain(f"{stage}.train.steps").used.partition(" (")[0]
            assert (task in used.removeprefix("tasks ").split(", ")) == (stage in stages_of(task))


@pytest.mark.parametrize("key", [key for key in KEYS if key.startswith(("speaker", "data", "encoder.pairs"))])
def test_bounds_are_those_that_are_kept(key):
    """A value beyond the bounds is refused, one at a closed bound is not beyond them."""
    found = explain(key)
    if found.kind not in ("number", "whole number") or not found.bounds:
        return
    low, high = None, None
    if " to " in found.bounds:
        low, high = found.bounds.split(" to ")
    for part in found.bounds.split(", "):
        low = part.removeprefix("at least ") if part.startswith("at least ") else low
        high = part.removeprefix("at most ") if part.startswith("at most ") else high
        if part.startswith(("above ", "below ")):
            with pytest.raises(ConfigError, match=f"must be {part};"):
                loaded(key, part.split()[1])
    for bound, step, word in ((low, -1, "at least"), (high, 1, "at most")):
        if bound is not None:
            with pytest.raises(ConfigError, match=f"{key}: must be {word}"):
                loaded(key, str(yaml.safe_load(bound) + step))


def loaded(key: str, value: str) -> RunConfig:
    return load_run_config(ROOT / "configs" / "voxtral_speaker.yaml", {key: yaml.safe_load(value)})


def test_a_section_lists_its_keys_and_sections(capsys):
    text = config(capsys, "encoder")
    for name in ("crop_seconds", "encoder.losses", "encoder.train"):
        assert f"\n  {name} " in f"\n{text}"
    assert "0.08" not in text
    assert max(map(len, text.splitlines())) <= 130
    assert set(sections()) == {"data", "encoder", "judge", "speaker", "distill", "bake"}


def test_the_overview(capsys):
    text = config(capsys)
    for name in (*sections(), "seed", "voxtral_speaker", "profiles/mac-32gb"):
        assert f"\n  {name} " in text


def test_shipped_configurations(capsys):
    files = {
        path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in (ROOT / "configs").rglob("*.yaml")
    }
    assert set(configurations()) == files == set(summaries())
    text = config(capsys, "--profiles")
    assert len(text.splitlines()) == len(files)
    assert "profiles/mac-32gb            The main job on a Mac with 32 GB." in text
    assert all(summaries().values())


@pytest.mark.parametrize("name", ["voxtral_encoder", "profiles/mac-16gb", "mac-16gb"])
def test_a_printed_configuration_loads_again_equal(capsys, tmp_path, name):
    text = config(capsys, "--print", name, "--set", "seed=4", "--set", "data.heldout=0.2")
    (tmp_path / "again.yaml").write_text(text)
    printed = load_run_config(tmp_path / "again.yaml")
    wanted = load_run_config(configurations_by_any(name), {"seed": 4, "data.heldout": 0.2})
    assert printed.model_dump() == wanted.model_dump()
    assert config(capsys, "--print", tmp_path / "again.yaml") == text


def configurations_by_any(name: str) -> Path:
    return next(path for known, path in configurations().items() if known.endswith(name))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["speaker.lora.rnak"], "speaker.lora.rnak: unknown key; did you mean speaker.lora.rank?"),
        (["rank"], "rank: unknown key; did you mean speaker.lora.rank?"),
        (["speakr"], "speakr: unknown key; did you mean speaker"),
        (["Speaker"], "Speaker: unknown key; did you mean speaker?"),
        (["SPEAKER.LORA.RANK"], "SPEAKER.LORA.RANK: unknown key; did you mean speaker.lora.rank?"),
        (["speaker.Lora.rank"], "speaker.Lora.rank: unknown key; did you mean speaker.lora.rank?"),
        (["lora.rank"], "lora.rank: unknown key; did you mean speaker.lora.rank?"),
        (["speeker.lora.rnak"], "speeker.lora.rnak: unknown key; did you mean speaker.lora.rank?"),
        (
            ["voxtral_Speakr"],
            "voxtral_Speakr: unknown key; did you mean the configuration voxtral_speaker?"
            " `voxclone config --print voxtral_speaker` prints it",
        ),
        (["zzz"], "zzz: unknown key; the top level has task, model"),
        (
            ["mac-32gb"],
            "mac-32gb: is the name of a configuration, not a key; `voxclone config --print mac-32gb` prints",
        ),
        (
            ["some/mac-32gb.yaml"],
            "some/mac-32gb.yaml: is the name of a configuration, not a key; `voxclone config --print mac-32gb` prints",
        ),
        (
            ["own.yaml"],
            "own.yaml: is the name of a configuration, not a key; `voxclone config --print own.yaml` prints it",
        ),
        (["seed.x"], "seed.x: unknown key; seed is a value and has no keys"),
        (
            ["--print", "mac-17gb"],
            "mac-17gb: no such configuration file; did you mean mac-16gb? by name there are ",
        ),
        (["--print", "voxtral_speaker", "--set", "sed=1"], "command line: sed: unknown key; did you mean seed?"),
        (["--set", "seed=1"], "--set changes a configuration; name one with --print"),
        (["data", "--profiles"], "KEY, --profiles and --print exclude each other"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, text):
    assert f"error: {text}" in refused(capsys, *arguments)
