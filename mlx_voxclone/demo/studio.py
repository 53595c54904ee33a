"""The models behind the page and their work, which the main thread alone does.

Notable: Gradio calls handlers on threads of its own that come and go, and MLX keeps streams and random state per
thread (a thread that sampled and ends takes the process down, MLX 0.32). So all work of the models happens on the main
thread (`MainThread`); handlers wait for it.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from mlx_voxclone.demo.inputs import Wanted, wanted
from mlx_voxclone.errors import ConfigError, DataError, VoxcloneError
from mlx_voxclone.speech import side_by_side

SENTENCE = "I would like a cup of tea, please, and the newspaper if you have finished with it."
CLIP = "the reference clip"


class Stopped(VoxcloneError):
    """Asked to stop while it was spoken, or before."""


class Job:
    """One request; any thread may stop it."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def check(self, *_: Any) -> None:
        """Raise Stopped if it was stopped; takes and ignores what a progress callback is given."""
        if self._stopped.is_set():
            raise Stopped("stopped")


class MainThread:
    """Carries calls from any thread over to the main thread, one after another."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future, Callable, tuple]] = queue.SimpleQueue()
        self._ended = threading.Event()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result (or exception) of `function(*arguments)`, run by `serve`; at once on the main thread itself.

        Raises:
            Stopped: `serve` has ended.
        """
        if threading.current_thread() is threading.main_thread():
            return function(*arguments)
        future: Future = Future()
        self._jobs.put((future, function, arguments))
        if self._ended.is_set():
            self._refuse()
        return future.result()

    def serve(self, until: Callable[[], bool]) -> None:
        """Run what is called until `until()` is true; looks at least five times a second. Whoever still waits then is
        told."""
        self._ended.clear()
        try:
            while not until():
                try:
                    future, function, arguments = self._jobs.get(timeout=0.2)
                except queue.Empty:
                    continue
                try:
                    future.set_result(function(*arguments))
                except Exception as e:  # the waiting handler raises it
                    future.set_exception(e)
                except BaseException:  # Ctrl-C
                    future.set_exception(Stopped("the demo has ended"))
                    raise
        finally:
            self._ended.set()
            self._refuse()

    def _refuse(self) -> None:
        while True:
            try:
                future, _, _ = self._jobs.get_nowait()
            except queue.Empty:
                return
            future.set_exception(Stopped("the demo has ended"))


class Studio:
    """The two models and what the page does with them.

    Args:
        before: the checkpoint as released.
        after: the baked one, None if there is none yet.
        sentence: to begin with.
    """

    def __init__(self, before, after=None, sentence: str = SENTENCE):
        self.before, self.after, self.sentence = before, after, sentence
        if after is not None and after.model.config.backbone.dim != before.model.config.backbone.dim:
            raise ConfigError(f"{after.release.path} was not baked from {before.release.path}: their sizes differ")

    @property
    def voices(self) -> list[str]:
        """Voices of both, those that were added first."""
        old = self.before.voices
        return [v for v in (self.after.voices if self.after else []) if v not in old] + old

    def rows(self, voice: str | None, clip: np.ndarray | None):
        """The voice's rows, the same for both models: a comparison of models, not of prompts.

        Args:
            clip: float32 `[samples]` at 24 kHz; goes before the voice.
        """
        if clip is not None:
            source = self.after if self.after is not None and self.after.has_encoder else self.before
            return source.voice_rows(reference=clip)
        source = self.after if self.after is not None and voice in self.after.voices else self.before
        return source.voice_rows(voice=voice)

    def speak(
        self, text: Any, voice: Any, clip: Any, consent: Any, seed: Any, job: Job | None = None
    ) -> tuple[list[np.ndarray], str]:
        """Speak with each model; returns their samples (float32) and a line on what happened.

        Raises:
            DataError: a value that cannot be taken (`inputs.wanted`), a clip that cannot serve, too long a text.
            CheckpointError: no encoder for a clip. Stopped: by `job`.
        """
        return self.carry_out(wanted(text, voice, clip, consent, seed, voices=self.voices), job or Job())

    def carry_out(self, request: Wanted, job: Job) -> tuple[list[np.ndarray], str]:
        """`speak`, of a request that was checked."""
        from mlx_voxclone.speech.speaker import read_reference, reference_warnings

        job.check()
        clip, notes = None, []
        if request.clip is not None:
            try:
                clip = read_reference(request.clip)
            except DataError as e:  # where the upload lies is nobody's business
                place = str(request.clip)
                raise DataError(str(e).replace(f"{place}: {CLIP}", CLIP).replace(place, CLIP)) from None
            notes = reference_warnings([clip])
        rows = self.rows(request.voice, clip)
        speakers = [("before", self.before), *([("after", self.after)] if self.after is not None else [])]
        results = side_by_side.speak_each(
            request.text, [(speaker, rows) for _, speaker in speakers], request.seed, job.check
        )
        for (name, speaker), result in zip(speakers, results):
            seconds, limit = len(result.samples) / speaker.sampling_rate, side_by_side.MAX_SECONDS
            notes.append(f"{name}: {seconds:.1f} s" + ("" if result.ended else f", cut off at {limit} s"))
        voice = CLIP if clip is not None else request.voice
        return [result.samples for result in results], f"{'; '.join(notes)}. Voice: {voice}, seed {request.seed}."
