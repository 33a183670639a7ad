"""What tools/train_anomaly.py runs inside .venv-zoo: trains an autoencoder on windows of the usual, and writes it as
TFLite.

    .venv-zoo/bin/python tools/anomaly_network.py windows.npz model.tflite --steps 12000 --code 16

`windows.npz` holds `learned` and `kept_back`, each N x samples x channels, float32, normalised. The network sees them
through a narrow place of `--code` numbers: what it has not met it can't give back.
"""

import argparse
import contextlib
import importlib
import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH = 64
LEARNING_RATE = 2e-3
MAX_HIDDEN = 128

Windows = NDArray[np.float32]


def make_network(samples: int, channels: int, code: int) -> Any:
    """Dense, symmetric: window - hidden - code - hidden - window, with a hidden layer of half a window's numbers."""
    layers = importlib.import_module("keras").layers
    size = samples * channels
    hidden = max(code, min(size // 2, MAX_HIDDEN))
    return importlib.import_module("keras").Sequential(
        [
            layers.Flatten(),
            layers.Dense(hidden, activation="relu"),
            layers.Dense(code),
            layers.Dense(hidden, activation="relu"),
            layers.Dense(size),
            layers.Reshape((samples, channels)),
        ]
    )


def train(windows: Windows, kept_back: Windows, code: int, steps: int) -> Any:
    """The Keras model with a fixed batch of 1: tflite-runtime hands no other to XNNPACK."""
    keras, tf = importlib.import_module("keras"), importlib.import_module("tensorflow")
    keras.utils.set_random_seed(1)
    tf.config.experimental.enable_op_determinism()
    samples, channels = windows.shape[1:]
    network = make_network(samples, channels, code)
    given = keras.Input((samples, channels))
    model = keras.Model(given, network(given))
    per_epoch = -(-len(windows) // BATCH)
    epochs = max(1, round(steps / per_epoch))
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * per_epoch, alpha=0.02)
    model.compile(keras.optimizers.Adam(rate), "mse")
    start = time.monotonic()

    def tell(epoch: int, logs: dict[str, float]) -> None:
        if (epoch + 1) % max(1, epochs // 10) == 0:
            errors = f"error {logs['loss']:.4f}, kept back {logs['val_loss']:.4f}"
            print(f"epoch {epoch + 1} of {epochs}: {errors}, {time.monotonic() - start:.0f} s", flush=True)

    model.fit(
        windows,
        windows,
        validation_data=(kept_back, kept_back),
        batch_size=BATCH,
        epochs=epochs,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=tell)],
    )
    fixed = keras.Input(batch_shape=(1, samples, channels))
    return keras.Model(fixed, network(fixed))


def convert(model: Any) -> bytes:
    """TFLite in float32: it is small, and tflite-runtime is slow with int8."""
    tf = importlib.import_module("tensorflow")
    with contextlib.redirect_stdout(io.StringIO()):  # a page about variables
        return bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("windows", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--code", type=int, required=True, help="numbers at the narrowest place")
    parser.add_argument("--steps", type=int, required=True, help="batches of 64 windows")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with np.load(options.windows, allow_pickle=False) as arrays:
        model = train(arrays["learned"], arrays["kept_back"], options.code, options.steps)
    options.model.write_bytes(convert(model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
