"""Structured pruning: a network with fewer channels, made of the strongest of a larger one. It is smaller and faster.

It answers worse than the larger one until it has been trained for some epochs; see tools/optimize_network.py.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tools.optimize_training import UnsuitedError

CHANNELS_AT_A_TIME = 8
"""Kernels of XNNPACK do so many at once: a ninth would cost as much as eight."""

Places = NDArray[np.int64]


class _Narrowed(NamedTuple):
    arrays: list[NDArray[np.float32]]
    """Weights of the smaller layer."""
    kept: Places
    """Which channels of the larger layer's output it gives."""


def strongest(kernel: NDArray[np.float32], share: float) -> Places:
    """The output channels (last axis) with the largest L1 norm, in their order: this share of them, in whole eights.

    The measure is that of Li et al. 2017, "Pruning Filters for Efficient ConvNets".
    """
    count = kernel.shape[-1]
    keep = min(count, -(-round(count * share) // CHANNELS_AT_A_TIME) * CHANNELS_AT_A_TIME)
    norms = np.abs(kernel).sum(axis=tuple(range(kernel.ndim - 1)))
    return np.sort(np.argsort(-norms, kind="stable")[:keep])


def narrow(model: Any, share: float) -> Any:
    """A Keras model with this share of the channels of each layer; its classes are all there.

    Args:
        model: functional, with each layer called once (`copy_of`).
        share: over 0 and up to 1.

    Raises:
        UnsuitedError: it has layers of which this module does not know which channel belongs to which.
    """
    keras = importlib.import_module("keras")
    given = model.inputs[0]
    made = {id(given): keras.Input(given.shape[1:])}
    kept: dict[int, Places] = {id(given): np.arange(given.shape[-1])}
    arrays = {}
    last = _last_with_weights(model)
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "InputLayer":
            continue
        source = id(layer.input)
        if kind not in _KINDS or source not in made:
            raise UnsuitedError(f"layer {layer.name} ({kind}) does not take one layer's channels to another's")
        narrowed = _KINDS[kind](layer, kept[source], 1.0 if layer.name == last else share)
        config = layer.get_config()
        config |= {key: len(narrowed.kept) for key in ("filters", "units") if key in config}
        smaller = type(layer).from_config(config)
        made[id(layer.output)], kept[id(layer.output)] = smaller(made[source]), narrowed.kept
        arrays[layer.name] = narrowed.arrays
    result = keras.Model(made[id(given)], made[id(model.outputs[0])])
    for name, values in arrays.items():
        result.get_layer(name).set_weights(values)
    return result


def _last_with_weights(model: Any) -> str:
    """The name of the layer that makes the classes: its channels are the classes."""
    makers = {id(layer.output): layer for layer in model.layers}
    layer = makers[id(model.outputs[0])]
    while type(layer).__name__ not in {"Conv1D", "Conv2D", "Dense"}:
        if id(layer.input) not in makers:
            raise UnsuitedError("no layer of its own makes the classes")
        layer = makers[id(layer.input)]
    return str(layer.name)


# --- kinds of layers


def _same(layer: Any, kept: Places, share: float) -> _Narrowed:  # noqa: ARG001
    return _Narrowed([], kept)


def _flattened(layer: Any, kept: Places, share: float) -> _Narrowed:  # noqa: ARG001
    """Channels are the last axis: each place has all of them."""
    shape = layer.input.shape[1:]
    places = np.arange(int(np.prod(shape[:-1])))[:, None] * shape[-1] + kept
    return _Narrowed([], places.ravel())


def _weighted(layer: Any, kept: Places, share: float) -> _Narrowed:
    if getattr(layer, "groups", 1) != 1:
        raise UnsuitedError(f"layer {layer.name} has groups of channels")
    kernel, *bias = layer.get_weights()
    best = strongest(kernel, share)
    return _Narrowed([kernel[..., kept, :][..., best], *(one[best] for one in bias)], best)


def _depthwise(layer: Any, kept: Places, share: float) -> _Narrowed:  # noqa: ARG001
    if layer.depth_multiplier != 1:
        raise UnsuitedError(f"layer {layer.name} makes several channels of one")
    kernel, *bias = layer.get_weights()
    return _Narrowed([kernel[:, :, kept], *(one[kept] for one in bias)], kept)


def _normalized(layer: Any, kept: Places, share: float) -> _Narrowed:  # noqa: ARG001
    return _Narrowed([one[kept] for one in layer.get_weights()], kept)


_KINDS: Mapping[str, Callable[[Any, Places, float], _Narrowed]] = {
    "Conv1D": _weighted,
    "Conv2D": _weighted,
    "Dense": _weighted,
    "DepthwiseConv2D": _depthwise,
    "BatchNormalization": _normalized,
    "Flatten": _flattened,
} | dict.fromkeys(
    (
        "Activation", "AveragePooling1D", "AveragePooling2D", "Dropout", "GlobalAveragePooling1D",
        "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "Identity", "MaxPooling1D",
        "MaxPooling2D", "ReLU", "Softmax", "ZeroPadding1D", "ZeroPadding2D",
    ),
    _same,
)  # fmt: skip
"""What becomes of a layer's weights, by Keras' name of it."""
