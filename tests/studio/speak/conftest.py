"""A person whose model is the speaking miniature, and a narration that takes no time."""

import pytest
from short_speeches import tone

from mlx_voxclone.miniature.micro import SPEAKING_FILES
from mlx_voxclone.speech.narration import Spoken
from mlx_voxclone.studio.home import Home
from mlx_voxclone.studio.models import Models
from mlx_voxclone.studio.speak import work


@pytest.fixture
def me(tmp_path):
    person = Home(tmp_path / "studio").person("me")
    person.change_settings(model=str(SPEAKING_FILES))
    return person


@pytest.fixture(scope="module")
def models():
    return Models()


@pytest.fixture
def quick(monkeypatch):
    """A narration that says a tenth of a second of its seed, and remembers the batches it was asked for."""
    batches = []

    class Quick:
        def __init__(self, speaker, chunks, rows, *, memory, seeds, batch, n_steps, cfg_alpha, on_frame):
            self.chunks, self.seeds, self.on_frame, self.memory = chunks, seeds, on_frame, memory
            batches.append(list(seeds))

        def __iter__(self):
            for number, seed in enumerate(self.seeds):
                self.on_frame(1)
                yield Spoken(number, tone(seed), 1, None)

    monkeypatch.setattr(work, "Narration", Quick)
    return batches
