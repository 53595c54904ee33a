"""Pairs in voices that the model has not: those of recordings, behind an encoder."""

import json

import numpy as np
import pytest

from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio, write_wav
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.synth import SyntheticSpeaker, synthesise
from mlx_voxclone.pairs.data import PairData
from mlx_voxclone.pairs.voices import recorded_voices
from mlx_voxclone.speech.speaker import Speaker, speak

pytest_plugins = ["commands"]


def arguments(model, output, *more) -> list[str]:
    return [
        str(a) for a in ("pairs", "--model", model, "--output", output, "--per-voice", 3, "--max-seconds", 2, *more)
    ]


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Ann: three clips of 1.5 s, in French; Ben: two of 12 s; Cid: silence; Dot: too short. As a manifest."""
    home, lines = tmp_path_factory.mktemp("people"), []

    def add(name, samples, **more):
        write_wav(home / f"{name}.wav", samples)
        lines.append({"audio": f"{name}.wav", "speaker": name[:3], **more})

    for k in range(3):
        wave = synthesise("papa mino tara koni lesu vima.", SyntheticSpeaker.sample(1), k)
        add(f"ann{k}", np.resize(wave, round(1.5 * SAMPLE_RATE)), language="fr")
    wave = synthesise("tara koni lesu vima.", SyntheticSpeaker.sample(2))
    for k in range(2):
        add(f"ben{k}", np.resize(wave, 12 * SAMPLE_RATE))
    add("cid", np.zeros(2 * SAMPLE_RATE))
    add("dot", synthesise("pa.", SyntheticSpeaker.sample(3))[: SAMPLE_RATE // 2])
    (home / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return home


@pytest.fixture(scope="module")
def listening(miniature, encoder_file):
    return Speaker.load(miniature, encoder=encoder_file)


@pytest.mark.slow
def test_what_is_said_behind_a_recording_is_what_the_model_says_behind_it(
    people, miniature, encoder_file, listening, tmp_path, capsys
):
    more = ["--recordings", people, "--encoder", encoder_file, "--seed", "2", "--quiet"]
    assert voxclone(arguments(miniature, tmp_path / "out", *more)) == 0
    assert capsys.readouterr().err == ""
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["voices"] == ["recorded/ann", "recorded/ben"]  # and none of the model's own
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    line = next(line for line in lines if line["voice"] == "recorded/ann")
    assert line["language"] == "fr"
    pairs = {pair.id: pair for pair in PairData.load(tmp_path / "out", listening.model.config.codec, heldout=0.0).train}
    codes = pairs[line["id"]].codes
    rows = recorded_voices(listening, people, most=9, seed=2)[0]["recorded/ann"].rows
    ids = listening.tokenizer.prompt(line["text"], rows.shape[0])
    alone = speak(listening.model, ids, rows, max_frames=25, seed=line["seed"])
    np.testing.assert_array_equal(alone.codes, codes)


def test_own_voices_beside_them_if_they_are_named(people, miniature, encoder_file, tmp_path):
    more = ["--recordings", people, "--encoder", encoder_file, "--voices", "alpha", "--max-voices", "1", "--quiet"]
    own = Speaker.load(miniature).voices[0]
    more[more.index("alpha")] = own
    assert voxclone(arguments(miniature, tmp_path / "out", *more)) == 0
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["voices"][0] == own
    assert len(settings["voices"]) == 2


def test_what_a_voice_is_made_of(people, listening):
    found, notes = recorded_voices(listening, people, most=9)
    assert list(found) == ["recorded/ann", "recorded/ben"]
    frames = {name: voice.rows.shape[0] for name, voice in found.items()}  # one more than frames: END
    assert frames["recorded/ann"] == 3 * 19 + 1  # all of them, each padded to whole frames
    assert frames["recorded/ben"] == 125 + 1  # 10 s
    assert [note.split(":")[0] for note in notes] == ["cid", "dot"]
    assert "silent" in notes[0]
    assert "0.5 s" in notes[1]
    few = recorded_voices(listening, people, most=3, seed=1)
    assert len(few[0]) + len(few[1]) == 3
    assert recorded_voices(listening, people, most=3, seed=1)[0].keys() == few[0].keys()


def test_of_prepared_clips_those_held_out_are_not_heard(people, listening, tmp_path, monkeypatch):
    prepare(people, tmp_path / "data", PrepareOptions(heldout=0.3, min_seconds=0.5, trim_silence=False))
    data = PreparedData.load(tmp_path / "data")
    assert data.heldout
    heard = []
    monkeypatch.setattr(
        "mlx_voxclone.pairs.voices.read_audio", lambda path, **part: heard.append(path) or read_audio(path, **part)
    )
    recorded_voices(listening, tmp_path / "data", most=9)
    assert heard
    assert not set(heard) & {clip.path for clip in data.heldout}


@pytest.mark.slow
def test_another_encoder_makes_other_pairs(people, miniature, encoder_file, tmp_path, capsys, listening, monkeypatch):
    argv = arguments(miniature, tmp_path / "out", "--recordings", people, "--encoder", encoder_file, "--quiet")
    assert voxclone(argv) == 0
    before = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    (tmp_path / "out" / "pairs-00000.safetensors").unlink()
    assert voxclone(argv) == 0  # what is missing is made again
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == before
    monkeypatch.setattr("mlx_voxclone.pairs.voices.SECONDS", 3.0)  # other rows, as from another encoder
    assert voxclone(argv) == 2
    assert "voice rows" in capsys.readouterr().err


def test_mistakes(people, miniature, encoder_file, tmp_path, refused, listening):
    out = tmp_path / "out"
    line = refused(arguments(miniature, out, "--recordings", people))
    assert "no codec encoder" in line
    assert "--recordings" in refused(arguments(miniature, out, "--encoder", encoder_file))
    assert "--max-voices" in refused(arguments(miniature, out, "--max-voices", "0"))
    gone = refused(arguments(miniature, out, "--recordings", tmp_path / "gone", "--encoder", encoder_file))
    assert "no such file" in gone
    with pytest.raises(DataError, match="no speaker's recordings can be used; cid: .*silent"):
        recorded_voices(listening, people / "cid.wav", most=1)
    assert not out.exists()
