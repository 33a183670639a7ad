"""A power cut takes the page cache. `power` loses nothing that was accepted; `balanced` at most its last second.

The writer is stopped, the quiet block device is copied, and the copy is mounted: ext4 replays its journal, and the
outbox opens what is left. The next writer goes on there, as the device does after a cut. Assumes a device that honours
flushes.
"""

import random
import signal
import time
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from tests.power.outbox_disk import make_image, mounted
from tests.power.outbox_writer import Plan, Said, Writer
from tests.unit.outbox.support import assert_chain, fields, is_gap, message, open_box, read_all

SLACK_S = 2.0
"""Beyond the promised second, for a machine that is busy with other tests: the promise counts from the sync's start."""


class Loss(NamedTuple):
    """What was accepted, not acknowledged, and not there after the cut."""

    count: int
    oldest_s: float


@pytest.mark.parametrize("ack_after", [None, 5], ids=["broker away", "broker there"])
def test_power_loses_nothing(tmp_path: Path, ack_after: int | None) -> None:
    assert 0 == cut_many(tmp_path, "power", ack_after, 2).count


@pytest.mark.parametrize("ack_after", [None, 5], ids=["broker away", "broker there"])
def test_balanced_loses_at_most_its_last_second(tmp_path: Path, ack_after: int | None) -> None:
    assert cut_many(tmp_path, "balanced", ack_after, 1).oldest_s <= 1.0 + SLACK_S


@pytest.mark.slow
@pytest.mark.parametrize("ack_after", [None, 5], ids=["broker away", "broker there"])
def test_power_loses_nothing_over_thirty_cuts(tmp_path: Path, ack_after: int | None) -> None:
    assert 0 == cut_many(tmp_path, "power", ack_after, 30).count


@pytest.mark.slow
@pytest.mark.parametrize("ack_after", [None, 5], ids=["broker away", "broker there"])
def test_balanced_loses_at_most_its_last_second_over_thirty_cuts(tmp_path: Path, ack_after: int | None) -> None:
    assert cut_many(tmp_path, "balanced", ack_after, 30).oldest_s <= 1.0 + SLACK_S


def cut_many(folder: Path, durability: Literal["balanced", "power"], ack_after: int | None, times: int) -> Loss:
    """Cut the power again and again; returns all losses together."""
    rng = random.Random(times)
    image = make_image(folder / "disk0.img", 24)
    known: set[int] = set()
    losses = []
    for seed in range(times):
        with mounted(image, folder / "mnt") as disk:
            plan = Plan(
                str(disk.at / "outbox"), durability, 64 << 20, 16 * 1024, 0.002, ack_after, snapshots=True, seed=seed
            )
            writer = Writer(plan)
            writer.listen_for(rng.uniform(0.05, 1.0) if durability == "power" else rng.uniform(1.2, 3.0))
            writer.stop(signal.SIGSTOP)
            cut_s = time.monotonic()
            after = disk.copy_as_after_a_power_cut(folder / f"disk{seed + 1}.img")
            writer.stop(signal.SIGKILL)
            said = writer.finish()
        image.unlink()
        image = after
        assert max(known, default=0) < min(said.accepted), "an id came back"
        known |= set(said.accepted)
        with mounted(image, folder / "mnt") as disk:
            losses.append(compare(disk.at / "outbox", said, cut_s))
    total = Loss(sum(loss.count for loss in losses), max(loss.oldest_s for loss in losses))
    print(f"{durability}, {len(known)} accepted, {times} cuts: {total}")
    return total


def compare(folder: Path, said: Said, cut_s: float) -> Loss:
    """What is lost; and whether all else is whole, in order, and chained over the loss."""
    box = open_box(folder)
    new = box.put(message("after the cut"))
    found = read_all(box)
    acked = max(said.acked, box.acked)
    assert max(said.accepted) < new == found[-1].id
    first_prev = int(next(fields(stored)["prev"] for stored in found if stored.topic != "snapshots"))
    assert first_prev <= box.acked
    assert_chain(found, first_prev)
    for stored in found[:-1]:
        if stored.topic == "results":
            assert said.accepted.get(stored.id, fields(stored)["text"]) == fields(stored)["text"]
    there = {stored.id for stored in found if not is_gap(stored)}
    lost = [id_ for id_ in said.accepted if id_ > acked and id_ not in there]
    box.ack(new)
    box.close()
    return Loss(len(lost), max((cut_s - said.accepted_at_s[id_] for id_ in lost), default=0.0))
