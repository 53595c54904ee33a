"""`voxclone prepare`: the table, the exit codes, one line for a mistake."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.cli.front.prepare import main
from mlx_voxclone.data import collect
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import PrepareReport
from mlx_voxclone.miniature.synth import SyntheticSpeaker, write_corpus


@pytest.fixture
def corpus(tmp_path) -> Path:
    write_corpus(tmp_path / "c", [SyntheticSpeaker.sample(k) for k in range(2)], 4, seconds=1.8)
    return tmp_path / "c"


def test_prepare_prints_a_table_and_writes(corpus, tmp_path, capsys):
    write_wav(corpus / "silent.wav", np.zeros(48_000))
    (corpus / "text.wav").write_text("no audio")
    lines = [{"audio": str(p.relative_to(corpus)), "speaker": "anna"} for p in sorted(corpus.rglob("*.wav"))]
    (corpus / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main([str(corpus), "--output", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    out = captured.out.splitlines()
    assert out[0].split() == ["speaker", "clips", "held", "out", "minutes"]
    assert out[1].split()[:3] == ["anna", "8", "1"]
    assert out[2].startswith("your recordings: ")
    assert re.fullmatch(r"kept \d\d\.\d s of \d\d\.\d s, 0 of 8 clips with text", out[3])
    assert "left out 2 recordings (1 silent, 1 unreadable); see" in out[4]
    assert out[5].startswith("note: no clip has a text")
    assert out[6] == f"{tmp_path / 'out'}: written"
    assert captured.err == ""  # no progress bar where no terminal is
    assert len(PreparedData.load(tmp_path / "out").clips) == 8
    assert main([str(corpus), "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.endswith("up to date already\n")


def test_of_many_speakers_a_few_are_shown():
    own = {f"s{k}": {"clips": k + 1, "heldout_clips": k % 2, "hours": 0.5} for k in range(40)}
    clips, hours = {"train": 800, "heldout": 20, "reference": 0}, {"train": 19.0, "heldout": 1.0, "read": 20.0}
    lines = [line.split() for line in PrepareReport(Path("x"), clips, hours, own, 0, {}, []).lines()]
    assert lines[1] == ["s39", "40", "1", "30.0"]
    assert lines[11] == ["s29", "30", "1", "30.0"]
    assert lines[12] == ["29", "others", str(sum(range(1, 30))), "14", "870.0"]
    assert lines[13][:3] == ["all", "820", "20"]
    assert " ".join(lines[14]) == "kept 20 h 00 min of 20 h 00 min, 0 of 820 clips with text"


def test_minutes_are_said_as_minutes():
    report = PrepareReport(Path("x"), {"train": 120, "heldout": 0, "reference": 0}, {}, {}, 120, {}, [])
    hours = {"train": 0.0515, "heldout": 0.01, "read": 0.0616}
    assert "kept 3 min 41 s of 3 min 42 s, 120 of 120 clips with text" in replace(report, hours=hours).lines()


def test_options_arrive(corpus, tmp_path):
    argv = f"{corpus} --output {tmp_path / 'out'} --min-seconds 0.5 --max-seconds 8 --heldout 0.4 --normalise --no-trim"
    argv += " --seed 5 --language en --min-sampling-rate 8000 --max-clipped 0.5 --quiet --heldout-speakers synthetic-1"
    assert voxclone(["prepare", *argv.split()]) == 0
    options = json.loads((tmp_path / "out" / "summary.json").read_text())["identity"]["options"]
    assert options == {
        "speaker": None,
        "language": "en",
        "min_seconds": 0.5,
        "max_seconds": 8.0,
        "heldout": 0.4,
        "heldout_speakers": ["synthetic-1"],
        "normalise": True,
        "trim_silence": False,
        "min_sampling_rate": 8000,
        "max_clipped": 0.5,
        "transcribe": False,
        "seed": 5,
    }
    assert {c.language for c in PreparedData.load(tmp_path / "out").clips} == {"en"}


def test_defaults_are_those_of_the_options():
    parsed = vars(main.parser().parse_args(["x", "--output", "y"]))
    default = PrepareOptions()
    for name in ("min_seconds", "max_seconds", "heldout", "min_sampling_rate", "max_clipped", "seed", "normalise"):
        assert parsed[name] == getattr(default, name)
    assert parsed["whisper_model"] == default.whisper_model
    assert parsed["no_trim"] is not default.trim_silence


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none: no such file or directory"),
        (["empty"], "empty: no audio in this folder"),
        (
            ["c", "--min-seconds", "9", "--max-seconds", "3"],
            "min_seconds (9) must be below max_seconds (3)",
        ),
        (["c", "--heldout", "two"], "invalid float value: 'two'"),
        (["c", "--recogniser", "mlx-audio:x"], "--recogniser says who transcribes: give --transcribe, too"),
        (["c", "--heldoutt", "0.1"], "unrecognized arguments: --heldoutt"),
        (["c", "--speaker", "synthetic-9"], "no speaker 'synthetic-9'; did you mean"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(corpus, tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--output", "out"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


def test_ctrl_c_is_130_and_leaves_nothing(corpus, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(collect, "examine", interrupted)
    assert main([str(corpus), "--output", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]


@pytest.mark.parametrize("name", ["train", "bake"])
def test_the_script_is_the_command(name):
    run = subprocess.run([sys.executable, ROOT / "scripts" / f"{name}.py", "--help"], capture_output=True, text=True)
    assert run.returncode == 0
    assert f"usage: voxclone {name}" in run.stdout
