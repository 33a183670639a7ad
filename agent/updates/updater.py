"""THE UPDATE PATH of one model: STEPS, at the end, is the whole of it; the methods do the work, in reading order.

    releases/{model} -> take -> offered -> receiving -> verifying -> staged -> trial -> active -> confirmed

A state is saved before it is entered, so that a restart goes on where the last one stopped. Each piece of work is a
slice of at most about a second, or one start of a worker; it can be done again after a crash at any instant.
"""

import hashlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from agent.errors import ModelError, UpdateFailed, UpdateRefused
from agent.manifest import load_manifest
from agent.runtime.backoff import Backoff
from agent.runtime.starts import REVERT_AFTER
from agent.updates.activate import HealthWatch
from agent.updates.receive import ChunkBox, Transfer, Wires
from agent.updates.standing import Standing
from agent.updates.store import Candidate, Slot
from agent.updates.trial import Trial
from agent.updates.trust import TrustStore
from agent.updates.verify import DeviceFacts, Known, Trust, check_expiry, judge, open_release
from agent.wire.releases import Release, State
from agent.wire.topics import Topics

MAX_TRIALS = 3
"""A trial that takes the whole agent down so often is not begun again."""
_RESERVE_BYTES = 32 << 20
"""Of the disk, left free for messages and logs."""
_SLICE_S = 0.5
_PROGRESS_EVERY_S = 10.0
_IDLE_S = 3600.0
_STUCK_S = 30.0

_log = structlog.get_logger()


@dataclass(frozen=True)
class Step:
    """What is done in a state, and where it leads."""

    work: Callable[["ModelUpdate"], float | None]
    """None: it is done. A number: there is more to do, look again after so many seconds."""
    then: State | None
    """The next state; None: the candidate has proved itself."""
    refused: State
    """The end that a refusal leads to. What fails for a reason that may pass leads to `failed`, and there again."""
    after_restart: State


@dataclass(frozen=True)
class Surroundings:
    """What the updates of all models share."""

    topics: Topics
    wires: Wires
    box: ChunkBox
    stop: threading.Event
    device: DeviceFacts
    trust: TrustStore | None
    """None: no release is taken."""
    max_bytes: int
    """Of an archive."""

    def trusted(self) -> TrustStore:
        """Raises UpdateRefused: the device believes nobody."""
        if self.trust is None:
            raise UpdateRefused("signature", "models.trust is not set")
        return self.trust


class ModelUpdate:
    """One model's way from an offer to a confirmed version, and back where it has to. For the updates thread."""

    def __init__(self, at: Standing, around: Surroundings, interrupted: Callable[[], bool] = lambda: False) -> None:
        """`interrupted`: whether something came that should not wait for the end of a piece of work."""
        self.at, self.store, self.model = at, at.store, at.model
        self.refused: str | None = None
        """Reason code of the newest message of the release topic, when it was not taken."""
        self._around, self._interrupted = around, interrupted
        self._release: Release | None = None  # of the candidate
        self._transfer: Transfer | None = None
        self._trial: Trial | None = None
        self._watch: HealthWatch | None = None
        self._due_s: float | None = None
        self._backoff = Backoff(base_s=30.0, cap_s=3600.0)
        self._reported_s, self._reported_bytes = 0.0, 0
        self._stuck_until_s = 0.0

    # --- an offer ------------------------------------------------------------------------------------------------

    def take(self, raw: bytes) -> None:
        """Look at a message of the release topic, from the cheapest check to the dearest (contract, section 5).

        Raises:
            UpdateRefused: it is not taken, and why. Anybody may have sent it: nothing is written down for it.
            UpdateFailed: it could not be written down.
        """
        record, around = self.store.record, self._around
        fingerprint = hashlib.sha256(raw).hexdigest()
        if fingerprint == record.seen and not self.store.wants_again(record.floor_sha256):
            return  # it comes again at every connection
        opened = open_release(raw, around.trusted().current(), self.model)
        around.trusted().accept(opened.trust, opened.links)
        release, archive, now = opened.release, opened.release.archive, self.at.trusted_now()
        known = Known(record.floor, record.floor_sha256, record.quarantine, record.time_floor)
        verdict = judge(release, opened.trust, around.device, known, now)
        if verdict == "repeat" and not self.store.wants_again(archive.sha256):
            self.store.save(seen=fingerprint)
            return
        if archive.size_bytes > around.max_bytes:
            raise UpdateRefused("too_large", f"{archive.size_bytes} bytes, the device takes {around.max_bytes}")
        self._make_way()
        self.store.save(
            candidate=Candidate(raw, release.release, release.version, archive.sha256, archive.size_bytes, "offered"),
            floor=release.release,
            floor_sha256=archive.sha256,
            time_floor=max(record.time_floor, min(release.created, now) if now else release.created),
            quarantine={digest: why for digest, why in record.quarantine.items() if digest != archive.sha256},
            seen=fingerprint,
        )
        self._backoff.reset()
        self._stuck_until_s = 0.0
        _log.info("update.offered", model=self.model, version=release.version, release=release.release)
        self.at.tell()

    def _make_way(self) -> None:
        """For a newer release; nothing is built upon one that is not confirmed."""
        if self.row is not None:
            self._end("rejected" if self.at.candidate.state != "active" else "rolled_back", "superseded")
        self._let_go()

    # --- one step ------------------------------------------------------------------------------------------------

    @property
    def row(self) -> Step | None:
        """Of STEPS, while there is something to do for the candidate."""
        candidate = self.store.record.candidate
        if candidate is None or (candidate.state == "active" and self.at.confirmed):
            return None
        return STEPS.get(candidate.state)

    def step(self) -> float:
        """Do one piece of work; gives the time until the next is due, in seconds."""
        row = self.row
        runs = row is STEPS["active"] or self.at.run_what_should_run()  # that state does it by itself
        if row is None:
            return _IDLE_S if runs else _STUCK_S
        try:
            return self._work(row)
        except UpdateFailed as exc:  # not even that it failed could be written down
            _log.error("update.stuck", model=self.model, reason=str(exc))
            self._stuck_until_s = time.monotonic() + _STUCK_S
            return _STUCK_S

    def _work(self, row: Step) -> float:
        if (stuck_s := self._stuck_until_s - time.monotonic()) > 0:  # the loop comes by each second
            return stuck_s
        try:
            wait_s = row.work(self)
            if wait_s is not None:
                return wait_s
            if row.then is None:
                self.at.confirm()
                self._let_go()
            else:
                self._due_s = None
                self.at.enter(row.then)
        except UpdateRefused as exc:
            self._end(row.refused, exc.reason_code, exc.detail)
        except UpdateFailed as exc:
            self._let_go()
            self.at.fail(exc)
        return 0.0

    def _end(self, state: State, reason_code: str, detail: str = "") -> None:
        """The candidate is done with; what ran before runs again."""
        self._let_go()
        self.at.end(state, reason_code, detail)
        self.at.run_what_should_run()
        self.store.collect_garbage()

    # --- the work of each state ----------------------------------------------------------------------------------

    def wait_for_turn(self) -> float | None:
        """`offered`: wait at random within the release's `spread_s`, and for as long as the model is pinned."""
        release, now_s = self.release(), time.monotonic()
        self.at.note("pinned" if self.store.record.pinned else None)
        if self.store.record.pinned:
            return _IDLE_S
        if self._due_s is None:
            self._due_s = now_s + random.uniform(0.0, release.spread_s)
        if now_s < self._due_s:
            return self._due_s - now_s
        check_expiry(release, self.store.record.time_floor, self.at.trusted_now())
        if not self.store.find(release.archive.sha256):
            # The archive, of which an earlier try may have left its part, and the bundle that is made of it.
            need, free = 2 * release.archive.size_bytes + _RESERVE_BYTES, self.store.free_bytes()
            need -= self.store.held_bytes(release.archive.sha256)
            if free < need:
                raise UpdateFailed("no_space", f"needs {need >> 20} MiB, {free >> 20} MiB are free")
        return None

    def receive(self) -> float | None:
        """`receiving`: fetch chunk after chunk, where the last try stopped."""
        archive, around = self.release().archive, self._around
        if self._transfer is None:
            if self.store.find(archive.sha256):
                return None
            self._transfer = Transfer(archive, self.store.incoming, around.topics, around.wires, around.box)
        done = self._transfer.step(_SLICE_S, self._interrupted)
        self._report_progress(archive.size_bytes)
        if not done:
            return 0.0
        self._let_go()
        return None

    def unpack(self) -> None:
        """`verifying`: the whole digest, the archive, the manifest; then the bundle lies where it will be used from."""
        release = self.release()
        self.at.change(slot=self.store.install(self.store.part_of(release.archive.sha256), release))

    def prepare_trial(self) -> None:
        """`staged`: count the trial before it begins."""
        if self.at.candidate.tries >= MAX_TRIALS:
            raise UpdateRefused("crash_loop", f"the agent did not live through {MAX_TRIALS} trials")
        self.at.change(tries=self.at.candidate.tries + 1)

    def try_out(self) -> float | None:
        """`trial`: fresh workers, golden inputs, limits; then live frames beside the model in use."""
        if self._trial is None:
            slot = self.at.slot
            folder = self.store.folder(slot)
            self._trial = Trial(folder, slot.sha256, self.release(), self.at.lives, self._around.stop)
        if not self._trial.step(self._interrupted):
            return 0.0
        self._let_go()
        return None

    def watch(self) -> float | None:
        """`active`: let it answer frames, if it does not yet, and watch how it does."""
        if self._watch is None:
            slot, release = self.at.slot, self.release()
            self.at.switch_to(slot)
            try:
                limits = load_manifest(self.store.folder(slot) / "manifest.yaml").limits
            except ModelError as exc:  # it was good when it was installed
                raise UpdateFailed("storage", str(exc)) from exc
            max_infer_ms = release.acceptance.max_infer_ms or limits.max_infer_ms
            self._watch = HealthWatch(release.activation, self.at.lives, max_infer_ms, self.at.candidate.before_ms)
        return None if self._watch.check() else 1.0

    def wait_to_retry(self) -> float | None:
        """`failed`: try again later, and ever less often."""
        now_s = time.monotonic()
        if self._due_s is None:
            self._due_s = now_s + self._backoff.next_s()
        return self._due_s - now_s if now_s < self._due_s else None

    # --- the ends of a run ---------------------------------------------------------------------------------------

    def begin(self) -> list[str]:
        """At the daemon's start, before any model runs: mend what is broken, and decide what to run.

        Gives lines for the log. A candidate that was live and not confirmed in three starts goes.
        """
        lines = self.store.start()
        try:
            if self.row is not None:
                self._go_on(self.row)
            self.at.correct_names()
        except UpdateFailed as exc:
            lines.append(str(exc))
        self.at.begin()
        return lines

    def _go_on(self, row: Step) -> None:
        candidate = self.at.candidate
        if candidate.state != "active":
            self.at.change(state=row.after_restart)
        elif candidate.tries >= REVERT_AFTER:
            self.at.end(row.refused, "crash_loop", f"{REVERT_AFTER} starts without proving itself")
            self.store.collect_garbage()
        else:
            self.at.change(tries=candidate.tries + 1)

    def close(self) -> None:
        """At an end in order: it does not count against what is on trial."""
        self._let_go()
        candidate = self.store.record.candidate
        if self.row is not None and candidate and candidate.state in ("trial", "active") and candidate.tries:
            self.at.change(tries=candidate.tries - 1)

    # --- from operators ------------------------------------------------------------------------------------------

    def obey(self, trust: Trust) -> None:
        """A newer trust document holds: what it revokes, or does not sign any more, does not go on."""
        if self.row is not None:
            self._release = None  # its signatures are looked at anew
            if code := self.at.forbidden_by(trust.document):
                self._end(self.row.refused, code)
        self.at.leave(trust.document.revoked)

    def roll_back(self) -> Slot | None:
        """Go back to the version before; gives what runs then.

        Raises:
            UpdateRefused, UpdateFailed: there is none, or it does not start.
        """
        previous = self.store.record.previous
        if self.row is not None:
            self._end("rolled_back" if self.at.candidate.state == "active" else "rejected", "operator")
        elif previous is None or not self.store.is_whole(previous):
            raise UpdateRefused("operator", "there is no whole version to go back to")
        else:
            self.at.settle_on(previous, "operator")
        return self.at.running

    def activate_version(self, version: str) -> Slot:
        """Use a version that lies on this device.

        Raises:
            UpdateRefused, UpdateFailed: there is none, or it does not start.
        """
        slot = self.store.find_version(version)
        if slot is None:
            raise UpdateRefused("operator", f"there is no version {version} of model {self.model} on this device")
        if self.row is not None:
            raise UpdateRefused("operator", "a release is on its way; `rollback` ends that")
        trust = self._around.trust
        if trust is not None and self.store.is_revoked(slot, trust.current().document.revoked):
            raise UpdateRefused("revoked", f"the trust document has revoked {slot.version}, or what it was made of")
        self.at.settle_on(slot, "operator")
        return slot

    def pin(self, pinned: bool) -> None:
        """Hold the model at its version, or not any more. Raises UpdateFailed."""
        self.store.save(pinned=pinned)
        self.at.tell()

    # --- inside --------------------------------------------------------------------------------------------------

    @property
    def received_bytes(self) -> int:
        """Of the candidate's archive."""
        candidate = self.store.record.candidate
        if candidate is None or candidate.state in ("verifying", "staged", "trial", "active", "rolled_back"):
            return candidate.size_bytes if candidate else 0
        return self._transfer.received_bytes if self._transfer else 0

    def release(self) -> Release:
        """The candidate's, as signed; looked at anew after a restart, a change of trust, and for another candidate.

        Raises:
            UpdateRefused: the trust document of today does not sign it.
        """
        candidate = self.at.candidate
        if self._release is None or self._release.release != candidate.release:
            self._release = open_release(candidate.envelope, self._around.trusted().current(), self.model).release
        return self._release

    def _report_progress(self, size_bytes: int) -> None:
        now_s, received = time.monotonic(), self.received_bytes
        is_much = received - self._reported_bytes >= size_bytes / 20
        if now_s - self._reported_s > (1.0 if is_much else _PROGRESS_EVERY_S):
            self._reported_s, self._reported_bytes = now_s, received
            self.at.tell()

    def _let_go(self) -> None:
        """Of what is open for the candidate."""
        if self._transfer is not None:
            self._transfer.close()
        if self._trial is not None:
            self._trial.close()
        self._transfer = self._trial = self._watch = self._due_s = None
        self._reported_bytes = 0


STEPS: dict[State, Step] = {
    #                 work                       then         when refused   after a restart
    "offered":   Step(ModelUpdate.wait_for_turn, "receiving", "rejected",    "offered"),
    "receiving": Step(ModelUpdate.receive,       "verifying", "rejected",    "receiving"),
    "verifying": Step(ModelUpdate.unpack,        "staged",    "rejected",    "verifying"),
    "staged":    Step(ModelUpdate.prepare_trial, "trial",     "rejected",    "staged"),
    "trial":     Step(ModelUpdate.try_out,       "active",    "rejected",    "staged"),
    "active":    Step(ModelUpdate.watch,         None,        "rolled_back", "active"),
    "failed":    Step(ModelUpdate.wait_to_retry, "offered",   "rejected",    "failed"),
}  # fmt: skip
"""What is not here is an end: `rejected` and `rolled_back`."""
