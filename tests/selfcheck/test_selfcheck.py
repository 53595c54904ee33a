"""`voxclone selfcheck`: what falls short is seen, a crash ends one check alone, the file tells nobody's names."""

import getpass
import json
import socket
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from compiling import Compiler

import mlx_voxclone
from mlx_voxclone.audio.spectral import choice, plain
from mlx_voxclone.cli import main
from mlx_voxclone.doctor.forecast import Forecast, Trial
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.process.machine import this_machine
from mlx_voxclone.selfcheck import child, numbers, series, work
from mlx_voxclone.selfcheck.outcome import CRASHED, HELD, NOT_HERE, SHORT, Findings, Outcome, without_private
from mlx_voxclone.selfcheck.place import Place
from mlx_voxclone.selfcheck.series import CHECKS, Check, Found
from mlx_voxclone.train.loop.optimizers.adamw import update


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path, full=False)


# ---- verdicts --------------------------------------------------------------------------------------------------------


def test_a_figure_beyond_its_limit_falls_short_and_is_told():
    found = Findings()
    found.at_most("error", 0.5, 1.0)
    assert found.outcome("fine") == Outcome(HELD, "fine", {"error": 0.5})
    found.at_most("difference", 0.02, 0.01)
    found.at_most("loss", float("nan"), 1.0)
    found.must(False, "nothing was said")
    told = "difference 0.02, at most 0.01 expected; loss nan, at most 1 expected; nothing was said"
    assert (found.outcome("fine").verdict, found.outcome("fine").told) == (SHORT, told)


def test_spectra_hold_and_a_wrong_one_is_seen(place, monkeypatch):
    assert numbers.spectra(place).verdict == HELD
    right = plain.magnitude
    monkeypatch.setattr(plain, "magnitude", lambda *a: 1.02 * right(*a))
    outcome = numbers.spectra(place)
    assert outcome.verdict == SHORT
    assert "error at 2296" in outcome.told


def test_what_this_machine_lacks_is_no_fault(place, monkeypatch):
    monkeypatch.setattr(choice, "metal_available", lambda: False)
    assert numbers.kernels(place) == Outcome(NOT_HERE, "no Apple GPU: spectra run on MLX's own operations")
    assert numbers.compiled(place).told == "not on the CPU: steps are compiled on a GPU alone"
    monkeypatch.setattr(work, "on_gpu", lambda: True)
    monkeypatch.setattr(mx, "device_count", lambda device: 1)
    assert work.ranks(place).verdict == NOT_HERE


@pytest.mark.slow
def test_alternatives_are_figures_alone(place, monkeypatch):
    """On what stands for a GPU: attention has no fused kernel here, which is told and is no fault."""
    assert numbers.alternatives(place).verdict == NOT_HERE
    monkeypatch.setattr(numbers, "on_gpu", lambda: True)
    outcome = numbers.alternatives(place)
    assert outcome.verdict == HELD
    assert outcome.figures["fused cross-entropy, difference of gradients"] < 1e-6
    assert outcome.figures["forced fused attention"].startswith("refused: ")
    assert outcome.told.startswith("fused cross-entropy, times as fast ")


def test_kernels_that_disagree_fall_short(place, monkeypatch):
    monkeypatch.setattr(choice, "metal_available", lambda: True)
    monkeypatch.setattr(choice, "self_test", lambda sizes: "their value (magnitude, n_fft=76) is off by 3.0e-02")
    monkeypatch.setattr(choice, "kernels_win", lambda size: size > 1000)
    outcome = numbers.kernels(place)
    assert (outcome.verdict, outcome.told) == (SHORT, "their value (magnitude, n_fft=76) is off by 3.0e-02")
    monkeypatch.setattr(choice, "self_test", lambda sizes: None)
    assert numbers.kernels(place).told == "equal; faster than MLX's transforms at 3 of 9 sizes"


@pytest.mark.parametrize(
    ("measured", "usable", "verdict"),
    [(1.0e9, 9e9, HELD), (1.3e9, 9e9, SHORT), (0.3e9, 9e9, SHORT), (1.0e9, 0.5e9, NOT_HERE)],
)
def test_memory_is_held_against_the_forecast(measured, usable, verdict, place, monkeypatch):
    monkeypatch.setattr(work, "_configuration", lambda place, stage: None)
    monkeypatch.setattr(work, "forecast", lambda *_: Forecast("encoder", {"all": 1.0e9}, 1.0, 10))
    monkeypatch.setattr(work, "true_step", lambda *_: Trial(1.0, 0.1e9, measured, 2.0))
    machine = this_machine()
    monkeypatch.setattr(work, "this_machine", lambda: type(machine)(**{**vars(machine), "usable": usable}))
    outcome = work.encoder_step(place)
    assert outcome.verdict == verdict
    assert outcome.figures["forecast bytes"] == 1.0e9


@pytest.mark.parametrize(
    ("gpu", "bits", "told"),
    [
        (False, 16, "16.4 GB of weights, usable 3.00 GB"),
        (True, 16, "8.20 GB of weights, usable 3.00 GB"),
        (False, 8, "4.10 GB of weights, usable 3.00 GB"),
    ],
)
def test_weights_that_are_not_quantised_take_twice_as_much_on_a_cpu(gpu, bits, told, tmp_path, monkeypatch):
    machine = this_machine()
    monkeypatch.setattr(Place, "sized", lambda self: Path("there"))
    monkeypatch.setattr(work, "on_gpu", lambda: gpu)
    monkeypatch.setattr(work, "this_machine", lambda: type(machine)(**{**vars(machine), "usable": 3e9}))
    assert work.speaking(Place(tmp_path, full=True), bits) == Outcome(NOT_HERE, told)


def test_a_cpu_says_little_at_the_releases_sizes(tmp_path, monkeypatch):
    said = {}
    for gpu in (True, False):
        monkeypatch.setattr(work, "on_gpu", lambda gpu=gpu: gpu)
        said[gpu] = [work.spoken_seconds(Place(tmp_path, full)) for full in (True, False)]
    assert said == {True: [4.0, 1.0], False: [0.4, 1.0]}


def test_bits_are_asked_of_a_version_that_has_them(place, monkeypatch):
    class Speech:
        voices = ("ann",)

        def stream(self, text, voice, **options):
            yield np.ones(3840, np.float32)

    asked = []
    monkeypatch.setattr(Place, "sized", lambda self: Path("there"))
    monkeypatch.setattr(mlx_voxclone, "load", lambda path: Speech())
    assert work.speaking(place, 8) == Outcome(NOT_HERE, "this version loads at 16 bits only")
    assert work.speaking(place, 16).verdict == HELD
    monkeypatch.setattr(mlx_voxclone, "load", lambda path, bits=16: asked.append(bits) or Speech())
    assert [work.speaking(place, bits).verdict for bits in (16, 8, 4)] == [HELD] * 3
    assert asked == [16, 8, 4]
    monkeypatch.setattr(Place, "sized", lambda self: None)
    assert work.speaking(place, 16).verdict == NOT_HERE


@pytest.mark.slow
def test_compiled_steps_are_compared(place):
    """With what stands for `mx.compile`; one that forgets a random state, and one that is off, are seen."""
    assert numbers.compiled(place, Compiler()).verdict == HELD

    def off(function, inputs=(), outputs=()):
        def computed(*arguments):
            if function is update:
                return tuple(1.01 * part for part in function(*arguments))
            (value, sums), gradients = function(*arguments)
            return (value, sums), {name: 1.01 * gradient for name, gradient in gradients.items()}

        return computed

    outcome = numbers.compiled(place, off)
    assert outcome.verdict == SHORT
    assert "speaker, gradient" in outcome.told
    assert "adamw" in outcome.told
    assert "loss" not in outcome.told

    def frozen(function, inputs=(), outputs=()):
        def computed(*arguments):
            mx.random.seed(3)
            return function(*arguments)

        return computed

    assert "drew the same dropout" in numbers.compiled(place, frozen).told


# ---- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("kill -ABRT $$", "its process ended by SIGABRT"),
        (
            "kill -KILL $$",
            "its process ended by SIGKILL: systems that run out of memory do that; close other programs and try again",
        ),
        ("exit 3", "its process ended with code 3"),
        ("exec sleep 60", "it did not end within 1 s"),
    ],
)
def test_a_crash_is_that_of_one_check(script, told, place, monkeypatch):
    program = place.folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr(series.sys, "executable", str(program))
    (place.folder / "outcome.json").write_text("{}")  # of the check before it
    assert series.in_own_process(Check("any", "anything", None, (1, 1)), "cpu", place) == Outcome(CRASHED, told)


@pytest.mark.slow
def test_a_cpu_too_slow_for_the_releases_sizes_is_no_fault(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setattr(series.sys, "executable", str(program))
    place, sized, other = Place(tmp_path, full=True), Check("a", "a step", None, (9, 1)), Check("b", "b", None, (1, 1))
    told = "not over within 1 s: too slow a CPU for these sizes, or one with much other work"
    assert series.in_own_process(sized, "cpu", place) == Outcome(NOT_HERE, told)
    assert series.in_own_process(sized, "gpu", place).verdict == CRASHED
    assert series.in_own_process(other, "cpu", place).verdict == CRASHED


def test_a_check_tells_its_outcome_from_a_process_of_its_own(place):
    check = next(check for check in CHECKS if check.name == "kernels")
    assert series.in_own_process(check, "cpu", place).verdict == NOT_HERE


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (CheckpointError("/tmp/x/y.safetensors: is damaged"), "<path>: is damaged"),
        (ValueError("no\nsense"), "ValueError: no sense"),
        (MemoryError(), "MemoryError: not enough memory; close other programs, or see what `voxclone doctor` advises"),
    ],
)
def test_an_error_of_a_check_is_one_line(error, told, place):
    def function(place):
        raise error

    assert child.carry_out(Check("any", "anything", function), place) == Outcome(SHORT, told)


# ---- what is told ----------------------------------------------------------------------------------------------------


def test_nothing_private_is_told():
    user, host, home = getpass.getuser(), socket.gethostname(), Path.home()
    told = without_private(f"{home}/a b: of {user} on {host}, ~/x and C/V, 3/4 at 12.5 frames/s, {sys.executable}")
    assert told == "<path> b: of <name> on <name>, <path> and C/V, 3/4 at 12.5 frames/s, <path>"


def found_of(*verdicts):
    return [Found(check, Outcome(v, "as told", {"error": 1e-6}), 2.0) for check, v in zip(CHECKS, verdicts)]


@pytest.mark.parametrize(("verdicts", "code"), [([HELD, NOT_HERE], 0), ([HELD, SHORT], 1), ([CRASHED], 1)])
def test_the_command_prints_a_table_and_writes_one_file(verdicts, code, tmp_path, monkeypatch, capsys):
    asked = {}

    def run_series(device, **options):
        asked.update(options, device=device)
        return found_of(*verdicts)

    monkeypatch.setattr(series, "run_series", run_series)
    out = tmp_path / "selfcheck.json"
    assert main(["selfcheck", "--full", "--device", "cpu", "--json", str(out)]) == code
    assert (asked["device"], asked["full"], asked["only"]) == ("cpu", True, [])
    printed = capsys.readouterr().out
    assert all(verdict in printed for verdict in verdicts)
    content = out.read_text()
    assert [check["verdict"] for check in json.loads(content)["checks"]] == verdicts
    private = {str(Path.home()), str(Path.cwd()), socket.gethostname(), str(tmp_path)}
    assert not any(name in content for name in private)


def test_an_interruption_leaves_what_was_found(tmp_path, monkeypatch, capsys):
    def run_series(device, **options):
        yield from found_of(HELD, SHORT)
        raise KeyboardInterrupt

    monkeypatch.setattr(series, "run_series", run_series)
    out = tmp_path / "selfcheck.json"
    assert main(["selfcheck", "--device", "cpu", "--json", str(out)]) == 130
    assert [check["verdict"] for check in json.loads(out.read_text())["checks"]] == [HELD, SHORT]
    said = capsys.readouterr()
    assert f"1 {HELD}, 1 {SHORT}" in said.out
    assert f"{SHORT}: as told" in said.err


def test_a_check_that_there_is_not_is_refused(capsys):
    assert main(["selfcheck", "--only", "spectra,nonsense"]) == 2
    assert capsys.readouterr().err.startswith("error: --only spectra,nonsense: choose from spectra, kernels")


@pytest.mark.slow
def test_the_whole_series_on_a_cpu(tmp_path):
    """At miniature sizes, each check in its process: nothing falls short."""
    out = tmp_path / "selfcheck.json"
    assert main(["selfcheck", "--device", "cpu", "--quiet", "--json", str(out)]) == 0
    content = json.loads(out.read_text())
    verdicts = {check["name"]: check["verdict"] for check in content["checks"]}
    assert list(verdicts) == series.NAMES
    assert {name for name, verdict in verdicts.items() if verdict == NOT_HERE} <= {
        "kernels",
        "compiled",
        "alternatives",
        "say-8",
        "say-4",
    }
    assert set(verdicts.values()) <= {HELD, NOT_HERE}
    assert str(tmp_path) not in out.read_text()
