"""The recovery benchmark's corpus in its smallest form."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.recovery import corpus as corpora
from mlx_voxclone.miniature.layout import PRESETS, params_json
from mlx_voxclone.model.config import VoxtralConfig

TINY_CODEC = VoxtralConfig.from_dict(params_json(PRESETS["tiny"], {})).codec


def smallest_corpus(directory: Path) -> corpora.Corpus:
    """Built in a directory that does not exist yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(corpora.SIZES, "quick", corpora.CorpusSize(3, 2, 2, 1, 0.8))
        return corpora.build_corpus(directory, "quick", seed=3)


def heard_states(corpus: corpora.Corpus, dim: int = 5) -> SimpleNamespace:
    """A Whisper's states of the first half of the training clips, random numbers."""
    clips = corpus.split("train")
    rng = np.random.default_rng(0)
    rows = {c.id: rng.standard_normal((len(c.units), dim)).astype(np.float16) for c in clips[: len(clips) // 2]}
    return SimpleNamespace(dim=dim, of=lambda clip: rows.get(clip.id))
