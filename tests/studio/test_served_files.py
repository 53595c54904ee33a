"""Files of a person's as answers: those alone, by no way around, and nothing that a browser takes for a page."""

import os

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from mlx_voxclone.process.network import Names
from mlx_voxclone.studio.mistakes import Missing
from mlx_voxclone.studio.web.access import Access
from mlx_voxclone.studio.web.files import file_answer, found_within, safe_name
from mlx_voxclone.studio.web.sounds import sound_response


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "people" / "ann"
    (root / "exports" / "voice").mkdir(parents=True)
    (root / "exports" / "voice" / "ann.safetensors").write_bytes(b"0123456789")
    (root / "exports" / "é.wav").write_bytes(b"RIFF")
    (root / "exports" / "page.html").write_text("<script>alert(1)</script>")
    (root / "exports" / ".hidden").write_text("secret")
    (root / ".trash").mkdir()
    (root / ".trash" / "x.wav").write_text("secret")
    (tmp_path / "people" / "ben.wav").write_text("secret")
    (root / "out").symlink_to(tmp_path / "people")
    (root / "link.wav").symlink_to(tmp_path / "people" / "ben.wav")
    os.mkfifo(root / "pipe.wav")
    return root


GONE = [
    "", "/", ".", "..", "../ben.wav", "exports/../../ben.wav", "exports/voice", "exports", "exports/",
    "/exports/page.html", "exports//page.html", "exports/.hidden", ".trash/x.wav", "out/ben.wav", "link.wav",
    "pipe.wav", "nothing.wav", "exports/voice/ann.safetensors/x", "exports\\page.html", "exports/page.html\x00.wav",
    "exports/page.html\n", "a" * 2000, "a/" * 20 + "a", "exports/./page.html", "\u202eexports/page.html",
    "exports/\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", GONE)
def test_what_is_not_a_plain_file_of_the_folder_is_not_there(folder, name):
    with pytest.raises(Missing):
        found_within(folder, name)


@pytest.mark.parametrize("name", ["exports/voice/ann.safetensors", "exports/é.wav", "exports/page.html"])
def test_what_is(folder, name):
    assert found_within(folder, name) == folder / name


@pytest.mark.parametrize("name", [*GONE, "exports/page.html", "exports/voice/ann.safetensors", "/etc/passwd"])
def test_a_sound_is_one_of_the_folder(folder, name):
    with pytest.raises(Missing):
        sound_response(folder / name, folder)
    assert sound_response(folder / "exports" / "é.wav", folder).status_code == 200


@pytest.fixture
def client(folder):
    async def answer(request):
        return file_answer(found_within(folder, request.path_params["name"]), request.query_params.get("as"))

    async def missing(request, error):
        from starlette.responses import PlainTextResponse

        return PlainTextResponse("gone", 404)

    app = Starlette(routes=[Route("/{name:path}", answer)], exception_handlers={Missing: missing})
    return TestClient(Access(app, Names("127.0.0.1")), base_url="http://127.0.0.1")


RANGES = [
    (None, 200, b"0123456789"),
    ("bytes=0-", 206, b"0123456789"),
    ("bytes=2-4", 206, b"234"),
    ("bytes=-3", 206, b"789"),
    ("bytes=7-100", 206, b"789"),
    ("bytes=10-", 416, b""),
    ("bytes=100-200", 416, b""),
    ("bytes=" + "0-1," * 5000, 200, b"0123456789"),  # one that the studio takes away
    ("bytes=-100", 206, b"0123456789"),
]


@pytest.mark.parametrize(("asked", "status", "content"), RANGES)
def test_ranges(client, asked, status, content):
    answer = client.get("/exports/voice/ann.safetensors", headers={"range": asked} if asked else {})
    assert answer.status_code == status
    if status != 416:
        assert answer.content == content
        assert answer.headers["content-length"] == str(len(content))
    if status == 206:
        assert answer.headers["content-range"].endswith("/10")


@pytest.mark.parametrize("asked", ["bytes", "bytes=", "items=0-1", "bytes=x-y", "bytes=5-2", "bytes=--3", "bytes=٣-٤"])
def test_ranges_that_are_none(client, asked):
    answer = client.get("/exports/voice/ann.safetensors", headers={"range": asked.encode()})
    assert answer.status_code in (200, 206, 400, 416)


def test_no_page_and_no_script_is_shown(client):
    page = client.get("/exports/page.html")
    assert page.headers["content-type"] == "application/octet-stream"
    assert page.headers["content-disposition"] == 'attachment; filename="page.html"'
    sound = client.get("/exports/é.wav")
    assert sound.headers["content-type"] == "audio/wav"
    assert "content-disposition" not in sound.headers
    kept = client.get("/exports/é.wav", params={"as": "Änn.wav"})
    assert kept.headers["content-disposition"] == "attachment; filename*=utf-8''%C3%84nn.wav"
    assert client.get("/exports/.hidden").status_code == 404


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Ann", "Ann.wav"),
        ("Änn's voice", "Änn's voice.wav"),
        ("../../etc/passwd", "etc passwd.wav"),
        ("", "voice.wav"),
        ("...", "voice.wav"),
        ('a"b\r\nSet-Cookie: x', "a b Set-Cookie x.wav"),
        ("con\x00trol", "con trol.wav"),
        ("\u202egnp.exe", "gnp.exe.wav"),
        ("\ud800", "?.wav".replace("?", "voice")),
        ("x" * 500, "x" * 120 + ".wav"),
        ("é" * 200, "é" * 60 + ".wav"),
        (".hidden", "hidden.wav"),
    ],
)
def test_names_of_downloads(title, name):
    assert safe_name(title, ".wav") == name
