"""Formats that another program decodes: stand-ins that behave as afconvert and ffmpeg do, and ffmpeg where it is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlx_voxclone.audio.convert import outside
from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.audio.io import AudioError, read_audio, write_wav
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise

REAL = shutil.which("ffmpeg")
HEADS = {
    "memo.m4a": b"\0\0\0\x20ftypM4A ",
    "film.mp4": b"\0\0\0\x20ftypisom",
    "talk.webm": b"\x1aE\xdf\xa3rest",
    "raw.aac": b"\xff\xf1P\x80",
    "old.wma": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "note.caf": b"caff\0\1\0\0desc" + (32).to_bytes(8) + b"@\xe7p\0\0\0\0\0aac " + bytes(20) + b"data" + b"\xff" * 8,
}
STAND_IN = """#!{python}
import os, pathlib, sys, time
log = pathlib.Path({log!r})
log.open("a").write("\\n".join(sys.argv[1:]) + "\\n---\\n")
mode = pathlib.Path({mode!r}).read_text()
if mode == "refuse":
    sys.exit("first line\\nmoov atom not found")
if mode == "silent":
    sys.exit("Stream map '' matches no streams.\\nTo ignore this, add a trailing '?' to the map.")
if mode == "hang":
    time.sleep(60)
if mode != "nothing":
    source, target = [a.removeprefix("file:") for a in sys.argv[1:] if a.removeprefix("file:").startswith("/")]
    pathlib.Path(target).write_bytes(pathlib.Path({audio!r}).read_bytes())
"""


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Puts programs of given names on PATH, alone; what they were called with and how they behave are files."""
    folder = tmp_path / "bin"
    folder.mkdir()
    audio = tmp_path / "decoded.wav"
    write_wav(audio, synthesise("papa mino nalu wera koni lesu.", SyntheticSpeaker.sample(0)), float32=True)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(outside, "_store", outside._Store())
    mode, log = tmp_path / "mode", tmp_path / "calls"
    mode.write_text("work")

    def make(*names: str) -> None:
        for name in names:
            content = STAND_IN.format(python=sys.executable, log=str(log), mode=str(mode), audio=str(audio))
            (folder / name).write_text(content)
            (folder / name).chmod(0o755)

    make.mode, make.audio = mode, audio
    make.calls = lambda: log.read_text().split("---\n")[:-1] if log.exists() else []
    return make


def foreign(tmp_path: Path, name: str) -> Path:
    path = tmp_path / "in" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(HEADS[name] + os.urandom(500))
    return path


@pytest.mark.parametrize("name", HEADS)
def test_each_format_is_decoded_once(tool, tmp_path, name):
    tool("ffmpeg")
    path = foreign(tmp_path, name)
    assert np.array_equal(read_audio(path), read_audio(tool.audio))
    assert audio_info(path).path == path
    (call,) = tool.calls()
    assert "-nostdin" in call
    assert "-protocol_whitelist\nfile\n" in call
    assert f"-f\n{outside.kind_of(path).name}\n-i\nfile:{path}\n" in call


def test_on_a_mac_afconvert_comes_first_for_what_it_reads(tool, tmp_path):
    tool("ffmpeg", "afconvert")
    read_audio(foreign(tmp_path, "memo.m4a"))
    assert tool.calls()[-1].startswith("-f\nWAVE\n-d\nLEF32\n/")
    read_audio(foreign(tmp_path, "talk.webm"))
    assert "-nostdin" in tool.calls()[-1]


def test_without_a_program_the_line_says_what_to_do(tool, tmp_path):
    with pytest.raises(AudioError, match=r"memo.m4a: not audio that can be read .*convert others first") as e:
        read_audio(foreign(tmp_path, "memo.m4a"))
    assert e.value.reason == "unreadable"


@pytest.mark.parametrize(
    ("mode", "words"),
    [("refuse", "moov atom not found"), ("nothing", "it does not say why"), ("silent", "it holds no sound")],
)
def test_what_the_program_refuses_is_one_line(tool, tmp_path, mode, words):
    tool("ffmpeg")
    tool.mode.write_text(mode)
    path = foreign(tmp_path, "memo.m4a")
    with pytest.raises(AudioError, match=rf"memo.m4a: ffmpeg cannot decode it \({words}.*\); export") as e:
        read_audio(path)
    assert "\n" not in str(e.value)
    assert not list(outside._store._folder.iterdir())


def test_a_program_that_hangs_is_stopped(tool, tmp_path, monkeypatch):
    tool("ffmpeg")
    tool.mode.write_text("hang")
    monkeypatch.setattr(outside, "_SECONDS", 0.3)
    with pytest.raises(AudioError, match="did not decode it within") as e:
        read_audio(foreign(tmp_path, "memo.m4a"))
    assert e.value.reason == "too-long"


def test_what_becomes_too_large_is_refused_not_cut_off(tool, tmp_path, monkeypatch):
    tool("ffmpeg")
    monkeypatch.setattr(outside, "_LARGEST", tool.audio.stat().st_size)
    with pytest.raises(AudioError, match="GB when decoded; split it"):
        read_audio(foreign(tmp_path, "memo.m4a"))


def test_a_changed_file_is_decoded_again_and_few_are_kept(tool, tmp_path, monkeypatch):
    tool("ffmpeg")
    monkeypatch.setattr(outside, "_KEPT", 2)
    path = foreign(tmp_path, "memo.m4a")
    read_audio(path)
    os.utime(path, (1, 1))
    read_audio(path)
    assert len(tool.calls()) == 2
    for name in ("film.mp4", "talk.webm", "raw.aac"):
        read_audio(foreign(tmp_path, name))
    assert len(list(outside._store._folder.iterdir())) == 2


def test_other_files_are_not_handed_over(tool, tmp_path):
    tool("ffmpeg")
    path = tmp_path / "memo.m4a"
    for content in (b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile '/etc/passwd'\n", b"\x01" * 99):
        path.write_bytes(content)
        with pytest.raises(AudioError):
            read_audio(path)
    assert not tool.calls()


def test_prepare_takes_a_folder_of_memos(tool, tmp_path):
    tool("afconvert")
    foreign(tmp_path, "memo.m4a")
    report = prepare(tmp_path / "in", tmp_path / "out")
    assert sum(report.clips.values()) == 1
    assert not report.rejected


@pytest.mark.skipif(REAL is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.m4a", "aac"), ("a.mp4", "aac"), ("a.aac", "aac"), ("a.webm", "libopus"), ("a.caf", "alac")],
)
def test_real_ffmpeg(tmp_path, monkeypatch, name, codec):
    monkeypatch.setattr(outside, "_store", outside._Store())
    speech = synthesise("papa mino nalu wera koni lesu tara.", SyntheticSpeaker.sample(1))
    write_wav(tmp_path / "a.wav", speech)
    quiet = [REAL, "-nostdin", "-v", "error"]
    subprocess.run([*quiet, "-i", tmp_path / "a.wav", "-c:a", codec, tmp_path / name], check=True)
    heard = read_audio(tmp_path / name)
    size = min(len(heard), len(speech))
    assert abs(len(heard) - len(speech)) < 0.2 * 24_000
    spectra = (np.fft.rfft(part[:size], 2 * size) for part in (heard, speech))
    alike = np.fft.irfft(next(spectra) * np.conj(next(spectra))).max()  # at the codec's delay
    assert alike > 0.9 * np.sqrt(np.square(heard[:size]).sum() * np.square(speech[:size]).sum())


@pytest.mark.skipif(REAL is None, reason="ffmpeg is not installed")
def test_real_ffmpeg_on_half_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(outside, "_store", outside._Store())
    write_wav(tmp_path / "a.wav", synthesise("papa mino nalu wera koni lesu tara.", SyntheticSpeaker.sample(1)))
    made = [REAL, "-nostdin", "-v", "error", "-i", tmp_path / "a.wav", "-movflags", "faststart", tmp_path / "a.m4a"]
    subprocess.run(made, check=True)
    content = (tmp_path / "a.m4a").read_bytes()
    (tmp_path / "a.m4a").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match="a.m4a: ffmpeg cannot decode it"):
        read_audio(tmp_path / "a.m4a")
