"""A figure as inline SVG: its text stays text, and its colours follow the page, light, dark and on paper.

Matplotlib writes a whole file with inline styles, which our pages forbid. Here styles become presentation attributes,
colours become classes (`look.css`: `.plot`), identifiers become unique within the page, and the font is the page's.
"""

import hashlib
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from html import escape, unescape
from typing import TYPE_CHECKING

from mlx_voxclone.report.plots import HELDOUT, INK, TRAIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS = 110 / 72  # of a page for each point of the figure
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_COLOURS = {
    "#000000": "ink",
    INK: "ink",
    "black": "ink",
    TRAIN: "first",
    HELDOUT: "second",
}  # -> of a class in look.css
_KEPT = {  # properties of a style that become attributes
    *("fill", "fill-opacity", "fill-rule", "opacity", "stroke", "stroke-dasharray", "stroke-dashoffset"),
    *("stroke-linecap", "stroke-linejoin", "stroke-opacity", "stroke-width", "font-size", "text-anchor"),
    "image-rendering",
}
_DECIMALS = re.compile(r"-?\d+\.\d{2,}")
_REFERENCE = re.compile(r"#([\w.-]+)")
_TEXT = re.compile(r"(<text\b[^>]*>)([^<]*)(?=</text>)")
_NUMBER = re.compile(r"[-\N{MINUS SIGN}]?\d+\.\d+")


def drawing(figure: "Figure", alternative: str) -> str:
    """HTML of a figure.

    Args:
        alternative: text for screen readers.
    """
    return f'<div role="img" aria-label="{escape(alternative)}">{svg(figure)}</div>'


def svg(figure: "Figure") -> str:
    """A figure as `<svg class="plot">`, with English texts; see `in_language`."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "plot"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ET.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        _plain(element)
    _name(root, hashlib.sha256(buffer.getvalue().encode()).hexdigest()[:8])
    _, _, width, height = (float(value) for value in root.attrib.pop("viewBox").split())
    size = {
        "viewBox": f"0 0 {width:g} {height:g}",
        "width": f"{PIXELS * width:.0f}",
        "height": f"{PIXELS * height:.0f}",
    }
    root.attrib = {"class": "plot", **size, "stroke-linejoin": "round", "stroke-linecap": "butt"}
    return re.sub(r">\s+<", "><", ET.tostring(root, encoding="unicode"))


def in_language(drawn: str, words: Mapping[str, str], point: str) -> str:
    """The SVG of `svg` with its texts in another language.

    Args:
        words: translations by whole English texts.
        point: decimal separator.
    """

    def translated(match: re.Match) -> str:
        text = unescape(match[2])
        text = text.replace(".", point) if _NUMBER.fullmatch(text) else words.get(text, text)
        return match[1] + escape(text, quote=False)

    return _TEXT.sub(translated, drawn)


def _plain(element: ET.Element) -> None:
    """Turn a style into attributes and its colours into classes; round numbers to two decimals."""
    classes = []
    for part in element.attrib.pop("style", "").split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name not in _KEPT:
            continue
        if name in ("fill", "stroke") and value in _COLOURS:
            classes.append(f"{name}-{_COLOURS[value]}")
        element.set(name, value.removesuffix("px"))
    if element.tag == "text" and "fill" not in element.attrib:
        classes.append("fill-ink")
    if classes:
        element.set("class", " ".join(classes))
    if _LINK in element.attrib:
        link = element.attrib.pop(_LINK)
        element.set("href", link if link.startswith("#") else "".join(link.split()))
    for name in ("d", "x", "y", "points", "transform", "width", "height"):
        if name in element.attrib:
            shortened = _DECIMALS.sub(
                lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), element.attrib[name]
            )
            element.set(name, " ".join(shortened.split()))


def _name(root: ET.Element, mark: str) -> None:
    """Make identifiers unique within a page by `mark`; drop those that nothing refers to."""
    named = {
        name
        for element in root.iter()
        for value in (element.get("href", ""), element.get("clip-path", ""))
        if len(value) < 200
        for name in _REFERENCE.findall(value)
    }
    for element in root.iter():
        if (own := element.attrib.pop("id", None)) in named:
            element.set("id", f"{mark}-{own}")
        for name in ("href", "clip-path"):
            if len(value := element.get(name, "")) < 200 and "#" in value:
                element.set(name, _REFERENCE.sub(rf"#{mark}-\1", value))
