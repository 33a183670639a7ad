"""`edge-agent check`: everything that `run` needs, tried for real, a line each."""

import argparse
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.capture import make_source, prepare_environment, stall_timeout_s
from agent.capture.discover import discover
from agent.capture.reader import Reader
from agent.capture.windows import Windows
from agent.cli.common import read_config
from agent.cli.discover import summary
from agent.config import Config, MqttSource, device_id
from agent.config import Pipeline as PipelineSpec
from agent.errors import AgentError, ModelError, SourceError, WorkerLost
from agent.inference.locate import find_bundle
from agent.inference.protocol import BundleInfo, window_shape
from agent.inference.worker import Worker, warm_up
from agent.mqtt.certificates import Certificate, read_certificates
from agent.runtime.clock import Clock, rfc3339
from agent.runtime.local import ask
from agent.values import Frame

MIN_FREE_BYTES = 64 << 20
_ONE_AT_A_TIME = frozenset({"camera", "serial", "picamera", "jetson", "microphone", "exec"})
"""Sources that only one program can use, or that should not run twice."""
_CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """What one trial came to."""

    name: str
    ok: bool
    detail: str
    """What was found, or what is wrong and how to mend it."""


def main(args: argparse.Namespace) -> int:
    """0 when all pass, 1 when any fails; a wrong configuration ends with 2 before anything is tried."""
    config = read_config(args)
    prepare_environment([spec.source for spec in config.pipelines])
    warm_up()
    lines = []
    for line in check(config):
        lines.append(line)
        if not args.json:
            print(f"{'ok  ' if line.ok else 'FAIL'}  {line.name}: {line.detail}", flush=True)
    failed = sum(not line.ok for line in lines)
    if args.json:
        print(json.dumps({"ok": not failed, "checks": [asdict(line) for line in lines]}))
    elif failed:
        print(f"{failed} of {len(lines)} failed", file=sys.stderr)
    return 1 if failed else 0


def check(config: Config) -> Iterator[Line]:
    """Try one thing after the other; what fails does not keep the rest from being tried."""
    yield Line("config", True, f"device {device_id(config)}, {len(config.pipelines)} pipelines")
    daemon = _ask_daemon(Path(config.outbox.dir))
    running = daemon is not None
    for spec in config.pipelines:
        loaded: list[BundleInfo] = []
        yield _try(f"model {spec.model}", lambda spec=spec, loaded=loaded: _model(config, spec, loaded))  # type: ignore[misc]
        if running and spec.source.__struct_config__.tag in _ONE_AT_A_TIME:
            yield Line(f"source {spec.name}", True, "in use by the running daemon; see `edge-agent status`")
        elif isinstance(spec.source, MqttSource):
            yield Line(f"source {spec.name}", True, "not tried: only `edge-agent run` connects to its topics")
        else:
            yield _try(f"source {spec.name}", lambda spec=spec, loaded=loaded: _source(spec, loaded))  # type: ignore[misc]
    if certificates := read_certificates(config.mqtt):
        yield _try("certificates", lambda: _certificates(certificates, config.mqtt.tls.warn_before))
    if daemon and daemon["mqtt"]["connected"]:
        yield Line("broker", True, "in use by the running daemon, which is connected; not tried besides")
    else:
        yield _try("broker", lambda: _broker(config))
    if config.models.trust is not None:
        yield _try("trust", lambda: _trust(config))
    yield _try("outbox", lambda: _outbox(Path(config.outbox.dir), running=running))
    if any(spec.feedback.keep != "none" for spec in config.pipelines):
        yield _try("samples", lambda: _writable(Path(config.samples.dir), "samples.dir"))
    yield _try("disk", lambda: _disk(Path(config.outbox.dir)))
    yield _clock()
    yield Line("devices", True, summary(discover()))


def _try(name: str, trial: Callable[[], str]) -> Line:
    try:
        return Line(name, True, trial())
    except (AgentError, OSError) as exc:
        return Line(name, False, str(exc))


def _ask_daemon(folder: Path) -> dict[str, Any] | None:
    """What `edge-agent status` shows; None when no daemon runs."""
    try:
        return dict(json.loads(ask(folder)))
    except OSError:
        return None


def _model(config: Config, spec: PipelineSpec, loaded: list[BundleInfo]) -> str:
    if config.models.trust is not None and not (Path(config.models.dir) / spec.model / "current").exists():
        return "not there yet; `run` waits for a release that brings it"
    folder = find_bundle(Path(config.models.dir), spec.model)
    worker = Worker(
        folder, threads=spec.threads, delegate=spec.delegate, timeout_s=spec.infer_timeout_s, stop=threading.Event()
    )
    try:
        info = worker.start()
        silence = np.zeros(window_shape(info.window), np.float32) if info.window else None
        answer = worker.run(np.full((480, 640, 3), 128, np.uint8) if silence is None else silence, spec.min_confidence)
    except WorkerLost as exc:
        raise ModelError(f"{folder}: {exc}; try `edge-agent inspect {folder / 'model.tflite'}`") from exc
    finally:
        worker.close()
    loaded.append(info)
    text = f"{info.name} {info.version} answers in {answer.infer_ms:.1f} ms on {info.runtime}"
    return f"{text}; {info.warning}" if info.warning else text


def _source(spec: PipelineSpec, loaded: list[BundleInfo]) -> str:
    frames: list[Frame] = []
    enough = threading.Event()

    def keep(frame: Frame) -> None:
        frames.append(frame)
        enough.set()

    reader = Reader(lambda: make_source(spec.source), keep)
    reader.start()
    reader.watch(enough, stall_timeout_s(spec.source))
    if not frames:
        raise SourceError("ended without a frame")
    for info in loaded:
        _fit(frames[0], info)
    if frames[0].channels:
        return f"gives samples of {', '.join(frames[0].channels)}"
    height, width = frames[0].data.shape[:2]
    return f"gives frames, {width}x{height}"


def _fit(frame: Frame, info: BundleInfo) -> None:
    """Raises SourceError: the model takes something else than the source gives."""
    if info.window is None and frame.channels:
        raise SourceError(f"model {info.name} takes pictures, and the source gives {', '.join(frame.channels)}")
    if info.window is not None and not frame.channels:
        raise SourceError(f"model {info.name} takes samples, and the source gives pictures")
    if info.window is not None:
        list(Windows().cut(frame, info.window))


def _trust(config: Config) -> str:
    from agent.updates.trust import TrustStore

    document = TrustStore(Path(str(config.models.trust)), Path(config.models.dir)).current().document
    return f"{config.models.trust}: fleet {document.fleet}, version {document.version}"


def _certificates(certificates: list[Certificate], warn_before_s: float) -> str:
    now_ns, said = time.time_ns(), []
    for one in certificates:
        complaint = one.complaint(now_ns, warn_before_s)
        if complaint and one.days_left(now_ns) <= 0:
            raise AgentError(complaint)
        known = one.ends_at and f"{one.path} ends in {one.days_left(now_ns):.0f} days, at {one.ends_at}"
        said.append(complaint or known or f"{one.path}: can't be read, or has no end that can")
    return "; ".join(said)


def _broker(config: Config) -> str:
    from agent.mqtt.probe import probe

    seconds = probe(config.mqtt, device_id(config), timeout_s=_CONNECT_TIMEOUT_S)
    return f"{config.mqtt.host}:{config.mqtt.port} accepts us in {seconds * 1e3:.0f} ms"


def _outbox(folder: Path, *, running: bool) -> str:
    if running:
        return f"{folder}: in use by the running daemon"
    return _writable(folder, "outbox.dir")


def _writable(folder: Path, key: str) -> str:
    """A folder of the daemon, named by `key`."""
    if not folder.exists():  # made here it would belong to whoever checks, which need not be the service's user
        above = _nearest(folder)
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise AgentError(f"{folder}: can't be made in {above}; make it for uid {os.getuid()}, or set {key}")
        return f"{folder}: not there yet, `run` makes it"
    if not folder.is_dir():
        raise AgentError(f"{folder}: is a file; name a folder as {key}, or move the file away")
    probe = folder / f".check-{os.getpid()}"
    try:
        probe.write_bytes(b"x")
    except OSError as exc:
        raise AgentError(
            f"{folder}: {(exc.strerror or '').lower()}; make it writable for uid {os.getuid()}, or set {key}"
        ) from exc
    finally:
        probe.unlink(missing_ok=True)
    return f"{folder}: writable"


def _nearest(folder: Path) -> Path:
    """The folder, or what is there of the way to it."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _disk(folder: Path) -> str:
    free = shutil.disk_usage(_nearest(folder)).free
    if free < MIN_FREE_BYTES:
        raise AgentError(
            f"{folder}: {free >> 20} MiB free, expected {MIN_FREE_BYTES >> 20}; make room or move outbox.dir"
        )
    return f"{free >> 20} MiB free"


def _clock() -> Line:
    """Never a failure: messages say `unsynced`, and nothing else depends on it."""
    clock = Clock()
    state = clock.state()
    mend = "" if state == "synced" else "; messages will say so; start a time service such as systemd-timesyncd"
    return Line("clock", True, f"{rfc3339(clock.now_ns())}, {state}{mend}")
