"""Measures how models travel: `python -m tools.bench_transfer [--mb 50] [--json]`, from the root of the repository.

For developers: it needs mosquitto and the tests' simulators. Everything runs on the loopback of this machine.

- fast: one device, which checks each chunk and syncs every 4 MiB, against a bare paho script with the same chunks and
  window that does neither (`bare`), and one that checks each chunk and syncs at the end (`careful`)
- fan-out: 1, 10 and 50 devices on one upload; what the operator sent, and the broker's memory
- slow: time from a result to its PUBACK on a link of 1 MB/s, idle and while a model comes in. The link is a TCP proxy
  that reads at most 16 KiB, sleeps for as long as they take at that rate, and passes them on, each direction for itself
"""

import argparse
import functools
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from agent.config import Mqtt
from agent.mqtt.inbox import Inbox, Router
from agent.mqtt.link import Link
from agent.updates.pull import WINDOW
from agent.updates.receive import ChunkBox, Transfer
from agent.values import OutboundMessage
from agent.wire.releases import CHUNK_BYTES, Archive
from agent.wire.topics import Topics
from tests.sim.broker import Broker
from tests.sim.proxy import FaultProxy

SLOW_BYTES_PER_S = 1_000_000
RESULT_BYTES = 300
RESULT_EVERY_S = 0.02
DEVICES_PER_PROCESS = 10
FAN_OUT_MB = 8
RUNS = 5


@dataclass(frozen=True)
class _Result:
    """A result, as the outbox would hand it out."""

    id: int
    topic: str
    payload: bytes = b"x" * RESULT_BYTES
    retain: bool = False
    content_type: str = "application/json"
    user_properties: tuple[tuple[str, str], ...] = ()


class _Device:
    """A link with a publish thread, and what it receives with."""

    def __init__(self, port: int, name: str) -> None:
        self.topics, self.box = Topics("edge", name), ChunkBox()
        status = OutboundMessage(self.topics.status(), b"{}", in_chain=False)
        inbox = Router(Inbox(), self.topics.command_of, lambda message: self.box.put(message.topic, message.payload))
        config = Mqtt(host="127.0.0.1", port=port)
        self.link = Link(config, name, will=status, birth=lambda: status, topic_filters=[], inbox=inbox)
        self.stop = threading.Event()
        self.results = threading.Event()
        self.latencies_s: list[float] = []
        self._thread = threading.Thread(target=self._publish)

    def __enter__(self) -> Self:
        self.link.connect(10.0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.link.wake()
        self._thread.join()
        self.link.close(None, 2.0)

    def receive(self, archive: Archive, folder: Path, deadline_s: float = float("inf")) -> float:
        """How many seconds it takes."""
        transfer, started_s = Transfer(archive, folder, self.topics, self.link, self.box), time.monotonic()
        while not transfer.step(0.5, lambda: False) and time.monotonic() < deadline_s:
            pass
        transfer.close()
        return time.monotonic() - started_s

    def _publish(self) -> None:
        """A result every 20 ms while `results` is set, one on its way at a time; when it was due counts."""
        number, due_s, topic = 0, 0.0, self.topics.results("door")
        waiting_since_s: float | None = None
        while not self.stop.is_set():
            self.link.pump()
            now_s = time.monotonic()
            if self.link.take_acks() and waiting_since_s is not None:
                self.latencies_s.append(now_s - waiting_since_s)
                waiting_since_s = None
            if self.results.is_set() and waiting_since_s is None and now_s >= due_s:
                number, due_s, waiting_since_s = number + 1, now_s + RESULT_EVERY_S, now_s
                self.link.send(_Result(number, topic))
            wait_s = due_s - now_s if self.results.is_set() and waiting_since_s is None else 0.25
            self.link.wait(max(0.0, wait_s))


# --- processes of their own -------------------------------------------------------------------------------------------


def _ours(port: int, folder: Path, archive: Archive, names: Sequence[str]) -> list[float]:
    """One device after the name; all at the same time."""
    seconds: list[float] = []

    def run(name: str) -> None:
        with _Device(port, name) as device:
            seconds.append(device.receive(archive, folder / name))

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds


def _bare(port: int, folder: Path, archive: Archive, names: Sequence[str], *, careful: bool = False) -> list[float]:
    """The least that a script does: subscribe, write, unsubscribe."""
    done, base = threading.Event(), f"edge/blobs/{archive.sha256}"
    todo, missing = iter(range(archive.chunks)), archive.chunks
    file = os.open(folder / names[0], os.O_RDWR | os.O_CREAT)

    def ask(client: paho.Client) -> None:
        if (index := next(todo, None)) is not None:
            client.subscribe(f"{base}/{index}", 0)

    def on_message(client: paho.Client, _: Any, message: paho.MQTTMessage) -> None:
        nonlocal missing
        client.unsubscribe(message.topic)
        ask(client)
        if careful:
            hashlib.sha256(message.payload).digest()
        os.pwrite(file, message.payload, int(message.topic.rsplit("/", 1)[1]) * CHUNK_BYTES)
        missing -= 1
        if not missing:
            done.set()

    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=names[0], protocol=paho.MQTTv5)
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.loop_start()
    started_s = time.monotonic()
    for _ in range(WINDOW):
        ask(client)
    done.wait()
    if careful:
        os.fdatasync(file)
    seconds = time.monotonic() - started_s
    client.disconnect()
    client.loop_stop()
    return [seconds]


def _latency(port: int, folder: Path, archive: Archive, names: Sequence[str]) -> list[list[float]]:
    """Idle, then with a transfer, for ten seconds each; in milliseconds."""
    with _Device(port, names[0]) as device:
        device.results.set()
        time.sleep(10.0)
        idle, device.latencies_s = device.latencies_s, []
        device.receive(archive, folder, time.monotonic() + 10.0)
        return [[1000 * value for value in values] for values in (idle, device.latencies_s)]


_CHILDREN: dict[str, Callable[..., Any]] = {
    "ours": _ours,
    "bare": _bare,
    "careful": functools.partial(_bare, careful=True),
    "latency": _latency,
}


class _Child:
    """A process of this file that does one of these."""

    def __init__(self, what: str, port: int, folder: Path, archive: Archive, names: Sequence[str]) -> None:
        words = [what, str(port), str(folder), msgspec.json.encode(archive).decode(), ",".join(names)]
        command = [sys.executable, "-m", "tools.bench_transfer", "--child", *words]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)

    def result(self) -> Any:
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise SystemExit(1)
        return json.loads(out)


# --- the three measurements -------------------------------------------------------------------------------------------


def _upload(port: int, data: bytes) -> tuple[Archive, int]:
    """As the operator's tool does; gives what the release would say, and the bytes sent."""
    chunks = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    listed = b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)
    archive = Archive(
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        chunk_list_sha256=hashlib.sha256(listed).hexdigest(),
    )
    with FaultProxy(port) as proxy:
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.connect("127.0.0.1", proxy.port)
        client.loop_start()
        blobs = [
            (archive.chunk_list_sha256, 0, listed),
            *[(archive.sha256, i, chunk) for i, chunk in enumerate(chunks)],
        ]
        waiting = [client.publish(f"edge/blobs/{sha256}/{i}", chunk, 1, retain=True) for sha256, i, chunk in blobs]
        for info in waiting:
            info.wait_for_publish()
        client.disconnect()
        client.loop_stop()
        return archive, proxy.bytes["up"]


def _rss_mb(broker: Any) -> float:
    pid = broker._process.pid  # noqa: SLF001
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def _fast(folder: Path, mb: int) -> dict[str, Any]:
    with Broker(folder / "broker") as broker:
        archive, _ = _upload(broker.port, random.randbytes(mb << 20))
        seconds: dict[str, list[float]] = {"ours": [], "bare": [], "careful": []}
        for run in range(RUNS):
            for what in seconds:
                seconds[what] += _Child(what, broker.port, folder, archive, [f"{what}-{run}"]).result()
    median_s = {what: statistics.median(values) for what, values in seconds.items()}
    ratios = {what: median_s["ours"] / median_s[what] for what in ("bare", "careful")}
    return {"mb": mb, "seconds": seconds, "ratios": ratios}


def _fan_out(folder: Path) -> list[dict[str, Any]]:
    with Broker(folder / "broker") as broker:
        before_mb = _rss_mb(broker)
        archive, sent_bytes = _upload(broker.port, random.randbytes(FAN_OUT_MB << 20))
        uploaded_mb, rows = _rss_mb(broker), []
        for count in (1, 10, 50):
            names = [f"device-{count}-{number}" for number in range(count)]
            groups = [names[start : start + DEVICES_PER_PROCESS] for start in range(0, count, DEVICES_PER_PROCESS)]
            children = [_Child("ours", broker.port, folder, archive, group) for group in groups]
            peak_mb, over = uploaded_mb, threading.Event()

            def watch(over: threading.Event = over) -> None:
                nonlocal peak_mb
                while not over.wait(0.05):
                    peak_mb = max(peak_mb, _rss_mb(broker))

            watcher = threading.Thread(target=watch)
            watcher.start()
            last_s = max(second for child in children for second in child.result())
            over.set()
            watcher.join()
            rows.append(
                {
                    "devices": count,
                    "last_s": last_s,
                    "operator_sent_mb": sent_bytes / (1 << 20),
                    "broker_mb": {"before": before_mb, "uploaded": uploaded_mb, "peak": peak_mb},
                }
            )
    return rows


def _slow(folder: Path) -> dict[str, Any]:
    with Broker(folder / "broker") as broker, FaultProxy(broker.port) as proxy:
        archive, _ = _upload(broker.port, random.randbytes(16 << 20))
        proxy.slow(SLOW_BYTES_PER_S)
        before_bytes = proxy.bytes["down"]
        idle, busy = _Child("latency", proxy.port, folder, archive, ["slow"]).result()
        rate = (proxy.bytes["down"] - before_bytes) / 10.0
    rows = {
        name: {"p50_ms": statistics.median(values), "p99_ms": statistics.quantiles(values, n=100)[98], "n": len(values)}
        for name, values in (("idle", idle), ("transfer", busy))
    }
    return {**rows, "p50_ratio": rows["transfer"]["p50_ms"] / rows["idle"]["p50_ms"], "transfer_bytes_per_s": rate}


def _show(report: dict[str, Any]) -> None:
    fast, slow = report["fast"], report["slow"]
    for what, seconds in fast["seconds"].items():
        print(f"{fast['mb']} MiB, {what:<8} {'  '.join(f'{value:6.2f}' for value in seconds)} s")
    print("".join(f"ours / {what}: {ratio:.2f}  " for what, ratio in fast["ratios"].items()), "\n")
    print(f"{'devices':>8}{'last, s':>9}{'operator, MiB':>15}   broker, MiB: before, uploaded, peak")
    for row in report["fan_out"]:
        memory = ", ".join(f"{value:.1f}" for value in row["broker_mb"].values())
        print(f"{row['devices']:>8}{row['last_s']:>9.1f}{row['operator_sent_mb']:>15.2f}   {memory}")
    print(f"\nresult to PUBACK at 1 MB/s; the transfer takes {slow['transfer_bytes_per_s'] / 1e6:.2f} MB/s of it")
    for name in ("idle", "transfer"):
        print(f"{name:>9}  p50 {slow[name]['p50_ms']:.1f} ms  p99 {slow[name]['p99_ms']:.1f} ms  ({slow[name]['n']})")
    print(f"p50 transfer / idle: {slow['p50_ratio']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how models travel over a broker.")
    parser.add_argument("--mb", type=int, default=50, help="size of the model for the comparison, in MiB")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, port, folder, archive, names = args.child
        body = _CHILDREN[what]
        found = body(int(port), Path(folder), msgspec.json.decode(archive, type=Archive), names.split(","))
        print(json.dumps(found))
        return
    report: dict[str, Any] = {}
    for name, measure in (("fast", lambda at: _fast(at, args.mb)), ("fan_out", _fan_out), ("slow", _slow)):
        with tempfile.TemporaryDirectory() as folder:
            report[name] = measure(Path(folder))
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _show(report)


if __name__ == "__main__":
    main()
