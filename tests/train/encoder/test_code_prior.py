"""What codes usually look like: recovered once for a model, found by the next run, kept by the run itself too."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import tree
from places import CONFIG

from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.pairs.statistics import CodeStatistics, PresetStatistics
from mlx_voxclone.process.progress import Reporter
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.train.encoder import code_prior
from mlx_voxclone.train.encoder.code_prior import prior_entry

pytest_plugins = ["commands"]
FRAMES = 40


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def recovered(monkeypatch) -> list[list[str]]:
    """Stands for the recovery, which finds nothing in a miniature's narrow table; the names of the voices of each."""
    calls = []

    def recover(release, voices, *, progress):
        calls.append(list(voices))
        rng, sizes = np.random.default_rng(len(calls)), (128, *[21] * 36)
        codes = np.stack([rng.integers(0, size, FRAMES) for size in sizes]).astype(np.int32)
        for _ in voices:
            progress(1)
        return PresetStatistics(CodeStatistics.from_codes([codes], release.config.codec), {voices[0]: FRAMES}, {})

    monkeypatch.setattr(code_prior, "preset_statistics", recover)
    return calls


def prior(model, directory: Path, say=lambda line: None) -> CodeStatistics | None:
    config = load_run_config(CONFIG, {"model": str(model)})
    return code_prior.code_prior(Release(model), None, directory, Reporter(say), presets=config.encoder.prior.presets)


def same(a: CodeStatistics, b: CodeStatistics) -> bool:
    return np.array_equal(a.semantic, b.semantic) and np.array_equal(a.levels, b.levels)


def copies(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))


def test_the_next_run_of_a_model_finds_it(miniature, tmp_path, recovered):
    lines = []
    first = prior(miniature, tmp_path / "one", lines.append)
    assert lines == ["prior: 40 frames of codes from 1 of the model's 3 own voices"]
    assert first.frames == FRAMES
    second = prior(miniature, tmp_path / "two", lines.append)
    place = prior_entry(Release(miniature)).path
    assert lines[1:] == [f"{lines[0]}; from the cache {place}"]
    assert recovered == [sorted(Release(miniature).voices())]
    assert same(first, second)
    (one,), (two,) = copies(tmp_path / "one"), copies(tmp_path / "two")
    assert one.read_bytes() == two.read_bytes()


def test_voices_that_tell_nothing_are_said_to(miniature, tmp_path):
    """A miniature's table is too narrow: 0 frames of 0 voices would be no news."""
    lines = []
    for name in ("one", "two"):
        assert prior(miniature, tmp_path / name, lines.append) is None
    none = "prior: none of the model's 3 own voices could be traced back to codes"
    assert lines[0].startswith(f"{none} (none of its frames could be explained")
    assert lines[0].endswith("), so nothing tells which are usual")
    assert lines[1].startswith(f"{none}, so nothing tells which are usual; from the cache ")


def test_a_run_goes_on_without_the_cache(miniature, tmp_path, home, recovered):
    """As when it is resumed, or shared by processes with other home directories."""
    first = prior(miniature, tmp_path / "one")
    shutil.rmtree(home)
    lines = []
    assert same(prior(miniature, tmp_path / "one", lines.append), first)
    assert lines == []
    assert len(recovered) == 1
    assert not home.exists()


def test_a_cache_that_cannot_be_written_is_one_line(miniature, tmp_path, home, recovered):
    home.write_text("a file in the way")
    lines = []
    found = prior(miniature, tmp_path / "one", lines.append)
    assert found.frames == FRAMES
    warning, told = lines
    assert warning.startswith("warning: prior: kept for this run alone, the next one recovers the voices again (")
    assert "set VOXCLONE_CACHE to a directory" in warning
    assert told.startswith("prior: 40 frames of codes from 1 of")
    assert same(prior(miniature, tmp_path / "one"), found)  # its own copy
    assert len(recovered) == 1


def test_a_disk_that_is_full_meanwhile_does_not_end_the_run(miniature, tmp_path, recovered, monkeypatch):
    entry, save = prior_entry(Release(miniature)), CodeStatistics.save

    def full(statistics, path):
        if Path(path).is_relative_to(entry.path):
            raise CheckpointError(f"{path}: no space left")
        save(statistics, path)

    monkeypatch.setattr(CodeStatistics, "save", full)
    lines = []
    assert prior(miniature, tmp_path / "one", lines.append).frames == FRAMES
    assert "no space left" in lines[-1]
    assert entry.facts() is None
    assert len(copies(tmp_path / "one")) == 1


def test_what_is_wrong_with_the_model_is_not_taken_for_the_cache(miniature, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise CheckpointError("the audio table cannot be used")

    monkeypatch.setattr(code_prior, "preset_statistics", refused)
    lines = []
    with pytest.raises(CheckpointError, match="audio table"):
        prior(miniature, tmp_path / "one", lines.append)
    assert lines == []


@pytest.mark.parametrize("damage", ["gone", "cut", "zeros"])
def test_a_damaged_entry_is_made_again(miniature, tmp_path, recovered, damage):
    prior(miniature, tmp_path / "one")
    entry = prior_entry(Release(miniature))
    file = entry.path / code_prior.FILE
    content = file.read_bytes()
    file.unlink()
    if damage != "gone":
        file.write_bytes(content[:100] if damage == "cut" else bytes(len(content)))
    again = prior(miniature, tmp_path / "two")
    assert len(recovered) == 2
    assert same(prior(miniature, tmp_path / "three"), again)
    assert len(recovered) == 2


def test_other_rows_are_another_prior(miniature, tmp_path, recovered):
    """A voice that holds something else under the same name; voices added to a model are not its own."""
    prior(miniature, tmp_path / "one")
    other = shutil.copytree(miniature, tmp_path / "other")
    names = Release(other).voices()
    rows = {suffix: other / "voice_embedding" / f"{names[0]}{suffix}" for suffix in (".pt", ".safetensors")}
    for suffix, path in rows.items():
        if path.is_file():
            shutil.copy(path.with_name(f"{names[1]}{suffix}"), path)
    assert prior_entry(Release(other)).path.parent == prior_entry(Release(miniature)).path.parent
    assert prior_entry(Release(other)).path != prior_entry(Release(miniature)).path
    prior(other, tmp_path / "two")
    assert len(recovered) == 2


def test_the_cache_is_not_changed_by_finding(miniature, tmp_path, home, recovered):
    prior(miniature, tmp_path / "one")
    before = tree(home)
    prior(miniature, tmp_path / "two")
    assert tree(home) == before
