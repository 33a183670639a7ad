"""What a model says about itself: `manifest.yaml` of a bundle.

The manifest holds everything that is needed to use the model and that the model file itself does not say. Tensor
shapes, dtypes, scales and zero points come from the model file.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.errors import ModelError
from agent.manifest.decoders import (
    AnomalyDecoder,
    ClassifyDecoder,
    DecoderSpec,
    ForecastDecoder,
    RegressDecoder,
    SegmentDecoder,
    SsdAnchorsDecoder,
    SsdDecoder,
    YoloDecoder,
)
from agent.manifest.inputs import (
    AudioInput,
    Constant,
    CropStep,
    DenoiseStep,
    EqualizeStep,
    Feedback,
    FlipStep,
    FrontEnd,
    GammaStep,
    InputSpec,
    LogMelFrontEnd,
    MicroFrontEnd,
    ModelInputSpec,
    MoreInput,
    RawFrontEnd,
    RotateStep,
    SeriesInput,
    Shape,
    Step,
)
from agent.manifest.reference import MAX_EMBEDDING_VALUES, Embeddings, Histogram, Reference
from agent.manifest.section import (
    NAME_PATTERN,
    VERSION_PATTERN,
    Name,
    Positive,
    Section,
    Share,
    Version,
)
from agent.runtime.units import ByteSize
from agent.runtime.yamlfile import DocumentError, load_document

__all__ = [
    "MAX_EMBEDDING_VALUES",
    "NAME_PATTERN",
    "TASK_OF",
    "VERSION_PATTERN",
    "AnomalyDecoder",
    "AudioInput",
    "ClassifyDecoder",
    "Constant",
    "CropStep",
    "DecoderSpec",
    "DenoiseStep",
    "Embeddings",
    "EqualizeStep",
    "Feedback",
    "FlipStep",
    "ForecastDecoder",
    "FrontEnd",
    "GammaStep",
    "Golden",
    "Histogram",
    "InputSpec",
    "Limits",
    "LogMelFrontEnd",
    "Manifest",
    "MicroFrontEnd",
    "ModelInputSpec",
    "MoreInput",
    "Name",
    "Positive",
    "RawFrontEnd",
    "Reference",
    "RegressDecoder",
    "RotateStep",
    "SegmentDecoder",
    "SeriesInput",
    "Shape",
    "Share",
    "SsdAnchorsDecoder",
    "SsdDecoder",
    "Step",
    "Task",
    "Version",
    "YoloDecoder",
    "complete_decoder",
    "load_labels",
    "load_manifest",
    "name_the_input",
]

MAX_LABELS_BYTES = 1 << 20

Task = Literal["detect", "classify", "regress", "segment", "anomaly"]


class Golden(Section, frozen=True):
    """Inputs with expected outputs, tried on the device before a release goes live."""

    dir: str = "golden"
    min_agreement: Share = 0.99


class Limits(Section, frozen=True):
    """What the model may take."""

    max_infer_ms: Positive | None = None
    """A frame that takes longer counts against the model in its trial."""
    max_memory_bytes: ByteSize | None = None


class Manifest(Section, frozen=True):
    """`manifest.yaml`: all that is needed to use the model."""

    name: Name
    version: Version
    task: Task
    input: ModelInputSpec
    decoder: DecoderSpec
    more_inputs: dict[str, MoreInput] = msgspec.field(default_factory=dict)
    """What models with several inputs get in the others, by the name of the tensor."""
    labels: str | None = "labels.txt"
    """File in the bundle, one label a line, line 0 for class 0; null: classes are called by their number."""
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    """Threads of the interpreter. One is best for small models; measure before you raise it."""
    embedding: str | None = None
    """Output tensor with the features that the answer is made of: for drift, and for a head of the device's own."""
    head: Literal["head.npy"] | None = None
    """A NumPy array (N + 1) x classes, float32, made on a device of its operator's labels: embedding x head, the last
    row being the bias, is added to the logarithm of the model's own confidences."""
    reference: Reference | None = None
    """What the model said of the data it was measured on; without it drift can't be found."""
    metrics: dict[str, float | int | str] = msgspec.field(default_factory=dict)
    """What the model was measured to reach, and on what."""
    golden: Golden | None = None
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        for key, value in (("labels", self.labels), ("golden.dir", self.golden and self.golden.dir)):
            if value is not None and (not value or "/" in value or value.startswith(".")):
                raise ValueError(f"{key}: expected a plain name in the bundle, got {value!r}")
        if self.head and not (self.embedding and self.labels and self.task == "classify"):
            raise ValueError("head: expected only with embedding, labels and task classify")
        takes_pictures = isinstance(self.input, InputSpec)
        kind = self.decoder.__struct_config__.tag
        if takes_pictures and isinstance(self.decoder, AnomalyDecoder | ForecastDecoder):
            raise ValueError(f"input.type: expected series or audio for decoder {kind}, got image")
        if not takes_pictures and not isinstance(
            self.decoder, ClassifyDecoder | RegressDecoder | AnomalyDecoder | ForecastDecoder
        ):
            raise ValueError(f"input.type: expected image for decoder {kind}, got {self.input.__struct_config__.tag}")
        wanted = TASK_OF[type(self.decoder)]
        if self.task != wanted:
            raise ValueError(
                f"task: decoder {self.decoder.__struct_config__.tag} is for task {wanted}, got {self.task}"
            )


TASK_OF: dict[type, Task] = {
    ClassifyDecoder: "classify",
    SsdDecoder: "detect",
    SsdAnchorsDecoder: "detect",
    YoloDecoder: "detect",
    SegmentDecoder: "segment",
    RegressDecoder: "regress",
    AnomalyDecoder: "anomaly",
    ForecastDecoder: "regress",
}


def complete_decoder(manifest: Manifest) -> DecoderSpec:
    """The manifest's decoder with what it takes over from the input.

    Raises:
        ModelError: a forecast of channels that the input does not have, or of sound; or a mean or std for some only.
    """
    decoder, given = manifest.decoder, manifest.input
    if not isinstance(decoder, ForecastDecoder):
        return decoder
    if not isinstance(given, SeriesInput):
        raise ModelError("input.type: expected series for decoder forecast, got audio")
    unknown = [name for name in decoder.channels if name not in given.channels]
    if unknown:
        raise ModelError(f"decoder.channels: expected some of {', '.join(given.channels)}, got {unknown[0]}")
    places = [given.channels.index(name) for name in decoder.channels or given.channels]
    mean, std = (_one_each(values, len(given.channels)) for values in (given.mean, given.std))
    for key, values in (("mean", decoder.mean), ("std", decoder.std)):
        if len(values) not in (0, 1, len(places)):
            raise ModelError(f"decoder.{key}: expected 1 value or {len(places)}, got {len(values)}")
    return msgspec.structs.replace(
        decoder,
        mean=_one_each(decoder.mean, len(places)) or tuple(mean[place] for place in places),
        std=_one_each(decoder.std, len(places)) or tuple(std[place] for place in places),
    )


def _one_each(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    return values * count if len(values) == 1 else values


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        ModelError: it is missing, too large, not YAML, or a key is unknown, missing or wrong; names the key's path.
    """
    try:
        return load_document(path, Manifest, name_the_input)
    except DocumentError as exc:
        raise ModelError(str(exc)) from exc


def load_labels(path: Path) -> tuple[str, ...]:
    """A label a line, line 0 for class 0. Editors of Windows put a mark of byte order in front: it is no part of it.

    Raises:
        ModelError: it is missing, too large, or no text.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_LABELS_BYTES + 1)
        if len(text) > MAX_LABELS_BYTES:
            raise ModelError(f"{path}: larger than {MAX_LABELS_BYTES} bytes")
        return tuple(line.strip() for line in text.decode("utf-8-sig").rstrip("\r\n").split("\n"))
    except UnicodeDecodeError as exc:
        raise ModelError(f"{path}: expected UTF-8 text, one label a line") from exc
    except OSError as exc:
        raise ModelError(f"{path}: {(exc.strerror or str(exc)).lower()}") from exc


def name_the_input(document: object) -> None:
    """Pictures are the usual input, and need not be called so."""
    if isinstance(document, dict) and isinstance(document.get("input"), dict):
        document["input"].setdefault("type", "image")
