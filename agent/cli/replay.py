"""`edge-agent replay`: recorded frames through the frame path of `run`, every one, in order, without a broker."""

import argparse
import contextlib
import dataclasses
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from agent.capture import make_source
from agent.cli.common import ProgressLine, choose_pipeline, read_config
from agent.config import Config, CsvSource, FileSource, MicrophoneSource, Results, Snapshots, device_id
from agent.config import Pipeline as PipelineSpec
from agent.errors import AgentError
from agent.inference.locate import find_bundle
from agent.inference.protocol import Answer
from agent.inference.worker import warm_up
from agent.outbox.chain import splice
from agent.pipeline import Pipeline, Services
from agent.runtime.clock import Clock, ClockState
from agent.runtime.health import Health
from agent.runtime.progress import Progress
from agent.updates.activate import make_active
from agent.values import OutboundMessage, Timing
from agent.wire.messages import Stamp
from agent.wire.topics import Topics


def main(args: argparse.Namespace) -> int:
    """Write one result message a line. Same input, same bytes: times are positions in the recording, counted from
    1970, `boot` is zero, and no durations are measured."""
    config = read_config(args)
    spec = choose_pipeline(config, args.pipeline)
    warm_up()
    with _output(args.out) as file:
        frames, broken = replay(config, spec, args.source, file)
    print(f"{frames} frames replayed, {broken} broken ones left out", file=sys.stderr)
    return 0


def replay(config: Config, spec: PipelineSpec, path: str, file: BinaryIO) -> tuple[int, int]:
    """Put all frames of a recording through a pipeline; gives how many there were, and how many were broken.

    Raises:
        AgentError: no such bundle or recording, or the model failed.
    """
    source_spec = _recording(spec, path)
    every_frame = msgspec.structs.replace(
        spec,
        source=source_spec,
        results=Results(publish="all", max_per_s=None),
        snapshots=Snapshots(on="none"),
    )
    clock = _RecordedClock()
    sink = _ResultFile(file, Topics(config.mqtt.prefix, device_id(config)).results(spec.name))
    services = Services(
        topics=Topics(config.mqtt.prefix, device_id(config)),
        stamp=Stamp(device_id(config), clock, boot="0" * 16),
        sink=sink,
        snapshot=lambda _: False,
        health=Health(),
        progress=Progress(),
        timing=_not_measured,
    )
    bundle = find_bundle(Path(config.models.dir), spec.model)
    pipeline = Pipeline(every_frame, services, make_active(every_frame, bundle, None, threading.Event()))
    source = make_source(source_spec)
    try:
        pipeline.active.current()  # so that the windows it takes are known
        source.open()
        with ProgressLine("frames") as progress:
            while (captured := source.read()) is not None:
                for frame in pipeline.cut(captured):
                    at_ns = clock.position_ns = frame.position_ns or 0
                    pipeline.process(dataclasses.replace(frame, captured_ns=at_ns, captured_at_ns=at_ns))
                    progress.add()
        return progress.count, source.broken
    finally:
        source.close()
        pipeline.active.close()


def _recording(spec: PipelineSpec, path: str) -> FileSource | CsvSource:
    """The recording as a source; how it is to be read is said by the pipeline's own, where that is of its kind."""
    if Path(path).suffix.lower() != ".csv":
        own_file = spec.source if isinstance(spec.source, FileSource) else FileSource(path=path)
        if isinstance(spec.source, MicrophoneSource):  # of several, one may be silent, or hear something else
            own_file = msgspec.structs.replace(own_file, channel=spec.source.channel)
        return msgspec.structs.replace(own_file, path=path, realtime=False, loop=False)
    own = spec.source if isinstance(spec.source, CsvSource) else CsvSource(path=path)
    return msgspec.structs.replace(own, path=path, realtime=False, loop=False)


class _RecordedClock(Clock):
    """Stands where the recording stands."""

    def __init__(self) -> None:
        super().__init__()
        self.position_ns = 0

    def now_ns(self) -> int:
        return self.position_ns

    def state(self) -> ClockState:
        return "unsynced"


class _ResultFile:
    """Takes results, one a line, chained like the outbox chains them; events are left out."""

    def __init__(self, file: BinaryIO, topic: str) -> None:
        self._file = file
        self._topic = topic
        self._last = 0

    def put(self, message: OutboundMessage) -> int:
        if message.topic == self._topic:
            self._file.write(splice(message.payload, self._last + 1, self._last) + b"\n")
            self._last += 1
        return self._last


def _not_measured(_answer: Answer, _total_ms: float) -> Timing:
    return Timing(0.0, 0.0, 0.0, 0.0)


@contextlib.contextmanager
def _output(name: str) -> Iterator[BinaryIO]:
    """The named file, complete or not there at all; `-` is stdout. A device, a pipe or a link is written as it is: a
    file in the place of /dev/null would harm everybody."""
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path, partial = Path(name), Path(f"{name}.part")
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            with path.open("wb") as file:
                yield file
            return
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as exc:
        if isinstance(exc, AgentError):
            raise
        raise AgentError(f"{exc.filename or name}: {(exc.strerror or str(exc)).lower()}") from exc
    finally:
        partial.unlink(missing_ok=True)
