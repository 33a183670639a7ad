"""What the broker says of a simulated fleet: each device's status, which is also its will."""

import time
from collections.abc import Callable, Iterable

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agent.wire.messages import Status
from tools.fleet_report import Wills
from tools.operator_link import OperatorLink

WILLS_S = 30.0
_LOOK_S = 0.1

_decode = msgspec.json.Decoder(Status).decode


class Watch:
    """Listens to the status of all devices, and waits for things with a bar that shows how far they are."""

    def __init__(self, link: OperatorLink, prefix: str, console: Console) -> None:
        self._link, self._console = link, console
        self._filter = f"{prefix}/devices/+/status"
        self._offline_s: dict[str, float] = {}  # by device, when it was heard (monotonic)
        self._listen()

    def until(self, what: str, total: int, done: Callable[[], int], timeout_s: float) -> bool:
        """Wait until `done` counts `total`; whether it did in time."""
        deadline_s = time.monotonic() + timeout_s
        with self._bar() as bar:
            task = bar.add_task(what, total=total)
            while (count := done()) < total and time.monotonic() < deadline_s:
                bar.update(task, completed=count)
                self._link.wait(_LOOK_S)
            bar.update(task, completed=count)
        self._console.print(f"{what}: {count} of {total}")
        return count >= total

    def rest(self, what: str, seconds: float) -> None:
        """Leave them alone for a while."""
        began_s = time.monotonic()
        self.until(f"{what}, seconds", round(seconds), lambda: int(time.monotonic() - began_s), seconds + 1)

    def wills_of(self, who: str, kill: Callable[[], Iterable[str]]) -> Wills:
        """Kill devices, and see which wills the broker publishes and keeps."""
        self._offline_s.clear()
        began_s = time.monotonic()
        killed = set(kill())
        self.until(f"wills of {who}", len(killed), lambda: len(killed & self._offline_s.keys()), WILLS_S)
        heard_s = [at_s - began_s for device, at_s in self._offline_s.items() if device in killed]
        self._offline_s.clear()
        for topic, payload in self._link.retained([self._filter]):
            self._take_in(topic, payload)
        lie = len(killed & self._offline_s.keys())
        self._listen()
        return Wills(len(killed), len(heard_s), lie, round(max(heard_s, default=0.0), 2))

    def _listen(self) -> None:
        self._link.subscribe([self._filter], self._take_in)

    def _take_in(self, topic: str, payload: bytes) -> None:
        try:
            status = _decode(payload)
        except (msgspec.DecodeError, RecursionError):
            return  # of somebody else
        if status.state == "offline" and topic.endswith(f"/{status.device}/status"):
            self._offline_s.setdefault(status.device, time.monotonic())

    def _bar(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        quiet = not self._console.is_terminal
        return Progress(*columns, console=self._console, transient=True, disable=quiet)
