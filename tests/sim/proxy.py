"""A TCP proxy that disturbs what goes through it: delay, cut, silence, slowness, refusal."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Literal, Self

Mode = Literal["pass", "delay", "blackhole", "blackhole_up", "blackhole_down", "slow", "refuse"]
Direction = Literal["up", "down"]

_CHUNK = 16 << 10
_NO_LINGER = struct.pack("ii", 1, 0)  # closing sends RST, not FIN


class FaultProxy:
    """Between a client and a server on the loopback. Runs in a thread of its own; every method may be called from any.

    `up` is from the client to the server.
    """

    host = "127.0.0.1"

    def __init__(self, upstream_port: int) -> None:
        self.port = 0
        self.connections = 0
        """Connections that were accepted so far."""
        self.bytes = {"up": 0, "down": 0}
        self._upstream_port = upstream_port
        self._mode: Mode = "pass"
        self._amount = 0.0
        self._changed: asyncio.Event | None = None
        self._sockets: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._started = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._cut)
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    # --- what it can do -------------------------------------------------------------------------------------------

    def pass_through(self) -> None:
        """Let everything pass, also what was held back."""
        self._set("pass")

    def delay(self, seconds: float) -> None:
        """Let each chunk wait."""
        self._set("delay", seconds)

    def blackhole(self, direction: Direction | None = None) -> None:
        """Forward nothing, of one direction or of both, and keep the connections."""
        self._set("blackhole" if direction is None else "blackhole_up" if direction == "up" else "blackhole_down")

    def slow(self, bytes_per_s: float) -> None:
        """Forward only so much, in each direction."""
        self._set("slow", bytes_per_s)

    def refuse(self) -> None:
        """Reset what is there, and everyone who comes."""
        self._set("refuse")
        self.cut()

    def cut(self) -> None:
        """Reset all connections; new ones pass as before."""
        self._call(self._cut)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _set(self, mode: Mode, amount: float = 0.0) -> None:
        def change() -> None:
            self._mode, self._amount = mode, amount
            self._news.set()  # whoever waits looks again
            self._news = asyncio.Event()

        self._call(change)

    def _call(self, action: Callable[[], None]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (action(), done.set()))
        assert done.wait(10)

    def _cut(self) -> None:
        for writer in list(self._sockets):
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            writer.transport.abort()
        self._sockets.clear()
        self._news.set()
        self._news = asyncio.Event()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop, self._news = asyncio.Event(), asyncio.Event()
        listening = socket.create_server((self.host, 0))
        # Small, so that `slow` and silence reach the sender soon, as on a thin line.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
        server = await asyncio.start_server(self._client, sock=listening, limit=_CHUNK)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=5)  # they end by themselves, now that their connections are gone

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._sockets.add(writer)
        if self._mode == "refuse":
            self._cut()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(self.host, self._upstream_port, limit=_CHUNK)
        except OSError:
            writer.transport.abort()
            return
        self._sockets.add(up_writer)
        await asyncio.gather(self._pump(reader, up_writer, "up"), self._pump(up_reader, writer, "down"))
        self._sockets -= {writer, up_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                while self._mode in {"blackhole", f"blackhole_{direction}"} and writer in self._sockets:
                    await self._news.wait()
                if self._mode == "delay":
                    await self._sleep(self._amount)
                elif self._mode == "slow":
                    await self._sleep(len(chunk) / self._amount)
                self.bytes[direction] += len(chunk)
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def _sleep(self, seconds: float) -> None:
        """Sleep until it is over, or until the mode changes."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)
