"""A server on this machine that answers downloads and listings as the Hugging Face hub does."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

FILE = re.compile(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)")
INFO = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(tree|revision)/([^/]+)(?:/(.+))?)?")


@dataclass
class Hub:
    """What it holds, how it fails, and what it was asked. A dataset's name begins with datasets/."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)  # files by path
    pages: dict[str, bytes] = field(default_factory=dict)  # what lies beside the repositories, by path
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)  # repository: status and error code
    stumbles: dict[str, list[int]] = field(default_factory=dict)  # statuses of the next requests for a file; 200: none
    cut: set[str] = field(default_factory=set)  # files and pages that the next request gets half of
    spoiled: set[str] = field(default_factory=set)  # files whose bytes are wrong, and as many
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def add(self, repo_id: str, folder: Path, place: str = "") -> None:
        """Publish the files under a folder at a place in a repository."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.repositories.setdefault(repo_id, {}).update(
            {f"{place}/{name}" if place else name: data for name, data in files.items()}
        )

    def commit(self, repo_id: str) -> str:
        content = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.repositories[repo_id].items())
        return hashlib.sha1(repr(content).encode()).hexdigest()

    def described(self, repo_id: str) -> dict[str, Any]:
        """A repository as its listing says it; what is no text lies in git's large file storage."""
        siblings = []
        for path, data in self.repositories[repo_id].items():
            sibling: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": "0"}
            if not path.endswith((".json", ".md", ".toml", ".yaml")):
                sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(sibling)
        return {"id": repo_id, "sha": self.commit(repo_id), "siblings": siblings, "tags": [], "private": False}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_POST(self) -> None:
            """What the client asks on the way to a commit, and the commit."""
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.asked.append(f"POST {self.path}")
            if self.path == "/api/repos/create":
                wanted = json.loads(data)
                repo_id = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
                if repo_id in hub.refusals:
                    self.refuse(*hub.refusals[repo_id])
                    return
                hub.repositories.setdefault(repo_id, {})
                self.send_json({"url": f"{hub.url}/{repo_id}"})
            elif self.path == "/api/validate-yaml":
                self.send_json({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(data)["files"]
                answers = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
                self.send_json({"files": answers})
            else:
                repo_id = self.path.removeprefix("/api/models/").partition("/commit/")[0]
                for line in map(json.loads, data.splitlines()):
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        hub.repositories[repo_id][line["value"]["path"]] = content
                commit = hub.commit(repo_id)
                self.send_json({"commitUrl": f"{hub.url}/{repo_id}/commit/{commit}", "commitOid": commit})

        def send_json(self, content: Any) -> None:
            self.send_bytes("", json.dumps(content).encode(), {"Content-Type": "application/json"}, True)

        def answer(self, body: bool) -> None:
            path = unquote(self.path.partition("?")[0])
            if path == "/api/agent-harnesses":  # asked once a process, of what calls the client
                self.refuse(404, "")
                return
            hub.asked.append(f"{self.command} {self.path} {self.headers.get('Range') or ''}".strip())
            if path in hub.pages:
                self.send_bytes(path, hub.pages[path], {}, body)
                return
            file, info = FILE.fullmatch(path), INFO.fullmatch(path)
            if file:
                repo_id, revision = file[1], file[2]
            elif info:
                repo_id, revision = info[2] if info[1] == "models" else f"datasets/{info[2]}", info[4] or "main"
            else:
                repo_id, revision = "", ""
            if repo_id in hub.refusals:
                self.refuse(*hub.refusals[repo_id])
            elif repo_id not in hub.repositories:
                self.refuse(404, "RepoNotFound")
            elif revision not in ("main", hub.commit(repo_id)):
                self.refuse(404, "RevisionNotFound")
            elif file:
                self.send_file(repo_id, file[3], body)
            elif info and info[5] and not any(name.startswith(f"{info[5]}/") for name in hub.repositories[repo_id]):
                self.refuse(404, "EntryNotFound")
            else:
                self.send_info(hub.described(repo_id), tree=info is not None and info[3] == "tree")

        def send_file(self, repo_id: str, path: str, body: bool) -> None:
            commit = {"X-Repo-Commit": hub.commit(repo_id)}
            if path not in hub.repositories[repo_id]:
                self.refuse(404, "EntryNotFound", commit)
            elif hub.stumbles.get(path) and (status := hub.stumbles[path].pop(0)) != 200:
                self.refuse(status, "")
            else:
                data = hub.repositories[repo_id][path]
                etag = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
                self.send_bytes(path, data[::-1] if path in hub.spoiled else data, commit | etag, body)

        def send_bytes(self, path: str, data: bytes, headers: dict[str, str], body: bool) -> None:
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0]) if body else 0
            self.send_response(206 if start else 200)
            for name, value in headers.items():
                self.send_header(name, value)
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

        def send_info(self, content: dict[str, Any], tree: bool) -> None:
            entries = [
                {"type": "file", "path": each["rfilename"], "size": each["size"], "oid": "0"}
                for each in content["siblings"]
            ]
            text = json.dumps(entries if tree else content).encode()
            self.send_bytes(self.path, text, {"Content-Type": "application/json"}, body=True)

        def refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            soon = {"Retry-After": "0"} if status in (429, 500) else {}  # so that the client's own attempts end soon
            for name, value in {"X-Error-Code": code, "Content-Length": "0", **soon, **(headers or {})}.items():
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
