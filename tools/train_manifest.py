"""The manifest of a model that tools/train.py makes."""

import json

import msgspec

from agent.manifest import InputSpec, Manifest, SeriesInput, name_the_input
from agent.runtime.yamlfile import parse_document

Spec = InputSpec | SeriesInput


def manifest_text(
    *, name: str, version: str, comment: str, spec: Spec, classes: int, embedding: str | None = None
) -> str:
    """Without metrics: those are tools/evaluate.py's to write."""
    features = f"embedding: {json.dumps(embedding)}\n" if embedding else ""
    return f"""\
# {comment}
name: {name}
version: "{version}"
task: classify
input: {{{input_text(spec)}}}
decoder: {{type: classify, top_k: {min(3, classes)}}}
{features}labels: labels.txt
golden: {{dir: golden, min_agreement: 0.99}}
limits: {{max_infer_ms: 100, max_memory_bytes: 300MiB}}
"""


def input_text(spec: Spec) -> str:
    """What of it is not the default, as YAML in one line."""
    whole = msgspec.to_builtins(spec)
    plain = {field.encode_name: field.default for field in msgspec.structs.fields(spec)}
    said = {key: value for key, value in whole.items() if key == "type" or value != _builtin(plain[key])}
    if isinstance(spec, InputSpec):
        del said["type"]
    return ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in said.items())


def _builtin(default: object) -> object:
    return None if default is msgspec.NODEFAULT else msgspec.to_builtins(default)


def checked(text: str) -> Manifest:
    """Raises DocumentError: these are no options for a model."""
    return parse_document(text.encode(), Manifest, "these options", name_the_input)
