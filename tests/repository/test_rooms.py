"""The architecture: which room of the package imports which (`rooms.py`), and nothing in circles."""

import ast
from collections.abc import Iterator, Mapping
from importlib.util import resolve_name
from pathlib import Path

import pytest
from places import ROOT, TESTS
from rooms import EVERY_LOWER_ONE, ROOMS

PACKAGE = "mlx_voxclone"
MOST_MODULES = 12  # of a folder
OTHER_TESTS = {"benchmarks", "docs", "repository"}  # folders of tests that are of no room
NAMES = [name for name, _, _ in ROOMS]

Graph = Mapping[str, set[str]]


def graph_of(root: Path) -> Graph:
    """Modules of the package below `root`, and those of them that each imports: anywhere, in functions too."""
    modules = {name_of(path.relative_to(root)): path for path in (root / PACKAGE).rglob("*.py")}
    return {name: imports(name, path, modules) for name, path in modules.items()}


def name_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(name: str, path: Path, modules: Mapping[str, Path]) -> set[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            inside = {f"{base}.{alias.name}" for alias in node.names}
            found |= {one if one in modules else base for one in inside}
    return found & modules.keys() - {name}


def room_of(module: str) -> str:
    """The innermost room that a module is in; the package itself is the door to the API."""
    path = module.partition(".")[2] or "api"
    while path and path not in NAMES:
        path = path.rpartition(".")[0]
    return path or module


def misplaced(graph: Graph) -> Iterator[str]:
    """Imports that the table does not allow, and modules of no room."""
    allowed = {name: neighbours_of(name) for name in NAMES}
    for module, imported in sorted(graph.items()):
        if (room := room_of(module)) not in allowed:
            yield f"{module} is in no room"
            continue
        for other in sorted(imported):
            if room_of(other) not in {room, *allowed[room]}:
                yield f"{module} imports {other}: {room} does not lead to {room_of(other)}"


def neighbours_of(room: str) -> list[str]:
    listed = next(neighbours for name, _, neighbours in ROOMS if name == room)
    return NAMES[: NAMES.index(room)] if listed == EVERY_LOWER_ONE else listed.split()


def circles(graph: Graph) -> list[list[str]]:
    """Modules that reach themselves, those of one circle together."""
    reached = {}
    for start in graph:
        seen, waiting = set(), list(graph[start])
        while waiting:
            if (module := waiting.pop()) not in seen:
                seen.add(module)
                waiting += graph.get(module, ())
        reached[start] = seen
    found = {tuple(sorted(m for m in reached[a] if a in reached[m])) for a in graph if a in reached[a]}
    return [list(circle) for circle in sorted(found)]


@pytest.fixture(scope="module")
def graph():
    return graph_of(ROOT)


# ---- the package -----------------------------------------------------------------------------------------------------


def test_every_import_leads_to_an_allowed_neighbour(graph):
    assert len(graph) > 100
    assert not list(misplaced(graph))


def test_no_file_imports_itself_through_others(graph):
    assert not circles(graph)


def test_the_table_leads_down_and_lists_what_is_imported(graph):
    assert len(set(NAMES)) == len(NAMES)
    there = {room: set() for room in NAMES}
    for module, imported in graph.items():
        there[room_of(module)] |= {room_of(other) for other in imported}
    for place, (name, what, neighbours) in enumerate(ROOMS):
        assert what.endswith("."), name
        assert set(neighbours_of(name)) <= set(NAMES[:place]), f"{name}: a room is above those that it imports"
        if neighbours != EVERY_LOWER_ONE:
            unused = set(neighbours.split()) - there[name]
            assert not unused, f"{name} imports nothing of {sorted(unused)} any more: take it out of the table"


def test_no_folder_has_more_modules_than_one_can_look_over():
    folders = {}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        folders.setdefault(path.parent, []).append(path.name)
    crowded = {str(f.relative_to(ROOT)): len(names) for f, names in folders.items() if len(names) > MOST_MODULES + 1}
    assert not crowded, "split them"
    assert all("__init__.py" in names for folder, names in folders.items() if folder.name != "peers")


def test_tests_lie_in_folders_of_the_rooms():
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    allowed = lambda f: f.parts and (f.parts[0] in OTHER_TESTS or (ROOT / PACKAGE / f).is_dir())  # noqa: E731
    strangers = [folder for folder in folders if not allowed(folder)]
    assert not strangers


# ---- what would be noticed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "other", "said"),
    [
        ("model.codec", "train.loop.trainer", "model does not lead to train.loop"),
        ("files.plain", "settings.schema", "files does not lead to settings"),
        ("train.loop.trainer", "train.run", "train.loop does not lead to train"),
        ("audio.io", "data.clips", "audio does not lead to data"),
        ("version", "", "version does not lead to api"),
        ("attic.old", "errors", "is in no room"),
    ],
)
def test_an_import_that_leads_up_is_found(module, other, said, graph):
    module, other = f"{PACKAGE}.{module}", f"{PACKAGE}.{other}".rstrip(".")
    planted = {**graph, module: graph.get(module, set()) | {other}}
    (wrong,) = misplaced(planted)
    assert wrong.startswith(module)
    assert wrong.endswith(said)


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"e"}, "e": {"d"}}) == [["a", "b", "c"], ["d", "e"]]


def test_imports_are_seen_wherever_they_stand(tmp_path):
    package = tmp_path / PACKAGE
    (package / "model").mkdir(parents=True)
    (package / "train").mkdir()
    for name in ("__init__", "errors", "model/__init__", "model/codec", "train/__init__", "train/run", "train/stage"):
        (package / f"{name}.py").touch()
    (package / "model" / "codec.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "import mlx_voxclone.errors as e\n"
        "if TYPE_CHECKING:\n    from mlx_voxclone.train.run import Run\n"
        "def f():\n    from mlx_voxclone.train import stage\n    from .. import model\n    import numpy\n"
    )
    (package / "train" / "run.py").write_text("from .stage import x\nfrom . import NAME\n")
    graph = graph_of(tmp_path)
    assert graph["mlx_voxclone.model.codec"] == {
        f"{PACKAGE}.{name}" for name in ("errors", "train.run", "train.stage", "model")
    }
    assert graph["mlx_voxclone.train.run"] == {"mlx_voxclone.train.stage", "mlx_voxclone.train"}
    assert len(list(misplaced(graph))) == 2
