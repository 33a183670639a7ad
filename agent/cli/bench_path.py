"""The frame path as the daemon runs it, fed from memory: for `bench`."""

import dataclasses
import os
import threading
import time
from pathlib import Path
from typing import Self

from agent.config import Config, device_id
from agent.errors import AgentError
from agent.inference.locate import find_bundle
from agent.inference.protocol import Answer
from agent.mqtt.inbox import Inbox
from agent.mqtt.link import Link
from agent.outbox.delivery import BrokerDelivery
from agent.outbox.store import Outbox, open_outbox
from agent.pipeline import Pipeline, Services, measured, publish_loop
from agent.runtime.clock import Clock
from agent.runtime.health import Health
from agent.runtime.progress import Progress
from agent.updates.activate import make_active
from agent.values import Frame, OutboundMessage, Timing
from agent.wire.messages import Stamp
from agent.wire.topics import Topics

_FRAME_TIMEOUT_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """Means over the frames of one run, in seconds a frame."""

    frame_s: float
    """From one frame to the next."""
    model_s: float
    """Preprocess, invoke and decode in the worker."""
    cpu_s: float
    """Processor time of all processes."""


class _Stopwatch:
    """Between the pipeline and its outbox: when each result was accepted."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._changed = threading.Condition()
        self.accepted_ns: list[int] = []

    def put(self, message: OutboundMessage) -> int:
        message_id = self._outbox.put(message)
        with self._changed:
            self.accepted_ns.append(time.monotonic_ns())
            self._changed.notify_all()
        return message_id

    def wait_for(self, count: int) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.accepted_ns) >= count, _FRAME_TIMEOUT_S):
                raise AgentError("bench: the model does not answer")


class FramePath:
    """Worker, rules, outbox and publish loop of one pipeline. Use as a context manager."""

    def __init__(self, config: Config) -> None:
        self._stop = threading.Event()
        self._model_s = 0.0
        topics = Topics(config.mqtt.prefix, device_id(config))
        self._outbox = open_outbox(
            Path(config.outbox.dir),
            max_bytes=config.outbox.max_bytes,
            max_age_s=config.outbox.max_age,
            durability=config.outbox.durability,
            gap_message=lambda _: OutboundMessage(topics.gap(), b"{}"),
        )
        self._stopwatch = _Stopwatch(self._outbox)
        services = Services(
            topics=topics,
            stamp=Stamp(topics.device, Clock()),
            sink=self._stopwatch,
            snapshot=lambda _: False,
            health=Health(),
            progress=Progress(),
            timing=self._timing,
        )
        spec = config.pipelines[0]
        bundle = find_bundle(Path(config.models.dir), spec.model)
        self._pipeline = Pipeline(spec, services, make_active(spec, bundle, None, self._stop))
        bye = OutboundMessage(topics.status(), b"", in_chain=False, retain=True)
        self._link = Link(config.mqtt, topics.device, will=bye, birth=lambda: bye, topic_filters=[], inbox=Inbox())
        self._outbox.on_put = self._link.wake
        delivery = BrokerDelivery(self._outbox)
        self._threads = [
            threading.Thread(target=self._pipeline.infer_loop, args=(self._stop,), daemon=True),
            threading.Thread(target=self._outbox.sync_loop, args=(self._stop,), daemon=True),
            threading.Thread(
                target=publish_loop,
                args=(delivery, self._link, services.health, services.progress, lambda: bye, self._stop),
                daemon=True,
            ),
        ]

    def __enter__(self) -> Self:
        self._pipeline.active.current()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5.0)
        self._pipeline.active.close()
        self._outbox.close()

    @property
    def broker(self) -> bool:
        """Whether a broker takes the messages."""
        return self._link.connected

    def worker_pids(self) -> list[int]:
        pid = self._pipeline.active.pid
        return [pid] if pid else []

    def _timing(self, answer: Answer, total_ms: float) -> Timing:
        self._model_s += (answer.preprocess_ms + answer.infer_ms + answer.decode_ms) / 1e3
        return measured(answer, total_ms)

    def run(self, frames: list[Frame], count: int) -> Run:
        """Put frames through as fast as they are taken, none dropped."""
        done, self._model_s = len(self._stopwatch.accepted_ns), 0.0
        cpu_s, started_ns = self._cpu_s(), time.monotonic_ns()
        for turn in range(count):
            if not self._pipeline.slot.put_wait(_taken_now(frames[turn % len(frames)]), _FRAME_TIMEOUT_S):
                raise AgentError("bench: the model does not answer")
        self._stopwatch.wait_for(done + count)
        frame_s = (self._stopwatch.accepted_ns[-1] - started_ns) / 1e9 / count
        return Run(frame_s, self._model_s / count, (self._cpu_s() - cpu_s) / count)

    def latencies_ms(self, frames: list[Frame], count: int) -> list[float]:
        """Capture to outbox for single frames, each put in when the one before is through."""
        latencies = []
        for turn in range(count):
            done, frame = len(self._stopwatch.accepted_ns), _taken_now(frames[turn % len(frames)])
            self._pipeline.slot.put(frame)
            self._stopwatch.wait_for(done + 1)
            latencies.append((self._stopwatch.accepted_ns[-1] - frame.captured_ns) / 1e6)
        return latencies

    def _cpu_s(self) -> float:
        """Of this process and its workers so far."""
        return time.process_time() + sum(_process_cpu_s(pid) for pid in self.worker_pids())


def _taken_now(frame: Frame) -> Frame:
    return dataclasses.replace(frame, captured_ns=time.monotonic_ns(), captured_at_ns=time.time_ns())


def _process_cpu_s(pid: int) -> float:
    """utime and stime of proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
