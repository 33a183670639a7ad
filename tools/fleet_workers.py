"""The processes that simulated devices live in: starts and kills them, and gathers what their devices tell."""

import multiprocessing
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Self

from tools.fleet_device import Acknowledged, Fleet, Happened, News, run_worker
from tools.operator_login import OperatorError

MAX_DEVICES = 100
"""Of one process. Each device is a thread, and they share an interpreter."""
MIN_PROCESSES = 10
"""So that one of them holds a tenth of the fleet."""
_END_S = 15.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tools.fleet_device"])  # what takes long to import is imported once


@dataclass
class _Worker:
    fleet: Fleet
    process: BaseProcess
    pipe: Pipe
    acknowledged: int = 0
    killed: bool = False


def share_out(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The devices of each process."""
    count = min(len(names), max(MIN_PROCESSES, -(-len(names) // MAX_DEVICES)))
    return [tuple(names[index::count]) for index in range(count)]


class Workers:
    """Use with `with`: no process outlives it. News are taken in by a thread of their own, so that no device waits."""

    def __init__(self, fleet: Fleet) -> None:
        self.happened: list[Happened] = []
        """In the order heard. It grows while you look; what is in it stays."""
        self.connected: set[str] = set()
        self._fleet = fleet
        self._workers: list[_Worker] = []
        self._acknowledged_before = 0
        self._ending = False
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._workers = [self._start(names, 0) for names in share_out(self._fleet.devices)]
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._listener.join()
        for worker in self._workers:
            worker.pipe.close()  # they hear of it, and take their leave of the broker
        deadline_s = time.monotonic() + _END_S
        for worker in self._workers:
            worker.process.join(max(0.1, deadline_s - time.monotonic()))
            worker.process.kill()
            worker.process.join()

    @property
    def acknowledged(self) -> int:
        """Results that the broker has acknowledged, as of a second ago."""
        return self._acknowledged_before + sum(worker.acknowledged for worker in self._workers)

    def check(self) -> None:
        """Raises OperatorError when a process ended by itself."""
        for worker in self._workers:
            if not worker.killed and worker.process.exitcode is not None:
                raise OperatorError(f"a process of {len(worker.fleet.devices)} devices ended by itself")

    def kill(self, share: float) -> list[str]:
        """kill -9 so large a part of the processes, one at least; gives the names of their devices."""
        victims = self._workers[: max(1, round(len(self._workers) * share))]
        for worker in victims:
            worker.killed = True
            worker.process.kill()
        for worker in victims:
            worker.process.join()
        return [name for worker in victims for name in worker.fleet.devices]

    def revive(self) -> None:
        """Start again what was killed."""
        for index, worker in enumerate(self._workers):
            if worker.killed:
                self._acknowledged_before += worker.acknowledged
                self._workers[index] = self._start(worker.fleet.devices, worker.fleet.epoch + 1)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _start(self, names: tuple[str, ...], epoch: int) -> _Worker:
        fleet = replace(self._fleet, devices=names, epoch=epoch)
        ours, theirs = _context.Pipe()
        process = _context.Process(target=run_worker, args=(theirs, fleet), daemon=True)
        process.start()
        theirs.close()
        return _Worker(fleet, process, ours)

    def _listen(self) -> None:
        while not self._ending:
            by_pipe = {worker.pipe: worker for worker in self._workers if not worker.pipe.closed}
            for pipe in wait(list(by_pipe), 0.1):
                assert isinstance(pipe, Pipe)  # noqa: S101 - for the type checker: nothing else was given
                self._take_in(by_pipe[pipe], _receive(pipe))

    def _take_in(self, worker: _Worker, news: Iterable[News] | None) -> None:
        if news is None:
            worker.pipe.close()
            self.connected -= set(worker.fleet.devices)
        for item in news or ():
            if isinstance(item, Acknowledged):
                worker.acknowledged = item.total
                continue
            self.happened.append(item)
            if item.what == "up":
                self.connected.add(item.device)
            elif item.what == "down":
                self.connected.discard(item.device)


def _receive(pipe: Pipe) -> list[News] | None:
    """All that is there; None when the process has gone, perhaps in the middle of a word."""
    news: list[News] = []
    try:
        while pipe.poll():
            news.append(pipe.recv())
    except (EOFError, OSError):
        return news or None
    return news
