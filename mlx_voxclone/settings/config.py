"""The configuration of a run: a YAML file over its `include`, overrides on top, checked against the schema.

Nothing is taken on trust: an unknown key is refused at any depth with the nearest valid one, a value of the wrong type
or out of bounds with what was expected, always as one line that names the file and the dotted key.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, Field, PrivateAttr, ValidationError

from mlx_voxclone.errors import ConfigError
from mlx_voxclone.files import shipped
from mlx_voxclone.files.yaml_files import dotted, parse_yaml, read_with_includes
from mlx_voxclone.settings.encoder import EncoderSection
from mlx_voxclone.settings.fields import (
    AUTO,
    ModelName,
    NotifyTarget,
    PathField,
    Section,
    SpokenText,
    VoiceName,
    unique,
)
from mlx_voxclone.settings.findings import describe
from mlx_voxclone.settings.removed import REMOVED, removed, says_otherwise, take_over, without_removed
from mlx_voxclone.settings.schema import BakeSection, DataSection, DistillSection, JudgeSection, SpeakerSection

COMMAND_LINE, CALL = "command line", "override"  # who sets a key that no file sets
CONFIGURATION = "configuration"
MEANT = "did you mean"  # begins a suggestion, see `suggest`
TASKS = ("encoder", "distill", "language", "speaker", "clone")


class RunConfig(Section):
    """One run. Immutable; `load_run_config` makes it, `dump` writes it back complete."""

    task: Literal["encoder", "distill", "language", "speaker", "clone"]
    model: ModelName = "mistralai/Voxtral-4B-TTS-2603"
    output: PathField | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: Literal["auto", "gpu", "cpu"] = "auto"
    precision: Literal["auto", "bf16", "float32"] = "auto"
    voice: VoiceName | None = None
    data: DataSection = DataSection()
    encoder: EncoderSection = EncoderSection()
    judge: JudgeSection = JudgeSection()
    speaker: SpeakerSection = SpeakerSection()
    distill: DistillSection = DistillSection()
    bake: BakeSection = BakeSection()
    say: Annotated[list[SpokenText], Field(default_factory=list)]
    report_to: Annotated[list[Literal["tensorboard", "wandb", "mlflow"]], AfterValidator(unique)] = []
    notify: Annotated[list[NotifyTarget], AfterValidator(unique)] = []

    _sources: dict[str, str] = PrivateAttr(default_factory=lambda: {"": CONFIGURATION})

    @property
    def stages(self) -> tuple[str, ...]:
        """The trainings of this run, in order, by the names of their sections: `encoder`, `speaker` or both.

        Tasks `language` and `distill` adapt the language model as task `speaker` does, and have its section.
        """
        return stages_of(self.task)

    @property
    def adapts(self) -> str:
        """What the language model is adapted to: `language`, or else `speaker`."""
        return "language" if self.task == "language" else "speaker"

    @property
    def run_dir(self) -> Path:
        """`output`, or `runs/TASK` with the language's code or the voice's name behind it where there is one."""
        of = {"encoder": None, "distill": None, "language": self.data.language}.get(self.task, self.voice)
        return self.output or Path("runs") / (f"{self.task}-{of}" if of else self.task)

    @property
    def baked_dir(self) -> Path:
        """Where task `clone` writes the new checkpoint: `bake.output`, or `baked` inside the run directory."""
        return self.bake.output or self.run_dir / "baked"

    def where(self, key: str) -> str:
        """The file (or `command line`) that set the dotted `key`, for messages."""
        return _source(self._sources, key)

    def insists(self, key: str) -> bool:
        """Whether the dotted `key` was set on the command line or in a call; files with their defaults are neither."""
        return self._sources.get(key) in (COMMAND_LINE, CALL)

    def check_voice(self) -> None:
        """Raise ConfigError if the voice that task `clone` makes has no name."""
        if self.task == "clone" and self.voice is None:
            raise ConfigError(
                f"{self.where('voice')}: voice: missing; name the voice that is made (a-z, 0-9, _ and -), for example"
                " with --set voice=ann"
            )

    def check_paths(self) -> "RunConfig":
        """Refuse a run whose inputs do not exist; returns itself.

        Raises:
            ConfigError: `data.path` not given, or a path of this task's sections that does not exist.
        """
        if self.data.path is None and self.task != "distill":
            remedy = "name a folder of audio, a .jsonl manifest or a metadata.csv"
            raise ConfigError(f"{self.where('data.path')}: data.path: missing; {remedy}")
        given = {} if self.task == "distill" else {"data.path": self.data.path}
        if self.task == "distill":
            given |= {f"distill.pairs[{k}]": path for k, path in enumerate(self.distill.pairs)}
        if "encoder" in self.stages:
            given["encoder.weights"] = self.encoder.weights
            if self.encoder.pairs.path == AUTO:
                given["encoder.pairs.texts"] = self.encoder.pairs.texts
            given |= _listed_paths("encoder.pairs.path", self.encoder.pairs.path)
        if "speaker" in self.stages:
            given |= {"speaker.encoder": self.speaker.encoder_file, "speaker.start": self.speaker.start}
            given |= _listed_paths("speaker.preserve.path", self.speaker.preserve.path)
        if self.task == "clone":
            given["bake.reference"] = self.bake.reference
        for key, path in given.items():
            if isinstance(path, Path) and not path.exists():
                here = "" if path.is_absolute() else f" (seen from {Path.cwd()})"
                asks = key.endswith("]")
                hint = f"; make it with `voxclone pairs`, or set {key.split('[')[0]} to null" if asks else ""
                raise ConfigError(f"{self.where(key)}: {key}: {path} does not exist{here}{hint}")
        return self

    def dump(self) -> str:
        """The complete configuration as YAML; loading it again gives the same."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _listed_paths(key: str, paths: list[Path] | str) -> dict[str, Path]:
    """Dotted keys of a list's paths; of AUTO none."""
    return {} if paths == AUTO else {f"{key}[{k}]": path for k, path in enumerate(paths)}


def stages_of(task: str) -> tuple[str, ...]:
    """The sections of the trainings that a task consists of, in order."""
    return {"clone": ("encoder", "speaker"), "language": ("speaker",), "distill": ("speaker",)}.get(task, (task,))


def trainings_of(task: str) -> list[str]:
    """The sections that say how long each training of a task takes."""
    refine = ["encoder.refine"] if task == "clone" else []
    return [*(f"{stage}.train" for stage in stages_of(task)), *refine]


def load_run_config(
    path: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    given_by: str = COMMAND_LINE,
    max_steps: int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    lora_rank: int | None = None,
    shorten_warmup: bool = True,
) -> RunConfig:
    """Read a configuration file; `include` lies underneath it, `overrides` (dotted key -> value) on top.

    `path` may be the name of a configuration that comes with the package, such as `voxtral_speaker`; a file of that
    name in the working directory wins. It may also be the content of one as nested mappings. `given_by` names the
    overrides in messages.

    The four flags reach the stages of the file's task: `max_steps` and `epochs` every stage, `learning_rate` the
    encoder in task `encoder` and the LoRA otherwise, `lora_rank` the LoRA. `max_steps` brings a longer warm-up down to
    a tenth of the steps, and so do steps in `overrides` that the file's warm-up would exceed (neither with
    `shorten_warmup=False`: a run that goes on keeps its own).

    Raises:
        ConfigError: one line: file (with the line number where YAML itself is broken), dotted key, what was expected.
    """
    if isinstance(path, Mapping):
        content, sources = _copied(path), {"": CONFIGURATION}
    else:
        path = shipped.find(path)
        content, sources = read_with_includes(path)
        sources[""] = str(path)  # what no file sets
        sources = {key: shipped.label(source) for key, source in sources.items()}
    flags = _flag_overrides(content.get("task"), max_steps, epochs, learning_rate, lora_rank)
    given = _with_one_length(flags, overrides or {})
    if shorten_warmup:
        given = _shortened_warmups(content, given, max_steps) | given
    for key, value in given.items():
        _override(content, sources, key, value, given_by)
    take_over(content)
    _refuse_removed(content, sources)
    content = without_removed(content)
    _refuse_unknown(content, sources)
    try:
        config = RunConfig.model_validate(_without_empty_sections(content, RunConfig))
    except ValidationError as e:
        key, line = describe(e)
        raise ConfigError(f"{_source(sources, key.partition('[')[0])}: {line}") from None
    config._sources.update(sources)
    return config


def parse_set(assignments: list[str]) -> dict[str, Any]:
    """`--set a.b=value` strings -> dotted key -> value, the value read as YAML.

    Raises:
        ConfigError: no `=`, no key before it, or a value that is no YAML.
    """
    result = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        given = f"--set {text if len(text) <= 60 else text[:57] + '...'}"
        if not equals or not all(part.strip() for part in key.split(".")):
            raise ConfigError(f"{given}: expected KEY=VALUE, for example --set encoder.train.steps=500")
        result[key.strip()] = parse_yaml(value, lambda line, given=given: given)
    return result


def schema_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key of the schema, sections before what they hold."""
    for name in model.model_fields:
        yield prefix + name
        section = section_of(model, name)
        if section is not None:
            yield from schema_keys(section, f"{prefix}{name}.")


def _flag_overrides(task: Any, max_steps, epochs, learning_rate, lora_rank) -> dict[str, Any]:
    if task not in TASKS:
        return {}  # the schema says what is wrong with it
    stages = stages_of(task)
    if max_steps is not None and epochs is not None:
        raise ConfigError("--max-steps and --epochs both say how long to train: give one of them")
    wanted: dict[str, Any] = {}
    for training in trainings_of(task):
        if max_steps is not None:
            wanted |= {f"{training}.steps": max_steps, f"{training}.epochs": 0}
        if epochs is not None:
            wanted[f"{training}.epochs"] = epochs
    if learning_rate is not None:
        wanted[f"{stages[-1]}.train.learning_rate"] = learning_rate
    if lora_rank is not None:
        if task == "encoder":
            raise ConfigError("--lora-rank: task encoder trains no LoRA; leave the flag out")
        wanted["speaker.lora.rank"] = lora_rank
    return wanted


def _with_one_length(flags: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """All that is given; steps that are given take the place of a file's epochs, which would decide over them."""
    given = {**flags, **overrides}
    for training in ("encoder.train", "encoder.refine", "speaker.train"):
        steps = given.get(f"{training}.steps")
        if type(steps) is int and steps > 0:
            given.setdefault(f"{training}.epochs", 0)
    return given


def _shortened_warmups(content: Mapping[str, Any], given: Mapping[str, Any], max_steps: int | None) -> dict[str, int]:
    """A tenth of the steps for warm-ups of the file or the default that are too long for the steps that are given."""
    found = {}
    for training in ("encoder.train", "encoder.refine", "speaker.train"):
        steps = given.get(f"{training}.steps", max_steps)
        if type(steps) is not int:
            continue  # not given, or refused by the schema
        stage, name = training.split(".")
        section = content.get(stage)
        train = section.get(name) if isinstance(section, Mapping) else None
        warmup = train.get("warmup_steps") if isinstance(train, Mapping) else None
        if warmup is None:
            warmup = getattr(RunConfig.model_fields[stage].default, name).warmup_steps
        tenth = max(0, steps) // 10
        if type(warmup) is int and warmup > tenth and (max_steps is not None or 0 < steps <= warmup):
            found[f"{training}.warmup_steps"] = tenth
    return found


def _copied(content: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings that may be changed."""
    if "include" in content:
        hint = "give the file, and keys as overrides"
        raise ConfigError(f"{CONFIGURATION}: include: only a file includes another; {hint}")
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in content.items()}


def _override(content: dict[str, Any], sources: dict[str, str], key: str, value: Any, given_by: str) -> None:
    """Set the dotted `key` inside the nested `content`."""
    *sections, name = key.split(".")
    model: type[BaseModel] | None = RunConfig
    for part in (*sections, name) if value is None else ():
        model = section_of(model, part) if model is not None and part in model.model_fields else None
    if value is None and model is not None:  # of a file it would mean "nothing said here"; said aloud, it is a slip
        hint = f"set one of its keys, such as {key}.{next(iter(model.model_fields))}"
        raise ConfigError(f"{given_by}: {key}: a section cannot be null; {hint}")
    place = content
    for i, section in enumerate(sections):
        if place.get(section) is None:
            place[section] = {}
        place = place[section]
        if not isinstance(place, dict):
            raise ConfigError(f"{given_by}: {key}: {'.'.join(sections[: i + 1])} is not a section")
    place[name] = value
    sources.update(dict.fromkeys([key, *dotted(value if isinstance(value, dict) else {}, key + ".")], given_by))


def section_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model behind a field that is a section, None for a plain value."""
    annotation = model.model_fields[name].annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _refuse_unknown(content: Mapping[Any, Any], sources: dict[str, str]) -> None:
    for key in dotted(content):
        *sections, name = key.split(".")
        model: type[BaseModel] | None = RunConfig
        for section in sections:
            model = section_of(model, section) if model is not None else None
        if model is not None and name not in model.model_fields:
            setter = next((k for k in sources if k == key or k.startswith(key + ".")), key)
            raise ConfigError(f"{_source(sources, setter)}: {key}: unknown key; {suggest(model, sections, name)}")


def _refuse_removed(content: Mapping[Any, Any], sources: dict[str, str]) -> None:
    """One line for all of them: a run's saved configuration of an earlier version has every key."""
    if not (found := removed_keys(content)):
        return
    setters = {key: next((k for k in sources if k == key or k.startswith(key + ".")), key) for key in found}
    source = _source(sources, setters[found[0]])
    others = [key for key in found[1:] if _source(sources, setters[key]) == source]
    line = "it" if source in (COMMAND_LINE, CALL) else "the line"
    more = f", and those of other removed keys: {', '.join(others)}" if others else ""
    raise ConfigError(f"{source}: {found[0]}: this key was removed ({REMOVED[found[0]]}); remove {line}{more}")


def removed_keys(content: Mapping[str, Any]) -> list[str]:
    """Removed keys of a configuration (nested) that ask for something else than what is done now."""

    def value_of(key: str) -> Any:
        place: Any = content
        for part in key.split("."):
            place = place.get(part) if isinstance(place, Mapping) else None
        return reduce(getattr, key.split("."), RunConfig(task="clone")) if place is None else place

    return [key for key in removed(dotted(content)) if says_otherwise(key, content, value_of)]


def suggest(model: type[BaseModel], sections: list[str], name: str, rest: Sequence[str] = ()) -> str:
    """What an unknown key may be meant for.

    The key in other capitals or without the sections it is in; the same name in another section; else the nearest here,
    the nearest elsewhere, or what there is here.

    Args:
        model: the section that does not have it.
        sections: its name.
        name: what it does not have.
        rest: names that follow.
    """
    prefix = "".join(section + "." for section in sections)
    whole = ".".join([*sections, name, *rest]).lower()
    if same := [key for key in schema_keys() if f".{key}".endswith(f".{whole}")]:
        exact = [key for key in same if key == whole]
        return f"{MEANT} {' or '.join(exact or same)}?"
    if rest and (near := difflib.get_close_matches(whole, schema_keys(), n=1, cutoff=0.8)):
        return f"{MEANT} {near[0]}?"
    elsewhere: dict[str, list[str]] = {}
    for key in schema_keys():
        elsewhere.setdefault(key.rpartition(".")[2], []).append(key)
    if name in elsewhere:
        return f"{MEANT} {' or '.join(elsewhere[name])}?"
    near = difflib.get_close_matches(name, model.model_fields, n=1)
    if near:
        return f"{MEANT} {prefix}{near[0]}?"
    near = difflib.get_close_matches(name, elsewhere, n=1, cutoff=0.75)
    if near:
        return f"{MEANT} {' or '.join(elsewhere[near[0]])}?"
    return f"{prefix.rstrip('.') or 'the top level'} has {', '.join(model.model_fields)}"


def _without_empty_sections(content: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """`data:` with every line below it commented out means the defaults, not null."""
    result = {}
    for name, value in content.items():
        section = section_of(model, name) if name in model.model_fields else None
        if section is not None and isinstance(value, Mapping):
            value = _without_empty_sections(value, section)
        if section is None or value is not None:
            result[name] = value
    return result


def _source(sources: Mapping[str, str], key: str) -> str:
    """Who set the dotted key, or the nearest section above it."""
    while key and key not in sources:
        key = key.rpartition(".")[0]
    return sources.get(key) or sources[""]
