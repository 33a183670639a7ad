"""A bundle, measured on labelled data by its task."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.config import CsvSource, Pipeline
from agent.errors import ConfigError, DataSetError, ModelError
from agent.evaluation.anomalies import anomaly_figures
from agent.evaluation.box_set import load_boxes
from agent.evaluation.classes import class_figures, class_labels, judge_classes
from agent.evaluation.common import Follow, Report, quietly, thin
from agent.evaluation.detections import box_figures, judge_boxes, known_labels
from agent.evaluation.forecasts import Recording, forecast_figures
from agent.evaluation.picture_set import load_set
from agent.evaluation.regression import judge_numbers, number_figures
from agent.evaluation.series import read_course, read_series
from agent.inference.protocol import WorkerLimits
from agent.inference.worker import Worker
from agent.manifest import ForecastDecoder, Manifest, load_manifest
from agent.values import Window

_TIMEOUT_S = 60.0
"""For one sample, without a pipeline that says otherwise."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Labelled data, and how they are read."""

    path: Path
    """A folder with index.csv or annotations.json; a CSV file of sensor readings."""
    split: str = "test"
    """Of a folder."""
    limit: int | None = None
    """At most so many samples, spread evenly; of a recording, the first."""
    min_confidence: float = 0.5
    """What the agent reports of boxes."""
    label_column: str | None = None
    """Of a CSV file for anomalies: header of the column with the labels."""
    rate_hz: float | None = None
    """Of its rows; None: the model's own."""
    time_column: str | None = None
    delimiter: str = ","


def evaluate(folder: Path, data: Labelled, pipeline: Pipeline | None = None, follow: Follow = quietly) -> Report:
    """Measure the bundle in `folder`, in a worker as the daemon has.

    Args:
        folder: the bundle's.
        data: what it is held against.
        pipeline: whose threads, accelerator and time limit the worker gets; None: as the manifest says.
        follow: shows progress.

    Returns:
        What was measured and how: `task`, figures by their name, tables.

    Raises:
        ModelError: the bundle can't be used, fails, or is of a task without a measure.
        WorkerLost: the model crashed or hung.
        DataSetError, SourceError: the data can't be used, or do not fit the model.
        ConfigError: the data need an option more.
    """
    manifest = load_manifest(folder / "manifest.yaml")
    measure = MEASURES.get("forecast" if isinstance(manifest.decoder, ForecastDecoder) else manifest.task)
    if measure is None:
        raise ModelError(f"{folder}: there is no measure for task {manifest.task}, only for {', '.join(MEASURES)}")
    with _open_worker(folder, pipeline) as worker:
        info = worker.info
        about: Report = {
            "model": info.name,
            "version": info.version,
            "sha256": info.sha256,
            "size_bytes": (folder / "model.tflite").stat().st_size,
            "runtime": info.runtime,
            "threads": info.threads,
            "delegate": info.delegate,
            "task": info.task,
            "data": data.path.name,
        }
        return about | measure(worker, folder, manifest, data, follow)


@contextlib.contextmanager
def _open_worker(folder: Path, pipeline: Pipeline | None) -> Iterator[Worker]:
    worker = Worker(
        folder,
        threads=pipeline.threads if pipeline else None,
        delegate=pipeline.delegate if pipeline else None,
        timeout_s=pipeline.infer_timeout_s if pipeline else _TIMEOUT_S,
        stop=threading.Event(),
        limits=WorkerLimits(all_classes=True),
    )
    try:
        worker.start()
        yield worker
    finally:
        worker.close()


def _classes(worker: Worker, folder: Path, manifest: Manifest, data: Labelled, follow: Follow) -> Report:
    samples, labels = load_set(data.path), class_labels(folder, manifest)
    entries = thin(samples.of(data.split), data.limit)
    judged = judge_classes(worker, labels, samples, entries, follow)
    figures = class_figures(judged, labels, _unit(worker))
    return {"split": data.split, "data_sha256": samples.sha256, **figures}


def _numbers(worker: Worker, folder: Path, manifest: Manifest, data: Labelled, follow: Follow) -> Report:  # noqa: ARG001
    samples = load_set(data.path)
    judged = judge_numbers(worker, samples, thin(samples.of(data.split), data.limit), follow)
    return {"split": data.split, "data_sha256": samples.sha256, **number_figures(judged, _unit(worker))}


def _unit(worker: Worker) -> str:
    return "pictures" if worker.info.window is None else "windows"


def _boxes(worker: Worker, folder: Path, manifest: Manifest, data: Labelled, follow: Follow) -> Report:
    samples = load_boxes(data.path)
    labels = known_labels(samples, class_labels(folder, manifest) if manifest.labels else None)
    pictures = thin(samples.of(data.split), data.limit)
    judged = judge_boxes(worker, labels, samples, pictures, data.min_confidence, follow)
    figures = box_figures(judged, samples, pictures, data.min_confidence)
    return {"split": data.split, "data_sha256": samples.sha256, **figures}


def _anomalies(worker: Worker, folder: Path, manifest: Manifest, data: Labelled, follow: Follow) -> Report:  # noqa: ARG001
    window = worker.info.window
    assert window is not None  # noqa: S101 - the manifest would be refused
    if data.label_column is None:
        raise ConfigError("an anomaly model is measured on labelled readings: name the labels with --label-column")
    series = read_series(_source(data, window), window, data.label_column)
    if not series.windows:
        raise DataSetError(f"{data.path}: not one whole window of {window.samples} samples in it")
    return anomaly_figures(worker, series, data.limit, follow)


def _forecasts(worker: Worker, folder: Path, manifest: Manifest, data: Labelled, follow: Follow) -> Report:  # noqa: ARG001
    window = worker.info.window
    assert window is not None  # noqa: S101 - the manifest would be refused
    assert isinstance(manifest.decoder, ForecastDecoder)  # noqa: S101 - that is how we got here
    course = read_course(_source(data, window), window)
    recording = Recording(data.path, course, window, manifest.decoder.channels or window.channels)
    return forecast_figures(worker, recording, data.limit, follow)


def _source(data: Labelled, window: Window) -> CsvSource:
    return CsvSource(
        path=str(data.path),
        rate_hz=data.rate_hz or window.rate_hz or 1.0,
        time_column=data.time_column,
        delimiter=data.delimiter,
    )


MEASURES: Mapping[str, Callable[[Worker, Path, Manifest, Labelled, Follow], Report]] = {
    "anomaly": _anomalies,
    "classify": _classes,
    "detect": _boxes,
    "forecast": _forecasts,
    "regress": _numbers,
}
"""How a model is measured, by its task; of task regress, decoder forecast has a measure of its own."""
