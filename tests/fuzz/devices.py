"""What a device of the fleet says to the collector and to an operator."""

import shutil

import msgspec
import numpy as np

from agent.feedback.service import encode_frame
from agent.runtime.clock import Clock
from agent.values import Frame
from agent.wire.messages import CandidateVersion, ModelState, Stamp, Status, encode
from agent.wire.releases import Release
from agent.wire.samples import SampleInfo
from tests.fuzz.bench import MAX_LINE_CHARS, TOPICS, Target, scratch
from tests.sim.keys import release_statement
from tools.collect_messages import Arrived, BadMessage, parse
from tools.feedback_inbox import Inbox, SampleError
from tools.rollout import Rollout


def device_message(data: bytes) -> None:
    """A device of the fleet, to the collector."""
    kind, _, payload = data.partition(b"\n")
    topic = f"edge/devices/cam-1/{kind.decode('utf-8', 'replace')}"
    properties = {"event_id": payload[:40].decode("utf-8", "replace"), "captured_at": ""}
    parse(Arrived(topic, payload, False, properties, None, 1), "edge")  # type: ignore[arg-type] # nothing is answered


_PUSHED = msgspec.convert(release_statement("face", 6), Release)


def device_state(data: bytes) -> None:
    """A device of the fleet, to an operator who waits for it; the first line is what lies on the topic's end."""
    kind, _, payload = data.partition(b"\n")
    rollout = Rollout(_PUSHED, TOPICS, "active", {})
    for topic in ("models/face", f"{kind.decode('utf-8', 'replace')}/face", "status"):
        rollout.hear(f"edge/devices/cam-1/{topic}", payload)
    for standing in rollout.standings():
        assert standing.why.isprintable()
        assert len(standing.why) <= MAX_LINE_CHARS
    rollout.summary()


def _states() -> list[bytes]:
    stamp = Stamp("cam-1", Clock())()
    candidate = CandidateVersion(
        release=6,
        version="1.6",
        sha256="a" * 64,
        state="rejected",
        received_bytes=5,
        size_bytes=9,
        reason_code="golden",
    )
    state = ModelState(**stamp, model="face", active=None, previous=None, candidate=candidate)
    status = Status(**stamp, state="online", reasons=[], version="1.4.0", started_at=stamp["time"])
    return [b"models\n" + encode(message) for message in (state, status)]


_DEVICE_SAYS = (
    b'results/door\n{"schema":"edge.result/1","device":"cam-1","time":"2026-11-22T08:00:00.131Z","seq":8589934639,'
    b'"prev":8589934638}',
    b'gap\n{"schema":"edge.gap/1","device":"cam-1","time":"","seq":9,"prev":5,"from":6,"to":9,"count":4,"reason":"x"}',
    b"snapshots/door\njpeg",
)


def sample(data: bytes) -> None:
    """A frame that a device kept, to the operator who fetches it: what is told of it, then the file."""
    text, _, file = data.partition(b"\n")
    folder = scratch() / "samples"
    shutil.rmtree(folder, ignore_errors=True)
    taken, _ = Inbox(folder).take(text.decode("utf-8", "replace"), file, "cam-1")
    assert {path.parent for path in folder.rglob("*.*")} == {folder / "samples"}
    assert Inbox(folder).find(taken.name) == taken


def _samples() -> list[bytes]:
    info = SampleInfo(
        id="0123456789abcdef", device="cam-1", pipeline="door", captured_at="", frame_index=1, reasons=("unsure",),
        model="face", version="1", predicted="face", confidence=0.5, margin=0.1, suffix=".png",
    )  # fmt: skip
    pictures = [Frame(np.zeros((4, 4, 3), np.uint8), 1, 1, 1), Frame(np.zeros((300, 300), np.uint8), 1, 1, 1)]
    sound = Frame(np.zeros((4, 1), np.float32), 1, 1, 1, channels=("sound",))
    kept = [encode_frame(frame) for frame in (*pictures, sound)]
    return [msgspec.json.encode(msgspec.structs.replace(info, suffix=suffix)) + b"\n" + file for suffix, file in kept]


TARGETS = {
    "device-message": Target(device_message, (BadMessage,), lambda: _DEVICE_SAYS),
    "device-state": Target(device_state, (), _states),
    "sample": Target(sample, (SampleError,), _samples),
}
