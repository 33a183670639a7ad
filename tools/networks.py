"""The networks that tools/train.py offers, without the last layer: that is always one confidence for each class.

What the last layer gets is the embedding: where a sample lies among others, which the agent watches for drift and puts
a device's own head on.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tools.zoo_models import load_state_dict, make_efflite0

WEIGHTS = Path(__file__).resolve().parent.parent / ".cache" / "zoo" / "efficientnet-lite0.pth"
"""Of `transfer`; `tools/fetch_models.py zoo` brings them."""
LAST_BLOCK = 12
"""So many layers of EfficientNet-Lite0 are its last block, the head's convolution and the pooling behind it."""

Shape = tuple[int, ...]


class Network(NamedTuple):
    """What a network is made of, and what it takes when nothing else is said."""

    says: str
    """For `--help`."""
    takes: frozenset[str]
    """`pictures`, `windows`, or both."""
    layers: Callable[[Any, Shape], list[Any]]
    """From the module keras and the shape of one sample to all layers but the last."""
    size_px: int = 28
    color: Literal["gray", "rgb"] = "gray"
    mean: float = 0.0
    std: float = 255.0
    """Of pictures: (value - mean) / std. Windows are normalised by their own."""


def _cnn(keras: Any, _: Shape) -> list[Any]:
    return [
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
    ]


def _cnn_rgb(keras: Any, _: Shape) -> list[Any]:
    return [
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu"),
    ]


def _mlp(keras: Any, _: Shape) -> list[Any]:
    return [keras.layers.Flatten(), keras.layers.Dense(500, activation="relu")]


def _conv1d(keras: Any, _: Shape) -> list[Any]:
    return [
        keras.layers.Conv1D(32, 5, padding="same", activation="relu"),
        keras.layers.MaxPooling1D(2),
        keras.layers.Conv1D(64, 5, padding="same", activation="relu"),
        keras.layers.GlobalAveragePooling1D(),
    ]


def _gru(keras: Any, _: Shape) -> list[Any]:
    return [keras.layers.GRU(48)]


def _rnn(keras: Any, _: Shape) -> list[Any]:
    return [keras.layers.SimpleRNN(48)]


def _transfer(keras: Any, shape: Shape) -> list[Any]:
    """EfficientNet-Lite0 with ImageNet's weights, up to its pooling (1,280 values); it does not learn."""
    whole = make_efflite0(load_state_dict(WEIGHTS))
    features = keras.Model(whole.inputs[0], whole.layers[-2].output)
    backbone = keras.models.clone_model(features, input_tensors=keras.Input(shape))
    backbone.set_weights(features.get_weights())
    backbone.trainable = False
    return [backbone, keras.layers.Dropout(0.2)]


PICTURES, WINDOWS = frozenset({"pictures"}), frozenset({"windows"})

NETWORKS: Mapping[str, Network] = {
    "cnn": Network("Conv32-Pool-Conv64-Pool-Conv64-Dense64", PICTURES, _cnn),
    "cnn-rgb": Network("Conv32-Pool-Conv64-Pool-Dense128", PICTURES, _cnn_rgb, 32, "rgb"),
    "mlp": Network("Dense500", PICTURES | WINDOWS, _mlp),
    "transfer": Network(
        "EfficientNet-Lite0 as ImageNet taught it, and a new last layer", PICTURES, _transfer, 128, "rgb", 127.0, 128.0
    ),
    "conv1d": Network("Conv32-Pool-Conv64-Mean, along the time", WINDOWS, _conv1d),
    "gru": Network("GRU48", WINDOWS, _gru),
    "rnn": Network("SimpleRNN48", WINDOWS, _rnn),
}
"""By the name that `--network` takes; behind each comes Dense with softmax."""


def make_network(keras: Any, name: str, shape: Shape, classes: int) -> Any:
    """A Keras model that has learned nothing yet, `transfer` apart.

    Args:
        keras: the module.
        name: a key of NETWORKS.
        shape: of one sample.
        classes: how many.
    """
    network = keras.Sequential([keras.Input(shape)])
    for layer in NETWORKS[name].layers(keras, shape):
        network.add(layer)
    network.add(keras.layers.Dense(classes, activation="softmax"))
    return network


def backbone_of(network: Any) -> Any | None:
    """The part that was taught before, as one layer; None: this network has none."""
    return next((layer for layer in network.layers if hasattr(layer, "layers")), None)


def thaw(backbone: Any) -> None:
    """Let the last block learn too; its batch norms keep what they know of the world."""
    backbone.trainable = True
    for place, layer in enumerate(reversed(backbone.layers)):
        layer.trainable = place < LAST_BLOCK and "BatchNormalization" not in type(layer).__name__


def for_device(keras: Any, model: Any) -> Any:
    """The model for one sample at a time (tflite-runtime hands no other to XNNPACK), with a second output, `embedding`:
    what its last layer gets.
    """
    given = keras.Input(batch_shape=(1, *model.inputs[0].shape[1:]))
    classes, embedding = keras.Model(model.inputs, [model.outputs[0], model.layers[-1].input])(given)
    return keras.Model(given, {"classes": classes, "embedding": embedding})
