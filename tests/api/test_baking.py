"""Baking from Python: the command's bake, voices as Python has them."""

import mlx.core as mx
import numpy as np
import pytest

import mlx_voxclone
from mlx_voxclone.adapters.mix import AdapterSource
from mlx_voxclone.api.speech import adapter_sources
from mlx_voxclone.bake.bake import bake
from mlx_voxclone.errors import CheckpointError, ConfigError, DataError, VoxcloneWarning
from mlx_voxclone.speech.speaker import Speaker

pytest_plugins = ["commands", "baking"]
pytestmark = pytest.mark.filterwarnings("ignore:the model did not end")


def test_it_is_the_commands_bake(base, encoder, adapters, voice_file, tmp_path):
    direct = bake(base, tmp_path / "direct", encoder=encoder, adapters=adapters, voices={"ann": voice_file})
    told = []
    report = mlx_voxclone.bake(
        str(base),
        str(tmp_path / "baked"),
        encoder=str(encoder),
        adapters=str(adapters),
        voices={"ann": str(voice_file)},
        progress=lambda *step: told.append(step),
    )
    for name in ("consolidated.safetensors", "params.json", "tekken.json", "voice_embedding/ann.pt"):
        assert (report.output / name).read_bytes() == (direct.output / name).read_bytes()
    assert (report.fingerprint, report.voices) == (direct.fingerprint, direct.voices)
    done, totals, what = zip(*told)
    assert list(done) == sorted(done)
    assert (done[-1], {*totals}, {*what}) == (totals[-1], {totals[-1]}, {"weights"})


def test_voices_of_every_kind(whole, voice_file, tmp_path):
    voice = mlx_voxclone.load(whole).voice_from(voice_file)
    kept = voice.save(tmp_path / "kept.safetensors")
    voices = {
        "object": voice,
        "rows": voice.rows,
        "floats": np.array(voice.rows.astype(mx.float32)),
        "file": kept,
        "text": str(kept),
        "recording": voice_file,
        "recordings": [voice_file, str(voice_file)],
    }
    report = mlx_voxclone.bake(whole, tmp_path / "baked", voices=voices)
    tts = mlx_voxclone.load(report.output)
    assert set(voices) < set(tts.voices)
    rows = {name: tts._speaker.release.voice(name) for name in voices}
    for name in set(voices) - {"recordings"}:
        assert mx.array_equal(rows[name], voice.rows), name
    assert rows["recordings"].shape[0] == 2 * (voice.rows.shape[0] - 1) + 1


def test_adapters_kept_apart_or_baked_in(base, adapters, tmp_path):
    """`load(adapters=...)` takes what `say --adapters` takes."""
    text, voice, short = "Good morning.", "casual_female", {"max_seconds": 0.3}

    def said(given) -> np.ndarray:
        return mlx_voxclone.load(base, adapters=given).say(text, voice, **short)

    half = AdapterSource(adapters, 0.5)
    wanted = Speaker.load(base, adapters=half).say(text, voice, **short).samples
    assert np.array_equal(said(f"{adapters}=0.5"), wanted)
    assert not np.array_equal(said(()), wanted)
    assert adapter_sources([f"{adapters}=0.5", half]) == [half, half]
    for whole in (adapters, str(adapters), [adapters], (str(adapters),), f"{adapters}=1"):
        assert adapter_sources(whole) == [AdapterSource(adapters)]
    assert adapter_sources(None) == adapter_sources(()) == []


def test_two_people_are_a_warning(whole, voice_file, tmp_path, monkeypatch):
    monkeypatch.setattr("mlx_voxclone.audio.prosody.two_pitches", lambda samples: (100.0, 210.0))
    with pytest.warns(VoxcloneWarning, match="voice ann: two people seem to speak"):
        mlx_voxclone.bake(whole, tmp_path / "baked", voices={"ann": voice_file}, dry_run=True)
    assert not (tmp_path / "baked").exists()


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({}, CheckpointError, "nothing to bake"),
        ({"voices": {"ann": None}}, DataError, "voice ann: .* got None"),
        ({"voices": {"ann": []}}, DataError, "voice ann: "),
        ({"voices": {"ann": "gone.wav"}}, CheckpointError, "gone.wav: no such file"),
        ({"voices": {"Ann": "gone.wav"}}, CheckpointError, "only a-z.*ann would do"),
        ({"voices": {"ann": np.zeros((4, 8), np.float32)}}, CheckpointError, "rows of 8"),
        ({"adapters": "gone"}, CheckpointError, "gone/adapter_config.json: not found"),
        ({"adapters": 3}, ConfigError, "adapters: a path"),
        ({"encoder": ""}, ConfigError, "encoder: '' is no path"),
        ({"output": None}, ConfigError, "output: a path"),
        ({"encoder": "x.safetensors", "target": "nobody"}, CheckpointError, "target 'nobody'"),
    ],
)
def test_refused(whole, tmp_path, given, kind, said):
    with pytest.raises(kind, match=said):
        mlx_voxclone.bake(**({"model": whole, "output": tmp_path / "baked"} | given))
    assert not (tmp_path / "baked").exists()
