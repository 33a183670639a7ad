"""What an operator may ask of a running device over MQTT, answered on the response topic that came with the command."""

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
import structlog

from agent.config import Pipeline as PipelineSpec
from agent.errors import FeedbackRefused, UpdateFailed, UpdateRefused
from agent.events.snapshot import SnapshotJob
from agent.feedback.service import FeedbackService
from agent.mqtt.inbox import Inbound, Inbox
from agent.mqtt.link import Link
from agent.pipeline import Pipeline
from agent.runtime.progress import Progress
from agent.updates.envelope import decode_strict
from agent.updates.service import UpdateService
from agent.updates.store import Slot
from agent.updates.updater import ModelUpdate
from agent.values import OutboundMessage
from agent.wire.messages import Command, Reply, Stamp, encode
from agent.wire.topics import Topics

T = TypeVar("T")

_PAUSE_S = 0.05
"""After each command: a flood costs messages, which the inbox drops and counts, but neither the CPU nor the journal."""
_MAX_SHOWN_CHARS = 64

_log = structlog.get_logger()
_Action = Callable[[Command], dict[str, Any]]


class _Request(msgspec.Struct):
    command: str


def _shown(text: str | None) -> str:
    """What a sender chose, quoted and fit for a line."""
    return ascii(text)[:_MAX_SHOWN_CHARS]


class _Refused(Exception):  # noqa: N818 - an answer, not a failure
    """The command can't be done; the text goes back to who asked."""


class Commands:
    """Takes commands from the inbox, one after the other."""

    def __init__(
        self,
        pipelines: Mapping[str, Pipeline],
        *,
        inbox: Inbox,
        link: Link,
        topics: Topics,
        stamp: Stamp,
        progress: Progress,
        status: Callable[[], dict[str, Any]],
        snapshot: Callable[[SnapshotJob], bool],
        restart: Callable[[], None],
        updates: UpdateService,
        feedback: FeedbackService,
        personalize: Callable[[PipelineSpec], dict[str, Any]],
    ) -> None:
        self._pipelines = pipelines
        self._inbox, self._link, self._topics, self._stamp = inbox, link, topics, stamp
        self._progress = progress
        self._status, self._snapshot, self._restart = status, snapshot, restart
        self._updates = updates
        self._feedback, self._learn = feedback, personalize
        self._table: dict[str, _Action] = {
            "ping": lambda _: {},
            "status": lambda _: self._status(),
            "snapshot": self._take_snapshot,
            "set": self._set,
            "restart": self._do_restart,
            "model-rollback": self._roll_back,
            "model-pin": self._pin,
            "label": self._label,
            "samples": self._samples,
            "personalize": self._personalize,
        }
        self._local_table = {**self._table, "model-activate": self._activate}

    def loop(self, stop: threading.Event) -> None:
        """Body of the commands thread."""
        while not stop.is_set():
            self._progress.beat("commands")
            inbound = self._inbox.take(1.0)
            if inbound is not None:
                self.handle(inbound)
                stop.wait(_PAUSE_S)

    def handle(self, inbound: Inbound) -> None:
        """Do one command and answer it; nothing that comes in raises."""
        name = _shown(self._topics.command_of(inbound.topic) or "?")[1:-1]
        if inbound.retain:  # a command that lies on the broker would come again at every connection
            _log.warning("command.refused", command=name, reason="retained")
            return
        try:
            data = self._do(self._table, name, inbound.payload)
            reply = Reply(**self._stamp(), command=name, ok=True, data=data)
            _log.info("command.done", command=name)
        except _Refused as exc:
            reply = Reply(**self._stamp(), command=name, ok=False, error=str(exc))
            _log.warning("command.refused", command=name, reason=str(exc))
        if inbound.response_topic and not self._topics.may_answer_on(inbound.response_topic):
            _log.warning("command.answer_refused", command=name, topic=_shown(inbound.response_topic))
        elif inbound.response_topic:
            message = OutboundMessage(topic=inbound.response_topic, payload=encode(reply), in_chain=False)
            self._link.post(message, qos=1, correlation_data=inbound.correlation_data)

    def answer_local(self, request: bytes) -> bytes:
        """The same for a program on this host: `{"command": "model-rollback", "model": "face"}`; an empty request asks
        for the status alone."""
        if not request:
            return msgspec.json.encode(self._status())
        name = "?"
        try:
            name = decode_strict(request, _Request, "schema").command[:_MAX_SHOWN_CHARS]
            reply = Reply(**self._stamp(), command=name, ok=True, data=self._do(self._local_table, name, request))
        except (_Refused, UpdateRefused) as exc:
            reply = Reply(**self._stamp(), command=name, ok=False, error=str(exc))
        return encode(reply)

    def _do(self, table: Mapping[str, _Action], name: str, payload: bytes) -> dict[str, Any]:
        action = table.get(name)
        if action is None:
            raise _Refused(f"unknown command; there are: {', '.join(table)}")
        try:
            command = decode_strict(payload or b"{}", Command, "schema")
        except UpdateRefused as exc:
            raise _Refused(f"the payload is not a command: {exc.detail}") from exc
        return action(command)

    def _pipeline(self, command: Command) -> Pipeline:
        if command.pipeline is None and len(self._pipelines) == 1:
            return next(iter(self._pipelines.values()))
        pipeline = self._pipelines.get(command.pipeline or "")
        if pipeline is None:
            raise _Refused(f"pipeline: expected one of {', '.join(self._pipelines)}, got {_shown(command.pipeline)}")
        return pipeline

    def _take_snapshot(self, command: Command) -> dict[str, Any]:
        pipeline = self._pipeline(command)
        seen = pipeline.last_seen
        if seen is None or seen.picture is None:
            raise _Refused(f"pipeline {pipeline.name} has not seen a picture yet")
        frame, answer = seen.frame, seen.answer
        event_id = secrets.token_hex(8)
        job = SnapshotJob(
            pipeline=pipeline.name,
            image=seen.picture,
            found=answer.found,
            event_id=event_id,
            captured_at_ns=frame.captured_at_ns,
        )
        if not self._snapshot(job):
            raise _Refused("too many snapshots are waiting; try again")
        age_s = (time.monotonic_ns() - frame.captured_ns) / 1e9
        return {"event_id": event_id, "topic": self._topics.snapshots(pipeline.name), "age_s": round(age_s, 3)}

    def _set(self, command: Command) -> dict[str, Any]:
        pipeline = self._pipeline(command)
        if command.enabled is None and command.min_confidence is None:
            raise _Refused("nothing to set: expected enabled (true or false) or min_confidence (0 to 1)")
        if command.enabled is not None:
            pipeline.enabled = command.enabled
        if command.min_confidence is not None:
            pipeline.min_confidence = command.min_confidence
        return {"pipeline": pipeline.name, "enabled": pipeline.enabled, "min_confidence": pipeline.min_confidence}

    def _do_restart(self, _: Command) -> dict[str, Any]:
        self._restart()
        return {}

    def _roll_back(self, command: Command) -> dict[str, Any]:
        return self._with_model(command, lambda update: update.roll_back())

    def _activate(self, command: Command) -> dict[str, Any]:
        if not command.version:
            raise _Refused("version: expected the name of a version that lies on this device")
        version = command.version
        return self._with_model(command, lambda update: update.activate_version(version))

    def _pin(self, command: Command) -> dict[str, Any]:
        if command.pinned is None:
            raise _Refused("pinned: expected true or false")
        pinned = command.pinned
        return {**self._with_model(command, lambda update: update.pin(pinned)), "pinned": pinned}

    def _label(self, command: Command) -> dict[str, Any]:
        pipeline, sample, label, right = self._pipeline(command).name, command.sample, command.label, command.right
        if not sample or (label is None) == (right is None):
            raise _Refused("expected sample (an id), and either label (what it shows) or right (true or false)")
        return self._with_samples(lambda: self._feedback.label(pipeline, sample, label, right))

    def _samples(self, command: Command) -> dict[str, Any]:
        pipeline = self._pipeline(command).name
        return self._with_samples(lambda: self._feedback.send(pipeline, command.max_bytes))

    def _personalize(self, command: Command) -> dict[str, Any]:
        spec = self._pipeline(command).spec
        return self._with_samples(lambda: self._learn(spec))

    def _with_samples(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Have the feedback thread do it; what takes longer is done later, and the log tells how it ended."""
        try:
            return self._feedback.ask(work) or {"started": True}
        except FeedbackRefused as exc:
            raise _Refused(str(exc)) from exc

    def _with_model(self, command: Command, work: Callable[[ModelUpdate], Slot | None]) -> dict[str, Any]:
        """Have the updates thread do it; `version` in the answer is what runs then, if it is done already."""
        updates = self._updates.by_model
        update = next(iter(updates.values())) if command.model is None and len(updates) == 1 else None
        update = update or updates.get(command.model or "")
        if update is None:
            raise _Refused(f"model: expected one of {', '.join(updates)}, got {_shown(command.model)}")
        try:
            slot = self._updates.ask(lambda: work(update) or update.at.running)
        except (UpdateRefused, UpdateFailed) as exc:
            raise _Refused(exc.detail or str(exc)) from exc
        return {"model": update.model, **({"version": slot.version} if slot else {})}
