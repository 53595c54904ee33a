"""`voxclone publish` refused: one line, exit code 2, nothing asked of the hub too early and nothing changed on it."""

import json
import shutil

import numpy as np
import pytest
import yaml
from hub_stand_in import READ
from publishable import CONSENT

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.publish import upload as upload_module
from mlx_voxclone.publish.card import model_card
from mlx_voxclone.publish.privacy import local_path
from mlx_voxclone.publish.publication import Publication
from mlx_voxclone.publish.sources import collect
from mlx_voxclone.publish.upload import address_in, upload

pytest_plugins = ["commands", "baking", "hub_fixtures"]


@pytest.fixture
def no(refused, hub, clone_run):
    """`no(source, text, ..., options=...)`: refused with these texts before the hub is asked anything."""

    def check(source, *texts, options=(), consent=CONSENT, repository="ann/voice", asked=False):
        given = [] if consent is None else ["--consent", consent]
        refused(["publish", source, "--repo", repository, *given, *options, "--quiet"], *texts, unchanged=(clone_run,))
        assert bool(hub.requests) == asked
        assert repository not in hub.repositories or len(hub.repositories[repository].commits) == 1

    return check


@pytest.fixture
def voice(clone_run):
    return clone_run / "codes" / "ann.safetensors"


# ---- consent -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
@pytest.mark.parametrize("consent", [None, "", "  ", "yes"])
def test_without_consent_nothing_is_done(logged_in, no, voice, options, consent):
    no(voice, "nothing is published without consent", '--consent "Ann Lee agreed', options=options, consent=consent)


def test_consent_comes_before_everything_else(logged_in, no, tmp_path):
    no(tmp_path / "none", "without consent", consent=None, repository="no name")


def test_a_statement_has_its_limits(no, voice):
    no(voice, "1000 at most", consent="I agree " * 200)
    no(voice, "--consent: names the path /Users/ann/consent.pdf", consent="Ann agreed, see /Users/ann/consent.pdf")


def test_there_is_no_card_and_no_upload_without_it(hub, tmp_path):
    publication = Publication(tmp_path, "mistralai/Voxtral-4B-TTS-2603")
    with pytest.raises(Exception, match="without consent"):
        model_card(publication, "ann/voice", "")
    with pytest.raises(ValueError, match="card"):
        upload(publication, "ann/voice", "hf_write")
    assert hub.requests == []


# ---- what is no publication ----------------------------------------------------------------------------------------


def test_what_cannot_be_published(no, tmp_path, clone_run, base, encoder):
    what = "a run directory, a baked checkpoint, a directory of adapters"
    no(tmp_path / "none", "no such file or directory", what)
    (tmp_path / "empty").mkdir()
    no(tmp_path / "empty", "nothing to publish", what)
    no(clone_run / "data", "nothing to publish", what)
    no(base, "was not baked by voxclone, it has no voxclone.json")
    no(clone_run / "samples" / "after-1.wav", "not a .safetensors file")
    no(clone_run / "codes" / "codes.safetensors", "neither an encoder nor a voice")
    no(clone_run / "speaker" / "best" / "adapters.safetensors", "name their directory")
    no(base / "consolidated.safetensors", "neither an encoder nor a voice")
    no(encoder, "--baked is for the directory of a run of task clone", options=("--baked",))


def test_what_was_encoded_is_more_than_a_voice(no, tmp_path):
    tensors = {"codes": np.zeros((37, 2), np.int32), "embedding": np.ones((3, 8), np.float32)}
    save_tensors(tmp_path / "ann.safetensors", tensors)
    no(tmp_path / "ann.safetensors", "holds codes beside the voice")


def test_voices_and_encoders_that_are_damaged(no, tmp_path, encoder):
    save_tensors(tmp_path / "Ann Lee.safetensors", {"embedding": np.ones((3, 8), np.float32)})
    no(tmp_path / "Ann Lee.safetensors", "voice name 'Ann Lee'")
    save_tensors(tmp_path / "ann.safetensors", {"embedding": np.full((3, 8), np.nan, np.float32)})
    no(tmp_path / "ann.safetensors", "infinite or undefined")
    file = TensorFile(encoder)
    tensors = {name: file.numpy(name) for name in file.names()}
    first = next(iter(tensors))
    save_tensors(tmp_path / "e.safetensors", tensors | {first: np.full_like(tensors[first], np.inf)})
    no(tmp_path / "e.safetensors", first, "not finite; train this encoder again")
    (tmp_path / "cut.safetensors").write_bytes(encoder.read_bytes()[:1000])
    no(tmp_path / "cut.safetensors", "truncated")


@pytest.fixture
def run_copy(clone_run, tmp_path):
    """A copy that may be changed."""
    copy = tmp_path / "run"
    shutil.copytree(clone_run, copy)
    (copy / "config.yaml").write_text((copy / "config.yaml").read_text().replace(str(clone_run), str(copy)))
    return copy


def test_runs_that_have_not_ended_or_have_moved_on(no, run_copy):
    (run_copy / "summary.json").rename(run_copy / "s.json")
    no(run_copy, "this run has not ended, it has no summary.json; finish it (voxclone train --resume")
    (run_copy / "summary.json").write_text("{")
    no(run_copy, "summary.json: not readable as JSON")
    (run_copy / "s.json").replace(run_copy / "summary.json")
    (run_copy / "baked").rename(run_copy / "gone")
    no(run_copy, "its baked checkpoint is not at", "publish the parts one by one")
    (run_copy / "gone").rename(run_copy / "baked")
    adapters = run_copy / "speaker" / "best" / "adapters.safetensors"
    adapters.write_bytes(adapters.read_bytes()[:-4] + b"\0\0\0\0")
    no(run_copy, "the adapters that", "was baked from are not in it any more")
    shutil.rmtree(run_copy / "speaker")
    no(run_copy, "the adapters that", "was baked from are not in it any more")


def test_a_run_that_bakes_nothing(no, run_copy):
    content = yaml.safe_load((run_copy / "config.yaml").read_text()) | {"task": "encoder"}
    (run_copy / "config.yaml").write_text(yaml.safe_dump(content))
    no(run_copy, "a run of task encoder bakes nothing", options=("--baked",))


# ---- links ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["LICENSE-of-mine", "NOTICE", "config.json", "voice_embedding"])
def test_what_a_link_leads_to_is_not_published(no, run_copy, tmp_path, name):
    secret, place = tmp_path / "secret", run_copy / "baked" / name
    if place.is_dir():
        place.rename(secret)
    else:
        place.unlink(missing_ok=True)
        secret.write_text("{}")
    place.symlink_to(secret)
    for source, options in ((run_copy / "baked", ()), (run_copy, ("--baked",))):
        no(source, f"{place}: a link to {secret}", "put the file itself there", options=options)


def test_what_is_named_by_a_link_is_published(run_copy, tmp_path):
    (tmp_path / "way").symlink_to(run_copy / "baked")
    collect(tmp_path / "way", tmp_path / "staging").check()


# ---- paths of this machine -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["json", "header"])
def test_paths_of_this_machine_are_refused(no, run_copy, tmp_path, place):
    source = run_copy / "baked"
    if place == "json":
        content = json.loads((source / "voxclone.json").read_text())
        content["bakes"][0]["source"] = "/Users/ann/recordings"
        (source / "voxclone.json").write_text(json.dumps(content))
        no(source, "voxclone.json: bakes[0].source: names the path /Users/ann/recordings")
    else:
        save_tensors(tmp_path / "ann.safetensors", {"embedding": np.ones((3, 8), np.float32)}, {"from": "~/me/a.wav"})
        no(tmp_path / "ann.safetensors", "from in its header: names the path ~/me/a.wav")


@pytest.mark.parametrize(
    "text",
    ["see /home/ann/x.wav", "(/Users/ann)", r"C:\Users\ann", "~/voices/ann", "file:///tmp/a", '"/srv/a/b"', "/work/x"],
)
def test_what_is_a_path(text):
    assert local_path(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://x.co/ann/voice/resolve/main/a.wav",
        "</audio>",
        "samples/a.wav",
        "hf://ann/voice",
        "km/h and/or",
        "- / -",
    ],
)
def test_what_is_none(text):
    assert local_path(text) is None


# ---- the hub -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ann", "ann/", "/voice", "ann/voice/x", "ann/my voice", "ann/a..b", "ann/a--b", "a/" + 95 * "b"]
)
def test_names_of_repositories(logged_in, no, voice, name):
    no(voice, "expected OWNER/NAME", repository=name)


def test_not_logged_in(no, voice):
    no(voice, "ann/voice: not published, you are not logged in; log in with `hf auth login`")


@pytest.mark.parametrize(
    ("token", "text"), [("hf_wrong", "no access (401)"), (READ, "the token gives no right to do this (403)")]
)
def test_tokens_that_do_not_serve(no, voice, monkeypatch, token, text):
    monkeypatch.setenv("HF_TOKEN", token)
    no(voice, "ann/voice: not published", text, asked=True)


def test_somebody_elses_repository(logged_in, no, voice, hub):
    hub.make("ann/voice", {"README.md": b"hers", "model.safetensors": b"hers"})
    no(voice, "holds files that voxclone did not publish (README.md, model.safetensors); choose another", asked=True)
    hub.make("ann/voice", {"published.json": b'{"files": {}}', "model.safetensors": b"hers"})
    no(voice, "holds files that voxclone did not publish", options=("--replace",), asked=True)


def test_a_file_put_there_by_hand_is_not_replaced(logged_in, no, voice, hub):
    ours = json.dumps({"made_with": "voxclone", "files": {}}).encode()
    hub.make("ann/voice", {"README.md": b"x", "published.json": ours, "voices/ann.safetensors": b"hers"})
    no(voice, "voices/ann.safetensors is there and was not published with voxclone", asked=True)


def test_an_earlier_publication_is_not_thrown_away(logged_in, no, voice, hub):
    ours = json.dumps({"made_with": "voxclone", "files": {"encoder/encoder.safetensors": {}}}).encode()
    hub.make("ann/voice", {"README.md": b"x", "published.json": ours, "encoder/encoder.safetensors": b"e"})
    no(voice, "holds encoder/encoder.safetensors of an earlier publication", "--replace", asked=True)


def test_a_public_repository_does_not_become_private(logged_in, no, voice, hub):
    hub.make("ann/voice", {})
    no(voice, "exists and is public", options=("--private",), asked=True)


@pytest.mark.parametrize(
    ("pattern", "status", "text"),
    [
        ("GET /api/models/ann/voice$", 503, "the hub has a problem (503)"),
        ("repos/create", 500, "the hub has a problem (500)"),
        ("repos/create", 403, "the token gives no right to do this (403)"),
        ("commit/main", 412, "changed by somebody else meanwhile (412)"),
        ("commit/main", 403, "the token gives no right to do this (403)"),
        ("validate-yaml", 400, "Invalid metadata in README.md."),
    ],
)
def test_a_hub_that_refuses(logged_in, no, voice, hub, pattern, status, text):
    hub.fail(pattern, status)
    no(voice, "ann/voice: not published", text, asked=True)


def test_no_network(logged_in, no, voice, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    no(voice, "ann/voice: not published", "the hub cannot be reached")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    no(voice, "the network is switched off by HF_HUB_OFFLINE")


def test_a_repository_that_changes_meanwhile(logged_in, no, voice, hub, monkeypatch):
    """Between the look at it and the commit."""
    repository = hub.make("ann/voice", {})
    from huggingface_hub import HfApi

    create = HfApi.create_commit

    def late(self, *arguments, **keywords):
        repository.commit({**repository.files, "other.txt": b"x"})
        return create(self, *arguments, **keywords)

    monkeypatch.setattr(HfApi, "create_commit", late)
    with pytest.raises(AssertionError):  # the other commit is there, ours is not
        no(voice, "changed by somebody else meanwhile (412)", asked=True)
    assert repository.files.keys() == {".gitattributes", "other.txt"}


def test_what_arrives_is_compared(logged_in, voice, hub, refused, monkeypatch):
    from hub_stand_in import Repository

    commit = Repository.commit

    def damaged(self, files):
        return commit(self, {name: data[:-1] if name.startswith("voices/") else data for name, data in files.items()})

    monkeypatch.setattr(Repository, "commit", damaged)
    line = refused(
        ["publish", voice, "--repo", "ann/voice", "--consent", CONSENT, "--quiet"],
        "voices/ann.safetensors did not arrive",
    )
    assert address_in(line).endswith(f"/ann/voice/commit/{hub.repositories['ann/voice'].commits[-1][0]}")


def test_a_network_that_goes_after_the_commit(logged_in, voice, hub, refused, publish):
    """It is published by then: nobody is told that it is not."""
    hub.fail("GET /api/models/ann/voice/revision/", 503)
    line = refused(
        ["publish", voice, "--repo", "ann/voice", "--consent", CONSENT, "--quiet"],
        "ann/voice: published at http",
        "not verified (the hub has a problem (503)",
    )
    assert "not published" not in line
    made = hub.repositories["ann/voice"]
    assert "voices/ann.safetensors" in made.files
    assert address_in(line).endswith(f"/ann/voice/commit/{made.commits[-1][0]}")
    hub.faults.clear()
    assert publish(voice, "--quiet").split()[-1] == address_in(line)  # the same again: no other commit


def test_an_interruption_after_the_commit(logged_in, voice, hub, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(upload_module, "_verify", interrupted)
    assert voxclone([str(a) for a in ("publish", voice, "--repo", "ann/voice", "--consent", CONSENT, "--quiet")]) == 130
    address = address_in(capsys.readouterr().err)
    assert address.endswith(f"/ann/voice/commit/{hub.repositories['ann/voice'].commits[-1][0]}")


def test_addresses_in_lines():
    assert address_in("a/b: published at https://x.co/a/b/commit/1, not verified (x)") == "https://x.co/a/b/commit/1"
    for line in ("", "a/b: not published (x)", "interrupted (SIGTERM)", "see https://x.co/a/b, not verified"):
        assert address_in(line) is None
