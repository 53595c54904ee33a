"""The report and an evaluation's page as their reader has them: a file in a browser, a phone, in the dark, on paper."""

import contextlib
import http.server
import json
import re
import threading
import time

import pytest
from browser import PHONE, play, shifts, sideways, violations
from report_pages import tone

from mlx_voxclone.evaluate.cases import Case
from mlx_voxclone.evaluate.measure import Evaluation, Interval, Measured
from mlx_voxclone.report.evaluation_page import evaluation_page
from mlx_voxclone.report.run_report import write_report

pytest_plugins = ["browser"]
pytestmark = pytest.mark.slow
OPENED = "() => { for (const part of document.querySelectorAll('details')) part.open = true; }"
CANDIDATES = [
    {"name": name, "voice": "a.wav", "code_loss": 3.5, "not_ended": 0.25, "voice_distance": 0.5, "dissimilarity": 0.1}
    for name in ("zero-shot", "adapted")
]

_STYLES = "const [fill, stroke] = ['fill', 'stroke'].map((name) => (one) => getComputedStyle(one)[name]);"
_PROBES = """() => {
  for (const [name, color] of [["text", "var(--text)"], ["quiet", "var(--text-muted)"]]) {
    const probe = document.getElementById(`probe-${name}`) ?? document.body.appendChild(document.createElement("i"));
    probe.id = `probe-${name}`;
    probe.style.color = color;
  }
}"""


@contextlib.contextmanager
def read_slowly(path):
    """A server of one page, each sound of which comes a tenth of a second after the one before; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            for part in re.split(r'(?=<div class="sound">)', path.read_text()):
                self.wfile.write(part.encode())
                time.sleep(0.1)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of a clone: verdict, two sentences, a stage with curves and samples, rounds, configuration. Read it only."""
    tmp_path = tmp_path_factory.mktemp("run")
    for name in ("original", "before", "after"):
        tone(tmp_path / f"{name}.wav", seconds=2)
    for role in ("original", "reconstructed"):
        tone(tmp_path / "encoder" / "samples" / "step-3" / f"clip-{role}.wav")
    log = [{"event": "start", "step": 0, "task": "encoder"}]
    log += [{"step": step, "lr": 1e-4, "loss": 2.0 / step, "grad_norm": 1.0, "seconds": 1.0} for step in (1, 2, 3)]
    log += [{"event": "eval", "step": 3, "metrics": {"loss": 1.0, "code_accuracy": 0.5}, "best": True}]
    (tmp_path / "encoder" / "log.jsonl").write_text("\n".join(map(json.dumps, log)))
    sounds = {name: {"file": f"{name}.wav", "same_text": True} for name in ("original", "before", "after")}
    summary = {
        "task": "clone",
        "data": {"hours": 0.5, "train_clips": 100},
        "baked": {"voice": "ann", "path": "baked"},
        "delivered": {"name": "adapted", "why": "it is closer", "measured": CANDIDATES},
        "rounds": [{"encoder": "encoder", "heldout_nats": 2.5}],
        "speech": [{"text": "One.", **sounds}, {"text": "Two.", **sounds, "after": {"file": None}}],
        "seconds": 100.0,
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "config.yaml").write_text("task: clone\n" + "# " + 100 * "long " + "\n")
    return write_report(tmp_path)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("evaluation")
    tone(tmp_path / "output.wav", seconds=2)
    cases = [Case(name, tmp_path / "output.wav", reference=tmp_path / "output.wav", text="One.") for name in "ab"]
    measured = [Measured(case.id, {"similarity": 0.5, "wer": 10.0}, heard="won", notes=["a note"]) for case in cases]
    summary = {name: Interval(0.5, 0.25, 0.75, 2) for name in ("similarity", "wer", "pitch_distance")}
    path = tmp_path / "index.html"
    path.write_text(evaluation_page(Evaluation({"voxclone": "1", "cases": 2}, measured, summary), cases, tmp_path))
    return path


@pytest.mark.parametrize("made", ["report", "evaluation"])
def test_nothing_moves_while_a_page_is_read(open_page, made, request):
    """A browser that paints what it has read so far: neither the rest of the page nor its script moves it."""
    with read_slowly(request.getfixturevalue(made)) as address:
        page = open_page(address)
        page.locator("voice-player[ready]").first.wait_for()
        assert shifts(page) == 0


def test_the_report_plays_from_a_file_and_nothing_moves(open_page, report):
    page = open_page(report)
    assert play(page, "original recording") > 0
    assert play(page, "after") > 0
    assert shifts(page) == 0
    page.locator("summary").first.click()
    page.locator("figure .plot").first.wait_for(state="visible")
    assert page.get_by_text("Details").is_visible()
    assert not page.get_by_text("data: train clips").is_visible()
    page.get_by_text("Details").click()
    assert page.get_by_text("data: train clips").is_visible()


@pytest.mark.parametrize("made", ["report", "evaluation"])
@pytest.mark.parametrize("options", [{}, {"dark": True}, {"width": PHONE}], ids=["light", "dark", "phone"])
def test_pages_suit_everybody(open_page, made, options, request):
    page = open_page(request.getfixturevalue(made), **options)
    assert sideways(page) == 0
    assert violations(page) == []
    page.evaluate(OPENED)
    assert sideways(page) == 0
    assert violations(page) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_drawings_have_the_colours_of_the_page(open_page, report, dark):
    page = open_page(report, dark=dark)
    page.evaluate(OPENED)
    assert drawn_in(page) == ink(page)
    assert page.evaluate("getComputedStyle(document.querySelector('.plot')).backgroundColor") == "rgba(0, 0, 0, 0)"


def drawn_in(page) -> list[str]:
    """Colours of a drawing's texts and of its axes."""
    texts, axes = "fill(document.querySelector('.plot text'))", "stroke(document.querySelector('.plot .stroke-ink'))"
    return [page.evaluate(f"(() => {{ {_STYLES} return {what}; }})()") for what in (texts, axes)]


def ink(page) -> list[str]:
    """The page's colours of texts and of quieter ones."""
    page.evaluate(_PROBES)
    return [
        page.evaluate(f"getComputedStyle(document.getElementById('probe-{name}')).color") for name in ("text", "quiet")
    ]


def test_the_report_without_scripts(open_page, report):
    page = open_page(report, java_script_enabled=False)
    assert page.locator("audio").first.is_visible()
    assert page.get_by_text("Delivered: adapted; it is closer.").is_visible()


def test_the_report_on_paper(open_page, report):
    """What was folded is there, but for raw values; sounds are named; nothing to press."""
    page = open_page(report, dark=True, width=720)
    page.emulate_media(media="print")
    for text in ("One.", "original.wav", "What was measured", "Held-out metrics", "CC BY-NC 4.0"):
        assert page.get_by_text(text).first.is_visible(), text
    assert page.locator("figure .plot").first.is_visible()
    assert drawn_in(page) == ink(page)
    assert ink(page) == ["rgb(29, 34, 38)", "rgb(89, 96, 103)"], "dark on paper, whatever the screen"
    for text in ("data: train clips", "task: clone", "Configuration"):
        assert not page.get_by_text(text).first.is_visible(), text
    assert not page.locator(".player-button").first.is_visible()
    assert page.locator(".wave:not(.played)").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.emulate_media(media="screen")
    paper = page.pdf(format="A4")
    assert paper.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) >= 2
    assert page.locator("details[open]").count() == 0, "as it was before it was printed"


def test_what_its_reader_has_opened_is_printed(open_page, report):
    page = open_page(report)
    page.get_by_text("Configuration").click()
    page.emulate_media(media="print")
    assert page.get_by_text("task: clone").is_visible()
    assert not page.get_by_text("data: train clips").is_visible()
