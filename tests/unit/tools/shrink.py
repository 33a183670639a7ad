"""What tools/optimize_*.py make of small Keras models, as JSON: for test_optimize_network.py, where TensorFlow is."""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import keras
import numpy as np
import tensorflow as tf

from tools.augment import Augment, Labelled
from tools.optimize_channels import narrow
from tools.optimize_fake_quant import ranges, rounded_weights, with_rounded_activations
from tools.optimize_network import TRAININGS
from tools.optimize_training import Lesson, UnsuitedError, copy_of, fine_tune

CHANCE = np.random.default_rng(1)
SAMPLES = CHANCE.normal(0, 1, (64, 8, 8, 3)).astype(np.float32)
LABELS = (SAMPLES.mean((1, 2, 3)) > 0).astype(np.int64)
LESSON = Lesson(Labelled(SAMPLES, LABELS, np.ones(64, np.float32)), Augment(), 1, 1e-3, 16, 1)


def network() -> Any:
    """With all kinds of layers that channels can be taken from."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(16, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 1, activation="relu"),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.layers[1].set_weights([CHANCE.uniform(0.5, 1.5, 16).astype(np.float32) for _ in range(4)])
    return model


def weaken(model: Any) -> Any:
    """Every second channel of each layer takes no part: its filter is 0, and so is all that it gives."""
    for layer in model.layers[:-1]:
        kind = type(layer).__name__
        if kind in {"Conv2D", "Dense", "BatchNormalization"}:
            layer.set_weights([one * (np.arange(one.shape[-1]) % 2) for one in layer.get_weights()])
    return model


def residual() -> Any:
    given = keras.Input((8, 8, 3))
    added = keras.layers.Add()([keras.layers.Conv2D(3, 1)(given), given])
    return keras.Model(given, keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(added)))


def nested() -> Any:
    """With a backbone, as networks that are trained on from another have."""
    return keras.Sequential([keras.Input((8, 8, 3)), residual(), keras.layers.Dense(2, activation="softmax")])


def refusal(model: Any, training: str) -> str | None:
    try:
        TRAININGS[training].make(copy_of(model), LESSON)
    except UnsuitedError as exc:
        return str(exc)
    return None


def answers(model: Any) -> Any:
    return np.asarray(model(SAMPLES, training=False))


def rounding() -> dict[str, Any]:
    """Weights and activations as int8 will have them, and where the gradient goes."""
    model = copy_of(network())
    rounded = with_rounded_activations(model, SAMPLES)
    see, kernel = rounded_weights(rounded), rounded.trainable_variables[0]
    with tf.GradientTape() as tape:
        seen = see(kernel)
        total = tf.reduce_sum(seen)
    steps = np.abs(kernel.numpy()).max((0, 1, 2)) / 127
    return {
        "ranges": ranges(model, SAMPLES),
        "off_steps": float(np.abs(seen.numpy() - kernel.numpy()).max() / steps.max()),
        "on_steps": bool(np.allclose(seen.numpy() / steps, np.rint(seen.numpy() / steps), atol=1e-3)),
        "gradient": np.unique(tape.gradient(total, kernel.value).numpy()).tolist(),
        "answers_off": float(np.abs(answers(rounded) - answers(model)).max()),
    }


def shrink() -> dict[str, Any]:
    weak = weaken(network())
    half = narrow(copy_of(weak), 0.5)
    learned = copy_of(network())
    fine_tune(learned, LESSON)
    made = {name: plan.make(copy_of(learned), LESSON) for name, plan in TRAININGS.items()}
    kernels = {
        name: [one.numpy() for one in model.trainable_variables if one.name.endswith("kernel")]
        for name, model in made.items()
    }
    return {
        "parameters": [weak.count_params(), half.count_params()],
        "half_answers_off": float(np.abs(answers(half) - answers(weak)).max()),
        "refusals": [refusal(residual(), "channels"), refusal(nested(), "channels"), refusal(nested(), "qat")],
        "zeros": [round(float((one == 0).mean()), 2) for one in kernels["sparse"]],
        "values": [len(np.unique(one)) for one in kernels["clustered"]],
        "right": {name: float((answers(model).argmax(1) == LABELS).mean()) for name, model in made.items()},
        "rounding": rounding(),
    }


if __name__ == "__main__":
    print(json.dumps(shrink()))
