"""Speeches of the speaking miniature, and how tests know which sentences are heard."""

import numpy as np

from mlx_voxclone.audio.io import read_audio
from mlx_voxclone.studio.speak import sound
from mlx_voxclone.studio.speak.history import new_speech
from mlx_voxclone.studio.speak.wanted import wanted

TEXT = (
    "papa mino lesu tara koni sewu papa mino. tara koni sewu papa lesu mino tara koni. lesu mino papa tara koni sewu."
)
SHORT = "papa mino lesu tara koni sewu. lesu mino papa tara koni sewu."
FORM = {"text": TEXT, "voice": "model:alto", "language": "en", "seed": "3", "steps": "", "guidance": ""}


def tone(seed):
    return np.full(2400, (1 + seed % 50) / 100, np.float32)


def quiet(done, total, what):
    pass


def begun(person, **changed):
    return new_speech(person, wanted(person, FORM | changed))


def level_of(speech):
    """The seeds that are heard, one after the other, by the level of their tones."""
    samples = read_audio(sound.joined(speech, speech.sentences()).path)
    return [round(float(value) * 100) - 1 for value in samples[1200::2400]]
