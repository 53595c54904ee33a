"""Speaking from Python: what the commands say, from arguments as Python has them, with errors of one line."""

import gc
import threading
import weakref
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_voxclone
from mlx_voxclone.audio.io import read_audio, write_wav
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.errors import CheckpointError, ConfigError, DataError, NotFiniteError, VoxcloneError, VoxcloneWarning
from mlx_voxclone.speech.speaker import Speaker

pytest_plugins = ["commands"]
TEXT, VOICE = "Good morning.", "casual_female"


@pytest.fixture(scope="module")
def tts(whole):
    return mlx_voxclone.load(whole)


@pytest.fixture(scope="module")
def said(tts):
    return tts.say(TEXT, VOICE)


def test_it_says_what_the_command_says(tts, said, whole, tmp_path):
    assert said.dtype == np.float32
    assert said.ndim == 1
    assert len(said) % 1920 == 0
    assert len(said) > 1920
    out = tmp_path / "out.wav"
    given = ["say", "--model", str(whole), "--text", TEXT, "--voice", VOICE, "--output", str(out)]
    assert voxclone([*given, "--float32", "--quiet", "--device", "cpu"]) == 0
    assert np.array_equal(read_audio(out), said)


def test_seeds_decide(tts, said):
    assert np.array_equal(tts.say(TEXT, voice=VOICE, seed=np.int64(0)), said)
    assert not np.array_equal(tts.say(TEXT, VOICE, seed=1, max_seconds=0.4)[:1920], said[:1920])


def test_chunks_joined_are_what_is_said(tts, said):
    told, stream = [], tts.stream(TEXT, voice=VOICE, progress=lambda *step: told.append(step))
    assert stream.ended is None
    chunks = list(stream)
    assert np.array_equal(np.concatenate(chunks), said)
    assert all(chunk.dtype == np.float32 for chunk in chunks)
    assert len(chunks[0]) == 10 * 1920
    assert stream.ended is True
    assert stream.codes.shape == (37, len(said) // 1920)
    assert told == [(n, 750, "speaking") for n in range(1, len(said) // 1920 + 1)]
    assert list(stream) == []


def test_cut_off_is_a_warning(tts, said):
    with pytest.warns(VoxcloneWarning, match="did not end within 0.4 s") as caught:
        short = tts.say(TEXT, VOICE, max_seconds=0.4)
    assert len(caught) == 1
    assert np.allclose(short, said[: 5 * 1920], atol=1e-4)  # decoded in a shorter piece


def test_streams_of_one_model_do_not_disturb_each_other(tts, said):
    first, second = tts.stream(TEXT, VOICE), tts.stream(TEXT, VOICE)
    chunks = list(zip(first, second, strict=True))
    for k in range(2):
        assert np.array_equal(np.concatenate([pair[k] for pair in chunks]), said)


def test_threads_share_a_model(tts, said):
    """They compute one after the other; each hears what it would hear alone."""
    results, failures = {}, []

    def speak(k: int) -> None:
        try:
            results[k] = tts.say(TEXT, VOICE)
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=speak, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert all(np.array_equal(results[k], said) for k in range(2))


def in_a_thread(work):
    """What `work()` returns, or raises, in a thread that ends."""
    found: list = []

    def run() -> None:
        try:
            found.append((work(), None))
        except BaseException as e:
            found.append((None, e))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = found[0]
    if error is not None:
        raise error
    return result


@pytest.mark.slow
def test_any_thread_is_the_first(whole, said, tts, voice_file):
    """MLX evaluates what is still lazy only in the thread that made it: of a model that was loaded nothing is."""
    fresh = in_a_thread(lambda: mlx_voxclone.load(whole))
    codes = tts.codec.encode(voice_file)
    rows, other = tts.voice_from(voice_file).rows, mlx_voxclone.load(whole)
    for model in (fresh, other):
        assert np.array_equal(in_a_thread(lambda model=model: model.codec.encode(voice_file)), codes)
        assert np.array_equal(in_a_thread(lambda model=model: model.say(TEXT, VOICE)), said)
        voice = in_a_thread(lambda model=model: model.voice_from(voice_file))
        assert mx.array_equal(voice.rows, rows)
        assert np.array_equal(model.say(TEXT, VOICE), said)
        stream = model.stream(TEXT, VOICE)
        chunks = [next(stream)]
        chunks += in_a_thread(lambda stream=stream: list(stream))
        assert np.array_equal(np.concatenate(chunks), said)


def test_one_thread_computes_at_a_time(tts, monkeypatch):
    inside, most = [0], [0]
    lock = threading.Lock()
    decode = type(tts._speaker.model.audio_tokenizer).decode_audio

    def counted(codec, codes):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        result = decode(codec, codes)
        threading.Event().wait(0.05)
        with lock:
            inside[0] -= 1
        return result

    monkeypatch.setattr(type(tts._speaker.model.audio_tokenizer), "decode_audio", counted)
    codes = np.zeros((37, 1), np.int32)
    threads = [threading.Thread(target=tts.codec.decode, args=(codes,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1


# ---- voices ----------------------------------------------------------------------------------------------------------


def test_a_voice_of_a_recording(tts, whole, voice_file, speech, tmp_path):
    voice = tts.voice_from(str(voice_file))
    assert voice.seconds == pytest.approx(len(speech) / 24000, abs=0.08)
    for same in (tts.voice_from(voice_file), tts.voice_from([voice_file]), tts.voice_from(read_audio(voice_file))):
        assert mx.array_equal(same.rows, voice.rows)
    rows = Speaker.load(whole).voice_rows(reference=voice_file)
    assert mx.array_equal(voice.rows, rows.astype(mx.bfloat16))
    kept = voice.save(tmp_path / "ann.safetensors")
    said = tts.say(TEXT, voice, max_seconds=2)
    for same in (kept, str(kept), tts.voice_from(kept), voice.rows, np.array(voice.rows.astype(mx.float32))):
        assert np.array_equal(tts.say(TEXT, voice=same, max_seconds=2), said)
    with pytest.raises(CheckpointError, match="exists"):
        voice.save(kept)
    voice.save(str(kept), overwrite=True)
    with pytest.raises(DataError, match=r"kept in a \.safetensors file"):
        voice.save(tmp_path / "ann.pt")


def test_several_clips_are_one_voice(tts, voice_file):
    one = tts.voice_from(voice_file).rows.shape[0] - 1
    both = tts.voice_from(voice_file, str(voice_file))
    assert both.rows.shape[0] == 2 * one + 1
    assert mx.array_equal(tts.voice_from([voice_file, voice_file]).rows, both.rows)


def test_two_people_are_a_warning(tts, monkeypatch, voice_file):
    monkeypatch.setattr("mlx_voxclone.audio.prosody.two_pitches", lambda samples: (100.0, 210.0))
    with pytest.warns(VoxcloneWarning, match="two people seem to speak"):
        tts.voice_from(voice_file)


def test_voices_and_an_encoder_beside_the_model(miniature, encoder_file, voice_file, tts):
    bare = mlx_voxclone.load(str(miniature))
    assert bare.voices == tts.voices == ["casual_female", "casual_male", "neutral_female"]
    assert (bare.has_encoder, tts.has_encoder, tts.sampling_rate) == (False, True, 24_000)
    for refused in (lambda: bare.voice_from(voice_file), lambda: bare.codec.encode(voice_file)):
        with pytest.raises(CheckpointError, match="no codec encoder.*encoder="):
            refused()
    beside = mlx_voxclone.load(miniature, encoder=str(encoder_file))
    assert mx.array_equal(beside.voice_from(voice_file).rows, tts.voice_from(voice_file).rows)


def test_it_goes_from_memory_with_its_last_reference(whole, voice_file):
    tts = mlx_voxclone.load(whole)
    voice, codec = tts.voice_from(voice_file), tts.codec
    list(tts.stream(TEXT, voice, max_seconds=0.8, progress=lambda *step: None))
    model = weakref.ref(tts._speaker.model)
    gc.collect()
    gc.disable()
    try:
        del tts
        assert model() is None
    finally:
        gc.enable()
    assert codec.decode(np.zeros((37, 1), np.int32)).shape == (1920,)  # of what is in use, the part that is


# ---- codec -----------------------------------------------------------------------------------------------------------


def test_codes_and_back(tts, voice_file, whole, tmp_path):
    codes = tts.codec.encode(voice_file)
    samples = read_audio(voice_file)
    assert codes.shape == (37, -(-len(samples) // 1920))
    assert codes.dtype == np.int32
    for same in (str(voice_file), samples, samples.astype(np.float64), mx.array(samples)):
        assert np.array_equal(tts.codec.encode(same), codes)
    sound = tts.codec.decode(codes)
    assert (sound.shape, sound.dtype) == ((codes.shape[1] * 1920,), np.float32)
    assert np.array_equal(tts.codec.decode(mx.array(codes)), sound)
    kept, out = tmp_path / "x.safetensors", tmp_path / "x.wav"
    quiet = ["--model", str(whole), "--quiet", "--device", "cpu"]
    assert voxclone(["encode", str(voice_file), *quiet, "--output", str(kept)]) == 0
    assert voxclone(["decode", str(kept), *quiet, "--float32", "--output", str(out)]) == 0
    assert np.array_equal(read_audio(out), sound)


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (np.zeros((36, 2), np.int32), r"integers \[37, T\]"),
        (np.zeros((37, 2)), r"integers \[37, T\]"),
        (np.full((37, 1), 10**6), "outside 0"),
        ("codes", r"integers \[37, T\]"),
    ],
)
def test_codes_that_are_none(tts, codes, said):
    with pytest.raises(DataError, match=said):
        tts.codec.decode(codes)


@pytest.mark.parametrize(
    ("audio", "said"),
    [
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros(2400, np.int16), r"int16 \[2400\]"),
        (np.zeros((2400, 2), np.float32), "float samples"),
        (np.full(2400, np.nan, np.float32), "infinite or undefined"),
        (None, "NoneType"),
        ("gone.wav", "gone.wav"),
    ],
)
def test_audio_that_is_none(tts, audio, said):
    with pytest.raises(DataError, match=said):
        tts.codec.encode(audio)


def test_damaged_weights_are_an_error_of_ours(tts, monkeypatch, voice_file):
    codec = type(tts._speaker.model.audio_tokenizer)
    monkeypatch.setattr(codec, "encode_audio", lambda self, samples: mx.array([[np.nan] * 3]))
    for work in (tts.codec.encode, tts.voice_from):
        with pytest.raises(NotFiniteError, match="not finite: its weights are damaged"):
            work(voice_file)


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"text": ""}, DataError, "text is empty"),
        ({"text": None}, DataError, "text must be a str, got None"),
        ({"text": b"hello"}, DataError, "text must be a str"),
        ({"text": "word " * 100_000}, DataError, "text is too long"),
        ({"voice": "nobody"}, CheckpointError, "no voice called 'nobody'; there are: casual_female"),
        ({"voice": "ann.wav"}, DataError, "ann.wav: neither a voice's name nor its file; of a recording, voice_from"),
        ({"voice": Path("ann")}, DataError, "ann: neither a voice's name"),
        ({"voice": "gone.safetensors"}, CheckpointError, "gone.safetensors"),
        ({"voice": None}, DataError, r"None is no voice; take a name \(casual_female"),
        ({"voice": 3}, DataError, "3 is no voice"),
        ({"voice": np.zeros((2, 3, 4), np.float32)}, DataError, r"got \[2, 3, 4\]"),
        ({"voice": np.zeros((4, 8), np.float32)}, CheckpointError, "rows of 8"),
        ({"voice": np.zeros((4, 8), np.int32)}, DataError, r"floats \[N, dim\]"),
        ({"voice": np.full((4, 8), np.inf)}, DataError, "infinite or undefined"),
        ({"seed": -1}, ConfigError, "seed: must be from 0"),
        ({"seed": 1.5}, ConfigError, "seed: a whole number is expected, got 1.5"),
        ({"seed": None}, ConfigError, "seed: a whole number is expected"),
        ({"max_seconds": 0}, ConfigError, "max_seconds: must be above 0"),
        ({"max_seconds": float("nan")}, ConfigError, "max_seconds: must be above 0"),
        ({"max_seconds": "5"}, ConfigError, "max_seconds: a number is expected, got '5'"),
        ({"steps": 0}, ConfigError, "steps: must be from 1 to 1000"),
        ({"steps": True}, ConfigError, "steps: a whole number"),
        ({"cfg_alpha": float("inf")}, ConfigError, "cfg_alpha: must be a finite number"),
    ],
)
def test_refused_before_anything_is_said(tts, given, kind, said):
    arguments = {"text": TEXT, "voice": VOICE} | given
    for speak in (tts.say, tts.stream):
        with pytest.raises(kind, match=said) as caught:
            speak(**arguments)
        assert isinstance(caught.value, VoxcloneError)
        assert "\n" not in str(caught.value)


def test_a_text_of_nothing_is_no_empty_sound(tts, monkeypatch):
    monkeypatch.setattr(tts._speaker.model.acoustic_transformer, "decode_frame", _ended)
    with pytest.raises(DataError, match="ended before its first frame"):
        tts.say(TEXT, VOICE)


def _ended(hidden, *_):
    return mx.ones((hidden.shape[0], 37), mx.int32)


@pytest.mark.parametrize(
    ("clips", "said"),
    [
        ((), "no recording given"),
        (([],), "no recording given"),
        ((np.zeros(48_000, np.float32),), "silent"),
        ((np.ones(100, np.float32),), "s long; take 1 to 60 s"),
        ((np.zeros(48_000, np.int16),), "float samples"),
        ((None,), "NoneType"),
        (("gone.wav",), "gone.wav"),
        (("",), "is no path"),
    ],
)
def test_no_voice_of_it(tts, clips, said):
    with pytest.raises(VoxcloneError, match=said):
        tts.voice_from(*clips)


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        ("gone", CheckpointError, "gone: no such directory"),
        ("", ConfigError, "model: '' is no path"),
        (None, ConfigError, "model: a path"),
        (b"voxtral", ConfigError, "model: a path"),
        ("a\0b", ConfigError, "is no path"),
        ("$NOBODY_SET_THIS/x", ConfigError, "NOBODY_SET_THIS"),
    ],
)
def test_no_model_of_it(model, kind, said):
    with pytest.raises(kind, match=said):
        mlx_voxclone.load(model)


def test_home_directories_are_expanded(monkeypatch, whole):
    monkeypatch.setenv("HOME", str(whole.parent))
    assert mlx_voxclone.load(f"~/{whole.name}").voices == mlx_voxclone.load(Path("~") / whole.name).voices


# ---- sound -----------------------------------------------------------------------------------------------------------


def test_wavs(tmp_path, speech):
    path = tmp_path / "a.wav"
    mlx_voxclone.write_wav(str(path), speech)
    mlx_voxclone.write_wav(path, mx.array(speech), float32=True)
    assert np.array_equal(mlx_voxclone.read_audio(str(path)), speech)
    other = tmp_path / "notes.wav"
    other.write_text("not a WAV")
    for place, said in (
        (other, "not a WAV file"),
        (tmp_path / "a.mp3", "only WAV is written"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(DataError, match=said):
            mlx_voxclone.write_wav(place, speech)
    assert other.read_text() == "not a WAV"
    with pytest.raises(DataError, match=r"int16 \[3\]"):
        mlx_voxclone.write_wav(path, np.zeros(3, np.int16))


def test_a_path_is_one_clip(tts, tmp_path, speech, monkeypatch):
    """A string is a path, whatever its letters are called."""
    monkeypatch.chdir(tmp_path)
    write_wav("ab", speech)
    assert mx.array_equal(tts.voice_from("ab").rows, tts.voice_from(tmp_path / "ab").rows)
    assert tts.codec.encode("ab").shape == (37, -(-len(speech) // 1920))
