"""A real HTTP server in front of a detector, which can be told to misbehave."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np

Answer = Callable[["Site", "list[np.ndarray]", dict[str, Any]], Any]


@dataclass
class Site:
    """A running server.

    Attributes:
        url: Where it listens.
        answer: Makes the JSON of an answer out of the pictures.
        plan: What goes wrong, by number of the request; taken off from the front.
        requests: What was received: (path, headers, number of pictures, time).
        poison: Pictures of this size are refused with 422.
    """

    url: str = ""
    answer: Answer | None = None
    plan: list[str] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str], int, float]] = field(default_factory=list)
    poison: tuple[int, int] | None = None
    down: bool = False
    active: int = 0
    most_active: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def count(self) -> int:
        """Number of requests received."""
        return len(self.requests)


def bright_boxes(_: Site, pictures: list[np.ndarray], __: dict[str, Any]) -> Any:
    """One box a picture, its middle half, with the brightness as score."""
    rows = []
    for picture in pictures:
        height, width = picture.shape[:2]
        rows.append(
            {
                "boxes": [[width / 4, height / 4, 3 * width / 4, 3 * height / 4]],
                "scores": [float(picture.mean() / 255)],
                "labels": ["bee"],
            }
        )
    return {"predictions": rows}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        pictures = _pictures(self.headers["content-type"], body)
        site = self.site
        with site.lock:
            site.requests.append((self.path, dict(self.headers), len(pictures), time.monotonic()))
            site.active += 1
            site.most_active = max(site.most_active, site.active)
            trouble = site.plan.pop(0) if site.plan else ""
        try:
            self._respond(trouble, pictures, body)
        finally:
            with site.lock:
                site.active -= 1

    def _respond(self, trouble: str, pictures: list[np.ndarray], body: bytes) -> None:
        site = self.site
        if site.down:
            return self._send(503, b"down")
        if site.poison and any(picture.shape[:2] == site.poison for picture in pictures):
            return self._send(422, b"cannot decode")
        kind, _, value = trouble.partition(":")
        if kind == "status":
            return self._send(int(value), b"{}")
        if kind == "throttle":
            return self._send(429, b"{}", {"Retry-After": value})
        if kind == "redirect":
            return self._send(302, b"", {"Location": value})
        if kind == "slow":
            time.sleep(float(value))
        document = json.loads(body) if body[:1] == b"{" else {}
        assert site.answer is not None
        answer = value if kind == "text" else json.dumps(site.answer(site, pictures, document))
        data = answer.encode()
        if kind == "truncate":
            # announces all and sends half
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return None
        return self._send(200, data)

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client may have given up
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def _pictures(kind: str, body: bytes) -> list[np.ndarray]:
    if kind.startswith("multipart/"):
        start = body.index(b"\r\n\r\n") + 4
        return [_decoded(body[start : body.rindex(b"\r\n--")])]
    texts: list[str] = []

    def look(value: Any) -> None:
        if isinstance(value, str) and len(value) > 100:
            texts.append(value)
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
            look(part)

    look(json.loads(body))
    return [_decoded(base64.b64decode(text)) for text in texts]


def _decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


@contextmanager
def detection_server(answer: Answer = bright_boxes) -> Iterator[Site]:
    """Runs a server on a free port for the length of the block."""
    site = Site(answer=answer)
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_address[1]}/detect"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
