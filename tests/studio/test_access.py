"""Who may see what: tokens, cookies, names that are answered, limits, and what stands in every answer's head."""

import json
import os
import socket
import stat

import pytest
from visiting import Browser, enter

from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.errors import ConfigError
from mlx_voxclone.process.network import Names, shown, take_port
from mlx_voxclone.studio.web import access as access_module
from mlx_voxclone.studio.web.access import HEADERS, Access, Patience, Refusal, WrongTokens
from mlx_voxclone.studio.web.app import application
from mlx_voxclone.studio.web.closed import closed
from mlx_voxclone.studio.web.tokens import FILE, Tokens, check_reach

PAGES = ("/", "/model", "/voices", "/voices/new", "/speak", "/tasks", "/nothing", "/files/x.wav")


# ---- tokens --------------------------------------------------------------------------------------------------------


def test_tokens_are_the_same_after_a_restart_and_new_when_wanted(tmp_path):
    first = Tokens(tmp_path, ["ann", "ben"])
    assert len(set(first.by_name.values())) == 2
    assert all(len(token) == 43 for token in first.by_name.values())
    assert stat.S_IMODE(os.stat(tmp_path / FILE).st_mode) == 0o600
    assert Tokens(tmp_path, ["ben", "ann"]).by_name == first.by_name
    only = Tokens(tmp_path, ["ann"])  # ben is not let in any more, and keeps his for later
    assert only.name_of(first.by_name["ben"]) is None
    assert Tokens(tmp_path, ["ben"]).by_name == {"ben": first.by_name["ben"]}
    renewed = Tokens(tmp_path, ["ann"], new=True)
    assert renewed.name_of(first.by_name["ann"]) is None
    assert Tokens(tmp_path, ["ann", "ben"]).by_name == {**first.by_name, **renewed.by_name}
    assert renewed.form_token("ann") == first.form_token("ann") != first.form_token("ben")


def test_a_file_that_others_may_read_is_closed_again(tmp_path):
    Tokens(tmp_path, ["ann"])
    os.chmod(tmp_path / FILE, 0o644)
    Tokens(tmp_path, ["ann"])
    assert stat.S_IMODE(os.stat(tmp_path / FILE).st_mode) == 0o600


@pytest.mark.parametrize("names", [["Ann"], [""], [".."], ["a/b"], ["-ann"], ["a" * 41], ["ann", "ann"], ["ann ben"]])
def test_names_that_cannot_be(tmp_path, names):
    with pytest.raises(ConfigError, match="--share-token"):
        Tokens(tmp_path, names)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        json.dumps({"tokens": [], "secret": "0" * 64}),
        json.dumps({"tokens": {"ann": "short"}, "secret": "0" * 64}),
        json.dumps({"tokens": {"ann": "a" * 43, "ben": "a" * 43}, "secret": "0" * 64}),
        '{"tokens": {}, "secret": "0"}',
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ConfigError, match=FILE):
        Tokens(tmp_path, ["ann"])


def test_wider_than_this_machine_needs_a_token(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        check_reach(taken, ["ann"])
        with pytest.raises(ConfigError, match="--share-token"):
            check_reach(taken, [])
    with take_port("127.0.0.1", 0) as taken:
        check_reach(taken, [])
    folder = tmp_path / "studio"
    assert voxclone(["studio", "--folder", str(folder), "--host", "0.0.0.0", "--port", "0", "--no-open"]) == 2
    assert "--share-token NAME" in capsys.readouterr().err
    assert not folder.exists()
    assert voxclone(["studio", "--folder", str(folder), "--new-tokens"]) == 2
    assert "--share-token" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.0.0.1", "::1", "[::1]", "studio.example"])
def test_the_address_that_is_shown_is_answered(host):
    from mlx_voxclone.process.network import host_of

    assert host_of(f"{shown(host)}:7861") in Names(host)


# ---- the way in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_without_a_token_there_is_no_data(visitor, page, waited):
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
        answer = visitor.request(method, page)
        assert answer.status_code == 401
        assert "ann" not in answer.text
    assert "terminal" in visitor.get(page).text
    assert not waited  # nothing was guessed


def test_styles_need_no_token_and_may_be_kept(visitor):
    for path in ("/static/studio.css", "/look.css"):
        answer = visitor.get(path)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")
    for path in ("/static/nothing", "/static/../people", "/static/%2e%2e/home.py"):
        assert visitor.get(path).status_code in (401, 404)


def test_the_address_with_the_token_becomes_a_cookie(visitor, tokens):
    answer = visitor.get(f"/voices?a=1&token={tokens.by_name['ann']}&b=%26")
    assert (answer.status_code, answer.headers["location"]) == (303, "/voices?a=1&b=%26")
    cookie = next(one for one in answer.headers.get_list("set-cookie") if one.startswith("studio_80="))
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
    assert tokens.by_name["ann"] not in answer.text
    assert answer.headers["referrer-policy"] == "same-origin"
    assert visitor.get("/voices").status_code == 200


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example", "///evil.example"])
def test_the_way_in_leads_nowhere_else(visitor, tokens, path):
    answer = visitor.get(f"http://127.0.0.1{path}?token={tokens.by_name['ann']}")
    assert not answer.headers["location"].startswith(("//", "/\\", "/%5C", "http"))


def test_from_a_mail_the_strict_cookie_comes_with_the_second_request(visitor, tokens):
    answer = visitor.get(
        f"/?token={tokens.by_name['ann']}", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    )
    assert answer.status_code == 303
    entering = visitor.cookies["studio_80_entering"]
    visitor.cookies.delete("studio_80")  # what a browser does with it on the redirection
    again = visitor.get("/")
    assert again.status_code == 401
    assert 'http-equiv="refresh"' in again.text
    assert entering
    assert "studio_80_entering" not in visitor.cookies
    assert 'http-equiv="refresh"' not in visitor.get("/").text  # once


WRONG = ["", "x", "a" * 43, "é" * 43, "a" * 5000, "' or 1=1", "%00", "ann"]


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_tokens_are_slow(visitor, waited, wrong):
    for n in range(4):
        assert visitor.get("/voices", params={"token": wrong}).status_code == 401
        assert len(waited) == n + 1
    assert waited == [0.25, 0.5, 1.0, 2.0]


def test_a_wrong_cookie_is_slow_and_dropped(visitor, tokens, waited):
    answer = visitor.get("/voices", headers={"cookie": f"studio_80={'a' * 43}"})
    assert answer.status_code == 401
    assert waited == [0.25]
    assert answer.headers["set-cookie"].startswith('studio_80=""; ')
    assert "Max-Age=0" in answer.headers["set-cookie"]
    enter(visitor, tokens, "ben")  # a right one costs nothing
    assert visitor.get("/voices").status_code == 200
    assert waited == [0.25]
    assert visitor.get("/voices?token=x").status_code == 401
    assert visitor.get("/voices").status_code == 200  # the cookie has stayed


def test_tokens_of_names_that_are_not_let_in(studio, tmp_path, tokens):
    later = Tokens(tmp_path, ["ben"])
    browser = Browser(
        Access(application(studio), Names("127.0.0.1"), later, tell=closed, sleep=_no_time),
        base_url="http://127.0.0.1:80",
    )
    assert browser.get(f"/voices?token={tokens.by_name['ann']}").status_code == 401


async def _no_time(seconds: float) -> None:
    pass


def test_wrong_tokens_are_counted_for_each_address_and_forgotten():
    now = [0.0]
    wrong = WrongTokens(lambda: now[0])
    assert [wrong.cost("a") for _ in range(8)] == [0.25, 0.5, 1, 2, 4, 8, 8, 8]
    assert wrong.cost("b") == 0.25
    now[0] = wrong.memory + 1
    assert wrong.cost("a") == 0.25
    for k in range(wrong.most + 10):
        wrong.cost(f"address {k}")
    assert len(wrong._count) == wrong.most
    blocks = [wrong.waiting("a") for _ in range(wrong.at_once + 1)]
    for block in blocks[:-1]:
        block.__enter__()
    with pytest.raises(Refusal) as refused:
        blocks[-1].__enter__()
    assert refused.value.status == 429
    for block in blocks[:-1]:
        block.__exit__(None, None, None)
    assert not wrong._waiting


# ---- names, origins, forms -----------------------------------------------------------------------------------------

FOREIGN = [
    {"host": "evil.example"},
    {"host": "127.0.0.1.evil.example"},
    {"host": ""},
    {"host": "127.0.0.1@evil.example"},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1.evil.example"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_what_comes_from_elsewhere_is_refused(browser, headers):
    for address in ("/voices", "/static/studio.css", "/nothing"):
        assert browser.get(address, headers=headers).status_code == 403
    assert browser.post("/language", headers=headers, data={"csrf": browser.csrf()}).status_code == 403


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1", 303),
        ("http://127.0.0.1:80", 303),
        ("http://127.0.0.1:8000", 403),  # another server of this machine
        ("http://localhost", 403),
        ("https://127.0.0.1:444", 403),
        ("file://", 403),
        ("null", 403),
        ("127.0.0.1", 403),
    ],
)
def test_a_form_comes_from_the_very_same_place(browser, origin, status):
    assert browser.submit("/language", {"language": "de"}, headers={"origin": origin}).status_code == status


def test_a_link_elsewhere_may_lead_here(browser):
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert browser.get("/voices", headers=headers).status_code == 200
    assert browser.submit("/language", {"language": "de"}, headers=headers).status_code == 403


def test_one_persons_form_is_not_anothers(studio, tokens, door):
    ann, ben = (enter(Browser(door, base_url="http://127.0.0.1:80"), tokens, name) for name in ("ann", "ben"))
    assert ann.csrf() != ben.csrf()
    assert ben.submit("/language", {"language": "de", "csrf": ann.csrf()}).status_code == 403
    assert ann.submit("/language", {"language": "de"}).status_code == 303
    assert studio.home.person("ann").settings() == {"language": "de"}
    assert not studio.home.person("ben").settings()


# ---- every answer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["/voices", "/nothing", "/static/studio.css", "/language"])
def test_every_answer_has_the_heads_of_safety(browser, visitor, address):
    for client in (browser, visitor):
        for headers in ({}, {"host": "evil.example"}):
            answer = client.get(address, headers=headers)
            for name, value in HEADERS.items():
                kept = name == "cache-control" and address.startswith("/static")
                assert answer.headers[name] == ("no-cache" if kept else value), (name, answer.status_code)
            assert "server" not in answer.headers
    assert "unsafe" not in HEADERS["content-security-policy"]


def test_too_much_is_a_clear_sentence(browser, monkeypatch):
    token = browser.csrf()
    large = browser.post("/language", data={"csrf": token, "language": "d" * 300_000})
    assert large.status_code == 413
    assert "MB" in large.text
    part = browser.post("/language", data={"csrf": token, "x": "d" * 300_000}, headers={"hx-request": "true"})
    assert part.status_code == 413
    assert "<html" not in part.text

    def endless():  # of no stated length
        for _ in range(100):
            yield b"x" * 10_000

    chunked = browser.post(
        "/language", content=endless(), headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert chunked.status_code == 413
    for size in ("9" * 30, "999999999999"):
        assert browser.post("/language", content=b"x", headers={"content-length": size}).status_code == 413
    assert browser.get("/voices").status_code == 200


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/language", 250_000),
        ("/voices/0123456789ab/record/files", 2_000_050_000),
        ("/voices/0123456789ab/record/files/one", 2_000_050_000),
        ("/voices/0123456789ab/record/files/one/more", 250_000),
        ("/voices/0123456789ab/record/takes", 40_050_000),
        ("/voices/0123456789ab/record/takes/0001-abcd/text", 250_000),
        ("/voices/import", 40_050_000),
        ("/tasks/0123456789ab/cancel", 250_000),
    ],
)
def test_limits_by_route(path, most):
    assert access_module.limit_of(path)[0] == most


def test_every_limit_is_that_of_an_address(studio):
    asked = [route.path for route in application(studio).routes if "POST" in (getattr(route, "methods", None) or ())]
    for pattern, _ in access_module.LIMITS:
        assert any(pattern.fullmatch(path.replace("{project}", "0123456789ab")) for path in asked), pattern.pattern


def test_who_sends_slowly_is_let_go(studio):
    import anyio

    patience = Patience(form=0.05, stall=0.05, linger=0.05)
    door = Access(application(studio), Names("127.0.0.1"), patience=patience)
    for path in ("/language", "/voices/0123456789ab/record/files"):
        sent, parts = [], [{"type": "http.request", "body": b"csrf=", "more_body": True}]

        async def receive(parts=parts):
            if parts:
                return parts.pop()
            await anyio.sleep(60)

        async def send(message, sent=sent):
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/x-www-form-urlencoded")],
            "http_version": "1.1", "scheme": "http", "root_path": "", "server": ("127.0.0.1", 80), "client": None,
        }  # fmt: skip
        anyio.run(door.__call__, scope, receive, send)
        assert sent[0]["status"] in (404, 405, 408), path
        assert path != "/language" or sent[0]["status"] == 408
        assert sent[-1] == {"type": "http.response.body", "body": b""}


def test_the_command_prints_an_address_for_each_name(tmp_path, monkeypatch, capsys):
    import httpx

    from mlx_voxclone.studio.server import Served

    asked = {}

    def run(self, ready):
        self._web.start()
        try:
            ready()
            base = f"http://127.0.0.1:{self.port}"
            asked["closed"] = httpx.get(f"{base}/voices", timeout=60).status_code
            told = capsys.readouterr().err
            asked["ann"] = next(line for line in told.splitlines() if "for ann: " in line).partition("for ann: ")[2]
            asked["ben"] = "for ben: http" in told
            with httpx.Client(follow_redirects=True, timeout=60) as client:
                asked["answer"] = client.get(asked["ann"])
        finally:
            self._web.close()
            self.studio.tasks.close()

    monkeypatch.setattr(Served, "run", run)
    argv = ["studio", "--folder", str(tmp_path / "studio"), "--port", "0", "--share-token", "ann", "ben"]
    assert voxclone(argv) == 0
    assert asked["closed"] == 401
    assert asked["ben"]
    assert asked["answer"].status_code == 200
    assert "token" not in str(asked["answer"].url)
    kept = json.loads((tmp_path / "studio" / FILE).read_text())["tokens"]
    assert asked["ann"].endswith(f"?token={kept['ann']}")
