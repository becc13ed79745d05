"""A stand-in of the Hugging Face Hub's HTTP interface on 127.0.0.1, for datasets.

It speaks what huggingface_hub asks for with HF_ENDPOINT set and HF_HUB_DISABLE_XET=1: repositories,
preupload, Git LFS' batch and basic transfer, commits, trees, and ranges of files. It has one branch
and no Xet storage.
"""

import base64
import contextlib
import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_standInForASecret0123456789"
_LARGE = (".tar", ".parquet")


class FakeHub:
    """The running stand-in.

    Attributes:
        repositories: Files by repository and path: bytes, or the sha256 of a large one.
        objects: Large files by their sha256.
        puts: sha256 of each large file that was sent, in order.
        stall_at: The how-manieth large file is received and never answered.
        stalled: Set when it is.
        flips_bytes: What is stored of large files is not what was sent.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes | str]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.commits: list[list[str]] = []
        self.puts: list[str] = []
        self.stall_at: int | None = None
        self.stalled = threading.Event()
        self.closing = threading.Event()
        self.flips_bytes = False
        self._http = _Server(self)
        self.endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let stalled requests go and stop."""
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def content(self, repository: str, path: str) -> bytes:
        """Return a file."""
        found = self.repositories[repository][path]
        return self.objects[found] if isinstance(found, str) else found

    def entry(self, repository: str, path: str) -> dict[str, Any]:
        """Return what a tree says of a file."""
        found, data = self.repositories[repository][path], self.content(repository, path)
        sha1 = hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()
        entry = {"type": "file", "path": path, "size": len(data), "oid": sha1}
        if isinstance(found, str):  # the oid is then that of the pointer
            digest = hashlib.sha256(data).hexdigest()
            entry |= {
                "oid": "0" * 40,
                "lfs": {"oid": digest, "size": len(data), "pointerSize": 130},
            }
        return entry


@contextlib.contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Run a stand-in until the block ends."""
    hub = FakeHub()
    try:
        yield hub
    finally:
        hub.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: FakeHub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client was killed
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":  # of a card
            assert json.loads(body)["content"].startswith("---\n")
            self._answer({"errors": [], "warnings": []})
        elif path.endswith("/info/lfs/objects/batch"):
            self._answer({"objects": list(map(self._action, json.loads(body)["objects"]))})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            self._answer({"files": [self._mode(each["path"]) for each in files]})
        elif "/paths-info/" in path:
            self._paths_info(path.split("/paths-info/")[0], body)
        else:
            self._commit(path.split("/commit/")[0], body)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        is_new = name not in self.server.hub.repositories
        self.server.hub.repositories.setdefault(name, {".gitattributes": b"*.tar filter=lfs\n"})
        if is_new:
            is_private = asked.get("visibility") == "private" or asked.get("private")
            self.server.hub.private[name] = bool(is_private)
        url = f"{self.server.hub.endpoint}/datasets/{name}"
        self._answer({"url": url, "name": name, "id": "1"}, 200 if is_new else 409)

    def _action(self, found: dict[str, Any]) -> dict[str, Any]:
        if found["oid"] in self.server.hub.objects:
            return found
        upload = {"href": f"{self.server.hub.endpoint}/lfs/{found['oid']}"}
        return {**found, "actions": {"upload": upload}}

    def _mode(self, path: str) -> dict[str, Any]:
        mode = "lfs" if path.endswith(_LARGE) else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False}

    def _paths_info(self, prefix: str, body: bytes) -> None:
        name = prefix.removeprefix("/api/datasets/")
        if self.headers["Content-Type"].startswith("application/json"):
            paths = json.loads(body)["paths"]
        else:
            paths = parse_qs(body.decode())["paths"]
        paths = [paths] if isinstance(paths, str) else paths
        known = self.server.hub.repositories[name]
        self._answer([self.server.hub.entry(name, path) for path in paths if path in known])

    def _commit(self, prefix: str, body: bytes) -> None:
        name, changed = prefix.removeprefix("/api/datasets/"), {}
        for line in body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                assert value["oid"] in self.server.hub.objects, "committed before it was sent"
                changed[value["path"]] = value["oid"]
        self.server.hub.repositories[name].update(changed)
        self.server.hub.commits.append(sorted(changed))
        url = (
            f"{self.server.hub.endpoint}/datasets/{name}/commit/{len(self.server.hub.commits):040d}"
        )
        self._answer({"commitUrl": url, "commitOid": f"{len(self.server.hub.commits):040d}"})

    def do_PUT(self) -> None:
        oid = self.path.rpartition("/")[2]
        data = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(data).hexdigest() == oid
        self.server.hub.puts.append(oid)
        if len(self.server.hub.puts) == self.server.hub.stall_at:
            while not self.server.hub.objects:  # another is answered first
                time.sleep(0.01)
            self.server.hub.stalled.set()
            self.server.hub.closing.wait()
        self.server.hub.objects[oid] = data[:-1] + b"?" if self.server.hub.flips_bytes else data
        self._answer({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        is_known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        name = "/".join(path.removeprefix("/api").split("/")[2:4])
        if name not in self.server.hub.repositories or (
            self.server.hub.private[name] and not is_known
        ):
            self._answer({"error": "Repository not found"}, 404, "RepoNotFound")
        elif "/resolve/" in path:
            self._file(name, path.split("/resolve/", 1)[1].partition("/")[2])
        elif "/tree/" in path:
            folder = path.split("/tree/", 1)[1].partition("/")[2]
            self._answer(self._tree(name, folder))
        else:
            self._answer({"id": name, "sha": "0" * 40, "private": False, "tags": []})

    def _tree(self, name: str, folder: str) -> list[dict[str, Any]]:
        known, inside = self.server.hub.repositories[name], f"{folder}/" if folder else ""
        is_recursive = "recursive=true" in self.path.lower()
        files = [path for path in sorted(known) if path.startswith(inside)]
        folders = {path.rpartition("/")[0] for path in files if "/" in path[len(inside) :]}
        entries = [{"type": "directory", "path": each, "oid": "0" * 40} for each in folders]
        shown = [each for each in files if is_recursive or "/" not in each[len(inside) :]]
        return entries + [self.server.hub.entry(name, path) for path in shown]

    def _file(self, name: str, path: str) -> None:
        if path not in self.server.hub.repositories[name]:
            self._answer({"error": "Entry not found"}, 404, "EntryNotFound")
            return
        data = self.server.hub.content(name, path)
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        status, headers = 200, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        if asked:
            start, _, end = asked.partition("-")
            last = min(int(end or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{last}/{len(data)}"
            data, status = data[int(start) : last + 1], 206
        self._send(data, status, {**headers, "X-Repo-Commit": "0" * 40})

    def _answer(self, content: Any, status: int = 200, code: str | None = None) -> None:
        headers = {"Content-Type": "application/json"}
        if code is not None:
            headers |= {"X-Error-Code": code, "X-Error-Message": content["error"]}
        self._send(json.dumps(content).encode(), status, headers)

    def _send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
