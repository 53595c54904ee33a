"""One line on a user's recordings, the worst by name."""

import json

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav
from mlx_voxclone.audio.measure.quality import Quality
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.data.recording.heard import Heard
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise

GOOD, NOISY = Quality(40, 16_000, 0.2, 0.0, 48_000), Quality(9, 16_000, 0.2, 0.0, 48_000)


def test_medians_and_the_worst():
    heard = Heard()
    assert heard.lines() == []
    for k in range(5):
        heard.add(f"good-{k}.wav", GOOD)
    for k in range(4):
        heard.add(f"noisy-{k}.wav", Quality(9 + k, 16_000, None, 0.0, 48_000))
    first, worst = heard.lines()
    assert first == "your recordings: 40 dB over noise, voice up to 16 kHz (sampled at 48 kHz), dry"
    assert worst.startswith("the worst: noisy-0.wav (9 dB over noise")
    assert worst.count("noisy") == 3
    assert "good" not in worst


def test_one_listed_twice():
    heard = Heard()
    for _ in range(5):
        heard.add("a.wav", NOISY)
    assert heard.lines()[1].count("a.wav") == 3


def test_one_recording():
    heard = Heard()
    heard.add("a.wav", NOISY)
    assert heard.lines() == ["your recording: 9 dB over noise, voice up to 16 kHz (sampled at 48 kHz), dry"]


def test_prepare_tells_and_keeps_the_figures(tmp_path):
    speech = synthesise("papa mino nalu wera koni lesu tara. " * 3, SyntheticSpeaker.sample(0))
    hiss = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    (tmp_path / "in").mkdir()
    for name, noise in (("clean", 1e-4), ("hiss", 3e-2), ("again", 1e-4)):
        write_wav(tmp_path / "in" / f"{name}.wav", np.roll(speech, len(name) * SAMPLE_RATE // 10) * 0.5 + noise * hiss)
    report = prepare(tmp_path / "in", tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "quality.jsonl").read_text().splitlines()]
    by_name = {line["source"]: line for line in lines}
    assert by_name["hiss.wav"]["snr"] < 20 < by_name["clean.wav"]["snr"]
    assert any(line.startswith("your recordings: ") for line in report.lines())
    assert any("the worst: hiss.wav" in line for line in report.lines())
    again = prepare(tmp_path / "in", tmp_path / "out")
    assert again.reused
    assert again.quality == report.quality


def test_older_prepared_data_tells_nothing(tmp_path):
    speech = synthesise("papa mino nalu wera koni lesu tara. " * 2, SyntheticSpeaker.sample(0))
    write_wav(tmp_path / "a.wav", speech)
    prepare(tmp_path / "a.wav", tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    del summary["quality"]
    (tmp_path / "out" / "summary.json").write_text(json.dumps(summary))
    assert prepare(tmp_path / "a.wav", tmp_path / "out").quality == []
