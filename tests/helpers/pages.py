"""README and the documentation as tests read them: fenced blocks, shell commands, inline code, links, headings."""

import importlib.util
import re
import shlex
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from places import ROOT

DOCS = ROOT / "docs"
README = ROOT / "README.md"
REPORTS = (DOCS / "LOG.md", DOCS / "recovery" / "results.md")  # of experiments: their commands are of their day
ALL = (README, *sorted(DOCS.rglob("*.md")))
GUIDES = tuple(page for page in ALL if page not in REPORTS)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@cache
def generator() -> ModuleType:
    """`docs/generate.py`, which knows the commands' parsers."""
    sys.path.insert(0, str(DOCS))  # as if it were run
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Block:
    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        first = self.text.strip().splitlines()[0]
        return f"{name(self.page)}: {first[:60]}"


def name(page: Path) -> str:
    """The page's path as messages and test ids show it."""
    return page.relative_to(ROOT).as_posix()


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of README and guides in these languages, or in any."""
    texts = {page: page.read_text(encoding="utf-8") for page in GUIDES}
    found = [Block(page, match[1], match[2]) for page, text in texts.items() for match in _FENCE.finditer(text)]
    return [block for block in found if not languages or block.language in languages]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def spans(page: Path) -> list[str]:
    """The inline code of a page, on one line each."""
    return [" ".join(match[2].split()) for match in _SPAN.finditer(prose(page))]


def links(page: Path) -> list[str]:
    """The targets of a page's links and images."""
    return _LINK.findall(_SPAN.sub("", prose(page)))


def anchors(page: Path) -> set[str]:
    """The fragments by which a page's headings are linked."""
    headings = re.findall(r"^#{1,6} +(.+?) *$", prose(page), re.MULTILINE)
    return {generator().heading_anchor(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)) for heading in headings}


def shell_commands(text: str) -> list[list[str]]:
    """The commands of shell text as words: without comments, lines joined at a backslash, split at | and &&."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&")
        lexer.whitespace_split = True
        for word in [*lexer, "&&"]:
            if word in ("|", "&&"):
                found += [words] if words else []
                words = []
            else:
                words.append(word)
    return found
