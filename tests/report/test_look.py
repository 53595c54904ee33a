"""The look that pages share: the contrast of its colours, the waveform, the player in a browser."""

import contextlib
import re
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product

import numpy as np
import pytest
from browser import PHONE, opened, play, shifts, sideways, violations
from report_pages import tone

from mlx_voxclone.report.look import ENGLISH, peaks, player, script, style

pytest_plugins = ["browser"]

# ---- colours ---------------------------------------------------------------------------------------------------------

LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#\w{6});", part)) for part in re.findall(r":root \{\n.*?\}", style(), re.S)
)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: (L1 + 0.05) / (L2 + 0.05) of the relative luminances."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_wcag_does():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the well-known grey that just fails


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_every_text_is_legible_on_every_ground(colours):
    grounds = {name for name in colours if name.startswith("ground-")}
    texts = {name for name in colours if name.startswith("text")}
    marks = {name for name in colours if name.startswith("mark-")}
    assert (len(grounds), len(texts) > 4, len(marks) > 5) == (5, True, True)
    pairs = {pair: 4.5 for pair in product(texts, grounds)} | {pair: 3.0 for pair in product(marks, grounds)}
    for kind in ("accent", "danger"):
        pairs |= {(f"on-{kind}", ground): 4.5 for ground in (kind, f"{kind}-strong")}
    weak = {pair: contrast(*(colours[name] for name in pair)) for pair in pairs}
    assert not {pair: ratio for pair, ratio in weak.items() if ratio < pairs[pair]}


def test_both_schemes_have_all_colours_and_rules_have_none_of_their_own():
    assert DARK.keys() == LIGHT.keys()
    rules = re.sub(r"^ *:root \{.*?\}", "", style(), flags=re.S | re.M)
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|\brgba?\(|\bhsl", rules)
    filled = re.findall(r"\{[^{}]*background: var\(--(?:accent|danger)[^{}]*\}", rules)
    assert len(filled) > 4
    assert all("color: var(--on-" in rule for rule in filled)


# ---- the waveform and the HTML ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "points"), [(1000, 160), (1000, 7), (5, 160), (160, 160), (1, 3)])
def test_peaks_are_the_largest_of_each_stretch(samples, points):
    sound = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    stretches = np.array_split(np.abs(sound), min(points, samples))
    found = peaks(sound, points)
    assert len(found) == min(points, samples)
    assert max(found) == 1.0
    if samples % len(found) == 0:
        assert found == pytest.approx([part.max() / np.abs(sound).max() for part in stretches], abs=6e-4)


def test_peaks_of_silence_of_nothing_of_channels_and_at_a_scale():
    assert peaks(np.zeros(500)) == [0.0] * 160
    assert peaks(np.zeros(0)) == []
    assert peaks(np.array([[0.1, 0.2], [-0.4, 0.0]])) == [1.0, 0.5]
    assert peaks(np.array([0.5, np.nan, -9.0]), scale=2.0) == [0.25, 0.0, 1.0]


class Parsed(HTMLParser):
    def __init__(self, source):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def test_a_player_is_a_native_one_with_everything_escaped():
    nasty = '<b>"it\'s" & more</b>'
    words = {key: f"{nasty}{key}" for key in ENGLISH}
    page = Parsed(player(f"a.wav?{nasty}", nasty, [0.0, 0.5, 7.0], 3661.2, file=nasty, words=words))
    tags = dict(page.tags)
    assert set(tags) == {"voice-player", "p", "span", "div", "audio", "svg", "path", "small"}
    audio = {"controls": None, "preload": "none", "src": f"a.wav?{nasty}", "aria-label": nasty}
    assert tags["audio"] == audio
    assert tags["voice-player"] == {"seconds": "3661.200"} | {f"data-{key}": words[key] for key in ENGLISH}
    assert tags["path"]["d"] == "M1.5 49v2M4.5 26v48M7.5 2v96"
    assert page.text == [nasty, "1:01:01", nasty]
    assert not [name for _, attributes in page.tags for name in attributes if name == "style" or name.startswith("on")]


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_a_length_that_is_not_known_is_not_shown(seconds):
    page = Parsed(player("a.wav", "a", [], seconds))
    assert dict(page.tags)["voice-player"]["seconds"] == "0.000"
    assert page.text == ["a"]


def test_the_script_can_stand_in_a_page():
    assert "</script" not in script().lower()
    assert "</style" not in style().lower()


# ---- in a browser ----------------------------------------------------------------------------------------------------

LABELS = ("original", "before", "after")


@pytest.fixture
def players(tmp_path):
    """A file with three players of 3 s, one of a file that does not exist, and everything inside."""
    parts = []
    for label in LABELS:
        tone(tmp_path / f"{label}.wav", seconds=3)
        parts.append(player(f"{label}.wav", label, [0.1, 0.9, 0.4] * 40, 3.0, file=f"{label}.wav"))
    page = tmp_path / "page.html"
    body = "".join(f'<div class="card">{part}</div>' for part in parts)
    page.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Players</title>'
        f"<style>{style()}</style></head>"
        f'<body><main><h1>Players</h1><div class="cards">{body}</div></main><script>{script()}</script></body></html>'
    )
    return page


def at(page, label, what):
    return page.locator(f'audio[aria-label="{label}"]').evaluate(f"(audio) => audio.{what}")


@pytest.mark.slow
def test_one_sound_plays_at_a_time(open_page, players):
    page = open_page(players)
    assert play(page, "before") > 0
    assert page.get_by_role("button", name="Pause: before").is_visible()
    assert play(page, "after") > 0
    assert at(page, "before", "paused")
    page.get_by_role("button", name="Pause: after").click()
    assert at(page, "after", "paused")
    assert page.get_by_role("button", name="Play: after").is_visible()
    assert shifts(page) == 0


@pytest.mark.slow
def test_the_keyboard_plays_and_seeks(open_page, players):
    page = open_page(players)
    for key in ("Tab", "Enter"):
        page.keyboard.press(key)
    page.wait_for_function("document.querySelector('audio').currentTime > 0.05")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    slider = page.get_by_role("slider", name="Position: original")
    assert slider.evaluate("(element) => element === document.activeElement")
    page.keyboard.press("Home")
    assert at(page, "original", "currentTime") == 0
    assert slider.get_attribute("aria-valuetext") == "0:00 of 0:03"
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert at(page, "original", "currentTime") == pytest.approx(1.5, abs=0.01)  # a twentieth of the length each
    assert slider.get_attribute("aria-valuetext") == "0:01 of 0:03"
    page.keyboard.press("PageUp")
    assert at(page, "original", "currentTime") == pytest.approx(2.1, abs=0.01)
    page.keyboard.press(" ")
    page.wait_for_function("document.querySelector('audio').ended")
    assert page.get_by_role("button", name="Play: original").is_visible()


@pytest.mark.slow
@pytest.mark.parametrize("still", [False, True], ids=["moving", "still"])
def test_a_click_on_the_waveform_seeks_and_the_shade_follows(open_page, players, still):
    page = open_page(players, still=still)
    wave = page.locator(".player-wave").nth(1)
    box = wave.bounding_box()
    wave.click(position={"x": box["width"] * 2 / 3, "y": 5})
    assert at(page, "before", "currentTime") == pytest.approx(2, abs=0.05)
    shade = "(element) => parseFloat(element.style.getPropertyValue('--played'))"
    assert wave.evaluate(shade) == pytest.approx(200 / 3, abs=2)
    assert play(page, "before") >= 2
    page.wait_for_function("document.querySelectorAll('audio')[1].ended")
    assert wave.evaluate(shade) == pytest.approx(100, abs=2)


@pytest.mark.slow
def test_without_scripts_the_native_player_has_the_same_room(open_page, players):
    height = "() => [...document.querySelectorAll('voice-player')].map((p) => p.getBoundingClientRect().height)"
    plain, whole = open_page(players, java_script_enabled=False), open_page(players)
    assert plain.locator("audio").first.is_visible()
    assert not plain.locator(".player-button").count()
    assert not whole.locator("audio").first.is_visible()
    assert plain.evaluate(height) == whole.evaluate(height)


@pytest.mark.slow
def test_players_suit_everybody(open_page, players):
    for options in ({}, {"dark": True}, {"width": PHONE}):
        page = open_page(players, **options)
        assert violations(page) == []
        assert sideways(page) == 0


@pytest.mark.slow
def test_a_player_that_comes_later_is_one_too(open_page, players):
    """Also one that comes back as the script had left it: a page of the browser's history."""
    page = open_page(players)
    page.evaluate("() => { const main = document.querySelector('main'); main.innerHTML = main.innerHTML; }")
    for part in (".player-button", ".player-wave", ".wave:not(.played)", ".wave.played"):
        assert page.locator(part).count() == len(LABELS)
    assert play(page, "original") > 0
    sound = page.locator("audio").first.element_handle()
    page.evaluate("document.querySelector('main').remove()")
    assert sound.evaluate("(audio) => audio.paused")


@pytest.mark.slow
def test_a_sound_that_is_gone_says_so(chromium, players):
    (players.parent / "after.wav").unlink()

    def press():
        with opened(chromium, players) as page:
            page.get_by_role("button", name="Play: after").click()
            page.get_by_text(ENGLISH["failed"]).wait_for()
            assert page.get_by_role("button", name="Play: after").is_visible()
            assert play(page, "original") > 0
            assert page.get_by_text(ENGLISH["failed"]).is_visible()

    with pytest.raises(AssertionError, match="ERR_FILE_NOT_FOUND"):
        press()


STEPS = "".join(
    f'<li><a href="#{name}"{" aria-current=step" if name == "Train" else ""}>{name}</a></li>'
    for name in ("Model", "Record", "Train", "Listen", "Speak", "Voices")
)
EVERYTHING = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Everything</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style()}</style></head><body>
<a class="skip" href="#main">To the content</a>
<header><a class="brand" href="#">Studio</a><nav aria-label="Steps"><ol class="steps">{STEPS}</ol></nav></header>
<main id="main"><h1>A title of some length</h1><p class="lead">What it is about, <a href="#main">with a link</a>.</p>
<p class="notice">A notice, <a href="#main">with a link</a>.</p><p class="notice good">Good.</p>
<p class="notice danger">Bad, <span class="muted">a little</span>.</p>
<form class="card"><h2>A form</h2>
<div class="field"><label for="a">Text</label><textarea id="a" aria-invalid="true" aria-describedby="m"></textarea>
<p class="mistake" id="m">Write a sentence.</p></div>
<div class="field"><label for="b">A choice</label><select id="b"><option>one with a name that is very long</option>
</select><p class="hint">Any.</p></div>
<div class="field"><label for="c">A file of a kind that has a long name (.safetensors or .pt)</label>
<input id="c" type="file"></div><div class="field"><label for="d">Name</label><input id="d" placeholder="Ann"></div>
<fieldset><legend>Kind</legend><label><input type="radio" name="k"> one</label><label><input type="checkbox">
two</label></fieldset><div class="row"><button class="primary">Record</button><button>Again</button>
<button class="quiet">Later</button><button class="danger">Delete</button>
<button disabled>Not now</button><a class="button" href="#">Go</a></div>
</form><div class="cards"><div class="card"><label for="p">So far</label><progress id="p" value="0.4"></progress></div>
<div class="card stack"><label for="q">Level</label><meter id="q" min="0" max="1" low="0.3" high="0.8" optimum="1"
value="0.2"></meter><p><span class="good">Good</span>, <span class="warning">not so good</span>.</p></div></div>
<div class="scroll" role="region" aria-label="Figures" tabindex="0"><table><thead><tr><th scope="col">metric</th>
{"".join(f'<th scope="col" class="number">value {k}</th>' for k in range(9))}</tr></thead><tbody><tr class="chosen">
<th scope="row">similarity</th>{9 * '<td class="number">0.123456789</td>'}</tr></tbody></table></div>
<dl class="facts"><div><dt>Speech</dt><dd>15 min</dd><dd class="muted">24 clips</dd></div></dl>
<details open><summary>More</summary><p class="muted">Muted.</p><pre tabindex="0">{"code " * 40}</pre></details></main>
<footer><p class="muted">The end, <a href="#main">with a link</a>.</p></footer></body></html>"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"dark": True}, {"width": PHONE}], ids=["light", "dark", "phone"])
def test_everything_of_the_look_suits_everybody(open_page, tmp_path, options):
    (tmp_path / "everything.html").write_text(EVERYTHING)
    page = open_page(tmp_path / "everything.html", **options)
    assert sideways(page) == 0
    assert violations(page) == []
    for control in page.locator("button, .button, summary, select, ol.steps a").all():
        assert control.bounding_box()["height"] >= 44
    page.keyboard.press("Tab")
    page.wait_for_function("document.querySelector('.skip').getBoundingClientRect().top >= 0")
    for _ in range(3):
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"


class _Strict(SimpleHTTPRequestHandler):
    extensions_map: dict = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript"}

    def end_headers(self):
        self.send_header("Content-Security-Policy", "default-src 'self'")
        super().end_headers()

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def served(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Strict, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
def test_under_a_strict_policy(open_page, players):
    for name, content in {"look.css": style(), "player.js": script()}.items():
        (players.parent / name).write_text(content, encoding="utf-8")
    page = players.read_text()
    page = page.replace(f"<style>{style()}</style>", '<link rel="stylesheet" href="look.css">')
    players.write_text(page.replace(f"<script>{script()}</script>", '<script src="player.js"></script>'))
    with served(players.parent) as address:
        page = open_page(f"{address}/page.html")
        assert play(page, "before") > 0
        assert page.locator(".played").nth(1).evaluate("(wave) => getComputedStyle(wave).clipPath") != "none"
        page.goto("about:blank")
