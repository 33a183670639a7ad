"""A data set of the drawn digits in tests/golden, and the digits model with one class destroyed."""

from pathlib import Path

import numpy as np

from tests.sim.bundles import ROOT, model_path
from tools.picture_set import Entry, digest, write_index


def make_set(folder: Path) -> Path:
    """One picture of each digit to validate with, one to test with."""
    (folder / "pictures").mkdir(parents=True)
    entries = []
    for path in sorted((ROOT / "tests" / "golden" / "digits").glob("*.png")):
        data, turn = path.read_bytes(), path.stem[-1]
        (folder / "pictures" / path.name).write_bytes(data)
        split = "validation" if turn == "0" else "test"
        entries.append(Entry(f"pictures/{path.name}", path.stem[0], f"pen-{turn}", split, digest(data)))
    write_index(folder, entries)
    return folder


def destroyed(label: int, path: Path) -> Path:
    """The int8 model, which now never answers this digit: the bias of its neuron is far down."""
    from ai_edge_litert import schema_py_generated as schema

    data = model_path("digits").read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    graph = model.subgraphs[0]
    dense = [
        op for op in graph.operators
        if model.operatorCodes[op.opcodeIndex].deprecatedBuiltinCode == schema.BuiltinOperator.FULLY_CONNECTED
    ][-1]  # fmt: skip
    bias = np.asarray(model.buffers[graph.tensors[dense.inputs[2]].buffer].data, np.uint8).view(np.int32)
    low = bias.copy()
    low[label] = -1_000_000
    assert data.count(bias.tobytes()) == 1
    path.write_bytes(data.replace(bias.tobytes(), low.tobytes()))
    return path
