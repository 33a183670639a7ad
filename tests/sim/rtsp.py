"""Starts, kills and freezes `rtsp_server.py` for tests."""

import functools
import os
import signal
import subprocess
from pathlib import Path
from typing import Self

import pytest

CLIP = Path(__file__).parents[2] / "agent" / "demo" / "face.mp4"
CLIP_SPEED = 3.0
"""The clip has ten pictures a second; a camera rather thirty."""

_PYTHON = "/usr/bin/python3"
_SCRIPT = Path(__file__).with_name("rtsp_server.py")
_PROBE = """
import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
assert all(Gst.ElementFactory.find(name) for name in ("appsrc", "qtdemux", "h264parse", "rtph264pay", "rtpbin"))
"""


@functools.cache
def _usable() -> bool:
    if not Path(_PYTHON).exists():
        return False
    return subprocess.run([_PYTHON, "-c", _PROBE], capture_output=True, check=False).returncode == 0


class RtspServer:
    """The server at a port of its own, which it keeps over restarts; a context manager.

    Where GStreamer's RTSP server is missing, entering skips the test; with CI=true it fails it.
    """

    def __init__(self, *options: str, clip: Path = CLIP, speed: float = CLIP_SPEED) -> None:
        self._options, self._clip, self._speed = options, clip, speed
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/cam"

    @property
    def process(self) -> "subprocess.Popen[str]":
        """While it runs; after its first line it may say more on its output."""
        assert self._process is not None
        return self._process

    def __enter__(self) -> Self:
        if not _usable():
            missing = "apt install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-{base,good,bad}"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the program and wait until it listens."""
        options = ["--speed", str(self._speed), "--port", str(self.port)]
        self._process = subprocess.Popen(
            # A test run that is shot must not leave a frozen server behind.
            ["setpriv", "--pdeathsig", "KILL", _PYTHON, str(_SCRIPT), str(self._clip), *options, *self._options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        word, _, port = self._process.stdout.readline().partition(" ")
        assert word == "ready", "the RTSP server did not start"
        self.port = int(port)

    def kill(self) -> None:
        """As a power cut does it: SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def freeze(self) -> None:
        """Connections stay open, nothing comes: SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
