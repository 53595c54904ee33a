"""A hub on the loopback: what huggingface-hub asks of huggingface.co for model repositories, in memory.

Repositories with commits, tokens that may write, read or nothing, private repositories, large files by the LFS protocol
on a second server (a storage of another origin, as the hub has one), and failures on demand.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

WRITE, READ = "hf_write", "hf_read"  # tokens
BINARY = (".safetensors", ".pt", ".wav")  # what .gitattributes gives to LFS


@dataclass
class Repository:
    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def commit(self, files: dict[str, bytes]) -> str:
        text = repr((len(self.commits), sorted((name, hashlib.sha256(data).digest()) for name, data in files.items())))
        self.commits.append((hashlib.sha1(text.encode()).hexdigest(), files))
        return self.commits[-1][0]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((one for one in self.commits if one[0] == revision), None)

    @property
    def files(self) -> dict[str, bytes]:
        """Of the newest commit."""
        return self.commits[-1][1]


class Hub:
    """The state behind the servers; `requests` holds `METHOD path` of all that was asked, `tokens` who asked it."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.tokens: list[str | None] = []
        self.faults: list[tuple[str, int]] = []  # (pattern of `METHOD path`, status)
        self.url = self.storage = ""

    def make(self, name: str, files: dict[str, bytes], private: bool = False) -> Repository:
        """A repository that is there already."""
        self.repositories[name] = made = Repository(private)
        made.commit({".gitattributes": b"*.safetensors filter=lfs\n", **files})
        return made

    def fail(self, pattern: str, status: int) -> None:
        """Answer requests that match with a status from now on."""
        self.faults.append((pattern, status))


class _Refusal(Exception):
    def __init__(self, status: int, code: str = "", text: str = ""):
        self.status, self.code, self.text = status, code, text


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _is_large(name: str) -> bool:
    return name.endswith(BINARY)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments) -> None:
        pass

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.requests.append(f"{self.command} {path}")
        self.hub.tokens.append(token)
        try:
            for pattern, status in self.hub.faults:
                if re.search(pattern, f"{self.command} {path}"):
                    raise _Refusal(status, "", "the stand-in was told to fail")
            if token not in (None, WRITE, READ):
                raise _Refusal(401, "", "Invalid credentials in Authorization header")
            self._answer(path, token)
        except _Refusal as e:
            headers = {"X-Error-Message": e.text} | ({"X-Error-Code": e.code} if e.code else {})
            self._send(e.status, {"error": e.text}, headers)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _send(self, status: int, content, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _answer(self, path: str, token: str | None) -> None:
        if path.startswith("/objects/"):
            return self._object(path.removeprefix("/objects/"))
        if path == "/api/repos/create":
            return self._create(json.loads(self.body), token)
        if path == "/api/validate-yaml":
            return self._validate(json.loads(self.body)["content"])
        for pattern, answer in (
            (r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self._info),
            (r"/api/models/([^/]+/[^/]+)/tree/(.+)", self._tree),
            (r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self._preupload),
            (r"/api/models/([^/]+/[^/]+)/commit/(.+)", self._commit),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch()", self._batch),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        ):
            if match := re.fullmatch(pattern, path):
                name, revision, *rest = match.groups()
                repository = self._repository(name, token)
                if self.command in ("POST", "PUT") and token != WRITE:
                    raise _Refusal(403, "", "You don't have the rights to write to this repository.")
                found = repository.at(revision or "main")
                if found is None:
                    raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
                return answer(name, repository, found, *rest)
        raise _Refusal(404, "", f"the stand-in knows no {path}")

    def _repository(self, name: str, token: str | None) -> Repository:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and token is None):
            if token is None:
                raise _Refusal(401, "", "Invalid username or password.")
            raise _Refusal(404, "RepoNotFound", "Repository not found")
        return found

    def _create(self, asked: dict, token: str | None) -> None:
        if token != WRITE:
            raise _Refusal(403 if token else 401, "", "You don't have the rights to create a model under it.")
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            raise _Refusal(409, "", "You already created this model repo")
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.make(name, {}, private)
        self._send(200, {"url": f"{self.hub.url}/{name}"})

    def _validate(self, card: str) -> None:
        _, head, _ = card.split("---\n", 2)
        content = yaml.safe_load(head)
        if "license" not in content:
            return self._send(400, {"errors": [{"message": "no licence"}], "warnings": []})
        self._send(200, {"errors": [], "warnings": []})

    def _info(self, name: str, repository: Repository, found) -> None:
        siblings = [{"rfilename": file} for file in found[1]]
        if parse_qs(urlsplit(self.path).query).get("blobs"):
            siblings = [self._described(file, data, "rfilename", "blobId", "sha256") for file, data in found[1].items()]
        info = {"id": name, "sha": found[0], "private": repository.private, "siblings": siblings, "tags": []}
        self._send(200, info)

    def _tree(self, name: str, repository: Repository, found) -> None:
        self._send(200, [{"type": "file", **self._described(*item, "path", "oid", "oid")} for item in found[1].items()])

    def _described(self, file: str, data: bytes, name: str, blob: str, digest: str) -> dict:
        described = {name: file, blob: _git_hash(data), "size": len(data)}
        if _is_large(file):
            described["lfs"] = {digest: hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return described

    def _preupload(self, name: str, repository: Repository, found) -> None:
        files = []
        for asked in json.loads(self.body)["files"]:
            mode = "lfs" if _is_large(asked["path"]) else "regular"
            there = found[1].get(asked["path"])
            known = (
                {}
                if there is None
                else {"oid": hashlib.sha256(there).hexdigest() if mode == "lfs" else _git_hash(there)}
            )
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, **known})
        self._send(200, {"files": files})

    def _batch(self, name: str, repository: Repository, found) -> None:
        objects = []
        for asked in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.storage}/objects/{asked['oid']}"}}
            actions = {} if asked["oid"] in self.hub.objects else {"actions": upload}
            objects.append({"oid": asked["oid"], "size": asked["size"], **actions})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _object(self, digest: str) -> None:
        if self.command == "PUT":
            assert hashlib.sha256(self.body).hexdigest() == digest
            self.hub.objects[digest] = self.body
            return self._send(200, b"")
        if digest not in self.hub.objects:
            raise _Refusal(404, "", "no such object")
        self._send(200, self.hub.objects[digest])

    def _commit(self, name: str, repository: Repository, found) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        parent, files = lines[0]["value"].get("parentCommit"), dict(found[1])
        if parent not in (None, found[0]):
            raise _Refusal(412, "", "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        made = repository.commit(files)
        address = f"{self.hub.url}/{name}/commit/{made}"
        self._send(200, {"commitUrl": address, "commitOid": made, "success": True})

    def _resolve(self, name: str, repository: Repository, found, file: str) -> None:
        if file not in found[1]:
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": found[0]}
            return self._send(404, b"", headers)
        data = found[1][file]
        headers = {"X-Repo-Commit": found[0], "ETag": f'"{_git_hash(data)}"'}
        if not _is_large(file):
            return self._send(200, data, headers)
        digest = hashlib.sha256(data).hexdigest()
        self.hub.objects[digest] = data
        place = {"Location": f"{self.hub.storage}/objects/{digest}", "X-Linked-Size": str(len(data))}
        self._send(302, b"", headers | place | {"X-Linked-Etag": f'"{digest}"'})


@contextmanager
def servers() -> Iterator[tuple[type[_Handler], list[str]]]:
    """The hub's server and that of its storage; `handler.hub` is what they serve, the addresses are in that order."""
    handler = type("Handler", (_Handler,), {"hub": None})
    started = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    for server in started:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield handler, [f"http://127.0.0.1:{server.server_address[1]}" for server in started]
    for server in started:
        server.shutdown()
        server.server_close()
