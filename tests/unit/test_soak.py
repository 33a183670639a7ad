"""What `make soak` judges by."""

import os
from pathlib import Path

import pytest

from tests.soak.ledger import Accepted, BrokerKill, acked_by
from tests.soak.meters import SAMPLE_S, WARM_UP_S, Meter, Sample, growth
from tests.unit.outbox.support import message, open_box, read_all, snapshot

MIB = 1 << 20


def samples(count: int = 1000, *, leak_bytes: float = 0.0, fds: int = 0, peak_at: int | None = None) -> list[Sample]:
    """Of a process that takes 100 MiB, and so much more a sample; `fds` more come in the middle."""
    return [
        Sample(
            at_s=n * SAMPLE_S,
            rss_bytes=round((300 if n == peak_at else 100) * MIB + n * leak_bytes),
            main_rss_bytes=50 * MIB,
            fds=20 + (fds if n > count // 2 else 0),
            threads=10,
            processes=3,
        )
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("taken", "too_much"),
    [
        (samples(), False),
        (samples(leak_bytes=1_000), False),
        (samples(leak_bytes=4_000), True),
        (samples(fds=1), True),
        (samples(peak_at=999), False),
    ],
    ids=["steady", "under two percent", "over two percent", "one descriptor", "a peak"],
)
def test_growth_is_from_the_first_tenth_to_the_last(taken: list[Sample], too_much: bool) -> None:
    found = growth(taken)
    assert found
    assert found.is_too_much == too_much


def test_a_short_life_tells_nothing() -> None:
    assert growth(samples(round(WARM_UP_S / SAMPLE_S))) is None
    assert growth([]) is None


def test_a_meter_adds_up_a_process_and_its_children() -> None:
    meter = Meter("this", os.getpid)
    meter.take()
    assert meter.samples[0].main_rss_bytes > MIB
    assert meter.samples[0].rss_bytes >= meter.samples[0].main_rss_bytes
    assert min(meter.samples[0][3:]) > 0


def test_what_an_outbox_accepts_is_read_while_it_grows_and_goes(tmp_path: Path) -> None:
    box = open_box(tmp_path, keep_bytes=MIB)
    accepted = Accepted(tmp_path)
    ids = set()
    for _ in range(3):
        for _ in range(900):
            ids.add(box.put(message(size=400)))
        box.put(snapshot())
        box.ack(read_all(box)[-1].id)
        accepted.look()
    assert accepted.ids == ids
    assert acked_by(tmp_path) >= max(ids)
    box.close()


def test_a_killed_broker_explains_what_it_had_acknowledged_and_not_passed_on() -> None:
    kill = BrokerKill(stored=10, acked=20)
    assert [seq for seq in range(30) if kill.explains(seq)] == list(range(11, 21))
