"""The whole device with a broker and an operator, for tests that take its power or its life during updates.

What has to hold, however often: it answers frames with a model that is whole on its disk, the floor does not sink, what
was confirmed is not lost, no bad model answers for good, and nothing large is left behind.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agent.updates.record import Record, load_record
from agent.wire.archive import archive_digest
from tests.sim import wait_until
from tests.sim.agent import Agent, make_config
from tests.sim.broker import Broker
from tests.sim.mutants import MUTANTS, mutate
from tests.sim.operators import Operator

MODEL = "face"
BRANCH = "edge/devices/cam-1"
LARGE_BYTES = 1 << 20
PADDING_BYTES = 1 << 20
"""Of a pushed bundle, beside its model: left behind it would be large."""
HASTE: dict[str, Any] = {"acceptance": {"shadow_frames": 3}, "activation": {"health_window_s": 0.5, "min_frames": 3}}
"""What a release asks of a device whose test should be over soon."""
TOO_SLOW: dict[str, Any] = {**HASTE, "activation": {**HASTE["activation"], "max_latency_ratio": 1e-6}}
"""A release that passes its trial, and that no device can confirm."""
BAD = ("half", "crash_invoke", "error_invoke")
"""Mutants that pass no trial, on any runtime."""


class UpdateRig:
    """`disk` has the models and the outbox, and need not be mounted while the agent does not run."""

    def __init__(self, folder: Path, broker: Broker, disk: Path, **models: Any) -> None:
        """`models`: more of the configuration's section. The bundle has to be in `disk / "models"` already."""
        self.operator = Operator(broker)
        self.home = disk / "models" / MODEL
        (folder / "trust.json").write_bytes(self.operator.authority.trust_file)
        config = make_config(folder, broker.port, disk / "models")
        config["models"] |= {"trust": str(folder / "trust.json"), "healthy_after_s": 1} | models
        config["outbox"]["dir"] = str(disk / "outbox")
        self.agent = Agent(folder, config)
        self._ear = broker.listen(f"{BRANCH}/results/#", f"{BRANCH}/models/#")
        self._read = 0
        self._last_result: dict[str, dict[str, Any]] = {}  # by boot
        self.factory = (self.home / "current").read_text().strip()
        self._original = folder / "operator" / "original"
        shutil.copytree(self.home / self.factory, self._original)
        self.digests = {self.factory: archive_digest(self._original)}
        """Of all versions there are: no two bundles have the same."""
        self._bad: set[str] = set()  # versions that pass no trial
        self._hopeless: dict[int, str] = {}  # releases that can't be confirmed
        self.floor = self.confirmed = 0
        """The highest release that the device said, or its disk showed, to be accepted, and to be confirmed."""
        self.violations: list[str] = []

    # --- the operator ---------------------------------------------------------------------------------------------

    def make(self, mutant: str | None = None, padding_bytes: int = PADDING_BYTES) -> Path:
        """A bundle that nobody has seen before."""
        version = f"2027.1.{len(self.digests)}"
        bundle = self._original.with_name(version)
        shutil.copytree(self._original, bundle)
        manifest = bundle / "manifest.yaml"
        manifest.write_text(manifest.read_text().replace(f"version: {self.factory}", f"version: {version}"))
        rng = random.Random(version)
        for index, at in enumerate(range(0, padding_bytes, PADDING_BYTES)):
            name = "LICENSE" if index == 0 else f"golden/{index}.bin"
            (bundle / name).write_bytes(rng.randbytes(min(PADDING_BYTES, padding_bytes - at)))
        if mutant:
            model = bundle / "model.tflite"
            model.write_bytes(mutate(model.read_bytes(), MUTANTS[mutant]))
            self._bad.add(version)
        self.digests[version] = archive_digest(bundle)
        return bundle

    def push(self, bundle: Path, **fields: Any) -> int:
        number = self.operator.push(bundle, MODEL, **(HASTE | fields))
        if bundle.name in self._bad or fields.get("activation") == TOO_SLOW["activation"]:
            self._hopeless[number] = bundle.name
        return number

    def push_any(self, rng: random.Random) -> int:
        """Good ones mostly, bytes that the device may still have, ones that fail their trial, and after it."""
        drawn = rng.random()
        if drawn < 0.2:
            return self.push(self.make(rng.choice(BAD)))
        if drawn < 0.35:
            return self.push(self.make(), **TOO_SLOW)
        good = [version for version in self.digests if version not in {self.factory, *self._bad}]
        if good and drawn < 0.5:
            return self.push(self._original.with_name(rng.choice(good[-3:])), retry=rng.random() < 0.5)
        return self.push(self.make())

    # --- the device -----------------------------------------------------------------------------------------------

    def record(self) -> Record:
        """What the disk says; empty as long as nothing was saved."""
        return load_record(self.home).record or Record()

    def state(self, number: int) -> str | None:
        """Of a release, as the disk says; None while it is not there."""
        candidate = self.record().candidate
        return candidate.state if candidate and candidate.release == number else None

    def is_idle(self) -> bool:
        """It has nothing to do, or only waits."""
        record = self.record()
        candidate = record.candidate
        return candidate is None or candidate.is_over or candidate.state == "failed" or candidate.slot == record.live

    def live_for(self, seconds: float) -> None:
        """Let it run so long, which it has to: here time itself is what is tested."""
        deadline_s = time.monotonic() + seconds
        while self.agent.running and time.monotonic() < deadline_s:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.agent.wait(max(0.0, deadline_s - time.monotonic()))
        assert self.agent.running, f"it ended by itself: {self.agent.log()[-3:]}"

    def wait_until_start_is_good(self) -> None:
        """From here on, earlier starts that ended badly do not count."""
        starts = self.agent.outbox / "starts"
        wait_until(lambda: b'"in_a_row": 0' in starts.read_bytes(), 30, "the start lasts long enough")

    # --- what has to hold -----------------------------------------------------------------------------------------

    def check_at_rest(self) -> str:
        """While nothing runs; gives the state that the candidate is in."""
        self._listen()
        self._check_record()
        record = self.record()
        self.floor = max(self.floor, record.floor)
        if record.candidate is None:
            return "none"
        is_confirmed = record.candidate.slot is not None and record.candidate.slot == record.live
        return "confirmed" if is_confirmed else record.candidate.state

    def check_running(self) -> str:
        """After a start; comes back when a frame is answered, with the version that did."""
        boot = self.agent.wait_for_status(lambda status: True)["boot"]
        self._ear.wait_for(lambda _: self._answers_with_what_is_whole(boot), 40, "results of a whole model")
        self._check_record()
        deadline_s = time.monotonic() + 10
        while (orphans := self.orphans()) and time.monotonic() < deadline_s:
            seen = len(self._ear.messages)
            self._ear.wait_for(lambda messages, seen=seen: len(messages) > seen)  # type: ignore[misc]
        self._expect(not orphans, f"left behind: {orphans}")
        return str(self._last_result[boot]["version"])

    def assert_all_held(self) -> None:
        self._listen()
        assert [] == self.violations

    def orphans(self) -> list[str]:
        """What is large and not named by the record, by hand or for the release that is on its way."""
        record, candidate = self.record(), self.record().candidate
        named = {slot.folder for slot in record.slots} | {self.factory, ".incoming"}
        awaited = candidate.sha256 if candidate and not candidate.is_over else "nothing"
        there = [
            path for path in (*self.home.iterdir(), *(self.home / ".incoming").glob("*")) if path.name not in named
        ]
        there += [path for path in self.home.parent.iterdir() if path != self.home]
        return [
            path.name
            for path in there
            if _size(path) > LARGE_BYTES and not path.name.startswith(awaited) and awaited not in _mark(path)
        ]

    def _answers_with_what_is_whole(self, boot: str) -> bool:
        self._listen()
        model = self._last_result.get(boot)
        return model is not None and any(
            _is_whole(folder, self.digests[model["version"]], model["sha256"])
            for folder in self.home.iterdir()
            if folder.is_dir()
        )

    def _check_record(self) -> None:
        record, candidate = self.record(), self.record().candidate
        where = f"candidate {candidate and (candidate.release, candidate.state)}"
        self._expect(record.floor >= self.floor, f"the floor sank from {self.floor} to {record.floor}, {where}")
        live = record.live.release or 0 if record.live else 0
        self._expect(live >= self.confirmed, f"{self.confirmed} was confirmed, but {live} is live, {where}")
        self._expect(live not in self._hopeless, f"release {live} is live for good, {where}")

    def _listen(self) -> None:
        """Take in what came since the last time."""
        messages = self._ear.messages[self._read :]
        self._read += len(messages)
        for message in messages:
            said = json.loads(message.payload)
            if said["schema"] == "edge.result/1":
                self._last_result[said["boot"]] = said["model"]
                bad = said["model"]["version"] in self._bad
                self._expect(not bad, f"a bad model answered: {said['model']['version']}")
            else:
                self._take_in(said)

    def _take_in(self, state: dict[str, Any]) -> None:
        self.floor = max(self.floor, state["floor"])
        candidate, active = state["candidate"], state["active"]
        if candidate and candidate["state"] == "active" and active["confirmed"]:
            self.confirmed = max(self.confirmed, candidate["release"])

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds and otherwise not in self.violations:
            self.violations.append(otherwise)


def report(rig: UpdateRig, states: Counter[str], what: str) -> str:
    """For whoever reads the output of a long run."""
    ends = Counter(f"{past.state} {past.reason_code or ''}".strip() for past in rig.record().history)
    repairs = Counter(event["what"].split(":")[0] for event in rig.agent.events("update.repaired"))
    return (
        f"{states.total()} {what}: {dict(states)}; {rig.operator.number} releases, floor {rig.floor}, confirmed "
        f"{rig.confirmed}; the last {ends.total()} ends {dict(ends)}; repairs {dict(repairs)}; "
        f"{len(rig.violations)} violations: {rig.violations}"
    )


def push_one_more(rig: UpdateRig) -> None:
    """After all that it still takes a release."""
    bundle = rig.make()
    state = rig.operator.wait_until_ended(rig.push(bundle))
    if state["candidate"]["state"] != "active":
        pytest.fail(f"a good release was not taken: {state}")


def _is_whole(folder: Path, sha256: str, model_sha256: str) -> bool:
    with contextlib.suppress(ValueError, OSError):
        model = hashlib.sha256((folder / "model.tflite").read_bytes()).hexdigest()
        return model == model_sha256 and archive_digest(folder) == sha256
    return False


def _size(path: Path) -> int:
    """Of all that is in it; what goes away meanwhile has none."""
    total = 0
    for file in (path, *(Path(above, name) for above, _, names in os.walk(path) for name in names)):
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total


def _mark(path: Path) -> str:
    with contextlib.suppress(OSError):
        return (path / ".release").read_text()
    return ""
