"""Reads flatbuffers from strangers: bounded, without recursion, and every offset is checked.

Enough for the few tables of a model file that the runtime does not show. Layout: https://flatbuffers.dev/internals/
"""

import struct


class FlatbufferError(ValueError):
    """An offset leads outside the data, or the data are not what the schema says."""


class Table:
    """One table. Slots are the positions of its fields in the schema, from 0; a union takes two (type, value)."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at
        vtable = at - unpack(data, "<i", at)
        size = unpack(data, "<H", vtable)
        self._slots = struct.unpack(f"<{max(size - 4, 0) // 2}H", slice_of(data, vtable + 4, max(size - 4, 0) // 2 * 2))

    def number(self, slot: int, form: str, default: int = 0) -> int:
        """A scalar, such as form `<I` for uint."""
        at = self._field(slot)
        return default if at is None else unpack(self._data, form, at)

    def table(self, slot: int) -> "Table | None":
        at = self._target(slot)
        return None if at is None else Table(self._data, at)

    def tables(self, slot: int, limit: int) -> list["Table"]:
        """The first `limit` tables of a vector of tables."""
        return [Table(self._data, at) for at in self._targets(slot, limit)]

    def text(self, slot: int) -> str:
        """A string; empty when it is not there. What is not UTF-8 in it is replaced."""
        return bytes(self.raw(slot)).decode("utf-8", "replace")

    def raw(self, slot: int, item_bytes: int = 1) -> memoryview:
        """The bytes of a vector of scalars, or of a string; empty when it is not there."""
        at = self._target(slot)
        if at is None:
            return memoryview(b"")
        return slice_of(self._data, at + 4, unpack(self._data, "<I", at) * item_bytes)

    def floats(self, slot: int, limit: int) -> tuple[float, ...]:
        """The first `limit` numbers of a vector of float32."""
        raw = self.raw(slot, 4)[: 4 * limit]
        return struct.unpack(f"<{len(raw) // 4}f", raw)

    def _field(self, slot: int) -> int | None:
        offset = self._slots[slot] if slot < len(self._slots) else 0
        return self._at + offset if offset else None

    def _target(self, slot: int) -> int | None:
        at = self._field(slot)
        return None if at is None else at + unpack(self._data, "<I", at)

    def _targets(self, slot: int, limit: int) -> list[int]:
        at = self._target(slot)
        if at is None:
            return []
        start, count = at + 4, min(unpack(self._data, "<I", at), limit)
        offsets = struct.unpack(f"<{count}I", slice_of(self._data, start, 4 * count))
        return [start + 4 * index + offset for index, offset in enumerate(offsets)]


def read_root(data: bytes) -> Table:
    """The outermost table.

    Raises:
        FlatbufferError: as do all methods of Table.
    """
    return Table(data, unpack(data, "<I", 0))


def unpack(data: bytes, form: str, at: int) -> int:
    """One integer."""
    try:
        if at >= 0:  # struct counts negative offsets from the end
            number: int = struct.unpack_from(form, data, at)[0]
            return number
    except struct.error:
        pass
    raise FlatbufferError(f"an offset leads to byte {at} of {len(data)}")


def slice_of(data: bytes, at: int, size: int) -> memoryview:
    """`size` bytes from `at`, without copying them."""
    if at < 0 or at + size > len(data):
        raise FlatbufferError(f"an offset leads to byte {at + size} of {len(data)}")
    return memoryview(data)[at : at + size]
