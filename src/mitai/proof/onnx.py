"""Nets out of ONNX files: of strangers' bytes, so everything that is not known is refused (docs/spec/proof-nets.md).

Needs the package `onnx`, to read and to compare; verifiers need neither it nor the file.

- No data outside of the file, no functions, no other domain, no attribute that is not understood.
- All sizes are known beforehand: only the number of samples may be open.

Example:
    >>> net, arrays = read_onnx(Path("lenet.onnx").read_bytes())
    >>> [type(step).__name__ for step in net.steps][:3]
    ['Conv', 'Function', 'Pool']
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict

import msgspec
import numpy as np

from mitai.errors import ParseError, ProofError
from mitai.proof.graph import Real
from mitai.proof.models.net import MAX_SIZE, Add, AnyStep, Choice, Conv, Dense, Function, Net, Pool
from mitai.proof.operation import Shape

if TYPE_CHECKING:
    import onnx

MAX_ONNX_BYTES = 64 << 20
MAX_NODES = 1024
OLDEST = 7  # operators mean from here on what they do now
_FLOAT, _TYPES, _WITHIN = 1, {1, 7, 11}, 0  # TensorProto: float; int64 and double, too; data location
_FUNCTIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}


def read_onnx(data: bytes) -> tuple[Net, dict[str, Real]]:
    """Return the net in a file, and its weights as the net's programs take them.

    Raises:
        ParseError: `proof.onnx-malformed`.
        ProofError: `proof.onnx-unsupported`: it has something that nets here don't; `proof.onnx-missing`: the package.
            `proof.net-invalid`.
    """
    package = _package()
    if len(data) > MAX_ONNX_BYTES:
        raise ParseError("proof.onnx-malformed", f"{len(data)} bytes are too many for a net")
    try:
        model = package.load_model_from_string(data)
    except Exception:  # noqa: BLE001 - of protobuf, whatever it is
        raise ParseError("proof.onnx-malformed", "these bytes are no ONNX model") from None
    try:
        net, arrays = _Reader(model).read()
        return msgspec.convert(msgspec.to_builtins(net), Net), arrays
    except (ArithmeticError, LookupError, TypeError, ValueError, msgspec.ValidationError):
        raise ParseError("proof.onnx-malformed", "parts of the ONNX model are missing, or don't fit together") from None


def evaluate(data: bytes, samples: Real) -> Real:
    """Return what ONNX's reference says for samples [n, …], one by one.

    Raises:
        ProofError: `proof.onnx-unevaluated`: it can't say; it takes some pads of pools for others.
    """
    graph = _package().load_model_from_string(data).graph
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(data)
    [given] = [entry for entry in graph.input if entry.name not in {one.name for one in graph.initializer}]
    shape = [size.dim_value for size in given.type.tensor_type.shape.dim][1:]
    try:
        with np.errstate(all="ignore"):
            rows = [
                evaluator.run(None, {given.name: sample.reshape(1, *shape).astype(np.float32)})[0] for sample in samples
            ]
    except Exception as error:  # noqa: BLE001 - whatever its operators raise
        raise ProofError(
            "proof.onnx-unevaluated", f"ONNX's reference evaluator fails on the model ({type(error).__name__})"
        ) from None
    return np.array(rows, np.float64).reshape(len(samples), -1)


def _package() -> Any:  # noqa: ANN401 - a module
    try:
        import onnx
    except ImportError:
        raise ProofError(
            "proof.onnx-missing", "the package onnx is not installed", hint="pip install 'mitai[onnx]'"
        ) from None
    return onnx


class _Windows(TypedDict):
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[int, int, int, int]


class _Reader:
    """One file: each operator becomes a step, or is known to change nothing."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        domains = {entry.domain for entry in model.opset_import} - {"", "ai.onnx"}
        version = min((entry.version for entry in model.opset_import), default=0)
        known = not (model.functions or model.training_info or self._graph.sparse_initializer or domains)
        _require(known and version >= OLDEST, "functions, training, sparse weights, other domains or old operators")
        _require(len(self._graph.node) <= MAX_NODES, f"more than {MAX_NODES} operators")
        self._constants = {one.name: _numbers(one) for one in self._graph.initializer}
        _require(len(self._constants) == len(self._graph.initializer), "two weights of one name")
        self._steps: list[AnyStep] = []
        self._results: dict[str, int] = {}
        self._shapes: dict[str, Shape] = {}  # as the file has it: a map may be read as a row
        self._lies: list[Shape] = []  # of the input and of each step's result, as it is
        self._arrays: dict[str, Real] = {}
        self._uses = [name for node in self._graph.node for name in node.input]
        self._uses += [entry.name for entry in self._graph.output]
        self._attributes: dict[str, Any] = {}

    def read(self) -> tuple[Net, dict[str, Real]]:
        """Return net and weights."""
        inputs = [entry for entry in self._graph.input if entry.name not in self._constants]
        _require(len(inputs) == len(self._graph.output) == 1, "other than one input and one output")
        [given] = inputs
        kind = given.type.tensor_type
        sizes = [dim.dim_value for dim in kind.shape.dim]
        _require(kind.elem_type == _FLOAT, "an input of other than 32-bit numbers")
        _require(len(sizes) in {2, 4} and sizes[0] in {0, 1}, "an input of other than samples of rows or maps")
        _require(all(size > 0 for size in sizes[1:]), "an input of open size")
        self._results[given.name], self._shapes[given.name] = 0, tuple(sizes[1:])
        self._lies.append(tuple(sizes[1:]))
        for node in self._graph.node:
            self._node(node)
        end = self._graph.output[0].name
        _require(self._results.get(end) == len(self._steps), "an output that is not the last step's")
        net = Net(input=self._lies[0], steps=tuple(self._steps))
        _require(net.shapes == self._lies, "results of unclear shapes")
        return net, self._arrays

    def _node(self, node: onnx.NodeProto) -> None:
        kind = node.op_type if node.domain in {"", "ai.onnx"} else f"{node.domain}.{node.op_type}"
        do = self._operators.get(kind)
        if do is None:
            raise _unsupported(f"the operator {kind[:64]}")
        wanted = 2 if kind in {"MaxPool", "Dropout"} else 1  # which have a second result that is rarely asked for
        _require(1 <= len(node.output) <= wanted and not any(node.output[1:]), f"other results of {kind}")
        known = node.output[0] in self._constants or node.output[0] in self._results
        _require(bool(node.output[0]) and not known, "two results of one name")
        self._attributes = {one.name: _attribute(one) for one in node.attribute}
        do(self, node)
        if self._attributes:
            raise _unsupported(f"the attribute {min(self._attributes)[:64]} of {kind}")

    # --- operators ---

    def _constant(self, node: onnx.NodeProto) -> None:
        value = self._attributes.pop("value", None)
        _require(isinstance(value, np.ndarray) and not node.input, "a constant that is no array")
        self._constants[node.output[0]] = value

    def _same(self, node: onnx.NodeProto) -> None:
        _require(len(node.input) <= 2, "a Dropout that is training")
        self._attributes.pop("seed", None)
        self._attributes.pop("ratio", None)
        self._alias(node, self._shape(node.input[0]))

    def _flatten(self, node: onnx.NodeProto) -> None:
        _require(self._attributes.pop("axis", 1) == 1, "a Flatten of another axis")
        self._alias(node, (math.prod(self._shape(node.input[0])),))

    def _reshape(self, node: onnx.NodeProto) -> None:
        self._attributes.pop("allowzero", 0)
        shape, size = self._shape(node.input[0]), math.prod(self._shape(node.input[0]))
        first, *rest = self._weight(node.input[1], "a Reshape to sizes that are computed").astype(np.int64).tolist()
        known = -math.prod(rest) if -1 in rest else 0
        rest = [size // max(known, 1) if one == -1 else one for one in rest]
        _require(first in {-1, 0, 1} and min(rest, default=0) > 0 and math.prod(rest) == size, "a Reshape of samples")
        if len(rest) == 3 and len(shape) == 1:
            first_of_all = self._results[node.input[0]] == 0 and not self._steps and self._lies[0] == shape
            _require(first_of_all and rest[0] == 1, "a Reshape to a map, but of the input to one channel")
            self._lies[0] = tuple(rest)
        else:
            _require(len(rest) == 1 or tuple(rest) == shape, "a Reshape but to rows")
        self._alias(node, tuple(rest))

    def _gemm(self, node: onnx.NodeProto) -> None:
        plain = all(self._attributes.pop(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        _require(plain and not self._attributes.pop("transA", 0), "a Gemm that scales or turns what goes in")
        matrix = self._weight(node.input[1], "a Gemm of two results")
        matrix = matrix.T if self._attributes.pop("transB", 0) else matrix
        bias = self._weight(node.input[2], "a Gemm with a computed bias") if len(node.input) == 3 else None
        self._dense(node, matrix, bias)

    def _matmul(self, node: onnx.NodeProto) -> None:
        self._dense(node, self._weight(node.input[1], "a MatMul of two results"), None)

    def _dense(self, node: onnx.NodeProto, matrix: Real, bias: Real | None) -> None:
        source = node.input[0]
        shape = self._shape(source)
        _require(matrix.ndim == 2 and len(shape) == 1 and shape[0] == len(matrix), f"a {node.op_type} of other shapes")
        out = matrix.shape[1]
        lies = self._lies[self._results[source]]
        if len(lies) == 3:
            matrix = matrix.reshape(lies[0], lies[1] * lies[2], out).transpose(1, 0, 2)
        self._step(
            node, Dense(a=self._results[source], out=out, bias=bias is not None), (out,), weight=matrix, bias=bias
        )

    def _conv(self, node: onnx.NodeProto) -> None:
        shape, kernels = self._shape(node.input[0]), self._weight(node.input[1], "a Conv of two results")
        bias = self._weight(node.input[2], "a Conv with a computed bias") if len(node.input) == 3 else None
        _require(self._attributes.pop("group", 1) == 1, "a Conv of groups")
        _require(kernels.ndim == 4 and len(shape) == 3 and kernels.shape[1] == shape[0], "a Conv of other shapes")
        out, channels, height, width = kernels.shape
        windows = self._windows((height, width))
        step = Conv(a=self._results[node.input[0]], out=out, bias=bias is not None, **windows)
        matrix = kernels.transpose(2, 3, 1, 0).reshape(height * width, channels, out)
        matrix = matrix[:, 0] if channels == 1 else matrix[:, None]
        self._step(node, step, (out, *step.places(shape)), weight=matrix, bias=bias)

    def _pool(self, node: onnx.NodeProto) -> None:
        shape = self._shape(node.input[0])
        _require(len(shape) == 3, f"a {node.op_type} of a row")
        of: Literal["max", "mean"] = "mean"
        whole, windows = False, _Windows(kernel=(shape[1], shape[2]), stride=(1, 1), pads=(0, 0, 0, 0))
        if node.op_type != "GlobalAveragePool":
            windows = self._windows(None)
            _require(windows["pads"][:2] == windows["pads"][2:], "a pool with other pads on one side")
            _require(not self._attributes.pop("storage_order", 0), "a MaxPool by columns")
            whole = bool(self._attributes.pop("count_include_pad", 0))
            of = "max" if node.op_type == "MaxPool" else "mean"
        step = Pool(a=self._results[node.input[0]], of=of, whole=whole, **windows)
        self._step(node, step, (shape[0], *step.places(shape)))

    def _windows(self, size: tuple[int, int] | None) -> _Windows:
        take = self._attributes.pop
        kernel = tuple(take("kernel_shape", size or ()))
        _require(len(kernel) == 2 and size in {None, kernel}, "windows that are not of rows and columns")
        _require(take("auto_pad", b"NOTSET") in {b"NOTSET", b"VALID"}, "pads that are computed")
        _require(
            not take("ceil_mode", 0) and tuple(take("dilations", (1, 1))) == (1, 1), "windows with gaps, or cut ones"
        )
        stride, pads = tuple(take("strides", (1, 1))), tuple(take("pads", (0, 0, 0, 0)))
        _require(len(stride) == 2 and min(stride) >= 1 and min(kernel) >= 1, "windows of other strides")
        _require(len(pads) == 4 and min(pads) >= 0, "other pads")
        return _Windows(kernel=kernel, stride=stride, pads=pads)

    def _function(self, node: onnx.NodeProto) -> None:
        number = self._results[self._known(node.input[0])]
        step = Function(a=number, name=_FUNCTIONS[node.op_type])  # type: ignore[arg-type]
        self._step(node, step, self._shape(node.input[0]), lies=self._lies[number])

    def _add(self, node: onnx.NodeProto) -> None:
        constant = [name for name in node.input if name in self._constants]
        if not constant:
            a, b = (self._results[self._known(name)] for name in node.input)
            shape = self._shape(node.input[0])
            same = shape == self._shape(node.input[1]) and self._lies[a] == self._lies[b]
            _require(same, "an Add of other shapes")
            self._step(node, Add(a=a, b=b), shape, lies=self._lies[a])
            return
        [bias], [source] = constant, [name for name in node.input if name not in self._constants]
        number, array = self._results[self._known(source)], self._constants[bias]
        last = self._steps[-1] if number and number == len(self._steps) else None
        fits = isinstance(last, Dense) and not last.bias and array.size == last.out == array.shape[-1]
        uses = sum(self._uses.count(name) for name, one in self._results.items() if one == number)
        _require(fits and uses == 1, "an Add of a constant, but behind a MatMul")
        self._steps[-1] = Dense(a=last.a, out=last.out)  # type: ignore[union-attr]
        self._arrays[f"steps.{number}.bias"] = array.reshape(-1).astype(np.float64)
        self._alias(node, self._shape(source))

    def _argmax(self, node: onnx.NodeProto) -> None:
        shape = self._shape(node.input[0])
        self._attributes.pop("keepdims", 1)
        plain = self._attributes.pop("axis", 0) in {1, -1} and not self._attributes.pop("select_last_index", 0)
        _require(plain and len(shape) == 1, "an ArgMax but of rows, the first of equals")
        self._step(node, Choice(a=self._results[node.input[0]]), ())

    _operators: ClassVar[dict[str, Callable[[_Reader, onnx.NodeProto], None]]] = {
        "Constant": _constant, "Identity": _same, "Dropout": _same, "Flatten": _flatten, "Reshape": _reshape,
        "Gemm": _gemm, "MatMul": _matmul, "Conv": _conv, "MaxPool": _pool, "AveragePool": _pool,
        "GlobalAveragePool": _pool, "Relu": _function, "Sigmoid": _function, "Tanh": _function, "Add": _add,
        "ArgMax": _argmax,
    }  # fmt: skip

    # --- what they have in common ---

    def _step(
        self,
        node: onnx.NodeProto,
        step: AnyStep,
        shape: Shape,
        *,
        weight: Real | None = None,
        bias: Real | None = None,
        lies: Shape | None = None,
    ) -> None:
        self._steps.append(step)
        self._lies.append(lies or shape)
        number = len(self._steps)
        self._results[node.output[0]], self._shapes[node.output[0]] = number, shape
        if weight is not None:
            self._arrays[f"steps.{number}.weight"] = weight.astype(np.float64)
        if bias is not None:
            _require(bias.size == shape[0], "a bias of another size")
            self._arrays[f"steps.{number}.bias"] = bias.reshape(-1).astype(np.float64)

    def _alias(self, node: onnx.NodeProto, shape: Shape) -> None:
        self._results[node.output[0]] = self._results[self._known(node.input[0])]
        self._shapes[node.output[0]] = shape

    def _known(self, name: str) -> str:
        _require(name in self._results, "a result that is not computed from the input")
        return name

    def _shape(self, name: str) -> Shape:
        return self._shapes[self._known(name)]

    def _weight(self, name: str, otherwise: str) -> Real:
        _require(name in self._constants, otherwise)
        return self._constants[name]


def _numbers(tensor: onnx.TensorProto) -> Real:
    """Return an array of a file's: of floating-point numbers, or of whole ones."""
    from onnx import numpy_helper

    _require(tensor.data_location == _WITHIN and not tensor.external_data, "data outside of the file")
    _require(tensor.data_type in _TYPES and len(tensor.dims) <= 4, "weights of other types")
    _require(min(tensor.dims, default=1) >= 0 and math.prod(tensor.dims) <= MAX_SIZE, "weights as many")
    array = numpy_helper.to_array(tensor)
    _require(bool(np.isfinite(array).all()), "weights that are no numbers")
    return array


def _attribute(entry: onnx.AttributeProto) -> Any:  # noqa: ANN401 - a number, bytes, several, or an array
    found = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}.get(entry.type)
    _require(found is not None and not entry.ref_attr_name, "attributes of other types")
    value = getattr(entry, str(found))
    return _numbers(value) if found == "t" else tuple(value) if entry.type in {6, 7} else value


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise _unsupported(what)


def _unsupported(what: str) -> ProofError:
    return ProofError(
        "proof.onnx-unsupported",
        f"the ONNX model has {what}, which nets that are proven don't",
        hint="what they may have is in docs/spec/proof-nets.md",
    )
