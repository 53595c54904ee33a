"""The recovery benchmark's corpus in its smallest form."""

from pathlib import Path

import pytest

from benchmarks.recovery import corpus as corpora


def smallest_corpus(directory: Path) -> corpora.Corpus:
    """Built in a directory that does not exist yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(corpora.SIZES, "quick", corpora.CorpusSize(3, 2, 2, 1, 0.8))
        return corpora.build_corpus(directory, "quick", seed=3)
