"""A device that receives an archive, in this process or in one that a test kills.

`python -m tests.broker.puller PORT FOLDER ARCHIVE` writes a line with the bytes received after each slice of work.
"""

import contextlib
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agent.mqtt.inbox import Inbox, Router
from agent.mqtt.link import Link
from agent.updates.receive import ChunkBox, Transfer
from agent.wire.releases import CHUNK_BYTES, Archive
from agent.wire.topics import Topics
from tests.broker.rig import DEVICE, Publisher, make_link
from tests.sim import wait_until
from tests.sim.broker import Broker

REPOSITORY = Path(__file__).parents[2]
TOPICS = Topics("edge", DEVICE)


def cut_up(data: bytes) -> list[bytes]:
    return [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]


def list_of(data: bytes) -> bytes:
    """The chunk list of an archive."""
    return b"".join(hashlib.sha256(chunk).digest() for chunk in cut_up(data))


def archive_of(data: bytes) -> Archive:
    """What a release would say of an archive."""
    return Archive(
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        chunk_list_sha256=hashlib.sha256(list_of(data)).hexdigest(),
    )


def upload(broker: Broker, data: bytes) -> Archive:
    """What an operator does: every chunk retained; then he is gone."""
    archive, operator = archive_of(data), broker.listen()
    blobs = {archive.chunk_list_sha256: list_of(data), archive.sha256: data}
    waiting = [
        operator.client.publish(TOPICS.chunk(sha256, index), chunk, qos=1, retain=True)
        for sha256, blob in blobs.items()
        for index, chunk in enumerate(cut_up(blob))
    ]
    for info in waiting:
        info.wait_for_publish(20)
    operator.close()
    return archive


@dataclass(frozen=True)
class Device:
    """Its connection, and what it receives with."""

    link: Link
    publisher: Publisher
    inbox: Inbox
    box: ChunkBox

    def transfer(self, archive: Archive, folder: Path, **options: Any) -> Transfer:
        return Transfer(archive, folder, TOPICS, self.link, self.box, **options)


@contextlib.contextmanager
def device(port: int) -> Iterator[Device]:
    """A device with a publish thread; it finds its way back to a broker that was away."""
    inbox, box = Inbox(), ChunkBox()
    router = Router(inbox, TOPICS.command_of, lambda message: box.put(message.topic, message.payload))
    link = make_link(port, inbox=router)
    with Publisher(link) as publisher:
        yield Device(link, publisher, inbox, box)


def work(transfer: Transfer, until: Callable[[], object] = lambda: False, timeout_s: float = 30.0) -> bool:
    """Step until all is there (True), or until a condition holds (False)."""
    done = False

    def turn() -> object:
        nonlocal done
        done = transfer.step(0.05, lambda: bool(until()))
        return done or until()

    wait_until(turn, timeout_s, what="the archive, or what the test waits for")
    return done


class PullerProcess:
    """The process, seen from the test."""

    def __init__(self, port: int, folder: Path, archive: Archive) -> None:
        words = str(port), str(folder), msgspec.json.encode(archive).decode()
        command = [sys.executable, "-m", "tests.broker.puller", *words]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY)

    def kill_at(self, received_bytes: int) -> int:
        """SIGKILL once it has so much; gives what it had."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if int(line) >= received_bytes:
                break
        else:
            raise AssertionError("it ended by itself")
        self._process.kill()
        self._process.stdout.close()
        self._process.wait(10)
        return int(line)

    def finish(self) -> int:
        """Let it come to its end; gives the bytes that it found at its start."""
        out, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0
        return int(out.split()[0])


def main(port: str, folder: str, archive: str) -> None:
    with device(int(port)) as one:
        transfer = one.transfer(msgspec.json.decode(archive, type=Archive), Path(folder))
        done = False
        while not done:
            done = transfer.step(0.01, lambda: False)
            print(transfer.received_bytes, flush=True)
        transfer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
