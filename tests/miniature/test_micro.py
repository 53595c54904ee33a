"""The miniature: the release's layout in every part, the same bytes from the same seed."""

import copy
import json

import mlx.core as mx
import numpy as np
import pytest
from golden import GOLDEN, RELEASE_PARAMS

from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.checkpoint.reader import TensorFile
from mlx_voxclone.checkpoint.release import Release, expected_shapes, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.checkpoint.voices import read_voice
from mlx_voxclone.cli.more.micro import main
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.miniature import readings
from mlx_voxclone.miniature.layout import PRESETS, params_json
from mlx_voxclone.miniature.micro import make_micro
from mlx_voxclone.model import generation
from mlx_voxclone.model.config import VoxtralConfig
from mlx_voxclone.pairs.make import read_texts


@pytest.fixture(scope="module", params=["tiny", "small"])
def micro(request, tmp_path_factory):
    return make_micro(tmp_path_factory.mktemp("micro") / request.param, request.param)


def contents(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def keys(value):
    return {k: keys(v) for k, v in value.items() if k != "voice"} if isinstance(value, dict) else None


def test_same_seed_same_bytes(tmp_path):
    one, two, other = (contents(make_micro(tmp_path / n, seed=s)) for n, s in (("a", 3), ("b", 3), ("c", 4)))
    assert one == two
    assert other.keys() == one.keys()
    changed = {name for name in one if other[name] != one[name]}
    assert changed == {n for n in one if n.endswith((".safetensors", ".pt"))}


def test_layout_is_the_releases(micro):
    assert set(contents(micro)) - {"config.json"} == {
        *("params.json", "tekken.json", "consolidated.safetensors"),
        *(
            f"voice_embedding/{v}.{s}"
            for v in ("casual_female", "casual_male", "neutral_female")
            for s in ("pt", "safetensors")
        ),
    }
    params = json.loads((micro / "params.json").read_text())
    assert keys(params) == keys(RELEASE_PARAMS)
    assert (micro / "config.json").read_text() == (micro / "params.json").read_text()


def test_weights_fit_the_model_and_lack_the_encoder(micro):
    release = Release(micro)
    release.check()
    assert not release.has_encoder
    file = TensorFile(micro / "consolidated.safetensors")
    assert {file.info(n).dtype for n in file.names()} == {"BF16"}
    assert all(np.isfinite(file.numpy(n)).all() for n in file.names())
    linears = [n for n in file.names() if n.startswith("layers.") and len(file.info(n).shape) == 2]
    assert all(file.info(n).shape[1] % 64 == 0 for n in linears)  # 8-bit groups of 64


def test_voices_are_sums_of_table_rows(micro):
    release = Release(micro)
    assert len(release.voices()) >= 2
    table = release.tensors.numpy("mm_audio_embeddings.audio_codebook_embeddings.embeddings.weight")
    offsets = np.array(release.config.codec.code_offsets)
    end = table[offsets + np.array([1] + [0] * 36)].sum(axis=0)
    counts = json.loads((micro / "tekken.json").read_text())["audio"]["voice_num_audio_tokens"]
    for name in release.voices():
        rows = release.voice(name)
        assert rows.dtype == mx.bfloat16
        assert rows.shape == (counts[name], release.config.backbone.dim)
        np.testing.assert_allclose(np.array(rows[-1].astype(mx.float32)), end, rtol=2**-8, atol=1e-6)
        assert mx.array_equal(rows, read_voice(micro / "voice_embedding" / f"{name}.safetensors"))


def test_random_codes_sound_at_the_level_of_speech(micro):
    model = load_model(Release(micro), parts=("codec",))
    rng = np.random.default_rng(5)
    codes = np.stack([rng.integers(0, size - 2, 25) for size in model.config.codec.code_sizes])
    audio = model.audio_tokenizer.decode_audio(codes)
    assert 0.05 < np.sqrt(np.mean(audio**2)) < 0.1
    assert np.abs(audio).max() < 1
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)))) ** 2
    low = spectrum[: int(5500 / 12000 * len(spectrum))].sum()
    assert low > 0.95 * spectrum.sum()  # coloured like a voice, not white


def test_other_codes_give_other_sound(micro):
    codec = load_model(Release(micro), parts=("codec",)).audio_tokenizer
    codes = np.full((37, 8), 10)
    louder = codes.copy()
    louder[1:, 4:] = 20
    one, two = codec.decode_audio(codes), codec.decode_audio(louder)
    assert np.sqrt(np.mean((one - two)[4 * 1920 :] ** 2)) > 0.01


def test_it_speaks(micro):
    release = Release(micro)
    model = load_model(release)
    tokenizer = SpeechTokenizer(release.tokenizer_path, release.config.backbone.vocab_size)
    voice = release.voice("casual_male")
    prompt = model.embed_prompt(tokenizer.prompt("hello", voice.shape[0]), voice)
    frames = list(generation.generate(model, prompt, max_frames=3))
    assert all(frame.shape == (37,) for frame in frames)
    assert frames


def test_command(tmp_path, capsys):
    assert main(["--output", str(tmp_path / "m"), "--seed", "7"]) == 0
    assert contents(tmp_path / "m") == contents(make_micro(tmp_path / "n", seed=7))
    capsys.readouterr()
    assert main(["--output", str(tmp_path / "m")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    with pytest.raises(CheckpointError, match="tiny, small, full"):
        make_micro(tmp_path / "x", "huge")


def test_the_full_preset_has_the_sizes_of_the_release():
    """All keys of its params.json, and every tensor of the released manifest."""
    released = copy.deepcopy(RELEASE_PARAMS)
    ours = params_json(PRESETS["full"], {})
    for params in (released, ours):
        params["multimodal"]["audio_tokenizer_args"].pop("voice")
        params["multimodal"]["audio_model_args"].pop("condition_dropped_token_id")  # beyond the miniature tokenizer
    assert ours == released
    manifest = json.loads((GOLDEN / "checkpoint_manifest.json").read_text())["released"]
    shapes = expected_shapes(VoxtralConfig.from_dict(params_json(PRESETS["full"], {})), ["lm", "head", "decoder"])
    assert shapes == {name: tuple(tensor["shape"]) for name, tensor in manifest.items()}


# ---- recordings to rehearse on ---------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(readings, "CLIPS", 3)
    monkeypatch.setattr(readings, "SENTENCES", 5)


def test_recordings_of_a_stranger(few, tmp_path, capsys):
    """Those of the benchmark's speaker of that number; `prepare` takes them as they are."""
    assert main(["--preset", "speaking", "--recordings", str(tmp_path / "r"), "--seed", "7"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'r'}\n"
    assert captured.err.endswith(f"encoder.pairs.texts: {tmp_path / 'r' / 'sentences.txt'}\n")
    lines = [json.loads(line) for line in (tmp_path / "r" / "manifest.jsonl").read_text().splitlines()]
    wanted = readings.readings(readings.HELDOUT + 7, 1, 3, 1)
    assert [line["text"] for line in lines] == [one.text for one in wanted]
    assert {line["speaker"] for line in lines} == {"varied-200007"}
    for line, one in zip(lines, wanted, strict=True):
        np.testing.assert_allclose(read_audio(tmp_path / "r" / line["audio"]), one.wave(), atol=2**-15)
    data = prepare(tmp_path / "r", tmp_path / "p", PrepareOptions(min_seconds=0.5, trim_silence=False))
    assert (data.clips["train"] + data.clips["heldout"], data.with_text) == (3, 3)
    assert len(read_texts(tmp_path / "r" / "sentences.txt")) == 5


def test_checkpoint_and_recordings_at_once(few, tmp_path, capsys):
    places = [tmp_path / "model", tmp_path / "r"]
    argv = ["--preset", "speaking", "--quiet", "--output", str(places[0]), "--recordings", str(places[1])]
    assert main(argv) == 0
    assert capsys.readouterr().out == f"{places[0]}\n{places[1]}\n"
    assert (places[0] / "withheld" / "encoder.safetensors").is_file()


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "give --output DIR, or --recordings DIR"),
        (["--recordings", "r"], "--recordings are in the language of --preset speaking, got --preset tiny"),
        (["--preset", "speaking", "--output", "a", "--recordings", "a/b"], "two directories"),
        (["--preset", "speaking", "--output", "a/b", "--recordings", "a"], "two directories"),
        (["--preset", "speaking", "--output", "a", "--recordings", "./a"], "two directories"),
        (["--preset", "speaking", "--output", "a", "--recordings", "full"], "full: the output directory exists"),
    ],
)
def test_mistakes_about_recordings(argv, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full" / "x").mkdir(parents=True)
    assert main(argv) == 2
    assert line in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"full"}, "found before anything is written"
