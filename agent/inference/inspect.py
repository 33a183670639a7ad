"""What `edge-agent inspect` tells of a model file: tensors, metadata, labels, and a manifest that fits."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import ModelError
from agent.inference.guess import Suggestion, Tried, suggest
from agent.inference.interpreter import Interpreter
from agent.inference.metadata import Metadata, read_metadata
from agent.values import TensorInfo

MAX_MODEL_BYTES = 1 << 30

_TRIED_ELEMENTS = 10_000_000
_PLAIN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_YAML_WORDS = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))


@dataclass(frozen=True, slots=True)
class ModelReport:
    """All that can be said of a model file."""

    file: str
    size_bytes: int
    sha256: str
    runtime: str
    """Package and version that loaded it."""
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    tried: tuple[Tried, ...]
    """Range of each output on an input of zeros; empty when that run failed."""
    metadata: Metadata
    suggestion: Suggestion


def inspect_model(path: Path) -> ModelReport:
    """Load a model, run it once, and find out what it is.

    Native code reads the model in this process: it may crash on a hostile file.

    Raises:
        ModelError: the file is missing, too large, no TFLite model (says what it is), truncated, or does not load.
    """
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:  # asked first: read(limit) would set aside a gigabyte
            raise ModelError(f"{path}: larger than {MAX_MODEL_BYTES} bytes")
        model = path.read_bytes()
    except OSError as exc:
        raise ModelError(f"{path}: {(exc.strerror or str(exc)).lower()}") from exc
    try:
        interpreter = Interpreter(model, threads=1)
    except ModelError as exc:
        raise ModelError(f"{path}: {exc}") from exc
    tried = _try(interpreter)
    metadata = read_metadata(model)
    return ModelReport(
        file=str(path),
        size_bytes=len(model),
        sha256=hashlib.sha256(model).hexdigest(),
        runtime=f"{interpreter.runtime.package} {interpreter.runtime.version}",
        inputs=interpreter.inputs,
        outputs=interpreter.outputs,
        tried=tried,
        metadata=metadata,
        suggestion=suggest(path.stem, interpreter.inputs, interpreter.outputs, tried, metadata),
    )


def _try(interpreter: Interpreter) -> tuple[Tried, ...]:
    try:
        for index, info in enumerate(interpreter.inputs):
            interpreter.input_view(index)[...] = info.zero_point
        interpreter.invoke()
    except (ModelError, ValueError, TypeError):  # such as an input of strings
        return ()
    return tuple(_range(info, view) for info, view in zip(interpreter.outputs, interpreter.output_views(), strict=True))


def _range(info: TensorInfo, view: Any) -> Tried:
    if view.size == 0 or view.size > _TRIED_ELEMENTS or view.dtype.kind not in "iufb":
        return Tried(0.0, 0.0, adds_to_one=False)
    values = np.nan_to_num(info.dequantize(np.atleast_1d(view)))
    sums = values.sum(axis=-1, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    return Tried(low, high, adds_to_one=low >= 0.0 and values.shape[-1] > 1 and bool(np.allclose(sums, 1.0, atol=0.02)))


def format_report(report: ModelReport) -> str:
    """The report for a person, manifest included."""
    lines = [
        report.file,
        f"  {report.size_bytes} bytes, sha256 {report.sha256}",
        f"  loads in {report.runtime}",
        "",
        *_table("inputs", report.inputs, ()),
        "",
        *_table("outputs", report.outputs, report.tried),
        "",
        *_metadata_lines(report.metadata),
        "",
        manifest_yaml(report).rstrip("\n") or f"no manifest fits: {report.suggestion.problem}",
    ]
    return "\n".join(lines) + "\n"


def _table(title: str, tensors: tuple[TensorInfo, ...], tried: tuple[Tried, ...]) -> list[str]:
    rows = [("name", "shape", "dtype", "scale", "zero point", "on zeros")]
    for index, info in enumerate(tensors):
        quantised = (f"{info.scale:.6g}", str(info.zero_point)) if info.scale else ("-", "-")
        ran = f"{tried[index].low:.4g} .. {tried[index].high:.4g}" if tried else "-"
        rows.append((_plain(info.name), "x".join(map(str, info.shape)), info.dtype, *quantised, ran))
    if not tried:
        rows = [(*row[:-1], "") for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return [title, *("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)]


def _metadata_lines(said: Metadata) -> list[str]:
    if said == Metadata():
        return ["metadata: none in the file"]
    texts = [(key, getattr(said, key)) for key in ("name", "description", "version", "author", "license", "problem")]
    lines = [f"  {key}: {_plain(text)}" for key, text in texts if text]
    for kind, tensors in (("input", said.inputs), ("output", said.outputs)):
        for tensor in tensors:
            normalised = f"; mean {list(tensor.mean)}, std {list(tensor.std)}" if tensor.mean else ""
            color = f"; {tensor.color}" if tensor.color else ""
            lines.append(f"  {kind} {_plain(tensor.name)}: {_plain(tensor.description)}{color}{normalised}")
    if said.files:
        lines.append(f"  files: {_plain(', '.join(said.files))}")
    if said.labels:
        lines.append(f"  labels: {len(said.labels)}")
        lines += [f"    {index}: {_plain(label)}" for index, label in enumerate(said.labels)]
    return ["metadata", *lines]


def _plain(text: str) -> str:
    """One line that does nothing to a terminal: the text comes from outside."""
    return "".join(char if char.isprintable() else " " for char in text)[:300]


def manifest_yaml(report: ModelReport) -> str:
    """The suggested manifest as YAML; comments say what each value rests on. Empty when none fits."""
    suggested = report.suggestion
    if not suggested.manifest:
        return ""
    name = _plain(Path(report.file).name)
    head = f"# manifest.yaml for {name}, suggested by `edge-agent inspect`: check what is marked as a guess."
    return "\n".join([head, *_yaml_lines(suggested.manifest, suggested.reasons, "")]) + "\n"


def _yaml_lines(values: dict[str, Any], reasons: dict[str, str], path: str) -> Iterator[str]:
    indent = "  " * path.count(".")
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _yaml_lines(value, reasons, f"{path}{key}.")
            continue
        line = f"{indent}{key}: {_scalar(value)}"
        reason = reasons.get(f"{path}{key}")
        yield f"{line}  # {_plain(reason)}" if reason else line


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, str) and _PLAIN_TEXT.fullmatch(value) and value.lower() not in _YAML_WORDS:
        return value
    text = json.dumps(value)
    # YAML 1.1 takes 1e-05 for a text: it wants a point.
    return re.sub(r"^(-?\d+)e", r"\1.0e", text) if isinstance(value, float) else text
