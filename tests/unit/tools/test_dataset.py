"""tools/dataset.py and tools/picture_set.py: what goes into a set, and what is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from tools.dataset import Given, fill, main, split_of
from tools.picture_set import DataSetError, load_set


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
    splits = [split_of(f"camera-{number}", 0.2, 0.1) for number in range(2000)]
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
    assert "no picture: a/large.png" in capsys.readouterr().out


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
