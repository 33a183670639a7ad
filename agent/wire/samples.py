"""What is told of a frame that was kept to learn from: beside its file on the device, and with it over the broker."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Reason = Literal["unsure", "event", "disagreement", "drift"]

PROPERTY = "sample"
"""Name of the MQTT 5 user property that carries a SampleInfo as JSON; the payload is the file."""

CONTENT_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".npy": "application/x-npy"}
"""By the file's suffix. `.npy`: samples x channels, float32."""


class SampleInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One kept frame."""

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$", max_length=16)]  # `$` alone also matches before a last newline
    """The event's, where it started one."""
    device: str
    pipeline: str
    captured_at: str
    """RFC 3339."""
    frame_index: int
    reasons: tuple[Reason, ...]
    model: str
    version: str
    predicted: str
    """What the model was surest of; "" for nothing."""
    confidence: float
    margin: float
    """To what it nearly said instead, 0 to 1."""
    label: str | None = None
    """The operator's."""
    is_right: bool | None = None
    """The operator's word on `predicted`, where no label was given."""
    suffix: Literal[".png", ".jpg", ".npy"]
    """Of the file."""

    @property
    def truth(self) -> str | None:
        """What it shows, as far as the operator said."""
        return self.label or (self.predicted if self.is_right else None)
