"""tools/dataset.py and tools/picture_set.py: what goes into a set, and what is refused."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.manifest import SeriesInput
from tests.sim.bundles import ROOT
from tools.dataset import main
from tools.dataset_clean import balanced, fill
from tools.dataset_sources import Given, Splits
from tools.picture_set import DataSetError, Entry, load_set


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def make_folder(home: Path, classes: dict[str, int], source: str = "") -> Path:
    """So many pictures of each class, all different; in a folder of that source, if it has a name."""
    seed = len(list(home.rglob("*.png"))) if home.exists() else 0
    for label, count in classes.items():
        place = home / label / source
        place.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed += 1
            (place / f"{number}.png").write_bytes(picture(seed))
    return home


def given(label: str, data: bytes, name: str = "a.png") -> Given:
    return Given(name, data, ".png", label, f"{label}/{name}", "train")


def test_a_folder_becomes_a_set_with_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = make_folder(tmp_path / "parts", {"good": 60, "bad": 60})
    assert main(["folder", str(pictures), "--out", str(tmp_path / "set"), "--licence", "our own"]) == 0
    made = load_set(tmp_path / "set")
    assert made.labels == ("bad", "good")
    assert len(made.entries) == 120
    assert {one.split for one in made.entries} == {"train", "validation", "test"}
    assert 60 < len(made.of("train")) < 110
    assert all(made.picture(one).shape == (8, 8, 3) for one in made.entries)
    card = (tmp_path / "set" / "README.md").read_text()
    assert "120 pictures of 120 sources. Licence: our own." in card
    assert made.sha256 in card
    assert "| bad |" in card
    assert main(["check", str(tmp_path / "set")]) == 0
    assert "120 pictures, all as the index says" in capsys.readouterr().out


def test_all_of_a_source_is_in_one_split_and_stays_there(tmp_path: Path) -> None:
    pictures = make_folder(tmp_path / "parts", {"good": 2, "bad": 2}, "camera-1")
    for number in range(2, 30):
        make_folder(pictures, {"good": 1, "bad": 1}, f"camera-{number}")
    assert main(["folder", str(pictures), "--out", str(tmp_path / "set")]) == 0
    before = {one.source: one.split for one in load_set(tmp_path / "set").entries}
    assert set(before.values()) == {"train", "validation", "test"}
    make_folder(pictures, {"good": 5}, "camera-31")
    assert main(["folder", str(pictures), "--out", str(tmp_path / "set"), "--force"]) == 0
    after = {one.source: one.split for one in load_set(tmp_path / "set").entries}
    assert {source: after[source] for source in before} == before
    assert len(after) == 30


def test_shares_of_sources() -> None:
    splits = [Splits(0.2, 0.1).of(f"camera-{number}") for number in range(2000)]
    assert [splits.count(name) / 2000 for name in ("train", "validation", "test")] == pytest.approx(
        [0.7, 0.2, 0.1], abs=0.03
    )


def test_broken_pictures_and_duplicates_are_left_out(tmp_path: Path) -> None:
    pixels = cv2.imdecode(np.frombuffer(picture(1), np.uint8), cv2.IMREAD_COLOR)
    same_pixels = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()
    assert same_pixels != picture(1)
    entries, left_out = fill(
        tmp_path,
        [
            given("a", picture(1)), given("a", picture(1), "again.png"), given("a", same_pixels, "other bytes.png"),
            given("a", b"\x89PNG but no more", "torn.png"), given("a", b"", "empty.png"), given("b", picture(2)),
        ],
    )  # fmt: skip
    assert [one.label for one in entries] == ["a", "b"]
    assert left_out.broken == ["torn.png", "empty.png"]
    assert (left_out.duplicates, left_out.contradicting) == (2, 0)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")) == sorted(
        one.path for one in entries
    )


def test_a_picture_that_is_too_large_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = make_folder(tmp_path / "parts", {"a": 1, "b": 1})
    with (pictures / "a" / "large.png").open("wb") as file:
        file.truncate((8 << 20) + 1)
    assert main(["folder", str(pictures), "--out", str(tmp_path / "set")]) == 0
    assert len(load_set(tmp_path / "set").entries) == 2
    assert "broken: a/large.png" in capsys.readouterr().out


def test_a_picture_under_two_labels_is_left_out_under_both(tmp_path: Path) -> None:
    rows = [given("a", picture(1)), given("b", picture(1)), given("b", picture(2)), given("c", picture(1))]
    entries, left_out = fill(tmp_path, rows)
    assert [one.label for one in entries] == ["b"]
    assert left_out.contradicting == 3
    assert len(list(tmp_path.rglob("*.png"))) == 1


def test_a_rare_class_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = make_folder(tmp_path / "parts", {"good": 60, "bad": 1})
    assert main(["folder", str(pictures), "--out", str(tmp_path / "set")]) == 0
    told = "class bad is rare: it has 1, the largest class 60"
    assert told in capsys.readouterr().out
    assert told in (tmp_path / "set" / "README.md").read_text()


def test_what_is_wrong_is_one_line_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one_class = make_folder(tmp_path / "one", {"good": 1})
    empty = tmp_path / "empty"
    (empty / "a").mkdir(parents=True)
    (empty / "b").mkdir()
    two_lines = make_folder(tmp_path / "lines", {"a\nb": 1, "c": 1})
    other = tmp_path / "other"
    other.mkdir()
    good = make_folder(tmp_path / "good", {"a": 1, "b": 1})
    for arguments, message in (
        (["folder", str(one_class)], "expected a sub-folder for each class, two or more; found 1"),
        (["folder", str(empty)], "empty: not one picture in it"),
        (["folder", str(two_lines)], "expected a short line of text for a class's name, got 'a\\nb'"),
        (["folder", str(tmp_path / "nowhere")], "No such file or directory"),
    ):
        assert main([*arguments, "--out", str(tmp_path / "set")]) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "set").exists()
    assert main(["folder", str(good), "--out", str(other)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["folder", str(good), "--out", str(other), "--force"]) == 1
    assert "not a data set, so --force does not write over it" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_changed_picture_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = make_folder(tmp_path / "parts", {"a": 1, "b": 1})
    assert main(["folder", str(pictures), "--out", str(tmp_path / "set")]) == 0
    made = load_set(tmp_path / "set")
    (made.folder / made.entries[0].path).write_bytes(picture(99))
    assert main(["check", str(tmp_path / "set")]) == 1
    assert "not the picture that index.csv names" in capsys.readouterr().err


# --- alike, balance


def noisy(image: np.ndarray, seed: int) -> bytes:
    """The same scene a moment later: the sensor's noise is another."""
    chance = np.random.default_rng(seed)
    return cv2.imencode(".png", np.clip(image + chance.normal(0, 2, image.shape), 0, 255).astype(np.uint8))[1].tobytes()


def test_frames_that_nothing_moved_in_are_left_out_when_asked(tmp_path: Path) -> None:
    street, yard = (
        cv2.imread(str(path)) for path in sorted((ROOT / "tests" / "golden" / "digits").glob("*_0.png"))[:2]
    )
    frames = [("a", noisy(street, 1)), ("a", noisy(street, 2)), ("b", noisy(street, 3)), ("a", noisy(yard, 4))]
    rows = [given(label, data, f"{number}.png") for number, (label, data) in enumerate(frames)]
    entries, left_out = fill(tmp_path / "all", rows)
    assert (len(entries), left_out.alike) == (4, 0)
    entries, left_out = fill(tmp_path / "alike", rows, alike_bits=12)
    assert [one.source for one in entries] == ["a/0.png", "b/2.png", "a/3.png"]
    assert left_out.alike == 1
    assert len(list((tmp_path / "alike").rglob("*.png"))) == 3


@pytest.mark.parametrize(("how", "rare", "common"), [("cap", 3, 3), ("repeat", 20, 20)])
def test_classes_are_balanced_to_learn_from_and_only_there(how: str, rare: int, common: int) -> None:
    counts = {("rare", "train"): 3, ("common", "train"): 20, ("rare", "test"): 1, ("common", "test"): 7}
    entries = [
        Entry(f"pictures/{label}/{split}-{number}.png", label, f"{split} {label}", split, f"{number:064}")
        for (label, split), count in counts.items()
        for number in range(count)
    ]
    stays, out = balanced(entries, how)
    found = Counter((one.label, one.split) for one in stays)
    assert found == {("rare", "train"): rare, ("common", "train"): common, ("rare", "test"): 1, ("common", "test"): 7}
    assert set(stays) | set(out) == set(entries)
    assert set(stays).isdisjoint(out)
    assert balanced(entries, how) == (stays, out)


def test_a_capped_set_has_no_picture_that_the_index_does_not_name(tmp_path: Path) -> None:
    pictures = make_folder(tmp_path / "parts", {"good": 60, "bad": 20})
    assert main(["folder", str(pictures), "--out", str(tmp_path / "set"), "--balance", "cap"]) == 0
    made = load_set(tmp_path / "set")
    on_disk = {str(path.relative_to(made.folder)) for path in made.folder.rglob("*.png")}
    assert on_disk == {one.path for one in made.entries}
    assert "too many of their class" in (made.folder / "README.md").read_text()


# --- recordings


def recording(path: Path, rows: list[str], header: str = "time,x,y,does") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows, ""]))


def test_windows_of_labelled_recordings_show_one_class_each(tmp_path: Path) -> None:
    """Ten rows of one class, ten of another, three without a label, ten of the first: at 10 Hz, windows of four."""
    labels = ["idle"] * 10 + ["run/fast"] * 10 + [""] * 3 + ["idle"] * 10
    for person in range(8):
        rows = [f"{number / 10},{number},{person},{label}" for number, label in enumerate(labels)]
        recording(tmp_path / "days" / f"person-{person}.csv", rows)
    arguments = ["series", str(tmp_path / "days"), "--label-column", "does", "--time-column", "time"]
    arguments += ["--samples", "4", "--test-sources", "person-3", "--validation-sources", "person-4"]
    assert main([*arguments, "--out", str(tmp_path / "set")]) == 0
    made = load_set(tmp_path / "set")
    assert made.series == SeriesInput(channels=("x", "y"), samples=4, stride=4)
    assert made.labels == ("idle", "run/fast")
    assert {one.source for one in made.of("test")} == {"person-3"}
    assert {one.source for one in made.of("validation")} == {"person-4"}
    windows = {one: made.sample(one) for one in made.entries}
    assert {window.shape for window in windows.values()} == {(4, 2)}
    first = sorted(float(window[0, 0]) for one, window in windows.items() if one.source == "person-3")
    assert first == [0, 4, 10, 14, 23, 27]
    assert {one.label for one, window in windows.items() if 10 <= window[0, 0] < 20} == {"run/fast"}
    assert main(["check", str(tmp_path / "set")]) == 0


def test_recordings_may_lie_in_a_folder_for_each_class(tmp_path: Path) -> None:
    for label, level in (("low", 0.0), ("high", 1.0)):
        for day in range(12):
            rows = [f"{level + row / 1000 + day / 100:.3f},?" for row in range(40)]
            recording(tmp_path / "press" / label / f"day-{day}" / "a.csv", rows, "force,note")
    arguments = ["series", str(tmp_path / "press"), "--rate-hz", "20", "--model-rate-hz", "10", "--samples", "8"]
    assert main([*arguments, "--stride", "4", "--out", str(tmp_path / "set")]) == 0
    made = load_set(tmp_path / "set")
    assert made.series == SeriesInput(channels=("force",), samples=8, stride=4, rate_hz=10.0)
    assert {one.split for one in made.entries} == {"train", "validation", "test"}
    for entry in made.entries:
        window = made.sample(entry)
        assert window.dtype == np.float32
        assert (window > 0.5).all() == (entry.label == "high")
        np.testing.assert_allclose(np.diff(window[:, 0])[1:], 0.002, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label-column", "did"], "no column 'did' in the header; it has: time, x, y, does"),
        (["--label-column", "does", "--channels", "x,z"], "no columns 'z' in the header"),
        (["--label-column", "does", "--channels", "x,x"], "channels: a name is there twice"),
        (["--label-column", "does", "--samples", "400"], "days: not one window"),
        ([], "expected a sub-folder for each class, two or more; found 0"),
    ],
)
def test_wrong_recordings_are_one_line(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recording(tmp_path / "days" / "a.csv", [f"{number},{number},0,idle" for number in range(9)])
    assert main(["series", str(tmp_path / "days"), *arguments, "--out", str(tmp_path / "set")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "set").exists()


# --- the index


SOUND = "pictures/a/1.png,a,camera-1,train," + "0" * 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the header path,label,source,split,sha256"),
        (f"path,label\n{SOUND}\n", "expected the header"),
        ("HEAD\npictures/a/1.png,a\n", "row 2: expected 5 columns, got 2"),
        (f"HEAD\n{SOUND.replace('pictures', '..')}\n", "path: expected one inside the folder"),
        (f"HEAD\n{SOUND.replace('pictures', '/etc')}\n", "path: expected one inside the folder"),
        (f"HEAD\n{SOUND.replace('train', 'learn')}\n", "split: expected one of train, validation, test"),
        (f"HEAD\n{SOUND}0\n", "sha256: expected 64 hex digits"),
        (f"HEAD\n{SOUND.replace(',a,', ', a,')}\n", "label: expected a short line of text"),
        (f"HEAD\n{SOUND}\n{SOUND.replace('train', 'test')}\n", "source camera-1 is in train and in test"),
        ("HEAD\n\udcff\n", "expected CSV in UTF-8"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path: Path, text: str, message: str) -> None:
    whole = text.replace("HEAD", "path,label,source,split,sha256")
    (tmp_path / "index.csv").write_bytes(whole.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataSetError, match=message):
        load_set(tmp_path)


def test_a_set_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"index\.csv: no such file or directory; tools/dataset\.py makes"):
        load_set(tmp_path)


def test_an_empty_split_is_said(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text(f"path,label,source,split,sha256\n{SOUND}\n")
    with pytest.raises(DataSetError, match="no picture is in split test"):
        load_set(tmp_path).of("test")
