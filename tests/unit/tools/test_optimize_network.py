"""Smaller networks of a Keras model: what pruning, clustering and quantisation-aware training make of its weights."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tools.build_zoo import VENV
from tools.optimize_network import LADDER, TRAININGS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(700)]


def test_every_candidate_has_a_training_and_a_format() -> None:
    for name in LADDER:
        training, _, made = name.rpartition("-")
        assert training in {"", *TRAININGS}
        assert made in {"float", "fp16", "dynamic", "int8"}


@pytest.fixture(scope="module")
def shrunk() -> dict:
    if not (VENV / "ready.txt").is_file():
        pytest.skip("TensorFlow is not there: python3 tools/build_zoo.py --only-venv")
    command = [str(VENV / "bin" / "python"), str(Path(__file__).with_name("shrink.py"))]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_without_channels_that_take_no_part_the_answers_are_the_same(shrunk: dict) -> None:
    before, after = shrunk["parameters"]
    assert after < 0.6 * before
    assert shrunk["half_answers_off"] < 1e-5


def test_channels_that_belong_to_several_layers_are_left_alone(shrunk: dict) -> None:
    residual, backbone, _ = shrunk["refusals"]
    assert "(Add) does not take one layer's channels to another's" in residual
    assert "(Functional) does not take" in backbone


def test_activations_inside_a_backbone_are_not_rounded_by_halves(shrunk: dict) -> None:
    assert "is a network of its own" in shrunk["refusals"][2]


def test_pruning_and_clustering_leave_few_values(shrunk: dict) -> None:
    assert shrunk["zeros"] == [0.5] * len(shrunk["zeros"])
    assert max(shrunk["values"]) <= 16


def test_rounding_is_that_of_int8_and_lets_the_gradient_through(shrunk: dict) -> None:
    found = shrunk["rounding"]
    assert found["on_steps"]
    assert found["off_steps"] <= 0.51
    assert found["gradient"] == [1.0]
    assert 0 < found["answers_off"] < 0.1
    kinds = {name.rstrip("_0123456789") for name in found["ranges"]}
    assert kinds == {"re_lu", "depthwise_conv2d", "conv2d", "dense"}
    assert all(low <= 0 < high for low, high in found["ranges"].values())


def test_each_way_of_training_keeps_what_was_learned(shrunk: dict) -> None:
    assert min(shrunk["right"].values()) > 0.9
