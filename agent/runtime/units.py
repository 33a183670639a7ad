"""Sizes and durations as people write them: `256MiB`, `7d`."""

import re
from typing import Any, ClassVar, Self

_TOO_LARGE = 2.0**63
_NUMBER = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$")


class _Quantity:
    """A number with a unit."""

    units: ClassVar[dict[str, float]]
    expected: ClassVar[str]

    @classmethod
    def _scaled(cls, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"expected {cls.expected}")
        match = _NUMBER.match(str(value))
        if not match or match[2].lower() not in cls.units:
            raise ValueError(f"expected {cls.expected}")
        scaled = float(match[1]) * cls.units[match[2].lower()]
        if scaled >= _TOO_LARGE:
            raise ValueError(f"expected {cls.expected}")
        return scaled


class ByteSize(int, _Quantity):
    """A size in bytes, written as a number with B, KiB, MiB, GiB, kB, MB or GB."""

    units: ClassVar[dict[str, float]] = {
        "": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9,
    }  # fmt: skip
    expected: ClassVar[str] = "a size such as 256MiB"
    schema: ClassVar[dict[str, Any]] = {
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(([KkMmGg][Ii]?)?[Bb])?$"},
        ]
    }

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raises ValueError for anything that is not a size."""
        return cls(int(cls._scaled(value)))


class Duration(float, _Quantity):
    """A duration in seconds, written as a number with s, min, h or d."""

    units: ClassVar[dict[str, float]] = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400}
    expected: ClassVar[str] = "a duration such as 30s, 10min, 12h or 7d"
    schema: ClassVar[dict[str, Any]] = {
        "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(s|min|h|d)?$"}]
    }

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raises ValueError for anything that is not a duration."""
        return cls(cls._scaled(value))
