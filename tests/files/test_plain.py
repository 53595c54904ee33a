"""Files read with bounds: JSON with a floor under it, nothing that never answers; and one reader for all of it."""

import ast
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_voxclone
from mlx_voxclone.adapters.files import load_adapters
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.listings.manifest import read_source
from mlx_voxclone.data.shards.index import ShardIndex
from mlx_voxclone.errors import VoxcloneError
from mlx_voxclone.evaluate.cases import read_cases
from mlx_voxclone.evaluate.measure import Evaluation
from mlx_voxclone.files.plain import MAX_DEPTH, is_number, open_plain, parse_json, read_json, read_plain
from mlx_voxclone.files.run_log import read_log
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.pairs.files import settle
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.train.saved.result import TrainResult
from mlx_voxclone.train.saved.state import load_checkpoint, read_best

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
DEEP = ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 5_000 + "1" + "}" * 5_000, "[" * 200 + "]" * 200]


@pytest.mark.parametrize("value", [0, -3, 2.5, 10**300])
def test_numbers(value):
    assert is_number(value)


@pytest.mark.parametrize("value", [True, None, "1", [1], float("nan"), float("inf"), 10**400, -(10**400)])
def test_no_numbers(value):
    assert not is_number(value)


@settings(max_examples=30, deadline=None)
@given(JSON, st.booleans())
def test_json_of_ordinary_depth_is_read_as_it_is(content, as_bytes):
    text = json.dumps(content)
    assert parse_json(text.encode() if as_bytes else text) == content


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_the_depth_of_json_is_bounded_and_what_is_above_is_read(opened, closed):
    levels = opened.count("[") + opened.count("{")
    most = MAX_DEPTH // levels
    assert parse_json(opened * most + "0" + closed * most) is not None
    for depth in (most + 1, 10 * most, 1_000 * most):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(opened * depth + "0" + closed * depth)


def test_many_brackets_beside_each_other_are_not_deep():
    assert parse_json("[" + ",".join(["[]"] * 10_000) + "]") == [[]] * 10_000


def json_readers() -> list[str]:
    """Places of the package that read JSON by themselves."""
    package, found = Path(mlx_voxclone.__file__).parent, []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if name == "files/plain.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            own = isinstance(node, ast.Attribute) and node.attr in ("load", "loads", "JSONDecoder")
            if own and isinstance(node.value, ast.Name) and node.value.id == "json":
                found.append(f"{name}:{node.lineno}")
    return found


def test_all_json_is_read_in_one_place():
    assert json_readers() == []


def named(name, read):
    """Reads the directory that holds the file under a name."""

    def reading(path):
        path.rename(path.with_name(name))
        return read(path.parent)

    return reading


READERS = {
    "params.json": VoxtralConfig.from_file,
    "a manifest": lambda path: read_source(path.rename(path.with_suffix(".jsonl"))),
    "prepared data": named("manifest.jsonl", PreparedData.load),
    "an index of shards": ShardIndex,
    "adapters": named("adapter_config.json", load_adapters),
    "pairs": named("settings.json", lambda folder: settle(folder, {"a": 1})),
    "a list to evaluate": lambda path: read_cases(path.rename(path.with_suffix(".jsonl"))),
    "an evaluation": Evaluation.load,
    "a result": named("result.json", TrainResult.load),
    "a state": named("state.json", load_checkpoint),
}


def test_a_number_of_thousands_of_digits_is_said_so():
    with pytest.raises(ValueError, match="^a number of thousands of digits$"):
        parse_json("9" * 5000)


@pytest.mark.parametrize("text", DEEP, ids=["open", "list", "object", "legal"])
@pytest.mark.parametrize("reader", READERS)
def test_deeply_nested_json_ends_in_one_line(tmp_path, reader, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(VoxcloneError) as error:
        READERS[reader](path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("text", DEEP)
def test_what_may_be_missing_is_missing_where_it_is_nested_deeply(tmp_path, text):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "info.json").write_text(text)
    (tmp_path / "log.jsonl").write_text(text + '\n{"step": 1}\n')
    assert read_best(tmp_path) is None
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}]


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("read", [open_plain, read_plain, read_json])
def test_a_pipe_or_a_device_is_no_file(pipe, read):
    for path in (pipe, "/dev/zero"):
        with pytest.raises(OSError, match="not a plain file") as error:
            read(path)
        assert error.value.filename == str(path)
    with pytest.raises(IsADirectoryError):
        read(pipe.parent)


@pytest.mark.parametrize("reader", ["params.json", "adapters", "an evaluation", "a state", "pairs"])
def test_a_pipe_in_the_place_of_a_file_ends_in_one_line(pipe, reader):
    with pytest.raises(VoxcloneError, match="file|read|evaluation") as error:
        READERS[reader](pipe)
    assert "\n" not in str(error.value)


def test_a_pipe_is_neither_tensors_nor_a_configuration(pipe):
    for read in (TensorFile, load_run_config):
        with pytest.raises(VoxcloneError, match="not a plain file"):
            read(pipe)


def test_a_file_is_read_up_to_its_bound(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    assert read_plain(path, 1000) == b"x" * 1000
    with pytest.raises(ValueError, match="more than 999 bytes"):
        read_plain(path, 999)
