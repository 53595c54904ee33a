"""A report's page, read as a browser reads it, and pictures and tones for it."""

from html.parser import HTMLParser

import numpy as np

from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav

PNG = b"\x89PNG\r\n\x1a\n"


VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Text, drawings (`images`: by what they show), players and tables; refuses what is not closed in order."""

    def __init__(self, path):
        super().__init__()
        self.open, self.text, self.images, self.audio, self.rows = [], [], {}, [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        assert tag != "img", "drawings are part of the page"
        if attributes.get("role") == "img" and tag == "div":
            self._told = attributes["aria-label"]
        elif attributes.get("class") == "plot":
            self.images[self._told] = attributes
        elif tag == "audio":
            self.audio.append(attributes["src"])
        elif tag == "tr":
            self.rows.append([])
        assert tag != "iframe", "the page is to stand alone"
        assert tag != "script" or not attributes, "the script is in the page"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def tone(path, seconds=0.3, level=0.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, level * np.sin(2 * np.pi * 440 * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE))
