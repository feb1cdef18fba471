"""A model is prepared, answers, and its answer's file proves itself: in Python and by `mitai proof`."""

from __future__ import annotations

import json
import random
import shutil
import types
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
import safetensors.numpy

from mitai.cli.commands import app
from mitai.cli.user import proof_identity
from mitai.errors import CapsuleError, ClientError, MitaiError, ParseError, ProofError
from mitai.fleet.home import Home
from mitai.ledger.receipt import CapsuleRef
from mitai.mpc.models.arrays import Tensors
from mitai.proof.answer import Answer, check_answer, generate, prove_answer
from mitai.proof.card import ModelCard
from mitai.proof.commitment import commit
from mitai.proof.hiding import commit_hiding
from mitai.proof.models.calibration import quantise
from mitai.proof.prepared import CARD, Prepared, check_prepared, prepare
from mitai.proof.proving import Weights, commit_weights
from mitai.proof.sampling import Agreed, Sampling, commitment
from mitai.proof.stored import CODE
from proof_service_rig import tiny_model

PROMPT = [5, 6, 7]
SAMPLING = Sampling(temperature=1500, seed=b"s" * 32, nonce=b"n" * 32)
AGREED = Agreed(1500, b"n" * 32, commitment(b"s" * 32))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def prepared(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "model"
    prepare(model, [PROMPT, list(range(40, 60))], out)
    return Prepared.open(out)


@pytest.fixture(scope="module")
def answer(prepared):
    said = generate(prepared, PROMPT, 3, lambda _: True)
    assert len(said) == 3
    return prove_answer(prepared, PROMPT, said)


def test_an_answer_proves_itself(prepared, answer):
    assert check_answer(Answer.parse(answer.encode()), prepared.card.identity) > 100


@pytest.mark.parametrize("member", ["prompt", "answer", "proof", "card"])
def test_nothing_of_it_can_be_changed(prepared, answer, member):
    was = getattr(answer, member)
    others = [was[:-1], (*was, was[0])] if isinstance(was, tuple) else [was[:-1], was + b"0"]
    if isinstance(was, tuple):
        others += [(*was[:i], (was[i] + 1) % 2560, *was[i + 1 :]) for i in range(len(was))]
        others += [(*was[:-1], 2560)]
    else:
        draw = random.Random(3)
        places = [draw.randrange(len(was)) for _ in range(8)]
        others += [was[:place] + bytes([was[place] ^ 1]) + was[place + 1 :] for place in places]
    for other in others:
        with pytest.raises(MitaiError):
            check_answer(msgspec.structs.replace(answer, **{member: other}), prepared.card.identity)


@pytest.fixture(scope="module")
def drawn(prepared):
    said = generate(prepared, PROMPT, 3, lambda _: True, SAMPLING)
    return prove_answer(prepared, PROMPT, said, SAMPLING)


def test_a_drawn_answer_proves_itself(prepared, answer, drawn):
    assert check_answer(Answer.parse(drawn.encode()), prepared.card.identity, AGREED) > 100
    assert drawn.answer != answer.answer


def test_answers_that_are_not_drawn_keep_their_bytes(answer):
    assert list(msgspec.msgpack.decode(answer.encode())) == ["v", "card", "prompt", "answer", "proof"]


@pytest.mark.parametrize("other", [{"temperature": 1499}, {"seed": b"t" * 32}, {"nonce": b"m" * 32}])
def test_another_draw_is_refused(prepared, drawn, other):
    sampling = msgspec.structs.replace(SAMPLING, **other)
    claimed = msgspec.structs.replace(drawn, sampling=sampling)
    with pytest.raises(ProofError) as refused:
        check_answer(claimed, prepared.card.identity, AGREED)
    assert refused.value.code == "proof.sampling-differs"
    own = Agreed(sampling.temperature, sampling.nonce, commitment(sampling.seed))
    with pytest.raises(ProofError) as refused:
        check_answer(claimed, prepared.card.identity, own)
    assert refused.value.code != "proof.sampling-differs"


def test_drawn_or_not_is_agreed_on(prepared, answer, drawn):
    plain = msgspec.structs.replace(drawn, sampling=msgspec.UNSET)
    for one, agreed in ((drawn, None), (answer, AGREED), (plain, AGREED)):
        with pytest.raises(ProofError) as refused:
            check_answer(one, prepared.card.identity, agreed)
        assert refused.value.code == "proof.sampling-differs"
    with pytest.raises(MitaiError):
        check_answer(plain, prepared.card.identity)
    with pytest.raises(MitaiError):
        check_answer(msgspec.structs.replace(answer, sampling=SAMPLING), prepared.card.identity, AGREED)


def test_another_model_is_not_taken(prepared, answer):
    with pytest.raises(ProofError) as refused:
        check_answer(answer, "0" * 64)
    assert refused.value.code == "proof.model-differs"
    other = msgspec.structs.replace(prepared.card, weights="0" * 64)
    with pytest.raises(ProofError):
        check_answer(msgspec.structs.replace(answer, card=other.encode()), other.identity)


def test_what_the_model_does_not_say_is_not_proven(prepared):
    said = generate(prepared, PROMPT, 2, lambda _: True)
    with pytest.raises(ProofError) as refused:
        prove_answer(prepared, PROMPT, [said[0], (said[1] + 1) % 2560])
    assert refused.value.code == "proof.answer-differs"


def test_an_identity_is_the_same_each_time(model, prepared, tmp_path):
    assert prepare(model, [PROMPT, list(range(40, 60))], tmp_path / "again").identity == prepared.card.identity


def test_an_identity_is_the_same_without_the_code(model, prepared, tmp_path):
    said: list[str] = []
    out = tmp_path / "lean"
    assert prepare(model, [PROMPT, list(range(40, 60))], out, said.append, code=False) == prepared.card
    assert "0 MB of them its weights' code" in said[0]
    assert not (out / CODE).exists()
    lean = Prepared.open(out)
    said_by_it = generate(lean, PROMPT, 2, lambda _: True)
    assert prove_answer(lean, PROMPT, said_by_it) == prove_answer(prepared, PROMPT, said_by_it)


@pytest.mark.parametrize("step", ["reading", "measuring", "committing"])
def test_what_is_not_finished_is_not_prepared(model, tmp_path, step):
    """Whenever it is killed: nothing has the name that was given, and nothing else can be opened."""

    def say(text: str) -> None:
        for folder in tmp_path.iterdir():
            assert folder.name.startswith("out.unfinished-")
            with pytest.raises(ProofError, match="is no model that was prepared"):
                Prepared.open(folder)
        if text.startswith(step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(model, [PROMPT], tmp_path / "out", say)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_said_first(monkeypatch, model, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(ProofError, match="MB are needed and 1 MB are free") as refused:
        prepare(model, [PROMPT], tmp_path / "out")
    assert refused.value.code == "proof.disk-full"
    assert not list(tmp_path.iterdir())


def test_a_strangers_card_is_looked_at_in_bounded_time(answer, tmp_path, run):
    config = json.loads(ModelCard.parse(answer.card).config)
    for more in ({"num_hidden_layers": 1 << 20}, {"head_dim": 1 << 20, "num_hidden_layers": 60}):
        card = msgspec.structs.replace(ModelCard.parse(answer.card), config=json.dumps(config | more))
        (tmp_path / "file").write_bytes(msgspec.structs.replace(answer, card=card.encode()).encode())
        shown = run("proof", "inspect", str(tmp_path / "file"))
        assert shown["program"].startswith("too large")
        assert shown["model"] == card.identity


def test_files_have_one_spelling(prepared, answer):
    spelled = json.dumps(json.loads(prepared.card.encode()), indent=1).encode()
    for data, parse in ((spelled, ModelCard.parse), (b"", ModelCard.parse), (answer.encode() + b"0", Answer.parse)):
        with pytest.raises(ParseError):
            parse(data)


def test_damaged_folders_are_refused(prepared, tmp_path):
    with pytest.raises(ProofError) as refused:
        Prepared.open(tmp_path / "none")
    assert refused.value.code == "proof.prepared-missing"
    other = tmp_path / "other"
    shutil.copytree(prepared.folder, other)
    card = msgspec.structs.replace(prepared.card, weights="0" * 64)
    (other / CARD).write_bytes(card.encode())
    with pytest.raises(ProofError) as refused:
        Prepared.open(other)
    assert refused.value.code == "proof.prepared-damaged"
    (other / CODE).write_bytes(b"nothing")
    with pytest.raises(ProofError) as refused:
        Prepared.open(other)
    assert refused.value.code == "proof.prepared-damaged"
    with pytest.raises(ProofError) as refused:
        prepare(prepared.folder, [PROMPT], other)
    assert refused.value.code == "proof.out-exists"


def test_what_was_prepared_is_the_model(model, prepared, tmp_path):
    check_prepared(prepared, model)
    other = tmp_path / "other"
    shutil.copytree(model, other)
    tensors = safetensors.numpy.load_file(other / "model.safetensors")
    tensors["lm_head.weight"][0, 0] += 0.01
    safetensors.numpy.save_file(tensors, other / "model.safetensors")
    for name, text in (("model.safetensors", None), ("config.json", " "), ("tokenizer.json", " ")):
        if text is not None:
            shutil.copyfile(model / "model.safetensors", other / "model.safetensors")
            (other / name).write_text((other / name).read_text() + text)
        with pytest.raises(ProofError) as refused:
            check_prepared(prepared, other)
        assert refused.value.code == "proof.prepared-differs"
        if text is not None:
            shutil.copyfile(model / name, other / name)


@pytest.mark.parametrize("uses", [0, 2])
def test_what_was_prepared_is_behind_the_root(model, prepared, uses):
    elements = prepared.weights.commitment.elements
    numbers = elements.part(0, 1 << elements.log).copy()
    for flip in (0, 1):
        numbers[0] ^= flip
        made = commit_hiding(numbers, uses) if uses else commit(numbers)
        card = msgspec.structs.replace(prepared.card, weights=made.root.hex(), uses=uses or msgspec.UNSET)
        own = replace(prepared, card=card, weights=Weights(prepared.weights.arrays, made, uses))
        if not flip:
            check_prepared(own, model)
            continue
        with pytest.raises(ProofError) as refused:
            check_prepared(own, model)
        assert refused.value.code == "proof.prepared-differs"


def test_what_was_prepared_is_not_rounded_away(model, prepared):
    known = prepared.card.reaches
    reaches = known | {name: known[name] + 8 for name in prepared.weights.arrays}
    arrays = quantise(prepared.card.model, reaches, dict(prepared.card.model.arrays(Tensors(model))))
    weights = commit_weights(prepared.card.declared, arrays)
    card = msgspec.structs.replace(prepared.card, reaches=reaches, weights=weights.root.hex())
    with pytest.raises(ProofError) as refused:
        check_prepared(replace(prepared, card=card, weights=weights), model)
    assert refused.value.code == "proof.prepared-differs"


def test_receipts_and_proofs_name_the_same_model(model, prepared, answer, run, tmp_path, monkeypatch):
    monkeypatch.setenv("MITAI_HOME", str(tmp_path / "home"))
    capsule, file, identity = tmp_path / "capsule", tmp_path / "answer.proof", prepared.card.identity
    with pytest.raises(ClientError) as refused:  # nobody's key is made up
        run("capsule", "inspect", str(capsule))
    assert refused.value.code == "client.owner-unnamed"
    sealed = run("seal", str(model), str(capsule), "--proof", str(prepared.folder))
    assert (sealed["proof_identity"], run("capsule", "inspect", str(capsule))["proof_identity"]) == (identity, identity)
    manifest, owner = str(capsule / "manifest.json"), Home.default().owner().public.raw.hex()
    file.write_bytes(answer.encode())
    verify = ("proof", "verify", str(file))
    assert run(*verify, "--capsule", manifest, "--owner", owner)["model"] == identity
    used = types.SimpleNamespace(
        capsules=(CapsuleRef(id=sealed["capsule"], manifest_sha256=sealed["manifest_sha256"]),)
    )
    assert proof_identity(used, capsule, owner) == identity

    plain = run("seal", str(model), str(tmp_path / "plain"))
    assert plain["proof_identity"] is run("capsule", "inspect", str(tmp_path / "plain"))["proof_identity"] is None
    for refusal, words in (
        ("proof.model-unnamed", [*verify, "--capsule", str(tmp_path / "plain")]),
        ("proof.model-unnamed", [*verify, "--capsule", manifest, "--model", identity]),
        ("proof.model-unnamed", list(verify)),
        ("capsule.signature-invalid", [*verify, "--capsule", manifest, "--owner", "5a" * 32]),
        ("proof.prepared-missing", ["seal", str(model), str(tmp_path / "more"), "--proof", str(model)]),
    ):
        with pytest.raises((ProofError, CapsuleError)) as refused:
            run(*words)
        assert refused.value.code == refusal
    with pytest.raises(ClientError) as refused:
        run("seal", str(model), str(tmp_path / "more"), "--proof", str(prepared.folder), "--kind", "data")
    assert refused.value.code == "client.option-malformed"
    with pytest.raises(ClientError) as refused:
        proof_identity(used, tmp_path / "plain", owner)
    assert refused.value.code == "client.capsule-differs"


@pytest.fixture
def run(capsys):
    def run(*words: str) -> dict[str, object]:
        app([*words, "--json"], result_action="return_value")
        return json.loads(capsys.readouterr().out)

    return run


def test_commands(model, tmp_path, run):
    folder, file = str(tmp_path / "prepared"), str(tmp_path / "answer.proof")
    identity = run("proof", "prepare", str(model), folder)["model"]
    told = run("proof", "ask", folder, "What?", "--max-tokens", "2", "--out", file)
    shown = run("proof", "inspect", file, "--tokenizer", folder)
    assert (shown["model"], shown["checked"]) == (identity, False)
    checked = run("proof", "verify", file, "--model", identity)
    assert (checked["verdict"], checked["answer"]) == ("holds", told["tokens"])
    committed, key, trace = (str(tmp_path / name) for name in ("answer.committed", "auditor.key", "trace"))
    root = run("proof", "ask", folder, "What?", "--max-tokens", "2", "--commit", "--out", committed)
    run("proof", "audit-key", folder, key)
    run("proof", "trace", folder, committed, trace)
    checked = run("proof", "audit", committed, "--key", key, "--trace", trace)
    assert (checked["verdict"], root["tokens"]) == ("holds", told["tokens"])
    nonce, drawn = "5a" * 32, ("--temperature", "0.8")
    promised = run("proof", "seed", str(tmp_path / "seed"))["commitment"]
    ask = ("proof", "ask", folder, "What?", "--max-tokens", "2", "--out", file, *drawn, "--nonce", nonce)
    told = run(*ask, "--seed", str(tmp_path / "seed"))
    agreed = ("--nonce", nonce, "--commitment", promised)
    checked = run("proof", "verify", file, "--model", identity, *drawn, *agreed)
    assert (checked["answer"], checked["commitment"]) == (told["tokens"], promised)
    for words, code in (
        ((*ask, "--seed", str(tmp_path / "seed")), "proof.no-file"),
        (("proof", "verify", file, "--model", identity), "proof.sampling-differs"),
        (("proof", "verify", file, "--model", identity, *drawn, "--nonce", "00" * 32), "proof.sampling-differs"),
        (("proof", "verify", file, "--model", identity, *agreed), "proof.sampling-unusable"),
        (("proof", "verify", file, "--model", identity, "--temperature", "3"), "proof.sampling-unusable"),
    ):
        with pytest.raises(ProofError) as refused:
            run(*words)
        assert refused.value.code == code
    with pytest.raises(ProofError) as refused:
        run("proof", "verify", file, "--model", "0" * 64)
    assert refused.value.code == "proof.model-differs"
    with pytest.raises(ProofError) as refused:
        run("proof", "verify", str(tmp_path / "none"), "--model", identity)
    assert refused.value.code == "proof.no-file"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ProofError) as refused:
        run("proof", "inspect", file, "--tokenizer", str(tmp_path))
    assert refused.value.code == "proof.tokenizer-differs"


@pytest.mark.slow
def test_a_hidden_model_answers_so_often(model, prepared, tmp_path, run):
    folder, file = tmp_path / "hidden", tmp_path / "answer.proof"
    identity = run("proof", "prepare", str(model), str(folder), "--zk", "--proofs", "2")["model"]
    assert identity != prepared.card.identity
    own = Prepared.open(folder)
    said = generate(own, PROMPT, 1, lambda _: True)
    for left in (1, 0):
        answer = prove_answer(own, PROMPT, said)
        assert (own.card.uses, own.weights.left) == (2, left)
    with pytest.raises(ProofError) as refused:
        prove_answer(Prepared.open(folder), PROMPT, said)
    assert refused.value.code == "proof.uses-spent"
    file.write_bytes(answer.encode())
    checked = run("proof", "verify", str(file), "--model", identity)
    assert (checked["verdict"], checked["answer"]) == ("holds", said)
    assert checked["bits"] > 100
    assert checked["hides"] == run("proof", "inspect", str(file))["hides"] != "nothing"
    for uses in (1, 3, msgspec.UNSET):
        card = msgspec.structs.replace(own.card, uses=uses)
        with pytest.raises(ProofError):
            check_answer(msgspec.structs.replace(answer, card=card.encode()), card.identity)
    with pytest.raises(ProofError):
        prepare(model, [PROMPT], tmp_path / "more", uses=4097)
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith("more")] == []
