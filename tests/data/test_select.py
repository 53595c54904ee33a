"""What a run uses of prepared data: as if it had been prepared so, and what cannot be had is refused by name."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from recordings import folder_of, talk
from shards_made import edited

from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.data.select import APPLIED, FIXED, Preparation, select
from mlx_voxclone.data.shards.data import ShardData
from mlx_voxclone.errors import DataError
from mlx_voxclone.settings.schema import DataSection

pytest_plugins = ["shards_fixtures"]
MADE = PrepareOptions(min_seconds=0.5, heldout=0.2)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Twelve recordings of two speakers, one long enough for several clips, one a copy, one held out by its line."""
    folder = tmp_path_factory.mktemp("source") / "r"
    waves = {f"{who}{k}": talk(1.0 + 0.2 * k, 10 * (who == "b") + k) for who in "ab" for k in range(6)}
    waves["long"], waves["copy"] = talk(7.0, 40), waves["a1"]
    folder_of(folder, **waves)
    lines = [{"audio": f"{name}.wav", "speaker": "b" if name[0] == "b" else "a"} for name in waves]
    for line in lines:
        name = line["audio"][:-4]
        line |= {} if name == "long" else {"text": f"text of {name}"}
        line |= {"language": "de-AT"} if name in ("a0", "a1", "b0") else {"language": "en"} if name == "b1" else {}
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module", params=["clips", "shards"])
def prepared(request, source, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("prepared") / request.param
    prepare(source, place, MADE, shards=10**6 if request.param == "shards" else None)
    return place


def load(place: Path) -> PreparedData | ShardData:
    return ShardData(place) if (place / "index.jsonl").exists() else PreparedData.load(place)


def chosen(place: Path, insisted=(), **changes):
    """The data as a run with these changes uses it, and what it is told."""
    return select(load(place), PrepareOptions(**changes), Preparation.of(place), insisted)


def sides(data) -> dict[str, str]:
    return {clip.id: clip.split for clip in (*data.train, *data.heldout)}


# ---- what is applied -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fraction", "speakers"), [(0.5, []), (0.01, []), (0.0, []), (0.2, ["b"]), (0.4, ["a"])])
def test_clips_are_held_out_as_if_they_had_been_prepared_so(prepared, source, tmp_path, fraction, speakers):
    prepare(source, tmp_path / "other", MADE.model_copy(update=dict(heldout=fraction, heldout_speakers=speakers)))
    data, lines = chosen(prepared, heldout=fraction, heldout_speakers=speakers)
    assert sides(data) == sides(PreparedData.load(tmp_path / "other"))
    assert any(line.startswith("held out anew: ") for line in lines)
    assert data.fingerprint() != load(prepared).fingerprint()
    for clip in (*data.train, *data.heldout):
        assert len(clip.read()) == clip.samples


def test_a_speaker_and_only_he(prepared):
    everyone = load(prepared)
    data, lines = chosen(prepared, speaker="b")
    assert data.speakers == ["b"]
    assert sides(data) == {i: split for i, split in sides(everyone).items() if i.startswith("b-")}
    assert {prompt.speaker for clip in data.train for prompt in data.references(clip)} == {"b"}
    assert lines[-1].endswith(" of other speakers")
    assert data.fingerprint() not in (everyone.fingerprint(), chosen(prepared, speaker="a")[0].fingerprint())


def test_a_speaker_is_found_however_his_name_is_composed(tmp_path):
    """Earlier versions wrote the names of folders as they are."""
    prepare(folder_of(tmp_path / "r", a=talk(2), b=talk(2, 1), c=talk(2, 2)), tmp_path / "out")
    path = tmp_path / "out" / "manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["speaker"] = unicodedata.normalize("NFD", "José" if line["id"] == "a" else "Zoë")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "Zoë")
        assert sides(chosen(tmp_path / "out", speaker=name)[0]).keys() == {"b", "c"}
        data, _ = chosen(tmp_path / "out", heldout_speakers=[name], heldout=0)
        assert {id_ for id_, side in sides(data).items() if side == "heldout"} == {"b", "c"}


def test_limits_of_seconds_leave_clips_out(prepared):
    data, lines = chosen(prepared, min_seconds=1.35, max_seconds=2.1)
    there = {clip.id: clip.seconds for clip in (*load(prepared).train, *load(prepared).heldout)}
    kept = {i for i, seconds in there.items() if 1.345 <= seconds <= 2.105}
    assert set(sides(data)) == kept < set(there)
    assert "shorter than 1.35 s" in lines[-1]
    assert "longer than 2.1 s" in lines[-1]


def test_a_language_is_chosen_and_told_to_clips_without_one(prepared):
    data, lines = chosen(prepared, language="de")
    names = {clip.id for clip in (*data.train, *data.heldout)}
    assert "b-b1" not in names
    assert {"a-a0", "b-b0", "b-b2"} < names
    assert {clip.language for clip in (*data.train, *data.heldout)} == {"de", "de-AT"}
    assert lines[-1].endswith("1 in other languages")


def test_who_is_chosen_has_clips_on_both_sides(prepared):
    """Where the share that was held out is all of another speaker's, it is drawn among those that are left."""
    data = load(prepared)
    if isinstance(data, ShardData):
        column = np.array([row.speaker == "b" for _, row in data.rows()], np.uint8)
        data = data.chosen(column)
    else:
        data = data.chosen({c.id: "heldout" if c.speaker == "b" else "train" for c in data.clips})
    for speaker in "ab":
        own, _ = select(data, PrepareOptions(speaker=speaker), Preparation.of(prepared))
        assert own.speakers == [speaker]
        assert len(own.train)
        assert len(own.heldout)


def test_what_is_as_it_was_prepared_changes_nothing(prepared):
    data = load(prepared)
    for changes in ({}, {"heldout": 0.2}, {"min_seconds": 0.5}, {"heldout": 0.2, "min_seconds": 0.5, "seed": 7}):
        same, _ = chosen(prepared, **changes)
        assert same.fingerprint() == data.fingerprint()
        assert sides(same) == sides(data)


def test_looser_limits_change_nothing_and_are_named(prepared):
    data, lines = chosen(prepared, min_seconds=0.3, max_seconds=25.0)
    assert sides(data) == sides(load(prepared))
    assert lines[:2] == [
        "data.min_seconds: 0.3 has no effect on clips prepared with 0.5",
        "data.max_seconds: 25 has no effect on clips prepared with 20",
    ]


def test_a_split_that_was_made_without_prepare_stays(shards):
    """Nobody knows what it is after: a test set, or clips that others have trained on."""
    data = ShardData(shards)
    before = Preparation.of(shards)
    same, lines = select(data, PrepareOptions(heldout=0.5), before)
    assert sides(same) == sides(data)
    assert lines == [
        "data.heldout: no effect, as the data does not record how it was prepared; its held-out clips stay"
    ]
    more, _ = select(data, PrepareOptions(heldout_speakers=["speaker-1"]), before)
    own = {clip.id for clip in data.heldout} | {clip.id for clip in data.clips if clip.speaker == "speaker-1"}
    assert {clip.id for clip in more.heldout} == own


def test_defaults_say_nothing_and_are_named(prepared):
    _, lines = chosen(prepared)
    assert lines == ["kept as prepared: min_seconds 0.5, heldout 0.2"]


def test_the_source_itself_still_decides(source, tmp_path):
    """What its lines hold out, or keep, is never drawn."""
    lines = [json.loads(line) for line in (source / "manifest.jsonl").read_text().splitlines()]
    lines[0]["split"], lines[1]["split"], lines[2]["split"] = "heldout", "train", "train"
    (source / "marked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for size in (None, 10**6):
        place = tmp_path / str(size)
        prepare(source / "marked.jsonl", place, MADE, shards=size)
        data, _ = chosen(place, heldout=0.9)
        assert sides(data)["a-a0"] == "heldout"
        assert sides(data)["a-a1"] == sides(data)["a-a2"] == "train"


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speaker": "c"}, "no speaker 'c' in .*found: a, b"),
        ({"heldout_speakers": ["b", "bob"]}, r"no speaker 'bob' in .* \(data.heldout_speakers\)"),
        ({"speaker": "b", "heldout_speakers": ["b"]}, "every clip that is left is held out"),
        ({"min_seconds": 15.0}, "none of its 1[0-9] clips is left .*shorter than 15 s"),
        ({"normalise": True}, "data.normalise: true cannot be applied to .*with false"),
        ({"trim_silence": False}, "data.trim_silence: false cannot be applied"),
        ({"min_sampling_rate": 24_000}, "data.min_sampling_rate: 24000 cannot be applied to .*with 16000"),
        ({"max_clipped": 0.5}, "data.max_clipped: 0.5 cannot be applied"),
        ({"transcribe": True}, "data.transcribe: [0-9]+ clips of .* have no text.*voxclone prepare .* --transcribe"),
    ],
)
def test_what_prepared_clips_cannot_give_is_refused_by_name(prepared, changes, message):
    with pytest.raises(DataError, match=message) as caught:
        chosen(prepared, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [None, 10**6])
def test_a_language_that_nobody_speaks(source, tmp_path, size):
    lines = [json.loads(line) for line in (source / "manifest.jsonl").read_text().splitlines()]
    for line in lines:
        line["language"] = "en" if line["speaker"] == "a" else "de-AT"
    (source / "spoken.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prepare(source / "spoken.jsonl", tmp_path / "out", MADE, shards=size)
    with pytest.raises(DataError, match=r"no language 'nl' in .* \(data.language\); found: de-AT, en$"):
        chosen(tmp_path / "out", language="nl")
    with pytest.raises(DataError, match=r"no language 'de' in .*found: en$"):
        chosen(tmp_path / "out", language="de", speaker="a")
    assert chosen(tmp_path / "out", language="de")[0].speakers == ["b"]


def test_a_default_that_is_insisted_on(prepared):
    """Resuming could not tell it from one that nobody gave."""
    with pytest.raises(DataError, match="data.heldout: 0.1, but .* was prepared with 0.2; leave it out"):
        chosen(prepared, insisted=["heldout"])
    chosen(prepared, insisted=["speaker", "max_seconds", "normalise"])


def test_every_key_of_data_is_applied_or_refused():
    of_shards = {"cache", "cache_gb"}
    assert set(DataSection.model_fields) == {*APPLIED, *FIXED, *of_shards, "path", "whisper_model", "recogniser"}


def test_damaged_summaries_count_as_none(prepared, tmp_path):
    for text in ("", "[]", '{"identity": {"options": {"heldout": 7}}}', '{"identity": 3}', "[" * 9000):
        (tmp_path / "summary.json").write_text(text)
        assert Preparation.of(tmp_path).options == PrepareOptions()


# ---- shards from a server --------------------------------------------------------------------------------------------


def test_how_shards_on_a_server_were_prepared(shards, server, tmp_path):
    one = server(shards)
    assert Preparation.of(one.address, tmp_path / "cache").options == PrepareOptions()
    options = {"heldout": 0.25, "normalise": True}
    (shards / "summary.json").write_text(json.dumps({"identity": {"options": options, "source": "/r"}}))
    before = Preparation.of(f"{one.address}/index.jsonl", tmp_path / "cache")
    assert before.options == PrepareOptions(heldout=0.25, normalise=True)
    data = ShardData(one.address, tmp_path / "cache")
    own, _ = select(data, PrepareOptions(speaker="speaker-1", normalise=True), before)
    assert own.speakers == ["speaker-1"]
    assert 0 < len(own.train) < len(data.train)
    with pytest.raises(DataError, match="data.trim_silence"):
        select(data, PrepareOptions(trim_silence=False), before)


def test_clips_that_are_whole_files_are_read_whole(shards):
    """A count that is too small would cut a clip off without a word."""

    def halve(lines):
        lines[1]["samples"] //= 2

    edited(shards, halve)
    data = ShardData(shards)
    with pytest.raises(DataError, match=r"samples where the index states [0-9]+; make it again"):
        [clip.read() for clip in data.clips]
