"""What is packed and committed: the project's own files, never a user's recordings beside them."""

import re
import shutil
import subprocess
import tomllib

import pytest
from places import ROOT

OWN = {"benchmarks", "configs", "demo", "docs", "examples", "mlx_voxclone", "scripts", "tests"}


def test_the_source_distribution_is_a_list():
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    included = {entry.removeprefix("/") for entry in targets["sdist"]["include"]}
    assert all((ROOT / entry).exists() for entry in included)
    assert {entry for entry in included if (ROOT / entry).is_dir()} == OWN
    assert not [entry for entry in included if "*" in entry]
    assert targets["wheel"]["packages"] == ["mlx_voxclone"]


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout")
def test_what_the_documents_have_people_make_is_ignored():
    """Every folder that a command of README or guides reads recordings from or writes to, and audio anywhere."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages if page.name != "LOG.md")
    commands = "\n".join(re.findall(r"^ *(?:uv run .*)?voxclone .*$", text, re.MULTILINE))
    asked = r"(?:--output|--recordings|--model|--parts|prepare|evaluate|shards) ([A-Za-z][\w.-]*)"
    made = set(re.findall(asked, commands))
    folders = sorted(name for name in made if "." not in name and name not in OWN)
    assert {"recordings", "prepared", "voxtral", "ann", "rehearsal", "results"} <= set(folders)
    paths = [f"{name}/any.bin" for name in folders] + ["me.wav", "docs/me.flac", "encoder.safetensors"]
    command = ["git", "check-ignore", "--", *paths]
    ignored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert sorted(ignored) == sorted(paths)


def test_the_package_does_without_the_benchmarks():
    """They are not installed."""
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "mlx_voxclone").rglob("*.py")}
    assert sources
    assert not [
        path for path, text in sources.items() if re.search(r"^\s*(from|import) benchmarks", text, re.MULTILINE)
    ]
