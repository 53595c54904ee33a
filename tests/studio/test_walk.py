"""Every address of the studio, asked by somebody else: two people never see anything of each other's."""

import re
from collections.abc import Iterator

import pytest
from starlette.routing import Mount, Route
from visiting import Browser, ended

from mlx_voxclone.process.network import Names
from mlx_voxclone.studio.home import write_json
from mlx_voxclone.studio.web.access import Access, is_open
from mlx_voxclone.studio.web.app import application
from mlx_voxclone.studio.web.closed import closed
from mlx_voxclone.studio.web.tokens import Tokens

SECRET = "Annabella's own voice"  # stands in all that is Ann's
OPEN_PATHS = ("/static",)  # mounts that are the same for everybody
_PARAMETER = re.compile(r"{(\w+)(:\w+)?}")


@pytest.fixture
def tokens(tmp_path) -> Tokens:
    return Tokens(tmp_path, ["ann", "ben"])


@pytest.fixture
def app(studio):
    return application(studio)


@pytest.fixture
def people(app, tokens) -> dict[str, Browser]:
    """A browser of each, and one of nobody's."""
    door = Access(app, Names("127.0.0.1"), tokens, tell=closed)
    found = {}
    for name in ("ann", "ben", "nobody"):
        found[name] = Browser(door, base_url="http://127.0.0.1:80", client=("127.0.0.1", 1), follow_redirects=False)
        if name in tokens.by_name:
            assert found[name].get(f"/?token={tokens.by_name[name]}").status_code == 303
    return found


@pytest.fixture
def anns(studio) -> dict[str, str]:
    """Something of Ann's for every kind of name that an address may have: parameter -> value."""
    ann = studio.home.person("ann")
    ann.change_settings(language="en")
    voice = ann.new_project(SECRET, "en")
    voice.change(consent={"who": SECRET, "when": "2026-05-02", "purpose": SECRET, "statement": SECRET})
    for folder in (voice.takes, voice.uploads, voice.clips, voice.run, voice.listening, voice.exports):
        folder.mkdir()
        (folder / "0001-abcd.wav").write_bytes(b"RIFF" + SECRET.encode())
        (folder / "0001-abcd.json").write_text("{}")
    speech = ann.folder / "speech" / "0123456789ab"
    (speech / "takes").mkdir(parents=True)
    (speech / "takes" / "0000-0.wav").write_bytes(b"RIFF" + SECRET.encode())
    asked = {"text": SECRET, "voice": f"own:{voice.id}", "title": SECRET, "language": "en", "seed": 0, "steps": 7}
    write_json(speech / "asked.json", asked | {"guidance": 1.2, "created": 0, "chunks": [[SECRET, 0.3]]})
    (ann.folder / "brought").mkdir()
    (ann.folder / "brought" / "annabella.safetensors").write_bytes(SECRET.encode())
    task = studio.tasks.start(ann, "speak", SECRET, lambda task: {}, project=voice, lane="files")
    ended(task)
    return {"project": voice.id, "task": task.id, "speech": speech.name, "person": "ann"}


def routes(found) -> Iterator[Route]:
    for route in found:
        if isinstance(route, Mount):
            assert route.path in OPEN_PATHS, f"{route.path}: a mount of unknown content"
        else:
            yield route


def addresses(app, anns) -> Iterator[tuple[str, str, set[str]]]:
    """Method, address with Ann's names in it, and which parameters it has, of every route."""
    for route in routes(app.routes):
        names = {name for name, _ in _PARAMETER.findall(route.path)}
        path = _PARAMETER.sub(lambda match: anns.get(match[1], "0001-abcd"), route.path)
        for method in sorted(route.methods or {"GET"}):
            yield method, path, names


def test_the_other_person_finds_nothing(app, people, anns, studio):
    before = sorted(str(path) for path in (studio.home.path / "people" / "ann").rglob("*"))
    ben = people["ben"]
    csrf, walked = ben.csrf(), 0
    for method, path, names in addresses(app, anns):
        answer = ben.request(method, path, data={"csrf": csrf} if method == "POST" else None)
        where = f"{method} {path}: {answer.status_code}"
        assert answer.status_code < 500, where
        for private in (SECRET, "Annabella", anns["project"], anns["task"], anns["speech"]):
            assert private not in answer.text.replace(path, ""), where
        if names:
            assert answer.status_code == 404, where
            walked += 1
    assert walked > 5
    assert sorted(str(path) for path in (studio.home.path / "people" / "ann").rglob("*")) == before


@pytest.mark.slow
def test_names_in_forms_and_queries_lead_nowhere_either(app, people, anns, studio):
    """Ben's own pages, asked with what is Ann's in every value that a form or a query has."""
    ben, person = people["ben"], studio.home.person("ben")
    person.change_settings(language="en")
    voice = person.new_project("Ben's voice", "en")
    voice.change(consent={"who": "Ben", "when": "2026-05-02", "purpose": "x", "statement": "x"})
    own = anns | {"project": voice.id}
    before = sorted(str(path) for path in (studio.home.path / "people" / "ann").rglob("*"))
    csrf, ids = ben.csrf(), (anns["project"], f"own:{anns['project']}", anns["task"], anns["speech"])
    out = f"../../ann/voices/{anns['project']}"
    fields = (
        *("voice", "look", "upload", "comparison", "slot", "id", "export", "of", "file", "first", "second", "variant"),
        *("sentence", "take", "show", "page", "name", "typed", "whisper", "folder", "hub", "from", "pair", "title"),
    )
    for value in (*ids, out, f"files:{out}/takes/0001-abcd.wav", f"own:{out}", "files:annabella.safetensors"):
        sent = dict.fromkeys(fields, value) | {"text": "Hello.", "language": "en"}
        for method, path, names in addresses(app, own):
            if path.endswith("/delete") or path == "/voices/new" or (names - {"project"}):
                continue
            data = {"csrf": csrf, **sent} if method == "POST" else None
            answer = ben.request(method, path, params=sent, data=data)
            where = f"{method} {path} {value}: {answer.status_code}"
            assert answer.status_code < 500, where
            assert SECRET not in answer.text, where
            assert "Annabella" not in answer.text.replace(value, ""), where
    assert sorted(str(path) for path in (studio.home.path / "people" / "ann").rglob("*")) == before
    assert not any(task.state == "done" for task in studio.tasks.list(person))


def test_the_walk_would_find_something(app, people, anns):
    """As Ann the same addresses lead somewhere."""
    found = {path for method, path, names in addresses(app, anns) if method == "GET" and names}
    there = [path for path in found if people["ann"].get(path).status_code == 200]
    assert f"/voices/{anns['project']}" in there
    assert f"/voices/{anns['project']}/delete" in there
    assert f"/tasks/{anns['task']}" in there
    assert SECRET in people["ann"].get("/voices").text.replace("&#39;", "'")


def test_nobody_finds_anything(app, people, anns):
    for method, path, _ in addresses(app, anns):
        answer = people["nobody"].request(method, path, data={} if method == "POST" else None)
        where = f"{method} {path}: {answer.status_code}"
        assert answer.status_code == 401 or (is_open(path) and answer.status_code in (200, 404)), where
        assert "Annabella" not in answer.text


def test_every_change_needs_a_form_of_ours(app, people, anns, studio):
    before = sorted((str(path), path.stat().st_mtime_ns) for path in studio.home.path.rglob("*") if path.is_file())
    ann, changing = people["ann"], 0
    for method, path, _ in addresses(app, anns):
        if method in ("GET", "HEAD"):
            continue
        for headers, data in (({}, {}), ({}, {"csrf": "0" * 64}), ({"x-csrf": "0" * 64}, {})):
            answer = ann.request(method, path, headers=headers, data=data)
            assert answer.status_code in (400, 403, 404, 405), f"{method} {path}: {answer.status_code}"
            changing += 1
        foreign = ann.request(method, path, headers={"origin": "http://127.0.0.1:8000"}, data={"csrf": ann.csrf()})
        assert foreign.status_code == 403, path
    assert changing > 5
    after = sorted((str(path), path.stat().st_mtime_ns) for path in studio.home.path.rglob("*") if path.is_file())
    assert after == before
