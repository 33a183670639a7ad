"""`edge-agent models activate` and `rollback`: by the running daemon, or in the record where none runs."""

import argparse
import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from agent.cli.common import read_config
from agent.cli.models import load_in_worker, open_stores, running_slot
from agent.config import Config
from agent.errors import AgentError, ModelError, UpdateFailed, UpdateRefused
from agent.runtime.clock import Clock, rfc3339
from agent.runtime.local import ask
from agent.updates.store import ModelStore, Slot
from agent.wire.messages import Attempt
from agent.wire.releases import REASONS

_ANSWER_S = 90.0
"""A daemon starts the workers of the other version before it answers; large models take their time."""


def activate(args: argparse.Namespace) -> int:
    """Use a version that lies on this device.

    Raises:
        AgentError: there is none, or it can't be used.
    """
    config = read_config(args)
    with _without_daemon(config) as alone:
        if not alone:
            return _ask(config, {"command": "model-activate", "model": args.model, "version": args.version})
        (store,) = _open_to_change(config, args.model)
        candidate = store.record.candidate
        if candidate and not candidate.is_over and running_slot(store) != store.record.live:
            raise AgentError(
                f"release {candidate.release} of {args.model} is on probation; `edge-agent models rollback` first"
            )
        slot = store.find_version(args.version)
        if slot is None:
            raise ModelError(f"no whole version {args.version!r} of {args.model} lies here; see `edge-agent models`")
        return _settle_on(config, store, slot)


def roll_back(args: argparse.Namespace) -> int:
    """Go back to the version before.

    Raises:
        AgentError: there is none, or it can't be used.
    """
    config = read_config(args)
    with _without_daemon(config) as alone:
        if not alone:
            return _ask(config, {"command": "model-rollback", "model": args.model})
        (store,) = _open_to_change(config, args.model)
        record = store.record
        slot = record.previous if running_slot(store) == record.live else record.live
        if slot is None or not store.is_whole(slot):
            raise ModelError(f"there is no whole version of {args.model} to go back to; see `edge-agent models`")
        return _settle_on(config, store, slot)


@contextlib.contextmanager
def _without_daemon(config: Config) -> Iterator[bool]:
    """Whether none runs; none can start then until this is over, because it needs the same lock."""
    path = Path(config.outbox.dir) / "lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    except PermissionError as exc:
        raise AgentError(f"{path}: not allowed to open it; run as the agent's user or as root") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
    try:
        yield alone
    finally:
        os.close(fd)


def _ask(config: Config, request: dict[str, Any]) -> int:
    folder = Path(config.outbox.dir)
    try:
        reply = json.loads(ask(folder, json.dumps(request).encode(), timeout_s=_ANSWER_S))
    except (OSError, ValueError) as exc:
        raise AgentError(f"{folder}: the daemon runs and does not answer ({exc}); try again") from exc
    if not reply["ok"]:
        raise ModelError(reply["error"])  # as without a daemon: what was asked can't be had of this model
    version = reply["data"].get("version")
    print(f"{request['model']}: {version} is in use" if version else f"{request['model']}: the daemon will do it")
    return 0


def _open_to_change(config: Config, model: str) -> list[ModelStore]:
    home = Path(config.models.dir) / model
    stores = open_stores(config, model)
    owner = home.stat().st_uid
    if owner != os.geteuid():  # the agent could not read what we would write
        raise AgentError(f"{home}: belongs to uid {owner}; run as that user, or have the daemon run")
    try:
        for store in stores:
            store.start()
    except UpdateFailed as exc:
        raise AgentError(f"{home}: {exc.detail}") from exc
    return stores


def _settle_on(config: Config, store: ModelStore, slot: Slot) -> int:
    load_in_worker(config, store.model, store.folder(slot), slot.sha256)
    record, candidate = store.record, store.record.candidate
    changes: dict[str, Any] = {}
    if candidate is not None and candidate.state == "active" and candidate.slot != slot:
        end = {"state": "rolled_back", "reason_code": "operator", "reason": REASONS["operator"]}
        attempt = Attempt(
            release=candidate.release,
            version=candidate.version,
            sha256=candidate.sha256,
            ended_at=rfc3339(Clock().now_ns()),
            **end,  # type: ignore[arg-type]
        )
        changes = {"candidate": msgspec.structs.replace(candidate, **end), "history": (*record.history, attempt)}
    if slot != record.live:
        changes |= {"live": slot, "previous": record.live}
    try:
        if changes:
            store.save(**changes)
        store.mirror(slot, store.record.previous)
    except (UpdateRefused, UpdateFailed) as exc:
        raise AgentError(f"{store.folder(slot)}: {exc.detail}") from exc
    print(f"{store.model}: {slot.version} is in use from the next start on; no daemon runs now")
    return 0
