"""`kill -9` at any moment loses nothing that was accepted, and no id ever comes back."""

import random
import signal
from pathlib import Path

import pytest

from agent.outbox.record import StoredMessage
from tests.power.outbox_writer import Plan, Said, Writer
from tests.unit.outbox.support import assert_chain, fields, is_gap, open_box, read_all

SEGMENT_BYTES = 16 * 1024


@pytest.mark.parametrize("broker", ["away", "slow", "away and the bound reached"])
def test_ten_kills_lose_nothing(tmp_path: Path, broker: str) -> None:
    kill_many(tmp_path, broker, 10)


@pytest.mark.slow
@pytest.mark.parametrize("broker", ["away", "slow", "away and the bound reached"])
def test_two_hundred_kills_lose_nothing(tmp_path: Path, broker: str) -> None:
    kill_many(tmp_path, broker, 200)


def kill_many(folder: Path, broker: str, times: int) -> None:
    rng = random.Random(times)
    known: dict[int, str] = {}
    for seed in range(times):
        plan = Plan(
            str(folder / "outbox"),
            "power" if seed % 3 == 2 else "balanced",
            segment_bytes=SEGMENT_BYTES,
            max_bytes=200_000 if "bound" in broker else 64 << 20,
            ack_after=rng.randrange(300) if broker == "slow" else None,
            snapshots=True,
            seed=seed,
        )
        writer = Writer(plan)
        writer.listen(rng.randrange(1, 1500))
        writer.stop(signal.SIGKILL)
        said = writer.finish()
        assert max(known, default=0) < min(said.accepted), "an id came back"
        known |= said.accepted
        verify(folder / "outbox", known, said)
    assert len(known) > 10 * times
    print(f"{times} kills, {len(known)} accepted, none lost")


def verify(folder: Path, known: dict[int, str], said: Said) -> None:
    """Everything accepted and not acknowledged is there, whole, once and in order, or announced by a gap."""
    box = open_box(folder)
    found = read_all(box)
    acked = box.acked
    assert said.acked <= acked
    prev = 0 if not found else first_prev(found, acked)
    assert_chain(found, prev)
    for stored in found:
        if not is_gap(stored):
            text = "" if stored.topic == "snapshots" else str(fields(stored)["text"])
            assert text == known.setdefault(stored.id, text), "only the last may be accepted and not yet said"
    there = {stored.id for stored in found if not is_gap(stored)}
    gaps = [(fields(stored)["from"], fields(stored)["to"]) for stored in found if is_gap(stored)]
    lost = [
        id_
        for id_, text in known.items()
        if id_ > acked and id_ not in there and not any(start <= id_ <= end for start, end in gaps)
    ]
    assert [] == [id_ for id_ in lost if known[id_]]
    assert not lost or gaps, "snapshots go only where something else was evicted"
    if len(found) > 20_000:
        box.ack(found[-1].id)
    box.close()


def first_prev(found: list[StoredMessage], acked: int) -> int:
    """What the first chained message names: something acknowledged, or nothing."""
    prev = next((int(fields(stored)["prev"]) for stored in found if stored.topic != "snapshots"), 0)
    assert prev <= acked
    return prev
