"""`voxclone voices`: what a checkpoint's voices are, one more, one fewer, and the codes behind them."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.torch_file import write_pt
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.miniature.micro import make_micro

pytest_plugins = ["commands"]
PRESETS = ("casual_female", "casual_male", "neutral_female")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The miniature whose table is wide enough to be inverted. Read it only."""
    return make_micro(tmp_path_factory.mktemp("small") / "small", preset="small")


@pytest.fixture
def voices(capsys):
    """`voices(action, ..., code=0)` -> what it prints, and what it says."""

    def run(*arguments, code=0):
        capsys.readouterr()
        assert voxclone(["voices", *map(str, arguments)]) == code
        return capsys.readouterr()

    return run


def contents(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# ---- list ----------------------------------------------------------------------------------------------------------


def test_list(voices, miniature):
    lines = [line.split() for line in voices("list", "--model", miniature).out.splitlines()]
    assert lines[0] == ["name", "number", "rows", "seconds", "END"]
    assert lines[1:] == [
        ["casual_female", "0", "14", "1.04", "yes"],
        ["casual_male", "1", "19", "1.44", "yes"],
        ["neutral_female", "2", "25", "1.92", "yes"],
    ]


def test_list_marks_what_is_wrong(voices, miniature, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(miniature, model)
    place = model / "voice_embedding"
    for suffix in ("pt", "safetensors"):
        (place / f"casual_female.{suffix}").unlink()
    (place / "casual_male.pt").write_bytes(b"no zip")
    write_pt(place / "loose.pt", Release(miniature).voice("casual_male")[:5])  # without its END row
    write_pt(place / "wide.pt", mx.ones((3, 65)))
    edit(model / "tekken.json", lambda c: c["audio"]["voice_num_audio_tokens"].update(neutral_female=24))
    edit(model / "tekken.json", lambda c: c["audio"]["voice_num_audio_tokens"].pop("casual_female"))
    lines = {line.split()[0]: line.split(maxsplit=5)[1:] for line in voices("list", "--model", model).out.splitlines()}
    assert lines["casual_female"] == ["0", "-", "-", "-", "not registered in tekken.json; no file"]
    assert lines["casual_male"][:4] == ["1", "-", "-", "-"]
    assert lines["casual_male"][4].startswith("unreadable: ")
    assert lines["neutral_female"] == ["2", "25", "1.92", "yes", "tekken.json says 24 rows"]
    unknown = "not registered in params.json; not registered in tekken.json"
    assert lines["loose"] == ["-", "5", "0.40", "no", unknown]
    assert lines["wide"] == ["-", "3", "-", "-", f"{unknown}; rows of 65, but the model is 64 wide"]


# ---- add and remove ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["casual_male"], ["neutral_female"], ["casual_female", "neutral_female"], PRESETS])
def test_remove_leaves_every_other_byte(voices, miniature, tmp_path, names):
    model = tmp_path / "model"
    shutil.copytree(miniature, model)
    for name in ("README.md", "NOTICE", "extra.safetensors", "folder/casual_male.pt"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("theirs")
    before = contents(model)
    assert voices("remove", "--model", model, "--output", tmp_path / "out", *names).out == f"{tmp_path / 'out'}\n"
    assert contents(model) == before
    after = contents(tmp_path / "out")
    registers = {"params.json", "config.json", "tekken.json"}
    gone = {f"voice_embedding/{name}.{suffix}" for name in names for suffix in ("pt", "safetensors")}
    assert before.keys() - after.keys() == gone
    assert after.keys() <= before.keys()
    assert all(after[name] == before[name] for name in after.keys() - registers)
    assert Release(tmp_path / "out").voices() == [name for name in PRESETS if name not in names]
    for name in registers:  # entries alone are cut out: no line is added, none but theirs changes or goes
        old, new = before[name].decode().splitlines(), after[name].decode().splitlines()
        changed = [line for line in old if line not in new]
        assert all(any(n in line for n in PRESETS) or "{" in line or line.strip() == "}" for line in changed), changed
        assert len(new) >= len(old) - len(names) - 1
        assert not any(f'"{n}"' in after[name].decode() for n in names)
    tekken = json.loads(after["tekken.json"])
    assert tekken["audio"]["voice_num_audio_tokens"].keys() == set(PRESETS) - set(names)
    rest = json.loads(before["tekken.json"])
    rest["audio"].pop("voice_num_audio_tokens"), tekken["audio"].pop("voice_num_audio_tokens")
    assert tekken == rest


def test_remove_cuts_the_entry_not_its_namesake(voices, miniature, tmp_path):
    """Another key of the same name and value stays; so do spacing and the order of keys."""
    model = tmp_path / "model"
    shutil.copytree(miniature, model)
    text = (model / "params.json").read_text()
    (model / "params.json").write_text('{"notes": {"casual_male": 1, "b":  2},' + text.lstrip()[1:])
    (model / "config.json").unlink()
    voices("remove", "--model", model, "--output", tmp_path / "out", "casual_male")
    new = (tmp_path / "out" / "params.json").read_text()
    assert new.startswith('{"notes": {"casual_male": 1, "b":  2},')
    assert list(json.loads(new)["multimodal"]["audio_tokenizer_args"]["voice"]) == ["casual_female", "neutral_female"]
    assert not (tmp_path / "out" / "config.json").exists()


def test_add_is_a_bake_and_remove_takes_it_back(voices, miniature, tmp_path):
    codes = np.ones((37, 4), np.int32)
    save_tensors(tmp_path / "codes.safetensors", {"codes": codes})
    argv = ["--model", miniature, "--output", tmp_path / "more", f"anna={tmp_path / 'codes.safetensors'}"]
    write_pt(tmp_path / "rows.pt", Release(miniature).voice("casual_male"))
    assert "anna (5 rows), ben (19 rows)" in voices("add", *argv, f"ben={tmp_path / 'rows.pt'}").out
    release = Release(tmp_path / "more")
    assert release.voices() == [*PRESETS, "anna", "ben"]
    expected = load_model(Release(miniature), parts=("lm",)).voice_embedding(codes)
    assert mx.array_equal(release.voice("anna"), expected.astype(mx.bfloat16))
    voices("remove", "--model", tmp_path / "more", "--output", tmp_path / "back", "ben", "anna", "ben")
    for name in ("params.json", "config.json"):  # bake writes them as micro does
        assert (tmp_path / "back" / name).read_bytes() == (miniature / name).read_bytes()
    assert (tmp_path / "back" / "voxclone.json").read_bytes() == (tmp_path / "more" / "voxclone.json").read_bytes()


def test_an_interrupted_remove_leaves_nothing(miniature, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlx_voxclone.bake.voice_removal.filecmp.cmp", lambda *a, **k: interrupted())
    argv = ["voices", "remove", "--model", miniature, "--output", tmp_path / "out", "casual_male"]
    assert voxclone([str(a) for a in argv]) == 130
    assert list(tmp_path.iterdir()) == []


def test_bad_input_of_add_and_remove(refused, miniature, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").write_text("")
    model, out = ["--model", miniature], ["--output", tmp_path / "out"]
    refused(["voices", "remove", *model, *out, "nobody"], "no voice called 'nobody'", ", ".join(PRESETS))
    refused(["voices", "remove", *model, *out, "../params"], "no voice called '../params'")
    refused(["voices", "remove", *model, "--output", tmp_path / "there", "casual_male"], "not empty")
    refused(["voices", "remove", *model, "--output", miniature, "casual_male"], "not empty", unchanged=(miniature,))
    refused(["voices", "remove", *model, "--output", miniature / "in", "casual_male"], "inside the model directory")
    refused(["voices", "remove", "--model", tmp_path / "none", *out, "x"], "no such directory")
    refused(["voices", "remove", *model, *out], "NAME")
    refused(["voices", "remove", *model, "casual_male"], "--output")
    refused(["voices", "add", *model, *out, "anna"], "expected NAME=SOURCE")
    refused(["voices", "add", *model, *out, f"casual_male={tmp_path / 'x.pt'}"], "casual_male")
    refused(["voices", "add", *model, *out, f"anna={tmp_path / 'x.pt'}"], "x.pt: no such file")
    refused(["voices"], "ACTION")
    refused(["voices", "rename"], "rename")
    refused(["voices", "list", "--model", tmp_path / "none"], "no such directory")


# ---- invert --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("source", ["name", "pt", "safetensors"])
def test_invert_gives_codes_that_make_the_voice_and_decode(voices, small, tmp_path, source):
    rows = Release(small).voice("casual_female")
    if source == "pt":
        write_pt(tmp_path / "voice.pt", rows[-4:])
    elif source == "safetensors":
        save_tensors(tmp_path / "voice.safetensors", {"embedding": rows[-4:]})
    voice = "Casual_Female" if source == "name" else tmp_path / f"voice.{source}"
    frames = 13 if source == "name" else 3
    output = tmp_path / "x.safetensors"
    said = voices("invert", "--model", small, voice, "--output", output)
    lines = dict(line.split(maxsplit=1) for line in said.out.splitlines()[:-1])
    assert (lines["rows"], lines["frames"], lines["exact"]) == (str(frames + 1), str(frames), str(frames))
    assert "END row dropped" in said.err
    assert said.out.endswith(f"{output}\n")
    file = TensorFile(output)
    assert file.names() == ["codes"]
    assert (file.info("codes").dtype, file.info("codes").shape) == ("I32", (37, frames))
    release = Release(small)
    made = load_model(release, parts=("lm",)).voice_embedding(file.numpy("codes")).astype(mx.bfloat16)
    assert mx.allclose(made, rows[-frames - 1 :], rtol=2**-7, atol=0)  # order of the sum: last bit
    assert voxclone(["decode", str(output), "--model", str(small), "--output", str(tmp_path / "x.wav")]) == 0


def test_invert_of_a_voice_that_is_partly_explained(voices, small, tmp_path):
    rows = np.array(Release(small).voice("casual_female").astype(mx.float32))[:4]
    rows[1] += np.random.default_rng(0).standard_normal(rows.shape[1])
    write_pt(tmp_path / "x.pt", mx.array(rows).astype(mx.bfloat16))
    said = voices("invert", "--model", small, tmp_path / "x.pt", "--output", tmp_path / "x.safetensors", code=1)
    lines = dict(line.split(maxsplit=1) for line in said.out.splitlines()[:-1])
    assert (lines["END"], lines["frames"], lines["exact"]) == ("row      no", "4", "3")
    assert lines["unexplained"].startswith("row 1 (")
    file = TensorFile(tmp_path / "x.safetensors")
    assert file.numpy("frames").tolist() == [0, 2, 3]
    assert file.info("codes").shape == (37, 3)


def test_bad_input_of_invert(refused, small, miniature, tmp_path):
    model = ["--model", small]
    rng = np.random.default_rng(0)
    write_pt(tmp_path / "noise.pt", mx.array(rng.standard_normal((2, 128)).astype(np.float32)))
    write_pt(tmp_path / "wide.pt", mx.ones((3, 65)))
    write_pt(tmp_path / "end.pt", mx.concatenate([Release(small).voice("casual_male")[-1:]] * 2))
    (tmp_path / "there.safetensors").write_text("")
    (tmp_path / "broken.pt").write_text("no zip")
    out = tmp_path / "out.safetensors"
    refused(["voices", "invert", *model, tmp_path / "noise.pt", "--output", out], "none of its 2 rows", "128 columns")
    write_pt(tmp_path / "tiny.pt", Release(miniature).voice("casual_male")[-3:])
    refused(["voices", "invert", "--model", miniature, tmp_path / "tiny.pt"], "none of its 2 rows", "64 columns")
    refused(["voices", "invert", *model, tmp_path / "wide.pt"], "wide.pt", "128 wide")
    refused(["voices", "invert", *model, tmp_path / "end.pt"], "none of its")
    refused(["voices", "invert", *model, tmp_path / "none.pt"], "none.pt")
    refused(["voices", "invert", *model, tmp_path / "broken.pt"], "broken.pt")
    refused(["voices", "invert", *model, "nobody"], "no voice called 'nobody'", "casual_male")
    refused(["voices", "invert", *model, "casual_male", "--output", tmp_path / "there.safetensors"], "exists already")
    for tolerance in ("0", "nan", "inf", "x", "-1"):
        refused(["voices", "invert", *model, "casual_male", f"--tolerance={tolerance}"], "a number above 0")
