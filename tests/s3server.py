"""A real S3 server (moto) on loopback, with a proxy before it that makes things go wrong as a test says.

    server.faults.append(fault)     fault(method, path) -> None to pass on, or one of the functions below

A fault is asked at each request until it is removed; `times` makes one that is used up.
"""

from __future__ import annotations

import http.client
import logging
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ERROR = '<?xml version="1.0"?><Error><Code>{0}</Code><Message>{1}</Message></Error>'
KEY = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}

Action = Callable[["_Proxy", bytes], bool]  # the request and its body; whether to pass it on
Fault = Callable[[str, str], Action | None]


def answer(status: int, code: str, message: str = "as the test says") -> Action:
    """Refuse with an error of S3."""

    def act(request, body):
        content = b"" if request.command == "HEAD" else ERROR.format(code, message).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(content)))
        request.send_header("Content-Type", "application/xml")
        request.end_headers()
        request.wfile.write(content)
        return False

    return act


BUSY = answer(503, "SlowDown", "Please reduce your request rate.")
EXPIRED = answer(400, "ExpiredToken", "The provided token has expired.")
DENIED = answer(403, "AccessDenied", "Access Denied")


def drop(request, body):
    """Close the connection without an answer: what was sent is lost."""
    request.close_connection = True
    return False


def cut(request, body):
    """Half of the answer, then nothing."""
    request.half = True
    return True


def slow(seconds: float) -> Action:
    """Pass it on later."""

    def act(request, body):
        time.sleep(seconds)
        return True

    return act


def times(count: int, action: Action, method: str, text: str = "") -> Fault:
    """The action for the first `count` requests of that method with this text in their path."""
    left = [count]

    def fault(asked, path):
        if asked != method or text not in path or not left[0]:
            return None
        left[0] -= 1
        return action

    return fault


def always(action: Action, *methods: str, text: str = "") -> Fault:
    return lambda method, path: action if (not methods or method in methods) and text in path else None


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    half = False

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server = self.server.owner
        server.seen.append((self.command, self.path))
        for fault in list(server.faults):
            action = fault(self.command, self.path)
            if action is not None:
                if not action(self, body):
                    return
                break
        target = http.client.HTTPConnection("127.0.0.1", server.port_behind, timeout=300)
        try:
            target.request(self.command, self.path, body, dict(self.headers))
            got = target.getresponse()
            content = got.read()
        finally:
            target.close()
        self.send_response(got.status)
        for name, value in got.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                self.send_header(name, value)
        length = got.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if self.half:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            self.half = False
        elif self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any  # noqa: N815

    def log_message(self, *_):
        pass


class S3Server:
    """Moto with the proxy in front of it; a context manager. `url` is the endpoint."""

    def __init__(self):
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str]] = []  # (method, path) of each request

    def __enter__(self) -> S3Server:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        self.port_behind = self._moto.get_host_and_port()[1]
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
        self._proxy.owner = self
        self._proxy.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._proxy.server_port}"
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._moto.stop()

    @property
    def environment(self) -> dict[str, str]:
        return {**KEY, "AWS_ENDPOINT_URL": self.url}

    def reset(self) -> None:
        """No faults, and nothing in it but the bucket `bucket`."""
        self.faults.clear()
        self._direct("POST", "/moto-api/reset")
        self._direct("PUT", "/bucket")
        self.seen.clear()

    def put(self, key: str, content: bytes) -> None:
        self._direct("PUT", f"/bucket/{key}", content)

    def get(self, key: str) -> bytes:
        return self._direct("GET", f"/bucket/{key}")

    def names(self) -> list[str]:
        """All that is in the bucket."""
        text = self._direct("GET", "/bucket?list-type=2").decode()
        return sorted(re.findall("<Key>([^<]*)</Key>", text))

    def _direct(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Past the proxy."""
        link = http.client.HTTPConnection("127.0.0.1", self.port_behind, timeout=300)
        try:
            key = "Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
            link.request(method, path, body, {"Authorization": f"AWS4-HMAC-SHA256 {key}"})
            got = link.getresponse()
            content = got.read()
            assert got.status < 300, (got.status, content)
            return content
        finally:
            link.close()
