"""What pairs and codes on users' disks were made with: the digests that stand in them must never become others."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_voxclone.checkpoint.digests import codec_digest, decoder_digest
from mlx_voxclone.checkpoint.reader import TensorFile

DECODER = {
    "audio_tokenizer.quantizer.semantic_codebook.embedding_sum": np.arange(6, dtype=np.float32).reshape(2, 3),
    "audio_tokenizer.decoder_blocks.0.conv.weight": np.ones(4, np.float32),
}
ENCODER = {"audio_tokenizer.input_proj.conv.weight": np.full(3, 2, np.float32)}
OTHER = {"norm.weight": np.zeros(2, np.float32), "acoustic_transformer.norm.weight": np.zeros(2, np.float32)}


@pytest.fixture
def checkpoint(tmp_path):
    def make(**changed):
        tensors = {**DECODER, **OTHER, **{k.replace("__", "."): v for k, v in changed.items()}}
        save_file(tensors, tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors")
        return TensorFile(max(tmp_path.glob("*.safetensors"), key=lambda path: int(path.stem)))

    return make


def sha256(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_decoder_s_is_that_of_its_bytes_in_order(checkpoint):
    plain = checkpoint()
    wanted = sha256(*(DECODER[name].tobytes() for name in sorted(DECODER)))
    assert decoder_digest(plain) == wanted
    # a checkpoint that got an encoder, or another language model, decodes what it decoded
    assert decoder_digest(checkpoint(**ENCODER)) == wanted
    assert decoder_digest(checkpoint(norm__weight=np.ones(2, np.float32))) == wanted
    one = {"audio_tokenizer__decoder_blocks__0__conv__weight": np.zeros(4, np.float32)}
    assert decoder_digest(checkpoint(**one)) != wanted


def test_the_codec_s_is_of_encoder_and_decoder(checkpoint, tmp_path):
    def digest(file, encoder=None):
        return codec_digest(SimpleNamespace(tensors=file), encoder)

    plain, whole = checkpoint(), checkpoint(**ENCODER)
    parts = [part for name in sorted(DECODER) for part in (name.encode(), DECODER[name].tobytes())]
    assert digest(plain) == sha256(*parts)
    assert digest(whole) != digest(plain)
    encoder = tmp_path / "encoder"
    encoder.write_bytes(b"an encoder")
    assert digest(plain, encoder) == sha256(*parts, hashlib.sha256(b"an encoder").digest())
    assert digest(checkpoint(norm__weight=np.ones(2, np.float32)), encoder) == digest(plain, encoder)
