"""The real daemon as a process of its own, and a reader that checks what it gets of it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from agent.runtime.local import ask
from tests.sim import wait_until
from tests.sim.bundles import ROOT

CLIP = ROOT / "agent" / "demo" / "face.mp4"


def make_config(tmp_path: Path, port: int, models: Path, **changes: Any) -> dict[str, Any]:
    """A configuration with one pipeline on the bundled clip; `changes` replace whole sections."""
    return {
        "device": {"id": "cam-1", "groups": ["yard"]},
        "mqtt": {"host": "127.0.0.1", "port": port, "keepalive_s": 5},
        "models": {"dir": str(models), "healthy_after_s": 1},
        "pipelines": [make_pipeline("door")],
        "outbox": {"dir": str(tmp_path / "outbox")},
        "telemetry": {"interval_s": 1},
        "log": {"format": "json"},
        **changes,
    }


def make_pipeline(name: str, **changes: Any) -> dict[str, Any]:
    """A pipeline that finds the face in the bundled clip, over and over."""
    return {
        "name": name,
        "source": {"type": "file", "path": str(CLIP), "loop": True},
        "model": "face",
        "min_confidence": 0.6,
        "events": {"min_frames": 2, "cooldown_s": 1, "update_s": 1},
        **changes,
    }


class Agent:
    """`edge-agent run`; use as a context manager, or start and kill it as you like."""

    def __init__(self, tmp_path: Path, config: dict[str, Any], environ: Mapping[str, str] | None = None) -> None:
        self.folder = tmp_path
        self._environ = dict(environ or {})
        self.outbox = Path(config["outbox"]["dir"])
        self.config_file = tmp_path / "config.yaml"
        self.config_file.write_text(yaml.safe_dump(config))
        self.log_file = tmp_path / "agent.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, **environ: str) -> None:
        """Start it; it may take a while until it answers."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agent", "run", "--config", str(self.config_file)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environ, **environ},
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """kill -9."""
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 20.0) -> int | None:
        """Send a signal and wait for the end; gives the exit code."""
        if self._process is None:
            return None
        self._process.send_signal(number)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for it to end by itself; gives the exit code."""
        assert self._process is not None
        code = self._process.wait(timeout_s)
        self._process = None
        return code

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> list[dict[str, Any]]:
        """Its log so far, without what others wrote to its stderr."""
        entries = []
        for line in self.log_file.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entries.append(json.loads(line))
        return entries

    def events(self, name: str) -> list[dict[str, Any]]:
        """Entries of its log with this event."""
        return [entry for entry in self.log() if entry.get("event") == name]

    def status(self) -> dict[str, Any]:
        """What `edge-agent status --json` prints; empty while nobody answers."""
        try:
            return dict(json.loads(ask(self.outbox)))
        except (OSError, ValueError):
            return {}

    def wait_for_status(self, condition: Any, timeout_s: float = 30.0, what: str = "status") -> dict[str, Any]:
        """Come back with the first status that fulfils the condition."""
        found: dict[str, Any] = {}

        def holds() -> bool:
            found.clear()
            found.update(self.status())
            return bool(found) and bool(condition(found))

        wait_until(holds, timeout_s, f"{what}; the last was {found}")
        return found


class ChainReader:
    """Checks the promise: every message once, first deliveries in order, and nothing missing between them."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.last = 0
        self.duplicates = 0
        self.problems: list[str] = []

    def read(self, payload: bytes) -> None:
        """Take one message of the durable stream, as it arrived."""
        message = json.loads(payload)
        seq, prev = message["seq"], message["prev"]
        if seq in self.seen:
            self.duplicates += 1
            return
        if seq < self.last:
            self.problems.append(f"{seq} comes first after {self.last}")
        elif message["schema"].startswith("edge.gap/") and prev <= self.last:
            pass  # it may claim more than is missing: what was sent, but not acknowledged when it was evicted
        elif self.seen and prev != self.last:
            self.problems.append(f"{seq} says {prev} is before it, but the last was {self.last}")
        self.seen.add(seq)
        self.last = max(self.last, seq)
