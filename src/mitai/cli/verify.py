"""`mitai verify`: the machine that would answer, or evidence in a file, with every check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from mitai.attest import Appraisal, Evidence, Hardware, Machine, Policy, verify_hardware
from mitai.attest import verify as verify_evidence
from mitai.attest.collateral import Services, Store, complete, device_endorsements
from mitai.attest.evidence import NO_DEVICES
from mitai.attest.explain import explain as meaning
from mitai.attest.refvalues.release import with_releases
from mitai.attest.results import AttestationResult, Submodule, Tier, TokenTrust, accept, sign
from mitai.cli.evidence import (
    from_hex,
    network,
    open_bundle,
    read_collateral,
    read_endorsement,
    read_file,
    read_message,
    services,
)
from mitai.cli.options import (
    JsonFlag,
    PccsOption,
    PolicyOption,
    client_folder,
    platform_url,
    read_policy,
    refuse_options,
    service_folder,
)
from mitai.cli.output import SIMULATED, Output, data, marked
from mitai.client import Session
from mitai.errors import AttestError, ClientError, ParseError
from mitai.fleet.home import Home


@dataclass(frozen=True)
class _Given:
    """What was given beside the evidence."""

    tee: str | None
    collateral: Path | None
    endorsement: tuple[str, ...]
    event_log: Path | None
    nonce: str | None
    report_data: str | None
    now: datetime
    explain: bool
    ear: Path | None
    store: Store | None  # has what the file lacks
    services: Services


def verify(
    target: Annotated[
        str | None,
        Parameter(
            help="The gateway's address, by default the local platform's; a file with evidence or a result; or the "
            "folder of a client of parties that compute together, or of a service of proofs."
        ),
    ] = None,
    *,
    policy: PolicyOption = None,
    explain: Annotated[bool, Parameter(negative="", help="Say what each check means.")] = False,
    tee: Annotated[str | None, Parameter(help="Whose evidence a file is: tdx, sgx, snp, nitro, cca, csv …")] = None,
    collateral: Annotated[Path | None, Parameter(help="Intel's collateral for a quote, as JSON.")] = None,
    endorsement: Annotated[
        tuple[str, ...],
        Parameter(negative="", help="NAME=FILE, such as vek=vcek.der or chain=cert_chain.pem. May be repeated."),
    ] = (),
    event_log: Annotated[Path | None, Parameter(help="The boot's event log, to be replayed.")] = None,
    nonce: Annotated[str | None, Parameter(help="Hex: what fresh evidence of mitai, or a result, must answer.")] = None,
    report_data: Annotated[
        str | None, Parameter(help="Hex: what the hardware must have signed for its caller.")
    ] = None,
    release: Annotated[
        tuple[Path, ...],
        Parameter(negative="", help="A signed release manifest that the policy's [[releases]] trust. May be repeated."),
    ] = (),
    time: Annotated[datetime | None, Parameter(help="Verify as of this time (UTC), for old evidence.")] = None,
    ear: Annotated[Path | None, Parameter(help="Print the verdict as a signed result (EAR), with this JWK.")] = None,
    key: Annotated[Path | None, Parameter(help="JWK or JWK set that must have signed a result.")] = None,
    fetch: Annotated[bool, Parameter(negative="", help="Ask the vendors' services for what a file lacks.")] = False,
    pccs: PccsOption = None,
    bundle: Annotated[Path | None, Parameter(help="Take it from this bundle: see mitai collateral.")] = None,
    bundle_key: Annotated[str | None, Parameter(help="Hex: the Ed25519 public key of whoever packed it.")] = None,
    json: JsonFlag = False,
) -> None:
    """Verify a confidential machine: the one that would answer, or from evidence in a file, offline.

    With an address: asks for fresh evidence over a nonce of our own and appraises it under your policy. Nothing else is
    sent. With a file: a quote or report of any TEE, an evidence bundle, or another verifier's result (EAR). With the
    folder of a client of parties that compute together: meets each, shows who it is, what it computes, what it sees.
    Exit status 1 and the failed step when it does not hold, or when a result is not affirming.

    Examples: `mitai verify`, `mitai verify quote.bin --collateral collateral.json --explain`,
    `mitai verify report.bin --endorsement vek=vcek.der --endorsement chain=cert_chain.pem`,
    `mitai verify result.jwt --key verifier.jwk`
    """
    out, home = Output(json), Home.default()
    if (folder := client_folder(home, target)) is not None:
        from mitai.cli import parties

        refuse_options(folder, policy=policy, nonce=nonce, report_data=report_data, ear=ear)
        parties.verify(out, folder, explain=explain)
        return
    if (folder := service_folder(home, target)) is not None:
        from mitai.cli import proven

        refuse_options(folder, policy=policy, nonce=nonce, report_data=report_data, ear=ear)
        proven.verify(out, folder)
        return
    if target is None or "://" in target or not Path(target).exists():
        if nonce is not None or report_data is not None or ear is not None:
            raise ClientError(
                "client.option-malformed", "--nonce, --report-data and --ear are for files, and this is an address"
            )
        rules = with_releases(read_policy(home, policy), list(map(read_file, release)), now=datetime.now(UTC))
        appraisal = Session(platform_url(home, target), rules).appraisal
        summary = [*appraisal.summary(), *served(appraisal.claims.extra)]
        _tell(out, appraisal.machine, appraisal.checks, summary, explain)
        out.say("\n[bold green]✔ verified[/] under your policy")
        if appraisal.simulated:
            out.say(SIMULATED)
        out.result({"verdict": "verified", **machine_of(appraisal)})
        return
    content = read_file(Path(target))
    if content[:3] == b"eyJ":
        _result(out, content, key, from_hex("--nonce", nonce) if nonce is not None else None)
        return
    now = (time or datetime.now(UTC)).replace(tzinfo=UTC) if time is None or time.tzinfo is None else time
    store: Store | None = network(home) if fetch else None
    store = open_bundle(bundle, bundle_key or "", now) if bundle else store
    given = _Given(
        tee, collateral, endorsement, event_log, nonce, report_data, now, explain, ear, store, services(pccs)
    )
    message = _message(content, given)
    rules = (
        read_policy(home, policy) if policy or (isinstance(message, Evidence) and home.policy.exists()) else Policy()
    )
    rules = with_releases(rules, list(map(read_file, release)), now=now)
    _offline(out, message, rules, given)


def _message(content: bytes, given: _Given) -> Evidence | Hardware:
    """Return the evidence of a file, put together with what was given beside it."""
    message = read_message(content, given.tee)
    changes: dict[str, object] = {}
    if given.collateral:
        changes["collateral"] = read_collateral(read_file(given.collateral))
    if given.event_log:
        changes["event_log"] = read_file(given.event_log)
    if given.endorsement:
        changes["endorsements"] = {**message.endorsements, **dict(map(read_endorsement, given.endorsement))}
    message = msgspec.structs.replace(message, **changes)
    if given.store is None:
        return message
    hardware = message.hardware() if isinstance(message, Evidence) else message
    whole = complete(hardware, given.store, given.services)
    return msgspec.structs.replace(message, collateral=whole.collateral, endorsements=whole.endorsements)


def _offline(out: Output, message: Evidence | Hardware, policy: Policy, given: _Given) -> None:
    policy_id = f"sha256:{policy.sha256}"
    try:
        machine, checks, workload = _appraise(message, policy, given)
    except AttestError as error:
        tell_checks(out, message.tee, _compared(error.passed, given), given.explain)
        if given.ear:
            _write_result(out, Submodule.refused(error, policy_id=policy_id), message.tee, given.ear, given.now)
        raise
    summary = machine.summary()
    _tell(out, machine, checks, summary, given.explain)
    out.say(f"\n[bold green]✔ genuine[/] {data(machine.title)}" if not machine.simulated else f"\n{SIMULATED}")
    if given.nonce is None and given.report_data is None:
        how = "--nonce" if isinstance(message, Evidence) else "--report-data"
        out.note(f"nobody asked for fresh evidence ({how}): this may be old, or made for somebody else")
    if workload is None:
        out.note("the policy names no code ([[workloads]]): what runs on the machine was not judged")
    if given.ear:
        _write_result(
            out, Submodule.accepted(machine, policy_id=policy_id, workload=workload), message.tee, given.ear, given.now
        )
    else:
        out.result({"verdict": "accepted", "workload": workload, **_fields(machine, checks)})


def _appraise(
    message: Evidence | Hardware, policy: Policy, given: _Given
) -> tuple[Machine, tuple[tuple[str, str], ...], str | None]:
    if isinstance(message, Evidence):
        expected = from_hex("--nonce", given.nonce) if given.nonce is not None else message.nonce
        devices = None
        if given.store is not None and message.devices != NO_DEVICES:
            devices = device_endorsements(message.devices, given.store, given.services)
        appraisal = verify_evidence(message, policy, nonce=expected, now=given.now, device_endorsements=devices)
        _check_report_data(appraisal.machine, given)
        return appraisal.machine, _compared(appraisal.checks, given), appraisal.workload
    if given.nonce is not None:
        raise ClientError(
            "client.option-malformed",
            "--nonce is for evidence of mitai and for results, and this file holds evidence of hardware alone",
            hint="compare what the hardware signed for its caller: --report-data",
        )
    machine = verify_hardware(message, policy, now=given.now)
    _check_report_data(machine, given)
    names = " or ".join(values.name for values in policy.workloads if values.mismatch(machine.measurements) is None)
    return machine, machine.checks, names or None


def _compared(checks: tuple[tuple[str, str], ...], given: _Given) -> tuple[tuple[str, str], ...]:
    """Return the checks as they were: without `--nonce` the evidence's own was taken."""
    own = given.nonce is None
    return tuple((step, "not compared: no --nonce" if own and step == "1 nonce" else detail) for step, detail in checks)


def _check_report_data(machine: Machine, given: _Given) -> None:
    if given.report_data is not None and from_hex("--report-data", given.report_data) != machine.report_data:
        raise AttestError(
            "attest.report-data-mismatch",
            f"the hardware signed {machine.report_data.hex()} for its caller, not what you expect",
            step="report data",
        )


def _result(out: Output, content: bytes, key: Path | None, nonce: bytes | None) -> None:
    """Check another verifier's result and show it; raise unless it is affirming."""
    if key is None:
        raise ClientError(
            "client.key-missing",
            "the file is a verifier's result: whose key must have signed it?",
            hint="--key JWK_FILE",
        )
    try:
        jwk = msgspec.json.decode(read_file(key), type=dict[str, object])
        keys = msgspec.convert(jwk.get("keys", [jwk]), tuple[dict[str, str], ...])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ParseError("attest.token-key-malformed", f"{key} holds no JWK") from error
    trust = TokenTrust(keys=keys)
    result = accept(content.decode("ascii", "replace").strip(), trust, now=datetime.now(UTC), nonce=nonce)
    for name, submod in result.submods.items():
        rows = [("attester", name), ("status", submod.status.value), ("policy", ", ".join(submod.policy_ids))]
        rows += list({category: str(claim) for category, claim in submod.vector.items()}.items())
        out.table(("", ""), [*rows, *([("problem", submod.problem)] if submod.problem else [])])
    out.say(f"\nsigned by {data(result.developer)} ({data(result.build)}) at {result.issued_at:%F %T} UTC")
    out.result({"verdict": result.status.value, "claims": result.claims()})
    if result.status is not Tier.AFFIRMING:
        raise AttestError(
            "attest.result-not-affirming", f"the result is genuine, and its verdict is {result.status.value!r}"
        )


def _write_result(out: Output, submod: Submodule, tee: str, key: Path, now: datetime) -> None:
    try:
        jwk = msgspec.json.decode(read_file(key), type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ParseError("attest.token-key-malformed", f"{key} holds no private JWK") from error
    result = AttestationResult.of({tee: submod}, now=now, lifetime=timedelta(minutes=5))
    token = sign(result, jwk)
    out.say(token)
    out.result({"verdict": submod.status.value, "ear": token})


def _tell(
    out: Output, machine: Machine, checks: tuple[tuple[str, str], ...], summary: list[tuple[str, str]], explain: bool
) -> None:
    tell_checks(out, machine.tee, checks, explain)
    out.say()
    out.table(("", ""), [(name, "0" if value and value.strip("0") == "" else value) for name, value in summary])


def tell_checks(out: Output, tee: str, checks: tuple[tuple[str, str], ...], explain: bool) -> None:
    """Show the checks of an appraisal."""
    if not explain:
        out.table(("check", "what it found"), [(marked(f"[green]✔[/] {step}"), detail) for step, detail in checks])
        return
    for step, detail in checks:
        out.say(f"[green]✔[/] [bold]{step}[/]  {data(detail)}")
        out.say(f"    [dim]{data(meaning(tee, step))}[/]")


def _fields(machine: Machine, checks: tuple[tuple[str, str], ...]) -> dict[str, object]:
    return {
        "tee": machine.tee,
        "simulated": machine.simulated,
        "memory": machine.memory,
        "tcb_status": machine.tcb_status,
        "advisory_ids": list(machine.advisory_ids),
        "tcb_evaluation_number": machine.tcb_evaluation_number,
        "not_after": machine.not_after.isoformat(),
        "report_data": machine.report_data.hex(),
        "measurements": dict(machine.measurements),
        "platform": machine.platform,
        "facts": dict(machine.facts),
        "checks": [{"step": step, "detail": detail} for step, detail in checks],
    }


def served(about: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what a machine says of what it serves, in words: names in the API, and what was derived from what."""
    lines = []
    for name, value in about.items():
        what, _, which = name.partition(" ")
        if what == "adapter" and which:
            lines.append(("adapter", f"{which} answers with capsule {value}"))
        if what == "derived" and which:
            lines.append(("derived", f"capsule {which} was made from {', '.join(value.split())}"))
    return lines


def machine_of(appraisal: Appraisal) -> dict[str, object]:
    """Return an appraisal for programs."""
    return {
        "workload": appraisal.workload,
        "capsules": [capsule.id for capsule in appraisal.claims.capsules],
        "about": appraisal.claims.extra,
        "evidence_sha256": appraisal.evidence_sha256,
        "devices": [dict(device.summary()) for device in appraisal.devices],
        **_fields(appraisal.machine, appraisal.checks),
    }


def brief(appraisal: Appraisal) -> str:
    """Return an appraisal on one line."""
    hardware = f"{'SIMULATED ' if appraisal.simulated else ''}{appraisal.machine.title}"
    return f"{hardware}, {appraisal.tcb_status or 'current'}, workload {appraisal.workload}"
