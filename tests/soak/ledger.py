"""Holds what the device has accepted against what a collector has stored."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from agent.outbox.ackfile import AckFile
from agent.outbox.record import find_record
from agent.outbox.segment import read_range
from tests.sim.collectors import Collector


class Accepted:
    """Everything that an outbox accepts, read from its files while they are there."""

    def __init__(self, folder: Path) -> None:
        self.ids: set[int] = set()
        """Of chained messages: those that carry a `seq`."""
        self._folder = folder
        self._read: dict[str, int] = {}  # bytes, by stem

    def look(self) -> None:
        """Read what is new. Often enough, for files go when they are acknowledged."""
        for path in sorted(self._folder.glob("*.se[gn]*")):
            with contextlib.suppress(OSError):
                at = self._read.get(path.stem, 0)
                data = read_range(path, at, max(0, path.stat().st_size - at))
                end = 0
                while found := find_record(data, end):
                    record, _, end = found
                    if record.after != record.before:
                        self.ids.add(record.id)
                self._read[path.stem] = at + end


class BrokerKill(NamedTuple):
    """What a broker that was killed had taken, and may not have passed on."""

    stored: int
    """The highest `seq` that the collector had before."""
    acked: int
    """Up to here the device had acknowledgements after."""

    def explains(self, seq: int) -> bool:
        return self.stored < seq <= self.acked


def acked_by(folder: Path) -> int:
    """What an outbox knows to be done with."""
    file = AckFile(folder / "ack")
    try:
        return file.state.acked if file.state else 0
    finally:
        file.close()


class Verdict(NamedTuple):
    """What became of the messages."""

    accepted: int
    """Seen in the outbox."""
    stored: int
    announced: int
    """Accepted, not stored, and named by a gap message."""
    lost: int
    """Accepted, not stored, and not announced."""
    explained: int
    """Of these, those that a killed broker had acknowledged (`trim: broker`)."""
    undetected: int
    """Of these, those that the collector does not miss: no hole in its chain of `prev`."""
    disordered: int
    """First deliveries behind one with a higher number."""
    evicted: dict[str, int]
    """What gap messages announce, by reason."""
    holes: int
    """That the collector reports."""


def judge(accepted: set[int], collector: Collector, device: str, kills: Iterable[BrokerKill]) -> Verdict:
    """When all has been sent that will be."""
    stored = collector.stored(device)
    report = collector.report()[device]
    rows = collector.read("SELECT payload FROM messages WHERE device = ? AND kind LIKE 'edge.gap/%'", device)
    gaps = [(gap["from"], gap["to"]) for gap in (json.loads(payload) for (payload,) in rows)]
    order = [seq for (seq,) in collector.read("SELECT seq FROM messages WHERE device = ? ORDER BY n", device)]
    missing = sorted(accepted - stored)
    lost = [seq for seq in missing if not any(start <= seq <= end for start, end in gaps)]
    kills = list(kills)
    return Verdict(
        accepted=len(accepted),
        stored=len(stored),
        announced=len(missing) - len(lost),
        lost=len(lost),
        explained=sum(any(kill.explains(seq) for kill in kills) for seq in lost),
        undetected=sum(not any(behind < seq <= to for behind, to in report["missing"]) for seq in lost),
        disordered=_disordered(order),
        evicted=report["evicted"],
        holes=len(report["missing"]),
    )


def _disordered(order: list[int]) -> int:
    highest = count = 0
    for seq in order:
        count += seq < highest
        highest = max(highest, seq)
    return count
