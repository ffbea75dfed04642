"""A stand-in Hub on loopback: enough of the Hub's HTTP interface to download, and to upload small files.

Started by hand it serves one repository: ``python tests/hub/server.py FOLDER`` prints its address.
"""

import base64
import hashlib
import json
import re
import socket
import struct
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
    commit: str = COMMIT
    has_digests: bool = True  # entity tags are what the Hub gives large files, or tell nothing of the content

    def etag(self, name: str) -> str:
        content = self.files[name]
        if self.has_digests and not name.endswith(".json"):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324 - as git does


class Hub:
    """The server, its repositories, and the requests that it got."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []
        self.secrets: list[tuple[str, str]] = []  # query and authorization of each
        self.faults: dict[tuple[str, str], str] = {}  # by method and file, names in FAULTS
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # clients that hang up are what this is for
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

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
        return self.fail(404, "RepoNotFound")

    def _create(self, values: dict[str, str]) -> None:
        if not self.headers.get("Authorization"):
            return self.fail(401, "")
        name = f"{values.get('organization')}/{values['name']}"
        self.hub.repos.setdefault(name, Repo())
        return self._json({"url": f"{self.hub.url}/{name}"})

    def _resolve(self, *, with_body: bool) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.secrets.append((urlparse(self.path).query, self.headers.get("Authorization", "")))
        self.hub.requests.append(f"{self.command} {path}")
        match = re.fullmatch(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", path)
        repo = self.hub.repos.get(match["repo"]) if match else None
        if repo is None or match is None:
            return self.fail(401, "RepoNotFound")
        fault = self.hub.faults.get((self.command, match["file"]))
        if fault is not None:
            return (FAULTS | SLOW)[fault](self, repo, match["file"])
        if not with_body:
            time.sleep(repo.head_delay)
        if repo.status != 200:
            return self.fail(repo.status, repo.error)
        if match["revision"] not in repo.revisions:
            return self.fail(404, "RevisionNotFound")
        if match["file"] not in repo.files:
            return self.fail(404, "EntryNotFound")
        return self.send(repo, match["file"], with_body=with_body)

    def send(self, repo: Repo, name: str, *, with_body: bool) -> None:
        content = repo.files[name]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted and repo.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", repo.commit)
        self.send_header("ETag", f'"{repo.etag(name)}"')
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

    def fail(self, status: int, error: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", error)
        self.send_header("X-Error-Message", f"{error or 'failure'} (stand-in)")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()


# --- what can go wrong with a request ---

Fault = Callable[[_Handler, Repo, str], None]


def _begin(handler: _Handler, repo: Repo, name: str, **headers: str) -> bytes:
    """Send a good status and headers, and return the content that would come after."""
    content = repo.files[name]
    values = {
        "X-Repo-Commit": COMMIT,
        "ETag": f'"{repo.etag(name)}"',
        "Content-Type": "application/octet-stream",
        "Content-Length": str(len(content)),
    }
    handler.send_response(200)
    for header, value in (values | {k.replace("_", "-"): v for k, v in headers.items()}).items():
        handler.send_header(header, value)
    handler.end_headers()
    handler.close_connection = True
    return content if handler.command == "GET" else b""


def _silence(handler: _Handler, _repo: Repo, _name: str) -> None:
    handler.hub.closing.wait(60)
    handler.close_connection = True


def _header_drip(handler: _Handler, _repo: Repo, _name: str) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    handler.close_connection = True
    for i in range(600):
        handler.wfile.write(f"X-Filler-{i}: {i}\r\n".encode())
        if handler.hub.closing.wait(0.1):
            return


def _body_drip(handler: _Handler, repo: Repo, name: str) -> None:
    content = _begin(handler, repo, name)
    for byte in content[:3]:
        handler.wfile.write(bytes([byte]))
        handler.hub.closing.wait(0.05)
    handler.hub.closing.wait(60)


def _steady_drip(handler: _Handler, repo: Repo, name: str) -> None:
    content = _begin(handler, repo, name)
    part = len(content) // 20 + 1
    for start in range(0, len(content), part):
        handler.wfile.write(content[start : start + part])
        handler.hub.closing.wait(0.15)


def _cut(at: int) -> Fault:
    def answer(handler: _Handler, repo: Repo, name: str) -> None:
        content = _begin(handler, repo, name)
        handler.wfile.write(content[: min(at, len(content) - 1)])

    return answer


def _reset(handler: _Handler, _repo: Repo, _name: str) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def _status(status: int, **headers: str) -> Fault:
    def answer(handler: _Handler, _repo: Repo, _name: str) -> None:
        handler.send_response(status)
        for header, value in headers.items():
            handler.send_header(header.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def _redirect(handler: _Handler, _repo: Repo, _name: str, target: str | None = None) -> None:
    handler.send_response(302)
    handler.send_header("Location", target or handler.hub.url + handler.path)
    handler.send_header("X-Repo-Commit", COMMIT)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def _slow_redirect(handler: _Handler, repo: Repo, name: str) -> None:
    handler.hub.closing.wait(0.1)
    _redirect(handler, repo, name, f"{handler.hub.url}{handler.path}?again")


def _page(handler: _Handler, repo: Repo, name: str) -> None:
    page = b"<!DOCTYPE html><html><body>Sign in to this network</body></html>"
    if _begin(handler, repo, name, Content_Type="text/html", Content_Length=str(len(page))):
        handler.wfile.write(page)


FAULTS: dict[str, Fault] = {
    "silence": _silence,
    "header lines for ever": _header_drip,
    "a few bytes, then silence": _body_drip,
    "cut at once": _cut(0),
    "cut in the middle": _cut(5000),
    "longer than it says": lambda h, r, n: h.wfile.write(_begin(h, r, n, Content_Length="10")[:10]) and None,
    "shorter than it says": lambda h, r, n: h.wfile.write(_begin(h, r, n, Content_Length="99999999")) and None,
    "a false tag": lambda h, r, n: h.wfile.write(_begin(h, r, n, ETag=f'"{"0" * 64}"')) and None,
    "another commit": lambda h, r, n: h.wfile.write(_begin(h, r, n, X_Repo_Commit="f" * 40)) and None,
    "bytes turned over": lambda h, r, n: h.wfile.write(_begin(h, r, n)[::-1]) and None,
    "no headers of a Hub": _status(200),
    "a web page": _page,
    "no HTTP": lambda h, _r, _n: h.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n") and setattr(h, "close_connection", True),
    "a reset connection": _reset,
    "a redirect to itself": _redirect,
    "redirects for ever, slowly": _slow_redirect,
    "a redirect to nowhere": lambda h, r, n: _redirect(h, r, n, "http://127.0.0.1:9/file"),
    "a redirect to no address": lambda h, r, n: _redirect(h, r, n, "http://[::bad/file"),
    "a redirect to another scheme": lambda h, r, n: _redirect(h, r, n, "ftp://127.0.0.1/file"),
    "429, come back in an hour": _status(429, Retry_After="3600"),
    "503, come back in an hour": _status(503, Retry_After="3600"),
    **{str(status): _status(status) for status in (204, 400, 401, 403, 404, 408, 410, 416, 429, 500, 502, 503, 504)},
}

SLOW: dict[str, Fault] = {"slow but steady": _steady_drip}

# --- uploads ---


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
