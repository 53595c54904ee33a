"""`encoder.pairs.path: auto`: made once for a model, found again, gone on with, made anew where something is amiss."""

import errno
import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest
import refusals
from commands import tree
from places import CONFIG

from mlx_voxclone.bake.bake import bake
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.errors import CheckpointError, DataError
from mlx_voxclone.files import atomic
from mlx_voxclone.model import generation
from mlx_voxclone.pairs import make
from mlx_voxclone.pairs.data import PairData
from mlx_voxclone.pairs.statistics import CodeStatistics
from mlx_voxclone.process.progress import Reporter
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.train.encoder import code_prior
from mlx_voxclone.train.encoder import inputs as encoder_inputs
from mlx_voxclone.train.judge import auto_pairs as auto
from mlx_voxclone.train.judge.auto_pairs import (
    AutomaticPairs,
    automatic_pairs,
    cached_own_pairs,
    check_automatic,
    own_pairs,
)

pytest_plugins = ["commands"]
pytestmark = pytest.mark.usefixtures("small_shards")
slow = pytest.mark.slow
# The miniature's language model is random: it ends about half of its sentences within a second.
FEW = {"per_voice": 4, "moves": 2, "max_seconds": 1.0, "batch": 4}


@pytest.fixture(scope="module")
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "SHARD_SENTENCES", 5)
        yield


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def made(miniature, tmp_path_factory):
    """A cache after one undisturbed run, and the lines it gave. Read it only."""
    directory, lines = tmp_path_factory.mktemp("made") / "cache", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOXCLONE_CACHE", str(directory))
        automatic_pairs(configured(miniature), Release(miniature), Reporter(lines.append))
    return directory, lines


def configured(model, **changes):
    given = {"model": str(model), **{f"encoder.pairs.{key}": value for key, value in {**FEW, **changes}.items()}}
    return load_run_config(CONFIG, given)


def run(model, say=lambda line: None, **changes) -> list[Path]:
    return automatic_pairs(configured(model, **changes), Release(model), Reporter(say))


def content(directory: Path) -> dict[str, str]:
    """What a cache holds, locks aside."""
    return {name: digest for name, digest in tree(directory).items() if not name.endswith(".lock")}


def shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("*/*/pairs-*.safetensors"))


def no_model(*_, **__):
    pytest.fail("the model was asked")


# --- made, and found --------------------------------------------------------------------------------------------------


def test_pairs_and_copies_of_all_own_voices(made, miniature):
    directory, lines = made
    release = Release(miniature)
    (model,) = directory.iterdir()
    assert model.name == release.fingerprint()[:16]
    places = sorted(place for place in model.iterdir() if place.is_dir())
    assert [place.name.split("-")[0] for place in places] == ["moved", "pairs"]
    data = PairData.of_model(places[::-1], release)
    own = [pair for pair in data.pairs if not pair.is_moved]
    assert {pair.voice for pair in own} <= set(release.voices())
    assert len(data.pairs) == 3 * len(own) > 6
    assert {pair.text for pair in own} == {pair.text for pair in data.pairs}
    assert lines[0].startswith("pairs: generating 12 sentences with the model")
    assert lines[1].startswith(f"pairs: {len(own)} of 12 sentences")
    assert f"({12 - len(own)} did not end within 1 s)" in lines[1]
    assert lines[2].startswith(f"pairs: {2 * len(own)} moved")


def test_how_much_the_texts_explain_is_known_with_them(made, miniature, home, monkeypatch):
    """Nothing: the miniature's language model is random."""
    config, release = configured(miniature), Release(miniature)
    assert auto.said_gain(config, release) is None  # none are made
    monkeypatch.setenv("VOXCLONE_CACHE", str(made[0]))
    assert abs(auto.said_gain(config, release)) < 0.12


def test_the_next_run_finds_them(made, miniature, monkeypatch):
    directory, _ = made
    monkeypatch.setenv("VOXCLONE_CACHE", str(directory))
    monkeypatch.setattr(generation, "generate_batch", no_model)
    before, lines = tree(directory), []
    found = run(miniature, lines.append, batch=1)
    assert [path.name.split("-")[0] for path in found] == ["pairs", "moved"]
    own = AutomaticPairs.of(configured(miniature), Release(miniature)).pairs.facts()["pairs"]
    assert lines == [f"pairs: {own} + {2 * own} moved, from the cache {found[0].parent}"]
    assert own_pairs(configured(miniature, moves=7), Release(miniature), Reporter(no_model)) == found[0]
    assert run(miniature, moves=0) == found[:1]
    assert tree(directory) == before


def test_an_encoder_learns_from_all_of_them(made, miniature, monkeypatch):
    """What codes usually look like is told by what the model said alone."""
    monkeypatch.setenv("VOXCLONE_CACHE", str(made[0]))
    release, counted = Release(miniature), []
    config = configured(miniature)
    data = encoder_inputs.load_pairs(config, release)
    assert {pair.is_moved for pair in data.train} == {True, False}
    assert encoder_inputs.load_pairs(configured(miniature, path=None), release) is None
    monkeypatch.setattr(CodeStatistics, "from_codes", lambda codes, config: counted.extend(codes))
    code_prior.code_prior(release, data, made[0], Reporter(print), presets=False)
    assert len(counted) == sum(not pair.is_moved for pair in data.train)


@pytest.mark.parametrize("changes", [{"per_voice": 5}, {"max_seconds": 2.0}, {"texts": "texts.txt"}])
def test_other_sentences_are_other_pairs(made, miniature, tmp_path, monkeypatch, changes):
    monkeypatch.setenv("VOXCLONE_CACHE", str(made[0]))
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("Something else.\n")
    found = cached_own_pairs(configured(miniature), Release(miniature))
    other = AutomaticPairs.of(configured(miniature, **changes), Release(miniature))
    assert other.pairs.path.parent == found.parent
    assert other.pairs.path != found
    assert other.pairs.facts() is None


def test_another_number_or_way_of_moves_is_another_entry(miniature, monkeypatch):
    asked = AutomaticPairs.of(configured(miniature), Release(miniature))
    more = AutomaticPairs.of(configured(miniature, moves=3), Release(miniature))
    assert (asked.pairs.path, asked.moved.path) != (more.pairs.path, more.moved.path)
    assert asked.pairs.path == more.pairs.path
    monkeypatch.setattr(auto, "BEYOND", 9.0)
    assert AutomaticPairs.of(configured(miniature), Release(miniature)).moved.path != asked.moved.path


def test_voices_that_were_baked_in_are_not_asked(miniature, tmp_path, home):
    """They are what some encoder heard, and would teach its mistakes."""
    model = tmp_path / "with-ann"
    bake(miniature, model, voices={"ann": miniature / "voice_embedding" / "casual_male.pt"})
    release = Release(model)
    assert "ann" in release.voices()
    asked = AutomaticPairs.of(configured(model), release)
    assert {sentence.voice for sentence in asked.listed} == set(Release(miniature).voices())
    assert asked.pairs.path == AutomaticPairs.of(configured(miniature), Release(miniature)).pairs.path


@pytest.mark.parametrize(("stop", "complete"), [pytest.param(1, 0, marks=slow), (3, 1), pytest.param(7, 3, marks=slow)])
def test_interrupted_it_goes_on_after_the_last_shard(made, miniature, home, monkeypatch, stop, complete):
    """Batches of 4 in shards of 5 of 12 sentences: five calls; then three shards of copies."""
    calls, generate, move = [], generation.generate_batch, auto.move_pairs

    def stopping(function):
        def call(*args, **options):
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return function(*args, **options)

        return call

    monkeypatch.setattr(generation, "generate_batch", stopping(generate))
    monkeypatch.setattr(auto, "move_pairs", lambda *a, **k: move(*a, **k | {"progress": stopping(k["progress"])}))
    with pytest.raises(KeyboardInterrupt):
        run(miniature)
    assert len(shards(home)) == complete
    run(miniature)
    assert content(home) == content(made[0])


def test_one_voice_alone_is_not_moved(miniature, tmp_path, home):
    model = shutil.copytree(miniature, tmp_path / "one")
    for path in (model / "voice_embedding").iterdir():
        if path.stem != "casual_male":
            path.unlink()
    lines = []
    for _ in range(2):
        found = run(model, lines.append)
        assert [path.name.split("-")[0] for path in found] == ["pairs"]
    assert lines.count("warning: pairs: moving needs at least two voices and there is one, so none is moved") == 2
    assert lines[-1].startswith("pairs: ")
    assert "from the cache" in lines[-1]


# --- what may be amiss ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "shard",
        "cut audio",
        "marker",
        "moved audio",
        *(pytest.param(x, marks=slow) for x in ("audio", "settings", "all")),
    ],
)
def test_what_is_damaged_or_gone_is_made_again(made, miniature, home, damage):
    shutil.copytree(made[0], home)
    pairs, moved = (next(home.glob(f"*/{kind}-*")) for kind in ("pairs", "moved"))
    (first, *_) = sorted((pairs / "audio").iterdir())
    {
        "shard": lambda: (pairs / "pairs-00001.safetensors").write_bytes(b"half"),
        "audio": first.unlink,
        "cut audio": lambda: first.write_bytes(first.read_bytes()[:-10]),
        "settings": lambda: (pairs / "settings.json").write_text("{"),
        "marker": lambda: (pairs / "complete.json").write_text("{}"),
        "all": lambda: shutil.rmtree(pairs),
        "moved audio": sorted((moved / "audio").iterdir())[-1].unlink,
    }[damage]()
    lines = []
    run(miniature, lines.append)
    assert content(home) == content(made[0])
    assert any("is damaged or of another model" in line for line in lines) == (damage == "settings")
    assert any("damaged shard" in line for line in lines) == (damage in ("shard", "audio", "cut audio", "moved audio"))


def test_the_cache_of_another_model_is_not_taken_for_this_ones(made, miniature, home):
    """As if it was copied to where this model's would be: complete, and said by another language model."""
    shutil.copytree(made[0], home)
    pairs = next(home.glob("*/pairs-*"))
    settings = json.loads((pairs / "settings.json").read_text())
    assert settings["model"] == Release(miniature).fingerprint()
    text = json.dumps(settings | {"model": settings["model"][::-1]}, indent=1, ensure_ascii=False)
    (pairs / "settings.json").write_text(text + "\n")
    assert not AutomaticPairs.of(configured(miniature), Release(miniature)).pairs.damaged()  # all files are there
    lines = []
    assert cached_own_pairs(configured(miniature), Release(miniature)) is None
    run(miniature, lines.append)
    assert lines[0] == f"pairs: {pairs} is damaged or of another model; it is made again"
    assert content(home) == content(made[0])


def test_half_written_audio_and_temporary_files_do_no_harm(made, miniature, home):
    """As a killed process leaves them: no marker, a shard missing whose audio is there, half a file."""
    shutil.copytree(made[0], home)
    pairs = next(home.glob("*/pairs-*"))
    (pairs / "complete.json").unlink()
    (pairs / "pairs-00002.safetensors").unlink()
    (pairs / "manifest.jsonl").unlink()
    (pairs / "audio" / ".000011.flac.4711-00000000.partial").write_bytes(b"half")
    run(miniature)
    assert content(home) == content(made[0])


@slow
def test_pairs_that_came_out_otherwise_have_copies_of_their_own(made, miniature, home):
    """Copies that were begun with pairs that are no more are not gone on with."""
    shutil.copytree(made[0], home)
    pairs, moved = (next(home.glob(f"*/{kind}-*")) for kind in ("pairs", "moved"))
    (moved / "complete.json").unlink()
    (moved / "pairs-00002.safetensors").unlink()
    settings = json.loads((moved / "settings.json").read_text())
    (moved / "settings.json").write_text(json.dumps(settings | {"pairs": "others"}))
    shutil.rmtree(pairs)
    run(miniature)
    assert content(home) == content(made[0])


def refused(call, *texts, error=CheckpointError) -> str:
    return refusals.refused(call, error, *texts)


def test_a_model_that_never_ends(miniature, home, monkeypatch):
    generate = generation.generate_batch
    monkeypatch.setattr(generation, "generate_batch", lambda *a, **k: generate(*a, **k | {"max_frames": 0}))
    for _ in range(2):  # the second time by what the first has left
        refused(
            lambda: run(miniature, per_voice=24),
            f"{miniature}: none of the first 5 sentences gave a pair (5 did not end within 1 s, 0 were empty)",
            "encoder.pairs.path: null trains without pairs",
            error=DataError,
        )
        assert len(shards(home)) == 1


def test_a_model_without_voices(miniature, tmp_path, home):
    model = shutil.copytree(miniature, tmp_path / "mute")
    shutil.rmtree(model / "voice_embedding")
    call = lambda: check_automatic(configured(model), Release(model))  # noqa: E731
    refused(call, f"{model}: has no voice of its own", "encoder.pairs.path: null", error=DataError)
    assert cached_own_pairs(configured(model), Release(model)) is None


def test_texts_that_cannot_be_said(miniature, tmp_path, home):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "long.txt").write_text("papa " * 70_000)
    for name, text in (("empty", "holds no sentence"), ("long", "is too long")):
        asked = configured(miniature, texts=str(tmp_path / f"{name}.txt"))
        refused(lambda asked=asked: check_automatic(asked, Release(miniature)), text, error=DataError)


def test_a_cache_that_cannot_be_written(miniature, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VOXCLONE_CACHE", str(tmp_path / "file" / "cache"))
    for call in (check_automatic, lambda config, release: automatic_pairs(config, release, Reporter(print))):
        refused(
            lambda call=call: call(configured(miniature), Release(miniature)),
            "the cache cannot be written (not a directory)",
            "set VOXCLONE_CACHE to a directory that can be written",
        )


def test_a_disk_without_room(miniature, home, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=30_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    check_automatic(configured(miniature), Release(miniature))
    many = configured(miniature, per_voice=100, max_seconds=10.0)
    message = refused(
        lambda: check_automatic(many, Release(miniature)), str(home), "no space left", "or set VOXCLONE_CACHE"
    )
    needed = float(message.split("no space left: ")[1].split()[0])
    assert 0.14 < needed < 0.22  # GB: 300 sentences of 4 s, three times, and a little to spare
    assert not home.exists()


@pytest.mark.slow
def test_a_disk_that_fills_up_meanwhile(made, miniature, home, monkeypatch):
    writes, write = [], open

    def full(path, mode="r", *more, **options):
        if Path(path).name.startswith(".pairs-") and "w" in mode:
            writes.append(1)
            if len(writes) == 2:  # the second shard
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, mode, *more, **options)

    monkeypatch.setattr(atomic, "open", full, raising=False)
    refused(lambda: run(miniature), str(home), "no space left on its disk", "VOXCLONE_CACHE")
    assert len(shards(home)) == 1
    monkeypatch.undo()
    monkeypatch.setenv("VOXCLONE_CACHE", str(home))
    run(miniature)
    assert content(home) == content(made[0])


def test_a_cache_that_is_deleted_meanwhile(miniature, home, monkeypatch):
    generate, calls = generation.generate_batch, []

    def deleting(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            shutil.rmtree(home)
        return generate(*args, **options)

    monkeypatch.setattr(generation, "generate_batch", deleting)
    refused(lambda: run(miniature), "was deleted while it was being made; run again")


def test_nothing_is_deleted_that_another_process_may_be_making(made, miniature, home, monkeypatch):
    """Two runs that find no pairs wait for each other; the second must not clear what the first goes on to make."""
    shutil.copytree(made[0], home)
    pairs, moved = AutomaticPairs.of(configured(miniature), Release(miniature)).pairs, shards(home)
    pairs.reopen()
    for path in [*moved, *home.glob("*/moved-*/complete.json")]:
        if path.parent.name.startswith("moved"):
            path.unlink()
    deleted, delete = [], shutil.rmtree

    def guarded(path, **keywords):
        lock = Path(path).with_name(f".{Path(path).name}.lock")
        with lock.open("a+") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        deleted.append(path)
        delete(path, **keywords)

    monkeypatch.setattr(auto.shutil, "rmtree", guarded)
    run(miniature)
    assert {Path(path).name.split("-")[0] for path in deleted} == {"moved"}
    assert content(home) == content(made[0])
