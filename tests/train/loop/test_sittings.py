"""The time and the memory of a run are those of all its sittings, however each of them ended."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from mlx_voxclone.errors import DataError
from mlx_voxclone.process.progress import SILENT
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train import run as run_module
from mlx_voxclone.train.run import RunSummary


@pytest.fixture
def sit(monkeypatch, tmp_path):
    """`sit(seconds, ends=None)`: a sitting that takes so long and ends with an error; its summary, if there is one."""
    clock = [1000.0]

    @contextmanager
    def opened(run_dir, config, *, resuming):
        run_dir.mkdir(exist_ok=True)
        yield

    monkeypatch.setattr(run_module, "_opened", opened)
    monkeypatch.setattr(run_module, "_check_directory", lambda run_dir, config, resuming: None)
    monkeypatch.setattr(run_module, "open_data", lambda config, say: None)
    monkeypatch.setattr(run_module, "fetched", lambda config: config)
    monkeypatch.setattr(run_module, "write_report", lambda run_dir: "no report")
    monkeypatch.setattr(run_module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    run_dir = tmp_path / "run"

    def sitting(seconds, peak=0.0, ends=None):
        def carry_out(*_):
            clock[0] += seconds
            if ends is not None:
                raise ends
            return RunSummary("clone", str(run_dir), peak_memory_gb=peak)

        monkeypatch.setattr(run_module, "_carry_out", carry_out)
        config = RunConfig(task="clone", model="m", data={"path": "d"}, voice="v", output=run_dir)
        if ends is not None:
            with pytest.raises(type(ends)):
                run_module.run(config, reporter=SILENT)
            return None
        found = run_module.run(config, reporter=SILENT)
        assert json.loads((run_dir / "summary.json").read_text())["seconds"] == found.seconds
        return found

    sitting.run_dir = run_dir
    return sitting


def test_a_run_that_is_finished_keeps_its_time(sit):
    assert sit(7200.0, peak=900.0).seconds == 7200
    again = sit(3.0)
    assert (again.seconds, again.peak_memory_gb) == (7203, 900)
    assert [path.name for path in sit.run_dir.iterdir()] == ["summary.json"]


@pytest.mark.parametrize("ends", [KeyboardInterrupt(), DataError("the server is gone")])
def test_sittings_that_were_ended_count(sit, ends):
    sit(100.0, ends=ends)
    sit(20.0, ends=ends)
    assert sit(3.0).seconds == 123
    sit(1000.0, ends=ends)  # of a run that was finished
    assert sit(5.0).seconds == 1128


def test_a_damaged_note_is_no_reason_to_stop(sit):
    sit(100.0, ends=KeyboardInterrupt())
    for text in ("{", '{"seconds": "many"}', '{"seconds": -1, "peak_memory_gb": 1}', "[]", "\udcff"):
        (sit.run_dir / "spent.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        (sit.run_dir / "summary.json").unlink(missing_ok=True)
        assert sit(3.0).seconds == 3
