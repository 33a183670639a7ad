"""Real TFLite models of any shape, made in memory with flatbuffers' builder; no converter, no runtime needed.

A model takes one tensor in. Each output is either a copy of the input (operator RESHAPE) or a constant. Slot
numbers are those of tensorflow/lite/schema/schema.fbs and metadata_schema.fbs (tflite-support).
"""

from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
from flatbuffers import number_types

DTYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "int8": 9}
ADD, RESHAPE, CUSTOM, UNIDIRECTIONAL_SEQUENCE_RNN = 0, 22, 32, 35


@dataclass
class TensorSpec:
    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    scale: float = 0.0
    zero_point: int = 0
    data: np.ndarray | None = None


@dataclass
class FbTable:
    """A flatbuffer table: slot -> numpy scalar, str, bytes, array, FbTable, or a list of str or FbTable."""

    slots: dict[int, Any] = field(default_factory=dict)


def _write(builder: flatbuffers.Builder, value: Any) -> int:
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, bytes):
        value = np.frombuffer(value, np.uint8)
    if isinstance(value, np.ndarray):
        return builder.CreateNumpyVector(value.ravel())
    if isinstance(value, list):
        offsets = [_write(builder, item) for item in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()
    offsets = {slot: _write(builder, v) for slot, v in value.slots.items() if not isinstance(v, np.generic)}
    builder.StartObject(max(value.slots, default=-1) + 1)
    for slot, item in value.slots.items():
        if isinstance(item, np.generic):
            flags = getattr(number_types, f"{type(item).__name__.capitalize()}Flags")
            builder.PrependSlot(flags, slot, item.item(), None)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[slot], 0)
    return builder.EndObject()


def flatbuffer(table: FbTable, identifier: bytes) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write(builder, table), file_identifier=identifier)
    return bytes(builder.Output())


def make_model(
    given: TensorSpec, outputs: list[TensorSpec] | None = None, metadata: FbTable | None = None, custom_op: str = ""
) -> bytes:
    """A model; without outputs it copies its input. `custom_op` makes that copy an operator which nobody has."""
    copied = outputs is None
    if outputs is None:
        outputs = [TensorSpec("copy", given.shape, given.dtype, given.scale, given.zero_point)]
    shape = TensorSpec("shape", (len(given.shape),), "int32", data=np.array(given.shape, np.int32))
    tensors, buffers = [given, shape, *outputs], [FbTable()]
    rows = []
    for spec in tensors:
        if spec.data is not None:
            buffers.append(FbTable({0: np.ascontiguousarray(spec.data).view(np.uint8)}))
        rows.append(_tensor(spec, len(buffers) - 1 if spec.data is not None else 0))
    operators = [
        FbTable({0: np.uint32(0), 1: np.array([0] if custom_op else [0, 1], np.int32), 2: np.array([2], np.int32)})
    ]
    code = (
        FbTable({0: np.int8(CUSTOM), 1: custom_op, 3: np.int32(CUSTOM)})
        if custom_op
        else FbTable({0: np.int8(RESHAPE), 2: np.int32(1), 3: np.int32(RESHAPE)})
    )
    graph = {0: rows, 1: np.array([0], np.int32), 2: np.arange(2, len(tensors), dtype=np.int32), 4: "main"}
    if copied:
        graph[3] = operators
    model = {0: np.uint32(3), 1: [code], 2: [FbTable(graph)], 3: "tiny", 4: buffers}
    if metadata:
        buffers.append(FbTable({0: flatbuffer(metadata, b"M001")}))
        model[6] = [FbTable({0: "TFLITE_METADATA", 1: np.uint32(len(buffers) - 1)})]
    return flatbuffer(FbTable(model), b"TFL3")


def make_sum(inputs: list[TensorSpec], total: TensorSpec | None = None) -> bytes:
    """A model that adds up its two inputs, or doubles the only one; any shape goes."""
    total = total or TensorSpec("total", inputs[0].shape, inputs[0].dtype)
    rows = [_tensor(spec, 0) for spec in (*inputs, total)]
    added = np.array([0, len(inputs) - 1], np.int32)
    operator = FbTable({0: np.uint32(0), 1: added, 2: np.array([len(inputs)], np.int32)})
    code = FbTable({0: np.int8(ADD), 2: np.int32(1), 3: np.int32(ADD)})
    graph = {0: rows, 1: np.arange(len(inputs), dtype=np.int32), 2: np.array([len(inputs)], np.int32), 3: [operator]}
    model = {0: np.uint32(3), 1: [code], 2: [FbTable(graph | {4: "main"})], 3: "sum", 4: [FbTable()]}
    return flatbuffer(FbTable(model), b"TFL3")


def make_recurrent(samples: int) -> bytes:
    """A model that takes a window of one channel at once and keeps a state, as converters make of layers of Keras:
    y[t] = x[t] + y[t - 1] / 2. The state is a variable tensor, which outlives an inference."""
    tensors = [
        _tensor(TensorSpec("x", (1, samples, 1)), 0),
        _tensor(TensorSpec("input_weights", (1, 1)), 1),
        _tensor(TensorSpec("recurrent_weights", (1, 1)), 2),
        _tensor(TensorSpec("bias", (1,)), 3),
        _tensor(TensorSpec("state", (1, 1)), 0),
        _tensor(TensorSpec("y", (1, samples, 1)), 0),
    ]
    tensors[4].slots[5] = np.uint8(1)  # is_variable
    operator = FbTable({0: np.uint32(0), 1: np.arange(5, dtype=np.int32), 2: np.array([5], np.int32)})
    kind = UNIDIRECTIONAL_SEQUENCE_RNN
    code = FbTable({0: np.int8(kind), 2: np.int32(1), 3: np.int32(kind)})
    graph = {0: tensors, 1: np.array([0], np.int32), 2: np.array([5], np.int32), 3: [operator], 4: "main"}
    constants = [FbTable({0: np.array([value], np.float32).view(np.uint8)}) for value in (1.0, 0.5, 0.0)]
    model = {0: np.uint32(3), 1: [code], 2: [FbTable(graph)], 3: "recurrent", 4: [FbTable(), *constants]}
    return flatbuffer(FbTable(model), b"TFL3")


def _tensor(spec: TensorSpec, buffer: int) -> FbTable:
    slots: dict[int, Any] = {
        0: np.array(spec.shape, np.int32),
        1: np.int8(DTYPES[spec.dtype]),
        2: np.uint32(buffer),
        3: spec.name,
    }
    if spec.scale:
        slots[4] = FbTable({2: np.array([spec.scale], np.float32), 3: np.array([spec.zero_point], np.int64)})
    return FbTable(slots)
