"""What runs on this machine, read from /proc."""

from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether the process lives: neither gone nor a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def children_of(pid: int) -> set[int]:
    """Processes that a process has started, zombies too; in whichever of its threads."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for path in lists for child in path.read_text().split()}
