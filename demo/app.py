"""A page to listen on: one sentence, spoken before and after, with waveform and spectrogram.

    uv run demo/app.py                                            # on a miniature, nothing to download
    uv run demo/app.py --model mistralai/Voxtral-4B-TTS-2603 --baked runs/clone-ann/baked

What is uploaded and spoken lies in a private temporary folder, which is deleted when the demo ends.
"""

import argparse
import socket
from collections.abc import Callable
from pathlib import Path

from mlx_voxclone.cli.common import Parser, entry, message
from mlx_voxclone.cli.options import add_shared, port_number
from mlx_voxclone.demo.session import private_folder, temporary_files_in
from mlx_voxclone.demo.studio import MainThread, Studio
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.process import signals
from mlx_voxclone.process.device import set_device
from mlx_voxclone.process.network import Names, bare, take_port

SYLLABLES = "papa mino lesu, tara koni sewu."  # what the miniature can say


def open_studio(model: str | None, baked: str | None, miniature: Path) -> tuple[Studio, str]:
    """Load the models; without one, make a miniature in the directory `miniature`. Returns them and a line on them."""
    from mlx_voxclone.speech.speaker import Speaker

    if model is None:
        from mlx_voxclone.miniature.micro import ENCODER_FILE, SPEAKING, make_micro

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
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on, and beside localhost the one name that is answered; 0.0.0.0 lets others in",
    )
    parser.add_argument("--port", type=port_number, default=7860, help="port to listen on; 0 takes any free one")
    add_shared(parser, "--device")
    options = parser.parse_args(argv)
    if options.model is None and options.baked is not None:
        raise ConfigError("--baked needs --model: the checkpoint it was baked from, to compare with")
    try:
        with private_folder() as folder, temporary_files_in(folder):
            return _listen(options, folder)
    except KeyboardInterrupt:
        if signals.exit_code() == signals.CTRL_C:  # before there was a page
            raise
        message("ended")
        return signals.exit_code()


def _listen(options: argparse.Namespace, folder: Path) -> int:
    try:
        from mlx_voxclone.demo.page import build
    except ImportError as e:
        if (e.name or "").partition(".")[0] != "gradio":
            raise
        raise ConfigError("the demo needs gradio: uv sync --extra demo, or pip install 'mlx-voxclone[demo]'") from None
    with take_port(options.host, options.port) as taken:  # before anything is loaded
        set_device(options.device)
        studio, about = open_studio(options.model, options.baked, folder / "miniature")
        thread = MainThread()
        page = build(studio, thread, about)
        serve(page, thread, options.host, options.port, taken=taken)
    return 0


def serve(
    page,
    thread: MainThread,
    host: str,
    port: int,
    until: Callable[[], bool] = lambda: False,
    *,
    taken: socket.socket | None = None,
) -> None:
    """Launch the page and do the models' work until Ctrl-C (or `until()`).

    Args:
        taken: holds the port up to now (`take_port`).

    Raises:
        ConfigError: the port is taken.
    """
    from starlette.middleware import Middleware

    from mlx_voxclone.demo.guard import Guard
    from mlx_voxclone.demo.inputs import UPLOAD_LIMIT

    with taken or take_port(host, port) as held:
        port = held.getsockname()[1]
    try:
        _, url, _ = page.launch(
            server_name=f"[{bare(host)}]" if ":" in bare(host) else host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            share=False,
            ssr_mode=False,
            max_file_size=UPLOAD_LIMIT,
            app_kwargs={"middleware": [Middleware(Guard, names=Names(host))]},
        )
    except OSError as e:
        raise ConfigError(f"port {port} on {host} cannot be used ({e}); choose another with --port") from None
    message(f"open {url} (Ctrl-C ends it)")
    try:
        thread.serve(until)
    except KeyboardInterrupt:
        if signals.exit_code() != signals.CTRL_C:  # `main` says so
            raise
        message("ended")
    finally:
        page.close(verbose=False)


if __name__ == "__main__":
    raise SystemExit(main())
