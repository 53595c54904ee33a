"""libmpg123's remarks about a damaged MP3 do not reach the terminal; what anybody else writes there does."""

import contextlib
import io
import os
import sys
import threading

import numpy as np
import pytest
import soundfile

from mlx_voxclone.audio.convert.remarks import held_back
from mlx_voxclone.audio.decode import audio_info, read_blocks
from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.audio.source import AudioBytes, AudioError


@pytest.fixture(scope="module")
def mp3() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(np.arange(48_000) / 15), 24_000, format="MP3")
    return file.getvalue()


def damaged(mp3: bytes) -> list[bytes]:
    return [mp3[:600], mp3[: len(mp3) // 2], mp3[:417] + b"\x55" * 5000, mp3[:2000] + bytes(9000) + mp3[2000:]]


def test_a_damaged_mp3_says_nothing_of_itself(mp3, capfd):
    for content in damaged(mp3):
        with pytest.raises(AudioError):
            read_audio(AudioBytes("a", content))
    assert len(read_audio(AudioBytes("a", mp3))) == 48_000
    assert capfd.readouterr() == ("", "")
    soundfile.read(io.BytesIO(damaged(mp3)[1]))  # without us it does
    assert "Xing" in capfd.readouterr().err


def test_a_part_of_one(mp3, tmp_path, capfd):
    (tmp_path / "a.mp3").write_bytes(mp3[:3000] + bytes(len(mp3) - 3000))
    info = audio_info(tmp_path / "a.mp3")
    with contextlib.suppress(AudioError):
        list(read_blocks(info, start=20_000))
    assert capfd.readouterr().err == ""


def test_what_others_write_passes(mp3, capfd):
    done = threading.Event()

    def decode():
        while not done.is_set():
            for content in damaged(mp3):
                with pytest.raises(AudioError):
                    read_audio(AudioBytes("a", content))

    threads = [threading.Thread(target=decode, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    lines = [f"warning: line {k}" for k in range(300)]
    try:
        for line in lines:
            os.write(2, f"{line}\n".encode())
    finally:
        done.set()
    for thread in threads:
        thread.join()
    assert sorted(capfd.readouterr().err.splitlines()) == sorted(lines)


def test_nested_and_after_an_error(capfd):
    def work():
        with held_back():
            with held_back():
                os.write(2, b"Note: Trying to resync...\nerror: ours\n")
            assert capfd.readouterr().err == ""
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert capfd.readouterr().err == "error: ours\n"
    os.write(2, b"Note: of somebody else's\n")
    assert capfd.readouterr().err == "Note: of somebody else's\n"


def test_without_a_stderr(mp3, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(os, "dup", lambda handle: (_ for _ in ()).throw(OSError(9, "Bad file descriptor")))
    assert len(read_audio(AudioBytes("a", mp3))) == 48_000
