"""What the outbox costs a card: bytes that reach the block device, the file system's journal included."""

import json
import threading
import time
from collections import deque
from pathlib import Path

import pytest

from agent.values import OutboundMessage
from tests.power.outbox_disk import make_image, mounted
from tests.unit.outbox.support import open_box

RATE_PER_S = 100
MESSAGE_BYTES = 300
ACKED_AFTER_S = 0.02
WARM_UP_S = 40.0
"""Linux begins to write back after 30 s; from then on it is a steady state."""
MEASURED_S = 150.0
MOST_BYTES = 50.0
"""A message, on blocks of 4 KiB. Half of it is one inode in the journal every five seconds."""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_little_reaches_the_disk_while_a_broker_acknowledges(tmp_path: Path) -> None:
    message = OutboundMessage("results/door", json.dumps({"pad": "x" * (MESSAGE_BYTES - 11)}).encode())
    assert len(message.payload) == MESSAGE_BYTES
    waiting: deque[tuple[float, int]] = deque()
    stop = threading.Event()
    with mounted(make_image(tmp_path / "disk.img", 64), tmp_path / "disk") as disk:
        box = open_box(disk.at / "outbox")
        syncing = threading.Thread(target=box.sync_loop, args=(stop,))
        syncing.start()
        began_s = time.monotonic()
        before: tuple[int, int] | None = None
        count = 0
        while (now_s := time.monotonic() - began_s) < WARM_UP_S + MEASURED_S:
            if before is None and now_s > WARM_UP_S:
                before = disk.written_bytes(), count
            if now_s >= count / RATE_PER_S:
                waiting.append((now_s, box.put(message)))
                count += 1
            while waiting and waiting[0][0] < now_s - ACKED_AFTER_S:
                box.next(box.acked, 100, 1 << 20)
                box.ack(waiting.popleft()[1])
            stop.wait(max(0.0, count / RATE_PER_S - (time.monotonic() - began_s)))
        assert before
        share = (disk.written_bytes() - before[0]) / (count - before[1])
        stop.set()
        syncing.join()
        box.close()
    print(f"{share:.1f} bytes a message")
    assert share <= MOST_BYTES
