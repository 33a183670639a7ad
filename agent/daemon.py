"""Builds everything from the configuration, runs the threads, and stops them in order.

| thread             | body                      | waits in                     | at stop                             |
|--------------------|---------------------------|------------------------------|-------------------------------------|
| capture.{pipeline} | Pipeline.capture_loop     | the reader's watch           | leaves the source, closed or not    |
| infer.{pipeline}   | Pipeline.infer_loop       | the slot, the worker's socket| finishes or gives up the frame      |
| publish            | publish_loop              | the broker's socket, a wake  | leaves the rest on the disk         |
| sync               | Outbox.sync_loop          | a second                     | a last sync in Outbox.close         |
| snapshots          | SnapshotMaker.loop        | its queue                    | makes what is in it                 |
| feedback           | FeedbackService.loop      | its queue                    | writes what is in it                |
| commands           | Commands.loop             | the inbox                    | -                                   |
| updates            | UpdateService.loop        | its news, a worker on trial  | leaves the rest for the next start  |
| telemetry          | reporter loop             | the interval                 | -                                   |
| gps (if enabled)   | GpsReader.loop            | gpsd's socket                | closes the connection               |
| status             | answer_loop               | its socket                   | removes the socket                  |
| main               | Supervisor.run            | the first to end             | joins all under one deadline        |

Beside them: the readers that sources run in; they may hang in a driver, and are left behind then.
"""

import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import structlog

from agent import __version__
from agent.capture import prepare_environment
from agent.commands import Commands
from agent.config import Config, device_id
from agent.errors import AgentError, OutboxError
from agent.events.snapshot import SnapshotJob, SnapshotMaker
from agent.feedback.service import FeedbackService
from agent.inference.worker import tidy_up
from agent.mqtt.certificates import LoginFiles
from agent.mqtt.feeds import Feeds
from agent.mqtt.inbox import Inbound, Inbox, Router
from agent.mqtt.link import Link
from agent.outbox.chain import Gap as EvictedGap
from agent.outbox.delivery import BrokerDelivery, CollectorDelivery
from agent.outbox.store import open_outbox
from agent.pipeline import Pipeline, Services, publish_loop
from agent.runtime.clock import Clock, rfc3339
from agent.runtime.health import Health
from agent.runtime.local import answer_loop
from agent.runtime.notify import Notifier
from agent.runtime.progress import Progress
from agent.runtime.safemode import SAFE_MODE_REASON, SafeMode
from agent.runtime.starts import StartCounter
from agent.runtime.supervisor import Supervisor
from agent.telemetry import device
from agent.telemetry.gps import GpsReader
from agent.telemetry.reporter import report_loop
from agent.updates.personal import Personalizer
from agent.updates.service import make_update_service, release_topics
from agent.values import OutboundMessage
from agent.wire.messages import (
    Gap,
    ModelState,
    MqttTelemetry,
    OutboxTelemetry,
    Stamp,
    Status,
    Telemetry,
    encode,
)
from agent.wire.topics import Topics

_STOP_S = 8.0
"""What the threads get to end in, together; with what follows, the daemon stops within ten seconds."""

_log = structlog.get_logger()


class Daemon:
    """The agent. Building it opens the outbox and starts nothing; `run` does all the rest."""

    def __init__(self, config: Config) -> None:
        """Raises ConfigError, ModelError (no such bundle) or OutboxError."""
        self.config = config
        self.restart_wanted = False
        self._stop = threading.Event()
        self._supervisor = Supervisor(self._stop)
        self._notifier = Notifier()
        self._ready = self._asked_to_stop = False
        self._clock = Clock()
        self._stamp = Stamp(device_id(config), self._clock)
        self._topics = Topics(config.mqtt.prefix, self._stamp.device, config.device.groups)
        self._started_ns = time.monotonic_ns()
        self._started_at = rfc3339(self._clock.now_ns())
        self._health = Health(on_change=self._tell_status)
        self._progress = Progress()
        self._usage = device.DeviceReader(disk_of=Path(config.outbox.dir), interval_s=config.telemetry.interval_s)
        self._gps = GpsReader(config.gps, self._health)
        prepare_environment(spec.source for spec in config.pipelines)
        self._outbox = open_outbox(
            Path(config.outbox.dir),
            max_bytes=config.outbox.max_bytes,
            max_age_s=config.outbox.max_age,
            durability=config.outbox.durability,
            gap_message=self._gap_message,
            keep_bytes=config.outbox.keep_sent,
        )
        self._by_collector = (
            CollectorDelivery(self._outbox, config.outbox.resend_after, self._health)
            if config.outbox.trim == "collector"
            else None
        )
        tidy_up(Path(config.outbox.dir))
        self._snapshots = SnapshotMaker(
            {spec.name: spec.snapshots for spec in config.pipelines}, deliver=self._deliver_snapshot
        )
        self._inbox = Inbox()
        self._link = self._make_link()
        self._login_files = LoginFiles(config.mqtt, self._health)
        self._feeds = Feeds(self._link)
        self._feedback = FeedbackService(config, self._topics, self._outbox, self._health)
        self._outbox.on_put = self._link.wake
        self._updates = make_update_service(
            config, self._stamp, self._clock, self._link, self._tell_model_state, self._progress, self._stop
        )
        self._pipelines = self._make_pipelines()
        starts = StartCounter(Path(config.outbox.dir), repr(config))
        self._safe_mode = SafeMode(starts, config.models.healthy_after_s, self._allow_inference)
        self._updates.attach(self._pipelines.values(), self._safe_mode.leave)

    def _make_link(self) -> Link:
        acks = [self._topics.ack()] if self._by_collector else []
        return Link(
            self.config.mqtt,
            self._stamp.device,
            will=self._status_message("offline"),
            birth=self._status_message,
            # Acknowledgements also live: nothing retained is asked for after a packet that can't be read.
            topic_filters=[*self._topics.command_filters(), *acks],
            retained_filters=[*release_topics(self.config, self._topics), *acks],
            inbox=Router(self._inbox, self._topics.command_of, self._take_in),
            broker_keeps=self._by_collector is None,
        )

    def _make_pipelines(self) -> dict[str, Pipeline]:
        """Raises ModelError when there is no bundle, and no release could bring one."""
        services = Services(
            topics=self._topics,
            stamp=self._stamp,
            sink=self._outbox,
            snapshot=self._snapshots.submit,
            health=self._health,
            progress=self._progress,
            subscribe=self._feeds.subscribe,
            position=self._gps.current,
            keep=self._feedback.keep,
        )
        needs_model = self.config.models.trust is None
        return {
            spec.name: Pipeline(spec, services, self._updates.make_active(spec), needs_model=needs_model)
            for spec in self.config.pipelines
        }

    # --- running -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until a signal, a `restart` command, or the first thread that fails.

        Raises:
            AgentError: what ended the daemon, other than being asked to stop.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        for name, body in self._threads():
            self._supervisor.add(name, body)
        self._safe_mode.begin()
        _log.info("daemon.started", device=self._stamp.device, version=__version__, pid=os.getpid())
        try:
            ending = self._supervisor.run(self._tick, tick_s=min(1.0, self._notifier.watchdog_s or 1.0), join_s=_STOP_S)
        finally:
            self._notifier.stopping()
            for pipeline in self._pipelines.values():
                pipeline.active.close()
            self._outbox.close()
            _log.info("daemon.stopped")
        if ending.error is not None:
            raise ending.error
        if ending.by is not None:
            raise AgentError(f"the thread {ending.by} ended by itself; please report this")
        self._safe_mode.good()

    def _threads(self) -> list[tuple[str, Callable[[threading.Event], None]]]:
        threads: list[tuple[str, Callable[[threading.Event], None]]] = []
        for name, pipeline in self._pipelines.items():
            threads += [(f"infer.{name}", pipeline.infer_loop), (f"capture.{name}", pipeline.capture_loop)]
        commands = Commands(
            self._pipelines,
            inbox=self._inbox,
            link=self._link,
            topics=self._topics,
            stamp=self._stamp,
            progress=self._progress,
            status=self.status,
            snapshot=self._snapshots.submit,
            restart=self._restart,
            updates=self._updates,
            feedback=self._feedback,
            personalize=Personalizer(self._updates, self._feedback, self._stop).personalize,
        )
        publish = functools.partial(
            publish_loop,
            self._by_collector or BrokerDelivery(self._outbox),
            self._link,
            self._health,
            self._progress,
            functools.partial(self._status_message, "offline"),
        )
        telemetry = functools.partial(report_loop, self.config.telemetry.interval_s, self._report)
        answers = functools.partial(answer_loop, Path(self.config.outbox.dir), commands.answer_local)
        if self.config.gps.enabled:
            threads.append(("gps", self._gps.loop))
        return [
            *threads,
            ("publish", publish),
            ("sync", self._outbox.sync_loop),
            ("snapshots", self._snapshots.loop),
            ("feedback", self._feedback.loop),
            ("commands", commands.loop),
            ("updates", self._updates.loop),
            ("telemetry", telemetry),
            ("status", answers),
        ]

    def _tick(self) -> None:
        """Once a second: tell systemd that we are ready, and that we live while every loop shows signs of life."""
        if not self._ready and all(pipeline.ready.is_set() for pipeline in self._pipelines.values()):
            self._ready = True
            self._notifier.ready()
        self._safe_mode.tick()
        stuck = self._progress.stuck()
        if stuck:
            self._health.lost("watchdog", f"no sign of life from {', '.join(stuck)}")
        else:
            self._health.recovered("watchdog")
            self._notifier.watchdog()
            self._notifier.status("; ".join(self._health.reasons()) or "all pipelines run")

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._asked_to_stop:
            os._exit(128 + number)  # asked twice: now
        self._asked_to_stop = True
        self.restart_wanted = False
        self._supervisor.request_stop()

    def _restart(self) -> None:
        self.restart_wanted = True
        timer = threading.Timer(0.5, self._supervisor.request_stop)  # so that the answer still goes out
        timer.daemon = True
        timer.start()

    # --- what it says of itself ----------------------------------------------------------------------------------

    def _tell_status(self) -> None:
        self._link.post(self._status_message(), qos=1)

    def _status_message(self, state: str | None = None) -> OutboundMessage:
        reasons = self._health.reasons()
        status = Status(
            **self._stamp(),
            state=state or ("degraded" if reasons else "online"),  # type: ignore[arg-type]
            reasons=[] if state else reasons,
            version=__version__,
            started_at=self._started_at,
        )
        return OutboundMessage(self._topics.status(), encode(status), in_chain=False, retain=True)

    def _take_in(self, message: Inbound) -> None:
        if self._by_collector and message.topic == self._topics.ack():
            self._by_collector.take_in(message.payload)
        # Releases are for updates, also where a source asks for their topic.
        elif self._topics.release_of(message.topic) or not self._feeds.put(message):
            self._updates.take_in(message)

    def _allow_inference(self, allowed: bool) -> None:
        """Start without inference where start after start has ended badly, and end that."""
        for pipeline in self._pipelines.values():
            pipeline.held = not allowed
        if allowed:
            self._health.recovered("inference")
        else:
            self._health.lost("inference", SAFE_MODE_REASON)

    def _tell_model_state(self, message: ModelState) -> None:
        try:
            self._outbox.put(OutboundMessage(self._topics.model_state(message.model), encode(message), retain=True))
        except OutboxError as exc:
            self._health.lost("outbox", str(exc))

    def _gap_message(self, gap: EvictedGap) -> OutboundMessage:
        message = Gap(**self._stamp(), from_=gap.from_, to=gap.to, count=gap.count, reason=gap.reason)
        return OutboundMessage(self._topics.gap(), encode(message))

    def _deliver_snapshot(self, job: SnapshotJob, jpeg: bytes, size_wh: tuple[int, int]) -> None:
        properties = (
            ("event_id", job.event_id),
            ("captured_at", rfc3339(job.captured_at_ns)),
            ("width_px", str(size_wh[0])),
            ("height_px", str(size_wh[1])),
        )
        topic = self._topics.snapshots(job.pipeline)
        try:
            self._outbox.put(
                OutboundMessage(topic, jpeg, in_chain=False, content_type="image/jpeg", user_properties=properties)
            )
        except OutboxError as exc:
            self._health.lost("outbox", str(exc))

    def _report(self) -> None:
        self._login_files.look(connected=self._link.connected)
        message = Telemetry(**self._stamp(), **self._numbers())
        self._link.post(OutboundMessage(self._topics.telemetry(), encode(message), in_chain=False), qos=0)

    def _numbers(self) -> dict[str, Any]:
        outbox = self._outbox.stats()
        position = self._gps.current()
        pids = [pid for pipeline in self._pipelines.values() if (pid := pipeline.active.pid)]
        return {
            "uptime_s": round((time.monotonic_ns() - self._started_ns) / 1e9, 1),
            "pipelines": {
                name: pipeline.telemetry(self.config.telemetry.interval_s, self._feedback.telemetry(name))
                for name, pipeline in self._pipelines.items()
            },
            "outbox": OutboxTelemetry(
                pending=outbox.pending, bytes=outbox.bytes, dropped=outbox.dropped, damaged=outbox.damaged
            ),
            "host": self._usage.host(),
            "process": self._usage.process(pids),
            "mqtt": MqttTelemetry(
                connects=self._link.connects,
                refused=self._link.refused,
                no_subscribers=self._link.no_subscribers,
                commands_dropped=self._inbox.dropped,
                last_error=self._link.last_error,
                **self._login_files.telemetry(),
            ),
            "snapshots_dropped": self._snapshots.dropped,
            **({"position": position} if position else {}),
        }

    def status(self) -> dict[str, Any]:
        """Everything that `edge-agent status` shows, as plain values."""
        reasons = self._health.reasons()
        numbers = self._numbers()
        models = {name: p.active.info for name, p in self._pipelines.items() if p.active.info}
        with_connection = {**msgspec.to_builtins(numbers["mqtt"]), "connected": self._link.connected}
        return msgspec.to_builtins(  # type: ignore[no-any-return]
            {
                **self._stamp(),
                "state": "degraded" if reasons else "online",
                "reasons": reasons,
                "version": __version__,
                "started_at": self._started_at,
                "pid": os.getpid(),
                **numbers,
                "mqtt": with_connection,
                "models": models,
                "model_states": {state.model: state for state in self._updates.states()},
                "last_errors": self._health.last_errors(),
            }
        )
