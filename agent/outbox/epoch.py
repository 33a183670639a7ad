"""The upper bits of ids: an epoch that never comes back, so that no id does.

It stands in a file of its own and in the ack file. One of the two written durably is enough, and the ack file needs no
space: the agent also starts on a full disk.
"""

import time
from pathlib import Path

from agent.outbox.ackfile import AckFile, AckState
from agent.runtime.files import write_atomic

EPOCH_LIMIT = 1 << 21
"""Ids stay below 2**53, which every JSON reader holds exactly."""

_NAME = "epoch"
_FRESH_SINCE_S = 1_577_836_800  # 2020-01-01
_FRESH_LIMIT = 1 << 20


def load_epoch(folder: Path) -> int:
    """The last epoch that the folder's file knows, or the hours since 2020 if these are more.

    A folder that was wiped, a new card in an old device, or a folder that came back with an image of its card, must not
    give ids again that collectors know. That holds if the device was started less than once an hour over its life, and
    its clock is right at that start.
    """
    hours = min(max(int(time.time() - _FRESH_SINCE_S) // 3600, 0), _FRESH_LIMIT)
    try:
        return max(hours, int((folder / _NAME).read_bytes()))
    except (OSError, ValueError):
        return hours


def begin_epoch(folder: Path, ackfile: AckFile, state: AckState) -> AckState:
    """Make the epoch after `state.epoch` durable, and return the state with it.

    Raises:
        OSError: neither file could be written, or all epochs are used up.
    """
    if state.epoch + 1 >= EPOCH_LIMIT:
        raise OSError(0, "all its epochs are used up")
    state = state._replace(epoch=state.epoch + 1)
    in_slot = ackfile.save(state) and ackfile.sync()
    for left in folder.glob(f".{_NAME}.*.tmp"):  # of a process that was killed while it wrote
        left.unlink(missing_ok=True)
    try:
        write_atomic(folder / _NAME, b"%d\n" % state.epoch)
    except OSError:
        if not in_slot:
            raise
    return state
