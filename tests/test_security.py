"""SECURITY.md names defences with the tests that hold them: each of those is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)+)`", TEXT)))
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| attacker")]


def named_in(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {part.name: part for part in body if isinstance(part, kinds)}


@pytest.mark.parametrize("name", NAMED)
def test_each_test_that_is_named_exists(name: str) -> None:
    file, *way = name.split("::")
    body: list[ast.stmt] = ast.parse((ROOT / file).read_text()).body
    for step in way:
        found = named_in(body)
        assert step in found, f"{file} has no {step}"
        body = getattr(found[step], "body", [])
    assert way[-1].startswith("test_")


def test_each_row_names_a_test() -> None:
    assert len(ROWS) > 15
    assert [] == [row for row in ROWS if not re.search(r"`tests/[\w/]+\.py::", row)]


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / link).exists(), link
