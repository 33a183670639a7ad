"""What a model file says beside its tensors: TFLite Metadata, and files zipped to its end.

The metadata are a flatbuffer in the buffer that the model's entry TFLITE_METADATA names; its associated files, labels
for instance, are a zip archive appended to the model. Ultralytics' exports have only the archive, with metadata.json.
Slot numbers are those of tensorflow/lite/schema/schema.fbs and tflite-support's metadata_schema.fbs. Everything is read
within bounds: a model comes from outside.
"""

import io
import json
import lzma
import struct
import zipfile
import zlib
from dataclasses import dataclass, replace

from agent.inference.flatbuffer import FlatbufferError, Table, read_root

_MAX_FILE_BYTES = 1 << 20
_MAX_LABELS = 10_000
_MAX_ITEMS = 64
"""Tensors, files and process units that are looked at."""

_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, ValueError, KeyError, EOFError,
    NotImplementedError, RuntimeError, OverflowError,
)  # fmt: skip
"""What zipfile raises for archives that are damaged, encrypted or oddly compressed."""

_IMAGE_PROPERTIES = 2
"""Of the union ContentProperties."""
_NORMALIZATION = 1
"""Of the union ProcessUnitOptions."""
_LABEL_TYPES = (2, 3)
"""AssociatedFileType: labels of an axis, labels of values."""
_COLORS = {1: "rgb", 2: "gray"}
"""ColorSpaceType."""


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """What the metadata say about one tensor."""

    name: str
    description: str
    mean: tuple[float, ...] = ()
    """For pixel values 0-255: (value - mean) / std."""
    std: tuple[float, ...] = ()
    color: str = ""
    """`rgb`, `gray`, or empty."""
    label_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Metadata:
    """All of it; empty where the file says nothing."""

    name: str = ""
    description: str = ""
    version: str = ""
    author: str = ""
    license: str = ""
    inputs: tuple[TensorMetadata, ...] = ()
    outputs: tuple[TensorMetadata, ...] = ()
    files: tuple[str, ...] = ()
    """Names in the appended archive."""
    labels: tuple[str, ...] = ()
    problem: str = ""
    """What could not be read, and why."""


def read_metadata(model: bytes) -> Metadata:
    """Metadata of a TFLite model. Raises nothing: damaged parts are left out and named in `problem`."""
    try:
        known = _read_tables(model)
    except FlatbufferError as exc:
        known = Metadata(problem=f"damaged metadata: {exc}")
    try:
        if zipfile.is_zipfile(io.BytesIO(model)):
            with zipfile.ZipFile(io.BytesIO(model)) as archive:
                known = _add_files(known, archive)
    except _ZIP_ERRORS as exc:
        known = replace(known, problem=known.problem or f"damaged associated files: {' '.join(str(exc).split())[:200]}")
    return known


def _read_tables(model: bytes) -> Metadata:
    root = read_root(model)
    for entry in root.tables(6, _MAX_ITEMS):
        if entry.text(0) == "TFLITE_METADATA":
            index = entry.number(1, "<I")
            buffers = root.tables(4, index + 1)
            if index < len(buffers):
                return _model_metadata(read_root(bytes(buffers[index].raw(0))))
    return Metadata()


def _model_metadata(root: Table) -> Metadata:
    graphs = root.tables(3, 1)
    return Metadata(
        name=root.text(0),
        description=root.text(1),
        version=root.text(2),
        author=root.text(4),
        license=root.text(5),
        inputs=_tensors(graphs[0], 2) if graphs else (),
        outputs=_tensors(graphs[0], 3) if graphs else (),
    )


def _tensors(graph: Table, slot: int) -> tuple[TensorMetadata, ...]:
    return tuple(_tensor(table) for table in graph.tables(slot, _MAX_ITEMS))


def _tensor(table: Table) -> TensorMetadata:
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    for unit in table.tables(4, _MAX_ITEMS):
        options = unit.table(1)
        if unit.number(0, "<B") == _NORMALIZATION and options:
            mean, std = options.floats(0, 4), options.floats(1, 4)
    content = table.table(3)
    color = 0
    if content and content.number(0, "<B") == _IMAGE_PROPERTIES and (image := content.table(1)):
        color = image.number(0, "<b")
    files = [file for file in table.tables(6, _MAX_ITEMS) if file.number(2, "<b") in _LABEL_TYPES]
    files.sort(key=lambda file: file.text(3))  # no locale first: the labels themselves, not their translations
    return TensorMetadata(
        name=table.text(0),
        description=table.text(1),
        mean=mean,
        std=std,
        color=_COLORS.get(color, ""),
        label_files=tuple(file.text(0) for file in files),
    )


def _add_files(known: Metadata, archive: zipfile.ZipFile) -> Metadata:
    names = archive.namelist()
    known = replace(known, files=tuple(names[:_MAX_ITEMS]))
    declared = [name for tensor in known.outputs for name in tensor.label_files]
    guessed = [name for name in names if name.endswith(".txt") and "label" in name.lower()]
    for name in declared + guessed:
        if name in names:
            return replace(known, labels=_lines(_read_member(archive, name)))
    if "metadata.json" in names:
        return _add_ultralytics(known, _read_member(archive, "metadata.json"))
    return known


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise ValueError(f"{name} is larger than {_MAX_FILE_BYTES} bytes")
    return data


def _lines(data: bytes) -> tuple[str, ...]:
    text = data.decode("utf-8", "replace").rstrip()
    return tuple(line.strip() for line in text.split("\n")[:_MAX_LABELS]) if text else ()


def _add_ultralytics(known: Metadata, data: bytes) -> Metadata:
    """`names` maps class numbers to labels; `description`, `author` and the rest are texts."""
    try:
        said = json.loads(data)
    except RecursionError as exc:
        raise ValueError("metadata.json is nested too deeply") from exc
    if not isinstance(said, dict):
        raise ValueError("metadata.json: expected an object")
    names = said.get("names", {})
    by_number = names if isinstance(names, dict) else dict(enumerate(names)) if isinstance(names, list) else {}
    ordered = [
        str(by_number.get(str(index), by_number.get(index, ""))) for index in range(min(len(by_number), _MAX_LABELS))
    ]
    texts = {key: str(said.get(key, ""))[:1000] for key in ("description", "version", "author", "license")}
    return replace(
        known,
        description=known.description or texts["description"],
        version=known.version or texts["version"],
        author=known.author or texts["author"],
        license=known.license or texts["license"],
        labels=tuple(ordered),
    )
