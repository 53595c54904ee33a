"""The benchmark of the server: what it counts; in the slow suite with as many clients as in the log."""

import numpy as np
import pytest

from benchmarks.serving import Load, ServerProcess, load, table
from mlx_voxclone.miniature.micro import SPEAKING, make_micro


def test_the_table():
    one = Load(2, seconds=10, audio=20, cpu=5, first=[1.0, 2.0, 3.0], errors=["500 b''"])
    one.memory = [(0.5, 100), (59, 120), (61, 110), (125, 90)]
    assert one.by_minute() == [120, 110, 90]
    told = table([one])
    assert "| 2 | 3 | 1 | 2.00 | 4.00 | 2.00 s | 2.90 s |" in told
    assert "error: 500" in told


@pytest.mark.slow
def test_many_clients_for_a_while(tmp_path):
    """No error, nobody forgotten, and memory that does not grow with what has been spoken."""
    with ServerProcess(make_micro(tmp_path / "model", SPEAKING)) as server:
        load(server, 8, 10)  # buffers have their sizes then
        found = load(server, 32, 40)
    assert found.errors == []
    assert len(found.first) >= 32
    assert found.audio > 32
    memory = np.array([mb for _, mb in found.memory])
    third = len(memory) // 3
    assert memory[-third:].max() < 1.1 * memory[:third].max() + 20
