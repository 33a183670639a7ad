"""Where a model stands: what its record says, what the workers run, and each change from one to the next.

The record is saved first; `run_what_should_run` makes the workers follow it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog

from agent.errors import UpdateFailed, UpdateRefused
from agent.runtime.clock import Clock, rfc3339
from agent.updates.activate import activate
from agent.updates.store import Candidate, ModelStore, Slot
from agent.updates.trial import Live
from agent.wire.messages import Attempt
from agent.wire.releases import REASONS, State, TrustDocument

TO_BLAME = frozenset(
    {"archive", "bundle", "crashed", "hung", "error", "golden", "slow", "memory", "shadow", "health", "crash_loop"}
)
"""Reasons that speak against the bytes: they are not tried again, under whatever number they come."""
MEND_AGAIN_S = 30.0
"""What should run and could not be started is tried again after so long: each try costs a start of a worker."""

_log = structlog.get_logger()


class Standing:
    """One model's. For the updates thread; `running`, `confirmed` and `record` may be read from any."""

    def __init__(
        self, store: ModelStore, clock: Clock, stop: threading.Event, tell: Callable[[], None] = lambda: None
    ) -> None:
        """`tell` is called after each change that people should hear of."""
        self.store, self.model = store, store.model
        self.tell = tell
        self.lives: Sequence[Live] = ()
        """The pipelines that use the model."""
        self.on_activated: Callable[[], None] = lambda: None
        self.on_long_work: Callable[[], None] = lambda: None
        """Called before and after starts of workers, which may take a minute: the watchdog waits for hardly more."""
        self._clock, self._stop = clock, stop
        self._in_use: Slot | None = None  # what the workers run
        self._is_named = True  # the files say so, unless the disk refused
        self._mend_due_s = 0.0

    @property
    def running(self) -> Slot | None:
        """The bundle that answers frames, or should."""
        record = self.store.record
        if record.candidate and record.candidate.state == "active" and record.candidate.slot:
            return record.candidate.slot
        return record.live

    @property
    def confirmed(self) -> bool:
        """What runs has proved itself."""
        return self.running == self.store.record.live

    @property
    def candidate(self) -> Candidate:
        """For whoever knows that there is one."""
        candidate = self.store.record.candidate
        assert candidate is not None  # noqa: S101
        return candidate

    @property
    def slot(self) -> Slot:
        """The candidate's bundle. Raises UpdateFailed when there is none."""
        if self.candidate.slot is None:
            raise UpdateFailed("storage", "the bundle is gone; it is fetched again")
        return self.candidate.slot

    def forbidden_by(self, document: TrustDocument) -> str | None:
        """Reason code why the candidate must not go on; what is live already may have an older number."""
        candidate = self.candidate
        if candidate.sha256 in document.revoked:
            return "revoked"
        is_old = candidate.release < document.min_release.get(self.model, 0)
        return "rollback" if is_old and candidate.state != "active" else None

    def now(self) -> str:
        """RFC 3339 UTC with milliseconds."""
        return rfc3339(self._clock.now_ns())

    def trusted_now(self) -> str | None:
        """RFC 3339 UTC in whole seconds; None while the clock is not synced."""
        return self.now()[:19] + "Z" if self._clock.state() == "synced" else None

    def correct_names(self) -> None:
        """At start: let `current` name what runs, if a kill came between. Raises UpdateFailed."""
        if self.running and self.store.record.gen and self.store.names_are_stale(self.running):
            self.mirror(self.running)

    def begin(self) -> None:
        """At start: the workers will be made for what should run."""
        self._in_use = self.running

    # --- changes of the candidate, all durable; they raise UpdateFailed ------------------------------------------

    def change(self, **changes: Any) -> None:
        """Fields of the candidate."""
        self.store.save(candidate=msgspec.structs.replace(self.candidate, **changes))

    def note(self, reason_code: str | None) -> None:
        """Why the candidate waits."""
        if self.candidate.reason_code != reason_code:
            self.change(reason_code=reason_code, reason=reason_code and REASONS[reason_code])
            self.tell()

    def enter(self, state: State) -> None:
        """The next state. From `active` on, tries count starts of the agent; this is the first."""
        changes: dict[str, Any] = {}
        if state == "active":
            times_ms = {live.name: live.active.median_ms() for live in self.lives}
            changes = {
                "tries": 1,
                "slot": msgspec.structs.replace(self.slot, activated_at=self.now()),
                "before_ms": {name: time_ms for name, time_ms in times_ms.items() if time_ms is not None},
            }
        self.change(state=state, reason_code=None, reason=None, **changes)
        self.tell()

    def confirm(self) -> None:
        """The candidate has proved itself; what ran before is what to go back to."""
        record = self.store.record
        self.store.save(live=self.slot, previous=record.live, history=self._history("active"))
        self.mirror(self.slot)
        self.store.collect_garbage()
        _log.info("update.confirmed", model=self.model, version=self.slot.version, release=self.candidate.release)
        self.tell()

    def end(self, state: State, reason_code: str, detail: str = "") -> None:
        """The candidate is done with."""
        candidate, quarantine = self.candidate, dict(self.store.record.quarantine)
        if reason_code in TO_BLAME:
            quarantine[candidate.sha256] = reason_code
        reason = detail or REASONS[reason_code]
        self._mend_due_s = 0.0
        ended = msgspec.structs.replace(candidate, state=state, reason_code=reason_code, reason=reason)
        history = self._history(state, reason_code, reason)
        self.store.save(candidate=ended, quarantine=quarantine, history=history)
        _log.warning(f"update.{state}", model=self.model, release=candidate.release, code=reason_code, reason=reason)
        self.tell()

    def fail(self, exc: UpdateFailed) -> None:
        """The candidate has to wait."""
        failures = self.candidate.failures + 1
        self.change(state="failed", failures=failures, reason_code=exc.reason_code, reason=exc.detail)
        _log.warning("update.failed", model=self.model, release=self.candidate.release, reason=str(exc))
        self.tell()

    def settle_on(self, slot: Slot, reason_code: str) -> None:
        """Use another whole version from now on, outside of any release; while a candidate is live, behind that.

        Raises:
            UpdateRefused, UpdateFailed: it does not start, or that can't be saved; what ran goes on.
        """
        record = self.store.record
        if slot == record.live:
            return
        if self.confirmed:  # else a candidate answers frames, and is to be judged by what it answers
            self.switch_to(slot)
        changes: dict[str, Any] = {"live": slot, "previous": record.live}
        if record.candidate and record.candidate.state == "active" and record.candidate.slot == record.live:
            reason = REASONS[reason_code]
            ended = msgspec.structs.replace(
                record.candidate, state="rolled_back", reason_code=reason_code, reason=reason
            )
            changes |= {"candidate": ended, "history": self._history("rolled_back", reason_code, reason)}
        self.store.save(**changes)
        self.tell()
        self.mirror(self.running)

    def leave(self, revoked: Sequence[str]) -> None:
        """Go on with the version before, where the live one is revoked; and let nobody go back to one that is.

        Raises:
            UpdateRefused, UpdateFailed: as `settle_on`.
        """
        live, previous = self.store.record.live, self.store.record.previous
        if live is not None and self.store.is_revoked(live, revoked):
            if previous is None or self.store.is_revoked(previous, revoked):
                _log.error("update.revoked_model_runs", model=self.model, reason="there is no other to go back to")
            else:
                self.settle_on(previous, "revoked")
        previous = self.store.record.previous
        if previous is not None and self.store.is_revoked(previous, revoked):
            self.store.save(previous=None)
            self.tell()
            self.mirror(self.running)
            self.store.collect_garbage()

    # --- the workers ---------------------------------------------------------------------------------------------

    def run_what_should_run(self) -> bool:
        """Make the workers follow the record; False when that does not work now, or did not a moment ago."""
        slot, now_s = self.running, time.monotonic()
        if slot is None or (slot == self._in_use and self._is_named):
            return True
        if now_s < self._mend_due_s:
            return False
        try:
            self.switch_to(slot)
        except (UpdateRefused, UpdateFailed) as exc:
            _log.error("update.not_back", model=self.model, version=slot.version, reason=str(exc))
            self._mend_due_s = now_s + MEND_AGAIN_S
            return False
        self.store.collect_garbage()
        return True

    def switch_to(self, slot: Slot) -> None:
        """Let a bundle answer frames.

        Raises:
            UpdateRefused, UpdateFailed: what ran goes on, or `run_what_should_run` brings it back.
        """
        if slot != self._in_use:
            self._activate(slot)
        if not self._is_named:
            self.mirror(slot)

    def _activate(self, slot: Slot) -> None:
        self.on_long_work()
        try:
            activate(self.lives, self.store.folder(slot), slot.sha256, self._stop)
        finally:
            self.on_long_work()
        self._in_use, self._is_named = slot, False  # it answers frames, whatever the disk says to what follows
        self.on_activated()
        _log.info("update.activated", model=self.model, version=slot.version)

    def mirror(self, running: Slot | None) -> None:
        """Let the files `current` and `previous` say what runs and what is there to go back to. Raises UpdateFailed."""
        record, self._is_named = self.store.record, False
        self.store.mirror(running, record.previous if running == record.live else record.live)
        self._is_named = True

    def _history(self, state: State, reason_code: str | None = None, reason: str | None = None) -> tuple[Attempt, ...]:
        candidate = self.candidate
        attempt = Attempt(
            release=candidate.release,
            version=candidate.version,
            sha256=candidate.sha256,
            state=state,
            ended_at=self.now(),
            reason_code=reason_code,
            reason=reason,
        )
        return (*self.store.record.history, attempt)
