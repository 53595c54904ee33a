"""Drift of a model's own voices: none where nothing changed, the same by adapters apart and baked in."""

import json

import mlx.core as mx
import numpy as np
import pytest
from pairs_on_disk import write_some

from mlx_voxclone.adapters.files import AdapterConfig, save_adapters
from mlx_voxclone.adapters.mix import AdapterSource
from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.bake.bake import bake
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.errors import DataError
from mlx_voxclone.evaluate import drift, measure
from mlx_voxclone.evaluate.drift import check_drift, measure_drift
from mlx_voxclone.evaluate.measure import METRICS
from mlx_voxclone.pairs.data import PairData

pytest_plugins = ["commands"]
VOICE = "casual_male"


@pytest.fixture(scope="module")
def pairs(miniature, tmp_path_factory):
    return write_some(miniature, tmp_path_factory.mktemp("pairs") / "pairs", frames=(5, 8, 6), voice=VOICE)


@pytest.fixture(scope="module")
def adapters(miniature, tmp_path_factory):
    release, rng, tensors = Release(miniature), np.random.default_rng(0), {}
    for layer in range(release.config.backbone.n_layers):
        name = f"layers.{layer}.attention.wo"
        rows, columns = release.tensors.info(f"{name}.weight").shape
        tensors[f"{name}.lora_a"] = rng.standard_normal((columns, 2)).astype(np.float32) / 8
        tensors[f"{name}.lora_b"] = rng.standard_normal((2, rows)).astype(np.float32) / 8
    place = tmp_path_factory.mktemp("adapters")
    save_adapters(place, tensors, AdapterConfig(2, 2.0, ("wo",), release.fingerprint()))
    return place


def test_what_did_not_change_has_not_drifted(miniature, pairs):
    release = Release(miniature)
    found = measure_drift(release, release, str(pairs))
    assert len(found) == 3
    for case in found:
        assert case.metrics["preset_drift"] == pytest.approx(0, abs=1e-6)
        assert case.metrics["preset_flow"] == pytest.approx(0, abs=1e-9)
        assert case.metrics["preset_agreement"] == 100.0
        assert set(case.metrics) < set(METRICS)


def test_adapters_drift_by_what_the_distributions_say(miniature, pairs, adapters, tmp_path):
    release = Release(miniature)
    found = measure_drift(release, release, str(pairs), [AdapterSource(adapters)])
    # By hand, with the adapters baked in.
    bake(miniature, tmp_path / "baked", adapters=adapters, folded_as="float32")
    pair = PairData.load(pairs, release.config.codec, heldout=0.0).pairs[0]
    tokenizer = SpeechTokenizer(release.tokenizer_path)
    rows = release.voice(VOICE).astype(mx.float32)
    logits = []
    for source in (release, Release(tmp_path / "baked")):
        model = load_model(source, parts=["lm", "head"])
        prompt = model.embed_prompt(tokenizer.prompt(pair.text, rows.shape[0]), rows)
        x = mx.concatenate([prompt, model.embed_codes(mx.array(pair.codes.T + 2))[None]], axis=1)
        hidden = model.hidden_states(x)[0, prompt.shape[1] - 1 : -1]
        logits.append(np.array(model.acoustic_transformer.masked_semantic_logits(hidden)).astype(float))
    p, q = (np.exp(x - x.max(-1, keepdims=True)) for x in logits)
    p, q = (x / x.sum(-1, keepdims=True) for x in (p, q))
    nats = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.where(q > 0, q, 1)), 0).sum(-1).mean()
    assert nats > 1e-4
    assert found[0].metrics["preset_drift"] == pytest.approx(nats, rel=1e-3)
    same = 100 * np.mean(logits[0].argmax(-1) == logits[1].argmax(-1))
    assert found[0].metrics["preset_agreement"] == pytest.approx(same, rel=1e-5)
    folded = measure_drift(release, Release(tmp_path / "baked"), str(pairs))
    for apart, together in zip(found, folded):
        assert together.metrics["preset_drift"] == pytest.approx(apart.metrics["preset_drift"], rel=2e-2)
        assert together.metrics["preset_flow"] == pytest.approx(apart.metrics["preset_flow"], rel=2e-2)


def test_half_the_adapters_drift_less(miniature, pairs, adapters):
    release = Release(miniature)
    whole, half = (
        np.mean([c.metrics["preset_drift"] for c in measure_drift(release, release, str(pairs), [source])])
        for source in (AdapterSource(adapters), AdapterSource(adapters, 0.5))
    )
    assert 0 < half < whole


def test_the_command_measures_it_alone_and_compares(miniature, pairs, adapters, tmp_path, capsys):
    drift = ["--base", miniature, "--pairs", pairs, "--quiet"]
    for name, weight in (("half", "=0.5"), ("whole", "")):
        more = ["--adapters", f"{adapters}{weight}", "--output", tmp_path / name]
        more += ["--compare", tmp_path / "half"] if name == "whole" else []
        assert voxclone(["evaluate", *map(str, [*drift, *more])]) == 0
    out = capsys.readouterr().out
    assert "drift of the model's own voices" in out
    assert "worse" in out
    document = json.loads((tmp_path / "whole" / "evaluation.json").read_text())
    assert document["summary"]["preset_drift"]["n"] == 3
    assert document["about"]["adapters"] == [str(adapters)]
    page = (tmp_path / "whole" / "index.html").read_text()
    assert "drift of the model" in page
    assert "<h2>Outputs</h2>" not in page


def test_what_would_be_refused_is_refused_before_outputs_are_measured(miniature, pairs, tmp_path, monkeypatch, capsys):
    release = Release(miniature)
    assert check_drift(release, release, str(pairs)) == [c.id for c in measure_drift(release, release, str(pairs))]
    monkeypatch.setattr(measure, "_measure", lambda *_: pytest.fail("measured before it was refused"))
    monkeypatch.setattr(drift, "load_model", lambda *_, **__: pytest.fail("loaded before it was refused"))
    write_wav(tmp_path / "a.wav", np.zeros(24000, np.float32))
    (tmp_path / "cases.jsonl").write_text('{"output": "a.wav"}')
    strange = write_some(miniature, tmp_path / "strange", frames=(3, 4), voice="ann")
    plain = ["--base", miniature, "--output", tmp_path / "out", "--speaker-model", "none", "--whisper-model", "none"]
    for given, said in (
        (["--model", miniature, "--pairs", strange], "was spoken with ann"),
        (["--model", miniature, "--pairs", tmp_path / "nowhere"], "nowhere"),
        (["--adapters", tmp_path / "none", "--pairs", pairs], "none"),
    ):
        assert voxclone(["evaluate", str(tmp_path / "cases.jsonl"), *map(str, [*plain, *given])]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_refused(miniature, pairs, adapters, tmp_path, capsys):
    from mlx_voxclone.miniature.micro import make_micro

    other = make_micro(tmp_path / "small", "small", 0)
    with pytest.raises(DataError, match="has other sizes"):
        measure_drift(Release(miniature), Release(other), str(pairs))
    strange = write_some(miniature, tmp_path / "strange", frames=(3, 4), voice="ann")
    with pytest.raises(DataError, match="was spoken with ann"):
        measure_drift(Release(miniature), Release(miniature), str(strange))
    where = ["--output", str(tmp_path / "x")]
    for arguments, text in (
        ([], "SOURCE is missing"),
        (["--pairs", "p"], "give --base, too"),
        (["--base", "b", "--model", "m"], "give --pairs, too"),
        (["--base", "b", "--pairs", "p"], "give --model or --adapters"),
    ):
        assert voxclone(["evaluate", *arguments, *where]) == 2
        assert text in capsys.readouterr().err
