"""A real detector with TensorFlow's detection post-process: an SSD that gives raw boxes and logits, plus two operators.

    raw boxes  ----------------------------.
    logits  -> LOGISTIC -> confidences ----+-> TFLite_Detection_PostProcess -> boxes, classes, scores, count
    anchors (a constant) ------------------'

The kernel in the runtime decodes the same anchors as decoder `ssd_anchors`: an independent opinion on its numbers.
"""

from collections.abc import Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

OUTPUT_NAMES = tuple(f"TFLite_Detection_PostProcess{suffix}" for suffix in ("", ":1", ":2", ":3"))


def add_postprocess(
    model: bytes,
    anchors: np.ndarray,
    *,
    scales: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0),
    iou_threshold: float = 0.6,
    score_threshold: float = 0.1,
    max_detections: int = 25,
    output_order: Sequence[int] = (0, 1, 2, 3),
    output_names: Sequence[str] = OUTPUT_NAMES,
) -> bytes:
    """The model with a post-process in place of its raw outputs.

    Args:
        model: a TFLite file with outputs boxes 1 x N x 4 and logits 1 x N x (background + classes).
        anchors: N x 4: centre y, centre x, height, width, as shares of the input.
        scales: of y, x, h, w.
        iou_threshold: over this the better box stays, whatever their classes ("fast NMS").
        score_threshold: what is under it is left out.
        max_detections: size of the outputs.
        output_order: which of boxes, classes, scores, count comes where.
        output_names: of boxes, classes, scores, count.
    """
    tree = schema.ModelT.InitFromPackedBuf(bytearray(model))
    graph = tree.subgraphs[0]
    boxes, logits = graph.outputs
    entries, classes = (int(size) for size in graph.tensors[logits].shape[1:])
    confidences = _add_tensor(tree, "confidences", (1, entries, classes))
    constant = _add_tensor(tree, "anchors", anchors.shape, anchors.astype("<f4").tobytes())
    shapes = ((1, max_detections, 4), (1, max_detections), (1, max_detections), (1,))
    results = [_add_tensor(tree, name, shape) for name, shape in zip(output_names, shapes, strict=True)]
    _add_operator(tree, [logits], [confidences], schema.BuiltinOperator.LOGISTIC)
    options = {
        "max_detections": max_detections,
        "max_classes_per_detection": 1,
        "nms_score_threshold": score_threshold,
        "nms_iou_threshold": iou_threshold,
        "num_classes": classes - 1,
        **dict(zip(("y_scale", "x_scale", "h_scale", "w_scale"), scales, strict=True)),
    }
    operator = _add_operator(tree, [boxes, confidences, constant], results, schema.BuiltinOperator.CUSTOM)
    operator.customOptions = list(flexbuffers.Dumps(options))
    graph.outputs = [results[place] for place in output_order]
    tree.signatureDefs = []  # they name the old outputs
    builder = flatbuffers.Builder(len(model) + 1_000_000)
    builder.Finish(tree.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _add_tensor(tree: schema.ModelT, name: str, shape: Sequence[int], data: bytes | None = None) -> int:
    """A float32 tensor; with data it is a constant. Returns its index."""
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type = name, list(shape), schema.TensorType.FLOAT32
    tensor.buffer = 0  # by convention the empty one
    if data is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        tree.buffers.append(buffer)
        tensor.buffer = len(tree.buffers) - 1
    tree.subgraphs[0].tensors.append(tensor)
    return len(tree.subgraphs[0].tensors) - 1


def _add_operator(tree: schema.ModelT, inputs: list[int], outputs: list[int], code: int) -> schema.OperatorT:
    kind = schema.OperatorCodeT()
    kind.builtinCode, kind.deprecatedBuiltinCode, kind.version = code, min(code, 127), 1
    if code == schema.BuiltinOperator.CUSTOM:
        kind.customCode = "TFLite_Detection_PostProcess"
    tree.operatorCodes.append(kind)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(tree.operatorCodes) - 1
    operator.inputs, operator.outputs = inputs, outputs
    tree.subgraphs[0].operators.append(operator)
    return operator
