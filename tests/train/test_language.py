"""Task `language`: many speakers, a voice of anyone where need be; and adapters that go on where others ended."""

import json

import mlx.core as mx
import numpy as np
import pytest
import yaml
from mlx.utils import tree_flatten

from mlx_voxclone.adapters.files import load_adapters
from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.errors import CheckpointError, ConfigError
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.train import run
from mlx_voxclone.train.speaker import stage as adaptation
from mlx_voxclone.train.stages.compute import Compute

pytest_plugins = ["commands"]


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """Six speakers with a clip each, but the first, who has two."""
    home, lines = tmp_path_factory.mktemp("strangers"), []
    for k in range(7):
        who = max(0, k - 1)
        text = ("papa mino", "lesu tara", "koni rame", "sito pula", "nemi dora", "gawi tofe", "reza lobu")[k]
        write_wav(home / f"{k}.wav", synthesise(text, SyntheticSpeaker.sample(who), k))
        lines.append(json.dumps({"audio": f"{k}.wav", "text": text, "speaker": f"speaker{who}"}))
    (home / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return home / "manifest.jsonl"


@pytest.fixture(scope="module")
def data(strangers, tmp_path_factory):
    place = tmp_path_factory.mktemp("prepared") / "data"
    prepare(strangers, place, PrepareOptions(heldout=0.2, min_seconds=0.3))
    return PreparedData.load(place)


def config_file(directory, model, encoder, path, **more):
    from commands import TINY_RUN

    content = {"task": "language", "model": str(model), **TINY_RUN, "say": []}
    content["data"] = {"path": str(path), **TINY_RUN["data"], "min_seconds": 0.3}
    content["speaker"] = {**TINY_RUN["speaker"], "encoder": str(encoder), **more}
    file = directory / "language.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_who_has_no_other_clip_gets_the_voice_of_someone_else(data):
    alone = [clip for clip in data.train if not data.references(clip)]
    assert alone, "the corpus has speakers with one clip"
    for clip in alone:
        found = adaptation.references(clip, data, anyone=True)
        assert found
        assert clip not in found
        assert all(other.split == "train" for other in found)
        assert found == adaptation.references(clip, data, anyone=True)  # the same at every call
    own = [clip for clip in data.train if data.references(clip)]
    for clip in own:
        assert adaptation.references(clip, data, anyone=True) == data.references(clip)
    assert len(adaptation.usable(data.train, data)) < len(adaptation.usable(data.train, data, anyone=True))
    assert len(adaptation.usable(data.train, data, anyone=True)) == len(data.train)


@pytest.mark.slow
def test_a_language_is_learnt_and_a_speaker_on_top_of_it(
    miniature, encoder_file, strangers, corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "write_report", lambda run_dir: "no report")
    file = config_file(tmp_path, miniature, encoder_file, strangers)
    monkeypatch.chdir(tmp_path)
    options = ["--set", "data.language=nl", "--set", "seed=1"]
    assert voxclone(["train", "--config", str(file), *options, "--quiet"]) == 0
    learnt = tmp_path / "runs" / "language-nl"
    tensors, adapter = load_adapters(learnt / "best")
    assert adapter.base_fingerprint == Release(miniature).fingerprint()
    evaluations = json.loads((learnt / "result.json").read_text())["evaluations"]
    assert evaluations[-1]["metrics"]["loss"] < evaluations[0]["metrics"]["loss"]
    onward = ["--set", "task=speaker", "--set", f"data.path={corpus}", "--set", f"speaker.start={learnt / 'best'}"]
    assert voxclone(["train", "--config", str(file), *onward, "--set", "output=onward", "--quiet"]) == 0
    # Before its first step it is the model of the language.
    config = load_run_config(file, {"task": "speaker", "data.path": str(corpus), "speaker.start": learnt / "best"})
    release = Release(miniature)
    adapted = adaptation.adapted_model(config, release, Compute.of(config))
    assert list(adapted.identity) == ["base", "start"]
    weights = dict(tree_flatten(adapted.model.trainable_parameters()))
    assert all(mx.array_equal(weights[name], value) for name, value in tensors.items())
    assert any(np.abs(np.array(v)).max() > 0 for k, v in weights.items() if k.endswith("lora_b"))
    # And so its first measurement is another than the released model's, by a hundred times what rounding does.
    assert voxclone(["train", "--config", str(file), *onward[:4], "--set", "output=anew", "--quiet"]) == 0
    begun, anew = (
        json.loads((tmp_path / name / "result.json").read_text())["evaluations"][0]["metrics"]["loss"]
        for name in ("onward", "anew")
    )
    assert abs(begun / anew - 1) > 1e-4
    # Other adapters to start from are another run.
    assert voxclone(["train", "--resume", "onward", "--set", "speaker.start=null", "--quiet"]) == 2


def test_adapters_that_do_not_fit_are_refused_before_anything_begins(miniature, encoder_file, strangers, tmp_path):
    from mlx_voxclone.adapters.files import AdapterConfig, save_adapters

    release = Release(miniature)
    file = config_file(tmp_path, miniature, encoder_file, strangers)
    asked = {"rank": 2, "alpha": 4.0, "targets": tuple(load_run_config(file).speaker.lora.targets)}

    def written(name, layers=range(2), **changes):
        chosen = {**asked, "base": release.fingerprint(), **changes}
        tensors = {}
        for layer in layers:
            for target in chosen["targets"]:
                room = "attention" if target in ("wq", "wk", "wv", "wo") else "feed_forward"
                tensors[f"layers.{layer}.{room}.{target}.lora_a"] = np.zeros((64, chosen["rank"]), np.float32)
                tensors[f"layers.{layer}.{room}.{target}.lora_b"] = np.zeros((chosen["rank"], 64), np.float32)
        base = chosen.pop("base")
        save_adapters(tmp_path / name, tensors, AdapterConfig(**chosen, base_fingerprint=base))
        return load_run_config(file, {"speaker.start": tmp_path / name})

    assert adaptation.starting_adapters(load_run_config(file), release) is None
    assert adaptation.starting_adapters(written("fits"), release)
    with pytest.raises(CheckpointError, match="trained on another model"):
        adaptation.starting_adapters(written("other", base="0" * 64), release)
    with pytest.raises(ConfigError, match="speaker.lora.rank: 2, but speaker.start has 4"):
        adaptation.starting_adapters(written("rank", rank=4), release)
    with pytest.raises(ConfigError, match="speaker.lora.alpha: 4.0, but speaker.start has 8.0"):
        adaptation.starting_adapters(written("alpha", alpha=8.0), release)
    with pytest.raises(ConfigError, match="speaker.lora.targets"):
        adaptation.starting_adapters(written("targets", targets=("wq",)), release)
    with pytest.raises(ConfigError, match="speaker.start adapts 1 layers"):
        adaptation.starting_adapters(written("layers", layers=[1]), release)
    with pytest.raises(ConfigError, match=r"speaker.start: .*nowhere does not exist"):
        load_run_config(file, {"speaker.start": tmp_path / "nowhere"}).check_paths()
