"""YAML files into frozen structs, with errors that name the file, the line, the key and what was expected."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import msgspec.inspect
import yaml

from agent.runtime.text import one_line
from agent.runtime.units import ByteSize, Duration

MAX_DOCUMENT_BYTES = 1 << 20

T = TypeVar("T")
_AT = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`(?P<path>.*)`)?$", re.DOTALL)
_HALF = re.compile("[\ud800-\udfff]")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


class DocumentError(ValueError):
    """A file that is missing, unreadable, or holds something else than expected."""


class _Loader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; here that is an error. Aliases are refused: a few lines
    of them unfold into gigabytes. Only `true` and `false` are booleans, as in YAML 1.2: `on` is a key of ours. Escapes
    of two halves, which JSON writes for what lies beyond 65,535, are one character."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - declared so by PyYAML
        first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:bool"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and "\0" in value:  # no path and no name has one
            raise yaml.constructor.ConstructorError(None, None, "a NUL character", node.start_mark)
        if not isinstance(value, str) or not _HALF.search(value):
            return value
        try:
            return value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise yaml.constructor.ConstructorError(None, None, "half of a character", node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key has to be a word", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


def load_document(path: Path, kind: type[T], complete: Callable[[object], None] = lambda _: None) -> T:
    """Read a YAML file into `kind`, a frozen struct; `complete` may put in what is allowed to be left out.

    Raises:
        DocumentError: one line that says what is wrong, where, and what was expected.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as exc:
        raise DocumentError(f"{path}: {(exc.strerror or str(exc)).lower()}") from exc
    if len(text) > MAX_DOCUMENT_BYTES:
        raise DocumentError(f"{path}: larger than {MAX_DOCUMENT_BYTES} bytes")
    return parse_document(text, kind, str(path), complete)


def parse_document(text: bytes, kind: type[T], source: str, complete: Callable[[object], None] = lambda _: None) -> T:
    """The same for bytes that are already there; `source` names them in errors."""
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node else {}
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        where = f":{mark.line + 1}" if mark else ""
        raise DocumentError(f"{source}{where}: {one_line(exc.problem or exc.context or 'not YAML')}") from exc
    # PyYAML lets many out: 1:1:…:1.5, a number to the base of 60, is an OverflowError.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as exc:
        raise DocumentError(f"{source}: not YAML: {one_line(str(exc))}") from exc
    finally:
        if loader:
            loader.dispose()
    complete(data)
    try:
        return msgspec.convert(data, kind, dec_hook=_decode_unit)
    except msgspec.ValidationError as exc:
        raise DocumentError(_explain(str(exc), data, node, source, kind)) from exc


def _decode_unit(kind: type, value: object) -> object:
    if kind is ByteSize or kind is Duration:
        return kind.parse(value)
    raise NotImplementedError(kind)


def _explain(message: str, data: object, node: yaml.Node | None, source: str, kind: type) -> str:
    """msgspec's `Expected ... - at `$.a[0].b`` as `file:line: a[0].b: expected ..., got ...`."""
    match = _AT.match(message)
    what, path = (match["what"], match["path"] or "$") if match else (message, "$")
    steps = [name or index for name, index in _STEP.findall(path)]
    unknown = re.search(r"(?:unknown|required) field `([^`]*)`", what)
    value, line = _find(data, node, [*steps, unknown[1]] if unknown and "unknown" in what else steps)
    dotted = path.removeprefix("$").removeprefix(".")
    if unknown:
        dotted = f"{dotted}.{unknown[1]}" if dotted else unknown[1]
        text = "unknown key" if "unknown" in what else "this key is missing"
    else:
        text = what[:1].lower() + what[1:].replace("`", "")
        if what.startswith("Invalid") and (choices := _choices(kind, steps, data)):
            text = f"expected {', '.join(choices[:-1])} or {choices[-1]}" if choices[1:] else f"expected {choices[0]}"
        if ", got" not in text:
            text = f"{text}, got {_short(value)}"
        else:
            text = f"{text.partition(', got')[0]}, got {_short(value)}"
            if isinstance(value, int | float) and text.startswith("expected str"):
                text += ": put it in quotes"
    where = f"{source}:{line}" if line else source
    return f"{where}: {one_line(dotted)}: {one_line(text)}" if dotted else f"{where}: {one_line(text)}"


def _choices(kind: type, steps: list[str], data: object) -> list[str]:
    """What may stand at a path: the values of a literal, or the tags of a union; nothing where it is no such choice."""
    types = [msgspec.inspect.type_info(kind)]
    for step in steps:
        types = [inner for one in types for inner in _inside(one, step, data)]
        if isinstance(data, list):
            data = data[int(step)] if step.isdigit() else None
        else:
            data = data.get(step) if isinstance(data, dict) else None
    found = (value for one in types for leaf in _alternatives(one) for value in getattr(leaf, "values", ()))
    return list(dict.fromkeys(map(str, found)))


def _alternatives(one: msgspec.inspect.Type) -> list[msgspec.inspect.Type]:
    if isinstance(one, msgspec.inspect.Metadata):
        return _alternatives(one.type)
    if isinstance(one, msgspec.inspect.UnionType):
        return [leaf for inner in one.types for leaf in _alternatives(inner)]
    return [one]


def _inside(one: msgspec.inspect.Type, step: str, data: object) -> Iterator[msgspec.inspect.Type]:
    """The types of what a step leads to."""
    for leaf in _alternatives(one):
        if isinstance(leaf, msgspec.inspect.StructType):
            tag = data.get(leaf.tag_field, leaf.tag) if leaf.tag_field and isinstance(data, dict) else leaf.tag
            if step == leaf.tag_field:
                yield msgspec.inspect.LiteralType((leaf.tag,))
            elif tag == leaf.tag:
                yield from (field.type for field in leaf.fields if field.encode_name == step)
        elif isinstance(leaf, msgspec.inspect.DictType):
            yield leaf.value_type
        elif isinstance(leaf, msgspec.inspect.VarTupleType | msgspec.inspect.ListType):
            yield leaf.item_type


def _find(data: object, node: yaml.Node | None, steps: list[str]) -> tuple[object, int]:
    """The value at a path, and the line of its key."""
    line = 0
    for step in steps:
        if isinstance(node, yaml.MappingNode) and isinstance(data, dict):
            pair = next((p for p in node.value if p[0].value == step), None)
            if pair is None:
                break
            line, node, data = pair[0].start_mark.line + 1, pair[1], data.get(step)
        elif isinstance(node, yaml.SequenceNode) and isinstance(data, list) and step.isdigit():
            node, data = node.value[int(step)], data[int(step)]
            line = node.start_mark.line + 1
        else:
            break
    return data, line


def _short(value: object) -> str:
    text = repr(value) if value is not None else "nothing"
    return text if len(text) <= 60 else f"{text[:57]}..."
