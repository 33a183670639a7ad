"""Models that find anomalies, on a labelled recording.

A row is labelled an anomaly when the label column holds a number other than 0; a window is labelled an anomaly when one
row or more of it is. Precision, recall and F1 count windows. An anomaly of the recording is a stretch of labelled
windows; it is found when the model says so in one of them. A false alarm is a stretch of windows that the model calls
an anomaly and none of which is labelled so.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import UNSET

from agent.evaluation.classes import total
from agent.evaluation.common import Follow, Model, Report, curves_of, latency, quietly
from agent.evaluation.measures import count, runs, touched
from agent.evaluation.ranking import average_precision, curve
from agent.evaluation.series import LabelledWindow, Series
from agent.inference.protocol import Answer
from agent.values import Anomaly


def judge(model: Model, windows: Sequence[LabelledWindow]) -> list[Anomaly]:
    """What an anomaly model says of each window. Raises ModelError, WorkerLost."""
    return [_anomaly(model.run(one.samples, 0.0)) for one in windows]


def _anomaly(answer: Answer) -> Anomaly:
    assert answer.found.anomaly is not UNSET  # noqa: S101 - the decoder says so of every window
    return answer.found.anomaly


def anomaly_figures(model: Model, series: Series, limit: int | None, follow: Follow = quietly) -> Report:
    """All figures of an anomaly model, on the first `limit` windows of a recording that has some.

    Raises:
        ModelError, WorkerLost: the model failed.
    """
    windows = series.windows[:limit]
    said = [model.run(one.samples, 0.0) for one in follow(windows, "windows")]
    answers, labels = [_anomaly(one).is_anomaly for one in said], [one.is_anomaly for one in windows]
    counts, anomalies, alarms = count(answers, labels), runs(labels), runs(answers)
    points = curve(np.array([_anomaly(one).score for one in said]), np.array(labels))
    area = average_precision(points) if points else None
    recorded_s = windows[-1].end_s
    false_alarms = len(alarms) - touched(alarms, labels)
    return {
        "windows": len(labels),
        "windows_labelled": sum(labels),
        "windows_left_out": series.left_out,
        "rows_broken": series.broken_rows,
        "recorded_s": round(recorded_s, 2),
        "true_positives": counts.true_positives,
        "false_positives": counts.false_positives,
        "false_negatives": counts.false_negatives,
        "true_negatives": counts.true_negatives,
        "precision": round(counts.precision, 4),
        "recall": round(counts.recall, 4),
        "f1": round(counts.f1, 4),
        "average_precision": None if area is None else round(area, 4),
        "anomalies": len(anomalies),
        "anomalies_found": touched(anomalies, answers),
        "false_alarms": false_alarms,
        "false_alarms_per_hour": round(false_alarms * 3600 / recorded_s, 2) if recorded_s else 0.0,
        **latency([total(one) for one in said]),
        "curves": curves_of({"anomaly": (points, area)} if points and area is not None else {}),
    }
