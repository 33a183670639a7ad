"""What a storm of devices looks like in figures, and whether it was as promised."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence

import msgspec

from tools.fleet_device import Happened

CALM_AFTER_S = 1.0
"""What tries within a second after the broker is back belongs to the first storm."""
STORM_SHARE = 0.75
"""So much of a fleet within a second is a storm. Without jitter it is all of it, again and again; with full jitter
under 0.4, once the broker was away for a second."""
_BAR = 60
_ROWS = 30


class Spread(msgspec.Struct, frozen=True):
    """Of times, in seconds."""

    p50: float
    p99: float
    max: float


class Storm(msgspec.Struct, frozen=True, kw_only=True):
    """How devices connected, from a moment on."""

    devices: int
    away_s: float
    """How long there was no broker, from that moment."""
    back: int
    """Devices that are connected in the end."""
    back_s: Spread
    """When they connected, counted from when the broker listened."""
    tries: int
    failed: int
    """Tries that failed although the broker listened when they began."""
    lost_again: int
    """Connections that were made, and ended again."""
    tries_per_s: list[int]
    """By second, from the moment on."""
    peak: int
    """The most tries within a second, by devices that had tried before, later than CALM_AFTER_S after its return."""
    why: dict[str, int]
    """What ended connections and tries while the broker listened, and how often."""

    @property
    def is_second(self) -> bool:
        """There was a second storm: devices lose the broker again, or most of them come at the same time."""
        return self.lost_again > 0 or self.peak > self.devices * STORM_SHARE


class Wills(msgspec.Struct, frozen=True):
    """What became of the wills of devices that were killed."""

    killed: int
    came: int
    """Were published to who listened; a broker that queues too little for its listeners drops some."""
    lie: int
    """Lie on the broker, for who looks later."""
    slowest_s: float


class Outcome(msgspec.Struct, kw_only=True):
    """All figures of a run."""

    devices: int
    bound_s: float
    """Within which a device is back, once the broker is."""
    first: Storm | None = None
    """They connect for the first time, all at once."""
    restart: Storm | None = None
    wills: dict[str, Wills] = {}
    """By who was killed."""
    results_per_s: dict[str, float] = {}
    """Acknowledged by the broker."""
    ended_alone: dict[str, int] = {}
    """Connections that ended without a cause that was meant, by reason. Two clients with one id end each other's."""
    broken: list[str] = []
    """Promises that did not hold."""


def spread(times_s: Sequence[float]) -> Spread:
    """Median, 99 of 100, and all."""
    ordered = sorted(times_s) or [0.0]
    return Spread(*(round(ordered[int(share * (len(ordered) - 1))], 2) for share in (0.5, 0.99, 1.0)))


def make_storm(happened: Iterable[Happened], devices: int, began_s: float, listens_s: float) -> Storm:
    """Figures of what happened from `began_s` on; the broker listens from `listens_s` on (both monotonic)."""
    up_s: dict[str, float] = {}
    tried_s: dict[str, float] = {}
    tries: list[float] = []
    again: list[float] = []
    failed = lost_again = 0
    why: Counter[str] = Counter()
    for at_s, device, what, reason in (item for item in happened if item.at_s >= began_s):
        if what == "try":
            if device in tried_s and at_s > listens_s + CALM_AFTER_S:
                again.append(at_s)
            tried_s[device] = at_s
            tries.append(at_s)
        elif what == "up":
            up_s[device] = at_s
        elif what == "failed" and tried_s.get(device, 0) >= listens_s:
            failed += 1
            why[reason] += 1
        elif what == "down" and up_s.pop(device, None) is not None:
            lost_again += 1
            why[reason] += 1
    seconds = Counter(int(at_s - began_s) for at_s in tries)
    return Storm(
        devices=devices,
        away_s=round(listens_s - began_s, 2),
        back=len(up_s),
        back_s=spread([max(0.0, at_s - listens_s) for at_s in up_s.values()]),
        tries=len(tries),
        failed=failed,
        lost_again=lost_again,
        tries_per_s=[seconds[second] for second in range(max(seconds, default=-1) + 1)],
        peak=_most_within_a_second(again),
        why=dict(why.most_common(5)),
    )


def _most_within_a_second(times_s: Iterable[float]) -> int:
    window: deque[float] = deque()
    most = 0
    for at_s in sorted(times_s):
        window.append(at_s)
        while window[0] <= at_s - 1.0:
            window.popleft()
        most = max(most, len(window))
    return most


def ended_alone(happened: Iterable[Happened], restart_s: float | None) -> dict[str, int]:
    """Why connections ended without a cause that was meant, and how often.

    From `restart_s` on (monotonic), one of each device may end. A device that was killed says nothing any more.
    """
    excused: set[str] = set()
    why: Counter[str] = Counter()
    for at_s, device, what, reason in happened:
        if what != "down":
            continue
        if restart_s is not None and at_s >= restart_s and device not in excused:
            excused.add(device)
        else:
            why[reason] += 1
    return dict(why)


def show(outcome: Outcome) -> list[str]:
    """All figures, as lines."""
    lines = [f"{outcome.devices} devices; promised: all are back within {outcome.bound_s:g} s of the broker"]
    if outcome.first is not None:
        lines += ["", "first connection, all at once", *_lines(outcome.first)]
    if outcome.restart is not None:
        away = f"the broker was away for {outcome.restart.away_s:g} s"
        second = "yes" if outcome.restart.is_second else "no"
        peak = f"later than a second after its return at most {outcome.restart.peak} tried again within a second"
        lines += ["", away, *_lines(outcome.restart), f"  second storm: {second}; {peak}"]
        lines += ["  tries by second:", *histogram(outcome.restart)]
    lines.append("")
    for who, wills in outcome.wills.items():
        told = f"{wills.came} were published, within {wills.slowest_s:g} s; {wills.lie} lie on the broker"
        lines.append(f"kill -9 of {who}: {wills.killed} wills: {told}")
    alone = sum(outcome.ended_alone.values())
    rates = ", ".join(f"{rate:g} {when} the restart" for when, rate in outcome.results_per_s.items())
    lines.append(f"results acknowledged a second: {rates}")
    lines.append(f"connections that ended by themselves, as by a client id that is in use twice: {alone}")
    return [*lines, *(f"NOT AS PROMISED: {broken}" for broken in outcome.broken or ())]


def _lines(storm: Storm) -> list[str]:
    times, ended = storm.back_s, f"{storm.lost_again} connections ended again"
    return [
        f"  connected: {storm.back} of {storm.devices}; p50 {times.p50:g} s, p99 {times.p99:g} s, last {times.max:g} s",
        f"  tries: {storm.tries}, {storm.failed} of them failed although the broker listened; {ended}",
        *(f"  {count} times: {why}" for why, count in storm.why.items()),
    ]


def histogram(storm: Storm) -> list[str]:
    """Tries to connect by second, or by some seconds where they go on for long, with bars."""
    step = -(-len(storm.tries_per_s) // _ROWS) or 1
    bins = [sum(storm.tries_per_s[start : start + step]) for start in range(0, len(storm.tries_per_s), step)]
    top = max(bins, default=0) or 1
    return [
        f"  {index * step:>4} s {count:>6} {'#' * -(-_BAR * count // top)}"
        + ("  the broker is back" if index == int(storm.away_s) // step else "")
        for index, count in enumerate(bins)
    ]
