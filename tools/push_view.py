"""What tools/push_model.py shows: bars and a live table on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import msgspec
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from agent.wire.releases import Release
from tools.release_maker import Cargo
from tools.rollout import Rollout, Standing

_LINE_EVERY_S = 10.0
_COLOURS = {"active": "green", "rejected": "red", "rolled_back": "red", "refused": "red", "failed": "yellow"}


def show_release(release: Release, cargo: Cargo, envelope: bytes, console: Console, *, in_full: bool) -> dict[str, Any]:
    """Print what is signed and how large it is; gives the same for --json."""
    archive = release.archive
    console.print(f"{release.model} {release.version} as release {release.release} of fleet {release.fleet}")
    if in_full:
        console.print(msgspec.json.format(msgspec.json.encode(release), indent=2).decode())
    console.print(f"archive {archive.sha256}: {archive.size_bytes} bytes in {archive.chunks} chunks")
    chain = len(msgspec.json.decode(envelope).get("trust_chain", ()))
    with_chain = f", with {chain} newer trust documents" if chain else ""
    console.print(f"envelope: {len(envelope)} bytes{with_chain}")
    return {
        "release": msgspec.to_builtins(release),
        "chunks": archive.chunks,
        "upload_bytes": cargo.total_bytes,
        "envelope_bytes": len(envelope),
        "trust_chain": chain,
        "sent": False,
    }


@contextlib.contextmanager
def upload_bar(console: Console, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Gives what is called with the bytes of each message that was sent."""
    if console.is_terminal:
        columns = (TextColumn("upload"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("upload", total=total_bytes)
            yield lambda size: progress.advance(task, size)
        return
    sent_bytes, started_s = 0, time.monotonic()
    told_s = started_s

    def line() -> None:
        rate = sent_bytes / max(time.monotonic() - started_s, 1e-3)
        console.print(
            f"sent {sent_bytes} of {total_bytes} bytes ({sent_bytes / total_bytes:.0%}), {rate / 1e6:.1f} MB/s"
        )

    def advance(size: int) -> None:
        nonlocal sent_bytes, told_s
        sent_bytes += size
        if time.monotonic() - told_s > _LINE_EVERY_S:
            told_s = time.monotonic()
            line()

    yield advance
    line()


class RolloutView:
    """A table that changes; where there is no terminal, a line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: dict[str, tuple[str, str]] = {}
        self._live = Live(console=console, refresh_per_second=5, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, rollout: Rollout) -> None:
        """Bring it up to date."""
        if self._live:
            self._live.update(_table(rollout, max(5, self._console.height - 4)))
            return
        for standing in rollout.standings():
            state = standing.state, standing.why
            if self._told.get(standing.device) != state:
                self._told[standing.device] = state
                self._console.print(f"{standing.device}: {' '.join(filter(None, state))}")

    def end(self, rollout: Rollout) -> None:
        """Leave the last state, and what the reasons mean."""
        if self._live:
            self._live.stop()
            self._console.print(_table(rollout, 1000))
        else:
            self.show(rollout)
        self._console.print(f"release {rollout.release.release} of {rollout.release.model}: {rollout.summary()}")
        for hint in rollout.hints():
            self._console.print(f"  {hint}")


def _table(rollout: Rollout, max_rows: int) -> Table:
    """Those that are not at an end first, when there is no room for all."""
    standings = sorted(rollout.standings(), key=lambda s: s.ended(rollout.goal))
    table = Table("device", "state", "received", "reason", "updated", caption=rollout.summary())
    for standing in standings[:max_rows]:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in _cells(rollout, standing)))
    if len(standings) > max_rows:
        table.add_row(f"and {len(standings) - max_rows} more")
    return table


def _cells(rollout: Rollout, standing: Standing) -> tuple[str | Text, ...]:
    state = f"{standing.state}, offline" if rollout.is_away(standing.device) else standing.state
    if standing.state == "active" and rollout.goal == "healthy":
        state += ", proved" if standing.confirmed else ", on probation"
    share = f"{standing.received_bytes / rollout.release.archive.size_bytes:.0%}" if standing.received_bytes else ""
    updated = (standing.updated or "")[11:19]
    return standing.device, Text(state, _COLOURS.get(standing.state, "")), share, standing.why, updated
