"""A server on this machine that answers downloads as the Hugging Face hub does."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Hub:
    """What it holds, how it fails, and what it was asked."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)  # files by path
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)  # repository: status and error code
    cut: set[str] = field(default_factory=set)  # files that the first request gets half of
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def add(self, repo_id: str, folder: Path, place: str = "") -> None:
        files = self.repositories.setdefault(repo_id, {})
        for file in folder.iterdir():
            files[f"{place}/{file.name}".lstrip("/")] = file.read_bytes()

    def commit(self, repo_id: str) -> str:
        content = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.repositories[repo_id].items())
        return hashlib.sha1(repr(content).encode()).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path.partition("?")[0])
            tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(tree|revision)/([^/?]+).*", self.path)
            repo_id = (file or tree)[1] if file or tree else ""  # type: ignore[index]
            if repo_id in hub.refusals:
                self.refuse(*hub.refusals[repo_id])
            elif repo_id not in hub.repositories:
                self.refuse(404, "RepoNotFound")
            elif file and file[2] not in ("main", hub.commit(repo_id)):
                self.refuse(404, "RevisionNotFound")
            elif file and file[3] not in hub.repositories[repo_id]:
                self.refuse(404, "EntryNotFound", {"X-Repo-Commit": hub.commit(repo_id)})
            elif file:
                self.send_file(repo_id, file[3], body)
            else:
                self.send_tree(repo_id)

        def send_file(self, repo_id: str, path: str, body: bool) -> None:
            data = hub.repositories[repo_id][path]
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0]) if body else 0
            self.send_response(206 if start else 200)
            self.send_header("X-Repo-Commit", hub.commit(repo_id))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if body and path in hub.cut:
                hub.cut.remove(path)
                self.wfile.write(data[start : start + len(data) // 2])
                self.close_connection = True
            elif body:
                self.wfile.write(data[start:])

        def send_tree(self, repo_id: str) -> None:
            files = hub.repositories[repo_id]
            siblings = [{"rfilename": path} for path in files]
            content = {"id": repo_id, "sha": hub.commit(repo_id), "siblings": siblings, "tags": [], "private": False}
            entries = [{"type": "file", "path": path, "size": len(data), "oid": "0"} for path, data in files.items()]
            text = json.dumps(entries if "/tree/" in self.path else content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"X-Error-Code": code, "Content-Length": "0", **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
