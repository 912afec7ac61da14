"""A Hugging Face hub on loopback: enough of its HTTP to serve files, and every way in which that can fail.

    with FakeHub() as hub:
        pin = hub.add("owner/name", "model.safetensors", data)    # the keys of a weights.toml file
        hub.fault("model.safetensors", "corrupt")
        subprocess.run(..., env=hub.env(home))                    # HF_ENDPOINT is read at import

    python tests/fakehub.py DIR     serves DIR/owner/name/path/to/file and prints a line of TOML for each

Standard library only. Keep-alive connections outlive the server: test "the server is gone" in a new process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BLOCK = 1 << 16  # bytes

# What the hub says with each refusal: status, X-Error-Code.
REFUSALS = {
    "401": (401, ""),
    "403": (403, ""),
    "gated": (403, "GatedRepo"),
    "no_repository": (401, "RepoNotFound"),
    "no_revision": (404, "RevisionNotFound"),
    "404": (404, "EntryNotFound"),
    "500": (500, ""),
    "503": (503, ""),
}
# "corrupt": other bytes of the same size under the same ETag. "truncate": the connection ends halfway.
# "redirect": the hub's answer to a large file, 302 to another origin that has the content.
KINDS = {*REFUSALS, "corrupt", "truncate", "redirect"}


def commit_of(repo: str) -> str:
    """The one commit of a fake repository."""
    return hashlib.sha1(repo.encode()).hexdigest()


@dataclass
class Fault:
    where: str  # a part of the request's path
    kind: str
    times: int | None  # how many requests it spoils; None = all
    method: str | None  # "GET", "HEAD" or both


@dataclass
class FakeHub:
    """Serves until closed; `requests` is what was asked, as (method, path, Range header)."""

    files: dict[str, bytes | Path] = field(default_factory=dict)  # path of the request -> content
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            fake = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    @property
    def port(self) -> int:
        return self.server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        if not self.thread.is_alive():
            return
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def __enter__(self) -> FakeHub:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, repo: str, path: str, content: bytes | Path) -> dict[str, Any]:
        """Put a file into a repository; its source, size and hash as weights.toml has them."""
        self.files[f"/{repo}/{path}"] = content
        return {
            "repo": repo,
            "revision": commit_of(repo),
            "path": path,
            "bytes": _size(content),
            "sha256": _sha256(content),
        }

    def add_url(self, path: str, content: bytes | Path) -> dict[str, Any]:
        """Put a file under a plain URL."""
        self.files[f"/plain/{path}"] = content
        return {"url": f"{self.url}/plain/{path}", "bytes": _size(content), "sha256": _sha256(content)}

    def fault(self, where: str, kind: str, *, times: int | None = None, method: str | None = None) -> None:
        """Answer requests whose path contains `where` with this failure."""
        assert kind in KINDS, kind
        self.faults.append(Fault(where, kind, times, method))

    def env(self, home: Path, **more: str) -> dict[str, str]:
        """This process's environment, with `home` for every cache and this hub as the endpoint."""
        cleared = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().endswith("_PROXY") and not name.startswith(("HF_", "HUGGINGFACE_", "SEPCLI_"))
        }
        return cleared | {
            "HF_HOME": str(home / "huggingface"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            **more,
        }

    def count(self, method: str | None = None) -> int:
        """How many requests there were."""
        return sum(method in (None, asked) for asked, _, _ in self.requests)

    def struck(self, method: str, path: str) -> str | None:
        """The failure that this request meets, if any."""
        with self.lock:
            for fault in self.faults:
                if fault.where in path and fault.method in (None, method) and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    return fault.kind
        return None


class _Handler(BaseHTTPRequestHandler):
    fake: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        self.fake.requests.append((self.command, path, self.headers.get("Range")))
        kind = self.fake.struck(self.command, path)
        if kind in REFUSALS:
            return self.refuse(kind)
        headers = {}
        if path.startswith("/plain/"):
            content = self.fake.files.get(path)
        elif path.startswith("/cdn/"):
            content = self.fake.files.get(path.removeprefix("/cdn"))
        else:
            repo, _, rest = path.strip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            if not any(known.startswith(f"/{repo}/") for known in self.fake.files):
                return self.refuse("no_repository")
            if revision not in ("main", commit_of(repo)):
                return self.refuse("no_revision")
            content = self.fake.files.get(f"/{repo}/{name}")
            headers["X-Repo-Commit"] = commit_of(repo)
        if content is None:
            return self.refuse("404", headers)
        headers["ETag"] = f'"{_sha256(content)}"'
        if kind == "redirect" and "/resolve/" in path:
            headers |= {
                "X-Linked-Etag": headers["ETag"],
                "X-Linked-Size": str(_size(content)),
                "Location": f"http://localhost:{self.fake.port}/cdn/{repo}/{name}",
            }
            return self.head(302, 0, headers)
        self.send(content, headers, kind)

    def refuse(self, kind: str, headers: dict[str, str] | None = None) -> None:
        status, code = REFUSALS[kind]
        self.head(status, 0, (headers or {}) | ({"X-Error-Code": code} if code else {}))

    def head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def send(self, content: bytes | Path, headers: dict[str, str], kind: str | None) -> None:
        size = _size(content)
        start, status = 0, 200
        if asked := self.headers.get("Range"):
            start, status = int(asked.removeprefix("bytes=").partition("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self.head(status, size - start, headers)
        if self.command == "HEAD":
            return
        left = (size - start) // 2 if kind == "truncate" else size - start
        for block in _blocks(content, start):
            block = block[:left]
            left -= len(block)
            if kind == "corrupt":
                block = bytes(byte ^ 0xFF for byte in block)
            with contextlib.suppress(ConnectionError):
                self.wfile.write(block)
            if not left:
                break
        if kind == "truncate":
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(2)

    def log_message(self, *args: object) -> None:
        pass


def _size(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _sha256(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    status = content.stat()
    key = (content, status.st_size, status.st_mtime_ns)
    if key not in _HASHES:
        with content.open("rb") as stream:
            _HASHES[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _HASHES[key]


_HASHES: dict[tuple[Path, int, int], str] = {}  # one ETag a request would hash a large file each time


def _blocks(content: bytes | Path, start: int) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield from (content[at : at + BLOCK] for at in range(start, len(content), BLOCK))
        return
    with content.open("rb") as stream:
        stream.seek(start)
        while block := stream.read(BLOCK):
            yield block


def main() -> None:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        raise SystemExit("usage: python tests/fakehub.py DIR     (DIR holds owner/name/path/to/file)")
    root = Path(sys.argv[1]).resolve()
    with FakeHub() as hub:
        print(f"# HF_ENDPOINT={hub.url}", flush=True)
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            owner, name, *rest = file.relative_to(root).parts
            pin = hub.add(f"{owner}/{name}", "/".join(rest), file)
            values = ", ".join(f"{key} = {value!r}".replace("'", '"') for key, value in pin.items())
            print(f"{{ {values} }}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
