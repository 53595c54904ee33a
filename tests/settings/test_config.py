"""Run configurations: what is accepted, what is refused and in which words, and that the shipped files are whole."""

import re
from pathlib import Path

import pytest
import yaml
from places import ROOT

from mlx_voxclone.cli.options import DEFAULT_MODEL
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.shards.store import CACHE_GB
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.settings.config import RunConfig, load_run_config, parse_set, schema_keys
from mlx_voxclone.settings.encoder import EncoderSection, RefineSection
from mlx_voxclone.settings.fields import AUTO, TrainSection
from mlx_voxclone.settings.schema import DataSection
from mlx_voxclone.settings.training import TrainSettings

CONFIGS = ROOT / "configs"
MAIN = CONFIGS / "voxtral_speaker.yaml"
SHIPPED = sorted(CONFIGS.rglob("*.yaml"))


def write(directory: Path, text: str, name: str = "run.yaml") -> Path:
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(*args, **keywords) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run_config(*args, **keywords)
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_exponents_without_a_dot_are_numbers(tmp_path):
    assert isinstance(yaml.safe_load("2e-5"), str), "PyYAML has learnt it: the conversion can go"
    text = "task: encoder\nencoder: {train: {learning_rate: 2e-5}, gain_db: [-1e-1, 0.9]}"
    encoder = load_run_config(write(tmp_path, text)).encoder
    assert encoder.train.learning_rate == 2e-5
    assert encoder.gain_db == [-0.1, 0.9]
    config = load_run_config(write(tmp_path, "task: speaker"), parse_set(["speaker.train.learning_rate=3e-6"]))
    assert config.speaker.train.learning_rate == 3e-6


def test_a_text_that_looks_like_a_number_stays_text(tmp_path):
    assert load_run_config(write(tmp_path, "task: encoder\ndata: {speaker: 1e5}")).data.speaker == "1e5"


def test_include_lies_underneath(tmp_path):
    write(tmp_path, "task: clone\nseed: 1\ndata: {path: a, heldout: 0.2}\nencoder: {gain_db: [-3, 3]}", "base.yaml")
    write(tmp_path, "include: base.yaml\nseed: 2", "middle.yaml")
    top = "include: ../middle.yaml\ndata: {heldout: 0.3}\nencoder: {gain_db: [0, 1]}\nspeaker:"
    config = load_run_config(write(tmp_path / "sub", top, "top.yaml"))
    assert (config.seed, config.data.path, config.data.heldout) == (2, Path("a"), 0.3)
    assert config.encoder.gain_db == [0, 1]
    assert config.where("data.path").endswith("base.yaml")
    assert config.where("data.heldout").endswith("top.yaml")
    assert config.where("seed").endswith("middle.yaml")


def test_an_empty_section_means_its_defaults(tmp_path):
    write(tmp_path, "task: clone\ndata: {heldout: 0.2}", "base.yaml")
    config = load_run_config(write(tmp_path, "include: base.yaml\ndata:\nencoder:\n  train:\n"))
    assert config.data.heldout == 0.2
    assert config.encoder == RunConfig(task="clone").encoder


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_dump_loads_again_as_the_same(path, tmp_path):
    config = load_run_config(path, {"data.path": "somewhere", "encoder.train.learning_rate": 2e-5})
    assert load_run_config(write(tmp_path, config.dump())).dump() == config.dump()
    assert set(_dotted(yaml.safe_load(config.dump()))) == set(schema_keys())


def _dotted(content, prefix=""):
    for key, value in content.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {pth: x}", "data.pth: unknown key; did you mean data.path?"),
        ("spekaer: {}", "spekaer: unknown key; did you mean speaker?"),
        ("speaker: {lora: {rnak: 1}}", "speaker.lora.rnak: unknown key; did you mean speaker.lora.rank?"),
        ("lora: {rank: 1}", "lora: unknown key; did you mean speaker.lora?"),
        (
            "data: {learning_rate: 1}",
            "did you mean encoder.discriminators.learning_rate or encoder.train.learning_rate or encoder.refine.",
        ),
        ("bake: {zzz: 1}", "bake.zzz: unknown key; bake has output, reference, target"),
        ("zzz: 2", "zzz: unknown key; the top level has task, model"),
        ('data: {path: "~nosuchuser/x"}', "data.path: no home directory is known for ~nosuchuser; write ./~nosuchuser"),
        ('data: {path: "a\\0b"}', "data.path: expected a path; got text with a zero character in it"),
        ("data.path: x", "data.path: write the sections as nested lines"),
        ("data: 3", "data: expected a section of keys; got 3"),
        ("data: {path: 3}", "data.path: expected a path; got 3"),
        ("data: {path: ''}", 'data.path: expected a path; got ""'),
        ("data: {language: no}", "data.language: expected text; got false (YAML reads yes, no"),
        ("data: {normalise: 1}", "data.normalise: expected true or false; got 1"),
        ("data: {heldout: 1.0}", "data.heldout: must be below 1; got 1.0"),
        ("data: {min_seconds: 30}", "data: min_seconds (30) must be below max_seconds (20)"),
        ("encoder: {train: {steps: many}}", 'encoder.train.steps: expected a whole number; got "many"'),
        ("encoder: {train: {steps: 1.5}}", "encoder.train.steps: expected a whole number; got 1.5"),
        ("encoder: {train: {steps: '5'}}", 'encoder.train.steps: expected a whole number; got "5"'),
        ("encoder: {train: {steps: 0}}", "encoder.train: steps and epochs are both 0"),
        ("encoder: {train: {steps: 200}}", "encoder.train: warmup_steps (200) must be below steps (200)"),
        ("encoder: {train: {learning_rate: -1}}", "encoder.train.learning_rate: must be above 0; got -1"),
        ("encoder: {train: {learning_rate: fast}}", 'encoder.train.learning_rate: expected a number; got "fast"'),
        ("encoder: {train: {learning_rate: yes}}", "encoder.train.learning_rate: expected a number; got true"),
        ("encoder: {train: {learning_rate: .inf}}", "encoder.train.learning_rate: expected a finite number"),
        ("encoder: {crop_seconds: 1e9}", "encoder.crop_seconds: must be at most 60; got"),
        ("encoder: {crop_seconds: 0.01}", "encoder.crop_seconds: must be at least 0.08; got 0.01"),
        ("encoder: {gain_db: [3, 1]}", "encoder.gain_db: expected [low, high]; got [3.0, 1.0]"),
        ("encoder: {gain_db: [3]}", "encoder.gain_db: expected at least 2 values; got [3]"),
        ("encoder: {stft_sizes: [512, 3]}", "encoder.stft_sizes[1]: must be at least 16; got 3"),
        (
            "encoder: {pairs: {path: null}, losses: {sound: 0}}",
            "encoder: losses.sound is 0 and there are no pairs",
        ),
        (
            "encoder: {losses: {sound: 0, semantic_code: 0, acoustic_code: 0}, pairs: {path: x}}",
            "encoder: the losses of the sound and of the codes are all 0",
        ),
        ("encoder: {pairs: {path: 3}}", "encoder.pairs.path: expected a list; got 3"),
        ("encoder: {pairs: {path: [a, '']}}", 'encoder.pairs.path[1]: expected a path; got ""'),
        ("encoder: {pairs: {per_voice: 0}}", "encoder.pairs.per_voice: must be at least 1; got 0"),
        ("encoder: {pairs: {moves: -1}}", "encoder.pairs.moves: must be at least 0; got -1"),
        ("encoder: {pairs: {max_seconds: 0}}", "encoder.pairs.max_seconds: must be at least 0.08; got 0"),
        ("encoder: {pairs: {share: 1.5}}", "encoder.pairs.share: must be at most 1; got 1.5"),
        ("encoder: {distillation: {heads: all}}", "encoder.distillation.heads"),
        ("encoder: {discriminators: {sizes: [8]}}", "encoder.discriminators.sizes[0]: must be at least 16; got 8"),
        ("speaker: {lora: {rank: 0}}", "speaker.lora.rank: must be at least 1; got 0"),
        ("speaker: {lora: {rank: 0, alpha: 0}}", "got 0 (and 1 more)"),
        ("speaker: {lora: {targets: [wq, wx]}}", "speaker.lora.targets[1]: expected one of wq, wk"),
        ("speaker: {lora: {targets: [wq, wv, wq]}}", "speaker.lora.targets: expected each name once; got wq more"),
        ("speaker: {max_seconds: 0.01}", "speaker.max_seconds: must be at least 0.08; got 0.01"),
        ("speaker: {quantise: {bits: 3}}", "speaker.quantise.bits: expected one of 0, 4 or 8; got 3"),
        ("speaker: {losses: {semantic: 0, flow: 0}}", "speaker.losses: semantic and flow are both 0"),
        ("voice: My Voice", "voice: only a-z, 0-9, _ and -"),
        ("seed: -1", "seed: must be at least 0; got -1"),
        ("device: tpu", 'device: expected one of auto, gpu or cpu; got "tpu"'),
        ("say: [a, '']", "say[1]: expected some text"),
    ],
)
def test_refusals_name_file_key_and_remedy(text, message, tmp_path):
    path = write(tmp_path, f"task: clone\n{text}\n")
    said = refusal(path)
    assert said.startswith(f"{path}: ")
    assert message in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: clone\ndata: {path: a: b}", ":2: not valid YAML"),
        ("task: clone\n\tdata: 1", ":2: not valid YAML"),
        ("- task", ":1: expected `key: value` lines"),
        ("just words", ":1: expected `key: value` lines"),
        ("# nothing", ": the file is empty"),
        ("seed: 1", ": task: missing; this key has no default"),
        ("task: clone\nseed: 1\nseed: 2", ":3: seed: this key appears twice"),
        ("task: clone\ndata:\n  path: a\n  path: b", ":4: path: this key appears twice"),
        ("task: clone\n1: 2", ':2: keys are text, for example seed; got "1"'),
        ("task: clone\nnull: 2", ':2: keys are text, for example seed; got "null"'),
        ("task: clone\ndata:\n  ? \n  : 2", ':3: keys are text, for example seed; got ""'),
        ("task: clone\n'': 2", ':2: keys are text, for example seed; got ""'),
        ("task: clone\n? [a]\n: 2", ":2: keys are text, for example seed; got a list"),
        ("task: clone\nsay: " + "[" * 2000, ": not valid YAML (nested too deeply)"),
        ("task: clone\nsay: " + "[" * 2000 + "]" * 2000, ": not valid YAML (nested too deeply)"),
        ("task: clone\nseed: 2024-13-45", ": not valid YAML (month must be in 1..12"),
        ("task: clone\nsay: &a [*a]", ":2: this part contains itself"),
        ("task: !!python/object/apply:os.getcwd []", ":1: not valid YAML"),
        ("task: clone\ninclude: [a, b]", ": include: expected the path of one file"),
        ("task: clone\ninclude: gone.yaml", "gone.yaml does not exist (the path is relative to the including file)"),
        ("task: clone\ninclude: run.yaml", ": include: run.yaml includes this file again"),
    ],
)
def test_broken_files(text, message, tmp_path):
    path = write(tmp_path, text)
    said = refusal(path)
    assert said.startswith(str(path))
    assert message in said


def test_files_that_cannot_be_read(tmp_path):
    assert refusal(tmp_path / "gone.yaml") == f"{tmp_path}/gone.yaml: no such configuration file"
    assert "not readable as text" in refusal(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not readable as text" in refusal(tmp_path / "binary.yaml")


def test_a_mistake_is_blamed_on_the_file_that_made_it(tmp_path):
    write(tmp_path, "task: clone\nspeaker: {lora: {rank: -1}}", "base.yaml")
    assert refusal(write(tmp_path, "include: base.yaml\nseed: 3")).startswith(
        f"{tmp_path}/base.yaml: speaker.lora.rank"
    )
    write(tmp_path, "task: clone\ndata: {pth: -1}", "base.yaml")
    assert refusal(write(tmp_path, "include: base.yaml\nseed: 3")).startswith(f"{tmp_path}/base.yaml: data.pth")


# ---- overrides -------------------------------------------------------------------------------------------------------


def test_set_overrides_with_yaml_values(tmp_path):
    path = write(tmp_path, "task: clone\ndata: {path: a}")
    given = ["data.path=b c", "speaker.lora.targets=[wq, wv]", "encoder.weights=null", "speaker.lora.layers=4"]
    config = load_run_config(path, parse_set(given))
    assert config.data.path == Path("b c")
    assert config.speaker.lora.targets == ["wq", "wv"]
    assert config.encoder.weights is None
    assert config.speaker.lora.layers == 4
    assert config.where("data.path") == "command line"
    assert config.where("data.heldout") == str(path)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("data.pth=x", "command line: data.pth: unknown key; did you mean data.path?"),
        ("speaker.lora.rank=0", "command line: speaker.lora.rank: must be at least 1; got 0"),
        ("seed.x=1", "command line: seed.x: seed is not a section"),
        ("data={pth: 1}", "command line: data.pth: unknown key"),
        ("zzz.x=1", "command line: zzz: unknown key; the top level has task"),
    ],
)
def test_wrong_overrides(assignment, message, tmp_path):
    assert refusal(write(tmp_path, "task: clone\nseed: 1"), parse_set([assignment])).startswith(message)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        *((text, "expected KEY=VALUE") for text in ("data.path", "=3", ".=1", "data.=1", ".data=1", "data..path=1")),
        ("data.path=[1", "not valid YAML (expected"),
        ("say=" + "[" * 2000, "not valid YAML (nested too deeply)"),
        ("seed=2024-13-45", "not valid YAML (month must be"),
        ("data={1: 2}", 'keys are text, for example seed; got "1"'),
        ("data=&a {x: *a}", "this part contains itself"),
    ],
    ids=lambda text: text[:12],
)
def test_set_that_is_none(assignment, message):
    with pytest.raises(ConfigError) as caught:
        parse_set([assignment])
    assert str(caught.value).startswith("--set ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_yaml_merge_keys_work(tmp_path):
    text = "task: clone\nencoder: &a {train: {steps: 900}}\nspeaker:\n  <<: *a\n"
    assert load_run_config(write(tmp_path, text)).speaker.train.steps == 900


def test_flags_reach_the_stages_of_the_task(tmp_path):
    clone, encoder = write(tmp_path, "task: clone", "c.yaml"), write(tmp_path, "task: encoder", "e.yaml")
    config = load_run_config(clone, max_steps=7, learning_rate=1e-3, lora_rank=4)
    assert (config.encoder.train.steps, config.speaker.train.steps) == (7, 7)
    assert (config.encoder.train.learning_rate, config.speaker.train.learning_rate) == (2e-4, 1e-3)
    assert config.speaker.lora.rank == 4
    assert load_run_config(encoder, learning_rate=1e-3).encoder.train.learning_rate == 1e-3
    assert "--lora-rank" in refusal(encoder, lora_rank=4)
    assert "--max-steps and --epochs" in refusal(clone, max_steps=1, epochs=1)
    assert "encoder.train.steps: must be at least 0" in refusal(clone, max_steps=-1)


def test_epochs_decide_over_steps_and_max_steps_over_epochs(tmp_path):
    path = write(tmp_path, "task: speaker\nspeaker: {train: {epochs: 3}}")
    train = load_run_config(path).speaker.train
    assert (train.steps, train.epochs) == (0, 3)
    train = load_run_config(path, max_steps=5).speaker.train
    assert (train.steps, train.epochs) == (5, 0)
    train = load_run_config(MAIN, epochs=2).encoder.train
    assert (train.steps, train.epochs) == (0, 2)
    train = load_run_config(path, {"speaker.train.steps": 7}).speaker.train  # what is given, over what the file says
    assert (train.steps, train.epochs) == (7, 0)
    train = load_run_config(path, {"speaker.train.epochs": 4}).speaker.train
    assert (train.steps, train.epochs) == (0, 4)
    for steps in ({"overrides": {"speaker.train.steps": 7}}, {"max_steps": 7}):  # of two that are given epochs decide
        steps["overrides"] = steps.get("overrides", {}) | {"speaker.train.epochs": 4}
        train = load_run_config(path, **steps).speaker.train
        assert (train.steps, train.epochs) == (0, 4)


@pytest.mark.parametrize(("steps", "warmup"), [(5, 0), (10, 1), (1999, 199), (2000, 200), (4000, 200)])
def test_max_steps_shortens_a_long_warmup_to_a_tenth(steps, warmup):
    config = load_run_config(MAIN, max_steps=steps)
    assert (config.encoder.train.steps, config.encoder.train.warmup_steps) == (steps, warmup)
    assert config.speaker.train.warmup_steps == min(20, steps // 10)


@pytest.mark.parametrize(("steps", "warmup"), [(40, 4), (200, 20), (201, 200), (0, 200)])
def test_so_do_steps_on_the_command_line_that_it_would_exceed(steps, warmup):
    given = {"encoder.train.steps": steps} | ({"encoder.train.epochs": 1} if steps == 0 else {})
    config = load_run_config(MAIN, given)
    assert (config.encoder.train.steps, config.encoder.train.warmup_steps) == (steps, warmup)
    assert config.speaker.train.warmup_steps == load_run_config(MAIN).speaker.train.warmup_steps
    with pytest.raises(ConfigError, match=r"warmup_steps \(300\) must be below steps \(200\)"):
        load_run_config(MAIN, {"encoder.train.steps": 200, "encoder.train.warmup_steps": 300})


def test_a_warmup_that_is_named_stays(tmp_path):
    config = load_run_config(MAIN, {"encoder.train.warmup_steps": 7}, max_steps=8)
    assert (config.encoder.train.warmup_steps, config.speaker.train.warmup_steps) == (7, 0)
    path = write(tmp_path, "task: encoder\nencoder: {train: {warmup_steps: 3}}")
    assert load_run_config(path, max_steps=100).encoder.train.warmup_steps == 3
    assert load_run_config(path, max_steps=4, shorten_warmup=False).encoder.train.warmup_steps == 3
    assert load_run_config(MAIN, epochs=1).encoder.train.warmup_steps == 200  # only the data can say how many steps
    said = refusal(write(tmp_path, "task: encoder\nencoder: {train: {warmup_steps: many}}"), max_steps=4)
    assert "encoder.train.warmup_steps: expected a whole number" in said


# ---- paths -----------------------------------------------------------------------------------------------------------


def test_missing_paths_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, "task: clone\ndata: {path: here}\nspeaker: {encoder: enc.safetensors}")
    with pytest.raises(ConfigError, match=r"run.yaml: data.path: here does not exist \(seen from "):
        load_run_config(path).check_paths()
    (tmp_path / "here").mkdir()
    with pytest.raises(ConfigError, match=r"run.yaml: speaker.encoder: enc.safetensors does not exist"):
        load_run_config(path).check_paths()
    config = load_run_config(path, {"task": "encoder"})
    assert config.check_paths() is config  # the encoder's task does not read speaker.encoder
    with pytest.raises(ConfigError, match=r"command line: data.path: missing; name a folder of audio"):
        load_run_config(path, {"data.path": None}).check_paths()


def test_automatic_pairs_or_paths(tmp_path, monkeypatch):
    """`auto` is no path; a directory of that name is, in a list."""
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    text = "task: clone\ndata: {path: here}\nencoder: {pairs: {path: %s}}"

    def loaded(path):
        config = load_run_config(write(tmp_path, text % path))
        again = load_run_config(write(tmp_path, config.dump(), "again.yaml"))
        assert again.model_dump() == config.model_dump()
        return config

    assert loaded("auto").check_paths().encoder.pairs.path == AUTO
    assert loaded("null").encoder.pairs.path == []
    assert loaded("here").check_paths().encoder.pairs.path == [Path("here")]
    with pytest.raises(ConfigError, match=r"encoder.pairs.path\[0\]: auto does not exist"):
        loaded("[auto]").check_paths()
    missing = {"encoder.pairs.texts": "gone.txt"}
    with pytest.raises(ConfigError, match="encoder.pairs.texts: gone.txt does not exist"):
        load_run_config(write(tmp_path, text % "auto"), missing).check_paths()
    load_run_config(write(tmp_path, text % "null"), missing).check_paths()


def test_directories_of_a_run():
    assert RunConfig(task="clone", voice="ann").run_dir == Path("runs/clone-ann")
    assert RunConfig(task="encoder").run_dir == Path("runs/encoder")
    config = RunConfig(task="clone", output="~/x")
    assert config.run_dir == Path.home() / "x"
    assert config.baked_dir == Path.home() / "x" / "baked"
    assert config.stages == ("encoder", "speaker")


# ---- the shipped files and the neighbours ----------------------------------------------------------------------------


def documented_keys(text: str) -> set[str]:
    """Dotted keys whose line carries a comment, by indentation."""
    found, stack = set(), []
    for line in text.splitlines():
        match = re.match(r"( *)([a-z0-9_]+):([^#]*)(#.*\w.*)?$", line)
        if match:
            indent, key, _, comment = match.groups()
            stack = [entry for entry in stack if entry[0] < len(indent)] + [(len(indent), key)]
            if comment:
                found.add(".".join(name for _, name in stack))
    return found


def test_every_key_is_documented_in_the_main_file():
    text = MAIN.read_text()
    sections = {key.rpartition(".")[0] for key in schema_keys()}
    missing = set(schema_keys()) - documented_keys(text) - sections
    assert not missing
    assert sections - {""} <= set(_dotted(yaml.safe_load(text)))


def test_the_main_file_shows_the_defaults():
    """What the file says is the default is the default: all but the data's path and the sentences."""
    given, default = load_run_config(MAIN).model_dump(), RunConfig(task="clone").model_dump()
    assert given.pop("say")
    assert given["data"].pop("path") == Path("recordings")
    default.pop("say")
    default["data"].pop("path")
    assert given == default


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_load_and_say_how_paths_are_read(path):
    config = load_run_config(path)
    if path.parent == CONFIGS:
        assert "relative to the directory" in re.sub(r"\s*#?\s+", " ", path.read_text())
        return
    task = "encoder" if path.stem.startswith("encoder-") else "clone"
    main = load_run_config(CONFIGS / "voxtral_encoder.yaml" if task == "encoder" else MAIN)
    assert config.task == task
    assert config.dump() != main.dump(), "a profile that changes nothing"
    section = "encoder" if task == "encoder" else "speaker"
    ours, theirs = (getattr(c, section).train for c in (config, main))
    assert ours.batch_size * ours.accumulate == theirs.batch_size * theirs.accumulate
    if task == "clone":  # both trainings of the encoder fit into the same memory
        refine = config.encoder.refine
        assert refine.batch_size <= config.encoder.train.batch_size
        assert refine.batch_size * refine.accumulate == main.encoder.refine.batch_size * main.encoder.refine.accumulate


def test_train_section_has_the_trainers_settings():
    own = {"grad_clip", "precision", "seed", "stop_after"}
    assert {name: TrainSettings.model_fields[name].default for name in TrainSettings.model_fields.keys() - own} == {
        name: field.default for name, field in TrainSection.model_fields.items()
    }
    config = load_run_config(MAIN)
    for stage in config.stages:
        train = getattr(config, stage).train
        assert TrainSettings(**train.model_dump()).learning_rate == train.learning_rate
    assert TrainSettings(steps=1, epochs=2).steps == 0  # as in every section


def test_data_section_has_the_options_and_defaults_of_prepare():
    section = DataSection().model_dump()
    assert section.pop("path") is None
    assert [section.pop(key) for key in ("cache", "cache_gb")] == [None, CACHE_GB]
    options = PrepareOptions().model_dump()
    assert options.pop("seed") == RunConfig(task="clone").seed
    assert section == options


def test_the_same_default_model_everywhere():
    assert RunConfig(task="clone").model == DEFAULT_MODEL


def test_what_follows_a_base_encoder_is_trained_as_it_except_for_its_length():
    train = {"min_lr_ratio": 0.02, "weight_decay": 0.5, "keep": 3, "patience": 7, "eval_every": 5, "save_every": 0}
    section = EncoderSection(train=train, refine={"steps": 40, "warmup_steps": 1, "batch_size": 6})
    found = section.refining
    assert found.model_copy(update=section.train.model_dump()) == section.train
    assert (found.steps, found.warmup_steps, found.batch_size, found.accumulate, found.learning_rate) == (
        40,
        1,
        6,
        2,
        1e-4,
    )
    assert (found.min_lr_ratio, found.weight_decay, found.keep, found.patience) == (0.02, 0.5, 3, 7)
    assert (found.eval_every, found.save_every, found.sample_every) == (14, 0, 40)
    passes = section.model_copy(update={"refine": RefineSection(epochs=2)}).refining
    assert (passes.steps, passes.epochs, passes.eval_every, passes.sample_every) == (0, 2, 5, 1000)
