"""Every endpoint of the demo, given what no field of the page sends: one line, and nothing reaches the model."""

import asyncio
import math
import threading

import numpy as np
import pytest

from mlx_voxclone.audio.io import SAMPLE_RATE, write_wav
from mlx_voxclone.demo.inputs import MAX_SEED, UPLOAD_LIMIT, wanted
from mlx_voxclone.demo.session import private_folder, temporary_files_in, uploads
from mlx_voxclone.errors import DataError

gr = pytest.importorskip("gradio")
from demo_page import Stand, page_of  # noqa: E402 (needs gradio)

GOOD = ["papa mino", "alto", None, False, 0]
LONG = "a" * 200_000
NESTED = []
for _ in range(900):
    NESTED = [NESTED]
ANYTHING = [5, -1, 0.5, math.nan, math.inf, 10**400, [], ["alto"], {}, {"path": 3}, {"a": LONG}, LONG, NESTED]
BAD = {
    0: [None, True, "", " \t\n", "\u200b\u200d", "\ud800", "x " * 4000, "x " * 1001, *ANYTHING],
    1: [None, "", "nobody", "ALTO", "../alto", True, b"alto".hex(), *ANYTHING],
    2: ["", "x.wav", "/etc/passwd", "a\0b", "http://127.0.0.1:1/a.wav", True, *ANYTHING]
    + [{"path": p} for p in (None, "", "/etc/passwd", "..", "a\0b", LONG, "https://127.0.0.1:1/a.wav", ["x"])]
    + [{"url": "http://127.0.0.1:1/a.wav"}, [{"path": "/etc/passwd"}], {"path": "/dev/zero"}, {"path": "/dev/stdin"}],
    3: ["yes", "true", "", 0, 1, *ANYTHING],
    4: ["0", "", -1, 1.5, True, 1e300, 2**64, MAX_SEED + 1, -math.inf, "9" * 5000, *ANYTHING[1:]],
}
SHAPES = [[], [None], GOOD[:4], [*GOOD, 0], GOOD * 500, {}, {"0": 1}, LONG, None, 7]


@pytest.fixture
def folder(tmp_path):
    with private_folder(tmp_path) as folder, temporary_files_in(folder):
        yield folder


def answers(page, thread, calls):
    """What each call (endpoint, values) is answered: outputs, or a gr.Error. The main thread serves meanwhile."""
    found = []

    async def ask():
        for function, values in calls:
            try:
                found.append(await page.process_api(function, values, session_hash="x"))
            except gr.Error as e:
                found.append(e)

    def visit():
        try:
            asyncio.run(ask())
        except BaseException as e:
            found.append(e)

    visitor = threading.Thread(target=visit)
    visitor.start()
    thread.serve(lambda: not visitor.is_alive())
    assert len(found) == len(calls), found[-1]
    return found


def refused(answer, folder):
    assert isinstance(answer, gr.Error), answer
    assert not answer.print_exception
    assert 5 < len(answer.message) < 200
    assert "\n" not in answer.message
    assert "Traceback" not in answer.message
    assert str(folder) not in answer.message
    return True


@pytest.mark.slow
def test_values_that_no_field_sends(folder, monkeypatch, capsys):
    page, thread, spoken = page_of(monkeypatch)
    speak = next(function for function in page.fns.values() if function.api_name == "speak")
    calls = [(speak, [*GOOD[:k], value, *GOOD[k + 1 :]]) for k, values in BAD.items() for value in values]
    calls += [(speak, [*GOOD[:k], value, *GOOD[k + 1 : 3], True, 0]) for k in (1, 2) for value in BAD[k][1:]]
    calls += [(speak, shape) for shape in SHAPES]
    rng = np.random.default_rng(0)
    for _ in range(50):
        calls.append((speak, [BAD[k][rng.integers(len(BAD[k]))] for k in range(5)]))
    assert all([refused(answer, folder) for answer in answers(page, thread, calls)])
    assert not spoken
    assert capsys.readouterr().err == "", "nothing of it is a defect"
    good = answers(page, thread, [(speak, list(GOOD)), (speak, ["mino", "bass", None, None, 7.0])])
    assert [answer["data"][-1].split("Voice: ")[1] for answer in good] == ["alto, seed 0.", "bass, seed 7."]
    assert [seed for _, seed in spoken] == [0, 7]


def test_every_other_endpoint(folder, monkeypatch):
    page, thread, spoken = page_of(monkeypatch)
    others = [function for function in page.fns.values() if function.api_name != "speak"]
    assert len(others) > 1, "Stop, and leaving the page"
    calls = [(function, values) for function in others for values in [*SHAPES[1:], *([v] for v in ANYTHING)]]
    assert all([refused(answer, folder) for answer in answers(page, thread, calls)])
    assert not spoken


def test_clips_that_cannot_serve(folder, monkeypatch):
    """Each is named without a word on where it lies; the good one is taken, whatever else stands in its object."""
    page, thread, spoken = page_of(monkeypatch)
    place, noise = uploads(folder), 0.3 * np.random.default_rng(0).standard_normal(61 * SAMPLE_RATE)
    for name, samples in {
        "short": noise[:100],
        "long": noise,
        "silent": 0 * noise[:48_000],
        "good": noise[:48_000],
    }.items():
        write_wav(place / f"{name}.wav", samples)
    (place / "none.wav").write_text("no audio")
    (place / "link.wav").symlink_to("/etc/passwd")
    with (place / "huge.wav").open("wb") as file:
        file.truncate(UPLOAD_LIMIT + 1)
    speak = next(function for function in page.fns.values() if function.api_name == "speak")
    names = ("short", "long", "silent", "none", "link", "huge", "gone")
    calls = [(speak, ["mino", "alto", {"path": str(place / f"{name}.wav")}, True, 0]) for name in names]
    found = answers(page, thread, calls)
    assert all([refused(answer, folder) for answer in found])
    assert "0.00416667 s long" in found[0].message
    assert "61 s long" in found[1].message
    assert "silent" in found[2].message
    assert "larger than 25 MB" in found[5].message
    assert not spoken
    good = {"path": str(place / "good.wav"), "url": "http://127.0.0.1:1/x", "orig_name": 3, "is_stream": True}
    answer = answers(page, thread, [(speak, ["mino", "alto", good, True, 0])])[0]
    assert "Voice: the reference clip" in answer["data"][-1]
    assert len(spoken) == 1


def test_text_and_names_do_not_become_html(folder, monkeypatch):
    page, thread, _ = page_of(monkeypatch)
    speak = next(function for function in page.fns.values() if function.api_name == "speak")
    answer = answers(page, thread, [(speak, ["mino", "<img src=x>", None, False, 0])])[0]
    assert "&lt;img src=x&gt;" in answer.message


def test_a_text_that_fits_in_letters_and_not_in_tokens():
    from mlx_voxclone.speech.side_by_side import MAX_TOKENS, bounded_prompt

    stand, rows = Stand(), np.zeros((4, 8))
    assert len(bounded_prompt(stand, "x " * MAX_TOKENS, rows)) == MAX_TOKENS + 9
    with pytest.raises(DataError, match=r"too long: 1,001 tokens; up to 1,000"):
        bounded_prompt(stand, "x " * (MAX_TOKENS + 1), rows)
    assert stand.tokenizer.frames == 375  # the tokenizer leaves room for the speech, or refuses


def test_the_clip_goes_before_the_voice_and_consent_before_all():
    taken = wanted("hi", "alto", None, None, None, voices=["alto"])
    assert (taken.text, taken.voice, taken.clip, taken.seed) == ("hi.", "alto", None, 0)
    with pytest.raises(DataError, match="nobody"):
        wanted("hi", "nobody", None, True, 0, voices=["alto"])
    with pytest.raises(DataError, match="tick the box"):
        wanted("hi", None, __file__, False, 0, voices=["alto"])
    assert wanted("hi", None, __file__, True, 0, voices=["alto"]).clip.name == "test_demo_inputs.py"
