"""Pages in a real browser: Chromium by Playwright, axe for accessibility (a pytest plugin, see `pytest_plugins`).

What is missing fails the test with the command that installs it: a page that nobody opened is not tested.
PYTEST_DONT_REWRITE, since tests import its functions, too.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

WIDE, PHONE = 1100, 320  # CSS pixels
LEVEL_AA = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OWN = re.compile(r"(file|data|blob|about|chrome-error):|https?://(127\.0\.0\.1|localhost|\[::1\])[:/]")
_REFUSED = "status of 422"  # a form that was not filled in well: the page shows why, Chromium notes it on its console


@contextlib.contextmanager
def launched(*arguments: str) -> Iterator["Browser"]:
    """A Chromium without a window, with further arguments of its command line.

    Not for a whole session: while it is open, asyncio.run does not work on this thread.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        pytest.fail("Playwright is not installed: uv sync (group dev), or pip install playwright", pytrace=False)
    with contextlib.ExitStack() as stack:
        with (
            pytest.MonkeyPatch.context() as patch
        ):  # MLX's BLAS is of no use to a browser; the tests' own work keeps it
            patch.delenv("LD_PRELOAD", raising=False)
            playwright = stack.enter_context(sync_playwright())
            environment = dict(os.environ)
        options = ["--no-sandbox", *arguments]  # a container's root has none
        browser = playwright.chromium.launch(executable_path=_executable(playwright), args=options, env=environment)
        stack.callback(browser.close)
        yield browser


def _executable(playwright) -> str:
    found = next(filter(None, map(shutil.which, _NAMES)), playwright.chromium.executable_path)
    if not os.path.isfile(found):
        ways = "apt-get install chromium, or uv run playwright install chromium"
        pytest.fail(f"Chromium is not installed: {ways}", pytrace=False)
    return found


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(chromium) -> Iterator[Callable[..., "Page"]]:
    """A function that opens an address or a file in a window of its own; see `opened`.

    Mistakes of scripts, requests that fail or go elsewhere than this machine fail the test at its end.
    """
    with contextlib.ExitStack() as stack:
        yield lambda address, **options: stack.enter_context(opened(chromium, address, **options))


@contextlib.contextmanager
def opened(
    browser: "Browser", address: str | Path, *, width: int = WIDE, dark: bool = False, still: bool = False, **context
) -> Iterator["Page"]:
    """`still`: who wants less motion. `context`: further options of Playwright's new_context."""
    options = {
        "viewport": {"width": width, "height": 900},
        "color_scheme": "dark" if dark else "light",
        "reduced_motion": "reduce" if still else "no-preference",
        **context,
    }
    with contextlib.closing(browser.new_context(**options)) as window:
        page, wrong = window.new_page(), []
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.on("console", lambda said: wrong.extend(_mistake(said)))
        page.on("request", lambda r: _OWN.match(r.url) or wrong.append(f"goes elsewhere: {r.url}"))
        page.goto(address.resolve().as_uri() if isinstance(address, Path) else address)
        yield page
        if wrong:
            raise AssertionError(f"{page.url}: " + "\n".join(wrong))


def _mistake(said: "ConsoleMessage") -> list[str]:
    """A page without an icon is none; Chromium looks for one by itself."""
    address = said.location["url"]
    counts = said.type == "error" and _REFUSED not in said.text and not address.endswith("/favicon.ico")
    return [f"console: {said.text} ({address})"] if counts else []


def violations(page: "Page") -> list[str]:
    """What axe finds against WCAG 2.2 AA: rule, element, reason."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ModuleNotFoundError:
        pytest.fail("axe is not installed: uv sync (group dev), or pip install axe-playwright-python", pytrace=False)
    page.evaluate("() => Promise.allSettled(document.getAnimations().map((one) => one.finished))")  # colours in between
    found = Axe().run(page, options={"runOnly": LEVEL_AA}).response["violations"]
    return [f"{rule['id']}: {node['html'][:200]}: {node['failureSummary']}" for rule in found for node in rule["nodes"]]


def sideways(page: "Page") -> int:
    """By how many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def shifts(page: "Page") -> float:
    """The sum of the layout shifts since the page was opened, but for those that a click or a key has just caused."""
    return page.evaluate(
        """() => new Promise((done) => {
             let sum = 0;
             const count = (entry) => { sum += entry.hadRecentInput ? 0 : entry.value; };
             new PerformanceObserver((list) => list.getEntries().forEach(count))
               .observe({ type: "layout-shift", buffered: true });
             requestAnimationFrame(() => setTimeout(() => done(sum), 100));
           })"""
    )


def play(page: "Page", label: str) -> float:
    """Press the button of the `<voice-player>` of a label; returns the seconds at which its sound is, once it moves."""
    player = page.locator("voice-player", has=page.locator("audio[aria-label=" + f'"{label}"' + "]")).first
    player.locator(".player-button").click()
    audio = player.locator("audio").element_handle()
    page.wait_for_function("(audio) => !audio.paused && audio.currentTime > 0.05", arg=audio)
    return audio.evaluate("(audio) => audio.currentTime")
