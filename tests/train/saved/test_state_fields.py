"""`state.json` with any of its fields changed: it is noticed, in one line, with its checksum and without."""

import json

import mlx.core as mx
import numpy as np
import pytest
from documents import DELETED, changed
from toy_task import ToyTask, settings

from mlx_voxclone.checkpoint.writer import save_tensors
from mlx_voxclone.errors import CheckpointError
from mlx_voxclone.train.loop.trainer import Trainer
from mlx_voxclone.train.saved.result import RESULT_NAME, TrainResult
from mlx_voxclone.train.saved.schema import CHECKSUM, checksum
from mlx_voxclone.train.saved.state import _crc32, load_checkpoint

pytest_plugins = ["commands"]

VALUES = {
    "deleted": DELETED,
    "null": None,
    "text": "x",
    "negative": -1,
    "broken": 2.5,
    "true": True,
    "huge": 2**60,
    "enormous": 10**400,
    "nan": float("nan"),
    "infinite": float("inf"),
    "list": [],
    "object": {},
}
OPTIONS = {"log_every": 3, "eval_every": 2, "sample_every": 4}  # at step 5: a window of two steps, a lone evaluation


class SkippedOnce(ToyTask):
    """An item of the first epoch cannot be learnt from."""

    def item(self, epoch, index, step=0):
        self.poisoned = {3} if epoch == 0 else set()
        return super().item(epoch, index, step)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Stopped by its user at step 5, so that nothing was logged or measured there."""
    place = tmp_path_factory.mktemp("state") / "run"
    trainer = Trainer(SkippedOnce(7), settings(**OPTIONS), place, quiet=True)
    step = trainer._step

    def until_five(group):
        step(group)
        if trainer.state.step == 5:
            raise KeyboardInterrupt

    trainer._step = until_five
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    return place


@pytest.fixture(scope="module")
def document(run_dir):
    return json.loads(state_file(run_dir).read_text())


def state_file(run_dir):
    return run_dir / "checkpoints" / "step-5" / "state.json"


def places(node, path=()):
    """Of every field, at any depth; of lists that are alike the first and the last item."""
    if path:
        yield path
    if isinstance(node, dict):
        for key, value in node.items():
            yield from places(value, (*path, key))
    elif isinstance(node, list):
        for index in sorted({0, len(node) - 1}) if node else ():
            yield from places(node[index], (*path, index))


def refusal(run_dir, content):
    """The line with which the run is not resumed; None where it is."""
    state_file(run_dir).write_text(json.dumps(content))
    try:
        load_checkpoint(state_file(run_dir).parent)
        Trainer(ToyTask(7), settings(**OPTIONS), resume=run_dir, quiet=True)
    except CheckpointError as error:
        text = str(error)
    else:
        return None
    assert "\n" not in text
    assert len(text) < 500
    assert str(run_dir) in text
    return text


def means_the_same(path, kind) -> bool:
    """Changes that go on as a run could have gone on: figures of the past, intervals, what was not yet judged."""
    *above, name = path
    if "settings" in above:
        return False
    if "metrics" in above and name == "loss":  # of one that was not the best
        return "best" not in above and above[-2] == 0 and kind in ("huge", "nan", "infinite")
    if "metrics" in above:
        return kind in ("deleted", "negative", "broken", "huge", "nan", "infinite")
    if {"terms", "recent", "targets"} & set(above) and kind == "deleted":
        return True
    if {"first", "last", "recent", "sums"} & set(above) and name != "terms":
        return kind in ("negative", "broken", "huge")
    if "targets" in above or name in ("seconds", "peak_memory_gb", "norm"):
        return kind in ("broken", "huge")
    kinds = {"window": ("object",), "silent": ("null", "list"), "sampled": ("negative",), "decided": ("deleted",)}
    return kind in kinds.get(name, ()) and above == ["state"]


@pytest.mark.slow
def test_every_field_of_a_state_changed_by_rule(run_dir, document):
    """Without its checksum, as in files of earlier versions: the schema and what the run knows must notice it."""
    old = {key: value for key, value in document.items() if key != CHECKSUM}
    assert refusal(run_dir, old) is None
    tried, accepted, refused = 0, [], []
    for path in places(old):
        for kind, value in VALUES.items():
            content = changed(old, path, value)
            if content == old:
                continue
            tried += 1
            found = refusal(run_dir, content) is None
            if found and not means_the_same(path, kind):
                accepted.append((path, kind))
            if not found and means_the_same(path, kind):
                refused.append((path, kind))
    assert accepted == []
    assert refused == []
    assert tried > 600


def test_a_checksum_notices_every_change(run_dir, document):
    assert refusal(run_dir, document) is None
    for path in places(document):
        if path in ((CHECKSUM,), ("format",)):
            continue
        for value in (DELETED, None, 7):
            content = changed(document, path, value)
            assert content == document or "checksum does not match" in refusal(run_dir, content)
    for value in (None, "x", 3, "0" * 64, [], {}):
        assert "checksum does not match" in refusal(run_dir, document | {CHECKSUM: value})


def test_the_checksum_is_of_what_is_said_and_not_of_how(run_dir, document):
    order = dict(reversed(document.items()))
    assert checksum(order) == document[CHECKSUM]
    assert refusal(run_dir, order) is None


@pytest.mark.parametrize("value", [2, 0, -1, 10**30, None, "1", [], {}, True], ids=str)
def test_a_state_of_another_format(run_dir, document, value):
    assert "step-5" in refusal(run_dir, document | {"format": value})


@pytest.mark.parametrize("content", [[], None, 3, "text", {}], ids=str)
def test_a_state_that_is_no_state(run_dir, content):
    assert "state.json cannot be used" in refusal(run_dir, content)


def with_files(run_dir, document, tmp_path, name, change):
    """The run with one of its two files of tensors changed and described as if it had been written so."""
    place = tmp_path / "run" / "checkpoints" / "step-5"
    place.mkdir(parents=True)
    for file in state_file(run_dir).parent.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    path = place / name
    tensors = change(mx.load(str(path)))
    path.unlink()
    save_tensors(path, tensors, {"step": "5"})
    files = document["files"] | {name: {"bytes": path.stat().st_size, "crc32": _crc32(path)}}
    content = document | {"files": files}
    return place, content | {CHECKSUM: checksum(content)}


TENSORS = {
    "whole numbers": ("model.safetensors", lambda t: {k: mx.array(np.array(v).astype(np.int32)) for k, v in t.items()}),
    "half precision": ("model.safetensors", lambda t: {k: v.astype(mx.float16) for k, v in t.items()}),
    "one missing": ("model.safetensors", lambda t: dict(list(t.items())[1:])),
    "transposed": ("model.safetensors", lambda t: {k: mx.contiguous(v.T) for k, v in t.items()}),
    "a moment missing": ("optimizer.safetensors", lambda t: dict(list(t.items())[1:])),
    "moments of another type": ("optimizer.safetensors", lambda t: {k: v.astype(mx.float16) for k, v in t.items()}),
    "moments of another shape": ("optimizer.safetensors", lambda t: {k: mx.zeros((2, 2)) for k in t}),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_of_another_type_or_shape_are_another_runs(run_dir, document, tmp_path, kind):
    place, content = with_files(run_dir, document, tmp_path, *TENSORS[kind])
    (place / "state.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"trainable parameters: |optimiser's state: ") as error:
        Trainer(ToyTask(7), settings(**OPTIONS), resume=place, quiet=True)
    assert "\n" not in str(error.value)


def test_tensors_of_another_step(run_dir, document):
    content = changed(document, ("state", "step"), 6)
    content[CHECKSUM] = checksum(content)
    assert "is of step 5, state.json of 6" in refusal(run_dir, content)


def test_every_field_of_a_result_changed_by_rule(tmp_path):
    whole = Trainer(ToyTask(7), settings(**OPTIONS), tmp_path / "run", quiet=True).run()
    path = tmp_path / "run" / RESULT_NAME
    content = json.loads(path.read_text())
    assert TrainResult.load(path.parent) == whole
    for field in places(content):
        if len(field) > 1:
            continue
        for kind in ("deleted", "null", "list", "object", "text"):
            if (field[0] == "metric" and kind == "text") or (kind == "object" and "terms" in field[0]):
                continue
            if field[0] == "evaluations" and kind == "list":
                continue
            path.write_text(json.dumps(changed(content, field, VALUES[kind])))
            with pytest.raises(CheckpointError, match=f"cannot be read.*{field[0]}") as error:
                TrainResult.load(path.parent)
            assert "\n" not in str(error.value)
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "step-10").state
    assert state.step == whole.steps
