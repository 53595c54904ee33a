"""What `voxclone bench` measures: the work is the right one, figures are of it, other programs are asked and heard."""

import json
import sys

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.bench import measure, spectral, speech
from mlx_voxclone.bench.table import compared
from mlx_voxclone.cli.more import bench as command
from mlx_voxclone.errors import DataError

PEER = """
import json, sys
print(json.dumps({"name": "other 1.0 of " + sys.argv[1]}), flush=True)
for line in sys.stdin:
    print(json.dumps({"seconds": 2.0, "cpu_seconds": 1.5, "peak": 7, "memory": "resident"}), flush=True)
"""


def test_spectral_losses_and_their_plain_twin_are_the_same():
    pred, target = mx.array((0.1 * np.random.default_rng(0).standard_normal((2, 1, 3000))).astype(np.float32))
    ours, plain = (mx.value_and_grad(f)(pred, target) for f in (spectral.losses, spectral.plain_losses))
    assert ours[0].item() == pytest.approx(plain[0].item(), rel=1e-5)
    error = np.array(ours[1]) - np.array(plain[1])
    assert np.sqrt((error**2).mean() / (np.array(plain[1]) ** 2).mean()) < 1e-3


def test_works_take_turns_after_one_round_to_warm_up(monkeypatch):
    order, ticks = [], iter(range(1000))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(ticks) ** 2))
    works = {name: lambda name=name: order.append(name) for name in "ab"}
    found = measure.taking_turns(works, 3)
    assert order == list("abababab")
    # the clock's squares: a run between ticks n and n + 1 takes 2 n + 1
    assert {name: s.seconds for name, s in found.items()} == {"a": 9.0, "b": 13.0}


def test_the_peak_is_of_the_work_alone():
    mx.eval(mx.zeros((1 << 20,)) + 1)
    assert measure.sample(lambda: None).peak < 1e5 + mx.get_active_memory()
    found = measure.sample(lambda: mx.eval(mx.zeros((1 << 20,)) + mx.ones((1 << 20,))))
    assert found.peak >= 4 << 20


def test_a_peer_runs_in_an_interpreter_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "PEERS", tmp_path)
    (tmp_path / "other.py").write_text(PEER)
    with measure.PeerProcess(sys.executable, "other.py", "this") as peer:
        found = [peer.run() for _ in range(2)]
    assert found == 2 * [measure.Peer("other 1.0 of this", 2.0, 1.5, 7, "resident")]


def test_a_peer_may_run_without_what_is_preloaded_here(tmp_path, monkeypatch):
    """PyTorch has products of its own, and would take those that are preloaded for MLX."""
    monkeypatch.setattr(measure, "PEERS", tmp_path)
    monkeypatch.setenv("LD_PRELOAD", "")
    (tmp_path / "other.py").write_text(
        "import json, os, sys\n"
        "print(json.dumps({'name': str('LD_PRELOAD' in os.environ)}), flush=True)\n"
        "sys.stdin.read()"
    )
    named = []
    for preload in (True, False):
        with measure.PeerProcess(sys.executable, "other.py", preload=preload) as peer:
            named.append(peer.about["name"])
    assert named == ["True", "False"]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("raise SystemExit('no such thing here')", "other.py: no such thing here"),
        ("print('hello')\nimport time; time.sleep(60)", "other.py: hello"),
        ("", "other.py: ended without a word"),
        (json.dumps("x") + "\nimport no_such_module", "No module named 'no_such_module'"),
    ],
)
def test_a_peer_that_fails_says_why_in_a_line(script, told, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "PEERS", tmp_path)
    (tmp_path / "other.py").write_text(script)
    with pytest.raises(DataError, match=told) as caught, measure.PeerProcess(sys.executable, "other.py") as peer:
        peer.run()
    assert "\n" not in str(caught.value)


def test_interpreters_are_named_by_the_environment(monkeypatch):
    monkeypatch.delenv("VOXCLONE_OTHER", raising=False)
    assert measure.interpreter("VOXCLONE_OTHER", "json") is None
    monkeypatch.setenv("VOXCLONE_OTHER", sys.executable)
    assert measure.interpreter("VOXCLONE_OTHER", "json") == sys.executable
    assert measure.interpreter("VOXCLONE_OTHER", "no_such_module") is None
    monkeypatch.setenv("VOXCLONE_OTHER", "/no/such/python")
    assert measure.interpreter("VOXCLONE_OTHER", "json") is None


# --- the command ------------------------------------------------------------------------------------------------------


ROW = measure.Row(
    "decode",
    "30 s of audio",
    1234.0,
    "s of audio/s",
    0.0243,
    0.02,
    2_000_000,
    0.256,
    [measure.Peer("PyTorch 2", 0.0486, 0.1, 3_000_000, "resident"), measure.Peer("other", 0.243)],
    {"operations": 7},
)


def test_a_ratio_of_several_runs_is_a_range():
    peer = measure.Peer("mlx-audio", 0.0486, more={"ratios": [1.11, 0.995, 1.27]})
    assert compared(ROW, peer) == "0.995 to 1.27 x mlx-audio (48.6 ms)"
    ours = [{"frames": measure.Sample(2.0, 1.0, 0)}, {"frames": measure.Sample(1.0, 1.0, 0)}]
    theirs = [measure.Peer("mlx-audio", 3.0, 2.0), measure.Peer("mlx-audio", 1.0, 3.0)]
    assert speech._ratios(theirs, ours, "seconds") == [1.5, 1.0]  # of the runs that took turns
    assert speech._ratios(theirs, ours, "cpu_seconds") == [2.0, 3.0]


def bench(capsys, *argv):
    code = command.main([*argv, "--device", "cpu", "--quiet"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_the_table_has_a_line_for_each_work_and_peer(capsys, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(command, "measure", lambda *work: asked.append(work) or ROW)
    monkeypatch.setattr(measure, "product_rate", lambda **_: (2.5e12, 1e12))
    text = bench(capsys, "--only", "decode, say", "--sizes", "tiny", "--no-peers", "--output", str(tmp_path / "b.json"))
    assert asked == [("decode", "tiny", 3, False, None), ("say", "tiny", 3, False, None)]
    assert "float32 2.5 TFLOP/s" in text
    lines = [line for line in text.splitlines() if line.startswith("decode ")]
    assert " ".join(lines[0].split()) == (
        "decode 1234 s of audio/s 24.3 ms 2.00 MB 26% 2 x PyTorch 2 (48.6 ms, 3.00 MB resident)"
    )
    assert "10 x other (0.243 s)" in text
    assert "decode: 30 s of audio" in text
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["machine"]["chip"]
    assert found["product_rates"] == {"float32": 2.5e12}
    assert found["rows"][0]["peers"][0]["name"] == "PyTorch 2"
    assert found["rows"][0]["more"] == {"operations": 7}


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--only", "decode,sing"], "--only sing: choose from spectral, encoder, decode, lora, say"),
        (["--only", ","], "--only: name at least one"),
        (["--repeats", "0"], "--repeats must be from 1 to 1000, got 0"),
        (["--only", "decode", "--bits", "4"], "--bits is for the work say; name it with --only"),
        (["--only", "say", "--bits", "3"], "--bits: choose 8, 6 or 4; got 3"),
        (["--output", "no/such/place.json", "--only", "decode"], "no/such"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_measured(argv, told, capsys, monkeypatch):
    monkeypatch.setattr(command, "measure", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(measure, "product_rate", lambda **_: pytest.fail("measured"))
    assert command.main([*argv, "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.slow
def test_every_work_is_measured_on_a_miniature(capsys):
    text = bench(capsys, "--sizes", "tiny", "--repeats", "1")
    for name in ("spectral losses", "encoder step", "decode", "lora step", "say"):
        assert f"\n{name} " in text
    assert "x as_strided + rfft" in text
    assert "x mlx-lm" in text


def test_an_installed_package_says_that_what_runs_other_programs_is_elsewhere(tmp_path, monkeypatch, capsys):
    """In a wheel there is no folder of the repository beside the package."""
    assert sorted(path.name for path in measure.PEERS.glob("*_codec.py")) == ["mlx_audio_codec.py", "serving_codec.py"]
    assert measure.without_peers() is None
    monkeypatch.setattr(measure, "PEERS", tmp_path / "none")
    monkeypatch.setenv(measure.MLX_AUDIO, sys.executable)
    assert measure.interpreter(measure.MLX_AUDIO, "json") is None
    measure.peer_module.cache_clear()
    assert measure.peer_module("mlx_lm_lora") is None
    measure.peer_module.cache_clear()
    monkeypatch.setattr(command, "measure", lambda *_: spectral.measure_spectral(1, 0.1, 1, peers=False))
    monkeypatch.setitem(measure.GEMM_SIZE, "cpu", 64)
    line = "other programs are left out: what runs them is in the repository only\n"
    argv = ["--only", "spectral", "--repeats", "1", "--device", "cpu"]
    assert command.main(argv) == 0
    assert line in capsys.readouterr().err
    assert command.main([*argv, "--no-peers"]) == 0
    assert line not in capsys.readouterr().err
