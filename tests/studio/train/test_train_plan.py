"""What a training is set up as, and what is read of it: configuration, logs, curves."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
import yaml
from test_train_pages import recorded

from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.split import Recording, hold_out
from mlx_voxclone.process.machine import this_machine
from mlx_voxclone.settings.config import load_run_config
from mlx_voxclone.studio.model.choice import Chosen, rehearsal
from mlx_voxclone.studio.train import plan
from mlx_voxclone.studio.train.curves import Line, Plot, plots, svg
from mlx_voxclone.studio.train.watch import STARTED, look

MACHINE = replace(this_machine(), memory=int(17e9))
NAMES = {key: key for key in ("loss", "training", "heldout", "similarity", "errors", "measured")}


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Ann Lee", "ann-lee"),
        ("Jörg Müßig", "joerg-muessig"),
        ("René", "rene"),
        ("  ...  ", "voice"),
        ("हिन्दी", "voice"),
        ("Alto", "alto-2"),
        ("a" * 99, "a" * 40),
    ],
)
def test_a_voices_name_is_made_of_its_title(title, name):
    assert plan.voice_name(title, {"alto": 0}) == name


@pytest.mark.parametrize("recordings", [plan.FEWEST, 9, 200])
@pytest.mark.parametrize("kind", ["rehearsal", "hub"])
def test_a_configuration_fits_its_recordings(me, recordings, kind):
    """As many clips as a step takes are there, and at least one is held out."""
    chosen = rehearsal(me.home) if kind == "rehearsal" else Chosen("hub", "mistralai/Voxtral-4B-TTS-2603")
    project = recorded(me, recordings)
    if kind == "hub":  # not fetched: its voices are not known
        content = plan.settings(chosen, MACHINE, recordings=recordings, language="de")
        config = load_run_config(_file(project, {"task": "clone", "model": chosen.model, "voice": "ann"} | content))
    else:
        plan.write(project, chosen, MACHINE, project.folder / "training.yaml")
        config = load_run_config(project.folder / "training.yaml").check_paths()
    groups = [Recording(f"{k:03d}", "ann", [f"{k:03d}"], 3.0) for k in range(recordings)]
    held, _ = hold_out(groups, config.data.heldout, [], PrepareOptions().seed)
    train = config.speaker.train
    assert held
    assert train.batch_size * train.accumulate <= recordings - len(held)
    assert train.warmup_steps < train.steps
    assert train.sample_every == train.eval_every  # something to hear at each measurement
    assert config.speaker.listen.speaker_model
    assert config.data.language == "de"


def _file(project, content):
    path = project.folder / "made.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True))
    return path


def test_the_main_job_is_the_shipped_one(me):
    """But for what this machine, the recordings and the language decide."""
    chosen = Chosen("hub", "mistralai/Voxtral-4B-TTS-2603")
    content = plan.settings(chosen, MACHINE, recordings=200, language="de", judged=False)
    config = load_run_config({"task": "clone"} | {k: v for k, v in content.items() if k != "include"})
    shipped = load_run_config("mac-16gb")
    assert content["include"] == "mac-16gb"
    assert config.speaker.train.accumulate == shipped.speaker.train.accumulate
    assert config.judge == shipped.judge
    assert len(config.say) == 2
    assert config.say != shipped.say


def test_only_models_that_can_run_here_judge(monkeypatch):
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
    assert plan.judges() == {"speaker_model": "spectral", "whisper_model": None}


# ---- what is read of a run -------------------------------------------------------------------------------------------


def written(run, stage="speaker", steps=10, every=5, resumed=False, metrics=None):
    folder = run / stage
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"event": "start", "step": 0, "settings": {"eval_every": every}, "schedule": {"total_steps": 20}}]
    seconds = 0.0
    for step in range(steps + 1):
        if step:
            seconds += 2.0
            lines.append({"step": step, "loss": 10.0 - step, "seconds": seconds})
        if step % every == 0:
            seconds += 6.0
            lines.append({"event": "eval", "step": step, "metrics": metrics or {"loss": 9.0}, "eval_seconds": 6.0})
    if resumed:
        lines += [{"event": "resume", "step": 7}, {"step": 8, "loss": 0.5, "seconds": seconds + 2}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99, "lo')


def test_time_left_counts_steps_and_measurements(tmp_path):
    written(tmp_path)
    stage = look(tmp_path, tmp_path / "none").stage
    assert (stage.step, stage.total, stage.seconds) == (10, 20, 2.0)
    assert stage.left == 10 * 2.0 + 2 * 6.0


def test_what_a_resume_made_void_is_left_out(tmp_path):
    written(tmp_path, resumed=True)
    stage = look(tmp_path, tmp_path / "none").stage
    assert stage.step == 8
    assert dict(stage.losses)[8] == 0.5
    assert 10 not in dict(stage.losses)


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ([], None),
        (["memory: 10 GB"], "recordings"),
        (["data: kept 1 min"], "recordings"),
        (
            ["data: x", "pairs: generating 9 sentences", "encoder: step 500/5000, loss 1, 2 items/s, 1:00 left"],
            "hearing",
        ),
        (["data: x", "encoder-2: training the encoder on the judged codes", "judge: 9 clips"], "hearing"),
        (["codes: x", "speaker: adapting the language model"], "voice"),
        (["speaker: x", "delivered: adapted; y"], "comparing"),
        (["delivered: x", "say: before and after", "bake: writing x"], "writing"),
        (["bake: x", "report: x", "speaker: 80 steps; held-out"], "writing"),
    ],
)
def test_the_part_is_told_by_the_commands_lines(tmp_path, lines, part):
    output = tmp_path / "training.log"
    output.write_text("error: of an earlier start\n" + "\n".join([f"{STARTED}now", *lines]) + "\n")
    found = look(tmp_path, output)
    assert (found.part, found.error) == (part, "")


def test_how_a_command_failed_is_its_last_line(tmp_path):
    output = tmp_path / "training.log"
    for said, error in (
        ("data: x\nerror: no room; free some\n", "no room; free some"),
        ("Traceback (most recent call last):\n  File\nValueError: odd\n", "ValueError: odd"),
        ("error: in the middle\ndata: y\n", ""),
        ("interrupted (SIGTERM): after step 3 of 9; continue with --resume x\n", ""),
    ):
        output.write_text(f"{STARTED}now\n{said}")
        assert look(tmp_path, output).error == error


def test_a_base_encoders_steps_are_read_in_the_cache(tmp_path):
    written(tmp_path / "cache", "base")
    output = tmp_path / "training.log"
    place = tmp_path / "cache" / "base"
    said = "encoder: training the model's base encoder on pairs, for this run and the next ones, in"
    output.write_text(f"{STARTED}now\ndata: x\n{said} {place}\n")
    found = look(tmp_path / "run", output)
    assert (found.stage.name, found.stage.step, found.training) == ("base", 10, True)


def test_the_latest_stage_is_the_last_one(tmp_path):
    for name in ("encoder", "encoder-2", "encoder-10", "speaker"):
        written(tmp_path, name)
    assert [stage.name for stage in look(tmp_path, tmp_path / "x").stages] == [
        "encoder",
        "encoder-2",
        "encoder-10",
        "speaker",
    ]


# ---- curves ----------------------------------------------------------------------------------------------------------


def test_curves_show_what_was_measured(tmp_path):
    written(tmp_path, metrics={"loss": 9.0, "spectral_similarity": 0.5, "cer": 0.25, "ended": 1.0})
    found = plots(look(tmp_path, tmp_path / "x").stage, NAMES)
    assert [plot.title for plot in found] == ["loss", "similarity", "errors"]
    assert [line.name for line in found[0].lines] == ["training", "heldout"]
    assert found[2].table == [(0, [0.25]), (5, [0.25]), (10, [0.25])]
    assert found[2].text(0.25) == "25.0\N{NO-BREAK SPACE}%"


@pytest.mark.parametrize(
    "points",
    [
        [(1, 5.0)],
        [(0, 0.0), (1, 0.0)],
        [(k, 1 / (k + 1)) for k in range(5000)],
        [(0, -3e-9), (10, 4e12)],
        [(0, 7.0), (10, 7.0)],
    ],
)
def test_a_drawing_lies_within_its_frame(points):
    plot = Plot("<title>", (Line("a & b", points), Line("c", points[:9], dots=True)))
    drawing = svg(plot, 5000, "step")
    root = ElementTree.fromstring(drawing)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    assert "a & b" in root.attrib["aria-label"]
    numbers = [path.attrib["d"].lstrip("M").split("L") for path in root.iter("path") if "line" in path.attrib["class"]]
    places = [tuple(map(float, one.split())) for line in numbers for one in line]
    assert places
    assert all(0 <= x <= width and 0 <= y <= height for x, y in places)
    assert len(drawing) < 20_000
    assert len(plot.table) <= 16
    assert "style" not in drawing
