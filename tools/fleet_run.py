"""The steps of a storm, one after the other, and what came of them."""

import time
from collections.abc import Callable

from agent.pipeline import CONNECT_TIMEOUT_S, RECONNECT_CAP_S
from tools.fleet_broker import Target
from tools.fleet_device import What
from tools.fleet_report import Outcome, Storm, ended_alone, make_storm
from tools.fleet_watch import Watch
from tools.fleet_workers import Workers
from tools.operator_login import OperatorError

BOUND_S = RECONNECT_CAP_S + CONNECT_TIMEOUT_S
"""A device waits at most for the cap between two tries, and a try takes at most its time-out."""
NOTICE_S = 15.0
"""Within this, devices notice that the broker has gone: its connections end with it."""


class Run:
    """Takes running workers through the steps."""

    def __init__(self, target: Target, workers: Workers, watch: Watch, devices: int, rest_s: float) -> None:
        self._target, self._workers, self._watch = target, workers, watch
        self._devices, self._rest_s = devices, rest_s
        self._restarted_s: float | None = None
        self.outcome = Outcome(devices=devices, bound_s=BOUND_S)

    def all(self) -> Outcome:
        """Take all steps.

        Raises:
            OperatorError: not even the beginning worked; or what a person has to mend.
        """
        self.outcome.first = self._first()
        self._rest("before")
        if self._target.restart:
            self.outcome.restart = self._restart(self._target.restart)
        self._kill("a tenth", 0.1)
        self._workers.revive()
        self._connect("all again", BOUND_S)
        self._kill("all", 1.0)
        alone = self.outcome.ended_alone = ended_alone(self._workers.happened, self._restarted_s)
        self._expect(not alone, f"connections ended by themselves: {'; '.join(alone)}")
        return self.outcome

    def _first(self) -> Storm:
        complete = self._connect("connected", BOUND_S)
        began_s = min((item.at_s for item in self._workers.happened), default=0.0)
        storm = make_storm(self._workers.happened, self._devices, began_s, began_s)
        if not complete:
            why = next(iter(storm.why), "no answer")
            raise OperatorError(f"{storm.back} of {self._devices} could connect within {BOUND_S:g} s; {why}")
        return storm

    def _restart(self, restart: Callable[[], None]) -> Storm:
        began_s = self._restarted_s = time.monotonic()
        restart()
        listens_s = time.monotonic()
        if not self._watch.until("lost the broker", 1, lambda: self._count("down", began_s), NOTICE_S):
            raise OperatorError("--restart-command: no connection ended; does it restart the broker of --broker?")
        self._watch.until("connected again", self._devices, lambda: self._count("up", began_s), BOUND_S)
        self._rest("after")
        storm = make_storm(self._workers.happened, self._devices, began_s, listens_s)
        held = storm.back == self._devices and storm.back_s.max <= BOUND_S
        self._expect(held, f"{storm.back} of {self._devices} came back, the last after {storm.back_s.max:g} s")
        self._expect(not storm.is_second, "there was a second storm")
        return storm

    def _count(self, what: What, since_s: float) -> int:
        """To how many devices it happened."""
        return len({item.device for item in self._workers.happened if item.what == what and item.at_s >= since_s})

    def _kill(self, who: str, share: float) -> None:
        """kill -9: their connections end without DISCONNECT."""
        wills = self.outcome.wills[who] = self._watch.wills_of(who, lambda: self._workers.kill(share))
        self._expect(wills.lie == wills.killed, f"wills of {who}: {wills.killed - wills.lie} were lost")

    def _connect(self, what: str, timeout_s: float) -> bool:
        return self._watch.until(what, self._devices, self._count_connected, timeout_s)

    def _count_connected(self) -> int:
        self._workers.check()
        return len(self._workers.connected)

    def _rest(self, when: str) -> None:
        """Leave them alone, and see what they publish."""
        before, began_s = self._workers.acknowledged, time.monotonic()
        self._watch.rest("left alone", self._rest_s)
        count = self._workers.acknowledged - before
        self.outcome.results_per_s[when] = round(count / (time.monotonic() - began_s), 1)

    def _expect(self, held: bool, otherwise: str) -> None:
        if not held:
            self.outcome.broken.append(otherwise)
