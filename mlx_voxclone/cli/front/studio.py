"""`voxclone studio`: from the microphone to a voice, in the browser."""

import threading
import webbrowser
from pathlib import Path

from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import add_shared, check_installed, port_number

FOLDER = "~/voxclone-studio"
PACKAGES = ("starlette", "uvicorn", "python_multipart", "jinja2", "h11")
_DESCRIPTION = """Open a page in the browser: record, train, listen, speak and keep voices.

What is recorded and made lies in the studio's folder and stays on this machine. Ctrl-C ends it; a training goes on."""


def _options(parser: Parser) -> None:
    parser.add_argument("--folder", metavar="DIR", default=FOLDER, help="where voices are kept; made if missing")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on, and beside localhost the one name that is answered",
    )
    parser.add_argument(
        "--port", type=port_number, default=7861, metavar="N", help="port to listen on; 0 takes any free one"
    )
    parser.add_argument(
        "--share-token",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="let in only who brings a token, one for each name; an address with it is printed for each, the same after"
        " a restart. Everybody sees their own voices alone; those made without tokens are of the name me. Needed where"
        " other machines can reach --host",
    )
    parser.add_argument(
        "--new-tokens", action="store_true", help="replace the tokens of these names: earlier addresses lead nowhere"
    )
    parser.add_argument(
        "--proxy",
        metavar="NAME",
        help="public name of an https proxy in front of the studio; needs --share-token. To choose a model or publish a"
        " voice, start the studio without it",
    )
    parser.add_argument("--no-open", action="store_true", help="do not open the browser; with tokens it is not")
    add_shared(parser, "--device", "--quiet")


def _check(parser: Parser, options) -> None:
    if options.new_tokens and not options.share_token:
        parser.error("--new-tokens replaces those of --share-token; name whose")
    if options.proxy is not None:
        from mlx_voxclone.process.network import is_name

        if not is_name(options.proxy):
            parser.error(f"--proxy {options.proxy}: give a host's name alone, such as studio.example.org")
        if not options.share_token:
            parser.error("--proxy lets others in, who could see and use these voices; give --share-token NAME")


@command(_DESCRIPTION, _options, _check)
def main(options) -> int:
    check_installed(PACKAGES, "the studio needs", "studio")
    from mlx_voxclone.files.locks import held
    from mlx_voxclone.process import signals
    from mlx_voxclone.process.network import reached_from_outside, shown, take_port

    folder = Path(options.folder).expanduser()
    with take_port(options.host, options.port) as taken, held(folder):  # before anything is loaded
        from mlx_voxclone.studio.server import Served
        from mlx_voxclone.studio.state import Studio
        from mlx_voxclone.studio.web.tokens import Tokens, check_reach

        check_reach(taken, options.share_token)
        tokens = Tokens(folder, options.share_token, new=options.new_tokens)
        studio = Studio(folder, bound_wide=reached_from_outside(taken) is not None)
        served = Served(studio, taken, options.host, tokens, options.proxy)
        address = f"http://{shown(options.host)}:{served.port}/"
        others = address if options.proxy is None else f"https://{options.proxy}/"

        def ready() -> None:
            message(f"voices are kept in {folder}")
            for name, token in tokens.by_name.items():
                message(f"for {name}: {others}?token={token}")
            message(f"{'waiting at' if tokens.needed else 'open'} {address} (Ctrl-C ends it)")
            if not options.no_open and not tokens.needed:  # others on this machine see what a browser is started with
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        try:
            served.run(ready)
        except KeyboardInterrupt:
            message("ended")
            return 0 if signals.exit_code() == signals.CTRL_C else signals.exit_code()
    return 0
