"""Makes endless.tflite beside this file: a face model in its shapes, whose loop ends only for dark pictures.

    .venv-zoo/bin/python tests/golden/make_endless.py

While the mean of the input is over a threshold, WHILE goes on; nothing in the loop changes the mean. The threshold is
THRESHOLD in the file, and `tests/sim/mutants.py` writes another in its place.
"""

import sys
from pathlib import Path

import numpy as np

THRESHOLD = np.float32(12345.0)
"""A number whose bytes are in the file once."""


def main() -> int:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([1, 128, 128, 3], tf.float32)])
    def model(image):
        mean = tf.reduce_mean(image)
        rounds, _ = tf.while_loop(
            lambda _, value: value > THRESHOLD, lambda n, value: (n + 1.0, value), (tf.constant(0.0), mean)
        )
        # The outputs depend on the loop, so that no optimiser takes it out; logits of -100 mean that there is no face.
        return {
            "regressors": tf.fill([1, 896, 16], rounds),
            "scores": tf.fill([1, 896, 1], rounds - 100.0),
        }

    data = tf.lite.TFLiteConverter.from_concrete_functions([model.get_concrete_function()]).convert()
    if data.count(THRESHOLD.tobytes()) != 1:
        print("the threshold is not in the model just once: choose another", file=sys.stderr)
        return 1
    Path(__file__).with_name("endless.tflite").write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
