"""Measures how old the newest frame of a stream is: `python -m tools.bench_stream [--seconds 30] [--json]`.

For developers, from the top folder: it needs GStreamer's RTSP server and the tests' simulators. A server sends H.264 of
1280x720 at 25 pictures a second; each carries its number as black and white blocks, and the server says when it sent
it. The agent's own source, reader and slot take them, and a consumer that is busy for 100 ms a frame, as a slow model
is, asks for the newest. A frame's age is counted from its sending to its being taken.
"""

import argparse
import functools
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from agent.capture import make_source
from agent.capture.reader import Reader
from agent.config import StreamSource
from agent.runtime.latest import LatestSlot
from agent.values import Frame
from tests.sim.rtsp import RtspServer

WIDTH, HEIGHT, FPS = 1280, 720, 25
BITS = 16
BLOCK_PX = 40
MODEL_S = 0.1
SETTLE_S = 5.0


def _picture(number: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Noise that an encoder has work with, and the number along the top."""
    image = np.roll(_BACKGROUND, 8 * number, axis=1).copy()
    for bit in range(BITS):
        image[:BLOCK_PX, bit * BLOCK_PX : (bit + 1) * BLOCK_PX] = 255 * (number >> bit & 1)
    return image


_BACKGROUND = (
    np.random.default_rng(1).integers(60, 190, (HEIGHT // 8, WIDTH // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
)


def _number(frame: Frame) -> int:
    middle = BLOCK_PX // 2
    return sum(1 << bit for bit in range(BITS) if frame.data[middle, bit * BLOCK_PX + middle].mean() > 127)


def _write_clip(path: Path, pictures: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"tune": "zerolatency", "g": str(FPS)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(pictures):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_picture(number), "bgr24")))
        container.mux(stream.encode(None))


def _listen(process: "subprocess.Popen[str]", sent_ns: dict[int, int]) -> None:
    assert process.stdout is not None  # noqa: S101
    for line in process.stdout:
        word, number, at_ns = line.split()
        if word == "sent":
            sent_ns[int(number)] = int(at_ns)


def _ages_ms(url: str, pictures: int, seconds: float, sent_ns: dict[int, int]) -> list[float]:
    """Of the frames that a slow consumer takes, once the stream has settled."""
    slot: LatestSlot[Frame] = LatestSlot()
    reader, stop = Reader(functools.partial(make_source, StreamSource(url=url)), slot.put), threading.Event()
    reader.start()
    watcher = threading.Thread(target=reader.watch, args=(stop, 5.0))
    watcher.start()
    ages_ms, began_s = [], time.monotonic()
    while (lasted_s := time.monotonic() - began_s) < SETTLE_S + seconds:
        frame = slot.take(5.0)
        taken_ns = time.monotonic_ns()
        if frame is None:
            raise SystemExit("the stream ended")
        if lasted_s > SETTLE_S:
            seen = _number(frame)
            sent = [at_ns for number, at_ns in list(sent_ns.items()) if number % pictures == seen]
            ages_ms.append((taken_ns - max(sent)) / 1e6)
        time.sleep(MODEL_S)
    stop.set()
    watcher.join()
    return ages_ms


def main(argv: Sequence[str] | None = None) -> int:
    """Print the ages."""
    parser = argparse.ArgumentParser(description="Measure how old the newest frame of a 720p stream is.")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to measure; default: 30")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args(argv)
    pictures, sent_ns = 10 * FPS, dict[int, int]()
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        _write_clip(clip, pictures)
        with RtspServer("--says-when", clip=clip, speed=1.0) as server:
            threading.Thread(target=_listen, args=(server.process, sent_ns), daemon=True).start()
            ages_ms = sorted(_ages_ms(server.url, pictures, args.seconds, sent_ns))
    figures = {
        "frames": len(ages_ms),
        "age_ms": {
            "p50": round(ages_ms[len(ages_ms) // 2], 1),
            "p99": round(ages_ms[int(0.99 * len(ages_ms))], 1),
            "max": round(ages_ms[-1], 1),
        },
    }
    if args.json:
        print(json.dumps(figures))
    else:
        print(f"{figures['frames']} frames taken, one each {MODEL_S * 1e3:.0f} ms; age in ms: {figures['age_ms']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
