"""A stand-in Hub on loopback: enough of the Hub's HTTP interface to download, and to upload small files.

Started by hand it serves one repository: ``python tests/hub/server.py FOLDER`` prints its address.
"""

import base64
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """Files of a repository by name, and what is wrong with it."""

    files: dict[str, bytes] = field(default_factory=dict)
    revisions: tuple[str, ...] = ("main", COMMIT)
    status: int = 200
    error: str = ""  # what the Hub calls it
    cut_at: int | None = None  # bytes after which every answer ends
    cut_once: bool = False  # ... or only the first one
    ranges: bool = True  # whether a download can go on where it stopped
    head_delay: float = 0  # seconds
    content_type: str = "application/octet-stream"


class Hub:
    """The server, its repositories, and the requests that it got."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Be silent."""

    def do_HEAD(self) -> None:
        self._resolve(with_body=False)

    def do_GET(self) -> None:
        self._resolve(with_body=True)

    def do_POST(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append(f"POST {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._json({"warnings": [], "errors": []})
        for pattern, answer in _UPLOAD.items():
            match = re.fullmatch(pattern, path)
            if match is not None:
                repo = self.hub.repos.setdefault(match["repo"], Repo())
                return self._json(answer(repo, match, body, self.hub.url))
        return self._fail(404, "RepoNotFound")

    def _create(self, values: dict[str, str]) -> None:
        if not self.headers.get("Authorization"):
            return self._fail(401, "")
        name = f"{values.get('organization')}/{values['name']}"
        self.hub.repos.setdefault(name, Repo())
        return self._json({"url": f"{self.hub.url}/{name}"})

    def _resolve(self, *, with_body: bool) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        match = re.fullmatch(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", path)
        repo = self.hub.repos.get(match["repo"]) if match else None
        if repo is None or match is None:
            return self._fail(401, "RepoNotFound")
        if not with_body:
            time.sleep(repo.head_delay)
        if repo.status != 200:
            return self._fail(repo.status, repo.error)
        if match["revision"] not in repo.revisions:
            return self._fail(404, "RevisionNotFound")
        if match["file"] not in repo.files:
            return self._fail(404, "EntryNotFound")
        return self._send(repo, repo.files[match["file"]], with_body=with_body)

    def _send(self, repo: Repo, content: bytes, *, with_body: bool) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted and repo.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Type", repo.content_type)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not with_body:
            return
        end = len(content) if repo.cut_at is None else min(repo.cut_at, len(content))
        self.wfile.write(content[start : max(start, end)])
        if end < len(content):
            self.close_connection = True
            if repo.cut_once:
                repo.cut_at = None

    def _json(self, values: object) -> None:
        content = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _fail(self, status: int, error: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", error)
        self.send_header("X-Error-Message", f"{error or 'failure'} (stand-in)")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _preupload(_repo: Repo, _match: re.Match[str], body: bytes, _url: str) -> object:
    files = json.loads(body)["files"]
    return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}


def _commit(repo: Repo, match: re.Match[str], body: bytes, url: str) -> object:
    for line in body.splitlines():
        entry = json.loads(line)
        if entry["key"] == "file":
            repo.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
    return {"commitUrl": f"{url}/{match['repo']}/commit/{COMMIT}", "commitOid": COMMIT}


def _branch(repo: Repo, match: re.Match[str], _body: bytes, _url: str) -> object:
    repo.revisions = (*repo.revisions, match["branch"])
    return {}


_UPLOAD: dict[str, Callable[[Repo, re.Match[str], bytes, str], object]] = {
    r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/[^/]+": _preupload,
    r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/[^/]+": _commit,
    r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<branch>[^/]+)": _branch,
}


if __name__ == "__main__":
    served = Hub()
    served.repos["owner/repo"] = Repo({p.name: p.read_bytes() for p in Path(sys.argv[1]).iterdir()})
    print(served.url, flush=True)  # noqa: T201
    threading.Event().wait()
