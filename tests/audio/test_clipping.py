"""Clipped recordings are known as such: as they are, turned down, and after a lossy codec."""

from io import BytesIO

import numpy as np
import pytest
import soundfile
from recordings import SPEECH, needs_speech, talk

from mlx_voxclone.audio.clipping import ClippingMeter
from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio

CODECS = {
    "PCM_16": ("WAV", "PCM_16"),
    "PCM_24": ("FLAC", "PCM_24"),
    "FLOAT": ("WAV", "FLOAT"),
    "MP3": ("MP3", "MPEG_LAYER_III"),
    "VORBIS": ("OGG", "VORBIS"),
    "OPUS": ("OGG", "OPUS"),
}


def share(samples: np.ndarray, codec: str, rate: int = SAMPLE_RATE) -> float:
    buffer = BytesIO()
    soundfile.write(buffer, samples, rate, format=CODECS[codec][0], subtype=CODECS[codec][1])
    buffer.seek(0)
    decoded = np.abs(soundfile.read(buffer, dtype="float32")[0])
    meter = ClippingMeter(CODECS[codec][1])
    for block in np.array_split(decoded, 3):
        meter.add(block)
    return meter.share()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("level", [1.0, 0.7, 0.3])
def test_a_clipped_recording_stays_one(codec, level):
    clipped = np.clip(talk(4.0, 3) * 8, -1, 1)
    true = np.mean(np.abs(clipped) >= 1)
    assert 0.05 < true < 0.12
    assert 0.5 * true < share(clipped * level, codec) < 1.5 * true


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("peak", [0.9, 0.3, 1.0])
def test_a_sound_recording_is_not_clipped(codec, peak):
    for seed in range(3):
        samples = talk(3.0, seed)
        assert share(samples / np.abs(samples).max() * peak, codec) < 0.001


def test_the_share_of_samples_that_were_kept_is_exact():
    samples = talk(4.0, 3)
    limit = np.quantile(np.abs(samples), 0.97)
    assert share(np.clip(samples, -limit, limit), "PCM_16") == pytest.approx(0.03, abs=0.001)
    click = np.clip(samples, -limit, limit)
    click[1000] = 1.0  # one peak beyond does not hide it
    assert share(click, "PCM_16") == pytest.approx(0.03, abs=0.001)


def test_few_steps_are_no_clipping():
    for subtype, steps in (("PCM_U8", 128), ("ULAW", 32)):
        meter = ClippingMeter(subtype)
        meter.add(np.abs(np.rint(talk(3.0, 1) * 0.1 * steps) / steps).astype(np.float32))
        assert meter.share() == 0


@needs_speech
def test_real_speech_is_not_clipped():
    for path in [*sorted((SPEECH / "ljspeech").glob("*.flac"))[:4], *sorted((SPEECH / "kerstin").glob("*.flac"))[:4]]:
        samples = read_audio(path)
        for codec in ("PCM_16", "MP3"):
            assert share(samples / np.abs(samples).max(), codec) < 0.005
