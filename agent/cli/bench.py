"""`edge-agent bench`: what this machine reaches with the configured source and model, as ratios of one run.

Two ways of looking at the same frames take turns, so that a noisy machine is noisy to both: a bare loop of preprocess,
invoke and decode, which is what the hardware allows, and the frame path of the daemon with worker, outbox and broker.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from agent.capture import make_source, prepare_environment, stall_timeout_s
from agent.capture.reader import Reader
from agent.capture.windows import Windows
from agent.cli.common import choose_pipeline, read_config, running_daemon
from agent.config import Config, Events, Results, Snapshots
from agent.config import Pipeline as PipelineSpec
from agent.errors import SourceError
from agent.inference.bundle import Bundle, load_bundle
from agent.inference.locate import find_bundle
from agent.inference.worker import warm_up
from agent.telemetry.device import DeviceReader
from agent.values import Frame, Window

MAX_FRAMES = 60
"""Frames kept in memory: enough that they do not all stay in the processor's cache."""
MAX_FRAME_BYTES = 128 << 20
_ROUND_S = 0.5
_START_TIMEOUT_S = 60.0


def main(args: argparse.Namespace) -> int:
    """Measure and print."""
    config = read_config(args)
    spec = choose_pipeline(config, args.pipeline)
    prepare_environment([spec.source])
    sys.setswitchinterval(1e-4)  # as `run` does
    warm_up()
    folder = find_bundle(Path(config.models.dir), spec.model)
    bundle = load_bundle(folder, threads=spec.threads, delegate=spec.delegate)
    _say(args, f"bench: taking frames from {spec.source.__struct_config__.tag}")
    frames = take_frames(spec, bundle.info.window)
    _say(args, f"bench: {len(frames)} frames; measuring for {args.seconds:g} s")
    with tempfile.TemporaryDirectory(prefix="edge-agent-bench-") as scratch:
        report = measure(_bench_config(config, spec, Path(scratch)), bundle, frames, args.seconds)
        _say(args, "bench: starting a daemon")
        report["start_ms"] = start_ms(_bench_config(config, spec, Path(scratch) / "start"), Path(scratch))
    report["runtime"] = dataclasses.asdict(bundle.interpreter.runtime)
    print(json.dumps(report) if args.json else format_report(report))
    return 0


def _say(args: argparse.Namespace, text: str) -> None:
    if not args.json and sys.stderr.isatty():
        print(text, file=sys.stderr)


def _bench_config(config: Config, spec: PipelineSpec, folder: Path) -> Config:
    """The configuration with one pipeline that publishes every result, an outbox of its own and a name of its own."""
    device = config.device.id or "bench"
    everything = msgspec.structs.replace(
        spec,
        enabled=True,
        results=Results(publish="all", max_per_s=None),
        events=Events(min_frames=1000),
        snapshots=Snapshots(on="none"),
    )
    return msgspec.structs.replace(
        config,
        device=msgspec.structs.replace(config.device, id=f"{device[:56]}-bench", groups=()),
        models=msgspec.structs.replace(config.models, dir=str(Path(config.models.dir).resolve())),
        pipelines=(everything,),
        outbox=msgspec.structs.replace(config.outbox, dir=str(folder / "outbox")),
    )


def take_frames(spec: PipelineSpec, window: Window | None) -> list[Frame]:
    """Some frames of the configured source: decoded pictures, or the windows of samples that the model takes.

    Raises:
        SourceError: it gives none within its deadlines.
    """
    frames: list[Frame] = []
    enough = threading.Event()

    windows = Windows()

    def take_in(captured: Frame) -> None:
        for frame in windows.cut(captured, window) if window and captured.channels else [captured]:
            keep(frame)

    def keep(frame: Frame) -> None:
        if len(frames) * frame.data.nbytes < MAX_FRAME_BYTES and len(frames) < MAX_FRAMES:
            frames.append(frame)
        else:
            enough.set()

    source = spec.source
    if hasattr(source, "realtime"):
        source = msgspec.structs.replace(source, realtime=False)
    reader = Reader(lambda: make_source(source), take_in)
    timer = threading.Timer(10.0, enough.set)
    timer.daemon = True
    timer.start()
    reader.start()
    reader.watch(enough, stall_timeout_s(source))
    timer.cancel()
    if not frames:
        raise SourceError("the source gave no frame within 10 s")
    return frames


@dataclasses.dataclass(slots=True)
class _Round:
    """One turn of both ways."""

    bound_fps: float
    pipeline_fps: float
    overhead_us: float
    cpu_s_per_frame: float


def measure(config: Config, bundle: Bundle, frames: list[Frame], seconds: float) -> dict[str, Any]:
    """Alternate between the bare loop and the frame path until the time is over; medians over the turns."""
    from agent.cli.bench_path import FramePath

    min_confidence = config.pipelines[0].min_confidence
    count = max(3, int(_ROUND_S / max(_bare_s(bundle, frames, 3, min_confidence), 1e-4)))
    rounds: list[_Round] = []
    latencies_ms: list[float] = []
    invoke_ms: list[float] = []
    with FramePath(config) as path:
        path.run(frames, 5)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or len(rounds) < 3:
            bare_s = _bare_s(bundle, frames, count, min_confidence)
            run = path.run(frames, count)
            rounds.append(_Round(1 / bare_s, 1 / run.frame_s, (run.frame_s - run.model_s) * 1e6, run.cpu_s))
            latencies_ms += path.latencies_ms(frames, max(3, count // 4))
            invoke_ms.append(_invoke_ms(bundle, max(3, count // 4)))
        rss_bytes = DeviceReader(disk_of=Path(config.outbox.dir)).process(path.worker_pids()).rss_bytes
        broker = path.broker
    latencies_ms.sort()
    return {
        "invoke_ms": round(statistics.median(invoke_ms), 3),
        "bound_fps": round(statistics.median(r.bound_fps for r in rounds), 1),
        "pipeline_fps": round(statistics.median(r.pipeline_fps for r in rounds), 1),
        "ratio": round(statistics.median(r.pipeline_fps / r.bound_fps for r in rounds), 3),
        "latency_ms": {
            "p50": round(latencies_ms[len(latencies_ms) // 2], 2),
            "p99": round(latencies_ms[int(len(latencies_ms) * 0.99)], 2),
        },
        "overhead_us": round(statistics.median(r.overhead_us for r in rounds)),
        "cpu_s_per_frame": round(statistics.median(r.cpu_s_per_frame for r in rounds), 6),
        "rss_bytes": rss_bytes,
        "broker": broker,
        "rounds": len(rounds),
    }


def _bare_s(bundle: Bundle, frames: list[Frame], count: int, min_confidence: float) -> float:
    """Seconds a frame of preprocess, invoke and decode alone, on frames that are already decoded."""
    started = time.perf_counter()
    for turn in range(count):
        bundle.run(frames[turn % len(frames)].data, min_confidence)
    return (time.perf_counter() - started) / count


def _invoke_ms(bundle: Bundle, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        bundle.interpreter.invoke()
    return (time.perf_counter() - started) / count * 1e3


def start_ms(config: Config, scratch: Path) -> float | None:
    """From the start of a daemon's process to its first result in the outbox; without a broker, so that it stays there.

    None when there was none within a minute.
    """
    outbox = Path(config.outbox.dir)
    outbox.parent.mkdir(parents=True, exist_ok=True)
    alone = msgspec.structs.replace(config, mqtt=msgspec.structs.replace(config.mqtt, host="127.0.0.1", port=9))
    file = scratch / "start.json"
    file.write_bytes(msgspec.json.encode(alone, enc_hook=float))
    started = time.monotonic()
    with running_daemon(file, quiet=True):
        while time.monotonic() - started < _START_TIMEOUT_S:
            if any(b"edge.result/" in path.read_bytes() for path in outbox.glob("*.seg")):
                return round((time.monotonic() - started) * 1e3)
            time.sleep(0.005)
    return None


def format_report(report: dict[str, Any]) -> str:
    """The figures for people."""
    latency, runtime = report["latency_ms"], report["runtime"]
    start = f"{report['start_ms']} ms" if report["start_ms"] is not None else "no result within a minute"
    return "\n".join(
        [
            f"model alone          {report['invoke_ms']:.2f} ms an invoke",
            f"bare loop            {report['bound_fps']:.1f} frames/s (preprocess, invoke, decode)",
            f"frame path           {report['pipeline_fps']:.1f} frames/s, with worker, outbox and "
            + ("broker" if report["broker"] else "no broker (none answers)"),
            f"ratio                {report['ratio']:.3f}",
            f"overhead             {report['overhead_us']} us a frame beside preprocess, invoke and decode",
            f"latency              p50 {latency['p50']} ms, p99 {latency['p99']} ms, capture to outbox",
            f"processor time       {report['cpu_s_per_frame'] * 1e3:.2f} ms a frame, all processes",
            f"memory               {report['rss_bytes'] / 2**20:.0f} MiB, all processes",
            f"start to result      {start}",
            f"runtime              {runtime['package']} {runtime['version']}, {runtime['threads']} threads, "
            f"delegate {runtime['delegate'] or 'none'}",
        ]
    )
