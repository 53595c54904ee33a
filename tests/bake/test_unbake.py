"""What differs between checkpoints, and the way back from a baked one."""

import itertools
import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone import __version__
from mlx_voxclone.bake.bake import bake
from mlx_voxclone.bake.compare import compare
from mlx_voxclone.bake.record import add_notice, notice_of_base
from mlx_voxclone.bake.unbake import unbake
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, part_of
from mlx_voxclone.checkpoint.voices import read_voice
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli.more.diff import main as diff
from mlx_voxclone.cli.more.unbake import main as main_unbake

pytest_plugins = ["baking"]


@pytest.fixture(scope="module")
def baked(base, adapters, encoder, recording, tmp_path_factory):
    output = tmp_path_factory.mktemp("baked") / "out"
    bake(base, output, adapters=adapters, encoder=encoder, voices={"anna": recording})
    return output


@pytest.fixture(scope="module")
def with_encoder(base, encoder, recording, tmp_path_factory):
    """Baked without adapters."""
    output = tmp_path_factory.mktemp("encoder") / "out"
    bake(base, output, encoder=encoder, voices={"anna": recording})
    return output


def same_weights(a, b):
    old, new = Release(a).tensors, Release(b).tensors
    return old.names() == new.names() and all(bytes(old.raw(n)) == bytes(new.raw(n)) for n in old.names())


def same_json(a, b):
    return all(
        json.loads((a / name).read_text()) == json.loads((b / name).read_text())
        for name in ("params.json", "config.json", "tekken.json")
    )


# --- diff -------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_does_not_differ_from_itself(base, tmp_path, capsys):
    shutil.copytree(base, tmp_path / "copy")
    found = compare(Release(base), Release(tmp_path / "copy"))
    assert found.equal
    assert found.same == len(Release(base).tensors)
    assert diff([str(base), str(tmp_path / "copy")]) == 0
    assert capsys.readouterr().out.startswith("no difference: ")


def test_everything_that_a_bake_changed_is_found(base, baked, encoder, capsys):
    seen = []
    found = compare(Release(base), Release(baked), lambda count, total: seen.append((count, total)))
    assert sum(count for count, _ in seen) == seen[-1][1]
    old, new = Release(base).tensors, Release(baked).tensors
    assert [t.name for t in found.changed] == [n for n in old.names() if bytes(old.raw(n)) != bytes(new.raw(n))]
    assert sorted(found.added) == sorted(TensorFile(encoder).names())
    assert found.removed == []
    assert found.same + len(found.changed) == len(old)
    for tensor in found.changed:
        a, b = old.numpy(tensor.name), new.numpy(tensor.name)
        assert tensor.relative_change == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a), rel=1e-4)
        assert tensor.elements == np.mean(a != b)
        assert (tensor.part, tensor.before) == ("lm", f"BF16 {list(a.shape)}")
    assert (found.voices_added, found.voices_removed, found.voices_changed) == (["anna"], [], [])
    assert "params.json" in found.files_changed
    assert "voxclone.json" in found.files_added
    assert diff([str(base), str(baked), "--verbose"]) == 0
    text = capsys.readouterr().out
    assert "14 tensors of the language model by" in text
    assert "tensors of the codec encoder" in text
    assert sum(line.startswith("  ~ layers.") for line in text.splitlines()) == 14
    assert diff([str(baked), str(base), "--json"]) == 0
    back = json.loads(capsys.readouterr().out)
    assert (back["voices_removed"], len(back["removed"]), back["equal"]) == (["anna"], len(found.added), False)


def altered(base, directory, change):
    shutil.copytree(base, directory)
    tensors = change(Release(base).tensors.arrays())
    mx.eval(list(tensors.values()))
    save_tensors(directory / "consolidated.safetensors", tensors, overwrite=True)
    return Release(directory)


def test_type_shape_sign_of_zero_and_nan(base, tmp_path):
    name = "norm.weight"

    def found(case, change):
        return compare(Release(base), altered(base, tmp_path / case, change)).changed

    (wide,) = found("wide", lambda t: t | {name: t[name].astype(mx.float32)})
    assert (wide.before, wide.after, wide.relative_change, wide.elements) == ("BF16 [64]", "F32 [64]", 0.0, 0.0)
    (long,) = found("long", lambda t: t | {name: mx.zeros(65, mx.bfloat16)})
    assert (long.after, long.relative_change) == ("BF16 [65]", None)
    (undefined,) = found("nan", lambda t: t | {name: mx.full(64, mx.nan, mx.bfloat16)})
    assert np.isnan(undefined.relative_change)
    zero = altered(base, tmp_path / "zero", lambda t: t | {name: mx.zeros(64, mx.bfloat16)})
    minus = altered(base, tmp_path / "minus", lambda t: t | {name: -mx.zeros(64, mx.bfloat16)})
    (signs,) = compare(zero, minus).changed
    assert (signs.relative_change, signs.elements) == (0.0, 0.0)


def test_a_voice_with_other_rows_differs(base, tmp_path):
    shutil.copytree(base, tmp_path / "other")
    place = tmp_path / "other" / "voice_embedding"
    shutil.copyfile(place / "casual_male.pt", place / "casual_female.pt")
    assert compare(Release(base), Release(tmp_path / "other")).voices_changed == ["casual_female"]


def test_nothing_to_compare(base, tmp_path, assert_refused):
    assert_refused(diff([str(base), str(tmp_path / "nowhere")]), "no such directory")


# --- unbake -----------------------------------------------------------------------------------------------------------


def test_back_to_the_base(base, baked, tmp_path, capsys):
    options = ["--model", str(baked), "--output", str(tmp_path / "back"), "--base", str(base)]
    assert main_unbake([*options, "--parts", str(tmp_path / "parts")]) == 0
    assert same_weights(base, tmp_path / "back")
    found = compare(Release(base), Release(tmp_path / "back"))
    assert set(found.files_changed) <= {"tekken.json"}  # set with other spaces
    assert same_json(base, tmp_path / "back")
    assert found.voices_added == found.voices_removed == found.voices_changed == []
    assert set(found.files_added) <= {"config.json"}  # the bake's; mlx-audio needs it
    assert not (tmp_path / "back" / "voxclone.json").exists()
    assert "14 from the base" in capsys.readouterr().out


def test_the_parts_bake_the_same_again(base, baked, adapters, tmp_path):
    unbake(baked, tmp_path / "back", base=base, parts=tmp_path / "parts")
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == ["anna.safetensors", "encoder.safetensors"]
    parts = {"encoder": tmp_path / "parts" / "encoder.safetensors"}
    parts["voices"] = {"anna": tmp_path / "parts" / "anna.safetensors"}
    bake(tmp_path / "back", tmp_path / "again", adapters=adapters, **parts)
    assert same_weights(baked, tmp_path / "again")
    assert mx.array_equal(Release(baked).voice("anna"), Release(tmp_path / "again").voice("anna"))


def test_without_adapters_no_base_is_needed(base, with_encoder, tmp_path):
    report = unbake(with_encoder, tmp_path / "back")
    assert (report.encoder, report.voices, report.restored) == ("removed", ["anna"], [])
    assert same_weights(base, tmp_path / "back")
    assert same_json(base, tmp_path / "back")
    assert (tmp_path / "back" / "README.md").read_bytes() == (base / "README.md").read_bytes()


def test_several_bakes_are_taken_back_together(base, with_encoder, adapters, tmp_path):
    voice = base / "voice_embedding" / "casual_male.pt"
    bake(with_encoder, tmp_path / "two", voices={"bert": voice})
    bake(tmp_path / "two", tmp_path / "three", adapters=adapters)
    report = unbake(tmp_path / "three", tmp_path / "back", base=base)
    assert report.voices == ["anna", "bert"]
    assert same_weights(base, tmp_path / "back")


def test_an_encoder_that_the_base_had_comes_back(with_encoder, encoder, base, tmp_path):
    """Replaced, or left out for mlx-audio; untouched it stays."""
    values = {name: TensorFile(encoder).numpy(name) * np.float32(0.5) for name in TensorFile(encoder).names()}
    save_tensors(tmp_path / "other.safetensors", values)
    bake(with_encoder, tmp_path / "replaced", encoder=tmp_path / "other.safetensors")
    bake(with_encoder, tmp_path / "left-out", target="mlx-audio")
    voice = base / "voice_embedding" / "casual_male.pt"
    for name in ("replaced", "left-out"):  # as if the first bake had been another's: its record is gone
        record = json.loads((tmp_path / name / "voxclone.json").read_text())
        (tmp_path / name / "voxclone.json").write_text(json.dumps({"bakes": record["bakes"][1:]}))
        report = unbake(tmp_path / name, tmp_path / f"{name}-back", base=with_encoder)
        assert report.encoder == "restored"
        assert same_weights(with_encoder, tmp_path / f"{name}-back")
    shutil.copytree(with_encoder, tmp_path / "fresh")
    (tmp_path / "fresh" / "voxclone.json").unlink()
    bake(tmp_path / "fresh", tmp_path / "voice", voices={"bert": voice})
    assert unbake(tmp_path / "voice", tmp_path / "voice-back").encoder == "kept"
    assert same_weights(with_encoder, tmp_path / "voice-back")


THIRD_PARTY = [
    b"Theirs.\n",
    b"No end of line",
    b"",
    "Weights \u00a9 Some Lab, CC BY-NC 4.0 as the model's.\r\n\r\n\r\n".encode(),
    b"Not UTF-8: \xe9\xff, nor one line: \x00\n\n",
    b"Made with voxclone, says somebody who adds a word of his own.\n",
]


@pytest.mark.parametrize("theirs", [None, *THIRD_PARTY])
def test_every_notice_stays_and_ours_is_added_once(theirs, tmp_path):
    """However often a checkpoint is baked again; and the way back has the base's own bytes."""
    places = [tmp_path / name for name in ("base", "once", "twice", "thrice")]
    for place in places:
        place.mkdir()
    if theirs is not None:
        (places[0] / "NOTICE").write_bytes(theirs)
    for old, new in itertools.pairwise(places):
        add_notice(old, new)
    once = (places[1] / "NOTICE").read_bytes()
    assert once.startswith(theirs or b"")
    assert once.count(b"Made with voxclone 0") == once.count(b"inherit that\nlicence") == 1
    for place in places[1:]:
        assert (place / "NOTICE").read_bytes() == once
        assert notice_of_base(place) == theirs
    # What another project writes below ours is kept, too, and ends up below theirs.
    (places[2] / "NOTICE").write_bytes(once + b"A fork's own.\n")
    add_notice(places[2], places[3])
    assert (places[3] / "NOTICE").read_bytes() == once + b"A fork's own.\n"
    assert notice_of_base(places[3]) == (theirs or b"") + b"A fork's own.\n"


def test_a_notice_that_an_earlier_version_wrote_is_known(tmp_path):
    """It put ours first, and another version's number stands in it."""
    (tmp_path / "none").mkdir()
    (tmp_path / "new").mkdir()
    add_notice(tmp_path / "none", tmp_path / "new")
    ours = (tmp_path / "new" / "NOTICE").read_text().replace(__version__, "0.0.7")
    for text in (ours, f"{ours}\nTheirs.\n", f"{ours}\nTheirs.\n".replace("\n", "\r\n")):
        (tmp_path / "none" / "NOTICE").write_bytes(text.encode())
        add_notice(tmp_path / "none", tmp_path / "new")
        assert (tmp_path / "new" / "NOTICE").read_bytes() == text.encode()
        theirs = (notice_of_base(tmp_path / "new") or b"").replace(b"\r\n", b"\n")
        assert theirs == (b"" if text == ours else b"Theirs.\n")


def test_texts_of_the_base_come_back_from_two_bakes_as_they_were(base, encoder, recording, tmp_path):
    texts = {name: THIRD_PARTY[k] for k, name in enumerate(("NOTICE", "LICENSE", "NOTICE.txt", "README.md", "COPYING"))}
    texts["NOTICE"] = THIRD_PARTY[3]
    shutil.copytree(base, tmp_path / "base")
    for name, content in texts.items():
        (tmp_path / "base" / name).write_bytes(content)
    bake(tmp_path / "base", tmp_path / "once", encoder=encoder)
    bake(tmp_path / "once", tmp_path / "twice", voices={"anna": recording})
    unbake(tmp_path / "twice", tmp_path / "back")
    for name, content in texts.items():
        assert (tmp_path / "twice" / name).read_bytes().startswith(content)
        assert (tmp_path / "back" / name).read_bytes() == content


def test_a_dry_run_writes_nothing(base, baked, tmp_path, capsys):
    options = ["--model", str(baked), "--output", str(tmp_path / "back"), "--parts", str(tmp_path / "parts")]
    assert main_unbake([*options, "--base", str(base), "--dry-run"]) == 0
    assert "would write" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_taken_back(base, baked, with_encoder, tmp_path, assert_refused):
    def refused(match, model, *options, history=None):
        if history is not None:
            shutil.copytree(model, tmp_path / "model")
            model = tmp_path / "model"
            (model / "voxclone.json").write_text(history)
        code = main_unbake(["--model", str(model), "--output", str(tmp_path / "out"), *map(str, options)])
        assert_refused(code, match)
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        assert list(tmp_path.iterdir()) == []

    record = (baked / "voxclone.json").read_text()
    refused("was not baked by voxclone", base)
    refused("adapters were folded into it; give the model", baked)
    refused("is not what", baked, "--base", baked)
    refused("not a bake record", baked, history="{}")
    refused("not a bake record", baked, history='{"bakes": [{"base_fingerprint": 3}]}')
    refused("names weights that are not there", baked, "--base", base, history=record.replace("attention.wq", "wx"))
    refused("not the one recorded in its voxclone.json", with_encoder, history=_without_folded(record, "0" * 64))
    refused("not empty", baked, "--base", base, "--parts", base)


def _without_folded(record, fingerprint):
    content = json.loads(record)
    content["bakes"][0] |= {"folded": [], "base_fingerprint": fingerprint}
    return json.dumps(content)


def test_a_failure_leaves_no_parts(with_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(Release, "check", lambda release: None if release.path == with_encoder else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        unbake(Release(with_encoder), tmp_path / "back", parts=tmp_path / "parts")
    assert list(tmp_path.iterdir()) == []


def test_the_baked_checkpoint_is_only_read(baked, base, tmp_path):
    before = {p: p.read_bytes() for p in baked.rglob("*") if p.is_file()}
    unbake(baked, tmp_path / "back", base=base)
    assert {p: p.read_bytes() for p in baked.rglob("*") if p.is_file()} == before
    assert read_voice(baked / "voice_embedding" / "anna.pt").shape[0] == 17
    assert any(part_of(name) == "encoder" for name in Release(baked).tensors.names())
