"""Quantisation-aware training: a network that feels in training what int8 will do to it.

In the forward pass weights and activations are rounded to 256 steps, as TFLite rounds them: weights in each output
channel, with 0 in the middle; activations in the whole tensor. The gradient goes through as if nothing were rounded,
and is 0 outside the range (the straight-through estimator: Jacob et al. 2018, "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference", section 3). TensorFlow has both as `fake_quant_*`.

Channels are rounded each for itself, so a normalisation that is folded into them later changes nothing.
"""

import importlib
from typing import Any

import numpy as np

from tools.augment import Samples
from tools.optimize_training import See, UnsuitedError, kernels

SAMPLES_AT_A_TIME = 16
_TAKEN_TOGETHER = frozenset({"Activation", "BatchNormalization", "ReLU"})
"""TFLite makes one operator of these and the layer before, so there is no activation between."""
_NOTHING_NEW = frozenset(
    {"Dropout", "Flatten", "Identity", "InputLayer", "MaxPooling1D", "MaxPooling2D", "Reshape", "Softmax"}
)
"""Their output is of the same steps as their input."""


def ranges(model: Any, samples: Samples) -> dict[str, tuple[float, float]]:
    """The least and the greatest value that each layer gives whose output TFLite rounds, by its name; 0 is between.

    Raises:
        UnsuitedError: a layer is a network of its own, whose layers can't be seen from here.
    """
    keras = importlib.import_module("keras")
    for layer in model.layers:
        if hasattr(layer, "layers"):
            raise UnsuitedError(f"layer {layer.name} is a network of its own")
    used_by = {id(layer.input): type(layer).__name__ for layer in model.layers}
    rounded = [
        layer
        for layer in model.layers
        if type(layer).__name__ not in _NOTHING_NEW
        and used_by.get(id(layer.output)) not in _TAKEN_TOGETHER
        and getattr(layer, "activation", None) is not keras.activations.softmax  # rounded to 0, it would teach nothing
    ]
    probe = keras.Model(model.inputs, [layer.output for layer in rounded])
    low, high = np.zeros(len(rounded)), np.zeros(len(rounded))
    for start in range(0, len(samples), SAMPLES_AT_A_TIME):
        outputs = probe.predict_on_batch(samples[start : start + SAMPLES_AT_A_TIME])
        values = outputs if isinstance(outputs, list | tuple) else [outputs]
        low = np.minimum(low, [value.min() for value in values])
        high = np.maximum(high, [value.max() for value in values])
    return {
        layer.name: (float(least), float(most))
        for layer, least, most in zip(rounded, low, high, strict=True)
        if most > least
    }


def with_rounded_activations(model: Any, samples: Samples) -> Any:
    """A copy whose activations are rounded to 256 steps of the range that these samples show; weights are as before.

    `model` is functional, with each layer called once (`copy_of`). Raises UnsuitedError, as `ranges` does.
    """
    keras, tf = importlib.import_module("keras"), importlib.import_module("tensorflow")
    found = ranges(model, samples)

    def call(layer: Any, *arguments: Any, **named: Any) -> Any:
        output = layer(*arguments, **named)
        if layer.name not in found:
            return output
        low, high = found[layer.name]
        return keras.layers.Lambda(lambda value: tf.quantization.fake_quant_with_min_max_args(value, low, high))(output)

    copy = keras.models.clone_model(model, call_function=call)
    copy.set_weights(model.get_weights())
    return copy


def rounded_weights(model: Any) -> See:
    """Shows kernels as int8 will have them, all else as it is."""
    tf = importlib.import_module("tensorflow")
    rounded = {id(one) for one in kernels(model)}
    depthwise = {id(layer.kernel) for layer in model.layers if type(layer).__name__ == "DepthwiseConv2D"}

    def see(variable: Any) -> Any:
        value = variable.value
        if id(variable) not in rounded:
            return value
        shape = value.shape
        # A column for each channel that has a scale of its own; a depthwise kernel is height x width x channels x 1.
        columns = tf.reshape(value, (-1, shape[-2] if id(variable) in depthwise else shape[-1]))
        reach = tf.stop_gradient(tf.maximum(tf.reduce_max(tf.abs(columns), axis=0), 1e-6))
        steps = tf.quantization.fake_quant_with_min_max_vars_per_channel(columns, -reach, reach, narrow_range=True)
        return tf.reshape(steps, shape)

    return see
