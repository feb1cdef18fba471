"""Leaderboards as a method of the job file: sealed reports go in, a signed table without names comes out.

It trains and measures nothing, and loads no model. The table is a capsule of kind `report`, which belongs to the owners
of all reports, and so of all models and of the test (`docs/spec/evaluation.md`, "Leaderboards").
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import cast

from mitai.attest import Evidence, Policy, verify_hardware
from mitai.broker.peers import same_build
from mitai.capsule import FileSource
from mitai.errors import TrainError
from mitai.identity import Identity, PublicKey
from mitai.train.evaluate.board import BOARD_NAME, Compare, ReportRef, make_board
from mitai.train.evaluate.report import REPORT_NAME
from mitai.train.evaluate.signed import MAX_FILE_BYTES, WORKLOAD
from mitai.train.job import Job
from mitai.train.relay import OpenedInput


def leaderboard(
    job: Job,
    sources: Mapping[str, FileSource],
    inputs: Mapping[str, OpenedInput],
    *,
    sim_roots: tuple[str, ...],
    signer: Identity,
    evidence: Evidence,
    now: datetime,
) -> dict[str, bytes]:
    """Do a job of method `leaderboard`; return the table as the one file `BOARD_NAME`.

    Args:
        job: What to do.
        sources: The opened reports by capsule id.
        inputs: What the broker said of them.
        sim_roots: Of simulated machines; they count if this machine is simulated itself.
        signer: The workload key.
        evidence: Of this machine; what it shows is what the reports' machines must be.
        now: The time that the table states.

    Raises:
        MitaiError: An input is no report of such a machine, or they may not stand in one table.
    """
    rules = Policy(allow_simulation=bool(sim_roots), sim_roots=sim_roots)
    policy = same_build(verify_hardware(evidence.hardware(), rules, now=now), rules, WORKLOAD)
    files = {name: _file(each, sources[name]) for name, each in inputs.items()}
    plan = cast("Compare", job.options)
    return {BOARD_NAME: make_board(plan, files, policy, signer=signer, evidence=evidence, now=now)}


def _file(opened: OpenedInput, source: FileSource) -> tuple[ReportRef, PublicKey, bytes]:
    if not opened.derived:
        raise TrainError("train.board-maker", f"no workload made {opened.capsule}, as the broker knows it")
    if source.names() != (REPORT_NAME,) or source.size(REPORT_NAME) > MAX_FILE_BYTES:
        raise TrainError("train.board-maker", f"{opened.capsule} does not hold the report of an evaluation")
    ref = ReportRef(capsule=opened.capsule, manifest_sha256=opened.manifest_sha256)
    return ref, PublicKey(opened.owner), source.read(REPORT_NAME)
