"""A process that uses an outbox as the daemon does, until it is killed.

It writes a line for everything the promise is about: `A id text` once a message is accepted, `K id` once one is
acknowledged. `python -m tests.power.outbox_writer '{"folder": ..., ...}'`, see `Plan`.
"""

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from agent.outbox import segment
from agent.outbox.store import Outbox
from tests.unit.outbox.support import message, open_box, snapshot

REPOSITORY = Path(__file__).parents[2]


class Plan(msgspec.Struct, frozen=True):
    """What the process does."""

    folder: str
    durability: Literal["balanced", "power"] = "balanced"
    max_bytes: int = 64 << 20
    segment_bytes: int = 256 * 1024
    pause_s: float = 0.0
    """Between two messages."""
    ack_after: int | None = None
    """The broker acknowledges what is this many messages old; None: it is away."""
    snapshots: bool = False
    """Every tenth message is one."""
    seed: int = 0


class Said(msgspec.Struct):
    """What a writer said so far."""

    accepted: dict[int, str] = {}
    """By id; the text is empty for a snapshot."""
    accepted_at_s: dict[int, float] = {}
    """Monotonic, when it was accepted."""
    acked: int = 0


class Writer:
    """The process, seen from the test."""

    def __init__(self, plan: Plan) -> None:
        command = [sys.executable, "-m", "tests.power.outbox_writer", msgspec.json.encode(plan).decode()]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=REPOSITORY)
        self.said = Said()

    def listen(self, accepted: int) -> None:
        """Until it has accepted so many messages."""
        assert self.process.stdout
        while len(self.said.accepted) < accepted:
            line = self.process.stdout.readline()
            assert line, f"the writer ended with {self.process.wait(10)}"
            self._hear(line)

    def listen_for(self, seconds: float) -> None:
        """Until a message was accepted so long after the first."""
        self.listen(1)
        first_s = next(iter(self.said.accepted_at_s.values()))
        while max(self.said.accepted_at_s.values()) < first_s + seconds:
            self.listen(len(self.said.accepted) + 1)

    def stop(self, number: int) -> None:
        """Send a signal: SIGSTOP or SIGKILL."""
        self.process.send_signal(number)

    def finish(self) -> Said:
        """After a kill: everything that it said."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.endswith(b"\n"):
                self._hear(line)
        self.process.stdout.close()
        self.process.wait(30)
        return self.said

    def _hear(self, line: bytes) -> None:
        kind, id_, *rest = line.decode().split()
        if kind == "K":
            self.said.acked = int(id_)
        else:
            self.said.accepted[int(id_)] = rest[1] if len(rest) > 1 else ""
            self.said.accepted_at_s[int(id_)] = float(rest[0])


def write(box: Outbox, plan: Plan) -> None:
    """Put messages and say so, for ever."""
    rng = random.Random(plan.seed)
    number = 0
    while True:
        number += 1
        text = "" if plan.snapshots and number % 10 == 0 else f"{plan.seed}-{number}"
        id_ = box.put(message(text, size=rng.randrange(400)) if text else snapshot(rng.randbytes(3000)))
        os.write(1, f"A {id_} {time.monotonic()} {text}\n".encode())
        if plan.pause_s:
            time.sleep(plan.pause_s)


def publish(box: Outbox, ack_after: int) -> None:
    """Send and acknowledge, as a broker that is `ack_after` messages behind."""
    at, waiting = box.acked, []
    while True:
        if not box.wait(at, 60.0):
            continue
        for stored in box.next(at, 20, 1 << 20):
            waiting.append(stored.id)
            at = stored.id
        if len(waiting) > ack_after:
            box.ack(waiting[-ack_after - 1])
            os.write(1, f"K {waiting[-ack_after - 1]}\n".encode())
            waiting = waiting[-ack_after:]


def main() -> None:
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    segment.SEGMENT_BYTES = plan.segment_bytes
    box = open_box(Path(plan.folder), max_bytes=plan.max_bytes, durability=plan.durability)
    threading.Thread(target=box.sync_loop, args=(threading.Event(),), daemon=True).start()
    if plan.ack_after is not None:
        threading.Thread(target=publish, args=(box, plan.ack_after), daemon=True).start()
    write(box, plan)


if __name__ == "__main__":
    main()
