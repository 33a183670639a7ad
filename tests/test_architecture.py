"""The house stays readable: sizes, homes of libraries, and what is cheap to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "agent").rglob("*.py"), *(ROOT / "tools").rglob("*.py")])
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_fit_a_reader(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_MODULE_LINES
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [] == [f.name for f in functions if (f.end_lineno or 0) - f.lineno > MAX_FUNCTION_LINES]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_say_what_they_are_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("agent.__main__", ["numpy", "cv2", "av", "paho", "structlog"]),
        ("agent.daemon", ["cv2", "av", "ai_edge_litert", "tflite_runtime"]),
        ("agent.inference.serve", ["paho", "structlog", "av"]),
    ],
)
def test_heavy_libraries_come_in_where_they_are_used(module: str, heavy: list[str]) -> None:
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
