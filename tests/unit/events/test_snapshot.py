"""Pictures: looked at as pixels."""

import threading

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.config import Snapshots
from agent.events.snapshot import MAX_JPEG_BYTES, QUEUE_JOBS, SnapshotJob, SnapshotMaker, draw_snapshot, encode_snapshot
from agent.values import Classification, Detection, Found, Image, Segment

WAIT_S = 10.0
GRAY = 90


def frame(width: int = 320, height: int = 240, channels: int = 3) -> Image:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.full(shape, GRAY, np.uint8)


def one_box(*xyxy: float, label: str = "cat", class_id: int = 0) -> Found:
    return Found(detections=[Detection(label, class_id, 0.93, xyxy)])  # type: ignore[arg-type]


def drawn(picture: Image) -> np.ndarray:
    """Where the picture is not the plain gray any more (H x W, bool)."""
    return (picture.reshape(*picture.shape[:2], -1) != GRAY).any(axis=2)


def decoded(jpeg: bytes) -> Image:
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)


def test_the_box_is_where_the_detection_is():
    picture = draw_snapshot(frame(), one_box(100, 80, 200, 180), boxes=True, max_width_px=None)
    marks = drawn(picture)
    assert marks[80, 100:200].all()
    assert marks[180, 100:200].all()
    assert marks[80:180, 100].all()
    assert marks[80:180, 200].all()
    assert not marks[100:160, 120:180].any()


def test_the_text_stands_above_the_box():
    marks = drawn(draw_snapshot(frame(), one_box(100, 80, 200, 180), boxes=True, max_width_px=None))
    assert marks[70:78, 102:130].all()
    assert not marks[:40].any()


def test_without_room_above_the_text_stands_inside():
    marks = drawn(draw_snapshot(frame(), one_box(100, 2, 200, 180), boxes=True, max_width_px=None))
    assert marks[4:10, 102:130].all()


def test_at_the_right_edge_the_text_moves_in():
    picture = draw_snapshot(frame(), one_box(310, 100, 319, 150, label="somebody"), boxes=True, max_width_px=None)
    assert drawn(picture)[92:98, 260:319].all()


def test_dark_text_stands_on_a_bright_bar():
    picture = draw_snapshot(frame(640, 480), one_box(100, 100, 500, 400), boxes=True, max_width_px=None)
    bar = picture[75:99, 102:160].max(axis=2)
    assert bar.min() < 40
    assert np.median(bar) > 200


def test_classes_have_colours_of_their_own():
    def color_of(class_id: int) -> tuple[int, ...]:
        picture = draw_snapshot(frame(), one_box(50, 80, 250, 200, class_id=class_id), boxes=True, max_width_px=None)
        return tuple(picture[199, 250])

    assert color_of(0) == color_of(0)
    assert len({color_of(class_id) for class_id in range(8)}) == 8
    assert color_of(-1) == color_of(7)


def test_the_frame_is_never_written_on():
    image = frame()
    image.flags.writeable = False
    draw_snapshot(image, one_box(10, 20, 200, 180), boxes=True, max_width_px=None)
    draw_snapshot(image, one_box(10, 20, 200, 180), boxes=True, max_width_px=100)
    assert not drawn(image).any()


def test_boxes_false_gives_the_bare_frame():
    picture = draw_snapshot(frame(), one_box(10, 20, 200, 180), boxes=False, max_width_px=None)
    assert not drawn(picture).any()


@pytest.mark.parametrize("found", [None, Found(values=[1.0]), Found(detections=[])])
def test_with_nothing_to_draw_it_is_the_bare_frame(found: Found | None):
    assert not drawn(draw_snapshot(frame(), found, boxes=True, max_width_px=None)).any()


def test_gray_frames_get_coloured_boxes_and_stay_gray_without():
    bare = decoded(encode_snapshot(frame(channels=1), None, quality=85, boxes=True, max_width_px=None))
    assert bare.shape == (240, 320)
    boxed = decoded(
        encode_snapshot(frame(channels=1), one_box(50, 50, 99, 99), quality=85, boxes=True, max_width_px=None)
    )
    assert boxed.shape == (240, 320, 3)


def test_a_class_stands_in_the_corner_and_only_the_first():
    found = Found(classes=[Classification("cat", 0, 0.9), Classification("dog", 1, 0.1)])
    alone = Found(classes=[Classification("cat", 0, 0.9)])
    picture = draw_snapshot(frame(), found, boxes=True, max_width_px=None)
    assert drawn(picture)[0:5, 0:30].all()
    assert not drawn(picture)[60:].any()
    assert np.array_equal(picture, draw_snapshot(frame(), alone, boxes=True, max_width_px=None))


def test_segments_have_boxes():
    found = Found(segments=[Segment("sky", 0, 0.4, (20.0, 50.0, 100.0, 120.0))])
    assert drawn(draw_snapshot(frame(), found, boxes=True, max_width_px=None))[120, 20:100].all()


def test_wide_frames_are_scaled_down_with_their_boxes():
    picture = draw_snapshot(frame(1920, 1080), one_box(600, 600, 1200, 900), boxes=True, max_width_px=640)
    assert picture.shape == (360, 640, 3)
    marks = drawn(picture)
    assert marks[300, 200:400].all()
    assert not marks[220:280, 220:380].any()


@pytest.mark.parametrize("max_width_px", [None, 320, 8192])
def test_narrow_frames_stay_as_they_are(max_width_px: int | None):
    assert draw_snapshot(frame(), None, boxes=True, max_width_px=max_width_px).shape == (240, 320, 3)


def test_lines_and_text_grow_with_the_picture():
    def share(width: int, height: int) -> float:
        box = one_box(width * 0.2, height * 0.4, width * 0.8, height * 0.8)
        return float(drawn(draw_snapshot(frame(width, height), box, boxes=True, max_width_px=None)).mean())

    assert 0.5 < share(1920, 1080) / share(960, 540) < 2


def test_the_jpeg_is_the_picture():
    image = cv2.resize(np.random.default_rng(1).integers(0, 255, (6, 8, 3), np.uint8), (320, 240))
    jpeg = encode_snapshot(image, None, quality=95, boxes=True, max_width_px=None)
    assert jpeg[:2] == b"\xff\xd8"
    assert np.abs(decoded(jpeg).astype(int) - image).mean() < 3


def test_lower_quality_is_smaller():
    image = np.random.default_rng(1).integers(0, 255, (240, 320, 3), np.uint8)
    high, low = (encode_snapshot(image, None, quality=q, boxes=True, max_width_px=None) for q in (90, 30))
    assert len(low) < len(high) / 2


@settings(max_examples=60)
@given(
    xyxy=st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 4),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    label=st.text(max_size=20),
    max_width_px=st.none() | st.integers(1, 50),
)
def test_no_box_label_or_size_is_too_odd(
    xyxy: tuple[float, ...], size: tuple[int, int], label: str, max_width_px: int | None
):
    found = one_box(*xyxy, label=label)
    jpeg = encode_snapshot(frame(*size), found, quality=50, boxes=True, max_width_px=max_width_px)
    assert decoded(jpeg).shape[1] == min(size[0], max_width_px or size[0])


class Sink:
    """Takes what the maker delivers."""

    def __init__(self) -> None:
        self.got: list[tuple[SnapshotJob, bytes, tuple[int, int], str]] = []
        self.arrived = threading.Condition()

    def __call__(self, job: SnapshotJob, jpeg: bytes, size_wh: tuple[int, int]) -> None:
        with self.arrived:
            self.got.append((job, jpeg, size_wh, threading.current_thread().name))
            self.arrived.notify_all()

    def wait_for(self, count: int) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.got) >= count, WAIT_S)


def maker_for(deliver: Sink) -> SnapshotMaker:
    return SnapshotMaker({"front-door": Snapshots(max_width_px=100), "yard": Snapshots()}, deliver)


def job(number: int = 0, pipeline: str = "front-door") -> SnapshotJob:
    return SnapshotJob(pipeline, frame(), None, f"e{number}", 5)


@pytest.mark.parametrize(("quality", "size_wh"), [(100, (1920, 1080)), (85, (1920, 1080)), (30, (3840, 2160))])
def test_a_picture_too_large_for_a_message_gets_coarser_and_then_smaller(quality, size_wh):
    """Noise, as a camera of 8 megapixels gives it in the dark."""
    image = np.random.default_rng(0).normal(GRAY, 20, (2160, 3840, 3)).clip(0, 255).astype(np.uint8)
    sink, stop = Sink(), threading.Event()
    stop.set()
    maker = SnapshotMaker({"door": Snapshots(quality=quality)}, sink)
    maker.submit(SnapshotJob("door", image, None, "e", 5))
    maker.loop(stop)
    ((_, jpeg, told_wh, _),) = sink.got
    assert len(jpeg) <= MAX_JPEG_BYTES
    assert told_wh == decoded(jpeg).shape[1::-1] == size_wh


def test_the_maker_delivers_jobs_in_order_from_its_own_thread():
    sink, stop = Sink(), threading.Event()
    maker = maker_for(sink)
    thread = threading.Thread(target=maker.loop, args=(stop,), name="snapshots")
    thread.start()
    jobs = [job(number) for number in range(3)]
    assert [maker.submit(one) for one in jobs] == [True] * 3
    sink.wait_for(3)
    stop.set()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert [one for one, *_ in sink.got] == jobs
    assert {(size_wh, name) for _, _, size_wh, name in sink.got} == {((100, 75), "snapshots")}
    assert decoded(sink.got[0][1]).shape == (75, 100, 3)


def test_jobs_over_the_bound_are_dropped_and_counted():
    maker = maker_for(Sink())
    with capture_logs() as logs:
        taken = [maker.submit(job(number)) for number in range(QUEUE_JOBS + 2)]
    assert taken == [True] * QUEUE_JOBS + [False] * 2
    assert maker.dropped == 2
    assert [entry["event"] for entry in logs] == ["snapshot.dropped"] * 2


def test_what_is_in_the_queue_at_the_end_is_still_made():
    sink, stop = Sink(), threading.Event()
    maker = maker_for(sink)
    for number in range(3):
        maker.submit(job(number))
    stop.set()
    maker.loop(stop)
    assert [one.event_id for one, *_ in sink.got] == ["e0", "e1", "e2"]


def test_each_pipeline_has_its_own_settings():
    sink, stop = Sink(), threading.Event()
    maker = maker_for(sink)
    maker.submit(job(pipeline="front-door"))
    maker.submit(job(pipeline="yard"))
    stop.set()
    maker.loop(stop)
    assert [size_wh for _, _, size_wh, _ in sink.got] == [(100, 75), (320, 240)]
