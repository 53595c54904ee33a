"""`voxclone config`: what the keys of a configuration mean, which configurations there are, what one comes to."""

import textwrap
from typing import TYPE_CHECKING

from mlx_voxclone.cli.common import Parser, command
from mlx_voxclone.cli.options import add_shared

if TYPE_CHECKING:
    from mlx_voxclone.settings.explain import Explained

_DESCRIPTION = """Explain the configuration.

Without KEY: its sections, and the configurations that come with voxclone. With the name of a section: its keys. With a
key: its type, default, bounds and meaning, and what uses it. Names are dotted, such as speaker.lora.rank."""
WIDTH = 110


def _options(parser: Parser) -> None:
    parser.add_argument("key", nargs="?", metavar="KEY", help="section or key, such as data or speaker.lora.rank")
    parser.add_argument("--profiles", action="store_true", help="list the configurations and profiles that are shipped")
    parser.add_argument(
        "--print",
        metavar="FILE_OR_NAME",
        help="print a configuration complete, as YAML: a file, or a shipped one by name, such as mac-32gb",
    )
    add_shared(parser, "--set", note="; for --print")
    add_shared(parser, "--quiet")


def _check(parser: Parser, options) -> None:
    if sum((options.key is not None, options.profiles, options.print is not None)) > 1:
        parser.error("KEY, --profiles and --print exclude each other: give one of them")
    if options.set and options.print is None:
        parser.error("--set changes a configuration; name one with --print")


@command(_DESCRIPTION, _options, _check)
def main(options) -> None:
    from mlx_voxclone.settings import explain
    from mlx_voxclone.settings.config import load_run_config, parse_set

    if options.print is not None:
        print(load_run_config(options.print, parse_set(options.set)).dump(), end="")
    elif options.profiles:
        print(table(explain.summaries()))
    elif options.key is None:
        print(
            "sections\n", table(explain.sections()), "\nkeys outside of sections\n", keys(explain.top_keys()), sep="\n"
        )
        print("\nconfigurations and profiles\n", table(explain.summaries()), sep="\n")
    elif isinstance(found := explain.explain(options.key), list):
        parts = [keys(found), table(explain.sections(options.key))]
        print("\n\n".join(part for part in parts if part))
    else:
        print(one_key(found))


def table(lines: dict[str, str]) -> str:
    """A line for each name, its text cut to one line."""
    width = max(map(len, lines), default=0)
    return "\n".join(f"  {name:<{width}}  {_short(text, WIDTH - width)}".rstrip() for name, text in lines.items())


def keys(explained: "list[Explained]") -> str:
    """A line for each key: name, default, meaning."""
    names = [each.key.rpartition(".")[2] for each in explained]
    width, widest = max(map(len, names), default=0), 30
    lines = []
    for name, each in zip(names, explained):
        room = WIDTH - width - widest
        lines.append(
            f"  {name:<{width}}  {_short(each.default, widest):<{widest}}  {_short(each.comment, room)}".rstrip()
        )
    return "\n".join(lines)


def one_key(explained: "Explained") -> str:
    """A key in full."""
    facts = {
        "type": explained.kind,
        "default": explained.default,
        "bounds": explained.bounds,
        "unit": explained.unit,
        "meaning": explained.comment or None,
        "used by": explained.used,
    }
    lines = [explained.key]
    for title, text in facts.items():
        if text is not None:
            lines += textwrap.wrap(text, WIDTH, initial_indent=f"  {title:<8} ", subsequent_indent=" " * 11)
    return "\n".join(lines)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 4].rstrip()} ..."
