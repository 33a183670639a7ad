"""How tools/retire.py finds out how large a blob is, without fetching it; what it clears is in tests/broker."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.wire.releases import CHUNK_BYTES
from agent.wire.topics import Topics
from tools import retire
from tools.operator_link import OperatorLink

LAST = b"the last one"


class Shelf:
    """A broker on which one blob lies, with some chunks missing."""

    def __init__(self, chunks: int, holes: Sequence[int] = ()) -> None:
        self.chunks, self.holes = chunks, holes
        self.fetched = self.rounds = 0

    def retained(self, filters: Sequence[str], expected: int | None = None) -> Iterator[tuple[str, bytes]]:
        self.rounds += 1
        for topic in filters:
            index = int(topic.rsplit("/", 1)[1])
            if index < self.chunks and index not in self.holes:
                self.fetched += 1
                yield topic, LAST if index == self.chunks - 1 else bytes(CHUNK_BYTES)


@given(st.integers(1, 1 << 20))
def test_the_size_is_found_with_few_chunks(chunks: int) -> None:
    shelf = Shelf(chunks)
    first_bytes = CHUNK_BYTES if chunks > 1 else len(LAST)
    found = retire.measure(cast("OperatorLink", shelf), Topics("edge", "+"), "a" * 64, first_bytes)
    assert found == (chunks, (chunks - 1) * CHUNK_BYTES + len(LAST))
    assert shelf.rounds <= 8
    assert shelf.fetched <= 24 + 8 * 20


@given(st.integers(2, 100), st.data())
def test_missing_chunks_do_not_hide_what_follows_closely(chunks: int, data: st.DataObject) -> None:
    hole = data.draw(st.integers(1, chunks - 1))
    found, _ = retire.measure(cast("OperatorLink", Shelf(chunks, [hole])), Topics("edge", "+"), "a" * 64, CHUNK_BYTES)
    assert found >= hole


def test_help_teaches() -> None:
    done = subprocess.run([sys.executable, retire.__file__, "--help"], capture_output=True, text=True, check=True)
    for word in ("exit codes", "--yes", "--release", "--broker"):
        assert word in done.stdout


@pytest.mark.parametrize("options", [["--release", "a/b"], ["--broker", "http://x"]])
def test_a_wrong_option_is_2(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = retire.main(options)
    except SystemExit as exc:
        code = cast("int", exc.code)
    assert code == 2
    assert capsys.readouterr().err
