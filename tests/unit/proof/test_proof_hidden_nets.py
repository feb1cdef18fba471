"""Nets whose proofs hide them: prepared, asked, verified, counted; nothing can be changed, and nothing more is told."""

import json
import random

import msgspec
import numpy as np
import onnx_rig as rig
import pytest
from onnx import TensorProto

from mitai.cli.commands import app
from mitai.errors import MitaiError, ProofError
from mitai.proof.models.net import Function, Net
from mitai.proof.nets import NetResult, PreparedNet, check_net, prepare_net
from mitai.proof.onnx import read_onnx
from mitai.proof.stored import MARGIN, SALTS, SPENT, WEIGHTS

USES = 3
LINE = np.random.default_rng(9).normal(0, 1, (30, 4))


def prepared(make, out, *, uses=USES):
    data = make.bytes(TensorProto.INT64 if make.nodes[-1].op_type == "ArgMax" else TensorProto.FLOAT)
    samples = np.random.default_rng(9).normal(0, 1, (30, *make.shape))
    prepare_net(*read_onnx(data), samples, out, uses=uses)
    return PreparedNet.open(out), samples


@pytest.fixture(scope="module", params=["classifier", "shaped_like_lenet", "residual"])
def ready(request, tmp_path_factory):
    net, samples = prepared(getattr(rig, request.param)(), tmp_path_factory.mktemp("net") / "prepared")
    return net, samples, net.prove(samples[:2])


def test_hidden_results_prove_themselves(ready):
    net, samples, result = ready
    identity = net.card.identity
    bits, numbers = check_net(NetResult.parse(result.encode()), identity)
    assert bits > 100
    assert np.array_equal(numbers.outputs, net.run(samples[:2]))
    with pytest.raises(ProofError) as refused:
        check_net(result, "0" * 64)
    assert refused.value.code == "proof.model-differs"


def test_nothing_of_a_hidden_result_can_be_changed(ready):
    net, _, result = ready
    tampered = [
        {"outputs": result.outputs[:-8] + bytes([result.outputs[-8] ^ 1]) + result.outputs[-7:]},
        {"inputs": bytes([result.inputs[0] ^ 1]) + result.inputs[1:]},
        {"proof": result.proof[:-1]},
        {"proof": result.proof + b"\0"},
        {"proof": b""},
    ]
    tampered += [
        {"proof": result.proof[:at] + bytes([result.proof[at] ^ 1]) + result.proof[at + 1 :]}
        for at in random.Random(7).sample(range(len(result.proof)), 5)
    ]
    for changes in tampered:
        with pytest.raises(MitaiError):
            check_net(msgspec.structs.replace(result, **changes), net.card.identity)


@pytest.mark.parametrize(
    "change", [{"uses": USES - 1}, {"uses": USES + 1}, {"uses": msgspec.UNSET}, {"weights": "0" * 64}]
)
def test_a_hidden_result_is_of_one_card(ready, change):
    card = msgspec.structs.replace(ready[0].card, **change)
    with pytest.raises(ProofError):
        check_net(msgspec.structs.replace(ready[2], card=card.encode()), card.identity)


def test_a_succinct_result_is_none_of_a_net_that_is_hidden(tmp_path):
    net, samples = prepared(rig.perceptron(), tmp_path / "net", uses=0)
    result = net.prove(samples[:1])
    card = msgspec.structs.replace(net.card, uses=USES)
    with pytest.raises(ProofError):
        check_net(msgspec.structs.replace(result, card=card.encode()), card.identity)


def test_a_hidden_net_proves_so_often(tmp_path):
    net, samples = prepared(rig.perceptron(), tmp_path / "net")
    for samples_beyond in (1e6 * samples, np.full_like(samples, np.nan)):  # take no use
        with pytest.raises(ProofError):
            net.prove(samples_beyond)
    for left in (2, 1, 0):
        own = PreparedNet.open(tmp_path / "net")
        assert check_net(own.prove(samples[:1]), net.card.identity)[0] > 100
        assert own.weights.left == net.weights.left == left
    for own in (net, PreparedNet.open(tmp_path / "net")):
        with pytest.raises(ProofError) as refused:
            own.prove(samples[:1])
        assert refused.value.code == "proof.uses-spent"
        assert np.array_equal(own.run(samples), net.run(samples))


def test_whoever_guesses_the_weights_can_not_look_whether_they_are_these(tmp_path):
    """The card of a hidden net prepared again differs in its root alone; that of another one does not."""
    for uses in (USES, 0):
        one, other = (prepared(rig.perceptron(), tmp_path / f"{uses}{name}", uses=uses)[0].card for name in "ab")
        assert (one.weights == other.weights) == (not uses)
        assert msgspec.structs.replace(one, weights=other.weights) == other


@pytest.mark.parametrize("name", [WEIGHTS, MARGIN, SALTS])
def test_damaged_hidden_nets_are_refused(tmp_path, name):
    prepared(rig.perceptron(), tmp_path / "net")
    array = np.load(tmp_path / "net" / name)
    array.reshape(-1)[0] ^= 1
    np.save(tmp_path / "net" / name, array)
    with pytest.raises(ProofError) as refused:
        PreparedNet.open(tmp_path / "net")
    assert refused.value.code == "proof.prepared-damaged"


def test_without_its_count_a_net_is_none(tmp_path):
    net, samples = prepared(rig.perceptron(), tmp_path / "net")
    (tmp_path / "net" / SPENT).unlink()
    with pytest.raises(ProofError) as refused:
        PreparedNet.open(tmp_path / "net")
    assert refused.value.code == "proof.prepared-missing"
    with pytest.raises(ProofError) as refused:
        net.prove(samples[:1])
    assert refused.value.code == "proof.uses-uncounted"


def test_a_hidden_folder_is_not_opened_as_one_that_hides_nothing(tmp_path):
    net, _ = prepared(rig.perceptron(), tmp_path / "net")
    card = msgspec.structs.replace(net.card, uses=msgspec.UNSET)
    (tmp_path / "net" / "card.json").write_bytes(card.encode())
    with pytest.raises(ProofError) as refused:
        PreparedNet.open(tmp_path / "net")
    assert refused.value.code == "proof.prepared-damaged"


def test_what_can_not_be_hidden_leaves_nothing(tmp_path):
    net = Net(input=(4,), steps=(Function(a=0, name="relu"),))
    prepare_net(net, {}, LINE, tmp_path / "net")
    assert check_net(
        PreparedNet.open(tmp_path / "net").prove(LINE[:1]), PreparedNet.open(tmp_path / "net").card.identity
    )
    for make in (
        lambda: prepare_net(net, {}, LINE, tmp_path / "hidden", uses=1),
        lambda: prepared(rig.perceptron(), tmp_path / "hidden", uses=4097),
    ):
        with pytest.raises(ProofError) as refused:
            make()
        assert refused.value.code in {"proof.net-invalid", "proof.statement-invalid"}
    assert [one.name for one in tmp_path.iterdir()] == ["net"]


def test_commands_of_hidden_nets(tmp_path, capsys):
    def run(*words: str) -> dict[str, object]:
        app(["proof", *words, "--json"], result_action="return_value")
        return json.loads(capsys.readouterr().out)

    folder, file, given = (str(tmp_path / name) for name in ("prepared", "result.proof", "x.npy"))
    (tmp_path / "net.onnx").write_bytes(rig.perceptron().bytes())
    np.save(given, LINE)
    words = ("prepare", str(tmp_path / "net.onnx"), folder, "--samples", given, "--zk", "--proofs", "2", "--no-code")
    identity = str(run(*words)["model"])
    asked = [run("ask", folder, "--input", given, "--out", file)["results"] for _ in range(2)]
    assert asked[0] == asked[1] == run("verify", file, "--model", identity)["results"]
    for shown in (run("verify", file, "--model", identity), run("inspect", file)):
        assert shown["model"] == identity
        assert str(shown["hides"]).startswith("weights")
    for code, words in (
        ("proof.uses-spent", ("ask", folder, "--input", given, "--out", file)),
        ("proof.model-differs", ("verify", file, "--model", "0" * 64)),
    ):
        with pytest.raises(MitaiError) as refused:
            run(*words)
        assert refused.value.code == code
