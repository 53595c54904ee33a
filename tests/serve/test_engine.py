"""The engine without HTTP: requests in one batch are what `say` says of each alone; who fails, fails alone."""

import gc
import threading
import weakref

import numpy as np
import pytest

from mlx_voxclone.adapters.lora import AdapterSwitch
from mlx_voxclone.adapters.mix import mix_adapters
from mlx_voxclone.errors import DataError, NotFiniteError
from mlx_voxclone.model.config import END_CODE
from mlx_voxclone.model.flow_head import FlowMatchingHead
from mlx_voxclone.model.running import RunningBatch
from mlx_voxclone.serve.engine import BusyError, EndingError, Engine
from mlx_voxclone.serve.jobs import Job
from mlx_voxclone.speech import narration
from mlx_voxclone.speech.chunks import split_text
from mlx_voxclone.speech.narration import Narration
from mlx_voxclone.speech.speaker import Speaker
from mlx_voxclone.text.forms import as_said, form_of

pytest_plugins = ["baking"]
SECONDS = 2.4  # of a short text: the miniature's random model seldom ends by itself
LONG = "papa mino lesu tara koni sewu, " * 9


@pytest.fixture(scope="module")
def speaker(miniature):
    return Speaker.load(miniature)


@pytest.fixture(autouse=True)
def shorter(monkeypatch):
    monkeypatch.setattr("mlx_voxclone.serve.jobs.MAX_SECONDS", SECONDS)
    monkeypatch.setattr("mlx_voxclone.speech.narration.MAX_SECONDS", 1.0)
    monkeypatch.setattr("mlx_voxclone.speech.narration.TRIES", 2)


class Heard:
    """A listener that keeps everything."""

    def __init__(self, on_put=lambda heard: None):
        self.samples, self.error, self.finished = [], None, False
        self.gone = self.behind = False
        self._on_put = on_put

    def put(self, samples):
        self.samples.append(samples)
        self._on_put(self)

    def finish(self):
        assert not self.over
        self.finished = True

    def fail(self, error):
        assert not self.over
        self.error = error

    @property
    def over(self):
        return self.finished or self.error is not None

    @property
    def all(self) -> np.ndarray:
        return np.concatenate(self.samples)


def job_of(speaker, text, heard=None, *, voice="casual_male", seed=0, adapters=None) -> Job:
    return Job(text, lambda: speaker.voice_rows(voice), heard or Heard(), seed=seed, adapters=adapters)


def run(engine, jobs, *, until=None):
    """Run an engine in this thread until all jobs are over."""
    for job in jobs:
        engine.submit(job)
    take, turns = engine._take, iter(range(5000))

    def taken():
        forgotten = next(turns) and not (engine._jobs or engine._new or engine._calls)
        if forgotten or all(job.listener.over or job.listener.gone for job in jobs) if until is None else until():
            engine.close()
        return take()

    engine._take = taken
    engine.run()


def alone(speaker, text, voice, seed):
    return speaker.say(as_said(text, "en"), voice, seed=seed, max_seconds=SECONDS)


def test_several_at_once_are_what_say_says_of_each(speaker):
    """More texts than rows, of several voices and seeds; codes and samples."""
    asked = [("papa mino", "casual_male", 2), ("tara", "neutral_female", 0), ("koni lesu sewu", "casual_female", 7)]
    asked += [("mino", "casual_male", 3), ("papa mino", "casual_male", 5)]
    engine = Engine(speaker, rows=3)
    jobs = [job_of(speaker, text, voice=voice, seed=seed) for text, voice, seed in asked]
    run(engine, jobs)
    for job, (text, voice, seed) in zip(jobs, asked, strict=True):
        want = alone(speaker, text, voice, seed)
        np.testing.assert_array_equal(job.codes[0], want.codes)
        np.testing.assert_array_equal(job.listener.all, want.samples)
    assert max(len(job.listener.samples) for job in jobs) == 2  # in pieces as they come


@pytest.mark.slow
def test_a_long_text_is_what_say_says_beside_others(speaker):
    engine = Engine(speaker, rows=3)  # fewer than the chunks that go together
    long, short = job_of(speaker, LONG, seed=4), job_of(speaker, "papa mino", seed=2)
    run(engine, [long, short])
    chunks = split_text(LONG, form=form_of("en"))
    assert len(chunks) == 2
    want = [one.samples for one in Narration(speaker, chunks, speaker.voice_rows("casual_male"), seed=4)]
    np.testing.assert_array_equal(long.listener.all, np.concatenate(want))
    np.testing.assert_array_equal(short.codes[0], alone(speaker, "papa mino", "casual_male", 2).codes)


def test_nothing_is_kept_of_a_request_that_is_over(speaker, monkeypatch):
    """Said, failed, hung up: without Python's search for circles, which may come after hundreds of them."""
    begin = Job.begin

    def fails(self, speaker):
        utterances = begin(self, speaker)
        if self._seed == 1:
            raise DataError("no")
        return utterances

    def leave(heard):
        heard.gone = True

    monkeypatch.setattr(Job, "begin", fails)
    jobs = [job_of(speaker, "papa mino", seed=0), job_of(speaker, LONG, seed=4), job_of(speaker, "tara", seed=1)]
    jobs.append(job_of(speaker, "papa mino", Heard(leave), seed=2))
    engine = Engine(speaker)
    gc.collect()
    gc.disable()
    try:
        run(engine, jobs)
        assert [job.listener.finished for job in jobs] == [True, True, False, False]
        assert jobs[2].listener.error
        left = [weakref.ref(job) for job in jobs]
        jobs.clear()
        assert [job() for job in left] == [None] * 4
    finally:
        gc.enable()


def test_a_chunk_that_is_cut_off_is_cut_where_say_cuts_it(speaker, monkeypatch):
    """Limits of the chunks of one batch differ."""
    monkeypatch.setattr(narration, "SPARE", 0.3)
    monkeypatch.setattr(narration, "PACE", 0.002)
    text = "papa mino lesu tara koni sewu, " * 8 + "papa mino lesu tara koni sewu " * 3
    job = job_of(speaker, text, seed=4)
    run(Engine(speaker), [job])
    told = list(Narration(speaker, split_text(text, form=form_of("en")), speaker.voice_rows("casual_male"), seed=4))
    assert len(told) == 2
    np.testing.assert_array_equal(job.listener.all, np.concatenate([one.samples for one in told]))


def test_chunks_that_end_at_the_same_frame(speaker, monkeypatch):
    """They leave the batch together; the text is not over before both have been taken."""
    decode, frames = FlowMatchingHead.decode_frame, []

    def decoded(self, hidden, *arguments):
        codes = decode(self, hidden, *arguments)
        frames.append(hidden.shape[0])
        codes[:, 0] = END_CODE if frames.count(2) == 7 else 9
        return codes

    monkeypatch.setattr(FlowMatchingHead, "decode_frame", decoded)
    monkeypatch.setattr(narration, "HASTY", np.inf)
    job = job_of(speaker, LONG, seed=4)
    run(Engine(speaker), [job])
    assert job.listener.finished
    assert [codes.shape[1] for codes in job.codes] == [8, 7]  # the second has joined a frame later
    assert len(job.listener.samples) == 2


def test_adapters_are_switched_and_the_base_stays(speaker, adapters, base):
    sources = {"own": mix_adapters([adapters], speaker.release.fingerprint(), speaker.release.path).changes}
    switch = AdapterSwitch(speaker.model)
    switch.add("own", sources["own"])
    engine = Engine(speaker, switch, rows=4)
    jobs = [job_of(speaker, "papa mino", seed=2, adapters=key) for key in (None, "own", None, "own")]
    run(engine, jobs)
    switch.use(None)
    plain = alone(speaker, "papa mino", "casual_male", 2).codes
    adapted = Speaker.load(speaker.release.path, adapters=adapters)
    changed = alone(adapted, "papa mino", "casual_male", 2).codes
    assert not np.array_equal(plain, changed)
    for job, want in zip(jobs, (plain, changed, plain, changed), strict=True):
        np.testing.assert_array_equal(job.codes[0], want)


def test_who_fails_or_leaves_takes_nobody_down(speaker, monkeypatch):
    leaving = Heard(lambda heard: setattr(heard, "gone", True))
    jobs = [
        job_of(speaker, "papa mino", seed=2),
        job_of(speaker, "   ", seed=2),
        job_of(speaker, "papa mino", leaving, seed=3),
        job_of(speaker, "papa", Heard(lambda heard: 1 / 0), seed=2),
        job_of(speaker, LONG, Heard(lambda heard: 1 / 0), seed=2),
        Job("papa", lambda: 1 / 0, Heard()),
    ]
    engine = Engine(speaker)
    run(engine, jobs)
    np.testing.assert_array_equal(jobs[0].codes[0], alone(speaker, "papa mino", "casual_male", 2).codes)
    assert isinstance(jobs[1].listener.error, DataError)
    assert (len(leaving.samples), leaving.over) == (1, False)
    assert [type(job.listener.error) for job in jobs[3:]] == [ZeroDivisionError] * 3
    assert (engine._rows(), engine._waiting, engine._jobs) == (0, [], {})


def test_damaged_numbers_end_one_request(speaker, monkeypatch):
    decode = FlowMatchingHead.decode_frame

    def decoded(self, hidden, *arguments):
        codes = decode(self, hidden, *arguments)
        if hidden.shape[0] == 2:
            codes[1, 3] = -1
        return codes

    monkeypatch.setattr(FlowMatchingHead, "decode_frame", decoded)
    jobs = [job_of(speaker, "papa mino", seed=2), job_of(speaker, "tara", seed=3)]
    run(Engine(speaker), jobs)
    assert isinstance(jobs[1].listener.error, NotFiniteError)
    monkeypatch.undo()
    assert jobs[0].listener.finished


def test_a_failed_computation_ends_those_that_shared_it_and_the_engine_goes_on(speaker, monkeypatch, capsys):
    jobs = [job_of(speaker, "papa mino", seed=2), job_of(speaker, "tara", seed=3)]
    step, calls = RunningBatch.step, []

    def broken(self):
        calls.append(len(self))
        if calls.count(2) == 3:
            raise RuntimeError("[metal::malloc] out of memory")
        return step(self)

    monkeypatch.setattr(RunningBatch, "step", broken)
    engine = Engine(speaker)
    later = job_of(speaker, "papa mino", seed=2)
    run(engine, jobs)
    assert [type(job.listener.error) for job in jobs] == [RuntimeError] * 2
    assert "out of memory" in capsys.readouterr().err
    monkeypatch.undo()
    again = Engine(speaker)
    run(again, [later])
    assert later.listener.finished


def test_a_listener_that_is_behind_gets_no_more_chunks(speaker):
    engine, slow = Engine(speaker), Heard()
    slow.behind = True
    long, short = job_of(speaker, LONG, slow, seed=1), job_of(speaker, "papa", seed=1)
    run(engine, [long, short], until=lambda: short.listener.over)
    assert isinstance(slow.error, EndingError)  # at the engine's end
    assert not slow.samples
    assert not any(utterance.frames for utterance in long._speech._together)


def test_the_queue_is_bounded_and_the_end_is_told(speaker):
    engine = Engine(speaker, rows=1, waiting=1)
    jobs = [job_of(speaker, "papa", seed=k) for k in range(3)]
    engine.submit(jobs[0])
    engine.submit(jobs[1])
    with pytest.raises(BusyError):
        engine.submit(jobs[2])
    called = engine.call(lambda: 7)
    engine.close()
    engine.run()
    assert [type(job.listener.error) for job in jobs[:2]] == [EndingError] * 2
    assert isinstance(called.exception(), EndingError)
    for late in (lambda: engine.submit(jobs[2]), lambda: engine.call(int)):
        with pytest.raises(EndingError):
            late()


def test_ctrl_c_in_a_call_leaves_no_call_without_an_answer(speaker):
    def interrupted():
        raise KeyboardInterrupt

    engine = Engine(speaker)
    job = job_of(speaker, "papa")
    calls = [engine.call(function) for function in (lambda: 7, interrupted, int)]
    engine.submit(job)
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    assert calls[0].result(0) == 7
    assert [type(call.exception(0)) for call in calls[1:]] == [EndingError] * 2
    assert isinstance(job.listener.error, EndingError)


def test_a_call_that_was_given_up_is_not_made(speaker):
    """Before its turn, and at the end; the engine goes on."""
    engine, made = Engine(speaker), []
    calls = [engine.call(lambda k=k: made.append(k)) for k in range(3)]
    assert calls[1].cancel()
    thread = threading.Thread(target=lambda: (calls[2].result(60), engine.close()))
    thread.start()
    engine.run()
    thread.join()
    assert made == [0, 2]
    engine = Engine(speaker)
    calls = [engine.call(int) for _ in range(2)]
    assert calls[0].cancel()
    engine.close()
    engine.run()
    assert isinstance(calls[1].exception(0), EndingError)


def test_calls_are_answered_while_it_waits(speaker):
    engine, found = Engine(speaker), []

    def asking():
        found.append(engine.call(lambda: threading.current_thread()).result(60))
        found.append(engine.call(lambda: 1 / 0).exception(60))
        engine.wake()
        engine.close()

    thread = threading.Thread(target=asking)
    thread.start()
    engine.run()
    thread.join()
    assert found[0] is threading.main_thread()
    assert isinstance(found[1], ZeroDivisionError)
