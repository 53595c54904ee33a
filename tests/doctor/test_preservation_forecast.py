"""What `doctor` says of preserving the model's own voices, and of frames at another rate."""

import json

import pytest

from mlx_voxclone.doctor import forecast as module
from mlx_voxclone.doctor.forecast import Trial, forecast, longest_sequence
from mlx_voxclone.doctor.pairs import plan_pairs
from mlx_voxclone.doctor.preservation import preserves
from mlx_voxclone.settings.config import load_run_config


def configured(model, task="clone", **changes):
    given = {"model": str(model), "precision": "float32", "data.path": "x", "task": task, "voice": "ann"}
    return load_run_config("configs/voxtral_speaker.yaml", given | changes)


@pytest.fixture
def untried(monkeypatch):
    """Trials that cost nothing: a second for each layer."""
    monkeypatch.setattr(
        module, "_speaker_trial", lambda c, p, compute, layers, **plan: Trial(layers, 1e9, 1e9, float(layers))
    )


def test_who_preserves(miniature):
    assert preserves(configured(miniature))
    assert preserves(configured("never/fetched"))
    for changes in (
        {"speaker.preserve.path": None},
        {"speaker.preserve.share": 0.0},
        {"speaker.losses.kept": 0.0},
        {"encoder.pairs.path": None},
        {"task": "speaker"},  # no run has made pairs of this model
    ):
        assert not preserves(configured(miniature, **changes)), changes
    assert preserves(configured(miniature, "speaker", **{"speaker.preserve.path": ["pairs"]}))


def test_preserving_costs_a_forward_pass_of_its_share(miniature, untried):
    plain = forecast(configured(miniature, **{"speaker.preserve.path": None}), "speaker")
    kept = forecast(configured(miniature, **{"speaker.preserve.share": 0.3}), "speaker")
    assert kept.step_seconds == pytest.approx(1.1 * plain.step_seconds)
    assert kept.parts.pop("what is kept of the own voices") > 0
    assert kept.parts == pytest.approx(plain.parts)
    assert "30% of the items keep the model's own voices" in kept.note
    assert "keep" not in plain.note


def test_no_pairs_are_made_for_what_is_not_kept(miniature, tmp_path):
    encoder = {"speaker.encoder": str(tmp_path / "encoder.safetensors")}
    assert plan_pairs(configured(miniature, **encoder)) is not None
    assert plan_pairs(configured(miniature, **encoder, **{"speaker.preserve.share": 0.0})) is None


def test_frames_are_counted_at_the_codecs_rate(miniature, tmp_path):
    params = json.loads((miniature / "params.json").read_text())
    assert longest_sequence(configured(miniature))["frames"] == int(12.5 * configured(miniature).speaker.max_seconds)
    audio = params["multimodal"]
    audio["audio_tokenizer_args"]["sampling_rate"] = 30_720
    audio["audio_model_args"]["audio_encoding_args"] |= {"sampling_rate": 30_720, "frame_rate": 16.0}
    (tmp_path / "params.json").write_text(json.dumps(params))
    config = configured(tmp_path)
    section = config.speaker
    expected = {"frames": int(16 * section.max_seconds), "voice": int(16 * section.reference_seconds[1]) + 1}
    assert longest_sequence(config) == longest_sequence(config) | expected
