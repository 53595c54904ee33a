"""The campaign's probes: there are enough of all kinds, and each kind of fault is found."""

import json
import shutil

import pytest

from benchmarks.campaign.hostile import FAMILIES, probes
from benchmarks.campaign.hostile.remote import index, serving, shard
from benchmarks.campaign.hostile.scene import SECRET, Probe, Scene
from benchmarks.campaign.probes import Watched, tried
from mlx_voxclone.data.shards.index import ShardIndex
from mlx_voxclone.miniature.synth import SyntheticSpeaker, write_corpus


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A few of the good inputs."""
    place = tmp_path_factory.mktemp("good") / "good"
    write_corpus(place / "recordings", [SyntheticSpeaker.sample(0)], 3, 0, seconds=2.0)
    shutil.copy(sorted((place / "recordings").rglob("*.wav"))[0], place / "reference.wav")
    return place


class Command:
    """In the place of a real one: what it does to the scene, how it ends, what it says."""

    def __init__(self, does=lambda scene: None, code=0, output="", errors="", memory=0, slow=False):
        self.does = does
        self.ended = Watched(code, output.encode(), errors.encode(), memory, slow)

    def __call__(self, forked, argv, scene, seconds):
        self.does(scene)
        return self.ended


@pytest.fixture
def faults(good, tmp_path, monkeypatch):
    def found(unnamed=(), **command):
        monkeypatch.setattr("benchmarks.campaign.probes.watched", Command(**command))
        return tried(None, Probe("an attack", "a target", ("say",), unnamed=unnamed), good, tmp_path / "probe")

    return found


def test_there_are_enough_and_all_differ():
    everything = probes()
    assert len(everything) > 1000
    assert len({(family, probe.what) for family, probe in everything}) == len(everything)
    first = probes(100)
    assert len({(family, probe.what) for family, probe in first}) == 100
    for family in FAMILIES:
        own, whole = ([probe for name, probe in found if name == family] for found in (first, everything))
        assert len(own) >= 7
        assert len({probe.attack for probe in own}) >= min(5, len({probe.attack for probe in whole}))
        assert len({probe.target for probe in own}) >= min(2, len({probe.target for probe in whole}))
    assert [probe.what for _, probe in probes(5)] == [probe.what for _, probe in first[:5]]


def test_what_holds(faults):
    assert faults() == ()
    assert faults(code=2, errors="note: one\nerror: a line\n") == ()
    assert faults(does=lambda scene: (scene.place / "new").write_text("fine")) == ()


@pytest.mark.parametrize(
    ("said", "command"),
    [
        ("exit code 1", {"code": 1, "errors": "Traceback (most recent call last):\nKeyError: 1\n"}),
        ("exit code -11", {"code": -11}),
        ("2 lines of error", {"code": 2, "errors": "error: one\nerror: two\n"}),
        ("0 lines of error", {"code": 2}),
        ("traceback", {"errors": "Traceback (most recent call last):\nKeyError: 1\n"}),
        ("an order to the terminal on stderr", {"errors": "warning: \x1b[2J\n"}),
        ("an order to the terminal on stdout", {"output": "\u202eeman\n"}),
        ("the secret is in stdout", {"output": f"text {SECRET}"}),
        ("the secret is in stderr", {"errors": f"error: {SECRET}", "code": 2}),
        ("took too long", {"slow": True, "code": -9}),
        ("took 4.0 GB", {"memory": 4_000_000_000}),
        ("outside changed: executed", {"does": lambda scene: (scene.outside / "executed").touch()}),
        ("outside changed: secret.txt", {"does": lambda scene: scene.secret.write_text("other")}),
        ("outside changed: folder", {"does": lambda scene: shutil.rmtree(scene.folder)}),
        ("outside changed: folder", {"does": lambda scene: scene.folder.chmod(0o700)}),
        ("made outside: more", {"does": lambda scene: (scene.outside.parent / "more").touch()}),
        ("the secret is in new", {"does": lambda scene: shutil.copy(scene.secret, scene.place / "new")}),
        (
            "page.html would run",
            {"does": lambda scene: (scene.place / "page.html").write_text("<p><script>alert(1)</p>")},
        ),
        ("would be published: private.wav", {"output": "private.wav  1 MB", "unnamed": ("private.wav",)}),
    ],
)
def test_what_does_not_hold_is_found(faults, said, command):
    assert any(fault.startswith(said) or said in fault for fault in faults(**command))


def test_every_input_can_be_made(good, tmp_path):
    """But for those that change files of a model, a run, pairs or prepared clips, which are not here."""
    made = 0
    for family in ("archive", "header of audio", "publication", "path in a list", "server"):
        for probe in list(FAMILIES[family]())[::7]:
            scene = Scene.fresh(good, tmp_path / "probe", "http://127.0.0.1:9")
            try:
                probe.make(scene)
            except FileNotFoundError:
                continue
            made += 1
    assert made > 30


def test_the_server_and_its_index_are_honest_where_nothing_is_wrong(good, tmp_path):
    with serving(good) as address:
        from urllib.request import urlopen

        assert urlopen(f"{address}/nothing-wrong/x.tar").read() == shard(good)
        (tmp_path / "index.jsonl").write_bytes(urlopen(f"{address}/nothing-wrong/index.jsonl").read())
    assert (tmp_path / "index.jsonl").read_bytes() == index(shard(good))
    assert len(ShardIndex(tmp_path / "index.jsonl")) == 3
    assert json.loads((tmp_path / "index.jsonl").read_text().splitlines()[0])["bytes"] == len(shard(good))
