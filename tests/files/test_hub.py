"""Addresses on the hub in the place of paths: what they mean, what is fetched, and what a user is told otherwise."""

import errno
import json
import re

import pytest
import yaml
from hub_stand_in import READ

from mlx_voxclone.adapters.files import AdapterConfig
from mlx_voxclone.adapters.mix import AdapterSource
from mlx_voxclone.checkpoint.release import resolve
from mlx_voxclone.checkpoint.voices import VOICE_DIRECTORY
from mlx_voxclone.data.shards.fetch import hub_shards
from mlx_voxclone.errors import CheckpointError, ConfigError, DataError
from mlx_voxclone.evaluate import speakers
from mlx_voxclone.files import hub as hub_module
from mlx_voxclone.files.hub import ADAPTERS, ENCODER, VOICE, HubAddress, hub_errors, local
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.settings.differences import config_differences
from mlx_voxclone.train.hub_files import fetched

pytest_plugins = ["hub_fixtures"]

FILES = {
    "README.md": b"a card",
    "encoder/encoder.safetensors": b"an encoder",
    "adapters/adapters.safetensors": b"adapters",
    "adapters/adapter_config.json": b"{}",
    "voices/ann.safetensors": b"a voice",
}


def line_of(function) -> str:
    with pytest.raises(CheckpointError) as caught:
        function()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fetch(text, kind):
    hub_module._fetched.cache_clear()
    return local(text, kind)


# ---- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://ann/voice", HubAddress("ann/voice")),
        ("hf://ann/my.voice-2/", HubAddress("ann/my.voice-2")),
        ("hf://ann/voice/a/b.safetensors", HubAddress("ann/voice", "a/b.safetensors")),
        ("hf://ann/voice@v1", HubAddress("ann/voice", "", "v1")),
        ("hf://ann/voice/b.pt@refs/pr/1", HubAddress("ann/voice", "b.pt", "refs/pr/1")),
        ("hf://ann/voice@v1/b.pt", HubAddress("ann/voice", "b.pt", "v1")),
    ],
)
def test_forms_of_addresses(text, address):
    assert HubAddress.parse(text) == address
    assert HubAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "hf://ann",
        "hf://",
        "hf://ann/",
        "hf://datasets/ann/speech",
        "hf://ann/v/../../x",
        "hf://ann/v@a/b@c",
        "hf:///a/b",
    ],
)
def test_other_forms_are_refused(text):
    assert "expected hf://OWNER/NAME[/FILE][@REVISION]" in line_of(lambda: HubAddress.parse(text))


def test_the_hub_keeps_voices_where_a_checkpoint_does():
    assert hub_module.PRESETS == VOICE_DIRECTORY


def test_paths_are_paths(hub, tmp_path):
    assert local(tmp_path / "x", ENCODER) == tmp_path / "x"
    assert local("some/where", VOICE).parts == ("some", "where")
    assert hub.requests == []


# ---- what is fetched -----------------------------------------------------------------------------------------------


def test_each_kind_finds_its_file_and_nothing_else_is_fetched(hub):
    hub.make("ann/voice", FILES)
    assert fetch("hf://ann/voice", ENCODER).read_bytes() == b"an encoder"
    assert fetch("hf://ann/voice", VOICE).read_bytes() == b"a voice"
    directory = fetch("hf://ann/voice", ADAPTERS)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {
        "adapters.safetensors": b"adapters",
        "adapter_config.json": b"{}",
    }
    assert not (directory.parent / "README.md").exists()


def test_a_file_can_be_named(hub):
    hub.make("ann/voice", {**FILES, "more/adapters.safetensors": b"other", "more/adapter_config.json": b"[]"})
    assert fetch("hf://ann/voice/voices/ann.safetensors", VOICE).read_bytes() == b"a voice"
    for name in ("hf://ann/voice/more", "hf://ann/voice/more/adapters.safetensors"):
        assert (fetch(name, ADAPTERS) / "adapters.safetensors").read_bytes() == b"other"
    assert "there is no none.safetensors; there are " in line_of(
        lambda: fetch("hf://ann/voice/none.safetensors", VOICE)
    )
    assert "there is no README.md/adapters" in line_of(lambda: fetch("hf://ann/voice/README.md", ADAPTERS))
    assert "download recordings" in line_of(lambda: fetch("hf://ann/voice/me.wav", VOICE))


def test_several_of_a_kind_are_listed(hub):
    more = {
        "b/encoder.safetensors": b"2",
        "b/adapters.safetensors": b"2",
        "voices/bob.pt": b"2",
        "voices/bob.safetensors": b"2",
    }
    hub.make("ann/voice", {**FILES, **more})
    assert "(b/encoder.safetensors, encoder/encoder.safetensors); add the name" in line_of(
        lambda: fetch("hf://ann/voice", ENCODER)
    )
    assert "several directories of adapters (adapters, b)" in line_of(lambda: fetch("hf://ann/voice", ADAPTERS))
    assert "several voices (voices/ann.safetensors, voices/bob.safetensors)" in line_of(
        lambda: fetch("hf://ann/voice", VOICE)
    )


def test_voices_of_a_checkpoint_are_a_last_resort(hub):
    preset = {"voice_embedding/casual_male.pt": b"p", "voice_embedding/casual_male.safetensors": b"s"}
    hub.make("ann/voice", {**FILES, **preset, "consolidated.safetensors": b"weights"})
    assert fetch("hf://ann/voice", VOICE).read_bytes() == b"a voice"
    hub.make("ann/model", {**preset, "consolidated.safetensors": b"weights"})
    assert fetch("hf://ann/model", VOICE).read_bytes() == b"s"


def test_nothing_of_the_kind(hub):
    hub.make("ann/card", {"README.md": b"x"})
    for kind, what in (
        (ENCODER, "no encoder (encoder.safetensors)"),
        (ADAPTERS, "no adapters ("),
        (VOICE, "no voice;"),
    ):
        assert what in (line := line_of(lambda kind=kind: fetch("hf://ann/card", kind)))
        assert "there are .gitattributes, README.md" in line
    hub.make("ann/half", {"adapters.safetensors": b"x"})
    assert "adapter_config.json is missing" in line_of(lambda: fetch("hf://ann/half", ADAPTERS))


def test_names_are_no_patterns(hub):
    hub.make("ann/voice", {"a[1]/encoder.safetensors": b"right", "a1/encoder.safetensors": b"wrong"})
    path = fetch("hf://ann/voice/a[1]/encoder.safetensors", ENCODER)
    assert path.read_bytes() == b"right"
    assert not (path.parents[1] / "a1").exists()


def test_a_revision_is_that_revision(hub):
    repository = hub.make("ann/voice", FILES)
    first = repository.commits[-1][0]
    repository.commit({**FILES, "encoder/encoder.safetensors": b"a better one"})
    assert fetch("hf://ann/voice", ENCODER).read_bytes() == b"a better one"
    assert fetch(f"hf://ann/voice@{first}", ENCODER).read_bytes() == b"an encoder"
    assert "no such revision" in line_of(lambda: fetch("hf://ann/voice@v9", ENCODER))


def test_an_address_is_one_file_throughout_a_process(hub):
    repository = hub.make("ann/voice", FILES)
    path = local("hf://ann/voice", ENCODER)
    asked = len(hub.requests)
    repository.commit({**FILES, "encoder/encoder.safetensors": b"a better one"})
    assert local("hf://ann/voice", ENCODER) == path
    assert len(hub.requests) == asked


def test_adapters_with_a_weight(hub):
    hub.make("ann/voice", FILES)
    plain, half = AdapterSource.parse("hf://ann/voice"), AdapterSource.parse("hf://ann/voice/adapters=0.5")
    assert (plain.weight, half.weight) == (1.0, 0.5)
    assert plain.directory == half.directory
    assert (half.directory / "adapters.safetensors").read_bytes() == b"adapters"


def test_a_model_can_be_an_address(hub):
    hub.make("ann/model", {"params.json": b"{}", "consolidated.safetensors": b"w", "encoder/encoder.safetensors": b"e"})
    directory = resolve("hf://ann/model")
    assert (directory / "params.json").read_bytes() == b"{}"
    assert not (directory / "encoder").exists()
    assert resolve("ann/model") == directory
    assert "leave out the file" in line_of(lambda: resolve("hf://ann/model/params.json"))
    assert "ann/none: no directory of this name here, and not fetched from the hub" in line_of(
        lambda: resolve("ann/none")
    )


# ---- what can go wrong ---------------------------------------------------------------------------------------------


def test_without_a_network_the_cache_serves(hub, monkeypatch):
    hub.make("ann/voice", {**FILES, "b/encoder.safetensors": b"2"})
    address = "hf://ann/voice/encoder/encoder.safetensors"
    path = fetch(address, ENCODER)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch(address, ENCODER) == path
    assert fetch("hf://ann/voice", ENCODER) == path  # the one that is here
    assert "switched off by HF_HUB_OFFLINE" in line_of(lambda: fetch("hf://ann/other", ENCODER))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.fail("api/models", 503)
    assert fetch(address, ENCODER) == path


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, "no access (401): log in with `hf auth login`"),
        (403, "the token gives no right"),
        (404, "not there (404)"),
        (500, "the hub has a problem (500)"),
        (503, "try again later"),
        (418, "the hub refuses (418): the stand-in was told to fail"),
    ],
)
def test_refusals_are_one_line(hub, status, text):
    hub.make("ann/voice", FILES)
    hub.fail("GET /api/models/ann/voice$", status)
    line = line_of(lambda: fetch("hf://ann/voice", ENCODER))
    assert line.startswith("hf://ann/voice: not fetched from the hub (")
    assert text in line


def test_no_such_repository_and_private_ones(hub, monkeypatch):
    hub.make("ann/secret", FILES, private=True)
    for name in ("ann/secret", "ann/none"):
        assert "log in" in line_of(lambda name=name: fetch(f"hf://{name}", ENCODER))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "no access (401)" in line_of(lambda: fetch("hf://ann/secret", ENCODER))
    monkeypatch.setenv("HF_TOKEN", READ)
    assert fetch("hf://ann/secret", ENCODER).read_bytes() == b"an encoder"
    assert hub.tokens[hub.requests.index(next(r for r in hub.requests if "/objects/" in r))] is None  # another origin


def test_a_hub_that_is_not_there(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "the hub cannot be reached" in line_of(lambda: fetch("hf://ann/voice", ENCODER))


def test_a_full_disk_stays_a_full_disk(hub, monkeypatch):
    import errno

    hub.make("ann/voice", FILES)

    def full(*arguments, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device", "cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(OSError, match="No space"):
        fetch("hf://ann/voice", ENCODER)


# ---- configurations ------------------------------------------------------------------------------------------------


@pytest.fixture
def configured(tmp_path):
    def write(**keys):
        path = tmp_path / "c.yaml"
        path.write_text(yaml.safe_dump(keys), encoding="utf-8")
        return load_run_config(path)

    return write


def test_a_configuration_keeps_the_address_and_uses_the_file(hub, configured):
    repository = hub.make("ann/voice", FILES)
    data = {"path": "."}
    config = configured(task="speaker", data=data, speaker={"encoder": "hf://ann/voice", "start": "hf://ann/voice"})
    assert config.check_paths().speaker.encoder == "hf://ann/voice"
    assert hub.requests == []
    assert "encoder: hf://ann/voice\n" in (text := config.dump())
    here = fetched(config)
    assert here.speaker.encoder.read_bytes() == b"an encoder"
    assert (here.speaker.start / "adapters.safetensors").read_bytes() == b"adapters"
    assert config_differences(text, config) == []
    repository.commit({**FILES, "encoder/encoder.safetensors": b"a better one"})
    assert fetched(config) == here


def test_only_what_the_task_uses_is_fetched(hub, configured):
    hub.make("ann/voice", FILES)
    both = {"encoder": {"weights": "hf://ann/voice"}, "speaker": {"encoder": "hf://ann/nothing"}}
    config = configured(task="encoder", data={"path": "."}, **both)
    here = fetched(config)
    assert here.encoder.weights.read_bytes() == b"an encoder"
    assert here.speaker == config.speaker


@pytest.mark.parametrize("text", ["hf://ann", "https://x.org/encoder.safetensors", "hf://datasets/ann/x"])
@pytest.mark.parametrize("key", ["encoder.weights", "speaker.encoder", "speaker.start"])
def test_addresses_that_are_none(configured, key, text):
    section, name = key.split(".")
    with pytest.raises(ConfigError, match=rf"c\.yaml: {key}: .*hf://OWNER/NAME\[/FILE\]\[@REVISION\]"):
        configured(task="clone", **{section: {name: text}})


def test_paths_in_a_configuration_stay_paths(configured, tmp_path):
    config = configured(task="clone", data={"path": str(tmp_path)}, speaker={"encoder": "e.safetensors"})
    with pytest.raises(ConfigError, match=r"speaker\.encoder: e\.safetensors does not exist"):
        config.check_paths()
    assert fetched(config) == config


def test_an_adapter_configuration_is_written_as_before():
    config = AdapterConfig(4, 8.0, ("wq",), "ab")
    assert json.loads(config.text()) == {"rank": 4, "alpha": 8.0, "targets": ["wq"], "base_fingerprint": "ab"}


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: speakers._onnx_file("ann/ears"), "ann/ears: not fetched from the hub (the network is switched off by"),
        (
            lambda: hub_shards("hf://datasets/ann/speech"),
            "hf://datasets/ann/speech: not read from the hub (",
        ),
    ],
)
def test_data_and_measures_say_the_same_of_the_hub_in_an_error_of_theirs(ask, said):
    with pytest.raises(DataError, match=re.escape(said)) as failed:
        ask()
    assert "\n" not in str(failed.value)


def test_a_failure_is_of_the_kind_that_is_asked_for():
    for kind in (CheckpointError, DataError):
        line = r"^a/b: not there \(the hub cannot be reached: no route\); go without$"
        with pytest.raises(kind, match=line), hub_errors("a/b: not there", kind, "; go without"):
            raise ConnectionError("no route")
        with pytest.raises(ConfigError, match="of ours"), hub_errors("a/b: not there", kind):
            raise ConfigError("of ours")
        with pytest.raises(OSError, match="No space"), hub_errors("a/b: not there", kind):
            raise OSError(errno.ENOSPC, "No space left on device")
