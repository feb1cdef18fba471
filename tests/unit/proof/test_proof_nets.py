"""Nets out of ONNX files compute what ONNX says they do, and prove it; what is not known is refused."""

import json
from dataclasses import dataclass

import msgspec
import numpy as np
import onnx
import onnx_rig as rig
import pytest
from onnx import TensorProto, helper

from mitai.cli.commands import app
from mitai.errors import MitaiError, ParseError, ProofError
from mitai.proof.models.net import Choice, Conv, Dense, Function, Net
from mitai.proof.nets import NetCard, NetResult, PreparedNet, check_net, prepare_net
from mitai.proof.onnx import evaluate, read_onnx


@dataclass
class Ready:
    data: bytes
    samples: np.ndarray
    prepared: PreparedNet
    result: NetResult  # of the first two samples


@pytest.fixture(
    scope="module",
    params=["perceptron", "classifier", "shaped_like_lenet", "residual", "largest_of_sums", "picture_in_a_row"],
)
def ready(request, tmp_path_factory):
    make = getattr(rig, request.param)()
    data = make.bytes(TensorProto.INT64 if request.param == "classifier" else TensorProto.FLOAT)
    samples = np.random.default_rng(9).normal(0, 1, (30, *make.shape))
    out = tmp_path_factory.mktemp("net") / "prepared"
    prepare_net(*read_onnx(data), samples, out)
    prepared = PreparedNet.open(out)
    return Ready(data, samples, prepared, prepared.prove(samples[:2]))


def test_results_are_those_of_onnx(ready):
    some = np.random.default_rng(1).normal(0, 1, (6, *ready.samples.shape[1:]))
    exact = evaluate(ready.data, some)
    found = ready.prepared.run(some).reshape(6, -1)
    assert np.abs(exact - found).max() < 0.002


def test_results_prove_themselves(ready):
    result = ready.result
    identity = ready.prepared.card.identity
    bits, numbers = check_net(NetResult.parse(result.encode()), identity)
    assert bits > 100
    assert np.array_equal(numbers.outputs, ready.prepared.run(ready.samples[:2]))
    tampered = [
        {name: getattr(result, name)[:-1] + bytes([getattr(result, name)[-1] ^ 1])} for name in ("outputs", "proof")
    ]
    tampered += [{"inputs": bytes([result.inputs[0] ^ 1]) + result.inputs[1:]}, {"inputs": b""}, {"outputs": b""}]
    tampered += [{"inputs": result.inputs[:-1]}, {"inputs": result.inputs * 2}, {"proof": result.proof + b"0"}]
    for changes in tampered:
        with pytest.raises(MitaiError):
            check_net(msgspec.structs.replace(result, **changes), identity)
    other = msgspec.structs.replace(ready.prepared.card, weights="0" * 64)
    with pytest.raises(ProofError) as refused:
        check_net(msgspec.structs.replace(result, card=other.encode()), identity)
    assert refused.value.code == "proof.model-differs"
    with pytest.raises(ProofError):
        check_net(msgspec.structs.replace(result, card=other.encode()), other.identity)


def test_a_reference_that_fails_is_said_to_fail(tmp_path, capsys):
    make = small(1, 6, 7)
    make("MaxPool", kernel_shape=[3, 1], pads=[2, 0, 2, 0]), make("Flatten"), make.dense(56, 2)
    (tmp_path / "net.onnx").write_bytes(make.bytes())
    np.save(tmp_path / "x.npy", np.random.default_rng(1).normal(0, 1, (4, 1, 6, 7)))
    words = ["prepare", str(tmp_path / "net.onnx"), str(tmp_path / "net"), "--samples", str(tmp_path / "x.npy")]
    app(["proof", *words, "--json"], result_action="return_value")
    assert json.loads(capsys.readouterr().out).keys() == {"model", "folder"}


def test_large_numbers_are_measured(tmp_path):
    make = rig.perceptron()
    samples = np.random.default_rng(9).normal(0, 3000, (50, 4))
    data = make.bytes()
    prepare_net(*read_onnx(data), samples, tmp_path / "net")
    exact, found = evaluate(data, samples), PreparedNet.open(tmp_path / "net").run(samples)
    assert np.abs(exact - found).max() < 0.002 * np.abs(exact).max()


def test_inputs_beyond_what_was_measured(ready):
    for samples in (
        1e6 * ready.samples[:1],
        np.full_like(ready.samples[:1], np.nan),
        ready.samples[:0],
        ready.samples.reshape(-1),
    ):
        with pytest.raises(ProofError) as refused:
            ready.prepared.prove(samples)
        assert refused.value.code in {"proof.out-of-range", "proof.input-mismatch"}


def unsupported(data, words):
    with pytest.raises(ProofError, match=words) as refused:
        read_onnx(data)
    assert refused.value.code == "proof.onnx-unsupported"


def small(*shape):
    return rig.Maker(*(shape or (4,)))


@pytest.mark.parametrize(
    ("kind", "attributes", "words"),
    [
        ("Softmax", {}, "operator Softmax"),
        ("Flatten", {"axis": 0}, "Flatten"),
        ("ArgMax", {"axis": 0}, "ArgMax"),
        ("ArgMax", {"axis": 1, "select_last_index": 1}, "ArgMax"),
        ("Relu", {"slope": 1.0}, "attribute slope"),
        ("MaxPool", {"kernel_shape": [2, 2]}, "of a row"),
        ("Relu", {"nested": onnx.GraphProto()}, "attributes of other types"),
    ],
)
def test_operators_that_are_not_known(kind, attributes, words):
    make = small()
    make(kind, **attributes)
    unsupported(make.model().SerializeToString(), words)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"kernel_shape": [2, 2], "ceil_mode": 1}, "gaps"),
        ({"kernel_shape": [2, 2], "dilations": [2, 2]}, "gaps"),
        ({"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}, "computed"),
        ({"kernel_shape": [2], "strides": [1]}, "rows and columns"),
        ({"kernel_shape": [2, 2], "strides": [0, 1]}, "strides"),
        ({"kernel_shape": [2, 2], "pads": [0, -1, 0, 0]}, "pads"),
        ({"kernel_shape": [2, 2], "storage_order": 1}, "columns"),
    ],
)
def test_windows_that_are_not_known(attributes, words):
    make = small(1, 6, 6)
    make("MaxPool", **attributes)
    unsupported(make.model().SerializeToString(), words)


def test_a_conv_of_groups():
    make = small(2, 6, 6)
    make("Conv", make.weight(2, 1, 3, 3), group=2)
    unsupported(make.model().SerializeToString(), "groups")


def test_a_bias_is_no_bias_of_what_is_used_without_it():
    make = small()
    product = make("MatMul", make.weight(4, 4))
    same = make("Identity", a=product)
    biased = make("Add", make.weight(4), a=same)
    make("Add", product, a=biased)
    unsupported(make.bytes(), "Add of a constant")
    make = small()
    product = make("MatMul", make.weight(4, 4))
    make("Add", make.weight(4))
    make.last = product
    unsupported(make.bytes(), "Add of a constant")


def test_names_and_shapes_have_one_meaning():
    make = small(36)
    for shape in ([-1, 1, 6, 6], [-1, 1, 4, 9]):
        make("Reshape", make.weight(array=np.array(shape)), a="x")
    unsupported(make.model().SerializeToString(), "to one channel")
    make = small(2, 2, 2)
    make("Flatten"), make("Reshape", make.weight(array=np.array([-1, 1, 2, 4])))
    unsupported(make.model().SerializeToString(), "to one channel")
    for name in ("x", "r0", "w0"):
        make = rig.perceptron()
        make("Relu")
        make.nodes[-1].output[0] = name
        unsupported(make.model().SerializeToString(), "of one name")
    model = rig.perceptron().model()
    model.graph.initializer.append(model.graph.initializer[0])
    unsupported(model.SerializeToString(), "of one name")


def test_files_that_reach_beyond_themselves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(64))
    model = rig.perceptron().model()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="secret")
    unsupported(model.SerializeToString(), "outside of the file")
    model = rig.perceptron().model()
    model.graph.node[0].domain = "ai.example"
    unsupported(model.SerializeToString(), r"operator ai\.example\.Gemm")
    model = rig.perceptron().model()
    model.opset_import.append(helper.make_opsetid("ai.example", 1))
    unsupported(model.SerializeToString(), "other domains")
    model = rig.perceptron().model()
    model.functions.add(name="f")
    unsupported(model.SerializeToString(), "functions")


def test_weights_as_many_as_nobody_needs():
    model = rig.perceptron().model()
    model.graph.initializer[0].dims[:] = [1 << 20, 1 << 20]
    unsupported(model.SerializeToString(), "weights as many")


@pytest.mark.parametrize("cut", [0, 1, 10, 40, 200])
def test_malformed_files(cut):
    data = rig.perceptron().bytes()
    with pytest.raises(MitaiError):
        read_onnx(data[:cut])
    model = onnx.load_model_from_string(data)
    model.graph.node[cut % 3].input.pop()
    model.graph.initializer[1].raw_data = b"123"
    with pytest.raises(MitaiError):
        read_onnx(model.SerializeToString())


@pytest.mark.parametrize(
    ("shape", "steps"),
    [
        ((4, 4), [Dense(a=0, out=1)]),
        ((4,), [Dense(a=1, out=1)]),
        ((4,), [Conv(a=0, out=1, kernel=(1, 1))]),
        ((1, 4, 4), [Conv(a=0, out=1, kernel=(5, 5))]),
        ((1, 4, 4), [Conv(a=0, out=1, kernel=(1, 1), pads=(1, 0, 0, 0))]),
        ((1, 4, 4), [Conv(a=0, out=1, kernel=(2, 2))]),
        ((4,), [Choice(a=0), Dense(a=0, out=1)]),
        ((1 << 16,), [Dense(a=0, out=1 << 16)]),
        ((1, 4096, 4096), [Function(a=0, name="relu"), Dense(a=1, out=1)]),
    ],
)
def test_nets_that_are_none(shape, steps):
    with pytest.raises(ProofError) as refused:
        _ = Net(input=shape, steps=tuple(steps)).shapes
    assert refused.value.code == "proof.net-invalid"


@pytest.mark.parametrize("reach", [-64, 62])
def test_cards_with_wild_reaches(ready, reach):
    card = ready.prepared.card
    for name in card.reaches:
        wild = msgspec.structs.replace(card, reaches=card.reaches | {name: reach})
        try:
            wild.graph(1).program()
        except ProofError as error:
            assert error.code in {"proof.program-invalid", "proof.out-of-range"}  # noqa: PT017 - or none, which is fine


def test_files_have_one_spelling(ready):
    card = ready.prepared.card.encode()
    result = ready.result.encode()
    for parse, data in (
        (NetCard.parse, card + b" "),
        (NetCard.parse, card.replace(b'"a":0', b'"a":0,"x":0')),
        (NetCard.parse, card.replace(b"net v1", b"net v2")),
        (NetResult.parse, result + b"0"),
        (NetResult.parse, b""),
    ):
        with pytest.raises(ParseError):
            parse(data)


def test_commands(tmp_path, capsys):
    def run(*words: str) -> dict[str, object]:
        app([*words, "--json"], result_action="return_value")
        return json.loads(capsys.readouterr().out)

    samples = np.random.default_rng(9).normal(0, 1, (30, 4))
    folder, file = str(tmp_path / "prepared"), str(tmp_path / "result.proof")
    (tmp_path / "net.onnx").write_bytes(rig.perceptron().bytes())
    np.save(tmp_path / "x.npy", samples)
    (tmp_path / "x.csv").write_text("\n".join(",".join(map(str, row)) for row in samples))
    (tmp_path / "x.json").write_text(json.dumps(samples[0].tolist()))
    told = run("proof", "prepare", str(tmp_path / "net.onnx"), folder, "--samples", str(tmp_path / "x.csv"))
    assert told["deviation"] < 0.002
    assert told["agreement"] == 1
    results = [
        run("proof", "ask", folder, "--input", str(tmp_path / f"x.{kind}"), "--out", file)["results"]
        for kind in ("npy", "json")
    ]
    assert results[0][0] == results[1][0]
    assert run("proof", "inspect", file)["model"] == told["model"]
    checked = run("proof", "verify", file, "--model", str(told["model"]))
    assert (checked["verdict"], checked["results"]) == ("holds", results[1])
    (tmp_path / "bad.json").write_text("[1, [2]]")
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY")
    for code, words in (
        ("proof.net-unasked", ["ask", folder, "What?"]),
        ("proof.net-unasked", ["prepare", str(tmp_path / "net.onnx"), str(tmp_path / "other")]),
        ("proof.numbers-malformed", ["ask", folder, "--input", str(tmp_path / "bad.json")]),
        ("proof.numbers-malformed", ["ask", folder, "--input", str(tmp_path / "bad.npy")]),
        ("proof.model-differs", ["verify", file, "--model", "0" * 64]),
    ):
        with pytest.raises(MitaiError) as refused:
            run("proof", *words)
        assert refused.value.code == code


def test_damaged_folders_are_refused(tmp_path):
    samples = np.random.default_rng(9).normal(0, 1, (30, 4))
    card = prepare_net(*read_onnx(rig.perceptron().bytes()), samples, tmp_path / "net")
    with pytest.raises(ProofError) as refused:
        prepare_net(*read_onnx(rig.perceptron().bytes()), samples, tmp_path / "net")
    assert refused.value.code == "proof.out-exists"
    (tmp_path / "net" / "card.json").write_bytes(msgspec.structs.replace(card, weights="0" * 64).encode())
    with pytest.raises(ProofError) as refused:
        PreparedNet.open(tmp_path / "net")
    assert refused.value.code == "proof.prepared-damaged"
    (tmp_path / "net" / "weights.npz").write_bytes(b"nothing")
    with pytest.raises(ProofError) as refused:
        PreparedNet.open(tmp_path / "net")
    assert refused.value.code == "proof.prepared-damaged"
    with pytest.raises(ProofError) as refused:
        PreparedNet.open(tmp_path / "none")
    assert refused.value.code == "proof.prepared-missing"
