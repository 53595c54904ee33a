"""What `train` says of data, voice and places before anything takes long, and that its advice leads on."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from places import ROOT

from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.doctor import smoke
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.synth import SyntheticSpeaker, write_corpus
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train import checks, open_data
from mlx_voxclone.train import run as run_module

pytest_plugins = ["commands"]
KINDS = ("recordings", "clips", "shards")
NO_MODEL = "nobody/none"  # what is refused before a model is asked for, is refused before all that takes long


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> dict[str, Path]:
    """Transcribed recordings of two speakers, and what was prepared from them. Read them only."""
    places = {kind: tmp_path_factory.mktemp("two") / kind for kind in KINDS}
    write_corpus(places["recordings"], [SyntheticSpeaker.sample(k) for k in range(2)], 4, seconds=1.0)
    options = PrepareOptions(min_seconds=0.5)
    prepare(places["recordings"], places["clips"], options)
    prepare(places["recordings"], places["shards"], options, shards=10**6)
    return places


@pytest.fixture(scope="module")
def mute(two, tmp_path_factory) -> dict[str, Path]:
    """One speaker's, without texts."""
    places = {kind: tmp_path_factory.mktemp("mute") / kind for kind in KINDS}
    shutil.copytree(two["recordings"] / "synthetic-0", places["recordings"])
    prepare(places["recordings"], places["clips"])
    prepare(places["recordings"], places["shards"], shards=10**6)
    return places


@pytest.fixture
def arguments(config_file, tmp_path):
    def made(task: str, data: Path, *settings: str, **keys) -> list:
        config = config_file(task, **{"model": NO_MODEL, **keys})
        values = [f"data.path={data}", f"output={tmp_path / 'run'}", *settings]
        return ["train", "--config", config, "--quiet", *(part for value in values for part in ("--set", value))]

    return made


# ---- whose voice -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_clone_asks_whose_voice_it_makes(refused, arguments, two, monkeypatch, kind):
    monkeypatch.setattr(open_data, "MOMENT", 3.0)
    names = (
        "2 speakers (synthetic-0, synthetic-1), and task clone makes one voice: choose its speaker with data.speaker"
    )
    refused(arguments("clone", two[kind]), str(two[kind]), names)
    refused(arguments("clone", two[kind], "data.speaker=ann"), "no speaker 'ann'", "found: synthetic-0, synthetic-1")


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_clips_of_the_speaker_go_into_a_clone(arguments, two, miniature, monkeypatch, capsys, kind):
    seen = []

    def stop(config, data, *_):
        seen.extend(data.clips)
        raise DataError("stopped")

    monkeypatch.setattr(run_module, "recover", stop)
    argv = arguments("clone", two[kind], "data.speaker=synthetic-1", model=str(miniature))
    assert voxclone([str(a) for a in argv]) == 2
    assert capsys.readouterr().err.endswith("error: stopped\n")
    assert {clip.speaker for clip in seen} == {"synthetic-1"}
    assert len(seen) == 4


def test_several_speakers_that_show_after_preparing(two, miniature):
    assert open_data.open_data(RunConfig(task="clone", data={"path": two["recordings"]}), print) is None  # 8 s
    with pytest.raises(DataError, match="2 speakers"):
        checks.check_data(RunConfig(task="clone", model=str(miniature)), PreparedData.load(two["clips"]))


def test_what_is_left_out_is_said(arguments, two, miniature, monkeypatch, capsys):
    argv = [str(a) for a in arguments("encoder", two["clips"], "data.heldout=0.5", model=str(miniature))]
    argv.remove("--quiet")
    monkeypatch.setattr(run_module, "check_data", lambda *_: (_ for _ in ()).throw(DataError("stopped")))
    assert voxclone(argv) == 2
    assert "data: held out anew: 4 of 8 clips (data.heldout 0.5)" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["cache=x", "cache_gb=1"])
def test_what_is_for_shards_says_nothing_to_clips(refused, arguments, two, key):
    refused(arguments("encoder", two["clips"], f"data.{key}"), f"data.{key.split('=')[0]}: ", "is for shards")


def test_a_voice_is_asked_for(refused, arguments, two):
    argv = arguments("clone", two["recordings"], "data.speaker=synthetic-0", voice=None)
    refused(argv, "clone.yaml: voice: missing; name the voice that is made", "--set voice=ann")
    RunConfig(task="speaker", data={"path": two["clips"]}).check_voice()  # which makes none


def test_the_shipped_commands_name_a_voice():
    guides = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name != "LOG.md"]  # it tells of commands
    assert len(guides) > 15
    for path in (ROOT / "README.md", *guides, *sorted((ROOT / "configs").rglob("*.yaml"))):
        for line in path.read_text().splitlines():
            if "train --config configs/" in line or "train.py --config configs/" in line:
                clones = any(name in line for name in ("voxtral_speaker.yaml", "profiles/mac-"))
                short = "..." in line or "--smoke-test" in line
                assert not clones or short or "--set voice=" in line, line
    assert yaml.safe_load((ROOT / "configs" / "voxtral_speaker.yaml").read_text())["voice"] is None


def test_the_smoke_test_names_voice_and_speaker(tmp_path):
    small = smoke._overridden(RunConfig(task="clone"), tmp_path)
    assert small.voice == smoke.VOICE
    assert small.data.speaker == SyntheticSpeaker.sample(0).name
    assert smoke._overridden(RunConfig(task="clone", voice="ann"), tmp_path).voice == "ann"


# ---- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["speaker", "clone"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_advice_about_texts_is_one_that_helps(refused, arguments, mute, monkeypatch, task, kind):
    """Only recordings can be transcribed by the run."""
    monkeypatch.setattr(open_data, "MOMENT", 3.0)
    monkeypatch.setattr(run_module, "prepare", None)
    argv = arguments(task, mute[kind])
    if kind == "recordings":
        said = refused(argv, "task speaker needs texts, and none of the clips has one")
        assert "or set data.transcribe: true" in said
        return
    monkeypatch.setattr(run_module, "check_inputs", lambda config: None)
    said = refused(argv, "needs texts", f"`voxclone prepare {mute['recordings']} --output OTHER")
    assert "data.transcribe" not in said
    refused([*argv, "--set", "data.transcribe=true"], "4 clips", "have no text", "--transcribe`, and set data.path")


def test_transcribing_without_the_package_is_refused_at_once(refused, arguments, mute, monkeypatch):
    monkeypatch.setattr(open_data.importlib.util, "find_spec", lambda name: None)
    refused(arguments("clone", mute["recordings"], "data.transcribe=true"), "pip install 'mlx-voxclone[transcribe]'")


def test_an_encoder_needs_no_texts(mute):
    config = RunConfig(task="encoder", data={"path": mute["recordings"]})
    assert open_data.open_data(config, print) is None


# ---- places ----------------------------------------------------------------------------------------------------------


def test_a_used_run_directory_is_said_first_and_with_what_else_is_taken(refused, arguments, two, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").write_text("mine")
    clone = arguments("clone", two["clips"], "data.speaker=synthetic-0")
    said = refused(clone, f"run directory {tmp_path / 'run'} is not empty: choose another output")
    assert "--resume" not in said  # which would be refused as well: it is no run
    (tmp_path / "run" / "baked").mkdir()
    (tmp_path / "run" / "baked" / "params.json").write_text("{}")
    assert "bake.output" not in refused(clone, "choose another output")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("mine")
    both = [*clone, "--set", f"bake.output={tmp_path / 'other'}"]
    refused(both, "choose another output and another bake.output", f"{tmp_path / 'other'} exists too")
    (tmp_path / "run" / "config.yaml").write_text("task: clone\n")
    refused(clone, f"continue with --resume {tmp_path / 'run'}, or choose another output")


def test_a_place_for_the_bake_that_cannot_be(refused, arguments, two, tmp_path):
    (tmp_path / "file").write_text("mine")
    argv = arguments("clone", two["clips"], f"bake.output={tmp_path / 'file' / 'baked'}")
    refused(argv, "file is no directory; set bake.output to another place")


def test_going_on_never_ends_before_a_foreign_bake(miniature, tmp_path):
    """Nothing was delivered yet: what lies there cannot be this run's."""
    config = RunConfig(task="clone", model=str(miniature), voice="ann", bake={"output": tmp_path / "mine"})
    place = tmp_path / "run"
    place.mkdir()
    (place / "config.yaml").write_text(config.dump())
    (tmp_path / "mine").mkdir()
    run_module._check_directory(place, config, resuming=True)
    (tmp_path / "mine" / "x").write_text("mine")
    with pytest.raises(run_module.CheckpointError, match="mine: exists already; set bake.output"):
        run_module._check_directory(place, config, resuming=True)
    (place / "codes").mkdir()
    (place / "codes" / "delivered.safetensors").write_bytes(b"")
    run_module._check_directory(place, config, resuming=True)


def test_damaged_prepared_data_is_said_before_the_model_is_asked_for(refused, arguments, two, tmp_path):
    shutil.copytree(two["clips"], tmp_path / "clips")
    path = tmp_path / "clips" / "manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[2]["audio"] = "../../secret.wav"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    refused(arguments("encoder", tmp_path / "clips"), f"{path}:3: '../../secret.wav' does not lie inside")
