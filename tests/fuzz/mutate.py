"""Changes to inputs that a fuzzer which only sees Python does not find: parsers in C show it no branches."""

import json
import random
from collections.abc import Iterator
from typing import Any

WORDS = (
    *b'" { } [ ] : , null true false -1 0 1e999 -0.0 NaN Infinity 18446744073709551616 1:1 0x .nan'.split(),
    *rb"\u0000 \ud800 - ? !! &a *a <<: | 2001-01-01 ../ edge/devices/ schema payload trust_chain".split(),
    *(b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\0", b"\n", b"\n\0\n", b" ", b"\xff\xd8\xff", b"\xff\xd9", b"\xff\xda"),
    *(b"[" * 1200, b'{"a":' * 1100, b"9" * 5000, b"1:" * 300 + b"1.5", b"\xf5EO1", b"\xff\xff\xff\xff"),
)
"""What trips parsers up."""

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 0.5, -0.0, 2**31, 2**53, 2**64, 10**400, 1e308, [], {}, [[]], "", "\0", "a\nb", "\x1b[2J",
    "../../x", "A" * 5000, "true", "NaN", "edge/devices/cam-2/commands/restart",
)  # fmt: skip
"""What stands where something else was expected."""


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to three changes: of values where the input is JSON, else of bytes."""
    for _ in range(rng.randint(1, 3)):
        data = (_change_json(data, rng) if rng.random() < 0.5 else None) or _change_bytes(data, rng)
    return data


def _change_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut out, double, put in, replace, cut off."""
    at, to = sorted(rng.randint(0, len(data)) for _ in range(2))
    match rng.randrange(6):
        case 0 if at < len(data):
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + data[to:]
        case 2 if to - at < 2000:
            return data[:to] + data[at:]
        case 3:
            return data[:at] + rng.choice(WORDS) + data[to:]
        case 4:
            return data[:at]
    return data[:at] + rng.choice(WORDS) + data[at:]


def _change_json(data: bytes, rng: random.Random) -> bytes | None:
    """Another value, none, one twice or one more at a random place; None: there is no JSON in it."""
    start, end = data.find(b"{"), data.rfind(b"}") + 1
    try:
        whole = json.loads(data[start:end])
        *way, last = rng.choice([path for path in _paths(whole) if path])
    except (ValueError, RecursionError, IndexError):
        return None
    part = whole
    for name in way:
        part = part[name]
    match rng.randrange(4):
        case 0:
            del part[last]
        case 1 if isinstance(part, list):
            part += [part[last]] * rng.choice((1, 1, 600))
        case 2 if isinstance(part, dict):
            part[rng.choice(("x", "", "\0", "A" * 3000))] = part[last]
        case _:
            part[last] = rng.choice(VALUES)
    text = json.dumps(whole, ensure_ascii=rng.random() < 0.5)
    return data[:start] + text.encode("utf-8", "surrogatepass") + data[end:]


def _paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield here
    items = value.items() if isinstance(value, dict) else enumerate(value[:20]) if isinstance(value, list) else ()
    for name, part in items:
        yield from _paths(part, (*here, name))
