"""The page itself, in Gradio: fields, players, plots, and what its endpoints answer."""

import asyncio
import html
import os
import traceback
from collections import defaultdict
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder

from mlx_voxclone.cli.common import message
from mlx_voxclone.demo.inputs import LIMIT_MB, shown, wanted
from mlx_voxclone.demo.studio import Job, MainThread, Studio
from mlx_voxclone.errors import DataError, VoxcloneError
from mlx_voxclone.report.page import NOTICE
from mlx_voxclone.report.plots import common_axes, sound_figure

CONSENT = "This is my voice, or its owner has agreed to this use of it."
SPEAK = "speak"  # name of the endpoint
WAITING = 16  # requests that may wait; more are refused
_KEEP = 3600  # seconds after which uploads and sounds are deleted while the demo runs
_job: ContextVar[Job | None] = ContextVar("job", default=None)


class Page(gr.Blocks):
    """Blocks whose endpoints take only what their fields would send, answer mistakes in one line, and stop the work of
    whoever cancels or leaves.

    Args:
        studio: checks and carries out what is asked for.
    """

    def __init__(self, studio: Studio) -> None:
        super().__init__(title="mlx_voxclone", analytics_enabled=False, delete_cache=(_KEEP // 6, _KEEP))
        self._studio = studio
        self._jobs: dict[str | None, set[Job]] = defaultdict(set)

    async def process_api(self, block_fn: Any, inputs: list[Any], *arguments: Any, **options: Any) -> dict[str, Any]:
        """Of Gradio: every call of an endpoint, whichever way it came, before its values are looked at."""
        function = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        job, session = Job(), options.get("session_hash")
        own = self._jobs[session]
        own.add(job)
        _job.set(job)
        try:
            self._check(function, inputs)
            work = asyncio.ensure_future(super().process_api(function, inputs, *arguments, **options))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                job.stop()
                await asyncio.wait([work])
                if not work.cancelled():
                    work.exception()  # Stopped: nobody asks for it any more
                raise
        except gr.Error:
            raise
        except Exception as e:
            raise _error(e) from None
        finally:
            own.discard(job)
            if not own:
                self._jobs.pop(session, None)

    def leave(self, session: str | None) -> None:
        """Stop what a session has asked for: its tab was closed."""
        for job in list(self._jobs.get(session, ())):
            job.stop()

    def _check(self, function: Any, inputs: Any) -> None:
        if not isinstance(inputs, list) or len(inputs) != len(function.inputs):
            raise DataError(f"{len(function.inputs)} values are expected, got {shown(inputs)}")
        if function.api_name == SPEAK:
            wanted(*inputs, voices=self._studio.voices, folder=Path(get_upload_folder()))
            if isinstance(inputs[2], dict):  # its other entries would be followed: addresses, further files
                inputs[2] = {"path": inputs[2]["path"], "meta": {"_type": "gradio.FileData"}}


def _error(error: Exception) -> gr.Error:
    """What the page shows of an exception; one that is no mistake of the user's is told on the terminal."""
    if isinstance(error, VoxcloneError):
        return gr.Error(html.escape(str(error), quote=False), print_exception=False)
    if os.environ.get("VOXCLONE_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    message(f"error: a request failed ({type(error).__name__}: {str(error)[:200]})")
    return gr.Error("this request failed; see the terminal for details", print_exception=False)


def handler(studio: Studio, thread: MainThread) -> Callable[..., list]:
    """What the button does: inputs of the page -> player and plot per model, and a line below."""

    def speak(text, voice, clip, consent, seed):
        job = _job.get() or Job()
        try:
            sounds, line = thread.call(studio.speak, text, voice, clip, consent, seed, job)
            rate = studio.before.sampling_rate
            axes = common_axes(sounds, rate)
            # The spectrogram is computed with MLX, too.
            plots = [thread.call(_plot, s, rate, axes) for s in sounds]
        except Exception as e:
            raise _error(e) from None
        outputs = []
        for samples, plot in zip(sounds, plots):
            pcm = (np.clip(samples, -1.0, 1.0) * 32767).astype(np.int16)
            outputs += [(studio.before.sampling_rate, pcm) if len(pcm) else None, plot]
        return [*outputs, line]

    return speak


def _plot(samples: np.ndarray, sample_rate: int, axes: dict[str, float]):
    return sound_figure(samples, sample_rate=sample_rate, **axes)


def build(studio: Studio, thread: MainThread, about: str) -> Page:
    """The page, not launched. `about`: a line on the models behind it."""
    page = Page(studio)

    def leave(request: gr.Request) -> None:
        page.leave(request.session_hash)

    with page:
        gr.Markdown(f"# mlx_voxclone: before and after\n{html.escape(about, quote=False)}\n\n> {NOTICE}")
        with gr.Row():
            with gr.Column():
                text = gr.Textbox(studio.sentence, label="Text", lines=3)
                voice = gr.Dropdown(studio.voices, value=next(iter(studio.voices), None), label="Voice")
                clip = gr.Audio(
                    type="filepath",
                    label=f"or a reference clip, 3 to 25 s, up to {LIMIT_MB} MB (goes before the voice)",
                )
                consent = gr.Checkbox(False, label=CONSENT)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                with gr.Row():
                    button = gr.Button("Speak", variant="primary")
                    stop = gr.Button("Stop")
                progress = gr.Markdown(" ", min_height=40)
            outputs = []
            for name in ("Before", "After") if studio.after is not None else ("Before",):
                with gr.Column():
                    gr.Markdown(f"### {name}")
                    outputs.append(gr.Audio(label=name, interactive=False))
                    outputs.append(gr.Plot(label="Waveform and spectrogram"))
        line = gr.Markdown()
        # Progress and mistakes are shown by the button: the last result stays to be heard and seen.
        speaking = button.click(
            handler(studio, thread),
            [text, voice, clip, consent, seed],
            [*outputs, line],
            api_name=SPEAK,
            show_progress_on=progress,
        )
        stop.click(None, cancels=[speaking])
        page.unload(leave)
    return page.queue(max_size=WAITING, api_open=False)
