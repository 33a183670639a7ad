"""`edge-agent models`: what lies on this device, whether it is whole, and which version is in use."""

import argparse
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from agent.cli.common import read_config
from agent.config import Config
from agent.errors import AgentError, ConfigError, ModelError, WorkerLost
from agent.inference.golden import make_golden
from agent.inference.locate import find_bundle
from agent.inference.protocol import BundleInfo, window_shape
from agent.inference.worker import Worker
from agent.manifest import NAME_PATTERN, load_manifest
from agent.updates.store import ModelStore, Slot

_GOLDEN_TIMEOUT_S = 60.0
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One bundle of a model, or the release that is on its way."""

    model: str
    version: str
    role: str
    """active, previous, candidate or installed."""
    confirmed: bool | None = None
    """Of the active one: it has proved itself. None: nobody has kept a record of it."""
    state: str | None = None
    """Of the candidate."""
    reason_code: str | None = None
    reason: str | None = None
    size_bytes: int = 0
    release: int | None = None
    """None: it was put there by hand."""
    sha256: str | None = None
    """Of its archive. None: nobody has kept a record of it."""

    @property
    def words(self) -> str:
        """Role and state for people."""
        if self.role == "active" and self.confirmed is not None:
            return f"active, {'confirmed' if self.confirmed else 'on probation'}"
        if self.role == "candidate":
            return f"candidate, {self.state}" + (f": {self.reason_code}" if self.reason_code else "")
        return self.role


def main(args: argparse.Namespace) -> int:
    """Do what `args.action` names.

    Raises:
        AgentError: it can't be done.
    """
    from agent.cli.models_change import activate, roll_back

    actions = {"list": _list, "verify": _verify, "activate": activate, "rollback": roll_back, "golden": _golden}
    try:
        return actions[args.action or "list"](args)
    except OSError as exc:
        if isinstance(exc, AgentError) or exc.filename is None:  # without a name: standard output
            raise
        raise AgentError(f"{exc.filename}: {(exc.strerror or str(exc)).lower()}") from exc


# --- list ------------------------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> int:
    config = read_config(args)
    rows = [row for store in open_stores(config, None) for row in list_bundles(config, store)]
    if args.json:
        print(json.dumps({"models": [asdict(row) for row in rows]}))
        return 0
    if not rows:
        print(f"no models in {config.models.dir}; docs/models.md says how to make one")
        return 0
    table = [("MODEL", "VERSION", "STATE", "SIZE", "RELEASE", "DIGEST")]
    for row in rows:
        size = f"{row.size_bytes / _MIB:.1f} MiB"
        table.append((row.model, row.version, row.words, size, str(row.release or "-"), (row.sha256 or "-")[:12]))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    for row in rows:
        if row.reason:
            print(f"{row.model} {row.version}: {row.reason}")
    return 0


def list_bundles(config: Config, store: ModelStore) -> Iterator[Row]:
    """All bundles of a model: the one in use first, then those that the record knows, then what else lies there."""
    record, candidate = store.record, store.record.candidate
    running = running_slot(store)
    before = record.previous if running == record.live else record.live
    shown = set()
    for role, slot in (("active", running), ("previous", before)):
        if slot is not None and slot.folder not in shown:
            shown.add(slot.folder)
            yield Row(
                model=store.model,
                version=slot.version,
                role=role,
                confirmed=running == record.live if role == "active" else None,
                size_bytes=_folder_bytes(store.folder(slot)),
                release=slot.release,
                sha256=slot.sha256,
            )
    if candidate is not None and (candidate.slot is None or candidate.slot.folder not in shown):
        shown.add(candidate.slot.folder if candidate.slot else "")
        yield Row(
            model=store.model,
            version=candidate.version,
            role="candidate",
            state=candidate.state,
            reason_code=candidate.reason_code,
            reason=candidate.reason,
            size_bytes=candidate.size_bytes,
            release=candidate.release,
            sha256=candidate.sha256,
        )
    in_use = None if running else _by_hand(config, store.model)
    for folder in _bundle_folders(config, store.model):
        if folder.name not in shown:
            role = "active" if folder.name == in_use else "installed"
            yield Row(model=store.model, version=folder.name, role=role, size_bytes=_folder_bytes(folder))


def running_slot(store: ModelStore) -> Slot | None:
    """What the record says that answers frames, or will at the next start."""
    record, candidate = store.record, store.record.candidate
    return candidate.slot if candidate and candidate.state == "active" and candidate.slot else record.live


def open_stores(config: Config, model: str | None) -> list[ModelStore]:
    """Of the models that lie in models.dir, or of the one that is asked for.

    Raises:
        AgentError: there is no such model, or its record may not be read.
    """
    models_dir = Path(config.models.dir)
    if not models_dir.is_dir():
        raise ConfigError(f"models.dir: {models_dir}: no such folder; set it, or make it")
    names = sorted(home.name for home in models_dir.iterdir() if _is_model(home))
    if model is not None and model not in names:
        raise ModelError(f"no model {model!r} (models there: {', '.join(names) or 'none'})")
    for name in names if model is None else [model]:
        for path in (models_dir / name).glob(".state.*"):
            if not os.access(path, os.R_OK):
                raise AgentError(f"{path}: not allowed to read it; run as the agent's user or as root")
    return [ModelStore(models_dir, name) for name in (names if model is None else [model])]


def _is_model(home: Path) -> bool:
    known = ("current", ".state.*", "*/manifest.yaml")
    return bool(re.fullmatch(NAME_PATTERN, home.name)) and any(True for glob in known for _ in home.glob(glob))


def _bundle_folders(config: Config, model: str) -> list[Path]:
    return sorted(
        path.parent
        for path in (Path(config.models.dir) / model).glob("*/manifest.yaml")
        if not path.parent.name.startswith(".")
    )


def _by_hand(config: Config, model: str) -> str | None:
    try:
        return find_bundle(Path(config.models.dir), model).name
    except ModelError:
        return None


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- verify ----------------------------------------------------------------------------------------------------------


def _verify(args: argparse.Namespace) -> int:
    """0 when all are whole and load, 3 when one is not."""
    config = read_config(args)
    found = []
    for store in open_stores(config, args.model):
        recorded = {slot.folder: slot for slot in store.record.slots}
        folders = dict.fromkeys([*recorded, *(folder.name for folder in _bundle_folders(config, store.model))])
        for name in folders:
            slot = recorded.get(name)
            folder = Path(config.models.dir) / store.model / name
            ok, detail = _try(config, store.model, folder, slot.sha256 if slot else None)
            found.append({"model": store.model, "version": name, "ok": ok, "detail": detail})
            if not args.json:
                print(f"{'ok  ' if ok else 'FAIL'}  {store.model} {name}: {detail}", flush=True)
    bad = sum(not bundle["ok"] for bundle in found)
    if args.json:
        print(json.dumps({"ok": not bad, "bundles": found}))
    return ModelError.exit_code if bad else 0


def _try(config: Config, model: str, folder: Path, sha256: str | None) -> tuple[bool, str]:
    try:
        info = load_in_worker(config, model, folder, sha256)
    except (ModelError, WorkerLost) as exc:
        mend = "; push it again, or `edge-agent models rollback`" if sha256 else ""
        return False, f"{exc}{mend}"
    return True, f"loads on {info.runtime}; " + (
        f"digest {sha256[:12]} as recorded" if sha256 else "no digest was recorded"
    )


def load_in_worker(config: Config, model: str, folder: Path, sha256: str | None) -> BundleInfo:
    """Start a worker with a bundle, and have it answer a gray frame, or a window of zeros.

    Raises:
        ModelError: it is not what was recorded, its manifest is wrong, or the model can't be loaded or fails.
        WorkerLost: the model crashed or hung.
    """
    spec = next((spec for spec in config.pipelines if spec.model == model), config.pipelines[0])
    worker = Worker(
        folder,
        threads=spec.threads,
        delegate=spec.delegate,
        timeout_s=spec.infer_timeout_s,
        stop=threading.Event(),
        sha256=sha256,
    )
    try:
        info = worker.start()
        gray = np.full((480, 640, 3), 128, np.uint8)
        zeros = np.zeros(window_shape(info.window), np.float32) if info.window else None
        worker.run(gray if zeros is None else zeros, spec.min_confidence)
        return info
    except WorkerLost as exc:
        raise WorkerLost(f"{folder}: {exc}") from exc
    finally:
        worker.close()


# --- golden ----------------------------------------------------------------------------------------------------------


def _golden(args: argparse.Namespace) -> int:
    """Needs no configuration: it is for the machine where bundles are made."""
    folder = Path(args.folder)
    manifest = load_manifest(folder / "manifest.yaml")
    worker = Worker(folder, threads=None, delegate=None, timeout_s=_GOLDEN_TIMEOUT_S, stop=threading.Event())
    try:
        worker.start()
        expected = make_golden(folder, [Path(picture) for picture in args.pictures], worker.run, args.min_confidence)
    finally:
        worker.close()
    print(f"{folder / 'golden'}: {len(expected.samples)} samples")
    if manifest.golden is None:
        print(f"now add to {folder / 'manifest.yaml'}:  golden: {{dir: golden, min_agreement: 0.99}}")
    return 0
