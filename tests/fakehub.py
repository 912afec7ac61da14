"""A Hugging Face hub on loopback: enough of its HTTP to serve and take files, and how all of it can fail.

    with FakeHub() as hub:
        pin = hub.add("owner/name", "model.safetensors", data)    # the keys of a weights.toml file
        hub.fault("model.safetensors", "corrupt")
        subprocess.run(..., env=hub.env(home))                    # HF_ENDPOINT is read at import
        hub.tokens["hf_mine"] = {"me"}                            # who may create and commit, and where
        hub.repos["me/model"].files("main")                       # what was committed

    python tests/fakehub.py DIR     serves DIR/owner/name/path/to/file and prints a line of TOML for each

Uploads as the client makes them: create a repository or branch, have the card's head checked, ask what is
large, send that by the LFS batch, commit the rest as NDJSON. No xet: HF_HUB_DISABLE_XET must be set.

Standard library only. Keep-alive connections outlive the server: test "the server is gone" in a new process.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

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
# "redirect": the hub's answer to a large file, 302 to another origin that has the content. "stall": half of it,
# then nothing more. "no_commit": a mirror that does not name the commit. "no_range": all of it, always.
KINDS = {*REFUSALS, "corrupt", "truncate", "redirect", "stall", "no_commit", "no_range"}


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
class Repo:
    """A repository that was created by a request. A commit is all files after it."""

    name: str
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # oid -> path -> content
    branches: dict[str, str] = field(default_factory=dict)  # name -> oid
    messages: list[str] = field(default_factory=list)  # of all commits but the first

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{self.name} {len(self.commits)}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid

    def oid(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision: str) -> dict[str, bytes]:
        return self.commits[self.oid(revision) or ""]


@dataclass
class FakeHub:
    """Serves until closed; `requests` is what was asked, as (method, path, Range header)."""

    files: dict[str, bytes | Path] = field(default_factory=dict)  # path of the request -> content
    repos: dict[str, Repo] = field(default_factory=dict)  # those made by requests, by "owner/name"
    tokens: dict[str, set[str]] = field(default_factory=dict)  # token -> owners it may write for
    objects: dict[str, bytes] = field(default_factory=dict)  # large files that were sent, by sha256
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    authorized: list[str] = field(default_factory=list)  # the paths of requests that came with a token

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

    def do_POST(self) -> None:
        self.take()

    def do_PUT(self) -> None:
        self.take()

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        self.fake.requests.append((self.command, path, self.headers.get("Range")))
        if self.headers.get("Authorization"):
            self.fake.authorized.append(path)
        kind = self.fake.struck(self.command, path)
        if kind in REFUSALS:
            return self.refuse(kind)
        headers = {}
        if path.startswith("/api/"):
            return self.describe(path)
        if path.startswith("/plain/"):
            content = self.fake.files.get(path)
        elif path.startswith("/cdn/"):
            content = self.fake.files.get(path.removeprefix("/cdn"))
        else:
            repo, _, rest = path.strip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            if made := self.fake.repos.get(repo):
                if made.private and not self.may_write(repo):
                    return self.refuse("no_repository")
                commit = made.oid(unquote(revision))
                content = made.commits[commit].get(name) if commit else None
            elif any(known.startswith(f"/{repo}/") for known in self.fake.files):
                commit = commit_of(repo) if revision in ("main", commit_of(repo)) else None
                content = self.fake.files.get(f"/{repo}/{name}")
            else:
                return self.refuse("no_repository")
            if commit is None:
                return self.refuse("no_revision")
            if kind != "no_commit":
                headers["X-Repo-Commit"] = commit
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

    # --- uploads ---

    def owners(self) -> set[str] | None:
        """Whom the request's token writes for; None without a token that is known."""
        return self.fake.tokens.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def may_write(self, repo: str) -> bool:
        return repo.partition("/")[0] in (self.owners() or ())

    def describe(self, path: str) -> None:
        """GET /api/models/OWNER/NAME[/revision/REVISION]"""
        repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
        made = self.fake.repos.get(repo)
        if made is None or (made.private and not self.may_write(repo)):
            return self.refuse("no_repository")
        oid = made.oid(unquote(revision) or "main")
        if oid is None:
            return self.refuse("no_revision")
        self.say(
            200,
            {
                "id": repo,
                "modelId": repo,
                "sha": oid,
                "private": made.private,
                "tags": [],
                "siblings": [{"rfilename": name} for name in made.commits[oid]],
            },
        )

    def take(self) -> None:
        path = unquote(self.path.partition("?")[0])
        body = self.body()
        self.fake.requests.append((self.command, path, None))
        if (kind := self.fake.struck(self.command, path)) in REFUSALS:
            return self.refuse(kind)
        if path.startswith("/lfs/"):  # addresses that the batch gave; they carry their own right
            return self.take_object(path.removeprefix("/lfs/"), body)
        if self.owners() is None:
            return self.say(401, {"error": "Invalid username or password."})
        if path == "/api/validate-yaml":
            return self.check_card(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        found = re.fullmatch("/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)", path)
        batch = re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path)
        repo = self.fake.repos.get((found or batch)[1]) if found or batch else None
        if repo is None:
            return self.refuse("no_repository")
        if not self.may_write(repo.name):
            return self.say(403, {"error": f"You have no right to write to {repo.name}."})
        if batch:
            return self.batch(json.loads(body)["objects"])
        what, branch = found[2], found[3]
        if what == "branch":
            if branch in repo.branches:
                return self.say(409, {"error": "Reference already exists"})
            repo.branches[branch] = repo.branches["main"]
            return self.say(200, {})
        if branch not in repo.branches:
            return self.refuse("no_revision")
        if what == "preupload":
            files = [self.mode(repo, branch, file) for file in json.loads(body)["files"]]
            return self.say(200, {"files": files})
        return self.commit(repo, branch, [json.loads(line) for line in body.splitlines()])

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        blocks = []
        while size := int(self.rfile.readline(), 16):
            blocks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(blocks)

    def create(self, asked: dict[str, Any]) -> None:
        owners = self.owners() or set()
        repo = f"{asked.get('organization') or min(owners)}/{asked['name']}"
        if repo.partition("/")[0] not in owners:
            return self.say(403, {"error": f"You don't have the rights to create a model under {repo}."})
        url = f"{self.fake.url}/{repo}"
        if repo in self.fake.repos:
            return self.say(409, {"error": "You already created this model repo", "url": url})
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.fake.repos[repo] = Repo(repo, private)
        self.say(200, {"url": url, "name": repo})

    def check_card(self, card: str) -> None:
        """The hub wants a list of known words, no more of which than these are needed here."""
        head = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
        license = re.search("^license: (.*)$", head[1], re.MULTILINE) if head else None
        known = ("mit", "apache-2.0", "cc-by-4.0", "cc0-1.0", "other")
        if head is None or (license and license[1].strip('"') not in known):
            return self.say(400, {"errors": [{"message": '"license" must be one of the list'}], "warnings": []})
        self.say(200, {"errors": [], "warnings": []})

    def mode(self, repo: Repo, branch: str, file: dict[str, Any]) -> dict[str, Any]:
        large = file["path"].endswith(".safetensors") or file["size"] > 10_000_000
        answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        there = repo.files(branch).get(file["path"])
        if there is not None:  # so that the client leaves out what is there already
            git = hashlib.sha1(b"blob %d\0" % len(there) + there).hexdigest()
            answer["oid"] = _sha256(there) if large else git
        return answer

    def batch(self, objects: list[dict[str, Any]]) -> None:
        answers = []
        for one in objects:
            answer: dict[str, Any] = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.fake.objects:
                places = {"upload": one["oid"], "verify": "verify"}
                answer["actions"] = {
                    what: {"href": f"{self.fake.url}/lfs/{place}"} for what, place in places.items()
                }
            answers.append(answer)
        self.say(200, {"transfer": "basic", "objects": answers})

    def take_object(self, oid: str, body: bytes) -> None:
        if oid == "verify":
            return self.say(200 if json.loads(body)["oid"] in self.fake.objects else 404, {})
        if _sha256(body) != oid:
            return self.say(400, {"error": "The content is not what was announced."})
        self.fake.objects[oid] = body
        self.say(200, {})

    def commit(self, repo: Repo, branch: str, lines: list[dict[str, Any]]) -> None:
        files = dict(repo.files(branch))
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repo.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"], validate=True)
            elif line["key"] == "lfsFile" and value["oid"] in self.fake.objects:
                files[value["path"]] = self.fake.objects[value["oid"]]
            else:
                return self.say(400, {"error": f"This can't be committed: {line}"})
        oid = repo.commit(branch, files)
        url = f"{self.fake.url}/{repo.name}/commit/{oid}"
        self.say(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def say(self, status: int, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.head(status, len(content), {"Content-Type": "application/json"})
        self.wfile.write(content)

    # --- answers ---

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
        if (asked := self.headers.get("Range")) and kind != "no_range":
            start, status = int(asked.removeprefix("bytes=").partition("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self.head(status, size - start, headers)
        if self.command == "HEAD":
            return
        left = (size - start) // 2 if kind in ("truncate", "stall") else size - start
        for block in _blocks(content, start):
            block = block[:left]
            left -= len(block)
            if kind == "corrupt":
                block = bytes(byte ^ 0xFF for byte in block)
            with contextlib.suppress(ConnectionError):
                self.wfile.write(block)
            if not left:
                break
        if kind == "stall":
            with contextlib.suppress(OSError):
                self.rfile.read(1)  # until the other side is gone
            self.close_connection = True
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
