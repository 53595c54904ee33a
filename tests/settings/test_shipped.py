"""Configurations by name: those that come with the package, and the user's own files before them."""

import os
from pathlib import Path

import pytest
from places import ROOT

from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.files import shipped
from mlx_voxclone.settings.config import load_run_config

pytest_plugins = ["commands"]
OWN = "include: voxtral_speaker\nseed: 5\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> Path:
    """A working directory that is not the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_configuration_has_a_name():
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert files == sorted(shipped.shipped(name) for name in shipped.names())
    assert shipped.names()[0] == "voxtral_distill"
    assert "profiles/mac-32gb" in shipped.names()


@pytest.mark.parametrize("name", shipped.names())
@pytest.mark.parametrize("suffix", ["", ".yaml"])
def test_each_is_found_from_anywhere(name, suffix):
    path = ROOT / "configs" / f"{name}.yaml"
    wanted = load_run_config(path)
    for given in {name, name.rpartition("/")[2]}:
        assert shipped.find(given + suffix) == path
        assert load_run_config(given + suffix).dump() == wanted.dump()


def test_a_file_of_that_name_in_the_working_directory_wins(elsewhere):
    Path("voxtral_speaker").mkdir()  # a run's directory is no configuration
    assert load_run_config("voxtral_speaker").seed == 0
    Path("voxtral_speaker.yaml").write_text("task: clone\nseed: 3\n")
    for given in ("voxtral_speaker", "voxtral_speaker.yaml", elsewhere / "voxtral_speaker.yaml"):
        assert load_run_config(given).seed == 3
    Path("profiles").mkdir()
    Path("profiles/mac-16gb.yaml").write_text("task: clone\nseed: 4\n")
    assert load_run_config("profiles/mac-16gb").seed == 4
    assert load_run_config("mac-16gb").seed == 0
    Path("mac-16gb.yaml").symlink_to("gone.yaml")  # a link to nothing is a mistake of its own
    with pytest.raises(ConfigError, match="mac-16gb"):
        load_run_config("mac-16gb.yaml")


@pytest.mark.parametrize("name", ["voxtral_speaker", "voxtral_speaker.yaml"])
def test_an_own_file_includes_one_by_name(name):
    Path("own.yaml").write_text(OWN.replace("voxtral_speaker", name))
    config = load_run_config("own.yaml", {"voice": "ann"})
    assert config.dump() == load_run_config("voxtral_speaker", {"voice": "ann", "seed": 5}).dump()
    assert (config.where("seed"), config.where("task")) == ("own.yaml", "voxtral_speaker.yaml")
    Path("voxtral_speaker.yaml").write_text("task: speaker\n")
    assert load_run_config("own.yaml").task == "speaker"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("voxtral_speeker", "did you mean voxtral_speaker? by name there are voxtral_distill, voxtral_encoder,"),
        ("profiles/mac-8gb.yaml", "by name there are voxtral_distill"),
        ("zzz.yaml", "zzz.yaml: no such configuration file; by name there are "),
        ("configs/voxtral_speaker.yaml", "the one that comes with voxclone is called voxtral_speaker"),
        ("../mac-16gb.yaml", "the one that comes with voxclone is called mac-16gb"),
        ("Voxtral_Speaker.yaml", "did you mean voxtral_speaker? by name there are "),
        ("configs/voxtral_speakr", "did you mean voxtral_speaker, which comes with voxclone?\n"),
        ("my_vioce.yaml", "my_vioce.yaml: no such configuration file; did you mean my_voice.yaml?\n"),
        ("MY_VOICE", "MY_VOICE: no such configuration file; did you mean my_voice.yaml?\n"),
        ("elsewhere/own.yaml", "elsewhere/own.yaml: no such configuration file\n"),
    ],
)
@pytest.mark.parametrize("command", ["train", "doctor"])
def test_an_unknown_name_is_one_line(refused, command, given, said):
    Path("my_voice.yaml").write_text(OWN)
    assert said in refused([command, "--config", given])


def test_an_unknown_include_is_one_line(refused):
    Path("own.yaml").write_text(OWN.replace("voxtral_speaker", "voxtral_speeker"))
    refused(["train", "--config", "own.yaml"], "own.yaml: include: ", "did you mean voxtral_speaker?")


def test_messages_name_a_shipped_file_by_its_name(refused):
    Path("recordings").mkdir()
    refused(["train", "--config", "mac-32gb"], "error: voxtral_speaker.yaml: voice: missing")
    refused(["train", "--config", "mac-32gb", "--set", "voice=ann", "--set", "data.path=gone"], "gone does not exist")
    refused(["train", "--config", "voxtral_encoder"], "data.path", "voxtral_encoder.yaml: ")
    refused(["train"], "--config is missing: name a YAML file, or one of voxtral_distill")


def test_the_smoke_test_needs_no_configuration(monkeypatch):
    taken = []
    monkeypatch.setattr("mlx_voxclone.doctor.smoke.smoke_test", lambda config, reporter: taken.append(config) or 0)
    Path("voxtral_speaker.yaml").write_text("task: clone\nseed: 3\n")  # none of its business
    assert voxclone(["train", "--smoke-test"]) == 0
    assert taken[0].dump() == load_run_config(ROOT / "configs" / "voxtral_speaker.yaml").dump()
    assert voxclone(["train", "--smoke-test", "--config", "voxtral_speaker", "--set", "seed=7"]) == 0
    assert taken[1].seed == 7


def test_an_installed_package_has_them_inside(monkeypatch, tmp_path):
    (tmp_path / "mlx_voxclone").mkdir()
    os.symlink(ROOT / "configs", tmp_path / "mlx_voxclone" / "configs")
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "mlx_voxclone" / "files" / "shipped.py"))
    assert shipped.directory() == tmp_path.resolve() / "mlx_voxclone" / "configs"
    assert load_run_config("voxtral_speaker").where("task") == "voxtral_speaker.yaml"
