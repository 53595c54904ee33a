"""Judged codes on the miniature that speaks: they come nearer to the true ones, and wrong transcripts show."""

import dataclasses
import json

import mlx.core as mx
import numpy as np
import pytest

from mlx_voxclone.audio.io import write_wav
from mlx_voxclone.checkpoint.release import Release, load_model
from mlx_voxclone.checkpoint.tokenizer import SpeechTokenizer
from mlx_voxclone.data.clips import PreparedData
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.data.prepare import prepare
from mlx_voxclone.errors import DataError
from mlx_voxclone.miniature.micro import ENCODER_FILE, make_micro
from mlx_voxclone.miniature.readings import HELDOUT, readings
from mlx_voxclone.pairs.clip_codes import clip_codes
from mlx_voxclone.settings.config import RunConfig
from mlx_voxclone.train.judge.codes import judged_codes, unfitting
from mlx_voxclone.train.judge.judge import CodeJudge, Evidence

pytestmark = pytest.mark.slow
CLIPS = 12


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    return make_micro(tmp_path_factory.mktemp("speaking") / "model", "speaking")


@pytest.fixture(scope="module")
def said():
    return readings(HELDOUT, 1, CLIPS, 1, (4, 8))


def prepared(said, place, texts) -> PreparedData:
    """Clips of one speaker with given texts."""
    recordings = place / "recordings"
    recordings.mkdir(parents=True)
    lines = []
    for k, (reading, text) in enumerate(zip(said, texts)):
        write_wav(recordings / f"{k:02d}.wav", reading.wave(), float32=True)
        lines.append(json.dumps({"audio": f"{k:02d}.wav", "text": text, "speaker": "ann"}))
    (recordings / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    options = PrepareOptions(min_seconds=0.5, trim_silence=False, heldout=0.2)
    prepare(recordings / "manifest.jsonl", place / "data", options)
    return PreparedData.load(place / "data")


def judged(speaking, data, place):
    config = RunConfig(
        task="clone", model=str(speaking), speaker={"reference_seconds": [1.0, 3.0], "quantise": {"bits": 0}}
    )
    release, encoder = Release(speaking), speaking / ENCODER_FILE
    codes = clip_codes(release, encoder, data, place / "codes.safetensors")
    return judged_codes(config, release, encoder, data, codes, place / "judged.safetensors"), codes


def test_judging_brings_noisy_evidence_nearer_to_the_truth(speaking, said):
    release = Release(speaking)
    model = load_model(release, encoder_file=speaking / ENCODER_FILE)
    codec, prompt = model.audio_tokenizer, SpeechTokenizer(release.tokenizer_path).prompt
    true, evidence, raw = [], [], []
    rng, judge = np.random.default_rng(0), CodeJudge(model, prompt)
    voice = codec.audio_codes(said[0].wave())[:, :36]
    for k, reading in enumerate(said[1:]):
        latents = np.array(codec.encode_audio(reading.wave()).astype(mx.float32))
        true.append(np.array(codec.quantize(mx.array(latents)[None])[0]))
        semantic = latents[:, : codec.config.semantic_dim]
        spread = np.sqrt(judge.unit / semantic.shape[1])
        noisy = semantic + 2.5 * spread * rng.standard_normal(semantic.shape)
        values = np.tanh(latents[:, codec.config.semantic_dim :])
        values = np.clip(values + 0.15 * rng.standard_normal(values.shape), -0.999, 0.999)
        both = np.concatenate([noisy, np.arctanh(values)], axis=1).astype(np.float32)
        evidence.append(Evidence(str(k), reading.text, both, voice))
        raw.append(np.array(codec.quantize(mx.array(both)[None])[0]))
    found = [one.codes for one in judge.judge(evidence)]

    def semantic_right(codes):
        return np.mean(np.concatenate([a[0] == b[0] for a, b in zip(codes, true)]))

    def levels_off(codes):
        return np.mean(np.concatenate([np.abs(a[1:] - b[1:]).mean(axis=0) for a, b in zip(codes, true)]))

    assert semantic_right(found) > semantic_right(raw) + 0.05
    assert levels_off(found) < 0.8 * levels_off(raw)
    assert semantic_right(raw) < 0.45  # as of a recovered encoder: with a perfect one, judging could only do harm


def test_a_transcript_of_something_else_is_left_out_and_said(speaking, said, tmp_path):
    texts = [reading.text for reading in said]
    texts[3] = "gu gu gu gu gu gu."
    data = prepared(said, tmp_path, texts)
    found, codes = judged(speaking, data, tmp_path)
    wrong = next(clip for clip in data.clips if clip.text == texts[3])
    assert list(found.left_out) == [wrong.id]
    assert set(found.codes) == {clip.id for clip in data.clips} - {wrong.id}
    (line,) = unfitting(found, data.clips)
    assert "03.wav: its text does not match the speech" in line
    again, _ = judged(speaking, data, tmp_path)  # from the file
    assert again.left_out == found.left_out
    assert all((again.codes[name] == found.codes[name]).all() for name in found.codes)
    assert again.raw_nats == found.raw_nats
    assert all(found.codes[name].shape == codes[name].shape for name in found.codes)


def test_transcripts_of_another_recording_are_refused(speaking, said, tmp_path):
    texts = [reading.text for reading in said]
    data = prepared(said, tmp_path, texts[5:] + texts[:5])
    with pytest.raises(DataError, match="the transcripts do not match the recordings"):
        judged(speaking, data, tmp_path)
    assert not (tmp_path / "judged.safetensors").exists()


def test_clips_without_texts_have_no_judged_codes(speaking, said, tmp_path):
    data = prepared(said, tmp_path, [reading.text for reading in said])
    silent = dataclasses.replace(data, train=[dataclasses.replace(clip, text=None) for clip in data.train])
    silent = dataclasses.replace(silent, heldout=[dataclasses.replace(clip, text=None) for clip in data.heldout])
    found, _ = judged(speaking, silent, tmp_path)
    assert found.codes == {}
