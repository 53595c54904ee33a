"""Baking: the result is the base plus exactly what was asked for, complete and verified, or it is not there."""

import hashlib
import json
import shutil

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import soundfile

from mlx_voxclone.bake import record as bake_files
from mlx_voxclone.bake.bake import bake
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, load_model, part_of
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.checkpoint.torch_file import write_pt
from mlx_voxclone.checkpoint.voices import read_voice, write_voice
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli.front.bake import main
from mlx_voxclone.errors import CheckpointError

pytest_plugins = ["baking"]


@pytest.fixture(scope="module")
def baked(base, adapters, encoder, recording, tmp_path_factory):
    output = tmp_path_factory.mktemp("baked") / "out"
    report = bake(base, output, adapters=adapters, encoder=encoder, voices={"anna": recording})
    return output, report


def hidden_states(model, prompt):
    layer_inputs = []
    hidden = model.hidden_states(prompt, layer_inputs=layer_inputs)
    return [np.array(h) for h in (*layer_inputs[1:], hidden)]


class PlainLoRA(nn.Module):
    def __init__(self, linear, a, b, scale):
        super().__init__()
        self.linear, self.a, self.b, self.scale = linear, a, b, scale

    def __call__(self, x):
        return x @ self.linear.weight.T + self.scale * ((x @ self.a) @ self.b)


def with_adapters(model, adapters):
    tensors = mx.load(str(adapters / "adapters.safetensors"))
    for module in {name.rpartition(".")[0] for name in tensors}:
        _, layer, block, leaf = module.split(".")
        place = model.layers[int(layer)][block]
        place[leaf] = PlainLoRA(place[leaf], tensors[f"{module}.lora_a"], tensors[f"{module}.lora_b"], 8.0 / 4)
    return model


# --- weights --------------------------------------------------------------------------------------------------------


def test_folded_model_is_base_plus_adapter(base, baked, adapters):
    output, _ = baked
    mx.random.seed(0)
    prompt = mx.random.normal((1, 12, 64))
    plain = hidden_states(load_model(Release(base)), prompt)
    wanted = hidden_states(with_adapters(load_model(Release(base)), adapters), prompt)
    folded = hidden_states(load_model(Release(output)), prompt)
    for before, want, got in zip(plain, wanted, folded):
        change, error = np.linalg.norm(want - before), np.linalg.norm(got - want)
        assert change > 0.01 * np.linalg.norm(before)  # the adapter does something
        assert error < 2**-8 * np.linalg.norm(want)  # one rounding of BF16
        assert error < 0.1 * change


def test_every_folded_weight_is_rounded_once(base, adapters, tmp_path):
    report = bake(base, tmp_path / "out", adapters=adapters, rounding="nearest")
    output = report.output
    tensors = mx.load(str(adapters / "adapters.safetensors"))
    old, new = Release(base).tensors, Release(output).tensors
    assert len(report.folded) == 14
    for name in (w.name for w in report.folded):
        module = name.removesuffix(".weight")
        a, b = (np.array(tensors[f"{module}.lora_{half}"], dtype=np.float64) for half in "ab")
        exact = old.numpy(name).astype(np.float64) + 2.0 * (b.T @ a.T)
        error = np.abs(new.numpy(name) - exact)
        assert (error <= 2**-8 * np.abs(exact) * 1.0001).all()  # half of the last of 8 bits


def test_rounding_is_measured(base, baked, adapters):
    output, report = baked
    old, new = Release(base).tensors, Release(output).tensors
    tensors = mx.load(str(adapters / "adapters.safetensors"))
    for measured in report.folded:
        a, b = (np.array(tensors[measured.name.replace("weight", f"lora_{half}")]) for half in "ab")
        delta = 2.0 * b.T @ a.T
        lost = np.linalg.norm(new.numpy(measured.name) - old.numpy(measured.name) - delta) / np.linalg.norm(delta)
        assert measured.rounding_error == pytest.approx(lost, rel=1e-3)
        assert measured.relative_change == pytest.approx(
            np.linalg.norm(delta) / np.linalg.norm(old.numpy(measured.name)), rel=1e-3
        )
        assert 0.001 < measured.rounding_error < 0.2


def test_everything_else_is_bit_identical(base, baked):
    output, report = baked
    old, new = Release(base).tensors, Release(output).tensors
    adapted = [w.name for w in report.folded]
    untouched = set(old.names()) - set(adapted)
    assert report.n_unchanged == len(untouched)
    assert all(bytes(old.raw(n)) == bytes(new.raw(n)) for n in untouched)
    assert all(bytes(old.raw(n)) != bytes(new.raw(n)) for n in adapted)
    assert old.names() == [n for n in new.names() if part_of(n) != "encoder"]


def test_the_encoder_is_there_in_bfloat16(baked, encoder):
    output, report = baked
    release, source = Release(output), TensorFile(encoder)
    release.check()
    assert release.has_encoder
    assert report.encoder == "injected"
    for name in source.names():
        expected = mx.array(source.numpy(name)).astype(mx.bfloat16)
        assert mx.array_equal(release.tensors.array(name), expected)


def test_base_is_only_read(base, adapters, encoder, tmp_path):
    def digest():
        return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in base.rglob("*") if p.is_file()}

    before = digest()
    bake(base, tmp_path / "out", adapters=adapters, encoder=encoder)
    assert digest() == before


# --- files and voices -----------------------------------------------------------------------------------------------


def test_files_of_the_result(base, baked, encoder):
    output, report = baked
    names = {str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()}
    voices = ("anna", "casual_female", "casual_male", "neutral_female")
    assert names == {
        *("README.md", "NOTICE", "voxclone.json", "params.json", "config.json", "tekken.json"),
        "consolidated.safetensors",
        *(f"voice_embedding/{voice}.{suffix}" for voice in voices for suffix in ("pt", "safetensors")),
    }
    assert "CC BY-NC 4.0" in (output / "NOTICE").read_text()
    (record,) = json.loads((output / "voxclone.json").read_text())["bakes"]
    assert record["base_fingerprint"] == report.base_fingerprint == Release(base).fingerprint()
    assert record["encoder"] == {
        "state": "injected",
        "base_had_one": False,
        "sha256": hashlib.sha256(encoder.read_bytes()).hexdigest(),
    }
    (adapters,) = record["adapters"]
    assert (adapters["rank"], adapters["alpha"], adapters["weight"]) == (4, 8.0, 1.0)
    assert (record["rounding"], record["folded_as"]) == ("compensated", "base")
    assert record["folded"] == sorted(w.name for w in report.folded)
    assert record["voices"] == {"anna": 17}
    assert report.fingerprint == Release(output).fingerprint() != report.base_fingerprint


def test_a_voice_is_where_every_server_looks(baked):
    output, _ = baked
    params, tekken = (json.loads((output / name).read_text()) for name in ("params.json", "tekken.json"))
    assert json.loads((output / "config.json").read_text()) == params
    assert params["multimodal"]["audio_tokenizer_args"]["voice"]["anna"] == 3
    assert tekken["audio"]["voice_num_audio_tokens"]["anna"] == 17
    pt, tensors = (output / "voice_embedding" / f"anna.{suffix}" for suffix in ("pt", "safetensors"))
    assert mx.array_equal(read_voice(pt), read_voice(tensors))
    from mistral_common.protocol.speech.request import SpeechRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    server = MistralTokenizer.from_file(str(output / "tekken.json"))
    expected = server.encode_speech_request(SpeechRequest(input="hello", voice="anna")).tokens
    assert SpeechTokenizer(output / "tekken.json").prompt("hello", read_voice(pt).shape[0]) == expected


def test_a_recorded_voice_is_what_the_baked_encoder_hears(baked, recording):
    output, _ = baked
    release = Release(output)
    model = load_model(release, parts=("lm", "codec"))
    samples, _ = soundfile.read(recording, dtype="float32")
    codec = model.audio_tokenizer
    rows = model.voice_embedding(codec.quantize(codec.encode_audio(samples)[None])[0])
    assert rows.shape[0] == -(-30000 // 1920) + 1
    assert mx.array_equal(release.voice("anna"), rows.astype(mx.bfloat16))


def test_voices_from_files(base, tmp_path):
    release = Release(base)
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size - 2, 6) for size in release.config.codec.code_sizes]).astype(np.int32)
    rows = mx.random.normal((5, 64))
    save_tensors(tmp_path / "codes.safetensors", {"codes": codes})
    save_tensors(tmp_path / "rows.safetensors", {"embedding": rows, "codes": codes[:, :2]})
    write_pt(tmp_path / "rows.pt", rows)
    sources = {"a": tmp_path / "codes.safetensors", "b": tmp_path / "rows.safetensors", "c": tmp_path / "rows.pt"}
    report = bake(base, tmp_path / "out", voices=sources)
    assert report.voices == {"a": 7, "b": 5, "c": 5}
    out = Release(tmp_path / "out")
    assert out.voices()[3:] == ["a", "b", "c"]
    expected = load_model(release, parts=("lm",)).voice_embedding(codes)
    assert mx.array_equal(out.voice("a"), expected.astype(mx.bfloat16))
    assert mx.array_equal(out.voice("c"), rows.astype(mx.bfloat16))


def test_a_baked_directory_can_be_baked_again(baked, adapters, base, tmp_path, assert_refused):
    output, _ = baked
    first = bake(output, tmp_path / "again", voices={"bert": output / "voice_embedding" / "anna.pt"})
    assert first.encoder == "kept"
    assert first.n_unchanged == first.n_tensors
    again = Release(tmp_path / "again")
    assert again.voices()[-2:] == ["anna", "bert"]
    assert again.has_encoder
    assert len(json.loads((tmp_path / "again" / "voxclone.json").read_text())["bakes"]) == 2
    code = main(["--model", str(output), "--adapters", str(adapters), "--output", str(tmp_path / "twice")])
    assert_refused(code, "trained on another model")
    assert not (tmp_path / "twice").exists()


def test_old_voices_stay_what_they_were(miniature, baked):
    output, _ = baked
    for name in Release(miniature).voices():
        for suffix in ("pt", "safetensors"):
            stored = read_voice(output / "voice_embedding" / f"{name}.{suffix}")
            assert mx.array_equal(stored, Release(miniature).voice(name))


def test_a_base_that_changes_meanwhile_is_noticed(base, encoder, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    weights = TensorFile(tmp_path / "base" / "consolidated.safetensors")

    def damage(*_):
        with open(weights.path, "r+b") as file:
            file.seek(weights.info(weights.names()[0]).start)
            file.write(b"\0\x40")

    with pytest.raises(CheckpointError, match="changed while it was copied"):
        bake(tmp_path / "base", tmp_path / "out", encoder=encoder, progress=damage)
    assert [p.name for p in tmp_path.iterdir()] == ["base"]


def test_a_voice_that_reads_back_otherwise_is_noticed(base, tmp_path, monkeypatch):
    def other(directory, name, rows):
        write_voice(directory, name, rows + 1)

    monkeypatch.setattr(bake_files, "write_voice", other)
    with pytest.raises(CheckpointError, match="voice anna does not read back as written"):
        bake(base, tmp_path / "out", voices={"anna": base / "voice_embedding" / "casual_male.pt"})
    assert list(tmp_path.iterdir()) == []


def test_without_voices_the_text_files_are_the_bases_bytes(base, encoder, tmp_path):
    bake(base, tmp_path / "out", encoder=encoder)
    for name in ("params.json", "tekken.json", "README.md"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()


def test_the_record_tells_added_voices_from_the_models_own(base, baked, tmp_path):
    output, _ = baked
    assert bake_files.added_voices(output) == {"anna"}
    assert bake_files.added_voices(base) == set()
    bake(output, tmp_path / "two", voices={"bert": output / "voice_embedding" / "anna.pt"})
    assert bake_files.added_voices(tmp_path / "two") == {"anna", "bert"}
    (tmp_path / "two" / "voxclone.json").write_text('{"bakes": [3, {"voices": null}]}')
    assert bake_files.added_voices(tmp_path / "two") == set()


# --- targets --------------------------------------------------------------------------------------------------------


def test_for_mlx_audio(baked, base, encoder, recording, tmp_path):
    output, _ = baked
    shutil.copytree(output, tmp_path / "with-extra")
    save_tensors(tmp_path / "with-extra" / "extra.safetensors", {"x": mx.zeros(1)})
    again = bake(tmp_path / "with-extra", tmp_path / "one", target="mlx-audio")
    fresh = bake(base, tmp_path / "two", target="mlx-audio", encoder=encoder, voices={"anna": recording})
    for report, directory in ((again, tmp_path / "one"), (fresh, tmp_path / "two")):
        assert report.encoder == "left out"
        assert [p.name for p in directory.glob("*.safetensors")] == ["consolidated.safetensors"]
        assert not Release(directory).has_encoder
        assert (directory / "config.json").is_file()
        assert (directory / "voice_embedding" / "anna.safetensors").is_file()
        assert (directory / "voice_embedding" / "casual_male.safetensors").is_file()
    bake(tmp_path / "with-extra", tmp_path / "three", voices={"bert": output / "voice_embedding" / "anna.pt"})
    assert (tmp_path / "three" / "extra.safetensors").is_file()


def test_mlx_audio_loads_and_speaks(baked, tmp_path):
    tts = pytest.importorskip("mlx_audio.tts.utils")
    output, _ = baked
    bake(output, tmp_path / "out", target="mlx-audio")
    model = tts.load_model(tmp_path / "out")
    (result,) = model.generate(text="hello there", voice="anna", max_tokens=4)
    assert result.audio.shape[0] % 1920 == 0


def test_dry_run_writes_nothing(base, adapters, encoder, recording, tmp_path, capsys):
    options = ["--adapters", str(adapters), "--encoder", str(encoder), "--voice", f"anna={recording}", "--dry-run"]
    assert main(["--model", str(base), "--output", str(tmp_path / "out"), *options]) == 0
    table = capsys.readouterr().out
    assert "would write" in table
    assert "anna (17 rows)" in table
    assert list(tmp_path.iterdir()) == []


def test_command(base, adapters, encoder, tmp_path, capsys):
    output = tmp_path / "out"
    options = ["--adapters", str(adapters), "--encoder", str(encoder), "--device", "cpu"]
    assert main(["--model", str(base), "--output", str(output), *options]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "14 weights changed by" in captured.out
    assert "injected" in captured.out
    Release(output).check()
