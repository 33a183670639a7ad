"""Golden samples: when two answers agree, what files may hold, and how a worker tries them."""

import json
import math
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ModelError, WorkerLost
from agent.inference.golden import MAX_PICTURE_BYTES, SAME_MODEL_IOU, agree, is_finite, load_picture, make_golden
from agent.inference.locate import find_bundle
from agent.inference.worker import Worker
from agent.manifest import load_manifest
from agent.values import Classification, Detection, Found, Segment
from tests.sim.bundles import make_bundle, picture_path

coordinates = st.floats(0, 1000)
boxes = st.tuples(coordinates, coordinates, st.floats(1, 500), st.floats(1, 500)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)
labels = st.sampled_from(["cat", "dog"])
answers = st.one_of(
    st.lists(st.builds(Detection, labels, st.just(0), st.floats(0, 1), boxes), max_size=6).map(
        lambda found: Found(detections=found)
    ),
    st.lists(st.builds(Classification, labels, st.just(0), st.floats(0, 1)), max_size=3).map(
        lambda found: Found(classes=found)
    ),
    st.lists(st.floats(-1e6, 1e6), max_size=5).map(lambda found: Found(values=found)),
    st.lists(
        st.builds(Segment, labels, st.just(0), st.floats(0.01, 1), boxes), max_size=2, unique_by=lambda s: s.label
    ).map(lambda found: Found(segments=found)),
)


def boxed(*xyxy: tuple[float, float, float, float], label: str = "cat", confidence: float = 0.9) -> Found:
    return Found(detections=[Detection(label, 0, confidence, box) for box in xyxy])


class TestAgreement:
    @given(answers)
    def test_with_itself_is_whole(self, found: Found) -> None:
        assert agree(found, found, SAME_MODEL_IOU) == 1.0

    @given(answers, answers)
    def test_is_a_share(self, expected: Found, got: Found) -> None:
        assert 0.0 <= agree(expected, got) <= 1.0

    def test_of_boxes_counts_those_that_are_missing_and_those_that_are_too_many(self) -> None:
        one, two, three = (0, 0, 10, 10), (50, 50, 60, 60), (100, 0, 120, 20)
        assert agree(boxed(one, two), boxed(one)) == 0.5
        assert agree(boxed(one), boxed(one, two)) == 0.5
        assert agree(boxed(one, two, three), boxed(three, one, two)) == 1.0
        assert agree(boxed(), boxed()) == 1.0
        assert agree(boxed(), boxed(one)) == 0.0

    def test_of_boxes_is_about_place_and_label_and_not_about_confidence(self) -> None:
        box = (0, 0, 10, 10)
        assert agree(boxed(box), boxed(box, confidence=0.6)) == 1.0
        assert agree(boxed(box), boxed(box, label="dog")) == 0.0
        assert agree(boxed(box), boxed((8, 8, 18, 18))) == 0.0
        shifted = boxed((1.5, 0, 11.5, 10))  # overlaps by 0.74
        assert agree(boxed(box), shifted) == 1.0
        assert agree(boxed(box), shifted, SAME_MODEL_IOU) == 0.0

    def test_one_box_does_not_count_for_two(self) -> None:
        assert agree(boxed((0, 0, 10, 10), (1, 1, 11, 11)), boxed((0, 0, 10, 10))) == 0.5

    def test_of_classes_is_the_first(self) -> None:
        def classes(*names: str) -> Found:
            return Found(classes=[Classification(name, 0, 0.5) for name in names])

        assert agree(classes("cat", "dog"), classes("cat")) == 1.0
        assert agree(classes("cat", "dog"), classes("dog", "cat")) == 0.0
        assert agree(classes("cat"), classes()) == 0.0

    def test_of_values_is_the_share_that_is_near(self) -> None:
        assert agree(Found(values=[100.0, 1.0]), Found(values=[104.0, -3.0])) == 1.0
        assert agree(Found(values=[100.0, 1.0]), Found(values=[106.0, 1.0])) == 0.5
        assert agree(Found(values=[1.0]), Found(values=[1.0, 2.0])) == 0.0
        assert agree(Found(values=[1.0]), Found(values=[])) == 0.0

    def test_of_segments_is_what_both_cover(self) -> None:
        def segments(**shares: float) -> Found:
            return Found(segments=[Segment(name, 0, share, (0, 0, 10, 10)) for name, share in shares.items()])

        assert agree(segments(sky=0.6), segments(sky=0.3)) == 0.5
        assert agree(segments(sky=0.5), segments(sky=0.5, sea=0.5)) == 0.5
        elsewhere = Found(segments=[Segment("sky", 0, 0.6, (90, 0, 100, 10))])
        assert agree(segments(sky=0.6), elsewhere) == 0.0

    def test_of_another_task_is_none(self) -> None:
        assert agree(Found(values=[]), boxed()) == 0.0

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_with_what_is_no_number_is_none(self, bad: float) -> None:
        for got in (
            Found(values=[1.0, bad]),
            boxed((0, 0, bad, 10)),
            boxed((0, 0, 10, 10), confidence=bad),
            Found(detections=[Detection("cat", 0, 0.5, (0, 0, 1, 1), ((bad, 1.0),))]),
            Found(classes=[Classification("cat", 0, bad)]),
            Found(segments=[Segment("cat", 0, bad, (0, 0, 1, 1))]),
        ):
            assert not is_finite(got)
            assert agree(got, got) == 0.0


@pytest.fixture
def face(tmp_path: Path) -> Path:
    return find_bundle(make_bundle("face", tmp_path), "face")


@pytest.fixture
def worker(face: Path) -> Iterator[Worker]:
    worker = Worker(face, threads=None, delegate=None, timeout_s=20, stop=threading.Event())
    yield worker
    worker.close()


@pytest.mark.runtime
class TestSamples:
    def test_of_the_face_model_agree_on_every_runtime(self, worker: Worker) -> None:
        worker.start()
        report = worker.run_golden(30)
        assert (3, 1.0, None) == (report.samples, report.agreement, report.worst)
        assert len(report.infer_ms) == 3

    def test_name_the_worst(self, worker: Worker, face: Path) -> None:
        edit(face, lambda e: e["samples"][1]["found"].update(detections=[]))
        worker.start()
        report = worker.run_golden(30)
        assert ("face.jpg", 2 / 3) == (report.worst, pytest.approx(report.agreement))

    def test_made_from_pictures_pass(self, worker: Worker, face: Path, tmp_path: Path) -> None:
        shutil.rmtree(face / "golden")
        worker.start()
        made = make_golden(face, [picture_path("astronaut.png"), picture_path("coffee.png")], worker.run, 0.6)
        assert made.samples[0].found.detections
        assert json.loads((face / "golden" / "expected.json").read_text())["min_confidence"] == 0.6
        report = worker.run_golden(30)
        assert (2, 1.0) == (report.samples, report.agreement)

    def test_are_not_made_of_what_no_device_would_take(self, worker: Worker, face: Path, tmp_path: Path) -> None:
        worker.start()
        spaced = shutil.copy(picture_path("astronaut.png"), tmp_path / "a picture.png")
        for pictures, said in (
            ([picture_path("astronaut.png")] * 2, "same name"),
            ([spaced], "plain letters"),
            ([face / "labels.txt"], "not a picture"),
        ):
            with pytest.raises(ModelError, match=said):
                make_golden(face, [Path(path) for path in pictures], worker.run)

    @pytest.mark.parametrize(
        ("break_it", "said"),
        [
            (lambda golden: (golden / "expected.json").unlink(), "expected.json: no such file"),
            (lambda golden: (golden / "expected.json").write_text("{"), "expected.json: "),
            (lambda golden: (golden / "expected.json").write_text('{"samples": []}'), "expected.json: "),
            (lambda golden: (golden / "face.jpg").unlink(), "face.jpg: no such file"),
            (lambda golden: (golden / "face.jpg").write_bytes(b""), "face.jpg: not a picture"),
            (lambda golden: (golden / "face.jpg").write_bytes(b"\xff\xd8\xff" * 9), "face.jpg: not a picture"),
            (lambda golden: (golden / "face.jpg").write_bytes(bytes(MAX_PICTURE_BYTES + 1)), "larger than 8 MiB"),
            (lambda golden: cv2.imwrite(str(golden / "face.jpg"), np.zeros((4097, 1), np.uint8)), "at most 4096"),
            (lambda golden: edit(golden.parent, lambda e: e["samples"][1].update(input="../face.jpg")), "input"),
        ],
    )
    def test_that_are_broken_are_one_line_and_the_worker_lives(
        self, worker: Worker, face: Path, break_it: Callable[[Path], None], said: str
    ) -> None:
        break_it(face / "golden")
        worker.start()
        with pytest.raises(ModelError) as caught:
            worker.run_golden(30)
        assert said in str(caught.value)
        assert worker.run(np.zeros((9, 9, 3), np.uint8), 0.5).found.detections == []

    def test_that_a_bundle_lacks_or_that_lie_elsewhere_are_said(self, face: Path) -> None:
        manifest = (face / "manifest.yaml").read_text()
        line = next(line for line in manifest.splitlines() if line.startswith("golden:"))
        for other, said in (("", "names no golden samples"), ("golden: {dir: ../x}", "golden.dir")):
            (face / "manifest.yaml").write_text(manifest.replace(line, other))
            worker = Worker(face, threads=None, delegate=None, timeout_s=20, stop=threading.Event())
            with pytest.raises(ModelError, match=said):  # noqa: PT012 - the manifest may be the one that says it
                worker.start()
                worker.run_golden(30)
            worker.close()

    def test_that_take_too_long_together_end_the_worker(self, worker: Worker) -> None:
        worker.start()
        with pytest.raises(WorkerLost, match="golden samples within 0 s"):
            worker.run_golden(0)
        assert (worker.alive, worker.ending) == (False, "hung")


def test_a_picture_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    """A few hundred bytes that unpack to gigabytes; a worker's memory is limited, what is tested is the answer."""
    path = tmp_path / "huge.png"
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    data = bytearray(path.read_bytes())
    data[16:24] = (60000).to_bytes(4, "big") * 2
    path.write_bytes(data)
    with pytest.raises(ModelError, match="not a picture"):
        load_picture(path)


def test_golden_files_of_this_repository_are_small(face: Path) -> None:
    manifest = load_manifest(face / "manifest.yaml")
    assert manifest.golden is not None
    assert sum(path.stat().st_size for path in (face / manifest.golden.dir).iterdir()) < 60_000


def edit(bundle: Path, change: Callable[[dict], None]) -> None:
    path = bundle / "golden" / "expected.json"
    content = msgspec.json.decode(path.read_bytes())
    change(content)
    path.write_bytes(msgspec.json.encode(content))
