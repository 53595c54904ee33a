"""README and the documentation hold together: sizes, links, generated parts, verdicts, navigation."""

import re
from pathlib import Path

import pages
import pytest
import yaml
from pages import DOCS, README, ROOT


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= 8000


def test_the_readme_holds_the_two_commands_that_ci_runs():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = re.findall(r"^(?:SMOKE|TESTS)='(.*)'$", script, re.MULTILINE)
    assert len(commands) == 2
    lines = README.read_text(encoding="utf-8").splitlines()
    assert all(command in lines for command in commands)


@pytest.mark.parametrize("page", pages.generator().pages(), ids=pages.name)
def test_generated_parts_are_current(page: Path):
    """`python docs/generate.py` writes them."""
    text = page.read_text(encoding="utf-8")
    assert pages.generator().current(text) == text, "run: python docs/generate.py"


def test_everything_that_can_be_generated_is():
    regions = {
        part
        for page in pages.generator().pages()
        for part in re.findall(r"<!-- generated: (\w+) -->", page.read_text(encoding="utf-8"))
    }
    assert regions == set(pages.generator().PARTS)


def test_the_reference_holds_every_command_key_and_folder():
    """The generators leave nothing out."""
    from mlx_voxclone.settings.config import schema_keys

    commands = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    for command in pages.generator().command_names():
        for option in pages.generator().option_strings(command) - {"-h", "--help"}:
            assert f"`{option}`" in commands, (command, option)
    configuration = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
    sections = {key.rpartition(".")[0] for key in schema_keys()}
    rows = dict(re.findall(r"^\| `([\w.]+)` \|.* \| (.*) \|$", configuration, re.MULTILINE))
    assert set(rows) == set(schema_keys()) - sections
    assert [key for key, meaning in rows.items() if not meaning.strip()] == []
    architecture = (DOCS / "architecture.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in ROOT.glob("mlx_voxclone/*/__init__.py")}
    assert [folder for folder in folders if f"`{folder}/`" not in architecture] == []


@pytest.mark.parametrize("page", pages.ALL, ids=pages.name)
def test_links_lead_somewhere(page: Path):
    broken = []
    for link in pages.links(page):
        if re.match(r"https?://", link):
            continue
        target, _, fragment = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (fragment and fragment not in pages.anchors(path)):
            broken.append(link)
        elif page != README and DOCS not in path.parents:
            broken.append(f"{link} leaves the site")
    assert broken == []


def test_broken_links_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `b` c, d\n\n[x](y.md#z) `[no](link.md)` ![p](q.svg)\n\n```text\n[no](other.md)\n```\n")
    assert pages.links(page) == ["y.md#z", "q.svg"]
    assert pages.anchors(page) == {"a-b-c-d"}


def test_every_page_is_in_the_navigation():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]

    def named(node) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [page for each in (node.values() if isinstance(node, dict) else node) for page in named(each)]

    assert sorted(named(navigation)) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_every_entry_of_the_log_has_a_verdict():
    entries = pages.generator().log_entries((DOCS / "LOG.md").read_text(encoding="utf-8"))
    assert len(entries) > 30
    assert [title for _, title, verdict in entries if not verdict] == [], "begin the entry with *Verdict: one line.*"
    assert [title for _, title, verdict in entries if len(verdict) > 250] == []
    assert [date for date, _, _ in entries] == sorted((date for date, _, _ in entries), reverse=True)
