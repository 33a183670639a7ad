"""The TFLite runtime behind a few calls. The only file that imports it.

ai-edge-litert serves where it is installed; tflite-runtime where it is not (32-bit ARM has no other). The import is at
the top on purpose: workers are forked from a process that has it already.
"""

import ctypes
import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any

import numpy as np

from agent.config import Delegate
from agent.errors import ModelError
from agent.inference.model_file import VAR_HANDLE, check_model, uses_operator
from agent.manifest import Constant, MoreInput
from agent.values import Tensor, TensorInfo


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """On what a model runs."""

    package: str
    version: str
    threads: int
    delegate: str | None
    """Library of the accelerator; None: the CPU."""


def _import_litert() -> Any:
    from ai_edge_litert import interpreter

    return interpreter


def _import_tflite_runtime() -> Any:
    from tflite_runtime import interpreter

    return interpreter


_PACKAGES = {"ai-edge-litert": _import_litert, "tflite-runtime": _import_tflite_runtime}
"""In the order in which they are tried; the environment variable EDGE_AGENT_RUNTIME names one outright."""


def _find_runtime() -> tuple[Any, str, str]:
    """Module, package and version.

    Raises:
        ModelError: there is none that works; says why and what to install.
    """
    reasons = []
    wanted = os.environ.get("EDGE_AGENT_RUNTIME")
    if wanted and wanted not in _PACKAGES:
        raise ModelError(f"EDGE_AGENT_RUNTIME: expected {' or '.join(_PACKAGES)}, got {wanted!r}")
    for package in [wanted] if wanted else list(_PACKAGES):
        try:
            module = _PACKAGES[package]()
            check_numpy(package, np.__version__)
            return module, package, _version_of(package)
        except ModuleNotFoundError:
            continue
        except (ImportError, ModelError) as exc:
            reasons.append(f"{package}: {_one_line(exc)}")
    raise ModelError("; ".join(reasons) or "no TFLite runtime is installed; mend: pip install ai-edge-litert")


def check_numpy(package: str, numpy_version: str) -> None:
    """tflite-runtime 2.14 is built for numpy 1 but says only numpy>=1.23; with numpy 2 its first model ends in a
    SystemError about `_ARRAY_API`.

    Raises:
        ModelError: this runtime would crash with this numpy; says how to mend it.
    """
    if package == "tflite-runtime" and not numpy_version.startswith(("0.", "1.")):
        raise ModelError(f"can't work with numpy {numpy_version}; mend: pip install 'edge-agent[tflite-runtime]'")


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # some distributions' packages come without metadata
        return "unknown"


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300] or type(exc).__name__


_MODULE: Any = None
_PACKAGE, _VERSION, _MISSING = "", "", ""
try:
    _MODULE, _PACKAGE, _VERSION = _find_runtime()
except ModelError as _exc:
    _MISSING = str(_exc)  # said when a model is loaded, so that `check` can say it too


@dataclass(frozen=True, slots=True)
class _Feedback:
    """An output that the model gets back in an input. The two may be quantised in different ways."""

    source: Callable[[], Tensor]
    made: TensorInfo
    target: Callable[[], Tensor]
    given: TensorInfo

    def clear(self) -> None:
        """Let the input be what stands for zero."""
        self.target()[...] = self.given.quantize(np.zeros(self.given.shape, np.float32))

    def hand_over(self) -> None:
        values = self.source()
        if (self.made.dtype, self.made.scale, self.made.zero_point) != (
            self.given.dtype,
            self.given.scale,
            self.given.zero_point,
        ):
            values = self.given.quantize(self.made.dequantize(values))
        self.target()[...] = values


class Interpreter:
    """One loaded model. Not thread-safe. `invoke` releases the GIL."""

    def __init__(
        self,
        model: bytes,
        *,
        threads: int,
        delegate: Delegate | None = None,
        shape: tuple[int, ...] | None = None,
        more_inputs: Mapping[str, MoreInput] = MappingProxyType({}),
    ) -> None:
        """Load a model and allocate its tensors.

        Args:
            model: the file's bytes.
            threads: of the interpreter.
            delegate: the accelerator; None: the CPU.
            shape: to which the input is resized first; None: as it is.
            more_inputs: what the other inputs get, by name; the one that is not named gets the frames.

        Raises:
            ModelError: it is not a TFLite model, is truncated, has operators that the runtime lacks, has no input or
                output, or others than `shape` and `more_inputs` say; the accelerator can't be used and there is no
                fallback; there is no usable runtime.
        """
        if _MODULE is None:
            raise ModelError(_MISSING)
        check_model(model)
        self.warning: str | None = None
        """What the user should know although it works; for the caller to log."""
        self._shape, self._more_inputs = shape, more_inputs
        self._load_anew = functools.partial(self._load, model, threads, delegate)
        self._has_resources = uses_operator(model, VAR_HANDLE)
        self._set_up()
        used = delegate.library if delegate and self.warning is None else None
        self.runtime = RuntimeInfo(_PACKAGE, _VERSION, threads, used)

    def _set_up(self) -> None:
        """Load the model, and find its tensors."""
        self._interpreter = self._load_anew()
        given, made = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if not given or not made:
            raise ModelError(
                f"the model has {len(given)} inputs and {len(made)} outputs; at least one of each is needed"
            )
        self.inputs: tuple[TensorInfo, ...] = tuple(_info(details) for details in given)
        """That of the frames first."""
        self.outputs: tuple[TensorInfo, ...] = tuple(_info(details) for details in made)
        # Details are looked up once: asking per frame costs 1.3 % of a small model's invoke.
        self._views: list[Callable[[], Tensor]] = [self._interpreter.tensor(details["index"]) for details in given]
        self._results: list[Callable[[], Tensor]] = [self._interpreter.tensor(details["index"]) for details in made]
        self._feedback: list[_Feedback] = []
        self._fill_more_inputs(self._more_inputs)

    def _fill_more_inputs(self, more_inputs: Mapping[str, MoreInput]) -> None:
        """Write the constants, which stay, and find out what is fed back."""
        names, made = [info.name for info in self.inputs], [info.name for info in self.outputs]
        for name, source in more_inputs.items():
            if name not in names:
                raise ModelError(f"more_inputs.{name}: expected one of {', '.join(names)}")
            place = names.index(name)
            if isinstance(source, Constant):
                self._views[place]()[...] = _constant(name, source, self.inputs[place])
            elif source.name not in made or self.outputs[made.index(source.name)].shape != self.inputs[place].shape:
                raise ModelError(
                    f"more_inputs.{name}: expected an output of the same shape, got {source.name!r}; "
                    f"the model has {', '.join(made)}"
                )
            else:
                output = made.index(source.name)
                self._feedback.append(
                    _Feedback(self._results[output], self.outputs[output], self._views[place], self.inputs[place])
                )
                self._feedback[-1].clear()
        free = [place for place, name in enumerate(names) if name not in more_inputs]
        if more_inputs and len(free) != 1:
            raise ModelError(f"more_inputs: expected all inputs but one, of {', '.join(names)}")
        main = free[0]
        order = [main, *(place for place in range(len(names)) if place != main)]
        self.inputs = tuple(self.inputs[place] for place in order)
        self._views = [self._views[place] for place in order]

    def input_view(self, index: int = 0) -> Tensor:
        """An input's own memory, to be written. Drop it before `invoke`, which fails while anyone holds it."""
        return self._views[index]()

    def reset(self) -> None:
        """Forget what the model has kept from invocation to invocation: its variables, and what is fed back."""
        if self._has_resources:  # reset_all_variables leaves them as they are; to load a small model takes 0.4 ms
            self._set_up()
            return
        self._interpreter.reset_all_variables()
        for one in self._feedback:
            one.clear()

    def invoke(self) -> None:
        """Run the model on what is in its inputs, which keep their content.

        Raises:
            ModelError: it failed, or a view of a tensor is still held.
        """
        try:
            self._interpreter.invoke()
            for one in self._feedback:
                one.hand_over()
        except (RuntimeError, ValueError) as exc:
            raise ModelError(f"the model failed: {_one_line(exc)}") from exc

    def output_views(self) -> list[Tensor]:
        """The outputs' own memory, valid until the next `invoke`, which fails while anyone holds one."""
        return [view() for view in self._results]

    def _load(self, model: bytes, threads: int, delegate: Delegate | None) -> Any:
        if delegate is None:
            return self._make(model, threads, [])
        try:
            return self._make(model, threads, [_load_delegate(delegate)], f"accelerator {delegate.library}: ")
        except ModelError as exc:
            if delegate.fallback != "cpu":
                raise
            self.warning = f"runs on the CPU: {exc}"
            try:
                return self._make(model, threads, [])
            except ModelError as on_cpu:
                raise ModelError(f"{exc}; and on the CPU: {on_cpu}") from on_cpu

    def _make(self, model: bytes, threads: int, delegates: list[Any], who: str = "") -> Any:
        # Never model_path: a mapped file that is changed later crashes the process, or changes the answers.
        try:
            interpreter = _MODULE.Interpreter(
                model_content=model, num_threads=threads, experimental_delegates=delegates or None
            )
            if self._shape is not None:
                given = interpreter.get_input_details()
                main = next((one for one in given if one["name"] not in self._more_inputs), None)
                if main is not None:
                    interpreter.resize_tensor_input(main["index"], self._shape)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError, MemoryError, SystemError) as exc:
            raise ModelError(f"{who}{_explain(_one_line(exc))}") from exc
        return interpreter


def _constant(name: str, constant: Constant, info: TensorInfo) -> Tensor:
    """The numbers in the tensor's dtype, quantised where it is. Raises ModelError."""
    values = np.asarray(constant.value, np.float64)
    size = int(np.prod(info.shape))
    if values.ndim and values.size != size:
        raise ModelError(f"more_inputs.{name}: expected 1 value or {size}, got {values.size}")
    return info.quantize(np.broadcast_to(values.reshape(info.shape if values.ndim else ()), info.shape))


def _explain(text: str) -> str:
    """A line for the user instead of what the runtime says when it lacks an operator."""
    runtime = f"{_PACKAGE} {_VERSION}"
    if found := re.search(r"unresolved custom op: (\S+?)\.?(?: |$)", text):
        if found[1].startswith("edgetpu"):
            return (
                "the model is compiled for the Edge TPU; mend: delegate: {library: libedgetpu.so.1}, or the plain model"
            )
        return (
            f"the model needs the operator {found[1]}, which {runtime} does not have; export it with built-in operators"
        )
    if found := re.search(r"opcode '(\w+)' version '(\d+)'", text):
        newer = "; mend: pip install ai-edge-litert" if _PACKAGE == "tflite-runtime" else ""
        return f"the model needs {found[1]} version {found[2]}, which {runtime} does not have{newer}"
    if "Select TensorFlow op" in text:
        return f"the model needs TensorFlow operators, which {runtime} does not have; export it without SELECT_TF_OPS"
    return f"the model does not load: {text}"


def _load_delegate(delegate: Delegate) -> Any:
    """Raises ModelError; names the library and what to look at."""
    name = f"accelerator {delegate.library}"
    try:
        library = ctypes.CDLL(delegate.library)
    except OSError as exc:
        raise ModelError(
            f"{name} can't be loaded ({_one_line(exc)}); install it, or give its full path as delegate.library"
        ) from exc
    # The runtime finds this out too, but then prints a traceback from its destructor.
    if not (hasattr(library, "tflite_plugin_create_delegate") and hasattr(library, "tflite_plugin_destroy_delegate")):
        raise ModelError(f"{name} is not a TFLite delegate: it lacks tflite_plugin_create_delegate")
    try:
        return _MODULE.load_delegate(delegate.library, dict(delegate.options))
    except (ValueError, RuntimeError, OSError) as exc:
        reason = _one_line(exc).removeprefix(f"Failed to load delegate from {delegate.library} ")
        raise ModelError(
            f"{name} does not start ({reason}); is the device plugged in, may this user open it, "
            "and are delegate.options right?"
        ) from exc


def _info(details: dict[str, Any]) -> TensorInfo:
    dtype = np.dtype(details["dtype"]).name
    # The scale of a float tensor is a leftover of training: its values are real already.
    scale, zero_point = (0.0, 0) if dtype.startswith("float") else details["quantization"]
    return TensorInfo(
        name=details["name"],
        shape=tuple(int(size) for size in details["shape"]),
        dtype=dtype,
        scale=float(scale),
        zero_point=int(zero_point),
    )
