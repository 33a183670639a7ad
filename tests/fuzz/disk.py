"""What lies on the device's disk, from an earlier run or from whoever had the card; and what is written there."""

import functools
import hashlib
import shutil
import struct
import zlib
from typing import Any, ClassVar

from agent.errors import OutboxError, UpdateFailed
from agent.outbox.ackfile import AckFile
from agent.outbox.delivery import CollectorDelivery
from agent.runtime.health import Health
from agent.updates.partfile import PartFile
from agent.updates.pull import ChunkBox
from agent.updates.receive import Transfer
from agent.updates.record import load_record
from agent.wire.releases import CHUNK_BYTES, Archive
from tests.fuzz.bench import TOPICS, Target, check_line, scratch, written
from tests.unit.outbox.support import message, open_box, snapshot

_RECORD_MAGIC = b"\xf5EO1"


def with_right_sums(segment: bytes) -> bytes:
    """As somebody writes it who knows the format: what looks like a record gets the checksum that it needs."""
    whole, at = bytearray(segment), segment.find(_RECORD_MAGIC)
    while at >= 0:
        if at + 12 <= len(whole):
            end = at + 51 + struct.unpack_from("<I", whole, at + 4)[0]
            struct.pack_into("<I", whole, at + 8, zlib.crc32(whole[at + 12 : end]))
        at = segment.find(_RECORD_MAGIC, at + 1)
    return bytes(whole)


def with_right_slots(ack: bytes) -> bytes:
    slots = [bytearray(ack[at : at + 512].ljust(512, b"\0")) for at in (0, 512)]
    for slot in slots:
        length = min(struct.unpack_from("<I", slot, 4)[0], 504)
        struct.pack_into("<II", slot, 0, zlib.crc32(slot[8 : 8 + length]), length)
    return b"".join(map(bytes, slots))


@functools.cache
def a_segment_and_an_ack_file() -> tuple[bytes, bytes]:
    folder = scratch() / "outbox-seed"
    box = open_box(folder)
    for one in (message("one"), snapshot(), message("two", size=40)):
        box.put(one)
    box.ack(box.next(box.acked, 1, 1 << 20)[0].id)
    box.close()
    AckFile(folder / "ack").close()
    return next(folder.glob("*.seg")).read_bytes(), (folder / "ack").read_bytes()


def outbox_files(data: bytes) -> None:
    """A segment, and behind a mark the ack file; both come with the checksums that they need."""
    if not data:
        return
    folder = scratch() / "outbox"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    segment, _, ack = data[1:].partition(b"--ack--")
    (folder / f"{(1 << 32) + 1:016d}.seg").write_bytes(segment if data[0] & 1 else with_right_sums(segment))
    if ack:
        (folder / "ack").write_bytes(ack if data[0] & 2 else with_right_slots(ack))
    try:
        box = open_box(folder, max_bytes=1 << 20)
    except OutboxError as exc:
        check_line(str(exc))
        return
    try:
        _use(box)
    finally:
        box.close()


def _use(box: Any) -> None:
    accepted = box.put(message("still works"))
    after, seen = box.acked, 0
    while batch := box.next(after, 50, 1 << 20):
        seen += len(batch)
        assert [one.id for one in batch] == sorted({one.id for one in batch})
        assert batch[0].id > after
        after = batch[-1].id
        assert seen < 10_000
    assert after == accepted
    box.ack(after)


@functools.cache
def delivery() -> CollectorDelivery:
    box = open_box(scratch() / "outbox-of-acks")
    box.put(message("one"))
    found = CollectorDelivery(box, 30.0, Health())
    found.begin()
    found.next(10, 1 << 20)
    return found


def ack(data: bytes) -> None:
    """Whatever comes, nothing that was not sent is done with."""
    delivery().take_in(data)
    assert delivery()._claimed <= delivery()._highest


_CHUNKS = (b"a" * CHUNK_BYTES, b"b" * CHUNK_BYTES, b"c" * 100)
_DIGESTS = b"".join(hashlib.sha256(chunk).digest() for chunk in _CHUNKS)
_PARTED = Archive(
    sha256=hashlib.sha256(b"".join(_CHUNKS)).hexdigest(),
    size_bytes=sum(map(len, _CHUNKS)),
    chunk_list_sha256=hashlib.sha256(_DIGESTS).hexdigest(),
)


def part_file(data: bytes) -> None:
    """The file of an earlier try holds anything: what is right in it is kept, the rest is asked for."""
    with PartFile(written("x.part", data), _PARTED, _DIGESTS) as part:
        while part.scan():
            pass
        right = [index for index in range(3) if index not in part.missing]
        whole = written_back = (scratch() / "x.part").read_bytes()
        assert len(written_back) == _PARTED.size_bytes
        for index in right:
            assert whole[index * CHUNK_BYTES :][: part.size_of(index)] == _CHUNKS[index]


class _Wires:
    """A broker that has this for every topic."""

    connects, connected = 1, True
    denied: ClassVar[dict[str, str]] = {}

    def __init__(self, data: bytes, box: ChunkBox) -> None:
        self._data, self._box = data, box

    def want(self, topics: Any) -> None:
        for topic in topics:
            self._box.put(topic, self._data)

    def unwant(self, topics: Any) -> None:
        pass


def chunk(data: bytes) -> None:
    """The same bytes as list of digests and as each chunk."""
    folder = scratch() / "transfer"
    shutil.rmtree(folder, ignore_errors=True)
    box = ChunkBox()
    transfer = Transfer(_PARTED, folder, TOPICS, _Wires(data, box), box)
    for _ in range(12):
        assert not transfer.step(0.0, lambda: True)
    assert transfer.received_bytes in (0, *map(len, _CHUNKS))
    transfer.close()


def record(data: bytes) -> None:
    """The state of updates, sealed as it must be."""
    folder = scratch() / "home"
    folder.mkdir(exist_ok=True)
    (folder / ".state.a").write_bytes(data + b"\n" + hashlib.sha256(data).hexdigest().encode())
    load_record(folder)


def _segments() -> list[bytes]:
    segment, ack = a_segment_and_an_ack_file()
    return [flags + segment + b"--ack--" + ack for flags in (b"\0", b"\3")] + [b"\1" + segment[:-20]]


TARGETS = {
    "outbox": Target(outbox_files, (), _segments),
    "ack": Target(ack, (), lambda: [b'{"schema":"edge.ack/1","seq":4294967297}']),
    "chunk": Target(chunk, (UpdateFailed,), lambda: [_DIGESTS, _CHUNKS[2]]),
    "part-file": Target(part_file, (), lambda: [b"", _CHUNKS[0] + b"x"]),
    "update-record": Target(record, (), lambda: [b'{"gen":3,"floor":5,"quarantine":{"a":"b"},"pinned":true}']),
}
