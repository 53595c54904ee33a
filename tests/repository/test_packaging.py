"""What is packed and committed: the project's own files, never a user's recordings beside them."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from places import ROOT

OWN = {"benchmarks", "configs", "demo", "docs", "examples", "mlx_voxclone", "scripts", "tests"}


needs_uv = pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")


@pytest.fixture(scope="module")
def declared() -> dict:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The package, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


def uv(*arguments: str) -> subprocess.CompletedProcess:
    """Of the lock file as it stands; nothing is fetched or installed."""
    command = ["uv", *arguments, "--frozen", "--offline", "--project", str(ROOT)]
    outside = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "LD_PRELOAD")}
    outside["COLUMNS"] = "1000"  # uv breaks its lines at a terminal's width
    return subprocess.run(command, env=outside, capture_output=True, text=True)


def backends(*arguments: str) -> list[str]:
    """The backends of MLX that uv installs on Linux."""
    done = uv("export", "--no-hashes", "--no-annotate", "--no-header", *arguments)
    assert done.returncode == 0, done.stderr
    return re.findall(r"^(mlx-(?:cpu|cuda[^=]*))==", done.stdout, re.MULTILINE)


def test_the_source_distribution_is_a_list(declared):
    targets = declared["tool"]["hatch"]["build"]["targets"]
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


def test_no_dependency_brings_a_backend_of_its_own(declared):
    """On Linux `mlx[cpu]` and `mlx[cuda13]` both hold mlx/lib/libmlx.so; installed over each other neither works."""
    project = declared["project"]
    assert not [line for line in project["dependencies"] if line.startswith("mlx[")]
    extras = {name for name, lines in project["optional-dependencies"].items() if any("mlx[" in line for line in lines)}
    groups = {name for name, lines in declared["dependency-groups"].items() if any("mlx[" in line for line in lines)}
    assert (extras, groups) == ({"cpu", "cuda"}, {"cpu"})
    conflicts = [sorted(entry.items()) for pair in declared["tool"]["uv"]["conflicts"] for entry in pair]
    assert conflicts == [[("extra", "cpu")], [("extra", "cuda")], [("group", "cpu")], [("extra", "cuda")]]


@needs_uv
def test_uv_installs_one_backend():
    assert backends() == ["mlx-cpu"]
    assert backends("--extra", "cpu") == ["mlx-cpu"]
    assert backends("--all-extras", "--no-extra", "cuda") == ["mlx-cpu"]
    assert backends("--no-group", "cpu", "--extra", "cuda") == ["mlx-cuda-13"]


@needs_uv
@pytest.mark.parametrize(
    "options", [["--all-extras"], ["--extra", "cuda"], ["--no-group", "cpu", "--extra", "cpu", "--extra", "cuda"]]
)
def test_two_backends_are_refused_in_one_line(options):
    done = uv("sync", "--dry-run", *options)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.endswith(" are incompatible with the declared conflicts: " + line[line.rindex("{") :])
    assert "`cuda`" in line
    assert "`cpu`" in line


def test_the_lock_file_has_no_sizes():
    assert ", size = " not in (ROOT / "uv.lock").read_text(encoding="utf-8")


def test_what_an_index_needs_to_know(declared):
    """An author by name alone, addresses, classifiers that there are, and that the package is typed."""
    from trove_classifiers import classifiers

    project = declared["project"]
    assert all(author["name"] for author in project["authors"])
    assert all(address.startswith("https://") for address in project["urls"].values())
    assert project["urls"]
    assert set(project["classifiers"]) <= classifiers
    assert "Typing :: Typed" in project["classifiers"]
    assert (ROOT / "mlx_voxclone" / "py.typed").is_file()


def test_the_wheel_holds_the_configurations(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        inside = {name.removeprefix("mlx_voxclone/"): archive.read(name) for name in names if "/configs/" in name}
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    sources = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / "configs").rglob("*.yaml")}
    assert inside == sources
    assert "mlx_voxclone/py.typed" in names
    assert len(names) == len(set(names))
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"mlx_voxclone"}
    assert "\nAuthor: " in metadata
    assert "Project-URL: " in metadata


def test_the_wheel_holds_what_pages_are_made_of(wheel):
    """Style sheets, scripts, templates, texts: every file of the package that is no code, as it is here."""
    package = ROOT / "mlx_voxclone"
    others = [path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    sources = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in others}
    look = ("look.css", "player.css", "media.css", "player.js", "icon.svg")
    assert {f"mlx_voxclone/report/look/{name}" for name in look} <= sources.keys()
    studio = ("templates/base.html", "static/htmx.min.js", "static/htmx.LICENSE", "words/en.toml", "words/de.toml")
    assert {f"mlx_voxclone/studio/{name}" for name in studio} <= sources.keys()
    with zipfile.ZipFile(wheel) as archive:
        assert {name: archive.read(name) for name in sources} == sources


@pytest.mark.slow
def test_the_wheel_works_outside_of_the_repository(wheel, tmp_path):
    """Installed into an environment of its own, with this one's libraries behind it."""
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    (site,) = (place / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    install = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, env={"PATH": os.environ["PATH"]})
    work = tmp_path / "work"
    (work / "recordings").mkdir(parents=True)
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def voxclone(*arguments: str) -> subprocess.CompletedProcess:
        command = [place / "bin" / "voxclone", *arguments]
        return subprocess.run(command, cwd=work, env=outside, capture_output=True, text=True)

    assert "usage: voxclone COMMAND" in voxclone("--help").stdout
    for name in ("voxtral_speaker", "voxtral_speaker.yaml", "mac-16gb", "profiles/mac-64gb"):
        done = voxclone("train", "--config", name)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: voxtral_speaker.yaml: voice: missing")
    done = voxclone("train", "--config", "voxtral_speeker")
    assert "did you mean voxtral_speaker?" in done.stderr
    done = voxclone("train", "--smoke-test", "--quiet")
    assert done.returncode == 0, done.stderr
    assert "smoke test passed" in done.stdout
    assert (work / "runs" / "smoke-test-1" / "run" / "config.yaml").is_file()
