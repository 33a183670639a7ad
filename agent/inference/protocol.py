"""What the daemon and a worker say to each other, one packet a message on a SOCK_SEQPACKET pair.

First the worker says READY with its BundleInfo, or ERROR with one line. Then for each REQUEST it answers ANSWER with an
Answer, or ERROR with one line. Pixels do not go through the socket: they lie at the start of a shared memory file.
"""

import struct

import msgspec

from agent.values import Found

REQUEST = struct.Struct("<IIId")
"""Height, width and channels (0: two-dimensional) of the uint8 picture, and min_confidence."""

READY, ANSWER, ERROR = b"R", b"A", b"E"
"""First byte of what a worker says; msgpack follows."""

MAX_ANSWER_BYTES = 200_000
"""What Linux takes as one packet without being asked to (net.core.wmem_default), and a thousand boxes."""


class BundleInfo(msgspec.Struct, frozen=True):
    """Which model is loaded, and on what it runs."""

    name: str
    version: str
    sha256: str
    """Digest of model.tflite."""
    task: str
    runtime: str
    """Package and version of the TFLite runtime."""
    threads: int
    delegate: str | None
    warning: str | None
    """What the user should know although it works, such as an accelerator that could not be used."""


class Answer(msgspec.Struct, frozen=True):
    """What a bundle says of one frame, and how long each step took, in milliseconds."""

    found: Found
    preprocess_ms: float
    infer_ms: float
    decode_ms: float
