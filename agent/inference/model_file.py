"""Tells a whole TFLite model from everything else that people have in files called model.tflite."""

import io
import zipfile
from typing import Any

from agent.errors import ModelError
from agent.inference.flatbuffer import FlatbufferError, Table, read_root, slice_of

# Slots of tensorflow/lite/schema/schema.fbs that lead to other places of the file. A number is the size of a vector's
# items in bytes, a dict a vector of such tables, a tuple a single table.
_QUANTIZATION = {0: 4, 1: 4, 2: 4, 3: 8}
_TENSOR = {0: 4, 3: 1, 4: (_QUANTIZATION,)}
_OPERATOR = {1: 4, 2: 4, 4: ({},), 5: 1}
_SUBGRAPH = {0: _TENSOR, 1: 4, 2: 4, 3: _OPERATOR, 4: 1}
_BUFFER = {0: 1}
_MODEL = {1: {1: 1}, 2: _SUBGRAPH, 3: 1, 4: _BUFFER, 6: {0: 1}}
_OPERATOR_CODES, _BUFFERS = 1, 4

VAR_HANDLE = 142
"""BuiltinOperator of schema.fbs: a variable that outlives an invocation."""

_STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file, such as Keras' .h5; convert it with tf.lite.TFLiteConverter.from_keras_model",
    ),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x7fELF", "a program or shared library"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GGUF", "a GGUF language model"),
    (b"\x80\x02", "a Python pickle, such as an old PyTorch file; export the model to TFLite where it was trained"),
    (b"<", "a web page or XML, perhaps the error page of a download"),
)


def check_model(model: bytes) -> None:
    """Look whether these bytes are a whole TFLite model, before native code trusts them.

    tflite-runtime 2.14 crashes on every second truncated file.

    Raises:
        ModelError: they are something else, and what; or parts of the file are missing.
    """
    if model[4:8] != b"TFL3":
        raise ModelError(f"not a TFLite model: this is {_what_is(model)}")
    try:
        root = read_root(model)
        # No honest file has more tables than this; one whose offsets lead in circles or all to the same place may.
        limit = len(model) // 4
        _follow(root, _MODEL, limit)
        for buffer in root.tables(_BUFFERS, limit):
            offset, size = buffer.number(1, "<Q"), buffer.number(2, "<Q")
            if offset > 1:  # the data lie behind the flatbuffer, as in files over 2 GB
                slice_of(model, offset, size)
    except FlatbufferError as exc:
        raise ModelError(
            f"the model file is truncated or damaged: {exc}; copy it again and compare its sha256"
        ) from exc


def uses_operator(model: bytes, code: int) -> bool:
    """Whether a model that `check_model` has passed uses a built-in operator, by its number in schema.fbs."""
    codes = read_root(model).tables(_OPERATOR_CODES, len(model) // 4)
    return any(max(one.number(0, "<b"), one.number(3, "<i")) == code for one in codes)


def _follow(table: Table, slots: dict[int, Any], limit: int) -> int:
    """Follow all offsets of a table; returns how many more tables may be visited."""
    for slot, leads_to in slots.items():
        if isinstance(leads_to, int):
            table.raw(slot, leads_to)
        elif isinstance(leads_to, tuple):
            child = table.table(slot)
            limit = _follow(child, leads_to[0], limit - 1) if child else limit
        else:
            for child in table.tables(slot, limit + 1):
                limit = _follow(child, leads_to, limit - 1)
        if limit < 0:
            raise FlatbufferError("more tables than the file has room for")
    return limit


def _what_is(data: bytes) -> str:
    if not data:
        return "an empty file"
    if data[:4] == b"PK\x03\x04":
        return _which_zip(data)
    for start, what in _STARTS:
        if data.startswith(start):
            return what
    return _which_protobuf(data) or f"something else; bytes 4-7 should be TFL3, it starts with {data[:8].hex(' ')}"


def _which_protobuf(data: bytes) -> str:
    """Protobufs have no magic number; they start with the tag of their first field.

    08 is ir_version of an ONNX ModelProto; 0A a message or text, such as the first node of a GraphDef.
    """
    head = data[:4096]
    if head[:1] == b"\x08" and (b"onnx" in head or b"pytorch" in head):
        return "an ONNX model; convert it with onnx2tf"
    if head[:1] in (b"\x08", b"\x0a") and (b"saved_model" in head or b"Placeholder" in head):
        return "a TensorFlow graph (.pb); convert its SavedModel with tf.lite.TFLiteConverter.from_saved_model"
    return ""


def _which_zip(data: bytes) -> str:
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        names = []
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch file; export the model to TFLite where it was trained"
    if "model.weights.h5" in names:
        return "a Keras file (.keras); convert it with tf.lite.TFLiteConverter.from_keras_model"
    inside = [name for name in names if name.endswith(".tflite")]
    if inside:
        return f"a zip archive (MediaPipe calls it .task) with {', '.join(inside[:3])} in it; unzip it"
    return "a zip archive; unpack it first"
