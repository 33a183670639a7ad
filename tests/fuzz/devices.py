"""What a device of the fleet says to the collector and to an operator."""

import msgspec

from agent.runtime.clock import Clock
from agent.wire.messages import CandidateVersion, ModelState, Stamp, Status, encode
from agent.wire.releases import Release
from tests.fuzz.bench import MAX_LINE_CHARS, TOPICS, Target
from tests.sim.keys import release_statement
from tools.collect_messages import Arrived, BadMessage, parse
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


TARGETS = {
    "device-message": Target(device_message, (BadMessage,), lambda: _DEVICE_SAYS),
    "device-state": Target(device_state, (), _states),
}
