"""A camera's program: writes the files of a folder to standard output, one every 10 ms, over and over.

Needs nothing but Python, so that it starts fast. `picture_command` gives what to run.
"""

import sys
import time
from pathlib import Path


def picture_command(folder: Path) -> tuple[str, ...]:
    """The program for these files."""
    return sys.executable, "-S", __file__, str(folder)


def main() -> None:
    files = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
    print("camera is on", file=sys.stderr, flush=True)
    while True:
        for data in files:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            time.sleep(0.01)


if __name__ == "__main__":
    main()
