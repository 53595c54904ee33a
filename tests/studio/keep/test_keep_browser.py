"""Keeping voices in a real browser, by the keyboard alone: another name, an export, a download, deletion."""

import shutil
from collections.abc import Iterator

import mlx.core as mx
import numpy as np
import pytest
import soundfile
from browser import PHONE, opened, play, shifts, sideways, violations
from publishable import make_run
from visiting import on_a_port

from mlx_voxclone.audio.io import SAMPLE_RATE
from mlx_voxclone.checkpoint.release import Release
from mlx_voxclone.checkpoint.voices import read_voice
from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.studio.state import Studio
from mlx_voxclone.studio.web.tokens import Tokens

pytest_plugins = ["baking", "browser"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(base, encoder, adapters, tmp_path_factory) -> Iterator[tuple[Studio, str, Tokens]]:
    """A studio on a port with a voice of Ann's that is ready, its address, its tokens."""
    folder = tmp_path_factory.mktemp("studio")
    tokens = Tokens(folder, ["ann", "ben"])
    studio = Studio(folder)
    voice = studio.home.person("ann").new_project("Ann", "en")
    make_run(voice.run, base, encoder, adapters)
    shutil.rmtree(voice.run / "data")
    tone = np.sin(np.arange(3 * SAMPLE_RATE) / 20).astype(np.float32) / 4
    soundfile.write(voice.run / "samples" / "after-1.wav", tone, SAMPLE_RATE)
    with on_a_port(studio, tokens) as address:
        yield studio, address, tokens


def reach(page, selector: str) -> None:
    """Press Tab until something has the focus, which must be seen."""
    for _ in range(80):
        if page.evaluate("(s) => document.activeElement?.matches(s)", selector):
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"{selector}: its focus is not seen"
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{page.url}: {selector} is not reached by Tab")


def press(page, selector: str, key: str = "Enter") -> None:
    reach(page, selector)
    page.keyboard.press(key)


def test_a_voice_is_kept_by_keyboard(served, chromium, tmp_path):
    studio, address, tokens = served
    (voice,) = studio.home.person("ann").projects()
    with opened(chromium, f"{address}/voices?token={tokens.by_name['ann']}") as page:
        page.set_default_timeout(180_000)
        assert page.url == f"{address}/voices"
        assert violations(page) == []
        assert shifts(page) < 0.01
        assert play(page, "Ann, a sample") > 0

        press(page, f"a[href='/voices/{voice.id}']")
        page.wait_for_url(f"**/voices/{voice.id}")
        assert violations(page) == []
        reach(page, "#title")
        page.keyboard.press("Control+A")
        page.keyboard.type("Annabella")
        page.keyboard.press("Enter")
        page.wait_for_url("**?done=renamed")
        assert page.title().startswith("Annabella")

        reach(page, "input[name=bits]")
        while page.evaluate("document.activeElement.value") != "full":
            page.keyboard.press("ArrowUp")
        press(page, "form[action$='/bake'] button")
        heading = page.get_by_role("heading", name="A checkpoint for mlx-audio")
        heading.wait_for(timeout=300_000)  # it comes by itself
        assert Release(voice.exports / "mlx-audio").voices()
        assert violations(page) == []

        with page.expect_download() as caught:
            press(page, f"a[href='/files/voices/{voice.id}/voice.safetensors/ann.safetensors']")
        file = tmp_path / caught.value.suggested_filename
        caught.value.save_as(file)
        assert file.name == "ann.safetensors"
        baked = voice.run / "baked"
        assert mx.array_equal(read_voice(file), Release(baked).voice("ann")).item()
        argv = ["say", "--model", baked, "--voice", file, "--text", "Good morning.", "--output", tmp_path / "said.wav"]
        assert voxclone([str(a) for a in [*argv, "--max-seconds", "2", "--quiet"]]) == 0

        press(page, f"a[href='/voices/{voice.id}/delete']")
        page.wait_for_url("**/delete")
        assert violations(page) == []
        reach(page, "#typed")
        page.keyboard.type("Ann")
        page.keyboard.press("Enter")
        page.get_by_text("That is not the name of the voice").wait_for()
        assert voice.folder.exists()
        reach(page, "#typed")
        page.keyboard.press("Control+A")
        page.keyboard.type("annabella")
        press(page, "button.danger")
        page.wait_for_url("**/voices?done=deleted")
        assert page.get_by_text("There are no voices yet").is_visible()
        assert not voice.folder.exists()


@pytest.mark.parametrize("dark", [False, True])
def test_pages_fit_a_phone_in_both_languages(served, chromium, dark):
    studio, address, tokens = served
    ben = studio.home.person("ben")
    voice = ben.new_project("Ein ziemlich langer Name für eine Stimme, die noch aufgenommen wird", "de")
    with opened(chromium, f"{address}/?token={tokens.by_name['ben']}", width=PHONE, dark=dark, locale="de-DE") as page:
        for path in ("/voices", f"/voices/{voice.id}", f"/voices/{voice.id}/delete", f"/voices/{voice.id}/publish"):
            page.goto(address + path)
            assert page.locator("html").get_attribute("lang") == "de"
            assert sideways(page) <= 0, path
            assert violations(page) == [], path


def test_without_a_token_there_is_a_page_that_says_so(served, chromium):
    _, address, _ = served
    with chromium.new_context() as window:
        page = window.new_page()
        answer = page.goto(f"{address}/voices")
        assert answer.status == 401
        assert "address of your own" in page.locator("main").inner_text()
        assert violations(page) == []
