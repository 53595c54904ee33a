"""Which channel of a stereo recording is taken, and what is refused."""

import numpy as np
import pytest
import soundfile
from recordings import talk

from mlx_voxclone.audio.decode import audio_info
from mlx_voxclone.audio.io import SAMPLE_RATE, read_audio
from mlx_voxclone.audio.source import AudioError
from mlx_voxclone.audio.stereo import MIXED
from mlx_voxclone.data.ingest import examine
from mlx_voxclone.data.options import PrepareOptions
from mlx_voxclone.miniature.synth import SyntheticSpeaker, random_text, synthesise

VOICE = talk(3.0, 3)
OTHER = synthesise(random_text(np.random.default_rng(9), 30), SyntheticSpeaker.sample(2), 9)[1200 : 1200 + len(VOICE)]
HUSH = np.zeros_like(VOICE)
REST = np.arange(len(VOICE)) < len(VOICE) // 2  # one speaks in the first half, the other in the second


def hiss(decibels: float, seed: int = 0) -> np.ndarray:
    return (10 ** (decibels / 20) * np.random.default_rng(seed).standard_normal(len(VOICE))).astype(np.float32)


def stereo(path, left, right):
    soundfile.write(path, np.stack([left, right], 1), SAMPLE_RATE, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (VOICE, VOICE),
        (VOICE + hiss(-55), VOICE + hiss(-55, 1)),
        (VOICE, 0.5 * VOICE),
        (VOICE, np.roll(VOICE, 3)),
        (VOICE + 0.1 * OTHER, VOICE - 0.1 * OTHER),
    ],
    ids=["same", "hiss", "6 dB softer", "late", "music"],
)
def test_one_voice_in_both_channels_is_mixed(tmp_path, left, right):
    path = stereo(tmp_path / "a.wav", left, right)
    np.testing.assert_allclose(read_audio(path), (left + right) / 2, atol=1e-6)
    plan = examine(path, True, PrepareOptions())
    assert (plan.channel, plan.notes) == (MIXED, ())


@pytest.mark.parametrize(
    ("left", "right", "channel", "note"),
    [
        (VOICE, HUSH, 0, "one"),
        (HUSH, VOICE, 1, "one"),
        (VOICE + hiss(-60), hiss(-55), 0, "one"),
        (0.1 * VOICE, VOICE, 1, "one"),
        (VOICE, -0.1 * VOICE, 0, "one"),
        (0.8 * VOICE, np.roll(VOICE, 31), 1, "differ"),
    ],
    ids=["left", "right", "noise", "softer", "softer and opposed", "half a period late"],
)
def test_the_channel_with_the_voice_is_taken_alone_and_keeps_its_level(tmp_path, left, right, channel, note):
    path = stereo(tmp_path / "a.wav", left, right)
    np.testing.assert_array_equal(read_audio(path), np.float32([left, right][channel]))
    np.testing.assert_array_equal(read_audio(path, start=1, end=2), np.float32([left, right][channel])[24000:48000])
    plan = examine(path, True, PrepareOptions(normalise=True))
    assert (plan.channel, plan.notes) == (channel, (note,))
    alone = stereo(tmp_path / "b.wav", *[[left, right][channel]] * 2)
    assert plan.gain == pytest.approx(examine(alone, True, PrepareOptions(normalise=True)).gain)


@pytest.mark.parametrize(
    ("left", "right", "reason"),
    [
        (VOICE, -VOICE, "opposed"),
        (VOICE + hiss(-52), -VOICE + hiss(-52, 1), "opposed"),
        (VOICE, -0.95 * VOICE, "opposed"),
        (VOICE, -0.5 * VOICE, "opposed"),
        (VOICE, OTHER, "two-voices"),
        (0.7 * VOICE, OTHER, "two-voices"),
        (VOICE * REST, OTHER * ~REST, "two-voices"),
        (VOICE * REST + 0.15 * OTHER * ~REST, OTHER * ~REST + 0.15 * VOICE * REST, "two-voices"),
    ],
    ids=["opposed", "hiss", "5 %", "half", "at once", "softer", "in turns", "in one room"],
)
def test_channels_that_cannot_be_mixed_are_refused_by_name(tmp_path, left, right, reason):
    path = stereo(tmp_path / "a.wav", left, right)
    assert audio_info(path).channels == 2
    for call in (lambda: read_audio(path), lambda: examine(path, True, PrepareOptions())):
        with pytest.raises(AudioError) as caught:
            call()
        assert caught.value.reason == reason
        assert str(path) in str(caught.value)
