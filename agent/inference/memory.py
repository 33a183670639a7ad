"""What a process takes of the memory, as the kernel counts it."""

import re
from pathlib import Path
from typing import Literal

Kind = Literal["VmRSS", "VmHWM", "VmData"]
"""Resident now; the most that was ever resident; private and writable, touched or not, as RLIMIT_DATA counts it."""


def process_memory_bytes(kind: Kind, pid: int | Literal["self"] = "self") -> int:
    """From /proc/{pid}/status, in bytes.

    Raises:
        OSError: there is no such process any more.
    """
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    found = re.search(rf"^{kind}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:  # it has ended, and nobody has asked how
        raise ProcessLookupError(f"process {pid} has no memory")
    return int(found[1]) << 10
