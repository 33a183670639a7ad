"""`edge-agent schema`: JSON Schemas of the configuration and of the messages."""

import argparse
import ast
import inspect
import itertools
import json
from pathlib import Path
from typing import Any

import msgspec

from agent import config
from agent.config import sources
from agent.errors import AgentError
from agent.runtime.files import write_atomic
from agent.runtime.units import ByteSize, Duration
from agent.wire.messages import MESSAGES
from agent.wire.schemas import message_schema


def main(args: argparse.Namespace) -> int:
    """Print the configuration's schema, or write those of the messages."""
    if args.messages is None:
        print(json.dumps(config_schema(), indent=2))
        return 0
    folder = Path(args.messages)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in MESSAGES:
            text = json.dumps(message_schema(name), indent=2) + "\n"
            write_atomic(folder / f"{name}.schema.json", text.encode(), mode=0o644)
    except OSError as exc:
        raise AgentError(f"{folder}: {(exc.strerror or str(exc)).lower()}") from exc
    return 0


def config_schema() -> dict[str, Any]:
    """JSON Schema of the configuration, for editors; the descriptions are the docstrings under the fields."""

    def unit_schema(kind: type) -> dict[str, Any]:
        if kind is ByteSize or kind is Duration:
            return dict(kind.schema)
        raise NotImplementedError(kind)

    (reference,), parts = msgspec.json.schema_components(
        [config.Config], schema_hook=unit_schema, ref_template="#/$defs/{name}"
    )
    for section, docs in field_docs().items():
        for field, text in docs.items():
            parts[section]["properties"][field]["description"] = text
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "edge-agent configuration",
        **reference,
        "$defs": parts,
    }


def field_docs() -> dict[str, dict[str, str]]:
    """The docstring under each field of each section; Python itself does not keep them."""
    docs: dict[str, dict[str, str]] = {}
    for node in (*ast.parse(inspect.getsource(config)).body, *ast.parse(inspect.getsource(sources)).body):
        if isinstance(node, ast.ClassDef):
            docs[node.name] = {
                field.target.id: " ".join(text.value.value.split())
                for field, text in itertools.pairwise(node.body)
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            }
    return {section: fields for section, fields in docs.items() if fields}
