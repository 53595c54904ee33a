"""What task clone refuses between its stages, and how a run goes on after that."""

import pytest

from mlx_voxclone.errors import CheckpointError, DataError, TranscriptError
from mlx_voxclone.settings.config import RunConfig, load_run_config
from mlx_voxclone.train import run as run_module
from mlx_voxclone.train.clone import recover as recover_module
from mlx_voxclone.train.clone.base_encoder import BASE
from mlx_voxclone.train.encoder.inputs import EncoderInputs
from mlx_voxclone.train.stages.running import Run


def configured(miniature, **judge) -> RunConfig:
    return RunConfig(task="clone", model=str(miniature), judge=judge)


@pytest.fixture
def recover(miniature, tmp_path, monkeypatch):
    """`recover(config, gain)` up to the base encoder, with pairs whose texts gain so much."""
    monkeypatch.setattr(recover_module, "encoder_inputs", lambda *_: EncoderInputs(None, None, None))

    def reached(*_):
        raise DataError("the base encoder")

    monkeypatch.setattr(recover_module._Steps, "base", reached)

    def call(config, gain):
        monkeypatch.setattr(recover_module, "said_gain", lambda config, release: gain)
        return recover_module.recover(config, None, Run.of(config, tmp_path))

    return call


def test_a_model_that_follows_no_text_is_refused_before_the_base_encoder(recover, miniature):
    with pytest.raises(CheckpointError, match="ignores its text"):
        recover(configured(miniature), 0.02)


@pytest.mark.parametrize(
    ("judge", "gain"), [({}, 0.5), ({}, None), ({"enabled": False}, 0.02), ({"check_texts": False}, 0.02)]
)
def test_other_models_and_unjudged_runs_go_on(recover, miniature, judge, gain):
    with pytest.raises(DataError, match="the base encoder"):
        recover(configured(miniature, **judge), gain)


def begin(config: RunConfig, place, *stages: str) -> None:
    """A run directory with a checkpoint in each of the stages."""
    for stage in stages:
        (place / stage / "checkpoints" / "step-2").mkdir(parents=True)
    (place / "config.yaml").write_text(config.dump())


def test_the_judge_can_be_switched_off_until_something_has_learnt_from_it(miniature, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "list_checkpoints", lambda place: list(place.glob("checkpoints/*")))
    place, off = tmp_path / "run", configured(miniature, enabled=False)
    begin(configured(miniature), place, "encoder")
    run_module._check_resumed(place, off)
    assert "enabled: false" in (place / "config.yaml").read_text()
    for stage in ("encoder-2", "speaker"):
        other = tmp_path / stage
        begin(configured(miniature), other, "encoder", stage)
        with pytest.raises(CheckpointError, match="judge.enabled: true -> false"):
            run_module._check_resumed(other, off)


def test_a_run_says_how_long_it_is_now(miniature, tmp_path):
    """Interrupted again it goes on to the new end, not to the former one."""
    begin(configured(miniature), tmp_path, "encoder")
    longer = load_run_config(tmp_path / "config.yaml", max_steps=777, shorten_warmup=False)
    run_module._check_resumed(tmp_path, longer)
    again = load_run_config(tmp_path / "config.yaml")
    assert {again.encoder.train.steps, again.speaker.train.steps} == {777}
    assert again.dump() == longer.dump()


def ended(config, place, monkeypatch, error, *made: str) -> Exception:
    """How a new run ends that makes some directories and then fails."""
    monkeypatch.setattr(run_module, "check_inputs", lambda *_, **__: None)
    monkeypatch.setattr(run_module, "list_checkpoints", lambda place: list(place.glob("checkpoints/*")))

    def start():
        with run_module._opened(place, config, resuming=False):
            (place / BASE).write_bytes(b"weights")
            for name in made:
                (place / name).mkdir(parents=True)
            raise error

    with pytest.raises(type(error)) as caught:
        start()
    return caught.value


def test_corrected_transcripts_are_other_data(miniature, tmp_path, monkeypatch):
    """So nobody is told to go on with them."""
    place, made = tmp_path / "run", "encoder/checkpoints/step-2"
    found = ended(configured(miniature), place, monkeypatch, TranscriptError("or judge.enabled: false"), made)
    assert str(found) == f"or judge.enabled: false (with --resume {place})"
    place = tmp_path / "other"
    found = ended(configured(miniature), place, monkeypatch, DataError("a file is gone"), made)
    assert str(found) == f"a file is gone; fix this, then continue with --resume {place}"


def test_a_start_that_is_refused_leaves_no_base_encoder_in_the_way(miniature, tmp_path, monkeypatch):
    place = tmp_path / "run"
    ended(configured(miniature), place, monkeypatch, DataError("no"), "data", "codes")
    assert sorted(path.name for path in place.iterdir()) == ["codes", "data"]
