"""A proxy before an object store that fails some requests, in the ways in which networks do."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

SLOW_DOWN = "slow down"
"""503 with the store's own words; nothing is forwarded."""
BROKEN = "broken"
"""500; nothing is forwarded."""
CUT = "cut"
"""The connection ends without an answer; nothing is forwarded."""
LOST = "lost"
"""The store does what was asked; the connection ends before it is told."""
LOST_500 = "lost, 500"
"""The store does what was asked; 500 is told."""
HALVED = "halved"
"""The connection ends in the middle of the answer."""
REFUSED = "refused"
"""507: the store is full; nothing is forwarded."""

_ANSWERS = {
    SLOW_DOWN: (503, "SlowDown"),
    BROKEN: (500, "InternalError"),
    LOST_500: (500, "InternalError"),
    REFUSED: (507, "InsufficientStorage"),
}


class FaultyProxy:
    """Forwards to a server; a context manager.

    Parameters
    ----------
    server
        Its address, ``http://host:port``.
    fault
        Given method, path and headers of a request, which is to be failed how; None to let it pass.
        It is asked by several threads, one at a time.
    """

    def __init__(
        self, server: str, fault: Callable[[str, str, dict[str, str]], str | None]
    ) -> None:
        self.counted: Counter[str] = Counter()
        parts = urlsplit(server)
        lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = dict(self.headers.items())
                with lock:
                    kind = fault(self.command, self.path, headers)
                    proxy.counted[kind or "passed"] += 1
                if kind in (CUT, SLOW_DOWN, BROKEN, REFUSED):
                    self.fail(kind)
                    return
                client = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
                client.request(self.command, self.path, body, headers)
                answer = client.getresponse()
                content = answer.read()
                client.close()
                if kind in (LOST, LOST_500):
                    self.fail(kind)
                    return
                self.pass_on(answer, content, is_halved=kind == HALVED)

            do_PUT = do_POST = do_HEAD = do_DELETE = do_GET

            def pass_on(self, answer: Any, content: bytes, *, is_halved: bool) -> None:
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                if answer.getheader("Content-Length") is None:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if is_halved else content)
                self.close_connection |= is_halved

            def fail(self, kind: str) -> None:
                self.close_connection = True
                if kind not in _ANSWERS:
                    return
                status, code = _ANSWERS[kind]
                text = f"<Error><Code>{code}</Code><Message>{kind}</Message></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that goes away is no news here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
