"""What tools/build_zoo.py runs inside .venv-zoo: makes the models it is told to, and writes the report.

Sources, all fetched and checked by tools/fetch_models.py: EfficientNet-Lite0's ImageNet weights (a torch state dict),
torchvision's list of the class names, MediaPipe's SSD, and photos to calibrate with.
"""

import ast
import collections
import functools
import importlib
import json
import os
import pickle
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

import cv2
import numpy as np
from numpy.typing import NDArray

CACHE = Path(__file__).resolve().parent.parent / ".cache"
MODELS, PICTURES, ZOO = CACHE / "models", CACHE / "pictures", CACHE / "zoo"
REPORT, LOG = ZOO / "report.json", ZOO / "build.log"
CROPS = 10
"""Random crops of each photo to calibrate with."""

Floats = NDArray[np.float32]
Photo = NDArray[np.uint8]


# --- torch's file, without torch


class _Tensor(NamedTuple):
    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StateDict(pickle.Unpickler):
    """A pickle may run anything; this one may make dicts, and say of tensors where their numbers lie."""

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, shape, strides, *_: _Tensor(
                storage, offset, shape, strides
            ),
            ("torch", "FloatStorage"): np.float32,
            ("torch", "LongStorage"): np.int64,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> str:
        _, dtype, key, _, _ = pid[:5]
        self.dtypes[key] = dtype
        return str(key)

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.dtypes: dict[str, Any] = {}


def load_state_dict(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .pth file in torch's format from before 1.6: three pickles of heads, the dict, keys, raw data."""
    with path.open("rb") as file:
        for _ in range(3):
            _StateDict(file).load()
        reader = _StateDict(file)
        tensors = reader.load()
        storages = {}
        for key in _StateDict(file).load():
            (count,) = struct.unpack("<q", file.read(8))
            dtype = np.dtype(reader.dtypes[key])
            storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return {name: _array(storages[t.storage], t) for name, t in tensors.items()}


def _array(storage: NDArray[Any], tensor: _Tensor) -> NDArray[Any]:
    size = storage.itemsize
    return np.lib.stride_tricks.as_strided(
        storage[tensor.offset :], tensor.shape, [step * size for step in tensor.strides]
    ).copy()


# --- EfficientNet-Lite0


def make_efflite0(weights: dict[str, NDArray[Any]]) -> Any:
    """The Keras model, batch 1, 224 x 224 RGB of (value - 127) / 128, softmax over 1,000 classes.

    Layers as in tensorflow/tpu, models/official/efficientnet/lite; names of the weights as in the state dict.
    """
    keras = importlib.import_module("keras")
    layers = keras.layers

    def norm(x: Any, name: str, relu: bool) -> Any:
        layer = layers.BatchNormalization(epsilon=1e-3)
        x = layer(x)
        layer.set_weights([weights[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")])
        return layers.ReLU(6.0)(x) if relu else x

    def conv(x: Any, name: str, stride: int = 1) -> Any:
        kernel = weights[f"{name}.weight"].transpose(2, 3, 1, 0)
        layer = layers.Conv2D(kernel.shape[3], kernel.shape[0], strides=stride, padding="same", use_bias=False)
        x = layer(x)
        layer.set_weights([kernel])
        return x

    def depthwise(x: Any, name: str, stride: int) -> Any:
        kernel = weights[f"{name}.weight"].transpose(2, 3, 0, 1)
        layer = layers.DepthwiseConv2D(kernel.shape[0], strides=stride, padding="same", use_bias=False)
        x = layer(x)
        layer.set_weights([kernel])
        return x

    def block(x: Any, name: str, stride: int, add: bool) -> Any:
        before = x
        if f"{name}._expand_conv.weight" in weights:
            x = norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0", relu=True)
        x = norm(depthwise(x, f"{name}._depthwise_conv", stride), f"{name}._bn1", relu=True)
        x = norm(conv(x, f"{name}._project_conv"), f"{name}._bn2", relu=False)
        return layers.Add()([x, before]) if add else x

    image = keras.Input(batch_shape=(1, 224, 224, 3))
    x = norm(conv(image, "_conv_stem", 2), "_bn0", relu=True)
    index = 0
    for repeats, first_stride in ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1)):
        for repeat in range(repeats):
            x = block(x, f"_blocks.{index}", 1 if repeat else first_stride, add=repeat > 0)
            index += 1
    x = norm(conv(x, "_conv_head"), "_bn1", relu=True)
    top = layers.Dense(1000, activation="softmax")
    x = top(layers.GlobalAveragePooling2D()(x))
    top.set_weights([weights["_fc.weight"].T, weights["_fc.bias"]])
    return keras.Model(image, x)


def convert_efflite0(model: Any, variant: str) -> bytes:
    """One variant: fp32, fp16 (weights), dyn (int8 weights), int8 or uint8 (input and output too)."""
    tf = importlib.import_module("tensorflow")
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if variant != "fp32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if variant == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if variant == "dyn":  # or it does not load in tflite-runtime 2.14
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True  # noqa: SLF001
    if variant in {"int8", "uint8"}:
        converter.representative_dataset = lambda: ([_scaled(photo, 224, 127, 128)] for photo in crops(square=True))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, variant)
    return bytes(converter.convert())


def write_labels() -> None:
    """ImageNet's class names out of torchvision's source, one a line."""
    tree = ast.parse((ZOO / "imagenet_meta.py").read_text(encoding="utf-8"))
    names = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_IMAGENET_CATEGORIES"
    )
    write_atomic(MODELS / "imagenet_labels.txt", "".join(f"{name}\n" for name in names).encode())


# --- SSD


def unfold_float16(data: bytes) -> bytes:
    """The same model with float32 weights, and a signature, which the quantiser asks for.

    MediaPipe keeps weights as float16 behind DEQUANTIZE operators; the quantiser takes those for activations.
    """
    schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    flatbuffers = importlib.import_module("flatbuffers")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    graph = model.subgraphs[0]
    kept, source_of = [], {-1: -1}
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        tensor = graph.tensors[operator.inputs[0]]
        is_dequantize = schema.BuiltinOperator.DEQUANTIZE in {code.builtinCode, code.deprecatedBuiltinCode}
        if is_dequantize and tensor.type == schema.TensorType.FLOAT16:
            half = np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(np.float16)
            model.buffers[tensor.buffer].data = half.astype(np.float32).view(np.uint8)
            tensor.type = schema.TensorType.FLOAT32
            source_of[int(operator.outputs[0])] = int(operator.inputs[0])
        else:
            kept.append(operator)
    graph.operators = kept
    _renumber(graph, source_of)
    model.signatureDefs = [_signature(schema, graph)]
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _renumber(graph: Any, source_of: dict[int, int]) -> None:
    """Leave out the tensors that nothing uses any more: the quantiser wants to read them all."""
    rows = [graph.inputs, graph.outputs, *(row for op in graph.operators for row in (op.inputs, op.outputs))]
    used = sorted({source_of.get(int(index), int(index)) for row in rows for index in row} - {-1})
    place = {index: new for new, index in enumerate(used)} | {-1: -1}

    def renumbered(row: Any) -> NDArray[np.int32]:
        return np.array([place[source_of.get(int(index), int(index))] for index in row], np.int32)

    for operator in graph.operators:
        operator.inputs, operator.outputs = renumbered(operator.inputs), renumbered(operator.outputs)
    graph.inputs, graph.outputs = renumbered(graph.inputs), renumbered(graph.outputs)
    graph.tensors = [graph.tensors[index] for index in used]


def _signature(schema: Any, graph: Any) -> Any:
    def named(name: str, index: int) -> Any:
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, int(index)
        return entry

    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs = [named("image", graph.inputs[0])]
    signature.outputs = [named(f"output_{place}", index) for place, index in enumerate(graph.outputs)]
    return signature


def make_ssd_int8() -> bytes:
    """MediaPipe's SSD with int8 weights, activations, input and output; calibrated on the photos."""
    quantizer = importlib.import_module("litert_quantizer.quantizer")
    recipe = importlib.import_module("litert_quantizer.recipe")
    whole = ZOO / "ssd_oidv4_fp32.tflite"
    write_atomic(whole, unfold_float16((MODELS / "ssd_mobilenet_v2_oidv4_fp16.tflite").read_bytes()))
    work = quantizer.Quantizer(str(whole))
    work.load_quantization_recipe(recipe.static_wi8_ai8())
    samples = [{"image": _scaled(photo, 300, 127.5, 127.5)} for photo in crops(square=False)]
    result = work.quantize(work.calibrate({"serving_default": samples}))
    return bytes(result.quantized_model)


# --- photos


def photos() -> dict[str, Photo]:
    """Name and RGB picture."""
    return {
        path.name: np.asarray(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), np.uint8)  # type: ignore[arg-type]
        for path in sorted(PICTURES.iterdir())
    }


def crops(square: bool) -> Iterator[Photo]:
    """The photos whole, then random parts of them; the same in every run."""
    chance = np.random.default_rng(0)
    pictures = list(photos().values())
    yield from (_middle(picture) if square else picture for picture in pictures)
    for _ in range(CROPS):
        for picture in pictures:
            height, width = (int(side * chance.uniform(0.5, 1.0)) for side in picture.shape[:2])
            if square:
                height = width = min(height, width)
            top = int(chance.integers(0, picture.shape[0] - height + 1))
            left = int(chance.integers(0, picture.shape[1] - width + 1))
            part = picture[top : top + height, left : left + width]
            yield part[:, ::-1] if chance.random() < 0.5 else part


def _middle(picture: Photo) -> Photo:
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    return picture[top : top + side, left : left + side]


def _scaled(picture: Photo, side: int, mean: float, std: float) -> Floats:
    small = cv2.resize(np.ascontiguousarray(picture), (side, side), interpolation=cv2.INTER_AREA)
    return ((small.astype(np.float32) - np.float32(mean)) / np.float32(std))[None]


# --- results


def answer(model: bytes, image: Floats) -> list[Floats]:
    """All outputs as real numbers, for an input in real numbers."""
    interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter(model_content=model)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]
    if given["dtype"] != np.float32:
        scale, zero = given["quantization"]
        limits = np.iinfo(given["dtype"])
        image = np.clip(np.round(image / scale) + zero, limits.min, limits.max).astype(given["dtype"])
    interpreter.set_tensor(given["index"], image)
    interpreter.invoke()
    outputs = []
    for made in interpreter.get_output_details():
        scale, zero = made["quantization"]
        value = interpreter.get_tensor(made["index"]).astype(np.float32)
        outputs.append((value - zero) * np.float32(scale) if scale else value)
    return outputs


def best_classes(name: str, model: bytes) -> dict[str, list[object]]:
    """The best class and its confidence for each photo."""
    best: dict[str, list[object]] = {}
    for file, photo in photos().items():
        if name.startswith("efflite0"):
            labels = (MODELS / "imagenet_labels.txt").read_text(encoding="utf-8").splitlines()
            scores = answer(model, _scaled(_middle(photo), 224, 127, 128))[0][0]
        else:
            labels = (MODELS / "ssd_mobilenet_v2_oidv4.txt").read_text(encoding="utf-8").splitlines()
            logits = answer(model, _scaled(photo, 300, 127.5, 127.5))[1][0].max(axis=0)
            scores = 1 / (1 + np.exp(-logits)) * (np.arange(len(labels)) > 0)
        best[file] = [labels[int(scores.argmax())], round(float(scores.max()), 3)]
    return best


def write_atomic(path: Path, data: bytes) -> None:
    """Whole or not at all: an interrupted build leaves nothing that looks like a model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


def keep_noise_apart() -> TextIO:
    """Send what native code and libraries print to LOG; returns the old standard output, for us."""
    own = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    return own


def main() -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    names, own = sys.argv[1:], keep_noise_apart()
    report = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.is_file() else {}
    makers: dict[str, Callable[[], bytes]] = {"ssd_oidv4_int8": make_ssd_int8}
    if any(name.startswith("efflite0") for name in names):
        write_labels()
        keras_model = make_efflite0(load_state_dict(ZOO / "efficientnet-lite0.pth"))
        for variant in ("fp32", "fp16", "dyn", "int8", "uint8"):
            makers[f"efflite0_{variant}"] = functools.partial(convert_efflite0, keras_model, variant)
    for name in names:
        start = time.monotonic()
        model = makers[name]()
        write_atomic(MODELS / f"{name}.tflite", model)
        seconds = round(time.monotonic() - start, 1)
        report[name] = {"bytes": len(model), "build_s": seconds, "best": best_classes(name, model)}
        print(f"{name}: {len(model)} bytes in {seconds} s", file=own)
        write_atomic(REPORT, (json.dumps(report, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
