"""Small devices that take releases as a real one does, up to the model itself, and say how far they are.

Whether a model is any good is not tried: `fate` says what becomes of it.
"""

import hashlib
from typing import Literal, Self

import paho.mqtt.client as paho

from agent.errors import UpdateRefused
from agent.runtime.clock import Clock
from agent.updates.verify import DeviceFacts, Known, Trust, judge, open_release
from agent.wire.messages import ActiveVersion, CandidateVersion, ModelState, Stamp, Status, encode
from agent.wire.releases import CHUNK_BYTES, Release
from agent.wire.topics import Topics
from tests.sim.broker import Broker

Fate = Literal["healthy", "active", "golden", "health", "stuck"]
"""What becomes of a model: proves itself; goes live; is rejected; is rolled back; is not even received."""


class SimDevice:
    """One device, subscribed and reported when `with` begins."""

    def __init__(
        self,
        broker: Broker,
        device: str,
        trust: Trust,
        *,
        model: str = "digits",
        groups: tuple[str, ...] = (),
        floor: int = 0,
        fate: Fate = "active",
    ) -> None:
        self.device, self.fate, self.floor = device, fate, floor
        self.archive = b""
        """What it received last, whole and checked."""
        self.release: Release | None = None
        """What it accepted last."""
        self._facts = DeviceFacts(id=device, groups=groups, hardware=("aarch64",), agent_version="1.0")
        self._trust, self._model, self._broker = trust, model, broker
        self._topics = Topics("edge", device)
        self._stamp = Stamp(device, Clock())
        self._candidate: CandidateVersion | None = None
        self._active: ActiveVersion | None = None
        self._refused: str | None = None
        self._wanted: list[tuple[str, int, str | None]] = []
        """Blob, index and digest of the chunks to fetch, in order."""
        self._received: list[bytes] = []
        client = self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id=device, protocol=paho.MQTTv5, reconnect_on_failure=True
        )
        client.reconnect_delay_set(1, 1)
        client.on_connect = self._on_connect
        client.on_message = lambda _c, _u, message: self._on_message(message.topic, bytes(message.payload))

    def __enter__(self) -> Self:
        self._client.connect(self._broker.host, self._broker.port)
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    # --- what it says ---------------------------------------------------------------------------------------------

    def _on_connect(self, *_: object) -> None:
        status = Status(**self._stamp(), state="online", reasons=[], version="1.0", started_at=self._stamp()["time"])
        self._client.publish(self._topics.status(), encode(status), 1, retain=True)
        self._report()
        self._client.subscribe(self._topics.release(self._model), 1)

    def _report(self) -> None:
        state = ModelState(
            **self._stamp(),
            model=self._model,
            active=self._active,
            previous=None,
            candidate=self._candidate,
            refused=self._refused,
            floor=self.floor,
            trust_version=self._trust.document.version,
        )
        self._client.publish(self._topics.model_state(self._model), encode(state), 1, retain=True)

    def _enter(self, state: str, reason_code: str | None = None, received_bytes: int = 0) -> None:
        assert self.release
        self._candidate = CandidateVersion(
            release=self.release.release,
            version=self.release.version,
            sha256=self.release.archive.sha256,
            state=state,  # type: ignore[arg-type]
            received_bytes=received_bytes,
            size_bytes=self.release.archive.size_bytes,
            reason_code=reason_code,
            reason=reason_code and "3 of 10 answers are right",
        )
        self._report()

    # --- what it does ---------------------------------------------------------------------------------------------

    def _on_message(self, topic: str, payload: bytes) -> None:
        if topic == self._topics.release(self._model):
            if payload:
                self._offer(payload)
        elif self._wanted and topic == self._topics.chunk(*self._wanted[0][:2]):
            self._take_chunk(payload)

    def _offer(self, raw: bytes) -> None:
        try:
            opened = open_release(raw, self._trust, self._model)
            release, self._trust = opened.release, opened.trust
            sha256 = self.release.archive.sha256 if self.release else ""
            known = Known(floor=self.floor, floor_sha256=sha256, quarantine=(), time_floor="2026-11-20T00:00:00Z")
            if judge(release, self._trust, self._facts, known, now=None) == "repeat":
                return
        except UpdateRefused as exc:
            self._refused = exc.reason_code
            self._report()
            return
        self.release, self.floor, self._refused = release, release.release, None
        self._enter("offered")
        archive = release.archive
        list_chunks = -(-archive.chunk_list_bytes // CHUNK_BYTES)
        self._wanted = [(archive.chunk_list_sha256, index, None) for index in range(list_chunks)]
        self._received = []
        self._enter("receiving")
        if self.fate != "stuck":
            self._ask()

    def _ask(self) -> None:
        self._client.subscribe(self._topics.chunk(*self._wanted[0][:2]), 0)

    def _take_chunk(self, payload: bytes) -> None:
        blob, index, digest = self._wanted.pop(0)
        assert digest in (None, hashlib.sha256(payload).hexdigest())
        self._client.unsubscribe(self._topics.chunk(blob, index))
        self._received.append(payload)
        if self._wanted:
            self._ask()
            return
        whole, self._received = b"".join(self._received), []
        assert self.release
        archive = self.release.archive
        assert hashlib.sha256(whole).hexdigest() == blob
        if blob == archive.chunk_list_sha256:
            digests = [whole[at : at + 32].hex() for at in range(0, len(whole), 32)]
            self._wanted = [(archive.sha256, index, each) for index, each in enumerate(digests)]
            self._ask()
        else:
            self.archive = whole
            self._try(len(whole))

    def _try(self, size_bytes: int) -> None:
        for state in ("verifying", "staged", "trial"):
            self._enter(state, received_bytes=size_bytes)
        if self.fate == "golden":
            self._enter("rejected", "golden", size_bytes)
            return
        assert self.release
        self._active = ActiveVersion(
            version=self.release.version,
            sha256=self.release.archive.sha256,
            activated_at=self._stamp()["time"],
            confirmed=self.fate == "healthy",
        )
        self._enter("active", received_bytes=size_bytes)
        if self.fate == "health":
            self._active = None
            self._enter("rolled_back", "health", size_bytes)
