"""Who pushes models: signs a bundle, lays its chunks and the release on the broker, and reads what devices say."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.wire.archive import write_archive
from agent.wire.releases import CHUNK_BYTES
from tests.sim.broker import Broker
from tests.sim.keys import Authority


def cut(data: bytes) -> list[bytes]:
    """Bytes as chunks."""
    return [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]


class Operator:
    """One that holds the release keys."""

    def __init__(self, broker: Broker, authority: Authority | None = None, prefix: str = "edge") -> None:
        self.authority = authority or Authority()
        self._prefix = prefix
        self._ear = broker.listen(f"{prefix}/devices/+/models/#")
        self.number = 0

    def push(self, bundle: Path, model: str = "face", *, signers: Any = None, **fields: Any) -> int:
        """Lay a bundle and its release on the broker; returns the release number. `fields` as in the statement."""
        with io.BytesIO() as out:
            write_archive(bundle, out)
            archive = out.getvalue()
        described = self.upload(archive)
        self.number = fields.pop("release", self.number + 1)
        raw = self.authority.release(
            model,
            self.number,
            signers=signers,
            chain=[*self.authority.chain[1:], self.authority.envelope] if self.authority.version > 1 else (),
            archive=described,
            **{"version": bundle.name, **fields},
        )
        self.offer(raw, model)
        return self.number

    def upload(self, archive: bytes) -> dict[str, Any]:
        """Lay the chunks and their list on the broker."""
        chunks = cut(archive)
        chunk_list = b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)
        digest, list_digest = (hashlib.sha256(data).hexdigest() for data in (archive, chunk_list))
        for sha256, parts in ((list_digest, cut(chunk_list)), (digest, chunks)):
            for index, part in enumerate(parts):
                self._ear.publish(f"{self._prefix}/blobs/{sha256}/{index}", part, retain=True)
        return {"sha256": digest, "size_bytes": len(archive), "chunk_list_sha256": list_digest}

    def offer(self, raw: bytes, model: str = "face") -> None:
        self._ear.publish(f"{self._prefix}/releases/{model}", raw, retain=True)

    def publish_trust(self) -> None:
        self._ear.publish(f"{self._prefix}/releases/_trust", self.authority.trust_file, retain=True)

    @property
    def is_connected(self) -> bool:
        return self._ear.client.is_connected()

    def states(self, device: str = "cam-1", model: str = "face") -> list[dict[str, Any]]:
        """All that a device has said of a model so far."""
        return [
            json.loads(payload) for payload in self._ear.payloads(f"{self._prefix}/devices/{device}/models/{model}")
        ]

    def wait_for(
        self,
        condition: Callable[[dict[str, Any]], object],
        device: str = "cam-1",
        model: str = "face",
        timeout_s: float = 60.0,
    ) -> dict[str, Any]:
        """Come back with the first model state, from now or before, that fulfils the condition."""

        def found() -> dict[str, Any] | None:
            return next((state for state in self.states(device, model) if condition(state)), None)

        try:
            self._ear.wait_for(lambda _: found(), timeout_s)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; the last state was {(self.states(device, model) or [None])[-1]}") from None
        state = found()
        assert state is not None
        return state

    def wait_until_ended(self, number: int, **where: Any) -> dict[str, Any]:
        """The state in which a release has come to its end: confirmed, rejected or rolled back."""

        def ended(state: dict[str, Any]) -> bool:
            candidate = state["candidate"]
            if not candidate or candidate["release"] != number:
                return False
            if candidate["state"] == "active":
                return bool(state["active"] and state["active"]["confirmed"])
            return candidate["state"] in ("rejected", "rolled_back")

        return self.wait_for(ended, **where)
