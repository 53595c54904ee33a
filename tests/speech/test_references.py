"""Reference clips: several taken together, what cannot serve refused, two people in one noticed."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.audio.prosody import two_pitches
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.speech.speaker import Speaker, read_references, reference_codes, reference_warnings

pytest_plugins = ["commands"]
LOW, HIGH = SyntheticSpeaker(pitch_hz=105.0, pitch_range=5.0), SyntheticSpeaker(pitch_hz=215.0, formant_scale=1.18)
TEXT = "papa mino lesu tara koni, sito pula nemi dora gawi."


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    home = tmp_path_factory.mktemp("clips")
    made = {name: synthesise(TEXT, who, k) for k, (name, who) in enumerate((("low", LOW), ("high", HIGH)))}
    for name, samples in made.items():
        write_wav(home / f"{name}.wav", samples)
    write_wav(home / "both.wav", np.concatenate([made["low"], made["high"]]))
    write_wav(home / "short.wav", made["low"][4800 : 4800 + 12000])
    write_wav(home / "silent.wav", np.zeros(48000, np.float32))
    write_wav(home / "long.wav", np.tile(made["low"], 14))
    return home


def test_two_people_are_noticed_and_one_is_one(clips):
    low, high = (synthesise(TEXT, who, 5) for who in (LOW, HIGH))
    found = two_pitches(np.concatenate([low, high]))
    assert found == pytest.approx((105, 215), rel=0.1)
    assert two_pitches(np.concatenate([high, low, high])) is not None
    for who in (LOW, HIGH, SyntheticSpeaker(pitch_range=7.0)):
        assert two_pitches(np.concatenate([synthesise(TEXT, who, seed) for seed in range(2)])) is None
    assert two_pitches(np.zeros(48000, np.float32)) is None
    assert two_pitches(low[:12000]) is None


def test_several_clips_are_one_voice(clips, whole):
    """Each is encoded by itself: the next one's first frames do not depend on the one before."""
    speaker = Speaker.load(whole)
    a, b = read_references([clips / "low.wav", clips / "high.wav"])
    codec = speaker.model.audio_tokenizer
    codes = reference_codes(codec, [a, b])
    assert np.array_equal(codes, np.concatenate([codec.audio_codes(a), codec.audio_codes(b)], axis=1))
    rows = speaker.voice_rows(reference=[a, b])
    assert mx.array_equal(rows, speaker.model.voice_embedding(codes))
    assert mx.array_equal(speaker.voice_rows(reference=[a]), speaker.voice_rows(reference=a))
    with pytest.raises(DataError, match="s long together; take up to 60 s"):
        read_references([clips / "both.wav"] * 7)


@pytest.mark.slow
def test_a_path_is_a_clip_and_no_list_of_letters(clips, whole):
    speaker = Speaker.load(whole)
    path = clips / "low.wav"
    (samples,) = read_references(path)
    expected = speaker.voice_rows(reference=samples)
    for reference in (str(path), path, [str(path)], (path,), mx.array(samples), [samples], samples.astype(np.float64)):
        assert mx.array_equal(speaker.voice_rows(reference=reference), expected), reference
    mixed = speaker.voice_rows(reference=[path, samples])
    assert mx.array_equal(mixed, speaker.voice_rows(reference=[samples, samples]))
    spoken = speaker.say("pa", reference=str(path), max_seconds=0.3)
    assert np.array_equal(spoken.codes, speaker.say("pa", reference=samples, max_seconds=0.3).codes)
    assert np.array_equal(read_references(str(path))[0], samples)


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("gone.wav", "gone.wav"),
        (["gone.wav"], "gone.wav"),
        ([], "no reference clip given"),
        ([0.1] * 48_000, "got float"),
        (np.zeros((48_000, 2), np.float32), r"got float32 \[48000, 2\]"),
        (np.zeros(48_000, np.int16), "got int16"),
        (np.float32(3), "got float32"),
        (7, "got int"),
        (b"a.wav", "got bytes"),
        (np.full(48_000, np.nan, np.float32), "infinite or undefined"),
        (np.full(48_000, np.inf), "infinite or undefined"),
        (np.zeros(48_000), "is silent"),
    ],
)
def test_what_is_no_clip_is_one_line(whole, reference, text):
    speaker = Speaker.load(whole)
    with pytest.raises(DataError, match=text) as error:
        speaker.voice_rows(reference=reference)
    assert "\n" not in str(error.value)


def test_say_takes_several_and_warns_of_two_people(clips, whole, tmp_path, capsys):
    argv = ["say", "--model", whole, "--text", "pa", "--max-seconds", "0.3", "--output", tmp_path / "o.wav"]
    both = ["--ref-audio", clips / "low.wav", "--ref-audio", clips / "high.wav"]
    assert voxclone([str(a) for a in argv + both]) == 0
    assert "warning: two people seem to speak in the reference (at about 10" in capsys.readouterr().err
    assert voxclone([str(a) for a in [*argv, "--ref-audio", clips / "low.wav"]]) == 0
    assert "warning: two people" not in capsys.readouterr().err
    assert voxclone([str(a) for a in [*argv, "--ref-audio", clips / "low.wav", "--ref-audio", "gone.wav"]]) == 2


def test_a_voice_is_baked_from_several_recordings(clips, whole, tmp_path, capsys):
    argv = ["bake", "--model", whole, "--output", tmp_path / "out"]
    voices = ["--voice", f"ann={clips / 'low.wav'}", "--voice", f"ann={clips / 'high.wav'}"]
    assert voxclone([str(a) for a in argv + voices]) == 0
    assert "warning: --voice ann: two people seem to speak" in capsys.readouterr().err
    model = load_model(Release(whole))
    codes = reference_codes(model.audio_tokenizer, read_references([clips / "low.wav", clips / "high.wav"]))
    stored = Release(tmp_path / "out").voice("ann")
    assert mx.array_equal(stored, model.voice_embedding(codes).astype(stored.dtype))
    joined = ["--voice", f"bob={clips / 'low.wav'}", "--voice", f"bob={whole}/voice_embedding/casual_male.pt"]
    assert voxclone([str(a) for a in ["bake", "--model", whole, "--output", tmp_path / "no", *joined]]) == 2
    assert "only recordings can be joined" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"), [("short", "0.5 s long; take 1 to 60 s"), ("silent", "is silent"), ("long", "take 1 to 60 s")]
)
def test_what_cannot_serve_is_no_voice_either(clips, whole, tmp_path, capsys, name, text):
    file = clips / f"{name}.wav"
    argv = ["bake", "--model", whole, "--output", tmp_path / "out", "--voice", f"ann={file}"]
    assert voxclone([str(a) for a in argv]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert str(file) in error
    assert not (tmp_path / "out").exists()


def test_nothing_odd_is_nothing_said(clips):
    assert reference_warnings(read_references([clips / "low.wav"])) == []
