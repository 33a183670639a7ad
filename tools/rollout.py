"""What becomes of a release on the devices: who has to take it, how far each one is, and when all are at an end."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from agent.errors import UpdateRefused
from agent.runtime.text import one_line
from agent.updates.verify import Trust, open_release
from agent.wire.messages import ModelState, Status
from agent.wire.releases import REASONS, Release, chosen_by_percent
from agent.wire.topics import Topics
from tools.operator_link import OperatorLink
from tools.operator_login import UsageError

Goal = Literal["active", "healthy"]

SETTLE_S = 10.0
"""Groups and hardware are not visible from outside: so long after the last device spoke up, no more are expected."""
MAX_NUMBER = 2**31 - 1
_MAX_STATE_BYTES = 256 << 10
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a device can make of a message."""
_MAX_WHY_CHARS = 500
_SLICE_S = 0.2
_PASSING = ("rate", "target")
"""Refusals that are no end: looked at later, or never meant for that device."""


@dataclass
class Fleet:
    """What lies on the broker of a model before its release."""

    states: dict[str, ModelState] = field(default_factory=dict)
    """By device."""
    released: int = 0
    """Number of the retained release."""
    doubt: str | None = None
    """Why the retained release does not count."""


def look_around(link: OperatorLink, topics: Topics, model: str, trust: Trust) -> Fleet:
    """Read what devices say of a model, and its last release. `topics` has `+` for the device."""
    fleet = Fleet()
    for topic, payload in link.retained([topics.release(model), topics.model_state(model)]):
        if topic != topics.release(model):
            _note_state(fleet.states, topic.split("/")[-3], payload)
            continue
        try:
            fleet.released, fleet.doubt = open_release(payload, trust, model).release.release, None
        except UpdateRefused as exc:
            fleet.doubt = f"what lies on {topic} does not count: {exc}"
    return fleet


def choose_number(fleet: Fleet, trust: Trust, model: str, wanted: int | None, exclude: tuple[str, ...]) -> int:
    """One above all that is known, or the one that is wanted.

    Raises:
        UsageError: devices would refuse it as a step back; says who knows of a higher one.
    """
    known = [(fleet.released, "the release on the broker")]
    known.append((trust.document.min_release.get(model, 1) - 1, "the trust document's min_release"))
    known += [(state.floor, f"device {name}") for name, state in fleet.states.items() if name not in exclude]
    highest, who = max(known, key=lambda pair: pair[0])
    if wanted is not None and wanted <= highest:
        mend = f"take {highest + 1} or higher, or leave --release out"
        raise UsageError(f"--release {wanted}: {who} has release {highest} of {model} already: {mend}")
    number = wanted or highest + 1
    if not 1 <= number <= MAX_NUMBER:
        raise UsageError(f"release {number}: expected at most {MAX_NUMBER}; {who} says {highest}: --exclude it?")
    return number


def _note_state(states: dict[str, ModelState], device: str, payload: bytes) -> bool:
    """Keep what a device said, if it is a model state."""
    try:
        states[device] = msgspec.json.decode(payload[: _MAX_STATE_BYTES + 1], type=ModelState)
    except _BROKEN:
        return False
    return True


@dataclass(frozen=True)
class Standing:
    """How far a device is with the release."""

    device: str
    state: str
    """As the device says, or `silent`, `waiting`, `refused`, `superseded`."""
    reason_code: str | None = None
    reason: str | None = None
    received_bytes: int = 0
    updated: str | None = None
    """When the device said it."""
    confirmed: bool = False

    def reached(self, goal: Goal) -> bool:
        return self.state == "active" and (goal == "active" or self.confirmed)

    def ended(self, goal: Goal) -> bool:
        return self.state in ("rejected", "rolled_back", "refused", "superseded") or self.reached(goal)

    @property
    def why(self) -> str:
        return one_line(": ".join(filter(None, (self.reason_code, self.reason))), _MAX_WHY_CHARS)  # a device chose it


class Rollout:
    """One release on its way."""

    def __init__(self, release: Release, topics: Topics, goal: Goal, before: dict[str, ModelState]) -> None:
        self.release, self.goal = release, goal
        self._topics = topics
        self._before = before
        self._states = dict(before)
        self._online: dict[str, str] = {}
        self._standings = {device: self._stand(device) for device in before}
        self._spoke_s = time.monotonic()

    @property
    def is_open(self) -> bool:
        """Who has to take it can only be seen from who does."""
        return bool(self.release.targets.groups or self.release.targets.hardware)

    def hear(self, topic: str, payload: bytes) -> None:
        """Take in a message of a device."""
        *_, device, kind, last = topic.split("/")
        if kind != "models":
            with contextlib.suppress(*_BROKEN):
                self._online[kind] = msgspec.json.decode(payload, type=Status).state
        elif last == self.release.model and _note_state(self._states, device, payload):
            known = device in self._standings and self._is_about(self._standings[device])
            self._standings[device] = self._stand(device)
            if not known:
                self._spoke_s = time.monotonic()

    def standings(self) -> list[Standing]:
        """Of all devices that have to take it, as far as that can be seen; by name."""
        targets = self.release.targets
        names = {name for name, standing in self._standings.items() if self._is_about(standing)}
        if not self.is_open:
            names = set(targets.devices) or set(self._standings)
        elif not targets.hardware:
            names |= set(targets.devices)
        names = {name for name in names if name not in targets.exclude and chosen_by_percent(targets, name)}
        return [self._standings.get(name) or self._stand(name) for name in sorted(names)]

    def is_over(self) -> bool:
        """All are at an end, or nobody is there."""
        standings = self.standings()
        if (self.is_open or not standings) and time.monotonic() - self._spoke_s < SETTLE_S:
            return False
        return all(standing.ended(self.goal) for standing in standings)

    def is_reached(self) -> bool:
        """All have reached the goal."""
        standings = self.standings()
        return bool(standings) and all(standing.reached(self.goal) for standing in standings)

    def is_away(self, device: str) -> bool:
        """Its connection to the broker is gone."""
        return self._online.get(device) == "offline"

    def summary(self) -> str:
        """Such as `12 active, 1 rejected, 2 offline`."""
        standings = self.standings()
        counts = Counter(s.state for s in standings)
        away = sum(self.is_away(s.device) for s in standings if not s.ended(self.goal))
        told = [f"{count} {state}" for state, count in counts.most_common()] + ([f"{away} offline"] if away else [])
        return ", ".join(told) or f"no device says anything of {self.release.model}"

    def hints(self) -> list[str]:
        """What the reason codes that came up mean."""
        codes = sorted({s.reason_code for s in self.standings() if s.reason_code and s.state != "active"})
        return [f"{code}: {REASONS[code]}" for code in codes if code in REASONS]

    def follow(self, link: OperatorLink, timeout_s: float, tell: Callable[["Rollout"], None]) -> None:
        """Listen until it is over, or for so long; `tell` is called when something may have changed."""
        deadline_s = time.monotonic() + timeout_s
        link.subscribe([self._topics.model_state(self.release.model), self._topics.status()], self.hear)
        while (now_s := time.monotonic()) < deadline_s:
            link.outage_s = deadline_s - now_s
            until_s = min(now_s + _SLICE_S, deadline_s)
            while (left_s := until_s - time.monotonic()) > 0:
                link.wait(left_s)
            tell(self)
            if self.is_over():
                break

    def _is_about(self, standing: Standing) -> bool:
        """The device has something to say of this release."""
        return standing.state not in ("silent", "waiting")

    def _stand(self, device: str) -> Standing:
        state = self._states.get(device)
        if state is None:
            return Standing(device, "silent")
        number, sha256 = self.release.release, self.release.archive.sha256
        confirmed = state.active is not None and state.active.sha256 == sha256 and state.active.confirmed
        tries = [*state.history, state.candidate]
        for one in reversed(tries):
            if one is not None and (one.release, one.sha256) == (number, sha256):
                received = getattr(one, "received_bytes", 0)
                return Standing(device, one.state, one.reason_code, one.reason, received, state.time, confirmed)
        before = self._before.get(device)
        if state.floor > number:
            return Standing(device, "superseded", "superseded", None, 0, state.time)
        is_new = state.refused and state.refused != (before and before.refused) and state.refused not in _PASSING
        return Standing(device, "refused" if is_new else "waiting", state.refused, None, 0, state.time)
