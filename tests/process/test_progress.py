"""A caller's own functions in the place of bars and of lines on stderr."""

import pytest

from mlx_voxclone.files.run_log import Progress
from mlx_voxclone.process.progress import listener, progress_bar, progress_over, told_to, weight_bar


def test_every_bar_tells_the_listener(capsys):
    told, lines = [], []
    with told_to(lambda *step: told.append(step), lines.append):
        assert list(progress_over(iter("ab"), 2, "reading")) == ["a", "b"]
        with progress_bar(total=3, unit="step", desc="searching", smoothing=0) as bar:
            bar.update(2)
            bar.update()
        with weight_bar() as advance:
            advance(10, 30)
            advance(20, 30)
        with progress_bar(unit="speaker") as bar:
            bar.update()
        training = Progress("encoder", 20, start=5)
        training.step(6, 0.5, 3.0)
        training.note("evaluated")
        training.say("a warning")
        training.close()
    assert told == [
        *((1, 2, "reading"), (2, 2, "reading"), (2, 3, "searching"), (3, 3, "searching")),
        *((10, 30, "weights"), (30, 30, "weights"), (1, None, ""), (6, 20, "encoder")),
    ]
    assert lines == ["evaluated", "a warning"]
    assert capsys.readouterr() == ("", "")


def test_a_listener_of_lines_alone(capsys):
    lines = []
    with told_to(None, lines.append):
        assert list(progress_over([1], 1, "reading")) == [1]
        Progress("encoder", 2).say("a warning")
    assert lines == ["a warning"]
    with told_to(lambda *step: None, None):
        Progress("encoder", 2).say("a warning")
    assert capsys.readouterr() == ("", "")


def test_it_ends_with_its_block(capsys):
    with pytest.raises(RuntimeError, match="stop"), told_to(None, None):
        raise RuntimeError("stop")
    assert listener() is None
    Progress("encoder", 2).say("a warning")
    assert capsys.readouterr().err == "a warning\n"
