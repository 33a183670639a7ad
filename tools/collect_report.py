"""What a collector's store holds of each device, and what is missing."""

from collections.abc import Iterable

import msgspec

from tools.collect_messages import GapBody
from tools.collect_store import Store


class DeviceReport(msgspec.Struct, kw_only=True):
    """One device."""

    device: str
    messages: int
    first: int
    """The first `seq` that is stored; what was sent before is not asked for."""
    last: int
    gaps: int
    """Gap messages: what a bound of the device evicted, and it announced."""
    evicted: dict[str, int]
    """How many messages they announce, by reason."""
    missing: list[tuple[int, int]]
    """Holes that no gap announces: what lies between these two numbers, without them."""
    late: int
    """Messages that came for the first time behind one with a higher number."""

    @property
    def complete(self) -> bool:
        return not self.missing


def make_report(store: Store) -> list[DeviceReport]:
    """A report on each device of the store.

    Raises:
        OperatorError: the database failed.
    """
    late = store.late()
    reports = []
    for device in store.devices():
        evicted: dict[str, int] = {}
        announced = [msgspec.json.decode(payload, type=GapBody) for payload in store.gaps(device)]
        for gap in announced:
            evicted[gap.reason] = evicted.get(gap.reason, 0) + gap.count
        first, last, count, missing = _walk(store.chain(device))
        if count:
            reports.append(
                DeviceReport(
                    device=device,
                    messages=count,
                    first=first,
                    last=last,
                    gaps=len(announced),
                    evicted=evicted,
                    missing=missing,
                    late=late.get(device, 0),
                )
            )
    return reports


def _walk(chain: Iterable[tuple[int, int, int, int, bool]]) -> tuple[int, int, int, list[tuple[int, int]]]:
    """First and last number, how many there are, and the holes. A gap that comes later in the order may close some."""
    first = last = count = 0
    holes: list[tuple[int, int]] = []
    for head, seq, prev, total, jumps in chain:
        if count and prev > last:
            holes.append((last, prev))
        if jumps:  # nothing lies between prev and seq, whatever the messages there said
            holes = [(behind, min(to, prev)) for behind, to in holes if behind < prev]
        first, last, count = first if count else head, seq, count + total
    return first, last, count, holes
