"""A stand-in of the hub's HTTP interface: repositories in memory, as far as downloads and commits need it."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


@dataclass
class Repository:
    """Files of each revision; a commit's name is the SHA-1 of its content, branches and tags name commits."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], *names: str) -> str:
        """Add a commit to the main branch and name it."""
        whole = self.commits.get(self.names.get("main", ""), {}) | files
        sha = hashlib.sha1(b"".join(name.encode() + content for name, content in sorted(whole.items()))).hexdigest()
        self.commits[sha] = whole
        self.names |= dict.fromkeys(("main", *names), sha)
        return sha


class StandIn(ThreadingHTTPServer):
    """Serves `repositories` by name; `requests` counts what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.token: str | None = None
        self.requests: list[str] = []
        self.large: dict[str, bytes] = {}
        """What was uploaded beside a commit, by SHA-256."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving() -> Iterator[StandIn]:
    """A stand-in that listens at an address of its own."""
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, *_: object) -> None:
        """Be silent."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path)
        self.server.requests.append(f"{self.command} {path}")
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(.+)/([^/]+)", path)
        if not found:
            return self._answer(404, {})
        repository = self.server.repositories.get(found[1])
        if repository is None or (repository.private and not self._is_allowed()):
            return self._answer(401, {}, {"X-Error-Code": "RepoNotFound"})
        sha = repository.names.get(found[2], found[2])
        if sha not in repository.commits:
            return self._answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
        content = repository.commits[sha].get(found[3])
        if content is None:
            return self._answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        etag = hashlib.sha256(content).hexdigest()
        return self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": sha})

    def do_PUT(self) -> None:
        content = self._content()
        self.server.large[hashlib.sha256(content).hexdigest()] = content
        self._answer(200, {})

    def do_POST(self) -> None:
        content = self._content()
        self.server.requests.append(f"POST {self.path}")
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if not self._is_allowed():
            return self._answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}"
            is_private = asked.get("private") or asked.get("visibility") == "private"
            status = 409 if name in self.server.repositories else 200
            self.server.repositories.setdefault(name, Repository(bool(is_private)))
            return self._answer(status, {"url": f"{self.server.address}/{name}"})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(content)["objects"]
            uploads = [
                one | {"actions": {"upload": {"href": f"{self.server.address}/large/{one['oid']}"}}} for one in objects
            ]
            return self._answer(200, {"transfer": "basic", "objects": uploads})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path):
            return self._commit(found[1], content) if found[2] == "commit" else self._preupload(content)
        return self._answer(404, {})

    def _preupload(self, content: bytes) -> None:
        """Weights go beside the commit, words in it, as on the hub."""
        names = [file["path"] for file in json.loads(content)["files"]]
        files = [
            {"path": name, "uploadMode": "lfs" if name.endswith(".safetensors") else "regular", "shouldIgnore": False}
            for name in names
        ]
        self._answer(200, {"files": files})

    def _commit(self, name: str, content: bytes) -> None:
        files: dict[str, bytes] = {}
        for line in map(json.loads, content.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[line["value"]["path"]] = self.server.large[line["value"]["oid"]]
        sha = self.server.repositories[name].commit(files)
        self._answer(200, {"commitOid": sha, "commitUrl": f"{self.server.address}/{name}/commit/{sha}"})

    def _is_allowed(self) -> bool:
        token = self.server.token
        return token is None or self.headers.get("Authorization") == f"Bearer {token}"

    def _content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, content: bytes | dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header(
            "Content-Type", "application/octet-stream" if isinstance(content, bytes) else "application/json"
        )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
