"""What happens to the device: each fault lasts a while and is over when its function comes back, but for the clock."""

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.sim.surroundings import YEAR_S
from tests.soak.rig import Rig

Fault = Callable[[], None]


def gentle_faults(rig: Rig) -> dict[str, Fault]:
    """Those that leave the daemon's processes alive: what they take can be compared from beginning to end."""
    rng = rig.rng

    def black_hole() -> None:
        rig.proxy.blackhole(rng.choice([None, "up", "down"]))
        rig.pause(rng.uniform(0.5, 8))
        rig.proxy.pass_through()

    def slow_link() -> None:
        rig.proxy.slow(rng.choice([1_000, 5_000, 20_000]))
        rig.pause(rng.uniform(1, 6))
        rig.proxy.pass_through()

    def restart_broker() -> None:
        rig.broker.stop()
        rig.pause(rng.uniform(0, 3))
        rig.broker.start()

    def kill_stream() -> None:
        rig.camera.kill()
        rig.pause(rng.uniform(0, 4))
        rig.camera.start()

    def freeze_stream() -> None:
        rig.camera.freeze()
        rig.pause(rng.uniform(0.5, 4))
        rig.camera.thaw()

    def read_only() -> None:
        with failing(rig, errno.EROFS):
            rig.pause(rng.uniform(0.5, 4))

    def disk_error() -> None:
        with failing(rig, errno.EIO):
            rig.pause(rng.uniform(0.5, 4))

    def full_disk() -> None:
        with full(rig):
            rig.pause(rng.uniform(0.5, 5))

    def clock_jump() -> None:
        """It stays wrong until it jumps again."""
        offset_s = rng.choice([0.0, 0.0, 10 * YEAR_S, -10 * YEAR_S, rng.uniform(-1, 1) * 86400])
        rig.around.set_clock(offset_s, synced=rng.random() < 0.5)

    return {
        "cut connection": rig.proxy.cut,
        "black hole": black_hole,
        "slow link": slow_link,
        "broker kill -9": lambda: rig.kill_broker(rng.uniform(0, 3)),
        "broker restart": restart_broker,
        "stream server kill -9": kill_stream,
        "stream server frozen": freeze_stream,
        "full disk": full_disk,
        "read-only disk": read_only,
        "disk error": disk_error,
        "clock jump": clock_jump,
    }


def rough_faults(rig: Rig) -> dict[str, Fault]:
    """Those that end processes of the device or of the collector."""
    rng = rig.rng

    def kill_agent() -> None:
        rig.accepted.look()
        rig.agent.kill()
        rig.agent.start()

    def restart_agent() -> None:
        rig.stop_agent()
        rig.agent.start()

    def kill_agent_on_full_disk() -> None:
        with full(rig):
            rig.pause(rng.uniform(0.2, 2))
            kill_agent()
            rig.pause(rng.uniform(0.5, 3))

    def kill_worker() -> None:
        if workers := rig.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)

    def kill_collector() -> None:
        rig.collector.kill()
        rig.pause(rng.uniform(0, 2))
        rig.collector.start()

    def kill_both() -> None:
        """What waited for the collector in the broker is gone, as far as it was not saved."""
        rig.collector.kill()
        rig.pause(rng.uniform(0.5, 3))
        rig.kill_broker(rng.uniform(0, 1))
        rig.collector.start()

    return {
        "agent kill -9": kill_agent,
        "agent restart": restart_agent,
        "agent kill -9 on a full disk": kill_agent_on_full_disk,
        "worker kill -9": kill_worker,
        "collector kill -9": kill_collector,
        "collector and broker kill -9": kill_both,
    }


@contextlib.contextmanager
def failing(rig: Rig, number: int) -> Iterator[None]:
    """Each change of the device's disk fails; with EIO also reading."""
    rig.around.fail_disk(number, reads_too=number == errno.EIO)
    rig.disk_fails = True
    try:
        yield
        rig.look()
    finally:
        rig.disk_fails = False
        rig.around.mend_disk()


@contextlib.contextmanager
def full(rig: Rig) -> Iterator[None]:
    """Somebody else takes all the space of the device's disk."""
    if rig.loop is None:
        with failing(rig, errno.ENOSPC):
            yield
        return
    foreign = rig.disk / "foreign"
    take_all(foreign)
    try:
        yield
    finally:
        foreign.unlink()


def take_all(path: Path) -> None:
    """Allocate what is left of a file system, to the last block."""
    status = os.statvfs(path.parent)
    with path.open("wb", buffering=0) as file:
        size = at = 0
        for size in (status.f_bavail * status.f_frsize, 1 << 20, 1 << 16, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), at, size)
                    at += size
