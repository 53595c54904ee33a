"""What contributors are told and what the workflows run: it exists as it is named there."""

import re
import runpy
import subprocess
import sys
import tomllib

import pytest
import yaml
from places import ROOT

from mlx_voxclone import __version__

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PASSED = '<testcase name="a"/>'
SKIPPED = '<testcase name="b"><skipped message="needs a Mac with Metal"/></testcase>'


def markers() -> set[str]:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {line.partition(":")[0] for line in declared["tool"]["pytest"]["ini_options"]["markers"]}


def commands(path) -> list[str]:
    """The shell lines of a workflow."""
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_every_path_that_is_named_is_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    quoted = set(re.findall(r"`([\w./-]+/[\w./-]*)`", text)) | set(re.findall(r"pytest (tests/[a-z]\w*)", text))
    paths = {path for path in quoted if "NAME" not in path and not path.startswith("/")}
    assert paths
    places = (ROOT, ROOT / "mlx_voxclone")
    assert not [path for path in sorted(paths) if not any((place / path).exists() for place in places)]


def test_every_name_that_is_given_is_in_the_code():
    """Functions, classes and tables: words in backticks with a capital or an underscore."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(?:RunConfig\.)?([A-Za-z]*[A-Z_][A-Za-z_]*)`", text)) - {"FOLDER"}
    sources = [*(ROOT / "mlx_voxclone").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources if path.name != "test_contributing.py")
    assert {"EncoderLosses", "extra_metrics", "METRICS", "FRONT"} <= names
    assert not [name for name in sorted(names) if not re.search(rf"\b{name}\b", code)]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_there_is(path):
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content["permissions"] == {"contents": "read"}
    assert content[True]  # `on`, as YAML 1.1 reads it
    for line in commands(path):
        assert set(re.findall(r"pytest -m (\w+)", line)) <= markers()
        assert all((ROOT / name).is_file() for name in re.findall(r"\S+\.py\b", line))


def test_what_each_workflow_is_for():
    lines = {path.stem: "\n".join(commands(path)) for path in WORKFLOWS}
    assert {"linux", "metal", "release"} <= set(lines)
    for needed in ("ruff check", "ruff format --check", "pytest -m core", "--smoke-test", "mkdocs build --strict"):
        assert needed in lines["linux"]
    assert "pytest -m metal --junitxml metal.xml\nuv run python .ci/ran.py metal.xml" in lines["metal"]
    assert "continue-on-error" not in (ROOT / ".github" / "workflows" / "metal.yml").read_text(encoding="utf-8")
    assert "uv build" in lines["release"]


@pytest.mark.parametrize(
    ("cases", "count"),
    [(PASSED + SKIPPED, 1), (SKIPPED, 0), ("", 0), (None, 0)],
    ids=["ran", "skipped", "empty", "none"],
)
def test_a_run_in_which_every_test_was_skipped_fails(tmp_path, cases, count):
    report = tmp_path / "metal.xml"
    if cases is not None:
        report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>", encoding="utf-8")
        assert runpy.run_path(str(ROOT / ".ci" / "ran.py"))["ran"](report) == count
    command = [sys.executable, ROOT / ".ci" / "ran.py", report]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == (0 if count else 1)
    assert done.stdout.startswith(f"{report}: ")


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_has_what_a_form_needs(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"]
    assert form["description"]
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in form["body"]} <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    assert all(part["attributes"]["label"] for part in fields)
    assert len({part["id"] for part in fields}) == len(fields)
    assert any(part["validations"]["required"] for part in fields)


def test_one_form_takes_a_measurement():
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "measurement.yml").read_text(encoding="utf-8"))
    (bench,) = [part for part in form["body"] if part.get("id") == "bench"]
    assert bench["attributes"]["render"] == "json"
    assert bench["validations"]["required"]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"] == __version__
    assert citation["license"] == project["license"]
    assert citation["title"] == project["name"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project["authors"]]
