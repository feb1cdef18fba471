"""Reports: strict, signed by an attested workload, and nothing in them but numbers; and tables made of them."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import rfc8785
from evaluate_lab import Lab, measured, number, ref

from mitai.capsule import FolderSource, open_manifest, seal
from mitai.errors import AttestError, MitaiError, ParseError, TrainError
from mitai.identity import Envelope, Identity
from mitai.train.evaluate.leaderboard import build
from mitai.train.evaluate.report import PAYLOAD_TYPE, InputRef, Measured, Report, ReportFile, Result, verify_report

INPUTS = (ref("model", "a"), ref("data", "records"))


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path / "sim")


def code_of(call, *arguments, **more) -> str:
    with pytest.raises(MitaiError) as caught:
        call(*arguments, **more)
    return caught.value.code


def test_a_report_is_verified_offline(lab):
    report, appraisal = verify_report(lab.report(value=812_345), lab.policy)
    assert report.measured.results[0].numbers[0].value == 812_345
    assert (appraisal.workload, appraisal.simulated) == ("train", True)
    assert report.evidence_sha256 == appraisal.evidence_sha256


def test_a_policy_that_trusts_no_simulation_refuses_it(lab):
    strict = msgspec.structs.replace(lab.policy, allow_simulation=False)
    with pytest.raises(AttestError):
        verify_report(lab.report(), strict)


def test_another_signer_is_refused(lab):
    assert code_of(verify_report, lab.report(signer=Identity.generate()), lab.policy) == "identity.signature-invalid"


def test_evidence_without_a_key_is_refused(lab):
    assert code_of(verify_report, lab.report(evidence=lab.evidence(key=b"")), lab.policy) == "train.report-unsigned"


def test_another_workload_makes_no_reports(lab, tmp_path):
    other = Lab(tmp_path / "sim", workload="serve")
    assert code_of(verify_report, other.report(), other.policy) == "train.report-workload"


def test_other_evidence_of_the_same_key_is_refused(lab):
    file = msgspec.json.decode(lab.report(), type=ReportFile)
    later = lab.evidence(inputs=INPUTS)  # quotes are signed anew
    exchanged = msgspec.structs.replace(file, evidence=msgspec.structs.replace(later, nonce=later.nonce).encode())
    lab.keyring.rotate()
    other = msgspec.structs.replace(file, evidence=lab.evidence(inputs=INPUTS).encode())
    assert code_of(verify_report, canonical(other), lab.policy) == "train.report-evidence"
    assert verify_report(canonical(exchanged), lab.policy)  # the same claims and nonce: the same evidence


def test_evidence_is_judged_at_the_time_that_the_report_states(lab):
    def stated(moment):
        evidence = lab.evidence(inputs=INPUTS)
        report, _ = verify_report(lab.report(evidence=evidence), lab.policy)
        changed = msgspec.structs.replace(report, created=moment.strftime("%Y-%m-%dT%H:%M:%SZ"))
        envelope = lab.signer.sign(rfc8785.dumps(msgspec.to_builtins(changed)), PAYLOAD_TYPE).encode()
        return canonical(ReportFile(envelope=envelope, evidence=evidence.encode()))

    assert verify_report(stated(datetime.now(UTC)), lab.policy)
    with pytest.raises(AttestError):
        verify_report(stated(datetime.now(UTC) + timedelta(days=4000)), lab.policy)


def test_the_machine_must_have_opened_what_the_report_names(lab):
    for inputs in ((), INPUTS[:1], (*INPUTS, ref("data", "more")), (ref("model", "a"), ref("data", "others"))):
        assert code_of(verify_report, lab.report(evidence=lab.evidence(inputs=inputs)), lab.policy) == (
            "train.report-inputs"
        )


def canonical(value) -> bytes:
    return rfc8785.dumps(msgspec.to_builtins(value))


def test_no_flipped_byte_gives_another_report(lab):
    data = lab.report()
    report, _ = verify_report(data, lab.policy)
    evidence = data.index(b'"evidence"'), data.index(b'","v":')
    places = {*range(0, len(data), max(1, len(data) // 150))} | ({*range(len(data))} - {*range(*sorted(evidence))})
    refused = 0
    for at in places:
        damaged = bytearray(data)
        damaged[at] ^= 1
        try:
            assert verify_report(bytes(damaged), lab.policy)[0] == report  # a hint, or how a collateral is written
        except MitaiError:
            refused += 1
    assert refused > 0.8 * len(places)


@pytest.mark.parametrize("signed_as", ["application/vnd.mitai.receipt+json", "application/vnd.in-toto+json"])
def test_what_was_signed_as_something_else_is_refused(lab, signed_as):
    file = msgspec.json.decode(lab.report(), type=ReportFile)
    envelope = lab.signer.sign(Envelope.decode(file.envelope).payload, signed_as).encode()
    other = msgspec.structs.replace(file, envelope=envelope)
    assert code_of(verify_report, canonical(other), lab.policy) == "identity.payload-type"


@pytest.mark.parametrize(
    "change",
    [
        {"metric": "answer"},
        {"metric": "pass@0"},
        {"metric": "acc\n"},
        {"group": "a\tb"},
        {"n": 19},  # below the smallest group
        {"n": 0},
        {"value": 0.5},
        {"low": 600_000, "high": 500_000},
        {"value": 1 << 53},
        {"text": "the patient"},
    ],
)
def test_a_number_that_could_carry_more_is_refused(change):
    fields = json.loads(measured().encode())
    fields["results"][0]["numbers"][0] |= change
    with pytest.raises(ParseError):
        Measured.decode(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())


def test_results_are_refused_twice_and_in_another_spelling():
    twice = Result(task="triage", numbers=(number(),))
    with pytest.raises(ParseError):
        Measured.decode(canonical({**msgspec.to_builtins(measured()), "results": [msgspec.to_builtins(twice)] * 2}))
    assert Measured.decode(measured().encode()) == measured()
    with pytest.raises(ParseError):
        Measured.decode(json.dumps(json.loads(measured().encode()), indent=1).encode())
    with pytest.raises(ValueError, match="twice"):
        Result(task="t", numbers=(number(), number(value=600_000)))


@pytest.mark.parametrize(
    "inputs",
    [
        (ref("model", "a"),),
        (ref("data", "a"), ref("data", "b")),
        (ref("model", "a"), ref("model", "b"), ref("data", "c")),
        (ref("model", "a"), ref("data", "a")),
        (ref("model", "a"), ref("data", "b"), ref("judge", "c"), ref("judge", "d")),
    ],
)
def test_a_report_is_about_one_model_and_some_data(inputs):
    with pytest.raises(ValueError, match=r"report|twice"):
        Report(created="2026-01-02T03:04:05Z", inputs=inputs, measured=measured(), evidence_sha256="0" * 64)


def test_too_large_a_file_is_not_read(lab):
    assert code_of(verify_report, b" " * ((64 << 20) + 1), lab.policy) == "train.report-malformed"


# --- leaderboards ---


def verified(lab, *reports: bytes):
    return [verify_report(report, lab.policy) for report in reports]


def test_models_are_lined_up_without_their_names(lab):
    board = build(verified(lab, lab.report("a", 500_000), lab.report("b", 700_000), lab.report("c", 600_000)))
    assert [line.inputs[0].capsule for line in board.lines] == ["b", "c", "a"]
    assert [line.name for line in board.lines] == [None] * 3
    assert (board.task, board.metric, board.simulated) == ("triage", "acc", True)
    north = build(verified(lab, lab.report("a"), lab.report("b")), group="north")
    assert {line.number.n for line in north.lines} == {25}


def test_of_a_perplexity_less_is_better(lab):
    def report(model, value):
        numbers = (number(value, metric="word_perplexity"),)
        return lab.report(model, results=(Result(task="triage", numbers=numbers),))

    board = build(verified(lab, report("a", 9_000_000), report("b", 3_000_000)))
    assert [line.inputs[0].capsule for line in board.lines] == ["b", "a"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"evaluation_sha256": "f" * 64}, "train.board-mismatch"),
        ({"min_group": 10}, "train.board-mismatch"),
        ({"results": (Result(task="other", numbers=(number(),)),)}, "train.board-mismatch"),
        ({"inputs": (ref("model", "b"), ref("data", "others"))}, "train.board-mismatch"),
        ({"inputs": (ref("model", "b"), ref("data", "records"), ref("judge", "j"))}, "train.board-mismatch"),
        ({"inputs": (ref("model", "a"), ref("data", "records"))}, "train.board-duplicate"),
    ],
)
def test_what_is_not_comparable_gets_no_table(lab, changes, code):
    pair = verified(lab, lab.report("a"), lab.report(**({"model": "b"} | changes)))
    assert code_of(build, pair) == code


def test_the_same_model_with_an_adapter_is_another(lab):
    adapted = lab.report(inputs=(ref("model", "a"), ref("adapter", "x"), ref("data", "records")), value=600_000)
    assert len(build(verified(lab, lab.report("a"), adapted)).lines) == 2


def test_other_code_gets_no_table(lab, tmp_path):
    other = Lab(tmp_path / "sim", code=b"\x08" * 48)
    both = [verify_report(lab.report("a"), lab.policy), verify_report(other.report("b"), other.policy)]
    assert code_of(build, both) == "train.board-mismatch"


def test_one_report_is_no_table_and_a_missing_number_is_said(lab):
    assert code_of(build, verified(lab, lab.report())) == "train.board-size"
    pair = verified(lab, lab.report("a"), lab.report("b"))
    for which in ({"task": "none"}, {"metric": "acc_norm"}, {"group": "south"}):
        assert code_of(build, pair, **which) == "train.board-number"


def test_an_owner_reveals_a_model_by_its_manifest(lab, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    owner = Identity.generate()
    sealed = seal(tmp_path / "model", tmp_path / "sealed", owner=owner, name="Our model 7B")
    capsule = InputRef(role="model", capsule=sealed.capsule_id, manifest_sha256=sealed.manifest_sha256)
    ours = lab.report(inputs=(capsule, ref("data", "records")), value=900_000)
    pair = verified(lab, ours, lab.report("b"))
    board = build(pair, reveals=(sealed.envelope,))
    assert [line.name for line in board.lines] == ["Our model 7B", None]
    payload = Envelope.decode(sealed.envelope).payload
    assert hashlib.sha256(payload).hexdigest() == sealed.manifest_sha256
    forged = owner.sign(payload.replace(b"Our model 7B", b"Our model 8B"), "application/vnd.mitai.capsule+json")
    assert code_of(build, pair, reveals=(forged.encode(),)) == "train.reveal-unknown"
    assert open_manifest(sealed.envelope, owner=owner.public).name == "Our model 7B"
    assert FolderSource(tmp_path / "model").names() == ("config.json",)


def test_an_error_of_a_table_holds_no_number(lab):
    pair = verified(lab, lab.report("a"), lab.report("b"))
    with pytest.raises(TrainError) as caught:
        build(pair, metric="acc_norm")
    assert "500000" not in str(caught.value)
