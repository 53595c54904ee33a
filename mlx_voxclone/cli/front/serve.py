"""`voxclone serve`: speech over HTTP, for programs that know OpenAI's interface."""

from pathlib import Path

from mlx_voxclone.cli.common import Parser, command, message
from mlx_voxclone.cli.options import add_shared, at_once, check_installed, encoder_path, port_number, quantisation
from mlx_voxclone.speech.options import MAX_BATCH

PACKAGES = ("starlette", "uvicorn", "python_multipart", "prometheus_client", "h11")
MOST_QUEUE, MOST_TEXT = 10_000, 1_000_000
_DESCRIPTION = """Serve speech over HTTP, as OpenAI's clients ask for it: POST /v1/audio/speech and others.

Requests are spoken at once, in one batch that they join and leave. Ctrl-C ends it."""


def _options(parser: Parser) -> None:
    add_shared(parser, "--model")
    add_shared(parser, "--adapters", note="; all voices are spoken with them")
    add_shared(parser, "--encoder", note="; for a checkpoint that has none: voices can then be uploaded")
    add_shared(parser, "--bits", note="; takes less memory")
    add_shared(parser, "--group-size")
    parser.add_argument(
        "--voices",
        metavar="DIR",
        help="voices to speak with beside the checkpoint's: a folder, made if missing, to which uploads come",
    )
    parser.add_argument(
        "--voice-adapters",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="LoRA adapters of one voice, in the place of --adapters: DIR or DIR=WEIGHT; repeat for other voices, or to"
        " add several",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; others than this machine's need a key"
    )
    parser.add_argument(
        "--port", type=port_number, default=8000, metavar="N", help="port to listen on; 0 takes any free one"
    )
    parser.add_argument(
        "--api-key", metavar="FILE", help="keys, one a line, of which every request must bring one (Bearer)"
    )
    parser.add_argument(
        "--batch",
        type=at_once,
        default=8,
        metavar="N",
        help="how many are generated at once: utterances; more take more memory",
    )
    parser.add_argument(
        "--queue", type=int, default=64, metavar="N", help="texts that may wait; further requests are answered with 429"
    )
    parser.add_argument(
        "--max-characters", type=int, default=20_000, metavar="N", help="longest text of a request (characters)"
    )
    add_shared(parser, "--device", "--quiet")


def _check(parser: Parser, options) -> None:
    options.quantisation = quantisation(parser, options)
    for name, value, least, most in (
        ("--batch", options.batch, 1, MAX_BATCH),
        ("--queue", options.queue, 0, MOST_QUEUE),
        ("--max-characters", options.max_characters, 1, MOST_TEXT),
    ):
        if not least <= value <= most:
            parser.error(f"{name} must be from {least} to {most}, got {value}")
    for given in options.voice_adapters:
        if not all(given.partition("=")[::2]):
            parser.error(f"--voice-adapters {given}: NAME=DIR is expected")


@command(_DESCRIPTION, _options, _check)
def main(options) -> int:
    check_installed(PACKAGES, "serving needs", "serve")
    from mlx_voxclone.process import signals
    from mlx_voxclone.process.network import take_port
    from mlx_voxclone.process.progress import weight_bar
    from mlx_voxclone.serve.server import Server, check_reach, read_keys, readable_by_others
    from mlx_voxclone.speech.speaker import Speaker

    keys = read_keys(options.api_key) if options.api_key is not None else []
    if keys and readable_by_others(options.api_key):
        message(f"warning: {options.api_key}: other users of this machine may read it; chmod 600 {options.api_key}")
    with take_port(options.host, options.port) as taken:  # before anything is loaded
        check_reach(taken, keys)
        chosen = _server_options(options, keys)
        message(f"loading {options.model}")
        with weight_bar(options.quiet) as advance:
            speaker = Speaker.load(
                options.model,
                encoder=encoder_path(options.encoder),
                quantisation=options.quantisation,
                progress=advance,
            )
        server = Server(speaker, _name(options.model), taken, chosen, message)
        try:
            server.run(lambda: _ready(options, server))
        except KeyboardInterrupt:
            message("ended")
            return 0 if signals.exit_code() == signals.CTRL_C else signals.exit_code()
    return 0


def _server_options(options, keys: list[str]):
    from mlx_voxclone.adapters.mix import AdapterSource
    from mlx_voxclone.serve.server import Options

    of_voices: dict[str, list[AdapterSource]] = {}
    for given in options.voice_adapters:
        name, _, source = given.partition("=")
        of_voices.setdefault(name.lower(), []).append(AdapterSource.parse(source))
    return Options(
        host=options.host,
        keys=keys,
        voices=None if options.voices is None else Path(options.voices),
        adapters=[AdapterSource.parse(text) for text in options.adapters],
        voice_adapters=of_voices,
        rows=options.batch,
        waiting=options.queue,
        most_characters=options.max_characters,
    )


def _name(model: str) -> str:
    path = Path(model)
    return path.resolve().name if path.is_dir() else model


def _ready(options, server) -> None:
    host = f"[{options.host}]" if ":" in options.host and not options.host.startswith("[") else options.host
    voices = [voice.name for voice in server.voices.all()]
    shown = ", ".join(voices[:10]) + (f" and {len(voices) - 10} more" if len(voices) > 10 else "")
    message(f"voices: {shown or 'none'}")
    message(f"listening on http://{host}:{server.port}/v1 (Ctrl-C ends it)")
