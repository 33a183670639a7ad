"""What a worker says whose model has taken it over."""

import functools
import itertools
import json
import select
import socket
import threading
from typing import Any

import msgspec
import numpy as np

from agent.capture.windows import Windows
from agent.config import Events, Results
from agent.errors import ModelError, SourceError, WorkerLost
from agent.events.rules import Rules
from agent.events.snapshot import draw_snapshot
from agent.inference import worker as workers
from agent.inference.protocol import READY, Answer, BundleInfo, Ready
from agent.inference.worker import Worker
from agent.outgoing import result_message
from agent.runtime.clock import Clock
from agent.values import Detection, Found, Frame, Timing, Window
from agent.wire.messages import Stamp
from tests.fuzz.bench import TOPICS, Target, scratch


@functools.cache
def _worker() -> tuple[Worker, socket.socket]:
    worker = Worker(scratch(), threads=None, delegate=None, timeout_s=5.0, stop=threading.Event())
    worker._socket, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker._socket.setblocking(False)
    worker._poll = select.poll()
    worker._poll.register(worker._socket, select.POLLIN)
    return worker, far_end


def _packed(data: bytes) -> bytes:
    """Inputs are easier to change in JSON: it is made msgpack, as far as it is JSON."""
    try:
        return data[:1] + msgspec.msgpack.encode(json.loads(data[1:]))
    except (ValueError, RecursionError, OverflowError):
        return data


_INFO = BundleInfo("m", "1", "", "detect", "", 1, None, None)
_PICTURE = Frame(np.zeros((48, 64, 3), np.uint8), 0, 1_000, 1_800_000_000_000_000_000)


def worker_answer(data: bytes) -> None:
    """A model has taken over its process and says what it likes: the daemon makes messages of it, and pictures."""
    worker, far_end = _worker()
    far_end.send(_packed(data)[:200_000])
    answer = worker.receive()
    rules = Rules(Events(min_frames=1), Results())
    decision = rules.decide(answer.found, 1_000, 1_000)
    timing = Timing(answer.preprocess_ms, answer.infer_ms, answer.decode_ms, 1.0)
    stamp = Stamp("cam-1", Clock())
    json.loads(result_message(TOPICS, stamp, "door", _PICTURE, _INFO, answer, timing, None).payload)
    assert len(decision.events) <= 200_000
    draw_snapshot(_PICTURE.data, answer.found, boxes=True, max_width_px=None)  # type: ignore[arg-type]


_SAMPLES = [
    Frame(np.ones((40, 2), np.float32), 0, 1_000, 1_800_000_000_000_000_000, channels=("x", "y"), rate_hz=rate_hz)
    for rate_hz in (None, 16_000.0)
]


def worker_ready(data: bytes) -> None:
    """The same for its first words, which say how samples are cut for it."""
    worker, far_end = _worker()
    far_end.send(_packed(data)[:200_000])
    window = worker._receive(5.0, workers._decode_ready).info.window
    for frame in _SAMPLES if window is not None else ():
        try:
            cut = list(itertools.islice(Windows().cut(frame, window), 100))
        except SourceError:
            continue
        assert len(cut) < 100


def ready_words() -> list[bytes]:
    windows = [
        Window(channels=("x",), samples=8, stride=4, rate_hz=50.0, max_gap_s=1.0, keeps_missing=False),
        Window(channels=(), samples=8, stride=4, rate_hz=8_000.0, max_gap_s=1.0, keeps_missing=True),
        None,
    ]
    infos = [msgspec.structs.replace(_INFO, window=window) for window in windows]
    return [READY + msgspec.json.encode(Ready(info, 1 << 20)) for info in infos]


def _answers() -> list[bytes]:
    box = Detection("face", 0, 0.9, (1.0, 2.0, 30.0, 40.0), ((1.0, 2.0),))
    founds = [Found(detections=[box, box]), Found(values=[1.0, 2.0])]
    plain: list[Any] = [{"classes": [{"label": "a", "class_id": 1, "confidence": 0.5}]}]
    plain += [{"anomaly": {"score": 2.0, "threshold": 1.0, "is_anomaly": True}}]
    plain += [{"segments": [{"label": "a", "class_id": 1, "share": 0.5, "xyxy": [0, 0, 1, 1]}]}]
    founds += [msgspec.convert(one, Found) for one in plain]
    said = [b"A" + msgspec.json.encode(Answer(found, 0.1, 1.0, 0.1)) for found in founds]
    return [*said, b"E" + msgspec.json.encode("it failed")]


TARGETS = {
    "worker-answer": Target(worker_answer, (ModelError, WorkerLost), _answers),
    "worker-ready": Target(worker_ready, (ModelError, WorkerLost), ready_words),
}
