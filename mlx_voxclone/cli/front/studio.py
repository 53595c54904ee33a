"""`voxclone studio`: from the microphone to a voice, in the browser."""

import argparse
import threading
import webbrowser
from pathlib import Path

from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import add_shared

FOLDER = "~/voxclone-studio"
PACKAGES = ("starlette", "uvicorn", "python_multipart", "jinja2", "h11")
_DESCRIPTION = """Open a page in the browser: record, train, listen, speak and keep voices.

What is recorded and made lies in the studio's folder and stays on this machine. Ctrl-C ends it; a training goes on."""


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a port from 0 to 65535 expected, got {text!r}")
    return int(text)


def _options(parser: Parser) -> None:
    parser.add_argument("--folder", metavar="DIR", default=FOLDER, help="where voices are kept; made if missing")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on, and beside localhost the one name that is answered",
    )
    parser.add_argument("--port", type=_port, default=7861, metavar="N", help="port to listen on; 0 takes any free one")
    parser.add_argument("--no-open", action="store_true", help="do not open the browser")
    add_shared(parser, "--device", "--quiet")


@command(_DESCRIPTION, _options)
def main(options) -> int:
    _check_installed()
    from mlx_voxclone.files.locks import held
    from mlx_voxclone.process import signals
    from mlx_voxclone.process.network import bare, take_port

    folder = Path(options.folder).expanduser()
    with take_port(options.host, options.port) as taken, held(folder):  # before anything is loaded
        from mlx_voxclone.studio.server import Served
        from mlx_voxclone.studio.state import Studio

        served = Served(Studio(folder), taken, options.host)
        host = f"[{bare(options.host)}]" if ":" in options.host else options.host
        address = f"http://{host}:{served.port}/"

        def ready() -> None:
            message(f"voices are kept in {folder}")
            message(f"open {address} (Ctrl-C ends it)")
            if not options.no_open:
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        try:
            served.run(ready)
        except KeyboardInterrupt:
            message("ended")
            return 0 if signals.exit_code() == signals.CTRL_C else signals.exit_code()
    return 0


def _check_installed() -> None:
    import importlib

    from mlx_voxclone.errors import ConfigError

    for package in PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as e:
            raise ConfigError(f"the studio needs {package} ({e}); pip install 'mlx-voxclone[studio]'") from None
