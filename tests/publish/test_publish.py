"""`voxclone publish`: what goes up is what lies here, and only that; the card; one commit; the way back by `hf://`."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import yaml
from hub_stand_in import WRITE
from publishable import CONSENT, SECRET, SENTENCE

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.voices import read_voice
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.files import hub as hub_module
from mlx_voxclone.train import run as run_module

pytest_plugins = ["commands", "baking", "hub_fixtures"]
PARTS = {
    ".gitattributes",
    "README.md",
    "published.json",
    "encoder/encoder.safetensors",
    "adapters/adapters.safetensors",
    "adapters/adapter_config.json",
    "voices/ann.safetensors",
    "samples/before-1.wav",
    "samples/after-1.wav",
}


def published(hub, name="ann/voice") -> dict[str, bytes]:
    return hub.repositories[name].files


def front_matter(card: bytes) -> dict:
    return yaml.safe_load(card.decode().split("---\n")[1])


# ---- what goes up --------------------------------------------------------------------------------------------------


def test_a_clone_goes_up_as_its_parts(logged_in, publish, clone_run):
    out = publish(clone_run)
    files = published(logged_in)
    assert files.keys() == PARTS
    here = {
        "encoder/encoder.safetensors": clone_run / "encoder" / "best" / "encoder.safetensors",
        "adapters/adapters.safetensors": clone_run / "speaker" / "best" / "adapters.safetensors",
        "adapters/adapter_config.json": clone_run / "speaker" / "best" / "adapter_config.json",
        "voices/ann.safetensors": clone_run / "baked" / "voice_embedding" / "ann.safetensors",
        "samples/before-1.wav": clone_run / "samples" / "before-1.wav",
        "samples/after-1.wav": clone_run / "samples" / "after-1.wav",
    }
    for name, path in here.items():
        assert files[name] == path.read_bytes()
    listed = json.loads(files["published.json"])["files"]
    assert listed.keys() == here.keys()
    for name, entry in listed.items():
        assert entry == {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
    assert out.splitlines()[-1].endswith(f"/ann/voice/commit/{logged_in.repositories['ann/voice'].commits[-1][0]}")
    assert len(logged_in.repositories["ann/voice"].commits) == 2  # the hub's own first one, and this


def test_nothing_private_goes_up(logged_in, publish, clone_run, tmp_path):
    publish(clone_run, "--baked")
    everything = b"\n".join(name.encode() + b"\n" + data for name, data in published(logged_in).items())
    for text in (
        SECRET,
        'Ann Lee"',
        str(tmp_path),
        str(clone_run),
        str(Path.home()),
        "0001.wav",
        "-original",
        "clips/",
    ):
        assert text.encode() not in everything, text
    recordings = [
        path.read_bytes() for path in clone_run.rglob("*.wav") if not re.match(r"(before|after)-1", path.name)
    ]
    assert len(recordings) == 7
    assert not any(data in everything for data in recordings)
    assert (clone_run / "codes" / "codes.safetensors").read_bytes() not in everything
    assert b"Ann Lee agreed" in everything  # and what is meant to be there is


def test_a_clone_with_its_checkpoint(logged_in, publish, clone_run):
    publish(clone_run, "--baked")
    files = published(logged_in)
    baked = clone_run / "baked"
    whole = {path.relative_to(baked).as_posix() for path in baked.rglob("*") if path.is_file()} - {"README.md"}
    assert files.keys() == PARTS | whole
    assert all(files[name] == (baked / name).read_bytes() for name in whole)
    top = [name for name in files if "/" not in name and name.endswith(".safetensors")]
    assert top == ["consolidated.safetensors"]  # mlx-audio reads all of them


def test_a_baked_checkpoint(logged_in, publish, clone_run, tmp_path, capsys):
    baked = tmp_path / "baked"
    shutil.copytree(clone_run / "baked", baked)
    (baked / "my notes.txt").write_text("mine")
    legal = {"LICENSE": b"Theirs.", "licence.txt": b"\xe9", "NOTICE.third-party": b"", "COPYING": b"Copy.\r\n"}
    for name, content in legal.items():
        (baked / name).write_bytes(content)
    publish(baked)
    assert (baked / "README.md").read_bytes() == b"the model card"
    files = published(logged_in)
    assert b"the model card" not in files["README.md"]
    assert "my notes.txt" not in files
    assert {name: files[name] for name in legal} == legal
    assert "encoder/encoder.safetensors" not in files
    assert files["consolidated.safetensors"] == (baked / "consolidated.safetensors").read_bytes()
    assert front_matter(files["README.md"])["base_model_relation"] == "finetune"
    assert "voxclone say --model ann/voice --voice ann " in files["README.md"].decode()


@pytest.mark.parametrize("kind", ["file", "directory", "run"])
def test_an_encoder(logged_in, publish, clone_run, tmp_path, kind):
    best = clone_run / "encoder" / "best"
    source = {"file": best / "encoder.safetensors", "directory": best, "run": tmp_path / "run"}[kind]
    if kind == "run":
        shutil.copytree(clone_run / "encoder", source)
        config = yaml.safe_load((clone_run / "config.yaml").read_text()) | {"task": "encoder"}
        (source / "config.yaml").write_text(yaml.safe_dump(config))
        content = json.loads((clone_run / "summary.json").read_text())
        content["results"].pop("speaker")
        (source / "summary.json").write_text(json.dumps(content))
    publish(source)
    files = published(logged_in)
    samples = {name for name in files if name.startswith("samples/")}
    assert files.keys() - samples == {".gitattributes", "README.md", "published.json", "encoder/encoder.safetensors"}
    assert not samples
    card = files["README.md"].decode()
    assert "| encoder: held-out loss | 3.5 → 2.25 |" in card
    assert "speaker: " not in card
    assert "--encoder hf://ann/voice --ref-audio" in card


def test_adapters_alone(logged_in, publish, adapters, tmp_path):
    shutil.copytree(adapters, tmp_path / "mine")
    config = json.loads((adapters / "adapter_config.json").read_text())
    (tmp_path / "mine" / "adapter_config.json").write_text(json.dumps(config | {"trained_on": str(tmp_path)}))
    publish(tmp_path / "mine")
    files = published(logged_in)
    assert files["adapters/adapter_config.json"] == (adapters / "adapter_config.json").read_bytes()  # the known keys
    assert files["adapters/adapters.safetensors"] == (adapters / "adapters.safetensors").read_bytes()
    card = files["README.md"].decode()
    assert front_matter(files["README.md"])["base_model_relation"] == "adapter"
    assert config["base_fingerprint"] in card
    assert "None were recorded" in card


def test_a_voice_alone(logged_in, publish, clone_run):
    publish(clone_run / "codes" / "ann.safetensors")
    files = published(logged_in)
    assert files.keys() == {".gitattributes", "README.md", "published.json", "voices/ann.safetensors"}
    card = files["README.md"].decode()
    assert "--voice hf://ann/voice --text" in card
    assert "--voice ann=hf://ann/voice" in card


@pytest.mark.parametrize("then", ["moved away", "trained on"])
def test_an_encoder_that_is_no_longer_there_is_taken_from_the_checkpoint(logged_in, publish, clone_run, tmp_path, then):
    run = tmp_path / "run"
    shutil.copytree(clone_run, run)
    file = TensorFile(run / "encoder" / "best" / "encoder.safetensors")
    changed = {name: 2 * file.numpy(name) for name in file.names()}
    shutil.rmtree(run / "encoder")
    if then == "trained on":
        save_tensors(run / "encoder" / "best" / "encoder.safetensors", changed)
    text = (run / "config.yaml").read_text().replace(f"output: {clone_run}", f"output: {run}")
    (run / "config.yaml").write_text(text)
    publish(run)
    (tmp_path / "e.safetensors").write_bytes(published(logged_in)["encoder/encoder.safetensors"])
    found, baked = TensorFile(tmp_path / "e.safetensors"), Release(run / "baked").tensors
    assert set(found.names()) == changed.keys()
    assert all(bytes(found.raw(name)) == bytes(baked.raw(name)) for name in found.names())


# ---- the card ------------------------------------------------------------------------------------------------------


def test_the_card(logged_in, publish, clone_run):
    publish(clone_run)
    card = published(logged_in)["README.md"]
    head = front_matter(card)
    assert head["license"] == "cc-by-nc-4.0"
    assert head["base_model"] == "mistralai/Voxtral-4B-TTS-2603"
    assert head["pipeline_tag"] == "text-to-speech"
    text = card.decode()
    assert f"> {CONSENT}" in text
    assert "CC BY-NC 4.0" in text
    assert f"> {SENTENCE}" in text
    assert 'src="https://huggingface.co/ann/voice/resolve/main/samples/after-1.wav"' in text
    assert "| hours of speech | 0.25 |" in text
    assert "| speaker: held-out loss | 3.5 → 2.25 |" in text
    assert "| speaker: best step | 200 of 240 |" in text
    assert "| baked: fold error | 0.0123 |" in text
    assert (
        "voxclone bake --model mistralai/Voxtral-4B-TTS-2603 --output baked --encoder hf://ann/voice --adapters"
        " hf://ann/voice --voice ann=hf://ann/voice\n" in text
    )


def test_the_owners_words_do_nothing_in_the_card(logged_in, publish, clone_run):
    publish(clone_run / "codes" / "ann.safetensors", consent="It is <b>my</b> own\n# voice | ![x](http://a.b/c.png)")
    line = next(t for t in published(logged_in)["README.md"].decode().splitlines() if t.startswith("> It is"))
    assert line == r"> It is \<b\>my\</b\> own \# voice \| !\[x\](http://a.b/c.png)"


def test_half_of_an_adapter_is_said_in_the_card(logged_in, publish, clone_run, base, tmp_path):
    from mlx_voxclone.adapters.mix import AdapterSource
    from mlx_voxclone.bake.bake import bake

    run = tmp_path / "run"
    shutil.copytree(clone_run, run, ignore=shutil.ignore_patterns("baked"))
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace(str(clone_run), str(run)))
    half = AdapterSource(run / "speaker" / "best", 0.5)
    bake(base, run / "baked", adapters=half, voices={"ann": run / "codes" / "ann.safetensors"})
    publish(run)
    files = published(logged_in)
    assert "encoder/encoder.safetensors" not in files  # this bake had none
    assert "--adapters hf://ann/voice=0.5 " in files["README.md"].decode()


# ---- dry run -------------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_what_would_go_up_and_asks_nothing(hub, publish, clone_run):
    out = publish(clone_run, "--dry-run")
    assert hub.requests == []
    card, listed = (Path(re.search(rf"^{name} +(.+)$", out, re.MULTILINE)[1]) for name in ("card", "list"))
    assert CONSENT in card.read_text()
    assert {*json.loads(listed.read_text())["files"], "README.md", "published.json", ".gitattributes"} == PARTS
    for name in PARTS - {".gitattributes"}:
        assert re.search(rf"^{re.escape(name)} +[\d.]+ k?M?B$", out, re.MULTILINE)
    shutil.rmtree(card.parent)


def test_a_dry_run_is_what_goes_up(logged_in, publish, clone_run):
    out = publish(clone_run, "--dry-run")
    directory = Path(re.search(r"^card +(.+)$", out, re.MULTILINE)[1]).parent
    publish(clone_run)
    for name in ("README.md", "published.json"):
        assert published(logged_in)[name] == (directory / name).read_bytes()
    shutil.rmtree(directory)


# ---- repositories --------------------------------------------------------------------------------------------------


def test_private_repositories(logged_in, publish, clone_run):
    publish(clone_run / "codes" / "ann.safetensors", "--private")
    assert logged_in.repositories["ann/voice"].private
    publish(clone_run / "codes" / "ann.safetensors", repository="ann/open")
    assert not logged_in.repositories["ann/open"].private


def test_an_empty_repository_is_used(logged_in, publish, clone_run):
    logged_in.make("ann/voice", {})
    publish(clone_run / "codes" / "ann.safetensors")
    assert "voices/ann.safetensors" in published(logged_in)
    assert "POST /api/repos/create" not in logged_in.requests


def test_publishing_again_is_one_commit_or_none(logged_in, publish, clone_run, adapters, capsys):
    publish(clone_run)
    repository = logged_in.repositories["ann/voice"]
    publish(clone_run)
    assert len(repository.commits) == 2  # nothing has changed
    publish(clone_run, consent="Ann Lee agreed again")
    assert len(repository.commits) == 3
    before, after = (files for _, files in repository.commits[-2:])
    assert {name for name in after if after[name] != before.get(name)} == {"README.md"}


def test_files_of_an_earlier_publication(logged_in, publish, clone_run, capsys):
    publish(clone_run)
    repository = logged_in.repositories["ann/voice"]
    repository.commit({**repository.files, "photo.png": b"by hand"})
    publish(clone_run / "codes" / "ann.safetensors", "--replace")
    assert published(logged_in).keys() == {
        *(".gitattributes", "README.md", "published.json", "voices/ann.safetensors"),
        "photo.png",
    }
    assert len(repository.commits) == 4  # removed and added in one


# ---- and back ------------------------------------------------------------------------------------------------------


def test_what_was_published_serves_say_and_bake(logged_in, publish, clone_run, base, tmp_path, capsys):
    publish(clone_run)
    hub_module._fetched.cache_clear()
    address, output = "hf://ann/voice", tmp_path / "baked"
    argv = ["bake", "--model", base, "--output", output, "--encoder", address, "--adapters", address]
    assert voxclone([str(a) for a in [*argv, "--voice", f"ann={address}", "--quiet"]]) == 0
    for name in ("consolidated.safetensors", "params.json", "tekken.json", "voice_embedding/ann.safetensors"):
        assert (output / name).read_bytes() == (clone_run / "baked" / name).read_bytes()
    waves = []
    for adapters, voice in (
        (clone_run / "speaker" / "best", clone_run / "codes" / "ann.safetensors"),
        (address, address),
    ):
        argv = ["say", "--model", base, "--text", "papa mino", "--max-seconds", 0.4, "--adapters", adapters]
        argv += ["--voice", voice, "--output", tmp_path / "out.wav", "--quiet"]
        assert voxclone([str(a) for a in argv]) == 0
        waves.append((tmp_path / "out.wav").read_bytes())
    assert waves[0] == waves[1]


@pytest.mark.slow
def test_what_was_published_serves_the_other_commands(logged_in, publish, clone_run, base, recording, tmp_path, capsys):
    publish(clone_run)
    address, encoder = "hf://ann/voice", clone_run / "encoder" / "best" / "encoder.safetensors"
    for given, name in ((encoder, "here"), (address, "there")):
        argv = ["encode", recording, "--model", base, "--encoder", given, "--output", tmp_path / f"{name}.safetensors"]
        assert voxclone([str(a) for a in argv]) == 0
    assert (tmp_path / "here.safetensors").read_bytes() == (tmp_path / "there.safetensors").read_bytes()
    argv = ["voices", "add", "--model", base, "--output", tmp_path / "more", "--quiet", f"bob={address}"]
    assert voxclone([str(a) for a in argv]) == 0
    rows = Release(tmp_path / "more").voice("bob")
    assert mx.array_equal(rows, read_voice(clone_run / "codes" / "ann.safetensors")).item()
    capsys.readouterr()
    assert voxclone(["voices", "invert", address, "--model", str(base), "--quiet"]) == 2  # random rows: no codes
    assert "none of its 6 rows could be explained" in capsys.readouterr().err


def test_a_published_checkpoint_is_a_model(logged_in, publish, clone_run, tmp_path, capsys):
    publish(clone_run, "--baked")
    for model in ("ann/voice", "hf://ann/voice"):
        release = Release(model)
        assert release.fingerprint() == Release(clone_run / "baked").fingerprint()
        assert "ann" in release.voices()
        release.check()


def test_a_voice_of_another_width_is_refused(logged_in, publish, base, tmp_path, refused):
    save_tensors(tmp_path / "wide.safetensors", {"embedding": np.ones((3, 7), np.float32)})
    publish(tmp_path / "wide.safetensors")
    argv = ["say", "--model", base, "--text", "a", "--voice", "hf://ann/voice", "--output", tmp_path / "o.wav"]
    refused(argv, "rows of 7, but the model is")


@pytest.mark.slow
def test_a_run_that_was_trained(logged_in, publish, config_file, tmp_path, monkeypatch):
    """What `train` leaves is what is looked for, and the next run starts from it by its address, also when resumed."""
    monkeypatch.setattr(run_module, "write_report", lambda run_dir: "no report")
    run, voice = tmp_path / "run", ["--set", "voice=ann", "--quiet"]
    assert voxclone(["train", "--config", str(config_file("clone")), "--set", f"output={run}", *voice]) == 0
    publish(run)
    files = published(logged_in)
    assert files.keys() == PARTS | {"samples/before-2.wav", "samples/after-2.wav"}
    card = files["README.md"].decode()
    for figure in ("encoder: held-out loss", "speaker: held-out loss", "baked: fold error", "clips to learn from"):
        assert f"| {figure} |" in card
    again, address = tmp_path / "again", "hf://ann/voice"
    argv = [
        "--set",
        f"output={again}",
        "--set",
        f"speaker.encoder={address}",
        "--set",
        f"speaker.start={address}",
        *voice,
    ]
    assert voxclone(["train", "--config", str(config_file("clone")), *argv]) == 0
    assert not (again / "encoder").exists()
    assert f"encoder: {address}\n" in (again / "config.yaml").read_text()
    record = json.loads((again / "baked" / "voxclone.json").read_text())["bakes"][-1]
    assert record["encoder"]["sha256"] == hashlib.sha256(files["encoder/encoder.safetensors"]).hexdigest()
    more = ["--set", "speaker.train.steps=6", "--set", f"bake.output={tmp_path / 'other'}", "--quiet"]
    assert voxclone(["train", "--resume", str(again), *more]) == 0
    repository = logged_in.repositories["ann/voice"]
    changed = published(logged_in)["adapters/adapters.safetensors"][:-4] + b"\0\0\0\0"
    repository.commit({**repository.files, "adapters/adapters.safetensors": changed})
    hub_module._fetched.cache_clear()
    assert voxclone(["train", "--resume", str(again), "--set", "speaker.train.steps=8", *more[2:]]) == 2


@pytest.mark.slow
def test_a_process_of_its_own(hub, clone_run, tmp_path):
    """With nothing patched: the environment alone says where the hub is."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "HF_TOKEN": WRITE,
        "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    command = "import sys; from mlx_voxclone.cli import script; sys.exit(script('publish'))"
    argv = [sys.executable, "-c", command, clone_run / "codes" / "ann.safetensors", "--repo", "ann/voice"]
    done = subprocess.run([*argv, "--consent", CONSENT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "publishing 3 files, 2.41 kB\nann/voice is public\n"  # and no bars: it is no terminal
    assert "voices/ann.safetensors" in published(hub)
