"""JSON Schemas of all messages, made from the structs; docs/schema/ holds them, and a test keeps the two the same."""

from typing import Any

import msgspec

from agent.wire.messages import MESSAGES, StreamMessage


def message_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one message, by its name in MESSAGES."""
    kind = MESSAGES[name]
    (reference,), parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    if issubclass(kind, StreamMessage):  # optional in the struct only because the outbox adds them
        parts[kind.__name__]["required"] += ["seq", "prev"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": name, **reference, "$defs": parts}
