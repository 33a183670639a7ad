"""What processes take over time: memory, descriptors, threads, bytes written; and whether it grows."""

import contextlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.sim.processes import children_of

RSS_GROWTH = 0.02
"""More of it fails the run."""
SAMPLE_S = 2.0
WARM_UP_S = 120.0
SHARE = 0.1
"""Compared are the first and the last tenth of the time after warming up."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Sample(NamedTuple):
    """Of a process with all its descendants."""

    at_s: float
    """Since the run began."""
    rss_bytes: int
    main_rss_bytes: int
    """Of the process itself, without its descendants."""
    fds: int
    threads: int
    processes: int


class Meter:
    """Of one process and its descendants, whichever runs as it at the time."""

    def __init__(self, name: str, pid: Callable[[], int | None]) -> None:
        self.name = name
        self.samples: list[Sample] = []
        """Of the process that runs now: another one begins anew."""
        self.lives = 0
        self.most: Sample | None = None
        """The one with the largest memory, of all lives."""
        self._pid = pid
        self._now: int | None = None
        self._written: dict[tuple[int, str], int] = {}
        self._began_s = time.monotonic()

    @property
    def written_bytes(self) -> int:
        """What all that ever ran had written to files, less what was deleted before it went to the disk (proc(5))."""
        return sum(self._written.values())

    def take(self) -> None:
        """Look now."""
        pid = self._pid()
        if pid is None:
            return
        if pid != self._now:
            self._now, self.samples = pid, []
            self.lives += 1
        rss = fds = threads = main_rss = 0
        pids = family_of(pid)
        for each in pids:
            with contextlib.suppress(OSError, ValueError, IndexError):  # gone meanwhile
                stat = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
                rss_bytes = int(stat[21]) * _PAGE_BYTES
                rss += rss_bytes
                threads += int(stat[17])
                fds += sum(1 for _ in Path(f"/proc/{each}/fd").iterdir())
                self._written[each, stat[19]] = _written(each)
                if each == pid:
                    main_rss = rss_bytes
        sample = Sample(time.monotonic() - self._began_s, rss, main_rss, fds, threads, len(pids))
        if main_rss:
            self.samples.append(sample)
            self.most = max(self.most or sample, sample, key=lambda s: s.rss_bytes)


def family_of(pid: int) -> list[int]:
    """A process and all that it has started, those that they have started, and so on."""
    found, new = [pid], [pid]
    while new:
        children: list[int] = []
        for each in new:
            with contextlib.suppress(OSError):
                children += children_of(each)
        found, new = found + children, children
    return found


def _written(pid: int) -> int:
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["write_bytes"]) - int(fields["cancelled_write_bytes"])


class Growth(NamedTuple):
    """From the first tenth to the last; medians, so that a fault in between does not count."""

    first: Sample
    last: Sample
    span_s: float

    @property
    def rss(self) -> float:
        """As a share."""
        return self.last.rss_bytes / self.first.rss_bytes - 1

    @property
    def main_rss(self) -> float:
        return self.last.main_rss_bytes / self.first.main_rss_bytes - 1

    @property
    def is_too_much(self) -> bool:
        more = self.last.fds > self.first.fds or self.last.threads > self.first.threads
        return more or max(self.rss, self.main_rss) >= RSS_GROWTH


def growth(samples: list[Sample]) -> Growth | None:
    """None when the process did not live long enough to tell."""
    if not samples:
        return None
    warm = [sample for sample in samples if sample.at_s - samples[0].at_s > WARM_UP_S]
    count = int(len(warm) * SHARE)
    if count < 3:
        return None
    return Growth(_median(warm[:count]), _median(warm[-count:]), warm[-1].at_s - warm[0].at_s)


def _median(samples: list[Sample]) -> Sample:
    return Sample(*(statistics.median_high(column) for column in zip(*samples, strict=True)))
