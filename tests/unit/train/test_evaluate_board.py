"""Leaderboards that a workload signs: made of reports that hold and compare, and silent on which line is whose."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import rfc8785
from evaluate_lab import Lab, number, ref
from train_rig import MemorySource

from mitai.attest import Evidence
from mitai.attest.sim import SimPlatform
from mitai.capsule import seal
from mitai.errors import MitaiError, ParseError
from mitai.identity import Identity
from mitai.train.evaluate.board import (
    BOARD_NAME,
    Board,
    BoardFile,
    Chosen,
    Compare,
    ReportRef,
    line_of,
    make_board,
    read_board,
    verify_board,
)
from mitai.train.evaluate.report import REPORT_NAME, InputRef, ReportFile, Result, verify_report
from mitai.train.job import Job
from mitai.train.methods.leaderboard import leaderboard
from mitai.train.relay import OpenedInput

ACC = Chosen("triage", "acc")
JOB = f"""
[job]
name = "board"
method = "leaderboard"

[leaderboard]
reports = ["REPORTS"]
evaluation = "{"e" * 64}"
numbers = [{{ task = "triage", metric = "acc" }}]
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "sim")


def text(reports: tuple[str, ...] = ("one", "two"), more: str = "") -> str:
    return JOB.replace("REPORTS", '", "'.join(reports)) + more


def plan(reports: tuple[str, ...] = ("one", "two"), **changes) -> Compare:
    fields = {"reports": reports, "evaluation": "e" * 64, "numbers": (ACC,)}
    return Compare(**(fields | changes))


def refs(*names: str) -> list[ReportRef]:
    return [ReportRef(capsule=name, manifest_sha256=hashlib.sha256(name.encode()).hexdigest()) for name in names]


def made(lab: Lab, asked: Compare, *files: bytes, maker: Identity | None = None, policy=None, opened=None) -> bytes:
    """Return the leaderboard of reports that came out of capsules of these names."""
    inputs = refs(*asked.reports)
    given = {each.capsule: (each, (maker or lab.signer).public, file) for each, file in zip(inputs, files, strict=True)}
    evidence = lab.evidence(inputs=inputs if opened is None else opened)
    return make_board(asked, given, policy or lab.policy, signer=lab.signer, evidence=evidence, now=datetime.now(UTC))


def pair(lab: Lab) -> tuple[bytes, bytes]:
    return lab.report("a", 500_000), lab.report("b", 700_000)


def code_of(call, *arguments, **more) -> str:
    with pytest.raises(MitaiError) as caught:
        call(*arguments, **more)
    return caught.value.code


def test_a_table_says_numbers_and_not_whose(lab):
    first, second = pair(lab)
    file = made(lab, plan(), first, second)
    board, appraisal = verify_board(file, lab.policy)
    assert appraisal.simulated
    assert {each.line for each in board.lines} == {line_of(first), line_of(second)}
    assert [n.value for line in board.lines for task in line.results for n in task.numbers if n.group] == []
    table = read_board((board, appraisal))
    assert [line.number.value for line in table.lines] == [700_000, 500_000]
    assert [(line.inputs, line.name, line.created) for line in table.lines] == [((), None, "")] * 2
    said = msgspec.json.encode(board)
    for report in (first, second):
        found, _ = verify_report(report, lab.policy)
        for hidden in (found.of("model")[0].manifest_sha256, found.evidence_sha256, '"capsule":"a"', '"capsule":"b"'):
            assert hidden.encode() not in said
    other_order = made(lab, plan(("two", "one")), second, first)
    assert verify_board(other_order, lab.policy)[0].lines == board.lines


def test_who_sees_everything_about_a_report_but_the_report_can_not_name_its_line(lab):
    """Co-owners of the table see each report's digests in the lineage: a line is none of them."""
    first, second = pair(lab)
    board, _ = verify_board(made(lab, plan(), first, second), lab.policy)
    file = msgspec.json.decode(first, type=ReportFile)
    report, _ = verify_report(first, lab.policy)
    known = [first, file.evidence, rfc8785.dumps(msgspec.to_builtins(report)), b"one", b"a"]
    digests = {
        hashlib.sha256(prefix + each).hexdigest() for each in known for prefix in (b"", b"mitai leaderboard line v1\0")
    }
    assert not digests & {each.line for each in board.lines}


def test_an_owner_reveals_a_line_by_its_report_and_a_name_by_its_manifest(lab, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    sealed = seal(tmp_path / "model", tmp_path / "sealed", owner=Identity.generate(), name="Ours 7B")
    capsule = InputRef(role="model", capsule=sealed.capsule_id, manifest_sha256=sealed.manifest_sha256)
    ours, theirs = lab.report(inputs=(capsule, ref("data", "records")), value=900_000), lab.report("b")
    verified = verify_board(made(lab, plan(), ours, theirs), lab.policy)
    shown = [(ours, verify_report(ours, lab.policy)[0])]
    first, second = read_board(verified, reports=shown).lines
    assert (first.inputs, first.name, second.inputs) == ((capsule,), None, ())
    assert read_board(verified, reports=shown, reveals=(sealed.envelope,)).lines[0].name == "Ours 7B"
    assert code_of(read_board, verified, reveals=(sealed.envelope,)) == "train.reveal-unknown"
    again = lab.report(inputs=(capsule, ref("data", "records")), value=950_000)
    assert (
        code_of(read_board, verified, reports=[(again, verify_report(again, lab.policy)[0])]) == "train.reveal-unknown"
    )


def test_a_revealed_line_shows_the_numbers_of_the_table_and_no_others(lab):
    tasks = (Result(task="first", numbers=(number(),)), Result(task="triage", numbers=(number(),)))
    reports = [lab.report(name, results=tasks) for name in ("a", "b")]
    verified = verify_board(made(lab, plan(), *reports), lab.policy)
    shown = [(each, verify_report(each, lab.policy)[0]) for each in reports]
    for revealed in (shown[:1], shown[1:], shown):  # whichever of them stands first
        table = read_board(verified, reports=revealed)
        assert (table.task, len([line for line in table.lines if line.inputs])) == ("triage", len(revealed))
        with pytest.raises(MitaiError, match=r"\[train\.board-number\]") as caught:
            read_board(verified, reports=revealed, metric="acc_norm")
        assert caught.value.hint == "it tells (task, metric, group): triage acc"


def test_reports_that_do_not_hold_or_compare_make_no_table(lab, tmp_path):
    first, second = pair(lab)
    other_code = Lab(tmp_path / "sim", code=b"\x08" * 48)
    other_root = Lab(tmp_path / "other")
    unsigned = lab.report("b", signer=Identity.generate())
    cases = {
        "train.board-duplicate": lab.report("a", 900_000),
        "train.board-mismatch": lab.report("b", evaluation_sha256="f" * 64),
        "identity.signature-invalid": unsigned,
        "attest.measurement-mismatch": other_code.report("b"),
        "train.report-malformed": second[:-1],
    }
    for code, forged in cases.items():
        assert code_of(made, lab, plan(), first, forged) == code
    with pytest.raises(MitaiError):
        made(lab, plan(), first, other_root.report("b"))
    assert code_of(made, lab, plan(), first, b" " * ((64 << 20) + 1)) == "train.report-malformed"
    assert code_of(made, lab, plan(), first, second, maker=Identity.generate()) == "train.board-maker"


def test_the_reports_are_of_the_evaluation_that_was_asked_for_and_tell_its_numbers(lab):
    files = pair(lab)
    assert code_of(made, lab, plan(evaluation="f" * 64), *files) == "train.board-mismatch"
    assert code_of(made, lab, plan(min_group=19), *files) == "train.board-mismatch"
    assert code_of(made, lab, plan(numbers=(ACC, Chosen("triage", "acc", "south"))), *files) == "train.board-number"
    both = made(lab, plan(numbers=(ACC, Chosen("triage", "acc", "north"))), *files)
    assert len(verify_board(both, lab.policy)[0].lines[0].results[0].numbers) == 2
    north = made(lab, plan(numbers=(Chosen("triage", "acc", "north"),)), *files)
    assert [n.group for line in verify_board(north, lab.policy)[0].lines for n in line.results[0].numbers] == [
        "north"
    ] * 2


def test_who_signed_a_table_is_checked(lab, tmp_path):
    files = pair(lab)
    file = made(lab, plan(), *files)
    assert code_of(verify_board, file, Lab(tmp_path / "other").policy).startswith("attest.")
    assert code_of(verify_board, made(lab, plan(), *files, opened=refs("one")), lab.policy) == "train.report-inputs"
    assert code_of(verify_board, files[0], lab.policy) == "train.report-malformed"
    assert code_of(verify_report, file, lab.policy) == "train.report-malformed"
    board = msgspec.json.decode(file, type=BoardFile)
    report = msgspec.json.decode(files[0], type=ReportFile)
    swapped = BoardFile(envelope=report.envelope, evidence=board.evidence)
    assert code_of(verify_board, rfc8785.dumps(msgspec.to_builtins(swapped)), lab.policy) == "train.report-malformed"


def test_no_flipped_byte_gives_another_table(lab):
    data = made(lab, plan(), *pair(lab))
    board, _ = verify_board(data, lab.policy)
    envelope = range(data.index(b'"envelope"'), data.index(b'"evidence"'))
    places, refused = {*envelope, *range(0, len(data), max(1, len(data) // 100))}, 0
    for at in places:
        damaged = bytearray(data)
        damaged[at] ^= 1
        try:
            assert verify_board(bytes(damaged), lab.policy)[0] == board  # a hint, or how a collateral is written
        except MitaiError:
            refused += 1
    assert refused > 0.8 * len(places)


@pytest.mark.parametrize(
    "change",
    [
        lambda board: board["lines"].pop(),
        lambda board: board["lines"].reverse(),
        lambda board: board["reports"].reverse(),
        lambda board: board["lines"].__setitem__(1, board["lines"][0]),
        lambda board: board["lines"][0]["results"][0]["numbers"][0].update(n=19),
        lambda board: board["lines"][0]["results"][0]["numbers"][0].update(metric="acc_norm"),
        lambda board: board["lines"][0].update(name="ours"),
        lambda board: board["data"][0].update(role="model"),
        lambda board: board.update(created="2026-02-30T00:00:00Z"),
    ],
)
def test_a_table_that_could_say_more_is_refused(lab, change):
    board, _ = verify_board(made(lab, plan(), *pair(lab)), lab.policy)
    fields = json.loads(msgspec.json.encode(board))
    change(fields)
    with pytest.raises((msgspec.ValidationError, ParseError)):
        msgspec.json.decode(json.dumps(fields).encode(), type=Board)


# --- the job ---


def opened(lab: Lab, **changes) -> dict[str, OpenedInput]:
    return {
        each.capsule: msgspec.structs.replace(
            OpenedInput(each.capsule, bytes(32), b"", each.manifest_sha256, lab.signer.public.raw, derived=True),
            **changes,
        )
        for each in refs("one", "two")
    }


def done(lab: Lab, sources, inputs=None, evidence: Evidence | None = None, sim_roots=None) -> dict[str, bytes]:
    return leaderboard(
        Job.parse(text()),
        sources,
        inputs or opened(lab),
        sim_roots=lab.policy.sim_roots if sim_roots is None else sim_roots,
        signer=lab.signer,
        evidence=evidence or lab.evidence(inputs=refs("one", "two")),
        now=datetime.now(UTC),
    )


def sealed_reports(*files: bytes) -> dict[str, MemorySource]:
    return {name: MemorySource({REPORT_NAME: file}) for name, file in zip(("one", "two"), files, strict=True)}


def test_a_job_makes_the_table(lab):
    files = done(lab, sealed_reports(*pair(lab)))
    assert list(files) == [BOARD_NAME]
    assert len(verify_board(files[BOARD_NAME], lab.policy)[0].lines) == 2


def test_what_no_workload_made_or_is_no_report_is_refused(lab):
    sources = sealed_reports(*pair(lab))
    assert code_of(done, lab, sources, opened(lab, derived=False)) == "train.board-maker"
    assert code_of(done, lab, sources, opened(lab, owner=Identity.generate().public.raw)) == "train.board-maker"
    more = MemorySource({REPORT_NAME: pair(lab)[0], "more": b""})
    assert code_of(done, lab, sources | {"one": more}) == "train.board-maker"

    class Large(MemorySource):
        def size(self, name: str) -> int:
            return (64 << 20) + 1

        def read(self, name: str) -> bytes:
            raise AssertionError(name)

    assert code_of(done, lab, sources | {"one": Large({REPORT_NAME: b""})}) == "train.board-maker"


def test_what_a_report_must_be_is_not_the_host_s_to_say(lab, tmp_path):
    """Reports of other code are refused, whatever the host configures; and simulated ones if none are to count."""
    other = Lab(tmp_path / "sim", code=b"\x08" * 48)
    forged = sealed_reports(other.report("a"), other.report("b"))
    inputs = opened(lab, owner=other.signer.public.raw)
    assert code_of(done, lab, forged, inputs) == "attest.measurement-mismatch"
    foreign = SimPlatform.create(tmp_path / "foreign").sim_root
    for roots in ((), (foreign,)):
        with pytest.raises(MitaiError) as caught:
            done(lab, sealed_reports(*pair(lab)), sim_roots=roots)
        assert caught.value.code.startswith("attest.")


@pytest.mark.parametrize(
    "wrong",
    [
        text(("one", "one")),
        text(("one",)),
        text(tuple(f"r{n}" for n in range(17))),
        text(more="[limits]\nrows = 5\n"),
        text(more="[lora]\nrank = 2\n"),
        text(more="[transcript]\n"),
        text().replace('name = "board"', 'name = "board"\nmodel = "m"\ndata = ["d"]'),
        text().replace('metric = "acc" }', 'metric = "acc" }, { task = "triage", metric = "acc" }'),
        text().replace('metric = "acc"', 'metric = "names"'),
        text().replace("numbers = ", "names = "),
        text().split("[leaderboard]", maxsplit=1)[0],
        text().replace('"leaderboard"', '"evaluate"').split("[leaderboard]", maxsplit=1)[0],
    ],
)
def test_a_job_that_says_too_much_or_too_little_is_refused(wrong):
    assert code_of(Job.parse, wrong) == "train.job-malformed"


def test_what_is_declared_and_agreed():
    job = Job.parse(text())
    declared = job.declared()
    digest = plan(("x", "y", "z")).sha256()
    assert declared == {
        "method": "leaderboard",
        "epochs": "1",
        "output": "aggregate",
        "min_group": "20",
        "evaluation": "e" * 64,
        "leaderboard": digest,
        "reports": "2",
    }
    more = Chosen("triage", "acc", "north")
    assert plan(numbers=(ACC, more)).sha256() == plan(numbers=(more, ACC)).sha256()
    others = {plan(numbers=(more,)).sha256(), plan(min_group=5).sha256(), plan(evaluation="f" * 64).sha256()}
    assert len({digest, *others}) == 4
    assert [(each.role, each.capsule, each.kind) for each in job.inputs()] == [
        ("report", "one", "report"),
        ("report", "two", "report"),
    ]
    assert Job.decode(job.encode()).sha256() == job.sha256()
