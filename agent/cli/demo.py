"""`edge-agent demo`: an embedded broker, a daemon on the bundled clip, and what it says, as it arrives over MQTT."""

import argparse
import contextlib
import json
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import agent
from agent.cli.common import DEFAULT_CONFIGS, running, running_daemon
from agent.config import Mqtt, load_config
from agent.errors import AgentError, LinkDown, ModelError
from agent.inference.locate import find_bundle
from agent.logs import configure_logs
from agent.mqtt.inbox import Inbound, Inbox
from agent.mqtt.link import Link
from agent.values import OutboundMessage

_PACKAGE = Path(agent.__file__).parent
_MODEL = "face"

CONFIG = """\
# What `edge-agent demo` runs: an ordinary configuration of an ordinary daemon.
device: {{id: demo}}
mqtt: {{host: 127.0.0.1, port: {port}}}
models: {{dir: {models}}}
pipelines:
  - name: door
    source: {{type: file, path: {clip}, loop: true}}
    model: face
    min_confidence: 0.6
    results: {{publish: all, max_per_s: null}}
    events: {{cooldown_s: 2}}
outbox: {{dir: {folder}/outbox}}
telemetry: {{interval_s: 5}}
log: {{level: warning}}
"""


def main(args: argparse.Namespace) -> int:
    """Run until Ctrl-C, or for the given time."""
    configure_logs("error", "auto")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, and leaves no daemon behind
    models = _models_dir(args)
    with tempfile.TemporaryDirectory(prefix="edge-agent-demo-") as folder, _broker() as port:
        config_file = Path(folder) / "config.yaml"
        clip = json.dumps(str(_PACKAGE / "demo" / "face.mp4"))
        text = CONFIG.format(port=port, models=json.dumps(str(models)), clip=clip, folder=folder)
        config_file.write_text(text, encoding="utf-8")
        print(f"broker on 127.0.0.1:{port}, daemon with {config_file}")
        print(f"another look at it: mosquitto_sub -V 5 -p {port} -t 'edge/#' -v   (Ctrl-C ends the demo)")
        with running_daemon(config_file) as daemon, contextlib.suppress(KeyboardInterrupt):
            _watch(load_config(config_file).mqtt, daemon, args.seconds)
    print("ended")
    return 0


def _models_dir(args: argparse.Namespace) -> Path:
    """Where the face model is: in the configured folder, or in the checkout that this program runs from.

    Raises:
        ModelError: it has not been fetched.
    """
    folders = [_PACKAGE.parent / "models"]
    if args.config is not None or DEFAULT_CONFIGS[0].exists():
        folders.insert(0, Path(load_config(Path(args.config or DEFAULT_CONFIGS[0])).models.dir).resolve())
    for folder in folders:
        with contextlib.suppress(ModelError):
            if (find_bundle(folder, _MODEL) / "model.tflite").is_file():
                return folder
    raise ModelError(f"the model {_MODEL} is not in {folders[-1]}; `make models` in a checkout fetches it (229 kB)")


@contextlib.contextmanager
def _broker() -> Iterator[int]:
    """An embedded MQTT 5 broker on a free loopback port; mosquitto serves as well where that is not installed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="edge-agent-broker-") as folder:
        try:
            from iotcore import Broker
        except ImportError:
            with _mosquitto(Path(folder), port):
                yield port
            return
        config = Path(folder) / "rumqttd.toml"
        config.write_text(_RUMQTTD.format(port=port), encoding="utf-8")
        with Broker(config_path=str(config)):
            yield port


_RUMQTTD = """\
id = 0
[router]
id = 0
max_connections = 64
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 100
dynamic_filters = true
"""


@contextlib.contextmanager
def _mosquitto(folder: Path, port: int) -> Iterator[None]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        raise AgentError("no embedded broker; `pip install 'edge-agent[demo]'` brings one")
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n", encoding="utf-8")
    with running([program, "-c", str(config)], quiet=True):
        yield


def _watch(config: Mqtt, daemon: subprocess.Popen[bytes], seconds: float | None) -> None:
    """Print what arrives until the time is over or the daemon ends."""
    inbox = Inbox()
    here = OutboundMessage(f"{config.prefix}/viewers/demo", b"", in_chain=False, retain=True)
    link = Link(
        config, "demo-viewer", will=here, birth=lambda: here, topic_filters=[f"{config.prefix}/devices/#"], inbox=inbox
    )
    stop = threading.Event()
    receiver = threading.Thread(target=_receive, args=(link, stop), daemon=True)
    receiver.start()
    deadline_s = time.monotonic() + seconds if seconds is not None else float("inf")
    try:
        while time.monotonic() < deadline_s:
            inbound = inbox.take(0.5)
            if inbound is not None and (line := describe(inbound)):
                print(line, flush=True)
            if inbound is None and daemon.poll() is not None:
                raise AgentError(f"the daemon ended with exit code {daemon.returncode}")
    finally:
        stop.set()
        receiver.join(3.0)


def _receive(link: Link, stop: threading.Event) -> None:
    """Body of the viewer's thread."""
    while not stop.is_set():
        with contextlib.suppress(LinkDown):
            link.connect(5.0)
            while not stop.is_set():
                link.pump()
                link.wait(0.5)
        stop.wait(0.2)
    link.close(None, 1.0)


def describe(inbound: Inbound) -> str | None:
    """A line for a message; None for results without a detection."""
    kind = inbound.topic.split("/")[3]
    if kind == "snapshots":
        return f"snapshot, {len(inbound.payload)} bytes of JPEG on {inbound.topic}"
    message: dict[str, Any] = json.loads(inbound.payload)
    if kind == "results":
        what = [f"{d['label']} {d['confidence']:.2f} {_box(d['xyxy'])}" for d in message["detections"]]
        took = message["timing_ms"]["total"]
        return f"frame {message['frame']['index']:5}  {', '.join(what)}  {took:.1f} ms" if what else None
    if kind == "events":
        return f"event {message['type']}: {message['label']} {message['confidence']:.2f}, {message['frames']} frames"
    if kind == "status":
        return f"status {message['state']} {'; '.join(message['reasons'])}".rstrip()
    if kind == "telemetry":
        door = message["pipelines"]["door"]
        memory = message["process"]["rss_bytes"] / 2**20
        return f"telemetry: {door['fps']:.1f} frames/s, {door['frames_dropped']} dropped, {memory:.0f} MiB"
    return None


def _box(xyxy: list[float]) -> str:
    left, top, right, bottom = xyxy
    return f"({left:.0f},{top:.0f})-({right:.0f},{bottom:.0f})"
