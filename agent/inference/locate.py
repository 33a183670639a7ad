"""Where a bundle lies: `{models.dir}/{name}/{version}/`; the file `{models.dir}/{name}/current` names the version."""

import re
from pathlib import Path

from agent.errors import ModelError
from agent.manifest import VERSION_PATTERN


def find_bundle(models_dir: Path, name: str) -> Path:
    """The folder of the version that `current` names.

    Raises:
        ModelError: there is no such model or version; says which there are.
    """
    home = models_dir / name
    try:
        version = (home / "current").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ModelError(f"{home / 'current'}: {_no_bundle(models_dir, name)}") from exc
    if not re.fullmatch(VERSION_PATTERN, version):
        raise ModelError(f"{home / 'current'}: expected the name of a version, got {version[:60]!r}")
    if not (home / version).is_dir():
        raise ModelError(f"{home / 'current'}: names version {version}, and there is no folder {home / version}")
    return home / version


def _no_bundle(models_dir: Path, name: str) -> str:
    try:
        there = sorted(path.parent.name for path in models_dir.glob("*/current"))
    except OSError:
        there = []
    have = f"models there: {', '.join(there)}" if there else f"no models in {models_dir}; see docs/models.md"
    return f"no model {name!r} ({have})"
