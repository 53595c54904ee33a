"""`voxclone encode` and `decode`, from file to file."""

import errno
import shutil

import mlx.core as mx
import numpy as np
import pytest
import soundfile

from mlx_voxclone.audio.io import normalise_level, read_audio, write_wav
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.speech.speaker import Speaker

pytest_plugins = ["commands"]


@pytest.fixture
def encode(tmp_path, whole, capsys):
    """`encode(audio, *options)` -> codes, latents, embedding."""

    def run(audio, *options, model=whole, name="x.safetensors"):
        output = tmp_path / name
        assert voxclone([str(a) for a in ("encode", audio, "--model", model, "--output", output, *options)]) == 0
        assert capsys.readouterr().out == f"{output}\n"
        file = TensorFile(output)
        assert sorted(file.names()) == ["codes", "embedding", "latents"]
        return {name: file.array(name) for name in file.names()}

    return run


@pytest.fixture
def decode(tmp_path, whole, capsys):
    """`decode(codes file, *options)` -> samples."""

    def run(codes, *options, model=whole, name="out.wav"):
        output = tmp_path / name
        assert voxclone([str(a) for a in ("decode", codes, "--model", model, "--output", output, *options)]) == 0
        assert capsys.readouterr().out == f"{output}\n"
        assert soundfile.info(output).samplerate == 24_000
        return soundfile.read(output, dtype="float32")[0]

    return run


@pytest.fixture(scope="module")
def codec(whole):
    return load_model(Release(whole), parts=["lm", "codec"])


def codes_of(model, samples) -> np.ndarray:
    return model.audio_tokenizer.audio_codes(samples)


# ---- encode --------------------------------------------------------------------------------------------------------


def test_shapes_types_and_values(encode, codec, speech, voice_file):
    found = encode(voice_file)
    frames, config = -(-len(speech) // 1920), codec.config
    assert (found["codes"].dtype, found["codes"].shape) == (mx.int32, (config.codec.n_codebooks, frames))
    assert (found["latents"].dtype, found["latents"].shape) == (mx.float32, (frames, config.codec.latent_dim))
    assert (found["embedding"].dtype, found["embedding"].shape) == (mx.float32, (frames + 1, config.backbone.dim))
    codes = np.array(found["codes"])
    assert codes.min() == 0  # 0-based: the LM's +2 is not in the file
    assert len(np.unique(codes)) > 20, "an encoder that says the same whatever it hears tests nothing"
    np.testing.assert_array_equal(codes, codes_of(codec, read_audio(voice_file)))
    np.testing.assert_array_equal(np.array(codec.audio_tokenizer.quantize(found["latents"][None])[0]), codes)


def test_the_embedding_is_what_say_uses(encode, whole, voice_file):
    rows = Speaker.load(whole).voice_rows(reference=read_audio(voice_file))
    np.testing.assert_array_equal(np.array(encode(voice_file)["embedding"]), np.array(rows))


def test_the_embedding_ends_in_the_end_row(encode, codec, voice_file):
    table = codec.mm_audio_embeddings.audio_codebook_embeddings.embeddings.weight
    end = [1 if i == 0 else offset for i, offset in enumerate(codec.config.codec.code_offsets)]
    expected = sum(np.array(table[row], dtype=np.float64) for row in end)
    np.testing.assert_allclose(np.array(encode(voice_file)["embedding"])[-1], expected, atol=1e-5)


def test_the_level_is_untouched_unless_asked(encode, codec, speech, tmp_path):
    for name, gain in (("quiet", 0.1), ("loud", 3.0)):
        write_wav(tmp_path / f"{name}.wav", speech * np.float32(gain), float32=True)
    plain = {name: encode(tmp_path / f"{name}.wav", name=f"{name}.safetensors") for name in ("quiet", "loud")}
    assert not np.array_equal(np.array(plain["quiet"]["codes"]), np.array(plain["loud"]["codes"]))
    np.testing.assert_array_equal(np.array(plain["loud"]["codes"]), codes_of(codec, speech * np.float32(3.0)))
    levelled = encode(tmp_path / "quiet.wav", "--normalise", name="n.safetensors")
    np.testing.assert_array_equal(
        np.array(levelled["codes"]), codes_of(codec, normalise_level(speech * np.float32(0.1)))
    )
    assert not np.array_equal(np.array(levelled["codes"]), np.array(plain["quiet"]["codes"]))


def test_silence_is_encoded_with_and_without_normalising(encode, tmp_path):
    write_wav(tmp_path / "silent.wav", np.zeros(9_600))
    plain = encode(tmp_path / "silent.wav", name="a.safetensors")
    levelled = encode(tmp_path / "silent.wav", "--normalise", name="b.safetensors")
    assert plain["codes"].shape[1] == 5
    np.testing.assert_array_equal(np.array(plain["codes"]), np.array(levelled["codes"]))


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 1), (24_000, 2), (48_000, 2)])
def test_other_rates_and_stereo_are_resampled(encode, codec, speech, tmp_path, rate, channels):
    sound = np.stack([np.roll(speech, 7 * k) for k in range(channels)], axis=1)
    soundfile.write(tmp_path / "a.flac", sound, rate)
    found = encode(tmp_path / "a.flac")
    assert found["codes"].shape[1] == -(-round(len(speech) * 24_000 / rate) // 1920)
    np.testing.assert_array_equal(np.array(found["codes"]), codes_of(codec, read_audio(tmp_path / "a.flac")))


@pytest.mark.parametrize("samples", [1, 239, 240, 241, 1919, 1920, 1921])
def test_any_length_from_one_sample(encode, decode, codec, speech, tmp_path, samples):
    piece = speech[9_600 : 9_600 + samples]
    write_wav(tmp_path / "a.wav", piece, float32=True)
    found = encode(tmp_path / "a.wav")
    assert found["codes"].shape[1] == -(-samples // 1920)
    assert found["embedding"].shape[0] == found["codes"].shape[1] + 1
    np.testing.assert_array_equal(np.array(found["codes"]), codes_of(codec, piece))
    assert len(decode(tmp_path / "x.safetensors")) == 1920 * found["codes"].shape[1]


def test_an_encoder_given_apart(encode, miniature, encoder_file, voice_file):
    found = encode(voice_file, "--encoder", encoder_file, model=miniature)
    model = load_model(Release(miniature), parts=["lm", "codec"], encoder_file=encoder_file)
    np.testing.assert_array_equal(np.array(found["codes"]), codes_of(model, read_audio(voice_file)))


def test_a_directory_for_the_output_is_made(encode, voice_file):
    assert encode(voice_file, name="new/folder/x.safetensors")["codes"].shape[1] > 0


# ---- decode --------------------------------------------------------------------------------------------------------


def test_decoding_equals_decoding_in_process(encode, decode, codec, voice_file, tmp_path):
    codes = np.array(encode(voice_file)["codes"])
    expected = codec.audio_tokenizer.decode_audio(codes)
    np.testing.assert_array_equal(decode(tmp_path / "x.safetensors", "--float32"), expected)
    assert soundfile.info(tmp_path / "out.wav").subtype == "FLOAT"
    integers = decode(tmp_path / "x.safetensors")  # replaces
    assert soundfile.info(tmp_path / "out.wav").subtype == "PCM_16"
    np.testing.assert_allclose(integers, np.clip(expected, -1, 32767 / 32768), atol=0.51 / 32768)


def test_codes_survive_another_decoding_of_the_released_checkpoint(encode, decode, miniature, voice_file, tmp_path):
    """The decoder needs no encoder: the base's and the baked checkpoint's are the same."""
    encode(voice_file)
    np.testing.assert_array_equal(
        decode(tmp_path / "x.safetensors", name="a.wav"), decode(tmp_path / "x.safetensors", model=miniature)
    )


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_codes_of_other_integer_types_are_the_same_codes(encode, decode, voice_file, tmp_path, dtype):
    codes = np.array(encode(voice_file)["codes"])
    save_tensors(tmp_path / "y.safetensors", {"codes": codes.astype(dtype)})
    np.testing.assert_array_equal(decode(tmp_path / "x.safetensors"), decode(tmp_path / "y.safetensors"))


# ---- refusals ------------------------------------------------------------------------------------------------------


def audio_files(directory, voice_file, speech) -> None:
    """Every bad recording of the issue under its name."""
    (directory / "text.wav").write_text("this is no audio")
    (directory / "empty.wav").write_bytes(b"")
    soundfile.write(directory / "zero.wav", np.zeros(0, np.float32), 24_000)
    soundfile.write(directory / "nan.wav", np.where(np.arange(9_600) == 5_000, np.nan, 0.1), 24_000, subtype="FLOAT")
    soundfile.write(directory / "eight.wav", np.zeros((4_800, 8), np.float32) + 0.1, 24_000)
    (directory / "cut.wav").write_bytes(voice_file.read_bytes()[:20_000])
    (directory / "folder.wav").mkdir()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gone.wav", "no such audio file"),
        ("text.wav", "not audio that can be read"),
        ("empty.wav", "the file is empty"),
        ("zero.wav", "holds no samples"),
        ("nan.wav", "NaN or infinite samples"),
        ("eight.wav", "8 channels"),
        ("cut.wav", "cut off"),
        ("folder.wav", "is a directory"),
    ],
)
@pytest.mark.parametrize("command", ["encode", "say"])
def test_audio_that_cannot_be_used(refused, whole, voice_file, speech, tmp_path, command, name, text):
    audio_files(tmp_path, voice_file, speech)
    audio, output = str(tmp_path / name), str(tmp_path / "out")
    argv = ["encode", audio] if command == "encode" else ["say", "--text", "papa", "--ref-audio", audio]
    refused([*argv, "--model", whole, "--output", output], f"{audio}: ", text, unchanged=(whole,))


def test_encode_without_an_encoder(refused, miniature, voice_file, tmp_path):
    argv = ["encode", voice_file, "--model", miniature, "--output", tmp_path / "x.safetensors"]
    refused(argv, "has no codec encoder", "--encoder FILE")


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_encode_replaces_nothing(refused, whole, voice_file, tmp_path, kind):
    output = tmp_path / "x.safetensors"
    if kind == "file":
        output.write_text("mine")
    else:
        output.mkdir()
    refused(["encode", voice_file, "--model", whole, "--output", output], f"{output}: exists already")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop("encoder.last"), None),
        (lambda t: t.pop("audio_tokenizer.input_proj.conv.parametrizations.weight.original1"), "missing: audio_"),
        (lambda t: t.update(extra=np.zeros(2, np.float32)), "unexpected: extra"),
    ],
    ids=["whole", "missing", "unexpected"],
)
def test_encoder_files_that_do_not_fit(refused, miniature, encoder_file, voice_file, tmp_path, change, text):
    file = TensorFile(encoder_file)
    tensors = {name: file.numpy(name) for name in file.names()} | {"encoder.last": np.zeros(1, np.float32)}
    change(tensors)
    tensors.pop("encoder.last", None)
    save_tensors(tmp_path / "e.safetensors", tensors)
    argv = ["encode", voice_file, "--model", miniature, "--encoder", tmp_path / "e.safetensors", "--output"]
    if text is None:
        assert voxclone([str(a) for a in [*argv, tmp_path / "x.safetensors"]]) == 0
    else:
        refused([*argv, tmp_path / "x.safetensors"], str(tmp_path / "e.safetensors"), text)


def good_codes(t: int = 3) -> np.ndarray:
    return np.ones((37, t), np.int32)


def with_code(book: int, frame: int, value: int) -> np.ndarray:
    codes = good_codes()
    codes[book, frame] = value
    return codes


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"codes": with_code(0, 2, 128)}, "code 128 at codebook 0, frame 2 is outside 0..127"),
        ({"codes": with_code(36, 1, 21)}, "code 21 at codebook 36, frame 1 is outside 0..20"),
        ({"codes": with_code(5, 0, -1)}, "code -1 at codebook 5, frame 0 is outside 0..20"),
        ({"codes": good_codes().T.copy()}, "codes must be integers [37, T], got int32 (3, 37)"),
        ({"codes": good_codes()[None]}, "codes must be integers [37, T]"),
        ({"codes": good_codes().astype(np.float32)}, "codes must be integers [37, T], got float32"),
        ({"codes": good_codes(0)}, "0 frames"),
        ({"codes": np.array(3, np.int32)}, "codes must be integers [37, T], got int32 ()"),
        ({"codes": np.zeros(37, np.int32)}, "codes must be integers [37, T], got int32 (37,)"),
        ({"code": good_codes()}, "holds no tensor `codes`"),
    ],
)
def test_codes_that_cannot_be_decoded(refused, whole, tmp_path, tensors, text):
    save_tensors(tmp_path / "x.safetensors", tensors)
    argv = ["decode", tmp_path / "x.safetensors", "--model", whole, "--output", tmp_path / "out.wav"]
    refused(argv, f"{tmp_path / 'x.safetensors'}: ", text)


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "no such file"), (b"", "not a safetensors file"), (b"RIFF" * 20, "not a safetensors file")],
    ids=["missing", "empty", "audio"],
)
def test_files_that_hold_no_tensors(refused, whole, tmp_path, content, text):
    if content is not None:
        (tmp_path / "x.safetensors").write_bytes(content)
    argv = ["decode", tmp_path / "x.safetensors", "--model", whole, "--output", tmp_path / "out.wav"]
    refused(argv, str(tmp_path / "x.safetensors"), text)


def test_decode_into_no_directory_is_refused_first(refused, whole, tmp_path, monkeypatch):
    save_tensors(tmp_path / "x.safetensors", {"codes": good_codes()})
    argv = ["decode", tmp_path / "x.safetensors", "--model", tmp_path / "gone", "--output"]
    refused([*argv, tmp_path / "nowhere" / "o.wav"], "nowhere: no such directory")
    refused([*argv, tmp_path], "is a directory")


def test_a_full_disk_leaves_the_old_output(refused, whole, tmp_path, monkeypatch):
    save_tensors(tmp_path / "x.safetensors", {"codes": good_codes()})
    (tmp_path / "out.wav").write_bytes(b"RIFF mine")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    argv = ["decode", tmp_path / "x.safetensors", "--model", whole, "--output", tmp_path / "out.wav"]
    refused(argv, "no space left")


@pytest.mark.parametrize("how", ["disk_usage", "fsync"])
def test_encode_on_a_full_disk(refused, whole, voice_file, tmp_path, monkeypatch, how):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    if how == "fsync":
        monkeypatch.setattr("os.fsync", full)
    else:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    argv = ["encode", voice_file, "--model", whole, "--output", tmp_path / "x.safetensors"]
    refused(argv, str(tmp_path), "no space left")
