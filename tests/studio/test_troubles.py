"""What fails is told in the page's language: what failed, what to do next, and below that what the program said."""

import ast
import errno
import fcntl
import functools
import html
import importlib
import json
import os
import re
import threading
import time
from importlib import resources
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route
from test_frame import ended

from mlx_voxclone import errors
from mlx_voxclone.data.transcribe import NOT_INSTALLED
from mlx_voxclone.errors import CheckpointError, DataError, NotFiniteError, VoxcloneError
from mlx_voxclone.files.atomic import free_space_check
from mlx_voxclone.files.hub import hub_errors
from mlx_voxclone.files.locks import LOCK, held
from mlx_voxclone.process.limits import describe_memory_error, describe_os_error
from mlx_voxclone.process.network import Names
from mlx_voxclone.studio.child import Failed
from mlx_voxclone.studio.mistakes import Mistake
from mlx_voxclone.studio.tasks import Task
from mlx_voxclone.studio.troubles import CAUSES, DEFECT, ENDED, OTHER, cause_of, cause_of_line
from mlx_voxclone.studio.web.access import Access, WrongTokens
from mlx_voxclone.studio.web.app import application
from mlx_voxclone.studio.web.closed import closed
from mlx_voxclone.studio.web.languages import languages, texts, told, words_in
from mlx_voxclone.studio.web.tokens import Tokens

ROOT = resources.files("mlx_voxclone.studio")
ENGLISH = re.compile(r'<p lang="en">(.*?)</p>', re.DOTALL)


def kinds() -> dict[str, str]:
    """Of every task that the studio starts, and where: the second argument of `....tasks.start(...)` in its source.

    Where that is a parameter of the function around it, the kinds are what this function is called with.
    """
    found = {}
    for path in sorted(Path(str(ROOT)).rglob("*.py")):
        name = ".".join(["mlx_voxclone.studio", *path.relative_to(str(ROOT)).with_suffix("").parts])
        tree = ast.parse(path.read_text(encoding="utf-8"))
        given = arguments(tree, "tasks.start", 1)
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            parameters = [one.arg for one in function.args.args]
            for kind in given & arguments(function, "tasks.start", 1) & set(parameters):
                given = given - {kind} | arguments(tree, function.name, parameters.index(kind))
        for kind in given:
            found[eval(kind, vars(importlib.import_module(name)))] = name
    return found


def arguments(tree: ast.AST, function: str, position: int) -> set[str]:
    """Expressions that calls of `function`, by the end of its name, have at this position."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {ast.unparse(node.args[position]) for node in calls if ast.unparse(node.func).endswith(function)}


def all_errors(kind=VoxcloneError):
    return [kind, *(one for below in kind.__subclasses__() for one in all_errors(below))]


@pytest.mark.parametrize("code", languages())
def test_every_cause_and_every_kind_of_task_has_a_sentence(code):
    there = texts(code)
    assert {key.removeprefix("trouble.do.") for key in there if key.startswith("trouble.do.")} == set(CAUSES)
    named = kinds()
    assert len(named) > 8
    told = {key.removeprefix("trouble.failed.") for key in there if key.startswith("trouble.failed.")}
    assert told == {*named, "training", "take"}


def test_every_error_of_the_library_has_a_cause():
    for kind in all_errors(errors.VoxcloneError):
        if kind.__module__ == "mlx_voxclone.errors" and kind is not VoxcloneError:
            assert cause_of(kind("x: is wrong")) not in (OTHER, DEFECT), kind
    assert cause_of(ZeroDivisionError("x")) == DEFECT


def hub(status):
    from huggingface_hub.errors import HfHubHTTPError

    request = httpx.Request("GET", "https://huggingface.co/x")
    return HfHubHTTPError("x", response=httpx.Response(status, request=request))


def line_of(work) -> str:
    with pytest.raises(VoxcloneError) as raised:
        work()
    return str(raised.value)


def from_hub(error) -> str:
    def work():
        with hub_errors("ann/voice: not fetched from the hub"):
            raise error

    return line_of(work)


def in_use(folder) -> str:
    with open(folder / LOCK, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return line_of(held(folder).__enter__)


def test_the_librarys_lines_are_understood(tmp_path):
    """As the library makes them, not as this test remembers them."""
    found = {
        "disk": [
            describe_os_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.wav")),
            describe_os_error(OSError(errno.EFBIG, os.strerror(errno.EFBIG), "x.wav")),
            line_of(lambda: free_space_check(tmp_path, 10**18)),
        ],
        "memory": [
            describe_memory_error(MemoryError()),
            describe_memory_error(RuntimeError("[malloc] Unable to alloc")),
        ],
        "killed": ["the command has ended with code -9"],
        "network": [from_hub(httpx.ConnectError("x")), from_hub(hub(503)), from_hub(ConnectionError("x"))],
        "login": [from_hub(hub(401)), from_hub(hub(403))],
        "nowhere": [from_hub(hub(404))],
        "package": [NOT_INSTALLED.format("no module")],
        "busy": [in_use(tmp_path)],
        "gone": [describe_os_error(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "x.wav"))],
        "rights": [describe_os_error(PermissionError(errno.EACCES, os.strerror(errno.EACCES), "x.wav"))],
        "numbers": [str(NotFiniteError("the model's numbers are not finite: its weights are damaged"))],
        "closed": [ENDED],
        "other": ["a line that nobody knows"],
    }
    assert {cause: [cause_of_line(line) for line in lines] for cause, lines in found.items()} == {
        cause: [cause] * len(lines) for cause, lines in found.items()
    }


def test_what_an_error_is_counts_where_its_line_says_nothing():
    assert cause_of(DataError("a.wav: is silent")) == "recording"
    assert cause_of(CheckpointError("/no space left: not a checkpoint")) == "disk"
    assert cause_of(Failed("model.safetensors: cut off", "")) == OTHER  # a command's: of which class is not known
    assert cause_of(OSError(errno.ENOSPC, "x")) == "disk"
    assert cause_of(MemoryError()) == "memory"


@pytest.mark.parametrize("code", languages())
def test_a_task_that_failed_is_told_in_the_pages_language(browser, studio, me, code):
    line = "/models/voxtral: params.json is damaged <here>"

    def work(task):
        raise CheckpointError(line)

    task = ended(studio.tasks.start(me, "bake", "Ein Checkpoint", work, lane="files"))
    there, page = texts(code), browser.get("/tasks", headers={"accept-language": code}).text
    assert f"{there['trouble.failed.bake']} {there['trouble.do.model']}" in page
    assert ENGLISH.findall(page) == [html.escape(line)]
    assert there["trouble.line"] in page
    assert (task.error, task.cause) == (line, "model")
    again = Task.noted(me, {**task._values()})
    assert (again.error, again.cause) == (line, "model")


def test_a_task_of_an_older_studio_is_told(browser, studio, me):
    task = ended(studio.tasks.start(me, "nobody-knows", "x", lambda task: 1 / 0, lane="files"))
    old = {name: value for name, value in task._values().items() if name not in ("cause", "said")}
    found = Task.noted(me, old | {"error": "no space left on the disk of x"})
    assert found.cause == "disk"
    assert Task.noted(me, old | {"state": "running"}).cause == "closed"
    assert texts("de")["trouble.do.defect"] in browser.get("/tasks", headers={"accept-language": "de"}).text


def test_a_studio_that_was_closed_has_no_line_of_the_programs(browser, studio, me):
    task = studio.tasks.start(me, "speak", "Sprechen", lambda task: None)  # nobody computes
    studio.tasks.close()
    assert ended(task).state == "cancelled" or task.cause == "closed"
    task.state, task.error, task.cause = "failed", ENDED, "closed"
    page = browser.get("/tasks", headers={"accept-language": "de"}).text
    assert texts("de")["trouble.do.closed"] in page
    assert ENDED not in page


def test_a_mistake_within_a_task_is_told_in_the_language_of_whoever_reads_it(browser, studio, me):
    def work(task):
        raise Mistake("", "speak.disk_full", count=3)

    task = ended(studio.tasks.start(me, "speak", "Sprechen", work, lane="files"))
    for code in languages():
        page = browser.get("/tasks", headers={"accept-language": code}).text
        assert texts(code)["speak.disk_full"].format(count=3) in page
        assert not ENGLISH.findall(page)
    assert Task.noted(me, task._values()).said == {"key": "speak.disk_full", "values": {"count": 3}}
    task.said = {"key": "speak.of_another_version", "values": {}}
    assert texts("de")["trouble.failed.speak"] in browser.get("/tasks", headers={"accept-language": "de"}).text


@pytest.mark.parametrize("code", languages())
def test_a_training_that_failed_is_told_in_the_pages_language(browser, studio, me, code):
    project = me.new_project("Anna", "en")
    line = "not enough memory (x); close other programs, or see what `voxclone doctor` advises"
    studio.trainings.output(project).write_text(f"data: x\nerror: {line}\n")
    project.run.mkdir()
    (project.run / "config.yaml").write_text("")
    page = browser.get(f"/voices/{project.id}/train", headers={"accept-language": code}).text
    there = texts(code)
    assert f"{there['trouble.failed.training']} {there['trouble.do.memory']}" in page
    assert there["train.goes_on"] in page
    assert ENGLISH.findall(page) == [html.escape(line)]


@pytest.mark.parametrize("code", languages())
def test_a_mistake_beside_a_field_keeps_english_to_its_line(browser, tmp_path, code):
    for name in ("consolidated.safetensors", "params.json"):
        (tmp_path / name).write_text("{")
    answer = browser.submit("/model/folder", {"folder": str(tmp_path)}, headers={"accept-language": code})
    assert answer.status_code == 422
    assert f"{texts(code)['model.mistake.unusable']}</p>" in answer.text
    assert len(ENGLISH.findall(answer.text)) == 1


# ---- pages of what is refused ----------------------------------------------------------------------------------------


def holds_together(answer, code, status, key, **values):
    """A page of the studio's look in a language, with one sentence, and without anything of our insides."""
    assert answer.status_code == status, answer.text
    assert f'<html lang="{code}">' in answer.text
    assert html.escape(texts(code)[key].format(**values), quote=False) in html.unescape(answer.text)
    assert '<link rel="stylesheet" href="/look.css">' in answer.text
    assert '<header class="top">' in answer.text
    assert f"<h1>{texts(code)['common.wrong' if status != 401 else 'access.title']}</h1>" in answer.text
    assert "Traceback" not in answer.text
    assert str(Path(str(ROOT)).parent) not in answer.text


@pytest.mark.parametrize("code", languages())
def test_pages_of_refusals(browser, studio, me, code):
    other = next(one for one in languages() if one != code)
    me.change_settings(language=code)  # and the browser asks for another language
    headers = {"accept-language": other}
    holds_together(browser.get("/nothing", headers=headers), code, 404, "common.missing")
    holds_together(browser.post("/language", headers=headers), code, 403, "common.old_form")
    holds_together(browser.post("/tasks", headers=headers), code, 405, "common.not_understood")
    large = browser.post("/language", content=b"x", headers={**headers, "content-length": "9" * 12})
    holds_together(large, code, 413, "access.too_large", megabytes=1)
    large = browser.get("/model", headers={**headers, "host": "evil.example"})
    holds_together(large, other, 403, "access.host")  # nobody knows yet who asks


@pytest.mark.parametrize("code", languages())
def test_a_defect_of_ours_is_a_page_too(browser, studio, me, code, monkeypatch, capsys):
    me.change_settings(language=code)
    broken = application(studio)
    broken.router.routes.insert(0, Route("/broken", lambda request: 1 / 0))
    visitor = type(browser)(
        Access(broken, Names("127.0.0.1"), tell=functools.partial(closed, home=studio.home)),
        base_url="http://127.0.0.1",
        client=("127.0.0.1", 1),
        raise_server_exceptions=False,
    )
    holds_together(visitor.get("/broken"), code, 500, "trouble.do.defect")
    part = visitor.get("/broken", headers={"hx-request": "true"})
    assert (part.status_code, "<html" in part.text) == (500, False)
    assert texts(code)["trouble.do.defect"] in html.unescape(part.text)
    monkeypatch.setattr("mlx_voxclone.studio.web.app.page", lambda *a, **k: 1 / 0)  # not even the usual page
    holds_together(visitor.get("/broken", headers={"accept-language": code}), code, 500, "trouble.do.defect")


@pytest.mark.parametrize("code", languages())
def test_who_is_not_let_in_reads_why(browser, studio, tmp_path, code):
    class Full(WrongTokens):
        at_once = 0

    door = Access(application(studio), Names("127.0.0.1"), Tokens(tmp_path, ["ann"]), tell=closed)
    visitor = type(browser)(door, base_url="http://127.0.0.1", headers={"accept-language": code})
    holds_together(visitor.get("/voices"), code, 401, "access.closed")
    door.wrong = Full()
    holds_together(visitor.get("/voices?token=x"), code, 429, "access.too_many")


def test_a_task_is_called_in_the_language_of_whoever_reads_it(browser, studio, me):
    """Not in that of the page which began it: its title, what it is doing, also after a restart."""
    german, go = words_in("de"), threading.Event()

    def work(task):
        task.progress(1, 2, german("listen.task.said", name=german("listen.name.tuned"), seconds=3.5))
        go.wait(10)

    task = studio.tasks.start(me, "bake", german("keep.baking", title="Anna"), work, lane="files")
    until = time.monotonic() + 10
    while not task.what and time.monotonic() < until:
        time.sleep(0.01)
    for address in ("/tasks", f"/tasks/{task.id}"):
        for code in languages():
            t, page = words_in(code), html.unescape(browser.get(address, headers={"accept-language": code}).text)
            assert t("keep.baking", title="Anna") in page
            assert t("listen.task.said", name=t("listen.name.tuned"), seconds=3.5) in page
    go.set()
    later = Task.noted(me, json.loads(json.dumps(ended(task)._values())))
    assert told(later.named, words_in("en")) == words_in("en")("keep.baking", title="Anna")
    assert Task.noted(me, task._values() | {"named": "x"}).named is None
