"""What the daemon and a worker say to each other, one packet a message on a SOCK_SEQPACKET pair.

First the worker says READY with a Ready, or ERROR with one line. Then it answers each REQUEST with ANSWER and an
Answer, each GOLDEN_REQUEST with ANSWER and a GoldenSample, or either with ERROR and one line. Frames do not go through
the socket: they lie at the start of a shared memory file.
"""

import struct
from dataclasses import dataclass

import msgspec

from agent.manifest import Reference
from agent.values import Found, Window

REQUEST = struct.Struct("<cIIId?")
"""A key of DTYPES, the shape (0: there is no third dimension), min_confidence, and whether evidence is wanted."""

DTYPES = {b"u": "uint8", b"f": "float32"}
"""Of pictures, and of samples."""

GOLDEN_REQUEST = struct.Struct("<I")
"""Index of a golden sample; told from REQUEST by its size."""

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
    window: Window | None = None
    """The windows of samples that it takes; None: it takes pictures."""


def window_shape(window: Window) -> tuple[int, int]:
    """Samples x channels; sound has one."""
    return window.samples, max(1, len(window.channels))


class Ready(msgspec.Struct, frozen=True):
    """A worker's first words."""

    info: BundleInfo
    bare_bytes: int
    """Resident memory of the process before it read the model."""
    reference: Reference | None = None
    """What the model said of the data it was measured on."""


EVIDENCE_FROM = 0.1
"""Confidence from which evidence tells what was found, whatever the pipeline's own min_confidence is."""


class Evidence(msgspec.Struct, frozen=True):
    """What stands behind an answer, for who wants to know how sure the model is."""

    found: Found
    """All from EVIDENCE_FROM on."""
    embedding: bytes = b""
    """float32, little-endian; empty when the manifest names no embedding."""
    log_confidences: bytes = b""
    """Natural logarithm of each class's confidence, float32; of classes with an embedding only."""


class Answer(msgspec.Struct, frozen=True):
    """What a bundle says of one frame, and how long each step took, in milliseconds."""

    found: Found
    preprocess_ms: float
    infer_ms: float
    decode_ms: float
    evidence: Evidence | None = None
    """When it was asked for."""


class GoldenSample(msgspec.Struct, frozen=True):
    """How the model did on one golden sample."""

    input: str
    """Name of the picture."""
    count: int
    """How many samples the bundle has."""
    agreement: float
    """With the expected answer, 0 to 1."""
    infer_ms: float


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """How a worker is held. None of them files, core dumps or new privileges: that holds for all."""

    memory_bytes: int | None = None
    """What the model may take. The manifest's `limits.max_memory_bytes` holds too: the lower of the two."""
    nice: int = 0
    """Added to the process's niceness, so that live frames keep their time."""
    trial: bool = False
    """Look for outputs without a finite number; decoders leave such values out, and nobody would notice."""
    all_classes: bool = False
    """Answer with all classes, whatever the manifest's top_k says: for measuring."""
