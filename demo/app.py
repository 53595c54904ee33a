"""A page to listen on: one sentence, spoken before and after, with waveform and spectrogram.

    uv run demo/app.py                                            # on a miniature, nothing to download
    uv run demo/app.py --model mistralai/Voxtral-4B-TTS-2603 --baked runs/clone-ann/baked

Notable: Gradio calls handlers on threads of its own that come and go, and MLX keeps streams and random state per
thread (a thread that sampled and ends takes the process down, MLX 0.32). So all work of the model happens on the main
thread (`MainThread`); handlers wait for it.
"""

import queue
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from mlx_voxclone.cli.common import Parser, add_device, entry, message, set_device
from mlx_voxclone.errors import ConfigError, DataError, VoxcloneError
from mlx_voxclone.evaluate.page import NOTICE
from mlx_voxclone.evaluate.plots import sound_figure
from mlx_voxclone.texts import spoken

SENTENCE = "I would like a cup of tea, please, and the newspaper if you have finished with it."
SYLLABLES = "papa mino lesu, tara koni sewu."  # what the miniature can say
CONSENT = "This is my voice, or its owner has agreed to this use of it."
MAX_SECONDS = 30


class MainThread:
    """Carries calls from any thread over to the main thread, one after another."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future, Callable, tuple]] = queue.SimpleQueue()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result (or exception) of `function(*arguments)`, run by `serve`; at once on the main thread itself."""
        if threading.current_thread() is threading.main_thread():
            return function(*arguments)
        future: Future = Future()
        self._jobs.put((future, function, arguments))
        return future.result()

    def serve(self, until: Callable[[], bool]) -> None:
        """Run what is called until `until()` is true; looks at least five times a second."""
        while not until():
            try:
                future, function, arguments = self._jobs.get(timeout=0.2)
            except queue.Empty:
                continue
            try:
                future.set_result(function(*arguments))
            except Exception as e:  # the waiting handler raises it
                future.set_exception(e)


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

    def rows(self, voice: str | None, clip: str | None):
        """The voice's rows, the same for both models: a comparison of models, not of prompts."""
        if clip is not None:
            from mlx_voxclone.audio.io import read_audio

            source = self.after if self.after is not None and self.after.has_encoder else self.before
            return source.voice_rows(reference=read_audio(clip))
        if voice is None:
            raise DataError("choose a voice, or give a reference clip")
        source = self.after if self.after is not None and voice in self.after.voices else self.before
        return source.voice_rows(voice=voice)

    def speak(self, text: str, voice: str | None, clip: str | None, consent: bool, seed: int) -> tuple[list, str]:
        """Speak with each model; returns their samples (float32) and a line on what happened.

        Raises:
            DataError: no text, a clip without consent, a clip that cannot serve; CheckpointError: no encoder for it.
        """
        from mlx_voxclone.audio.io import read_audio
        from mlx_voxclone.synthesis import reference_warnings, speak

        if not text or not text.strip():
            raise DataError("there is nothing to say: type a sentence")
        if clip is not None and not consent:
            raise DataError("a reference clip needs the consent of the voice's owner: tick the box if you have it")
        rows = self.rows(voice, clip)
        sounds, notes = [], reference_warnings([read_audio(clip)]) if clip is not None else []
        for name, speaker in (("before", self.before), ("after", self.after)):
            if speaker is None:
                continue
            ids = speaker.tokenizer.prompt(spoken(text), rows.shape[0])
            limit = round(MAX_SECONDS * speaker.model.config.codec.frame_rate)
            result = speak(speaker.model, ids, rows, max_frames=limit, seed=seed)
            sounds.append(result.samples)
            seconds = len(result.samples) / speaker.sampling_rate
            notes.append(f"{name}: {seconds:.1f} s" + ("" if result.ended else f", cut off at {MAX_SECONDS} s"))
        return sounds, f"{'; '.join(notes)}. Voice: {'the reference clip' if clip is not None else voice}, seed {seed}."


def handler(studio: Studio, thread: MainThread) -> Callable[..., list]:
    """What the button does: inputs of the page -> player and plot per model, and a line below."""
    import gradio as gr

    def speak(text, voice, clip, consent, seed):
        try:
            sounds, line = thread.call(studio.speak, text, voice, clip, consent, int(seed or 0))
            scale = max((float(np.abs(s).max()) for s in sounds if len(s)), default=0.0) or 1.0
            # The spectrogram is computed with MLX, too.
            plots = [thread.call(_plot, s, studio.before.sampling_rate, scale) for s in sounds]
        except VoxcloneError as e:
            raise gr.Error(str(e), print_exception=False) from None
        outputs = []
        for samples, plot in zip(sounds, plots):
            pcm = (np.clip(samples, -1.0, 1.0) * 32767).astype(np.int16)
            outputs += [(studio.before.sampling_rate, pcm) if len(pcm) else None, plot]
        return [*outputs, line]

    return speak


def _plot(samples: np.ndarray, sample_rate: int, scale: float):
    return sound_figure(samples, sample_rate=sample_rate, scale=scale)


def build(studio: Studio, thread: MainThread, about: str):
    """The page (`gr.Blocks`), not launched. `about`: a line on the models behind it."""
    import gradio as gr

    with gr.Blocks(title="mlx_voxclone", analytics_enabled=False) as page:
        gr.Markdown(f"# mlx_voxclone: before and after\n{about}\n\n> {NOTICE}")
        with gr.Row():
            with gr.Column():
                text = gr.Textbox(studio.sentence, label="Text", lines=3)
                voice = gr.Dropdown(studio.voices, value=next(iter(studio.voices), None), label="Voice")
                clip = gr.Audio(type="filepath", label="or a reference clip, 3 to 25 s (goes before the voice)")
                consent = gr.Checkbox(False, label=CONSENT)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                button = gr.Button("Speak", variant="primary")
            outputs = []
            for name in ("Before", "After") if studio.after is not None else ("Before",):
                with gr.Column():
                    gr.Markdown(f"### {name}")
                    outputs.append(gr.Audio(label=name, interactive=False))
                    outputs.append(gr.Plot(label="Waveform and spectrogram"))
        line = gr.Markdown()
        button.click(handler(studio, thread), [text, voice, clip, consent, seed], [*outputs, line], api_name="speak")
    return page


def open_studio(model: str | None, baked: str | None, miniature: Path) -> tuple[Studio, str]:
    """Load the models; without one, make a miniature in the directory `miniature`. Returns them and a line on them."""
    from mlx_voxclone.synthesis import Speaker

    if model is None:
        from mlx_voxclone.checkpoint.micro import ENCODER_FILE, SPEAKING, make_micro

        if baked is not None:
            raise ConfigError("--baked needs --model: the checkpoint it was baked from, to compare with")
        make_micro(miniature, SPEAKING)
        about = (
            "A miniature that learnt synthetic voices: it speaks syllables of a consonant and a vowel, with its own"
            " voices or with that of a synthetic reference clip. Start with --model and --baked for people's language."
        )
        return Studio(Speaker.load(miniature, encoder=miniature / ENCODER_FILE), sentence=SYLLABLES), about
    message(f"loading {model}")
    before = Speaker.load(model)
    if baked is None:
        return Studio(before), f"{model}. No baked checkpoint to compare with: start with --baked."
    message(f"loading {baked}")
    return Studio(before, Speaker.load(baked)), f"Before: {model}. After: {baked}."


@entry
def main(argv: list[str]) -> int:
    parser = Parser("demo", "A page to listen on: a sentence before and after, with plots.", prog="demo/app.py")
    parser.add_argument("--model", metavar="BEFORE", help="Voxtral directory or hub id; without: a miniature")
    parser.add_argument("--baked", metavar="AFTER", help="checkpoint baked from it (both are loaded: about 17 GB)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets others in")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on; 0 takes any free one")
    add_device(parser)
    options = parser.parse_args(argv)
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise ConfigError("the demo needs gradio: uv sync --extra demo, or pip install 'mlx-voxclone[demo]'") from None
    set_device(options.device)
    with tempfile.TemporaryDirectory(prefix="voxclone-demo-") as directory:
        studio, about = open_studio(options.model, options.baked, Path(directory) / "miniature")
        thread = MainThread()
        page = build(studio, thread, about)
        serve(page, thread, options.host, options.port)
    return 0


def serve(page, thread: MainThread, host: str, port: int, until: Callable[[], bool] = lambda: False) -> None:
    """Launch the page and do the models' work until Ctrl-C (or `until()`).

    Raises:
        ConfigError: the port is taken.
    """
    try:
        _, url, _ = page.launch(
            server_name=host, server_port=port or None, prevent_thread_lock=True, quiet=True, show_error=True
        )
    except OSError as e:
        raise ConfigError(f"port {port} on {host} cannot be used ({e}); choose another with --port") from None
    message(f"open {url} (Ctrl-C ends it)")
    try:
        thread.serve(until)
    except KeyboardInterrupt:
        message("ended")
    finally:
        page.close(verbose=False)


if __name__ == "__main__":
    raise SystemExit(main())
