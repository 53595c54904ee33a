"""Whispers of other programs: one line each that says what they are and what to do."""

import json

import pytest

from mlx_voxclone.errors import DataError
from mlx_voxclone.whisper.hearing import Listener
from mlx_voxclone.whisper.model import WhisperFiles

pytest.importorskip("mlx_whisper", reason="the extra `transcribe` is not installed")

TRANSFORMERS = {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "d_model": 384}


def directory(tmp_path, files: dict[str, bytes | dict]):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return tmp_path


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": {"alignment_heads": []}, "model.bin": b"\x06\0\0\0", "vocabulary.txt": b""}, "CTranslate2"),
        ({"ggml-base.en.bin": b"lmgg\0\0"}, r"whisper\.cpp \(GGML\)"),
        ({"whisper.gguf": b"GGUF\3\0"}, r"whisper\.cpp \(GGML\)"),
        ({"config.json": TRANSFORMERS, "model.safetensors": b""}, "format of transformers"),
        ({"config.json": TRANSFORMERS, "pytorch_model.bin": b"PK"}, "format of transformers"),
        ({"base.en.pt": b"PK"}, r"OpenAI \(PyTorch\)"),
        ({"config.json": {**TRANSFORMERS, "model_type": "llama"}}, "not a Whisper, by its config.json .*'llama'"),
        ({"config.json": {}}, "cannot be loaded as a Whisper model"),
        ({}, "cannot be loaded as a Whisper model"),
    ],
)
def test_other_formats_are_named(tmp_path, files, message):
    place = directory(tmp_path, files)
    for use in (lambda: Listener(str(place)), lambda: WhisperFiles(str(place)).load()):
        with pytest.raises(DataError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)
        assert "mlx-whisper's format" in str(caught.value)


def test_a_file_of_whisper_cpp(tmp_path):
    (tmp_path / "ggml-base.bin").write_bytes(b"lmgg\0\0")
    with pytest.raises(DataError, match=r"a Whisper of whisper\.cpp \(GGML\); name a directory"):
        Listener(str(tmp_path / "ggml-base.bin"))
