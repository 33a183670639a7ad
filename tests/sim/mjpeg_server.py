"""A real MJPEG camera over HTTP that misbehaves on demand: stalls, cuts, broken JPEGs, changing sizes, logins."""

import base64
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

STALL = object()
"""In a script: the connection stays open and nothing more comes."""


class MjpegServer:
    """Serves `http://127.0.0.1:PORT/video` to any number of clients until it is stopped; a context manager.

    `script(n)` gives what connection number `n` (from 0) receives: JPEG bytes, right or wrong ones, or STALL. At the
    script's end the connection is cut. `style`: `plain` (with Content-Length), `bare` (without), or `esp32` (HTTP
    chunks, and an empty line before each boundary).
    """

    def __init__(
        self,
        script: Callable[[int], Iterable[object]],
        *,
        interval_s: float = 0.01,
        login: tuple[str, str] | None = None,
        style: str = "plain",
        port: int = 0,
    ) -> None:
        self._script = script
        self._interval_s = interval_s
        self._login = login
        self._style = style
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.connections = 0
        self._http = _QuietServer(("127.0.0.1", port), self._handler())
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}/video"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._http.shutdown()
        self._http.server_close()  # joins the threads of the connections
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        if self._login is not None:
            wanted = "Basic " + base64.b64encode(":".join(self._login).encode()).decode()
            if request.headers.get("Authorization") != wanted:
                request.send_response(401)
                request.send_header("WWW-Authenticate", 'Basic realm="camera"')
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
        with self._lock:
            number, self.connections = self.connections, self.connections + 1
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        if self._style == "esp32":
            request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for item in self._script(number):
            if item is STALL:
                self._stopping.wait()
            if self._stopping.wait(self._interval_s):
                return
            self._send(request, bytes(item))  # type: ignore[call-overload]

    def _send(self, request: BaseHTTPRequestHandler, jpeg: bytes) -> None:
        length = b"" if self._style == "bare" else b"Content-Length: %d\r\n" % len(jpeg)
        pieces = [b"--frame\r\nContent-Type: image/jpeg\r\n" + length + b"\r\n", jpeg, b"\r\n"]
        if self._style == "esp32":
            pieces = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (b"\r\n" + pieces[0], jpeg) if piece]
        request.wfile.write(b"".join(pieces))


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close() waits for them

    def handle_error(self, request: object, client_address: object) -> None:
        """The client went away: what this server is for."""
