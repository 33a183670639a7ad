"""Files that survive a power cut: temp file, fsync, rename, fsync the folder."""

import os
from pathlib import Path


def fsync_dir(folder: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: the folder can't be opened or synced.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file as a whole: afterwards, also after a power cut, it holds either the old or the new bytes.

    Raises:
        OSError: the file can't be written; the old one is still there and no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)
