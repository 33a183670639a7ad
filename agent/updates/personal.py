"""The command `personalize`: the operator's labels become a head on the model that runs, as a version of its own.

    labelled samples -> a worker: embeddings, confidences -> learner -> {version}+p1/ -> golden samples -> active

The model's own bytes stay those that were signed; the head beside them is made here, of this device's labels, and never
leaves it. It is taken back like any version, with `model-rollback`, and is over with the next release (ADR 12).
"""

import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import yaml
from numpy.typing import NDArray

from agent.config import Pipeline
from agent.errors import AgentError, FeedbackRefused, ModelError
from agent.feedback.learner import MIN_LABELS, Lesson, learn
from agent.feedback.samples import SampleStore
from agent.feedback.service import FeedbackService, decode_frame
from agent.inference.protocol import WorkerLimits
from agent.inference.worker import Worker
from agent.manifest import Manifest, load_labels, load_manifest
from agent.runtime.files import fsync_dir, write_atomic
from agent.runtime.npy import load_npy
from agent.runtime.text import one_line
from agent.updates.folders import MADE_OF, NEW, storage_errors
from agent.updates.service import UpdateService
from agent.updates.updater import ModelUpdate
from agent.wire.archive import GOLDEN, HEAD, LABELS, LICENSE, MANIFEST, MODEL

MIN_GOLDEN_AGREEMENT = 0.9
"""A head that changes more of the golden samples' answers than this has forgotten what the model knew."""

_NICE = 5
_GOLDEN_S = 60.0
_OWN = re.compile(r"\+p(\d+)$")
_MAX_BASE_CHARS = 56
"""Of a version that gets `+p` and a number; 63 are allowed."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Examples:
    """What the model says of the labelled samples."""

    embeddings: Any
    log_confidences: Any
    truths: Any
    left_out: int
    """Labels that are none of the model's, and files that can't be read."""


class Personalizer:
    """For the feedback thread."""

    def __init__(self, updates: UpdateService, feedback: FeedbackService, stop: threading.Event) -> None:
        self._updates, self._feedback, self._stop = updates, feedback, stop

    def personalize(self, spec: Pipeline) -> dict[str, Any]:
        """Learn from the labels of a pipeline, and use what was learnt.

        Raises:
            FeedbackRefused: there are too few labels, the model has no embedding, or it gets no better.
        """
        if not spec.feedback.personalize:
            raise FeedbackRefused(f"pipeline {spec.name} does not allow it; feedback: {{personalize: true}} does")
        store = self._feedback.store_of(spec.name)
        try:
            update = self._updates.by_model[spec.model]
            folder, signed = self._running(update)
            manifest = load_manifest(folder / MANIFEST)
            labels = _labels_of(folder, manifest)
            examples = self._examples(spec, folder, labels, store)
            lesson = learn(examples.embeddings, examples.log_confidences, examples.truths)
            _need_better(lesson)
            made = _make_folder(folder, manifest, lesson, signed)
            agreement = self._golden_agreement(spec, made, manifest)
            self._updates.ask(lambda: _use(update, made.name))
        except FeedbackRefused:
            raise
        except AgentError as exc:
            raise FeedbackRefused(getattr(exc, "detail", "") or str(exc)) from exc
        figures = {
            "labels": lesson.labels,
            "left_out": examples.left_out,
            "accuracy_before": round(lesson.accuracy_before, 4),
            "accuracy": round(lesson.accuracy, 4),
            "golden_agreement": agreement,
        }
        _log.info("model.personalized", model=spec.model, version=made.name, **figures)
        return {"pipeline": spec.name, "model": spec.model, "version": made.name, **figures}

    def _running(self, update: ModelUpdate) -> tuple[Path, str | None]:
        """Folder of what runs, and the digest of the signed bundle in or behind it. Raises FeedbackRefused."""

        def look() -> tuple[Path, str | None]:
            if update.row is not None:
                raise FeedbackRefused("a release is on its way; try again when it is active")
            slot, store = update.at.running, update.store
            return (store.folder(slot), store.signed_digest(slot)) if slot else (store.folder_by_hand(), None)

        found = self._updates.ask(look)
        if found is None:
            raise FeedbackRefused("updates are busy; try again")
        return found

    def _examples(self, spec: Pipeline, folder: Path, labels: tuple[str, ...], store: SampleStore) -> _Examples:
        """Raises FeedbackRefused, ModelError, WorkerLost."""
        labelled = list(store.labelled())
        known = [(note, labels.index(truth)) for note, truth in labelled if truth in labels]
        if len(known) < MIN_LABELS:
            raise FeedbackRefused(f"{len(known)} labelled samples are there, at least {MIN_LABELS} are needed")
        embeddings: list[NDArray[np.float32]] = []
        logs: list[NDArray[np.float32]] = []
        truths: list[int] = []
        with _worker(spec, folder, self._stop) as worker:
            for note, truth in known:
                try:
                    data = decode_frame(note.suffix, store.read(note))
                    evidence = worker.run(data, spec.min_confidence, evidence=True).evidence
                except (OSError, ValueError):  # ModelError is a ValueError: the model fails on this one
                    continue
                if evidence is None or not evidence.embedding or not evidence.log_confidences:
                    raise FeedbackRefused(f"{folder.name} of {spec.model} names no embedding in its manifest")
                embedding, log = _floats(evidence.embedding), _floats(evidence.log_confidences)
                if embedding is None or log is None or len(log) != len(labels):
                    continue
                if embeddings and len(embedding) != len(embeddings[0]):
                    continue
                embeddings.append(embedding)
                logs.append(log)
                truths.append(truth)
        if len(truths) < MIN_LABELS:
            raise FeedbackRefused(f"{len(truths)} labelled samples can be read, at least {MIN_LABELS} are needed")
        return _Examples(np.stack(embeddings), np.stack(logs), np.array(truths), len(labelled) - len(truths))

    def _golden_agreement(self, spec: Pipeline, made: Path, manifest: Manifest) -> float | None:
        """Raises FeedbackRefused: it has forgotten too much, and is deleted."""
        if manifest.golden is None:
            return None
        try:
            with _worker(spec, made, self._stop) as worker:
                agreement = worker.run_golden(_GOLDEN_S).agreement
            if agreement < MIN_GOLDEN_AGREEMENT:
                raise FeedbackRefused(f"it would forget: golden samples agree to {agreement:.3f}")
        except AgentError:
            shutil.rmtree(made, ignore_errors=True)
            raise
        return round(agreement, 4)


class _worker:  # noqa: N801 - used as a function
    """A worker beside the live one, for as long as the block lasts."""

    def __init__(self, spec: Pipeline, folder: Path, stop: threading.Event) -> None:
        self._worker = Worker(
            folder,
            threads=spec.threads,
            delegate=spec.delegate,
            timeout_s=spec.infer_timeout_s,
            stop=stop,
            limits=WorkerLimits(nice=_NICE),
        )

    def __enter__(self) -> Worker:
        self._worker.start()
        return self._worker

    def __exit__(self, *_: object) -> None:
        self._worker.close()


def _floats(data: bytes) -> NDArray[np.float32] | None:
    """None: they are no finite numbers. A model that is broken, or has taken over its worker, may say anything."""
    values = np.frombuffer(data, "<f4") if len(data) % 4 == 0 else None
    return values if values is not None and np.isfinite(values).all() else None


def _labels_of(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    if manifest.task != "classify" or not manifest.labels or not manifest.embedding:
        raise FeedbackRefused(f"{folder.parent.name} {folder.name}: expected a classifier with labels and an embedding")
    return load_labels(folder / manifest.labels)


def _need_better(lesson: Lesson) -> None:
    if not lesson.is_better:
        raise FeedbackRefused(
            f"it would get no better: {lesson.accuracy:.3f} right of {lesson.labels} labels it has not seen, "
            f"{lesson.accuracy_before:.3f} now; label more"
        )


def _make_folder(base: Path, manifest: Manifest, lesson: Lesson, signed: str | None) -> Path:
    """A bundle like `base` with the head on top, whole before it has its name. Raises UpdateFailed, ModelError."""
    with storage_errors("a version with a head"):
        version = _next_version(base)
        made = Path(tempfile.mkdtemp(prefix=NEW, dir=base.parent))
        try:
            _fill(made, base, manifest, version, lesson)
            if signed:  # when that is revoked, this is
                write_atomic(made / MADE_OF, signed.encode())
            made.chmod(0o750)
            made.rename(base.parent / version)
        except (ValueError, yaml.YAMLError) as exc:  # a file of `base` was damaged since its worker read it
            shutil.rmtree(made, ignore_errors=True)
            raise ModelError(f"{base}: {one_line(str(exc), 200)}") from exc
        except OSError:
            shutil.rmtree(made, ignore_errors=True)
            raise
        fsync_dir(base.parent)
    return base.parent / version


def _fill(made: Path, base: Path, manifest: Manifest, version: str, lesson: Lesson) -> None:
    """Raises OSError, ValueError, YAMLError."""
    for name in (MODEL, manifest.labels or LABELS, LICENSE):
        if (base / name).is_file():
            _link_or_copy(base / name, made / name)
    golden = manifest.golden.dir if manifest.golden else GOLDEN
    if (base / golden).is_dir():
        (made / golden).mkdir(parents=True)
        for path in (base / golden).iterdir():
            _link_or_copy(path, made / golden / path.name)
        fsync_dir(made / golden)
    head = lesson.head + load_npy((base / manifest.head).read_bytes()) if manifest.head else lesson.head
    file = BytesIO()
    np.save(file, head.astype(np.float32), allow_pickle=False)
    write_atomic(made / HEAD, file.getvalue())
    document = yaml.safe_load((base / MANIFEST).read_text("utf-8"))
    document |= {"version": version, "head": HEAD}
    document["metrics"] = {**(document.get("metrics") or {}), "personalized_labels": lesson.labels}
    write_atomic(made / MANIFEST, yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode())
    fsync_dir(made)


def _next_version(base: Path) -> str:
    plain = _OWN.sub("", base.name)[:_MAX_BASE_CHARS]
    taken = [int(found[1]) for path in base.parent.iterdir() if (found := _OWN.search(path.name))]
    return f"{plain}+p{max(taken, default=0) + 1}"


def _link_or_copy(source: Path, target: Path) -> None:
    """The model's bytes never change, so two folders may share them; where they can't, a copy does."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())


def _use(update: ModelUpdate, version: str) -> None:
    """In the updates thread: let it answer, and delete those before the last two.

    Raises:
        UpdateRefused, UpdateFailed: it does not start, and is deleted.
    """
    home = update.store.folder_by_hand().parent
    try:
        update.activate_version(version)
    except AgentError:
        shutil.rmtree(home / version, ignore_errors=True)
        raise
    needed = {slot.folder for slot in update.store.record.slots}
    with contextlib.suppress(OSError):  # they go another time
        for folder in _own_folders(home):
            if folder.name not in needed:
                shutil.rmtree(folder, ignore_errors=True)


def _own_folders(home: Path) -> Iterator[Path]:
    yield from (path for path in home.iterdir() if path.is_dir() and _OWN.search(path.name))
