"""tools/train.py: all but the training, which takes TensorFlow and has a test for `make soak`."""

import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.inference.bundle import load_bundle
from agent.inference.golden import GoldenSet
from agent.manifest import InputSpec
from tests.sim.bundles import OWN, ROOT
from tests.unit.tools.drawn import make_set
from tools import class_network
from tools.build_zoo import REQUIREMENTS, VENV
from tools.dataset import main as dataset
from tools.optimize import main as optimize
from tools.picture_set import load_set
from tools.train import draft, inputs, main, make_parser, targets


def options(*arguments: str):
    return make_parser().parse_args(["--data", "parts", "--name", "parts", *arguments])


def test_the_network_gets_what_the_agent_would_give_it(tmp_path: Path) -> None:
    pictures = load_set(make_set(tmp_path / "drawn"))
    bundle, entries = load_bundle(OWN / "digits" / "2026.11.1"), pictures.of("test")
    given = inputs(pictures, entries, bundle.manifest.input)
    assert (given.shape, given.dtype) == ((10, 28, 28, 1), np.float32)
    for one, entry in zip(given, entries, strict=True):
        bundle.run(pictures.picture(entry), 0.0)
        np.testing.assert_array_equal(np.rint(one * 255), bundle.interpreter.input_view()[0])


def test_pictures_of_other_sizes_get_a_clean_border_each(tmp_path: Path) -> None:
    for number, (height, width) in enumerate([(10, 20), (20, 10)]):
        path = tmp_path / "parts" / f"class {number}" / "a.png"
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), np.full((height, width), 255, np.uint8))
    assert dataset(["folder", str(tmp_path / "parts"), "--out", str(tmp_path / "set")]) == 0
    pictures = load_set(tmp_path / "set")
    spec = InputSpec(width_px=4, height_px=4, color="gray", std=(255.0,))
    wide, tall = inputs(pictures, pictures.entries, spec)[..., 0]
    assert wide.tolist() == [[0] * 4, [1] * 4, [1] * 4, [0] * 4]
    assert tall.tolist() == wide.T.tolist()
    assert targets(pictures.entries, pictures.labels).tolist() == [0, 1]


def test_the_options_say_what_the_input_is() -> None:
    assert draft(options("--size-px", "64", "--color", "rgb"), 5) == InputSpec(
        width_px=64, height_px=64, color="rgb", mean=(0.0,), std=(255.0,)
    )


def test_batches_have_every_picture_once_an_epoch_moved_a_little() -> None:
    pictures = np.zeros((10, 5, 5, 1), np.float32)
    pictures[:, 2, 2] = np.arange(1, 11)[:, None]
    given = options("--batch", "4", "--shift-px", "1")
    made = class_network.batches(pictures, np.arange(1, 11), given)
    epochs = [[next(made) for _ in range(3)] for _ in range(2)]
    orders = [[int(label) for _, labels in epoch for label in labels] for epoch in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(1, 11))
    assert orders[0] != orders[1]
    places = set()
    for moved, labels in (batch for epoch in epochs for batch in epoch):
        assert moved.shape[1:] == (5, 5, 1)
        assert moved.max((1, 2, 3)).tolist() == labels.tolist()
        places |= {divmod(int(one.argmax()), 5) for one in moved}
    assert len(places) > 4
    assert all(abs(row - 2) <= 1 and abs(column - 2) <= 1 for row, column in places)
    again = class_network.batches(pictures, np.arange(1, 11), given)
    np.testing.assert_array_equal(next(again)[0], epochs[0][0][0])


def test_the_extra_has_the_versions_of_the_environment_and_the_device_installs_none() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {one.partition(";")[0] for one in project["optional-dependencies"]["train"]}
    assert extra >= {one for one in REQUIREMENTS if one.startswith(("tensorflow", "keras"))}
    assert [one for one in project["dependencies"] if one.startswith(("tensorflow", "keras"))] == []


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = make_set(tmp_path / "drawn")
    for arguments, message in (
        (["--name", "d", "--data", str(tmp_path)], "index.csv: no such file"),
        (["--name", "No Name", "--data", str(drawn)], "train: name: expected"),
        (["--name", "d", "--data", str(drawn)], "no picture is in split train"),
        (["--name", "d", "--data", str(drawn), "--version", "../1"], "train: version: expected"),
        (["--name", "digits", "--version", "2026.11.1", "--data", str(drawn), "--out", str(OWN)], "is there already"),
    ):
        assert main(["--out", str(tmp_path / "models"), *arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("train: ")
        assert error.count("\n") == 1
        assert message in error
    assert not (tmp_path / "models").exists()


def stripes(home: Path) -> Path:
    """Two classes: stripes across and down, with noise."""
    chance = np.random.default_rng(1)
    for label in ("across", "down"):
        (home / label).mkdir(parents=True)
        for number in range(120):
            picture = np.zeros((16, 16))
            picture[int(chance.integers(0, 4)) :: 4] = 200
            picture = np.clip(picture + chance.normal(20, 10, (16, 16)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(home / label / f"{number}.png"), picture if label == "across" else picture.T)
    return home


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_folder_of_pictures_becomes_a_smaller_model(
    tmp_path: Path, optimizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (VENV / "ready.txt").is_file():
        pytest.skip("TensorFlow is not there: python3 tools/build_zoo.py --only-venv")
    data, models = tmp_path / "set", tmp_path / "models"
    assert dataset(["folder", str(stripes(tmp_path / "stripes")), "--out", str(data)]) == 0
    arguments = ["--data", str(data), "--name", "stripes", "--network", "mlp", "--size-px", "16", "--batch", "16"]
    assert main([*arguments, "--optimizer", optimizer, "--out", str(models)]) == 0
    assert optimize([str(models / "stripes" / "1"), "--data", str(data)]) == 0
    bundle = load_bundle(models / "stripes" / (models / "stripes" / "current").read_text().strip())
    assert bundle.manifest.metrics["f1"] == 1.0
    golden = GoldenSet(models / "stripes" / bundle.info.version, bundle.manifest.golden)
    assert len(golden.samples) == 4
    assert "class that loses most" in capsys.readouterr().out
