"""Fingerprints of activations: honest computations are near, all others far; files have one form."""

import asyncio
import contextlib
import io
import json
import random
from hashlib import sha256

import msgspec
import numpy as np
import pytest
import torch
from serve_platform import Stage, platform

from mitai.attest import Policy
from mitai.capsule import FolderSource
from mitai.cli import check as commands
from mitai.client import receipts
from mitai.client.chat import chat
from mitai.client.http import session_client
from mitai.client.kept import KeptAnswer, fetch_fingerprints, keep
from mitai.client.session import Session
from mitai.demo_model import path as demo_model
from mitai.errors import ClientError, MitaiError, ParseError, ServeError
from mitai.ledger.assurance import Fingerprint
from mitai.ledger.lots import Lots
from mitai.ledger.receipt import receipt_sha256
from mitai.serve.config import EngineConfig, RerunConfig
from mitai.serve.engine import GenerationRequest, Sampling
from mitai.serve.fingerprints import (
    ALLOWED,
    BLOCK_TOKENS,
    PRIME,
    Choice,
    Fingerprints,
    check_blocks,
    compare,
    encode,
    largest,
)
from mitai.serve.loading import load
from mitai.serve.printing import PrintBook, Printer
from mitai.serve.rerun import Reading, Rerun, _short_of, check_end, check_tokens
from mitai.serve.sampling import Sampler, sample
from mitai.serve.transformers_engine import EngineOptions, TransformersEngine

DICE = np.random.default_rng(7)
ROWS = (DICE.standard_normal((32, 64)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def polynomial_at(fingerprint, place):
    """Evaluate in plain integers, as the specification says."""
    modulus, *coefficients = np.frombuffer(fingerprint, dtype="<u2").tolist()
    x = place % modulus
    return sum(c * pow(x, power, PRIME) for power, c in enumerate(coefficients)) % PRIME


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS[:3, :5], np.tile(ROWS, (1, 40)), np.zeros((2, 40), np.uint16)])
def test_the_polynomial_goes_through_the_largest_numbers(rows):
    fingerprint, places = encode(rows), largest(rows)
    assert len(fingerprint) == 2 + 2 * min(128, rows.size)
    for place in places:
        assert polynomial_at(fingerprint, int(place)) == rows.reshape(-1)[place]
    by_size = sorted(range(rows.size), key=lambda at: (-(int(rows.reshape(-1)[at]) & 0x7FFF), at))
    assert sorted(places.tolist()) == sorted(by_size[:128])
    assert (found := compare(fingerprint, rows)).far == 0
    assert found.distance == 0


def test_distance_is_counted_in_steps_across_exponents():
    rows = np.array([[0x3F7F, 0xBF80, 0x4000]], np.uint16)  # just below 1, -1, 2
    moved = np.array([[0x3F80, 0xBF7F, 0x4000]], np.uint16)
    assert compare(encode(rows), moved).distance == pytest.approx(2 / 3)
    assert compare(encode(rows), rows ^ 0x8000).far == 1


@pytest.mark.parametrize(
    "fingerprint",
    [
        b"",
        b"\0",
        encode(ROWS)[:-1],
        encode(ROWS)[:-2],
        encode(ROWS) + b"\0\0",
        b"\0\x80" + encode(ROWS)[2:],
        b"\xf2\xff" + encode(ROWS)[2:],
        encode(ROWS)[:-2] + b"\xf1\xff",
    ],
)
def test_malformed_fingerprints(fingerprint):
    with pytest.raises(ParseError, match=r"serve\.fingerprints-malformed"):
        compare(fingerprint, ROWS)


def test_every_changed_byte_of_a_fingerprint_is_far_away():
    fingerprint = encode(ROWS)
    for at in range(2, len(fingerprint)):  # the modulus of an honest file: other numbers can mean the same places
        changed = bytearray(fingerprint)
        changed[at] ^= 1
        with contextlib.suppress(ParseError):
            found = compare(bytes(changed), ROWS)
            assert found.far > 0.9 or found.distance >= 1  # the constant alone moves all numbers by as much


def test_a_file_has_one_encoding():
    choice = Choice((1, 2, 3), (encode(ROWS[:3]),))
    file = Fingerprints.of([choice]).encode()
    assert Fingerprints.decode(file).choices == (choice,)
    assert Fingerprints.of([choice]).encode() != file  # other random bytes
    fields = msgspec.msgpack.decode(file)
    for changed in (
        fields | {"v": "mitai fingerprints v2"},
        fields | {"more": 1},
        fields | {"blind": b"x"},
        fields | {"choices": []},
        fields | {"choices": [{"tokens": [1] * 33, "blocks": [b""]}]},
        fields | {"choices": [{"tokens": [], "blocks": []}]},
        fields | {"choices": [{"tokens": [-1], "blocks": [b""]}]},
        dict(reversed(fields.items())),
    ):
        with pytest.raises(ParseError, match=r"serve\.fingerprints-malformed"):
            Fingerprints.decode(msgspec.msgpack.encode(changed))
    for data in (file[:-1], file + b"\0", b"", bytes((16 << 20) + 1)):
        with pytest.raises(ParseError, match=r"serve\.fingerprints-malformed"):
            Fingerprints.decode(data)


def test_a_book_is_bounded_and_knows_the_newest():
    printer = Printer()
    for token in range(BLOCK_TOKENS + 1):
        printer.add(token, ROWS[token % 32])
    choice = printer.choice()
    assert choice == Choice(tuple(range(33)), (encode(ROWS), encode(ROWS[:1])))
    size = len(Fingerprints.of([choice]).encode())
    book = PrintBook(keep_bytes=2 * size)
    for exchange in ("a", "b", "b", "c"):
        book.keep(exchange, [choice])
    assert book.assurances("a") == ()
    assert book.assurances("b")[0].digest == sha256(book.file("b")).hexdigest()
    with pytest.raises(ServeError, match=r"serve\.fingerprints-unknown"):
        book.file("a")


# ---------------------------------------------------------------------- a model

QUESTIONS = ("Who are you?", "What is a TEE?")
ASKED = Sampling(max_tokens=40, temperature=0)


def model(change=None, dtype=None):
    loaded = load(FolderSource(demo_model()))
    loaded.model.to(torch.float32)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for each in loaded.model.parameters():  # the demo's weights are bfloat16: give them digits that it has not
            each.mul_(1 + (torch.rand(each.shape, generator=generator) - 0.5) * 2**-7)
            if change:
                each.copy_(change(each))
    loaded.model.to(dtype or torch.float32)
    return loaded


def int8(weights):
    if weights.dim() < 2:
        return weights
    scale = weights.abs().amax(1, keepdim=True) / 127
    return (weights / scale).round() * scale


def answers(loaded, questions=QUESTIONS, sampling=ASKED, **options):
    running = TransformersEngine(loaded, name="demo", options=EngineOptions(fingerprints=True, threads=1, **options))

    async def one(question):
        prompt = running.chat_prompt([{"role": "user", "content": question}])
        steps = [step async for step in running.generate(GenerationRequest([prompt], sampling))]
        return prompt, steps[-1].prints, steps[-1].finish

    async def together():
        return await asyncio.gather(*map(one, questions))

    try:
        return asyncio.run(together())
    finally:
        running.close()


@pytest.fixture(scope="module")
def honest():
    return answers(model())


@pytest.fixture(scope="module")
def rerun():
    return Rerun(model())


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_other_architectures(model_folders, kind):
    sampling = Sampling(max_tokens=5, temperature=0)
    found = answers(load(FolderSource(model_folders[kind])), ["hello"], sampling)
    checked(Rerun(load(FolderSource(model_folders[kind]))), found)


def checked(rerun, found, prompts=None, allowed=ALLOWED["float32"]):
    for at, (prompt, choice, _) in enumerate(found):
        reading = rerun.read(prompts[at] if prompts else prompt, choice.tokens)
        check_blocks(choice, reading.hidden, allowed)


def test_honest_answers_are_accepted_in_any_company(rerun, honest):
    assert all(finish == "length" or choice.tokens[-1] in rerun.ends for _, choice, finish in honest)
    checked(rerun, honest)
    checked(rerun, answers(model(), QUESTIONS[:1], step_tokens=5))


@pytest.mark.slow
def test_honest_answers_are_accepted_with_another_attention(honest):
    eager = model()
    eager.model.set_attn_implementation("eager")
    checked(Rerun(eager), honest)


@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        pytest.param(lambda weights: weights.to(torch.bfloat16).float(), None, id="weights rounded to bfloat16"),
        pytest.param(None, torch.bfloat16, id="computed in bfloat16", marks=pytest.mark.slow),
        pytest.param(int8, None, id="int8", marks=pytest.mark.slow),
        pytest.param(lambda weights: weights * 1.01, None, id="other weights", marks=pytest.mark.slow),
    ],
)
def test_other_weights_and_precisions_are_refused(rerun, change, dtype):
    found = answers(model(change, dtype), QUESTIONS[:1])
    with pytest.raises(ServeError, match=r"serve\.fingerprint-differs"):
        checked(rerun, found)


def test_another_prompt_is_refused(rerun, honest):
    (prompt, _, _), (another, _, _) = honest
    for other in (another, [*prompt[:3], 7, *prompt[3:]]):
        with pytest.raises(ServeError, match=r"serve\.fingerprint-differs"):
            checked(rerun, honest[:1], [other])


def test_other_tokens_are_refused(rerun, honest):
    prompt, choice, _ = honest[0]
    reading = rerun.read(prompt, choice.tokens)
    assert check_tokens(reading, choice.tokens, ASKED, 0.01).equal == len(choice.tokens)
    for at in (0, 5, len(choice.tokens) - 1):
        other = list(choice.tokens)
        other[at] += 1
        with pytest.raises(ServeError, match=r"serve\.token-differs"):
            check_tokens(rerun.read(prompt, other), other, ASKED, 0.01)
    early = choice.tokens[:5] + choice.tokens[6:]
    with pytest.raises(MitaiError):
        check_blocks(Choice(early, choice.blocks), rerun.read(prompt, early).hidden, ALLOWED["float32"])


def test_an_answer_that_is_cut_is_refused(rerun, honest):
    whole = (*honest[0][1].tokens[:9], min(rerun.ends))
    check_end(whole, rerun.ends, ASKED, "stop")
    check_end(whole[:7], rerun.ends, Sampling(max_tokens=7), "length")
    check_end(whole[:7], rerun.ends, Sampling(max_tokens=9, stop=("x",)), "stop")
    for tokens, sampling, finish in (
        (whole[:-1], ASKED, "stop"),
        (whole[:-1], ASKED, "length"),
        ((*whole, 5), ASKED, "length"),
        (whole, Sampling(max_tokens=len(whole) - 1), "stop"),
    ):
        with pytest.raises(ServeError, match=r"serve\.answer-cut"):
            check_end(tokens, rerun.ends, sampling, finish)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_tokens_that_a_seed_draws(rerun, top_p):
    sampling = Sampling(max_tokens=16, temperature=4, top_p=top_p, seed=11, presence_penalty=0.5)
    ((prompt, choice, _),) = answers(model(), QUESTIONS[:1], sampling)
    reading = rerun.read(prompt, choice.tokens)
    found = check_tokens(reading, choice.tokens, sampling, 0.01)
    assert found.equal >= len(choice.tokens) - 1
    assert check_tokens(reading, choice.tokens, msgspec.structs.replace(sampling, seed=None), 0.01).drawn
    for other in (msgspec.structs.replace(sampling, seed=12), msgspec.structs.replace(sampling, temperature=0)):
        with pytest.raises(ServeError, match=r"serve\.token-differs"):
            check_tokens(reading, choice.tokens, other, 0.01)


def test_draws_are_bounded_by_rounding():
    """The interval of a token holds all that logits within the tolerance would draw, and little more."""
    dice = torch.Generator().manual_seed(3)
    for top_p in (1.0, 0.7):
        sampling = Sampling(max_tokens=1, temperature=0.9, top_p=top_p, seed=1)
        refused = 0
        for seed in range(40):
            row = 3 * torch.randn(50, generator=dice)
            sampler = Sampler(msgspec.structs.replace(sampling, seed=seed), 0)
            uniform = random.Random(f"{seed}/0").random()
            moved = row + 0.02 * (2 * torch.rand(50, generator=dice) - 1)
            (token,) = sample(moved[None], [sampler])
            assert _short_of(row, token, sampling, uniform, 0.021) <= 0.021
            refused += sum(_short_of(row, other, sampling, uniform, 0.021) > 1 for other in range(50))
        assert refused > 40 * 47
    cold = Sampling(max_tokens=1, temperature=1e-9, seed=1)
    row = torch.tensor([1.0, 3.0, 2.0])
    assert [_short_of(row, token, cold, 0.5, 0.1) for token in range(3)] == [float("inf"), 0.0, float("inf")]


@pytest.mark.parametrize("changes", [{"temperature": 0}, {"seed": 1}, {"top_p": 0.5, "seed": 1}, {"top_p": 0.5}])
def test_a_model_that_gives_no_numbers_confirms_nothing(changes):
    for number in (torch.nan, torch.inf, -torch.inf):
        reading = Reading(ROWS[:1], torch.full((1, 5), number))
        with pytest.raises(ServeError, match=r"serve\.token-differs"):
            check_tokens(reading, [3], Sampling(max_tokens=1, **changes), 0.01)


def test_what_does_not_fit_the_model(rerun):
    for prompt, tokens in (([], [1]), ([1], []), ([1], [1] * 2000), ([1], [-1]), ([99999], [1])):
        with pytest.raises(ServeError, match=r"serve\.(prompt-length|token-unknown)"):
            rerun.read(prompt, tokens)


# ---------------------------------------------------------------------- a platform

LOTS = Lots(b"s" * 32, one_in=2)


@pytest.fixture(scope="module")
def kept(tmp_path_factory, llama_folder):
    """Answers that a client of a platform has kept, and what checks them."""
    root = tmp_path_factory.mktemp("kept")
    drawn = RerunConfig(one_in=2, commitment=LOTS.sample.commitment)
    with platform(root, engine=EngineConfig(fingerprints=True), rerun=drawn) as running, Stage(running) as stage:
        assert running.deploy(stage.publish(llama_folder).capsule_id).status_code == 202
        assert running.wait()["state"] == "ready"
        session = Session(running.replica, running.policy)
        with session_client(session) as http:
            for question in ("hello", "hello again"):
                answer = chat(http, [{"role": "user", "content": question}], "tiny", max_tokens=6, temperature=0.0)
                assert "".join(answer) == answer.text
                proof = receipts.fetch(http, session, answer.exchange)
                (root / f"{question}.json").write_bytes(
                    keep(answer, proof, fetch_fingerprints(http, answer.exchange)).encode()
                )
    return root / "policy.toml", (root / "hello.json", root / "hello again.json")


def said(command, *arguments, **options):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        command(*arguments, json=True, **options)
    return json.loads(out.getvalue())


def test_kept_answers_hold(kept, llama_folder):
    policy, files = kept
    assert len(files) == 2
    found = said(commands.fingerprint, files, model=llama_folder, policy=policy)
    assert [one["blocks"] for one in found["answers"]] == [1, 1]
    assert all(one["far"] == 0 and one["distance"] == 0 for one in found["answers"])
    found = said(commands.rerun, files, model=llama_folder, policy=policy)
    assert all(one["tokens"] == one["equal"] == 6 for one in found["answers"])
    drawn = [
        path for path in files if LOTS.draws(receipt_sha256(KeptAnswer.decode(path.read_bytes()).proof.bundle.envelope))
    ]
    found = said(commands.rerun, files, model=llama_folder, policy=policy, one_in=2, seed=LOTS.seed.hex())
    assert (found["kept"], len(found["answers"])) == (2, len(drawn))
    for one_in, seed in ((3, LOTS.seed.hex()), (2, "00" * 32)):
        with pytest.raises(MitaiError, match=r"ledger\.lots-commitment"):
            commands.rerun(files, model=llama_folder, policy=policy, one_in=one_in, seed=seed)
    with pytest.raises(MitaiError, match=r"client\.seed-malformed"):
        commands.rerun(files, model=llama_folder, policy=policy, seed="x")


def test_a_commitment_is_of_its_seed():
    drawn = said(commands.commit, one_in=20)
    assert Lots(bytes.fromhex(drawn["seed"]), 20).sample.commitment == drawn["commitment"]


def test_kept_answers_that_were_changed(kept, model_folders, tmp_path):
    policy, (path, _) = kept
    answer = KeptAnswer.decode(path.read_bytes())
    replace = msgspec.structs.replace
    other = Fingerprints.of(Fingerprints.decode(answer.fingerprints).choices).encode()
    request = json.loads(bytes(answer.request))
    changes = {
        "client.answer-differs": replace(answer, answers=(replace(answer.answers[0], text="other"),)),
        "serve.answer-cut": replace(answer, answers=(replace(answer.answers[0], finish="stop"),)),
        "client.fingerprints-differ": replace(answer, fingerprints=other),
        "serve.fingerprint-differs": replace(
            answer,
            request=msgspec.Raw(json.dumps(request | {"messages": [{"role": "user", "content": "bye"}]}).encode()),
        ),
        "ledger.receipt-response": replace(answer, proof=replace(answer.proof, response_sha256="0" * 64)),
    }
    for code, changed in changes.items():
        (tmp_path / "changed.json").write_bytes(changed.encode())
        with pytest.raises(MitaiError) as refused:
            commands.fingerprint((tmp_path / "changed.json",), model=model_folders["llama"], policy=policy)
        assert refused.value.code == code
    with pytest.raises(ServeError, match=r"serve\.fingerprint-differs"):
        commands.fingerprint((path,), model=model_folders["qwen2"], policy=policy)


def test_fingerprints_of_fewer_answers(kept, llama_folder, monkeypatch):
    policy, (path, _) = kept
    answer = KeptAnswer.decode(path.read_bytes())
    request = json.loads(bytes(answer.request)) | {"n": 2}
    twice = msgspec.structs.replace(
        answer, answers=answer.answers * 2, request=msgspec.Raw(json.dumps(request).encode())
    )
    promised = commands._Checked("x", twice, answer.fingerprints, None)  # as a replica could sign it
    monkeypatch.setattr(commands, "_checked", lambda *_: [promised])
    for command in (commands.fingerprint, commands.rerun):
        with pytest.raises(ClientError, match=r"client\.fingerprints-differ"):
            command((path,), model=llama_folder, policy=policy)


def test_a_receipt_without_fingerprints(kept):
    policy, (path, _) = kept
    answer = KeptAnswer.decode(path.read_bytes())
    receipt, _ = receipts.check(answer.proof, Policy.from_toml(policy.read_text()))
    assert receipt.assurance(Fingerprint).top_k == 128
    plain = msgspec.structs.replace(receipt, v="mitai receipt v1", assurances=msgspec.UNSET)
    assert answer.checked_fingerprints(plain) is None
    with pytest.raises(ClientError, match=r"client\.fingerprints-differ"):
        msgspec.structs.replace(answer, fingerprints=None).checked_fingerprints(receipt)
    for data in (b"", b"{}", b"[" * 10_000, path.read_bytes() + b"x", bytes((16 << 20) + 1)):
        with pytest.raises(ParseError, match=r"client\.kept-malformed"):
            KeptAnswer.decode(data)
