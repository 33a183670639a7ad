"""Blocks from 32 KiB on are mapped one by one, so that they leave no holes: in this process and in those it starts."""

import os
import subprocess
import sys

import pytest

MAPPED_OF_100 = """
import ctypes
class Info(ctypes.Structure):  # mallinfo2(3)
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usm fsm uord ford keep".split()]
def mapped():
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Info
    return mallinfo2().hblks
before = mapped()
blocks = [bytes(40_000) for _ in range(100)]
print(mapped() - before)
"""
ASK = f"from agent.runtime.malloc import spare_memory\nspare_memory()\n{MAPPED_OF_100}"
ASK_CHILD = f"""
import subprocess, sys
from agent.runtime.malloc import spare_memory
spare_memory()
subprocess.run([sys.executable, "-c", {MAPPED_OF_100!r}], check=True)
"""


def mapped_blocks(program: str, **environ: str) -> int:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | environ
    answer = subprocess.run([sys.executable, "-c", program], env=env, check=True, capture_output=True, text=True)
    return int(answer.stdout)


@pytest.mark.parametrize("program", [ASK, ASK_CHILD], ids=["itself", "child"])
def test_larger_blocks_are_mapped_one_by_one(program: str):
    assert mapped_blocks(MAPPED_OF_100) == 0
    assert mapped_blocks(program) in range(95, 101)  # a block or two may find a hole


def test_what_the_environment_says_holds():
    assert mapped_blocks(ASK, MALLOC_MMAP_THRESHOLD_="1000000") == 0
