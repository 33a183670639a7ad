"""tools/collect.py as a process of its own."""

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.sim import wait_until
from tests.sim.bundles import ROOT

TOOL = ROOT / "tools" / "collect.py"


class Collector:
    """Use as a context manager, or start and kill it as you like; its store stays."""

    def __init__(self, folder: Path, port: int, *options: str, store: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.store = store or f"sqlite:{folder / 'collected.db'}"
        self.output_file = folder / "output"
        self._port, self._options = port, options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and come back when it has subscribed."""
        started = self.output.count("collecting")
        command = [sys.executable, str(TOOL), "--store", self.store, "--broker", f"mqtt://127.0.0.1:{self._port}"]
        with self.output_file.open("ab") as output:
            self._process = subprocess.Popen([*command, *self._options], stdout=output, stderr=output)
        wait_until(lambda: self.output.count("collecting") > started or not self.running, 20, "the collector collects")
        assert self.running, self.output

    def kill(self) -> None:
        """kill -9."""
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM) -> int | None:
        """Send a signal and wait for the end; gives the exit code."""
        if self._process is None:
            return None
        self._process.send_signal(number)
        code = self._process.wait(20)
        self._process = None
        return code

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        """All that it said so far."""
        return self.output_file.read_text() if self.output_file.exists() else ""

    def report(self) -> dict[str, Any]:
        """What `--report --json` says of each device."""
        command = [sys.executable, str(TOOL), "--store", self.store, "--report", "--json"]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert done.returncode in (0, 1), done.stderr.decode()
        return dict(json.loads(done.stdout)["devices"])

    def stored(self, device: str) -> set[int]:
        """`seq` of all that it has of a device, in SQLite."""
        return {seq for (seq,) in self.read("SELECT seq FROM messages WHERE device = ?", device)}

    def read(self, query: str, *values: object) -> list[Any]:
        """Rows of its store, in SQLite."""
        with contextlib.closing(sqlite3.connect(self.store.removeprefix("sqlite:"), timeout=10)) as database:
            return database.execute(query, values).fetchall()
