"""A bundle of the digits model with an embedding: the input of its last layer, made an output of the model."""

import shutil
from pathlib import Path

import numpy as np

from tests.sim.bundles import OWN, needs_litert

VERSION = "1"


def with_embedding(model: bytes) -> tuple[bytes, str]:
    """The model with one more output, and that output's name."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    parsed = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    graph = parsed.subgraphs[0]
    kinds = [parsed.operatorCodes[one.opcodeIndex].builtinCode for one in graph.operators]
    last = graph.operators[max(place for place, kind in enumerate(kinds) if kind == 9)]  # FULLY_CONNECTED
    features = int(last.inputs[0])
    graph.outputs = np.array([*graph.outputs, features], np.int32)
    parsed.signatureDefs = None
    builder = flatbuffers.Builder(len(model))
    builder.Finish(parsed.Pack(builder), b"TFL3")
    name = graph.tensors[features].name
    return bytes(builder.Output()), name.decode() if isinstance(name, bytes) else name


def embedded_digits(models: Path) -> Path:
    """Write models/digits/1 with an embedding, made current; returns its folder. Skips on tflite-runtime."""
    needs_litert("its schema comes with LiteRT")
    source = OWN / "digits" / "2026.11.1"
    folder = models / "digits" / VERSION
    folder.mkdir(parents=True)
    model, name = with_embedding((source / "model.tflite").read_bytes())
    (folder / "model.tflite").write_bytes(model)
    shutil.copy(source / "labels.txt", folder)
    text = (source / "manifest.yaml").read_text().replace('"2026.11.1"', f'"{VERSION}"')
    (folder / "manifest.yaml").write_text(f'{text.rstrip()}\nembedding: "{name}"\n')
    (folder.parent / "current").write_text(f"{VERSION}\n")
    return folder
