"""One corpus and one codec with its first weights, for all tests of the recovery benchmark's codec."""

import pytest
from recovery_corpus import TINY_CODEC, smallest_corpus

from benchmarks.recovery.corpus import Corpus
from benchmarks.recovery.first_weights import new_student
from benchmarks.recovery.student import Student


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return smallest_corpus(tmp_path_factory.mktemp("recovery") / "corpus")


@pytest.fixture(scope="module")
def student(corpus) -> Student:
    return new_student(corpus, TINY_CODEC, 0.3, seed=1)
