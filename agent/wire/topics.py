"""Topic names, all below `{prefix}`; the table is section "Topics" of docs/topics.md."""

from dataclasses import dataclass
from typing import Literal

Target = Literal["device", "group"]

TRUST = "_trust"
"""Stands in the place of a model; none can have that name."""


_OWN = frozenset(
    ("status", "telemetry", "gap", "ack", "results", "events", "snapshots", "samples", "models", "commands")
)
"""What the levels below a device's branch begin with; an answer must not look like one of these."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one device."""

    prefix: str
    device: str
    groups: tuple[str, ...] = ()
    """That the device is in."""

    @property
    def branch(self) -> str:
        """What the device publishes lies below this, command replies aside."""
        return f"{self.prefix}/devices/{self.device}"

    def status(self) -> str:
        return f"{self.branch}/status"

    def telemetry(self) -> str:
        return f"{self.branch}/telemetry"

    def gap(self) -> str:
        return f"{self.branch}/gap"

    def ack(self) -> str:
        """Where a collector says how far it has stored what the device sent."""
        return f"{self.branch}/ack"

    def results(self, pipeline: str) -> str:
        return f"{self.branch}/results/{pipeline}"

    def events(self, pipeline: str) -> str:
        return f"{self.branch}/events/{pipeline}"

    def snapshots(self, pipeline: str) -> str:
        return f"{self.branch}/snapshots/{pipeline}"

    def samples(self, pipeline: str) -> str:
        """Frames that were kept to learn from."""
        return f"{self.branch}/samples/{pipeline}"

    def model_state(self, model: str) -> str:
        return f"{self.branch}/models/{model}"

    def release(self, model: str) -> str:
        return f"{self.prefix}/releases/{model}"

    def trust(self) -> str:
        """Where newer trust documents lie."""
        return self.release(TRUST)

    def chunk(self, sha256: str, index: int) -> str:
        return f"{self.prefix}/blobs/{sha256}/{index}"

    def command_filters(self) -> list[str]:
        """What to subscribe to for commands, to this device and to its groups; no two of them overlap."""
        owners = [self.branch, *(f"{self.prefix}/groups/{group}" for group in self.groups)]
        return [f"{owner}/commands/+" for owner in owners]

    def command_of(self, topic: str) -> str | None:
        """The command that a topic names, or None when it is not a command topic of ours.

        The session on the broker still has the filters of groups that the device has left: what comes by them is none.
        """
        parts = topic.removeprefix(f"{self.prefix}/").split("/")
        if len(parts) != 4 or parts[2] != "commands":
            return None
        ours = parts[1] == self.device if parts[0] == "devices" else parts[0] == "groups" and parts[1] in self.groups
        return parts[3] if ours else None

    def may_answer_on(self, topic: str) -> bool:
        """Whether the answer to a command may go there. Who may send commands to one device must not make it speak to
        others, nor in the place of what it says by itself; a broker's access list may be missing."""
        if not topic.startswith(f"{self.prefix}/"):
            return not topic.startswith("$")
        owner, _, rest = topic.removeprefix(f"{self.prefix}/").partition("/")
        if not topic.startswith(f"{self.branch}/"):
            return owner not in ("devices", "groups", "releases", "blobs")
        return rest.split("/")[1] not in _OWN

    def release_of(self, topic: str) -> str | None:
        """The model that a topic brings releases of (`_trust` for trust documents), or None when it is another."""
        parts = topic.removeprefix(f"{self.prefix}/").split("/")
        return parts[1] if len(parts) == 2 and parts[0] == "releases" else None

    def is_chunk(self, topic: str) -> bool:
        return topic.startswith(f"{self.prefix}/blobs/")
