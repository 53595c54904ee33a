"""Figures within a page: nothing that a page's policy forbids, its colours, its font, texts in its language."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from mlx_voxclone.evaluate.measure import Change, Interval
from mlx_voxclone.report.look import style
from mlx_voxclone.report.plots import Series, changes_figure, curves_figure, sound_figure
from mlx_voxclone.report.vector import _COLOURS, drawing, in_language, svg

LINES = [Series("training", [0, 5, 10], [0.3, 0.2, 0.1]), Series("held out", [0, 10], [0.4, 0.25], heldout=True)]


def tone(seconds=0.3):
    return (0.4 * np.sin(np.arange(int(24000 * seconds)) / 9)).astype(np.float32)


def figures():
    change = Change(0.5, 0.25, Interval(-0.25, -0.4, -0.1, 9), "better")
    return {
        "sound": sound_figure(tone()),
        "with the original": sound_figure(tone(), original=tone(0.2)),
        "nothing": sound_figure(np.zeros(0)),
        "curves": curves_figure([("loss", LINES), ("a <b> & c", LINES[:1])], 5),
        "changes": changes_figure({"cer": change}),
    }


@pytest.fixture(scope="module")
def drawn():
    return {name: svg(figure) for name, figure in figures().items()}


def test_nothing_that_a_policy_without_inline_styles_forbids(drawn):
    for name, text in drawn.items():
        root = ET.fromstring(text)  # well formed
        assert root.attrib["class"] == "plot"
        for element in root.iter():
            assert element.tag not in ("style", "script", "metadata"), name
            assert not {one for one in element.attrib if one == "style" or one.startswith("on")}, name
            address = element.get("href", "#")
            assert address.startswith(("#", "data:image/png;base64,"))
        assert "font-family" not in text, name


def test_every_colour_is_one_of_the_pages(drawn):
    """So that it is seen in the dark: what a figure names besides is an image's or nothing."""
    sheet = style()
    for colour in set(_COLOURS.values()):
        assert all(f".plot .{what}-{colour} {{" in sheet for what in ("fill", "stroke"))
    for name, text in drawn.items():
        for element in ET.fromstring(text).iter():
            classes = element.get("class", "").split()
            for what in ("fill", "stroke"):
                value = element.get(what, "none")
                if value != "none":
                    assert f"{what}-{_COLOURS.get(value)}" in classes, (name, element.tag, what, value)
            if element.tag == "text":
                assert "fill-ink" in classes, name


def test_names_are_of_one_drawing_and_lead_somewhere(drawn):
    owners = {}
    for name, text in drawn.items():
        own = re.findall(r'\bid="([^"]+)"', text)
        assert len(own) == len(set(own)), name
        for one in own:
            assert owners.setdefault(one, name) == name
        used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
        assert used == set(own), name


def test_texts_are_texts_and_in_any_language(drawn):
    words = {"level": "Ausschlag", "seconds": "Sekunden", "a <b> & c": "x < y"}
    texts = {}
    for name, text in drawn.items():
        told = in_language(text, words, ",")
        texts[name] = [element.text or "" for element in ET.fromstring(told).iter("text")]
    assert {"Ausschlag", "Sekunden", "Hz"} <= set(texts["sound"])
    assert any(re.fullmatch(r"\d+,\d+", one) for one in texts["sound"])
    assert "x < y" in texts["curves"]
    for name in ("sound", "with the original", "curves"):
        assert not [one for one in texts[name] if re.search(r"\d\.\d", one)], name
    assert in_language(drawn["sound"], {}, ".") == drawn["sound"]


def test_it_is_told_in_words(drawn):
    assert drawing(figures()["nothing"], 'a "b" <c>').startswith(
        '<div role="img" aria-label="a &quot;b&quot; &lt;c&gt;"><svg class="plot" '
    )
