"""Every command and snippet of README and guides is one that works: read by the real parsers, schema and compiler."""

import argparse
import ast
import json
import re
import shlex
import tomllib
from pathlib import Path

import pages
import pytest
from pages import ROOT, Block

import mlx_voxclone
from mlx_voxclone.settings.config import load_run_config, parse_set, schema_keys

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Programs of others that the documents name. Their options are not ours to check.
OTHERS = {"pip", "python3", "source", "export", "vllm", "curl", "mlx_audio.tts.generate", "ffplay"}
OTHERS_BY_UV = {"hf", "mlx.distributed_config", "mkdocs"}
EXTRAS, GROUPS = PROJECT["project"]["optional-dependencies"], PROJECT["dependency-groups"]
CONVERTERS = {"scripts/convert_ge2e.py": 2}  # programs without a parser: how many files they take
UV_OPTIONS = {"--extra": EXTRAS, "--group": GROUPS, "--no-group": GROUPS}
SUFFIXES = {"safetensors", "yaml", "json", "jsonl", "wav", "txt", "pt", "html", "py"}
SECTIONS = {key.partition(".")[0] for key in schema_keys()}


def without_uv(words: list[str]) -> list[str]:
    """The words behind `uv run` and its own options, whose extras and groups must exist."""
    assert words[:2] == ["uv", "run"], words
    rest = words[2:]
    while rest[0] in UV_OPTIONS:
        assert rest[1] in UV_OPTIONS[rest[0]], words
        rest = rest[2:]
    return rest


def own(words: list[str]) -> tuple[str, list[str]] | None:
    """(command, arguments) of one of our commands; None of another program's that may be named."""
    if words[0] in OTHERS:
        return None
    rest = without_uv(words) if words[0] == "uv" else words
    if rest[0] == "python":
        rest = rest[1:]
    if rest[0] == "mlx.launch":
        rest = rest[rest.index("--") + 1 :]
    program, arguments = rest[0], rest[1:]
    if program in OTHERS_BY_UV:
        assert words[0] == "uv"
        return None
    if program == "pytest":
        markers = {marker.partition(":")[0] for marker in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
        marked = arguments[arguments.index("-m") + 1] if "-m" in arguments else None
        assert marked is None or marked in markers, words
        return None
    if program == "voxclone":
        return arguments[0], arguments[1:]
    assert (ROOT / program).is_file(), f"{program}: no such program"
    if program in CONVERTERS:
        assert len(arguments) == CONVERTERS[program], words
        return None
    return ("demo" if program == "demo/app.py" else Path(program).stem), arguments


def check_configuration(options: argparse.Namespace) -> None:
    """That a command line's configuration loads, with its overrides; task `clone` must have a voice."""
    if getattr(options, "config", None) is not None:
        config = load_run_config(ROOT / options.config, parse_set(options.set))
        if not getattr(options, "smoke_test", False):
            config.check_voice()


SHELL = pages.blocks("bash")


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_commands_are_read_by_the_real_parsers(block: Block, capsys):
    commands = pages.shell_commands(block.text)
    assert commands
    for words in commands:
        found = own(words)
        if found is None:
            continue
        command, arguments = found
        try:
            options = pages.generator().parsed(command, arguments)
        except SystemExit:
            pytest.fail(f"{shlex.join(words)}: {capsys.readouterr().err}")
        check_configuration(options)


def test_a_wrong_command_would_be_found(capsys):
    for line in (
        "uv run voxclone bake --model voxtral --output ann --adapter x",
        "uv run voxclone say --model voxtral --voice ann --output a.wav",
        "uv run scripts/bake.py --model voxtral --out x",
        "uv run demo/app.py --modl x",
    ):
        with pytest.raises(SystemExit):
            pages.generator().parsed(*own(shlex.split(line)))
        assert capsys.readouterr().err.startswith("error: ")
    for line in ("uv run --extra demos demo/app.py", "uv run scripts/trian.py", "uv run pytest -m mtal", "rm x"):
        with pytest.raises(AssertionError):
            own(shlex.split(line))


def test_every_block_has_a_language_that_is_checked():
    assert {block.language for block in pages.blocks()} == {"bash", "yaml", "python", "json", "text"}
    assert len(SHELL) > 40


# ---- inline ----------------------------------------------------------------------------------------------------------

COMMAND_SPAN = re.compile(
    r"^(?:uv run (?:--(?:extra|group|no-group) \S+ )*)?(?:voxclone|scripts/\w+\.py|demo/app\.py)(?= |$)"
)


def mistakes(span: str) -> list[str]:
    """What is wrong with options, keys, files and commands that inline code names."""
    generator = pages.generator()
    words = span.split()
    wrong = []
    known = {option for command in generator.command_names() for option in generator.option_strings(command)}
    if COMMAND_SPAN.match(span):
        program = COMMAND_SPAN.match(span)[0].split()[-1]
        rest = words[words.index(program) + 1 :]
        command = rest[0] if program == "voxclone" and rest else "demo" if "demo" in program else Path(program).stem
        if command.isupper():
            return []
        if command not in generator.command_names():
            return [] if program == "voxclone" and not rest else [f"{span}: no such command"]
        known = generator.option_strings(command)
    for before, word in zip(["", *words], words):
        if re.match(r"--[a-z]", word) and word.partition("=")[0] not in {*known, *UV_OPTIONS}:
            wrong.append(f"{span}: {word}")
        if word not in UV_OPTIONS.get(before, (word,)):
            wrong.append(f"{span}: {word}")
        key = word.partition("=")[0].rstrip(":,")
        dotted = key.count(".") and key.partition(".")[0] in SECTIONS and key.rpartition(".")[2] not in SUFFIXES
        if re.fullmatch(r"\w+(\.\w+)+", key) and dotted and key not in set(schema_keys()):
            wrong.append(f"{span}: {key} is no key")
        if before == "--set" and "." not in key and key not in set(schema_keys()):
            wrong.append(f"{span}: {key} is no key")
        if re.match(r"(configs|scripts|docs|benchmarks|demo|tests)/[\w./-]+$", word) and not (ROOT / word).exists():
            wrong.append(f"{span}: {word} does not exist")
    return wrong


@pytest.mark.parametrize("page", pages.GUIDES, ids=pages.name)
def test_inline_code_names_what_exists(page: Path):
    found = [
        mistake
        for span in pages.spans(page)
        if "speaker.lora.rnak" not in span and not span.startswith("--set a.b")
        for mistake in mistakes(span)
    ]
    assert found == []


def test_wrong_inline_code_would_be_found():
    for span in (
        "voxclone trian",
        "voxclone say --voise x",
        "--no-such-option",
        "--set sed=1",
        "encoder.pairs.dispersd",
        "speaker.lora.rnak=3",
        "configs/voxtral.yaml",
        "uv run --extra demos demo/app.py",
        "scripts/trian.py",
    ):
        assert mistakes(span), span
    for span in ("voxclone", "voxclone say", "--set voice=ann", "encoder.safetensors", "data.path", "configs/profiles"):
        assert mistakes(span) == [], span


# ---- snippets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", pages.blocks("yaml"), ids=str)
def test_yaml_snippets_pass_the_schema(block: Block, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "run.yaml").write_text(block.text, encoding="utf-8")
    load_run_config(tmp_path / "run.yaml")


@pytest.mark.parametrize("block", pages.blocks("json"), ids=str)
def test_json_snippets_are_json(block: Block):
    for line in block.text.splitlines():
        assert isinstance(json.loads(line), dict)


PYTHON = [block for block in pages.blocks("python") if "import " in block.text]  # the others are signatures


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_snippets_name_what_exists(block: Block):
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = __import__(node.module, fromlist=["x"])
            assert all(hasattr(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("mlx_voxclone."):
            value = mlx_voxclone
            for part in ast.unparse(node).split(".")[1:]:
                value = getattr(value, part)


def test_there_are_python_snippets():
    assert {pages.name(block.page) for block in PYTHON} >= {"README.md", "docs/reference/python.md"}


@pytest.mark.slow
def test_the_readmes_python_runs(speaking_clone, monkeypatch, capsys):
    """On a miniature that has an encoder and the voice `ann`, in the place of the model."""
    monkeypatch.chdir(speaking_clone)
    (block,) = [block for block in PYTHON if block.page == pages.README]
    names: dict = {}
    exec(compile(block.text, "README.md", "exec"), names)
    assert names["audio"].dtype == "float32"
    assert len(names["audio"]) > 0
    assert sum(int(line) for line in capsys.readouterr().out.split()) > 0


@pytest.fixture(scope="module")
def speaking_clone(tmp_path_factory) -> Path:
    """A directory with `voxtral`, the speaking miniature with its encoder and a voice baked in, and `001.wav`."""
    from mlx_voxclone.cli import main

    directory = tmp_path_factory.mktemp("clone")
    made = directory / "miniature"
    recordings = directory / "recordings"
    argv = ["micro", "--preset", "speaking", "--output", str(made), "--recordings", str(recordings), "--quiet"]
    assert main(argv) == 0
    clip = min(recordings.glob("*.wav"))
    clip.rename(directory / "001.wav")
    encoder = made / "withheld" / "encoder.safetensors"
    parts = ["--encoder", str(encoder), "--voice", f"ann={directory / '001.wav'}"]
    assert main(["bake", "--model", str(made), "--output", str(directory / "voxtral"), *parts, "--quiet"]) == 0
    return directory


# ---- environment -----------------------------------------------------------------------------------------------------


def test_environment_variables_are_the_packages_and_all_of_them_are_told():
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "mlx_voxclone").rglob("*.py"))
    read = set(re.findall(r"VOXCLONE_[A-Z_]*[A-Z]", sources))
    told = {v for page in pages.GUIDES for v in re.findall(r"VOXCLONE_[A-Z_]*[A-Z]", page.read_text(encoding="utf-8"))}
    assert told == read
    reference = (pages.DOCS / "reference" / "run-directory.md").read_text(encoding="utf-8")
    assert [variable for variable in sorted(read) if variable not in reference] == []


# ---- messages --------------------------------------------------------------------------------------------------------


def literals() -> str:
    """All strings of the package but docstrings, `\\0` where a value is put in, a line each."""
    found = []
    for path in (ROOT / "mlx_voxclone").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found.append(node.value)
    return "\n".join(" ".join(text.split()) for text in found)


def quoted_messages() -> list[str]:
    text = (pages.DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    items = [" ".join(item.split()) for item in re.findall(r"^- (`.*?)\n\n", text + "\n\n", re.MULTILINE | re.DOTALL)]
    heads = [re.match(r"(?:`{1,2}.+?`{1,2}(?:, )?)+(?=: )", item)[0] for item in items]
    return [match[1] for head in heads for match in re.finditer(r"(?:^|, )`{1,2}(.+?)`{1,2}(?=$|, `)", head)]


# All that is fixed in messages that are made of values for the most part.
SHORT = (
    "left out",
    "voice: missing;",
    "holds several",
    "does not exist",
    "unknown key;",
    "no voice called",
)
SHORT += ("it was started with another configuration",)


def unknown_messages(messages: list[str], strings: str) -> list[str]:
    """Those of which less than half of the words stand in the strings, in threes."""
    unknown = []
    for message in messages:
        words = re.sub(r"^(error|warning|note): ", "", message).replace("...", " ").split()
        threes = [" ".join(words[k : k + 3]) for k in range(len(words) - 2)]
        covered = {k + n for k, three in enumerate(threes) if three in strings for n in range(3)}
        short = any(fixed in message and fixed in strings for fixed in SHORT)
        if len(covered) < 0.5 * len(words) and not short:
            unknown.append(message)
    return unknown


@pytest.mark.slow
def test_quoted_messages_are_the_programs():
    strings, messages = literals(), quoted_messages()
    assert len(messages) > 30
    assert unknown_messages(messages, strings) == []
    made_up = "error: voxtral: the weights of this checkpoint are of last year; wait for the next one"
    assert unknown_messages([made_up], strings) == [made_up]
