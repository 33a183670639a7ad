"""What a pipeline learns from: frames that are kept, and the watch for drift."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.config.section import Section
from agent.manifest import Share
from agent.runtime.units import ByteSize, Duration

Variable = Literal["confidence", "classes", "embedding"]


class Samples(Section, frozen=True):
    """Where frames are kept from which a model can learn."""

    dir: str = "samples"
    """A folder for each pipeline. On a device: /var/lib/edge-agent/samples."""


class Feedback(Section, frozen=True):
    """Frames that a model can learn from."""

    keep: Literal["none", "hard"] = "none"
    """`hard`: frames that the model is unsure of, that start an event, or on which two models disagree; and any while
    it drifts. They stay on the device until somebody asks for them."""
    margin: Share = 0.2
    """Unsure: the first class is ahead of the second by less, or a detection is nearer than this to min_confidence."""
    max_per_min: Annotated[float, Meta(gt=0.0, le=6000.0)] = 6.0
    """More are left out."""
    max_bytes: ByteSize = msgspec.field(default_factory=lambda: ByteSize(64 << 20))
    """Over this, the oldest go: first those that were sent, last those with a label."""
    upload_every: Duration = msgspec.field(default_factory=lambda: Duration(0))
    """Send what was not sent yet this often, and at each start; 0: only at the command `samples`."""
    upload_max_bytes: ByteSize = msgspec.field(default_factory=lambda: ByteSize(4 << 20))
    """So much at a time."""
    personalize: bool = False
    """Let the command `personalize` learn from the operator's labels, on the device."""


class Drift(Section, frozen=True):
    """Whether frames are still like those that the model was measured on; works where its manifest has a reference."""

    window_frames: Annotated[int, Meta(ge=0, le=100_000)] = 500
    """So many of the last frames are compared; 0: none."""
    every_s: Annotated[float, Meta(ge=0.0, le=3600.0)] = 1.0
    """At most one frame in so many seconds is looked at: neighbours tell the same."""
    max_psi: Annotated[float, Meta(gt=0.0, le=100.0)] = 0.25
    """A population stability index from here on is drift. Usual readings: under 0.1 none, from 0.25 on a lot."""
    watch: tuple[Variable, ...] = ("confidence", "classes", "embedding")
    """Of what; leave `classes` out where what passes by changes from hour to hour."""
