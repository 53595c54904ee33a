"""Write the generated parts of the documentation: commands, configuration, Python API, package layout, log index.

    python docs/generate.py            # rewrite what has changed
    python docs/generate.py --check    # change nothing; exit code 1 if something is out of date

A page holds a generated part between `<!-- generated: NAME -->` and `<!-- end -->`; the rest is written by hand. The
results are checked in, so that they can be read without a build, and a test keeps them current.
"""

import argparse
import ast
import re
import sys
from pathlib import Path

from generators.commands import command_names as command_names
from generators.commands import commands_page
from generators.commands import option_strings as option_strings
from generators.commands import parsed as parsed
from generators.commands import parser_of as parser_of
from generators.configuration import configuration_page
from generators.markdown import DOCS, ROOT, cell
from generators.python_api import python_page

PACKAGE = ROOT / "mlx_voxclone"

_REGION = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def package_page() -> str:
    """The package's folders with the first paragraph of their docstrings."""
    lines = ["| folder | holds |", "|---|---|"]
    for folder in sorted(path.parent for path in PACKAGE.rglob("__init__.py")):
        if folder == PACKAGE:
            continue
        docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        name = folder.relative_to(PACKAGE).as_posix()
        lines.append(f"| `{name}/` | {cell(docstring.partition(chr(10) * 2)[0])} |")
    return "\n".join([*lines, ""])


def log_entries(text: str) -> list[tuple[str, str, str]]:
    """(date, title, verdict) of each entry of the log, in its order; the verdict is empty where there is none."""
    found = []
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        date, _, title = heading.strip().partition(" ")
        verdict = re.match(r"\s*\*Verdict: (.*?)\*\n", body, re.DOTALL)
        found.append((date, title, " ".join(verdict[1].split()) if verdict else ""))
    return found


def heading_anchor(heading: str) -> str:
    """The fragment of a heading, as both GitHub and Python-Markdown make it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())


def verdicts_page() -> str:
    """The log's entries with their verdicts."""
    lines = ["| date | entry | verdict |", "|---|---|---|"]
    for date, title, verdict in log_entries((DOCS / "LOG.md").read_text(encoding="utf-8")):
        lines.append(f"| {date} | [{cell(title)}](LOG.md#{heading_anchor(f'{date} {title}')}) | {cell(verdict)} |")
    return "\n".join([*lines, ""])


PARTS = {
    "commands": commands_page,
    "configuration": configuration_page,
    "python": python_page,
    "package": package_page,
    "verdicts": verdicts_page,
}


def current(text: str) -> str:
    """A page's text with its generated parts as they should be."""
    return _REGION.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]().strip()}\n\n{match[4]}", text)


def pages() -> list[Path]:
    """The pages with generated parts."""
    return [path for path in sorted(DOCS.rglob("*.md")) if _REGION.search(path.read_text(encoding="utf-8"))]


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the generated parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if something is out of date")
    options = parser.parse_args()
    stale = {path: new for path in pages() if (new := current(path.read_text("utf-8"))) != path.read_text("utf-8")}
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)}: {'out of date' if options.check else 'written'}")
        if not options.check:
            path.write_text(text, encoding="utf-8")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
