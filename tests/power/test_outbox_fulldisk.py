"""A full disk: the newest messages replace the oldest, nothing is torn, and acknowledging always works."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import OutboxError
from tests.power.outbox_disk import MEBIBYTE, make_image, mounted, tmpfs
from tests.unit.outbox.support import assert_chain, fields, is_gap, message, open_box, read_all, texts, told


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of a few mebibytes."""
    if request.param == "tmpfs":
        with tmpfs(tmp_path / "disk", 4) as at:
            yield at
    else:
        with mounted(make_image(tmp_path / "disk.img", 12), tmp_path / "disk") as loop:
            yield loop.at


def fill(disk: Path, name: str = "foreign") -> None:
    """Somebody else takes all the space that is left."""
    with (disk / name).open("wb", buffering=0) as file:
        for size in (MEBIBYTE, 4096, 1):
            try:
                while file.write(b"\xff" * size) == size:
                    pass
            except OSError:
                continue


def test_the_oldest_make_room_for_the_newest(disk: Path) -> None:
    box = open_box(disk / "outbox")
    for number in range(2000):
        box.put(message(str(number), size=400))
    fill(disk)
    for number in range(2000, 4000):
        box.put(message(str(number), size=400))
    found = read_all(box)

    assert "disk_full" == fields(found[0])["reason"]
    assert_chain(found)
    assert 4000 == fields(found[0])["count"] + len(found) - 1
    assert [str(number) for number in range(4001 - len(found), 4000)] == texts(found[1:])
    assert fields(found[0])["count"] == box.stats().dropped
    assert box.stats().bytes == sum(path.stat().st_size for path in (disk / "outbox").glob("*.seg"))
    box.close()


def test_acknowledging_makes_room_without_loss(disk: Path) -> None:
    box = open_box(disk / "outbox")
    for number in range(2000):
        box.put(message(str(number), size=400))
    fill(disk)
    found = read_all(box)
    box.ack(found[1500].id)
    for number in range(2000, 2500):
        box.put(message(str(number), size=400))

    assert 0 == box.stats().dropped
    assert [str(number) for number in range(1501, 2500)] == texts(read_all(box))
    box.close()


def test_a_restart_keeps_messages_gap_and_watermark(disk: Path) -> None:
    """Neither the new epoch nor the ack file needs space."""
    box = open_box(disk / "outbox")
    for number in range(2000):
        box.put(message(str(number), size=400))
    fill(disk)
    for number in range(2000, 2500):
        last = box.put(message(str(number), size=400))
    before = read_all(box)
    for _ in range(3):
        box.close()
        fill(disk, "more")
        box = open_box(disk / "outbox")
        found = read_all(box)
        assert before[1:] == found[1:]
        assert told(before[0]) == told(found[0])
    assert last >> 32 < box.put(message("new")) >> 32
    found = read_all(box)
    assert ["disk_full", "disk_full"] == [fields(m)["reason"] for m in found if is_gap(m)]
    assert_chain(found)
    box.ack(found[1].id)
    assert found[2:] == read_all(box)
    box.close()


def test_with_nothing_of_its_own_to_give_up_it_refuses_until_there_is_space(disk: Path) -> None:
    box = open_box(disk / "outbox")
    for number in range(10):
        box.put(message(str(number)))
    box.ack(read_all(box)[-1].id)
    box.close()
    box = open_box(disk / "outbox")
    fill(disk)
    with pytest.raises(OutboxError, match=r"outbox\.dir: .*/outbox: no space left on device"):
        box.put(message("refused"))
    assert (0, 0, 1) == box.stats()[:3]
    assert 0 == sum(path.stat().st_size for path in (disk / "outbox").glob("*.seg"))

    (disk / "foreign").unlink()
    box.put(message("accepted"))
    assert ["accepted"] == texts(read_all(box))
    assert_chain(read_all(box), box.acked)
    box.close()


def test_a_message_that_does_not_fit_leaves_nothing_torn(disk: Path) -> None:
    box = open_box(disk / "outbox")
    box.put(message("a"))
    fill(disk)
    with pytest.raises(OutboxError):
        box.put(message("b", size=900_000))
    (disk / "foreign").unlink()
    box.put(message("c"))

    assert ["gap 1 disk_full", "c"] == texts(read_all(box))
    assert_chain(read_all(box))
    box.close()
    box = open_box(disk / "outbox")
    assert ["gap 1 disk_full", "c"] == texts(read_all(box))
    assert 0 == box.stats().damaged
    box.close()


def test_power_says_no_as_well(disk: Path) -> None:
    box = open_box(disk / "outbox", durability="power")
    fill(disk)
    with pytest.raises(OutboxError):
        box.put(message("a", size=10_000))
    (disk / "foreign").unlink()
    box.put(message("b"))

    assert ["b"] == texts(read_all(box))
    box.close()


def test_a_first_start_on_a_full_disk_says_what_to_do(disk: Path) -> None:
    (disk / "outbox").mkdir()
    fill(disk)
    with pytest.raises(OutboxError) as caught:
        open_box(disk / "outbox")

    assert f"outbox.dir: {disk}/outbox: no space left on device; free some space" == str(caught.value)
