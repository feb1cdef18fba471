"""Fuzz: ONNX models, cards of nets, and files with their results, as they come from strangers.

Run `python tests/fuzz/fuzz_proof_nets.py [libFuzzer options]` with atheris.
"""

import sys

import msgspec
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from mitai.errors import MitaiError
from mitai.proof.models.net import Dense, Function, Net, Pool
from mitai.proof.nets import NetCard, NetResult, check_net
from mitai.proof.onnx import read_onnx

CARD = NetCard(
    net=Net(
        input=(1, 4, 4),
        steps=(
            Pool(a=0, kernel=(2, 2), of="max", pads=(1, 0, 0, 0)),
            Dense(a=1, out=2, bias=False),
            Function(a=2, name="relu"),
        ),
    ),
    reaches={"x": 1, "steps.2": 2, "steps.2.weight": 0},
    weights="5a" * 32,
)
RESULT = NetResult(card=CARD.encode(), inputs=bytes(32), outputs=bytes(16), proof=b"\1" * 64)
HIDDEN = NetResult(
    card=msgspec.structs.replace(CARD, uses=1).encode(), inputs=bytes(32), outputs=bytes(16), proof=b"\1" * 64
)


def _onnx() -> bytes:
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "w"], ["y"], transB=1),
    ]
    weights = [
        numpy_helper.from_array(np.ones(shape, np.float32), name)
        for name, shape in (("k", (1, 1, 3, 3)), ("w", (2, 4)))
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 1, 4, 4]), ("y", [1, 2]))
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


SEEDS = (_onnx(), CARD.encode(), RESULT.encode(), HIDDEN.encode())


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out, and no result is accepted: nobody has proven anything."""
    try:
        net, arrays = read_onnx(data)
        assert net.work > 0
        assert all(np.isfinite(array).all() for array in arrays.values())
    except MitaiError:
        pass
    for parse in (NetResult.parse, NetCard.parse):
        try:
            read = parse(data)
        except MitaiError:
            continue
        assert read.encode() == data
        if isinstance(read, NetResult) and len(read.inputs) < 4096:
            try:
                check_net(read, NetCard.parse(read.card).identity)
            except MitaiError:
                continue
            raise AssertionError


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
