"""Every planted mistake has its place in the code and its tests; the slow suite plants a tenth of them, by the day."""

import ast
import functools
import os
import time
from pathlib import Path

import mutants
import pytest

ALL = mutants.planted()
TENTH = "VOXCLONE_MUTANTS"  # environment: which tenth, 0 to 9, in the place of that of the day


@functools.cache
def functions_in(path: Path) -> set[str]:
    """Names of the test functions in a file."""
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


def test_there_are_many_over_the_whole_package():
    assert len(ALL) >= 120
    rooms = {Path(mutant.file).parts[0] for mutant in ALL}
    assert rooms >= {"audio", "checkpoint", "data", "evaluate", "losses", "model", "train"}
    assert len(set(ALL)) == len(ALL)


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in ALL}))
def test_each_has_its_place_once_and_leaves_code_that_can_be_read(file):
    """Where code has changed: give the mistake its new place, or take it out with what it was about."""
    whole = (mutants.ROOT / mutants.PACKAGE / file).read_text(encoding="utf-8")
    for mutant in ALL:
        if mutant.file == file:
            assert whole.count(mutant.old) == 1, mutant.old
            assert mutant.new != mutant.old
            ast.parse(whole.replace(mutant.old, mutant.new))


def test_each_names_tests_that_there_are():
    for mutant in ALL:
        assert mutant.tests, mutant.old
        for test in mutant.tests:
            path, _, function = mutants.node_of(test).partition("::")
            assert function.partition("[")[0] in functions_in(mutants.ROOT / path), test


def test_a_mistake_is_planted_in_the_copy_and_taken_back(tmp_path):
    copy, mutant = mutants.Copy(tmp_path), ALL[0]
    there, here = (root / mutants.PACKAGE / mutant.file for root in (tmp_path, mutants.ROOT))
    before = here.read_bytes()
    assert there.read_bytes() == before
    stamp = there.stat().st_mtime
    with copy.with_mistake(mutant):
        assert there.read_text() == before.decode().replace(mutant.old, mutant.new)
        assert int(there.stat().st_mtime) != int(stamp)
    assert there.read_bytes() == before
    assert here.read_bytes() == before
    with (
        pytest.raises(ValueError, match="occurs 0 times"),
        copy.with_mistake(mutant._replace(old="nowhere to be found")),
    ):
        pass
    assert not (tmp_path / ".git").exists()


@pytest.mark.slow
def test_what_is_no_mistake_survives_and_what_cannot_be_tried_is_told(tmp_path):
    copy = mutants.Copy(tmp_path)
    test = "test_losses_codes.py::test_another_number_of_levels"
    mutant = mutants.Mutant("losses/codes.py", "check_pair(z, codes, 3)", "check_pair(z, codes, 2 + 1)", (test,))
    assert mutants.verdict(copy, mutant)[0] == mutants.SURVIVED
    assert mutants.verdict(copy, mutant._replace(new="check_pair(z, codes, 4)"))[0] == mutants.KILLED
    assert mutants.verdict(copy, mutant._replace(new="check_pair(z, codes, 3"))[0] == mutants.BROKEN
    assert mutants.verdict(copy, mutant._replace(tests=(test + "_not_there",)))[0] == mutants.BROKEN


@pytest.mark.slow
def test_a_tenth_of_them_is_killed():
    tenth = int(os.environ.get(TENTH, time.localtime().tm_yday)) % 10
    left = mutants.survivors([number for number in range(len(ALL)) if number % 10 == tenth], say=print)
    assert not left, "\n".join(left)
