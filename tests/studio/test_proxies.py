"""Who sits at this machine and who comes through a proxy, and what `--proxy` prints and refuses."""

import pytest
from visiting import Browser, enter

from mlx_voxclone.cli import main as voxclone
from mlx_voxclone.process.network import Names
from mlx_voxclone.studio.web.access import Access
from mlx_voxclone.studio.web.app import application
from mlx_voxclone.studio.web.closed import closed
from mlx_voxclone.studio.web.here import is_here

FORWARDED = [
    {"forwarded": "for=192.0.2.7"},
    {"x-forwarded-for": "192.0.2.7"},
    {"x-forwarded-for": "127.0.0.1"},  # as the client itself may have said
    {"x-forwarded-proto": "https"},
    {"x-real-ip": "192.0.2.7"},
    {"via": "1.1 studio.example"},
    {"cf-connecting-ip": "192.0.2.7"},
]


def scope_of(headers=(), client="127.0.0.1", host="127.0.0.1:7861", version="1.1", **more):
    listed = [(b"host", host.encode()), *((name.encode(), value.encode()) for name, value in dict(headers).items())]
    return {"type": "http", "client": (client, 1), "http_version": version, "headers": listed} | more


@pytest.mark.parametrize(
    ("client", "host"),
    [("127.0.0.1", "127.0.0.1:7861"), ("127.0.0.1", "localhost"), ("::1", "[::1]:7861"), ("127.0.0.2", "LOCALHOST:1")],
)
def test_a_browser_of_this_machine_is_here(client, host):
    assert is_here(scope_of(client=client, host=host))


@pytest.mark.parametrize("headers", FORWARDED)
def test_what_a_proxy_passes_on_is_not_of_this_machine(headers):
    assert not is_here(scope_of(headers))


@pytest.mark.parametrize(
    "changed",
    [
        {"version": "1.0"},  # nginx, unless it is told otherwise
        {"host": "studio.example"},
        {"host": "127.0.0.1.evil.example"},
        {"client": "192.0.2.7"},
        {"client": "name"},
        {"proxied": True},
    ],
)
def test_nor_is_what_was_asked_of_another_name(changed):
    assert not is_here(scope_of(**changed))
    assert not is_here(scope_of() | {"client": None})


@pytest.mark.parametrize("headers", FORWARDED)
def test_a_studio_for_everybody_is_shown_by_no_proxy(browser, visitor, tokens, headers, me):
    answer = browser.get("/voices", headers=headers)
    assert answer.status_code == 403
    assert "--share-token" in answer.text
    assert browser.submit("/language", {"language": "de"}, headers=headers).status_code == 403
    assert me.settings() == {}
    assert enter(visitor, tokens, "ann").get("/voices", headers=headers).status_code == 200
    assert visitor.get("/static/studio.css", headers=headers).status_code == 200


def test_behind_a_proxy_nobody_sits_here(studio, tokens, tmp_path):
    """Whatever the proxy passes on, or leaves out."""
    door = Access(application(studio), Names("127.0.0.1", "Studio.example"), tokens, tell=closed, proxied=True)
    for base in ("http://studio.example", "http://127.0.0.1"):
        ann = Browser(door, base_url=base, client=("127.0.0.1", 1), headers={"origin": base.replace("http:", "https:")})
        answer = ann.get(f"/?token={tokens.by_name['ann']}", follow_redirects=False)
        cookies = answer.headers.get_list("set-cookie")
        assert len(cookies) == 2
        assert all("secure" in cookie.lower() for cookie in cookies)
        ann.cookies.set("studio_80", tokens.by_name["ann"])
        ann.headers["cookie"] = f"studio_80={tokens.by_name['ann']}"
        assert ann.get("/voices").status_code == 200
        answer = ann.submit("/model/folder", {"folder": str(tmp_path)})
        assert answer.status_code == 422
        assert "in a browser on the machine" in answer.text
    assert Browser(door, base_url="http://other.example").get("/voices").status_code == 403


def test_the_command_wants_tokens_and_a_name_for_a_proxy(tmp_path, capsys):
    argv = ["studio", "--folder", str(tmp_path / "studio"), "--port", "0", "--no-open", "--proxy"]
    assert voxclone([*argv, "studio.example"]) == 2
    assert "--share-token NAME" in capsys.readouterr().err
    for name in ("https://studio.example", "studio.example:443", "studio.example/x", "", "a b"):
        assert voxclone([*argv, name, "--share-token", "ann"]) == 2
        assert "a host's name alone" in capsys.readouterr().err
    assert not (tmp_path / "studio").exists()


def test_the_address_that_is_printed_is_the_proxys(tmp_path, monkeypatch, capsys):
    from mlx_voxclone.studio.server import Served

    def run(self, ready):
        ready()
        self._web.close()
        self.studio.tasks.close()

    monkeypatch.setattr(Served, "run", run)
    argv = ["studio", "--folder", str(tmp_path / "studio"), "--port", "0", "--share-token", "ann"]
    assert voxclone([*argv, "--proxy", "studio.example"]) == 0
    assert "for ann: https://studio.example/?token=" in capsys.readouterr().err
