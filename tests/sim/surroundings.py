"""A disk that refuses and a wall clock that is wrong, for a program of its own: what is around it, not a part of it.

A small library stands between the program and libc (LD_PRELOAD): it fails calls in one folder, shifts CLOCK_REALTIME,
and answers adjtimex(2). The machine's own disk and clock stay as they are, and so does the program.
"""

import mmap
import struct
import subprocess
from pathlib import Path
from typing import Self

from tests.sim import require_program

SOURCE = Path(__file__).with_suffix(".c")
YEAR_S = 365.25 * 86400

_CONTROL = struct.Struct("<iiiiq")  # as `struct control` there


class Surroundings:
    """Of one program and its children; they get `environ` when they start. A context manager.

    Args:
        folder: for the library and the file that it reads.
        disk: the folder in which file operations can fail.
    """

    def __init__(self, folder: Path, disk: Path) -> None:
        compiler = require_program("cc", "apt-get install gcc libc6-dev")
        folder.mkdir(parents=True, exist_ok=True)
        library, self._file = folder / "surroundings.so", folder / "surroundings"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
        self._errno, self._reads_too, self._synced, self._offset_s = 0, False, -1, 0.0
        self._file.write_bytes(bytes(_CONTROL.size))
        self.environ = {
            "LD_PRELOAD": str(library),
            "SURROUNDINGS_FILE": str(self._file),
            "SURROUNDINGS_DISK": str(disk.resolve()),
        }

    def __enter__(self) -> Self:
        with self._file.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _CONTROL.size)
        self._write()
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.close()

    def fail_disk(self, number: int, *, reads_too: bool = False) -> None:
        """Changes fail with this errno from now on: ENOSPC, EROFS, EIO."""
        self._errno, self._reads_too = number, reads_too
        self._write()

    def mend_disk(self) -> None:
        self.fail_disk(0)

    def set_clock(self, offset_s: float, *, synced: bool | None = None) -> None:
        """Let the wall clock go so much before the machine's; `synced`: what the kernel says of it."""
        self._offset_s, self._synced = offset_s, -1 if synced is None else int(synced)
        self._write()

    def _write(self) -> None:
        fields = self._errno, int(self._reads_too), self._synced, 0, round(self._offset_s * 1e9)
        self._memory[:] = _CONTROL.pack(*fields)
