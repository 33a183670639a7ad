"""What a device says of its models, as messages."""

from agent.updates.store import Slot
from agent.updates.updater import ModelUpdate
from agent.wire.messages import ActiveVersion, CandidateVersion, ModelState, PreviousVersion, Stamp


def model_state(update: ModelUpdate, stamp: Stamp, trust_version: int | None) -> ModelState:
    """Which version of a model runs, and what becomes of the one that was offered."""
    record, running, confirmed = update.store.record, update.at.running, update.at.confirmed
    before = record.previous if confirmed else record.live
    candidate = record.candidate
    return ModelState(
        **stamp(),
        model=update.model,
        active=None if running is None else _active(running, confirmed),
        previous=None if before is None else PreviousVersion(version=before.version, sha256=before.sha256),
        candidate=None
        if candidate is None
        else CandidateVersion(
            release=candidate.release,
            version=candidate.version,
            sha256=candidate.sha256,
            state=candidate.state,
            received_bytes=update.received_bytes,
            size_bytes=candidate.size_bytes,
            reason_code=candidate.reason_code,
            reason=candidate.reason,
        ),
        refused=update.refused,
        pinned=record.pinned,
        floor=record.floor,
        trust_version=trust_version,
        history=list(record.history),
    )


def _active(slot: Slot, confirmed: bool) -> ActiveVersion:
    return ActiveVersion(version=slot.version, sha256=slot.sha256, activated_at=slot.activated_at, confirmed=confirmed)
