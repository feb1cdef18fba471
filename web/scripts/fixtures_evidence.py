"""Fixtures of evidence and claims, of a simulated machine, and of releases and event logs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from fixtures_lab import NONCE, NOW, Fixtures, written
from fixtures_policies import policies

from mitai.attest.eventlog import check_rtmr_log, replay_rtmrs
from mitai.attest.eventlog.dstack import parse_dstack, replay_dstack
from mitai.attest.evidence import CapsuleClaim, Claims, Evidence, LedgerClaim, report_data
from mitai.attest.policy import ClaimRules, Policy
from mitai.attest.refvalues.release import Measurements, Release, sign_release, with_releases
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.attest.sim import SimPlatform, Workload, intel, reference_values
from mitai.attest.sim.measure import event_log, registers
from mitai.attest.verify import verify
from mitai.identity import Identity
from mitai.ledger import vkey


def evidence(folder: Path) -> None:
    """Evidence, claims and policies, of a simulated machine."""
    fixtures = Fixtures()
    platform = SimPlatform.create(folder, clock=lambda: NOW)
    workload = Workload("serve", bytes(32))
    ledger = Identity.generate()
    claims = Claims(
        workload="serve",
        key_config=b"an HPKE key configuration",
        receipt_key=Identity.generate().public.raw,
        tls_key_sha256="ab" * 32,
        capsules=(CapsuleClaim("model-1", "cd" * 32), CapsuleClaim("model-2", "ef" * 32)),
        policies=("01" * 32,),
        ledger=LedgerClaim("log.example", vkey("log.example", ledger.public), b"a checkpoint"),
        extra={"__proto__": "x", "note": "é"},
    )
    bundle = platform.attester(workload).evidence(claims.encode(), NONCE)
    fixtures.base("claims", claims.encode())
    fixtures.base("evidence", bundle.encode())
    policy = Policy(allow_simulation=True, sim_roots=(platform.sim_root,), workloads=(reference_values(workload),))
    fixtures.base("policy", policy.to_toml().encode())
    _claims(fixtures)
    policies(fixtures, policy)
    _verdicts(fixtures, platform, policy, bundle, ledger)
    _releases(fixtures, policy, workload)
    _logs(fixtures, workload)
    fixtures.write("evidence.json")


def _claims(fixtures: Fixtures) -> None:
    def check(data: bytes) -> str:
        return Claims.decode(data).workload

    fixtures.mutate("claims", "claims", "", 250, check)
    fixtures.replace(
        "claims",
        "claims",
        "",
        [
            (b'"v":1', b'"v":2'),
            (b'"v":1', b'"v":1.0'),
            (b'"v":1', b'"v":-0'),
            (b'"v":1', b'"v":true'),
            (b'"v":1', b'"v":1e0'),
            (b'"v":1', b'"v":18446744073709551617'),
            (b'"v":1', b'"v":"x","v":1'),
            (b'"v":1', b'"v":2,"v":1'),
            (b'"v":1', b'"\\u0076":1'),
            (b'"v":1,', b""),
            (b'"workload":"serve",', b""),
            (b'"serve"', b'"Serve"'),
            (b'"serve"', b'"' + b"a" * 65 + b'"'),
            (b'"serve"', b'"s\\u0065rve"'),
            (b'"serve"', b'"\\ud83d"'),
            (b'"serve"', b'"ser\xffve"'),
            (b"model-2", b"model-1"),
            (b"model-2", b"model\\u002d1"),
            (b'"extra":{', b'"extra":{"note":1,'),
            (b'"extra":{', b'"extra":{"\xff":"a",'),
            (b'"extra":{', b'"extra":{"\\ud800":"a",'),
            (b'"extra":{', b'"extra":{},"other":{'),
            (b'"extra":{', b'"__proto__":{},"extra":{'),
            (b'"extra":{', b'"extra":null,"extra":{'),
            (b'"' + b"ab" * 32 + b'"', b"null"),
            (b'"' + b"ab" * 32 + b'"', b'"' + b"AB" * 32 + b'"'),
            (b"{", b" \n\t\r{"),
            (b"{", b"\xef\xbb\xbf{"),
            (b"{", b"[" * 2000 + b"{"),
            (b"{", b'{"x":' + b"[" * 2000 + b"]" * 2000 + b","),
        ],
        check,
    )
    end = len(base64.b64decode(fixtures.bases["claims"]))
    for put in (b"\n", b"\0", b"x", b"\xff", b"}", b" {}"):
        fixtures.add("claims", "claims", "", [(end, 0, put)], check)
    version = base64.b64decode(fixtures.bases["claims"]).index(b'"v":1') + 4
    fixtures.add("claims", "claims", "", [(end, 0, b"x"), (version, 1, b"2")], check)


def _verdicts(fixtures: Fixtures, platform: SimPlatform, policy: Policy, bundle: Evidence, ledger: Identity) -> None:
    def setting(name: str, policy: Policy, nonce: bytes = NONCE, now: datetime = NOW) -> Callable[[bytes], str]:
        fixtures.settings[name] = {"policy": written(policy), "nonce": nonce.hex(), "now": now.isoformat()}
        return lambda data: verify(Evidence.decode(data), policy, nonce=nonce, now=now).evidence_sha256

    change = msgspec.structs.replace
    plain = setting("plain", policy)
    fixtures.mutate("evidence", "evidence", "plain", 500, plain)
    fixtures.replace(
        "evidence",
        "evidence",
        "plain",
        [
            (b'"v":1', b'"v":2'),
            (b'"tdx"', b'"sgx"'),
            (b'"tdx"', b'"snp"'),
            (b'"tdx"', b'"x"'),
            (b'"endorsements":{}', b'"endorsements":{"__proto__":"AA=="}'),
            (b'"endorsements":{}', b'"endorsements":{"a":"AB=="}'),
            (b'"endorsements":{}', b'"endorsements":{"a":"A"}'),
            (b'"endorsements":{},', b""),
            (b'"devices":"W10="', b'"devices":"WyBd"'),
            (b'"event_log":"', b'"event_log":"","x":"'),
        ],
        plain,
    )
    log = base64.b64encode(bundle.event_log)
    encoded = base64.b64decode(fixtures.bases["evidence"])
    fixtures.add("evidence", "evidence", "plain", [(encoded.index(log), len(log), b"")], plain)
    values = policy.workloads[0]
    other = change(values, registers={**values.registers, "rtmr3": "00" * 48})
    key = vkey("log.example", ledger.public)
    for name, changed in (
        ("no simulation", change(policy, allow_simulation=False)),
        ("other root", change(policy, sim_roots=("sha256:" + "00" * 32,))),
        ("root as certificate", change(policy, sim_roots=(base64.b64encode(platform.root_certificate).decode(),))),
        ("no values", change(policy, workloads=())),
        ("other values", change(policy, workloads=(other,))),
        ("other name", change(policy, workloads=(change(values, name="other"),))),
        ("other or these values", change(policy, workloads=(other, values))),
        ("extra register", change(policy, workloads=(change(values, registers={**values.registers, "mrx": "any"}),))),
        ("pinned register", change(policy, workloads=(change(values, registers={**values.registers, "mrx": "00"}),))),
        ("evaluation number", change(policy, tcb=change(policy.tcb, min_evaluation_number=10**6))),
        ("fmspc", change(policy, tcb=change(policy.tcb, fmspc=("000000000000",)))),
        ("status", change(policy, tcb=change(policy.tcb, accepted_statuses=()))),
        ("xfam", change(policy, tdx=change(policy.tdx, xfam_required="ffffffffffffffff"))),
        ("mrowner", change(policy, tdx=change(policy.tdx, mrowner="11" * 48))),
        ("log required", change(policy, event_log=change(policy.event_log, required=True))),
        ("secure boot", change(policy, event_log=change(policy.event_log, secure_boot=True))),
        ("dstack", change(policy, event_log=change(policy.event_log, dstack={"a": ("00",)}))),
        ("events", change(policy, event_log=change(policy.event_log, events={"rtmr0": ("text:x",)}))),
        (
            "allowed",
            change(policy, event_log=change(policy.event_log, events={"rtmr1": ("text:mitai sim kernel v1",)})),
        ),
        ("pcr", change(policy, event_log=change(policy.event_log, events={"pcr4": ()}))),
        ("ima", change(policy, event_log=change(policy.event_log, ima=change(policy.event_log.ima, required=True)))),
        ("capsule", _claiming(policy, capsules=[{"id": "model-1", "manifest_sha256": "cd" * 32}])),
        ("capsule by id", _claiming(policy, capsules=[{"id": "model-2"}], ledger_vkey=key)),
        ("capsule missing", _claiming(policy, capsules=[{"id": "model-3", "manifest_sha256": "cd" * 32}])),
        ("capsule mismatch", _claiming(policy, capsules=[{"id": "model-1", "manifest_sha256": "00" * 32}])),
        ("policy in force", _claiming(policy, policies=["01" * 32])),
        ("policy missing", _claiming(policy, policies=["02" * 32])),
        ("other ledger", _claiming(policy, ledger_vkey="other")),
    ):
        fixtures.add("evidence", "evidence", name, [], setting(name, changed))
    for name, moment in (
        ("a month later", NOW + timedelta(days=31)),
        ("a month earlier", NOW - timedelta(days=31)),
        ("much later", NOW + timedelta(days=36500)),
    ):
        fixtures.add("evidence", "evidence", name, [], setting(name, policy, now=moment))
    fixtures.add("evidence", "evidence", "nonce", [], setting("nonce", policy, nonce=bytes(32)))
    fixtures.add("evidence", "evidence", "short nonce", [], setting("short nonce", policy, nonce=NONCE[:31]))
    for name, claims in (
        ("version 2", bundle.claims.replace(b'"v":1', b'"v":2')),
        ("no JSON", b"{"),
        ("no ledger", msgspec.json.encode({"workload": "serve", "key_config": "", "v": 1})),
    ):
        made = platform.attester(Workload("serve", bytes(32))).evidence(claims, NONCE)
        fixtures.base(f"claims {name}", made.encode())
        fixtures.add("evidence", f"claims {name}", "plain", [], plain)
        fixtures.add("evidence", f"claims {name}", "ledger", [], setting("ledger", _claiming(policy, ledger_vkey=key)))
    body = intel.td_report(registers(Workload("serve", bytes(32))), report_data(NONCE, b"other", b"[]"))
    fixtures.base("other claims", change(bundle, quote=platform.quote(body)).encode())
    fixtures.add("evidence", "other claims", "plain", [], plain)


def _claiming(policy: Policy, **rules: object) -> Policy:
    return msgspec.structs.replace(policy, claims=msgspec.convert(rules, ClaimRules))


def _releases(fixtures: Fixtures, policy: Policy, workload: Workload) -> None:
    publisher, stranger = Identity.generate(), Identity.generate()
    values = reference_values(workload).registers

    def trusting(**more: object) -> ReleaseTrust:
        usual: dict[str, Any] = {"workload": "serve", "key": publisher.public.raw.hex()}
        return ReleaseTrust(**usual | more)

    def setting(name: str, *trusts: ReleaseTrust, now: datetime = NOW) -> Callable[[bytes], str]:
        empty = msgspec.structs.replace(policy, workloads=(), releases=trusts)
        fixtures.settings[f"release {name}"] = {"policy": written(empty), "now": now.isoformat()}
        return lambda data: with_releases(empty, [data], now=now).sha256

    def release(**more: object) -> Release:
        measured = (Measurements("tdx", values), Measurements("quantum", {"a": "b"}))
        usual: dict[str, Any] = {"workload": "serve", "version": 12, "released": NOW, "measurements": measured}
        return Release(**usual | more)

    fixtures.base("release", sign_release(release(builder="us"), publisher))
    fixtures.mutate("release", "release", "release plain", 150, setting("plain", trusting()))
    for name, trusts in (
        ("nobody", ()),
        ("stranger", (trusting(key=stranger.public.raw.hex()),)),
        ("second", (trusting(key=stranger.public.raw.hex()), trusting())),
        ("other workload", (trusting(workload="other"),)),
        ("other workload and stranger", (trusting(workload="other"), trusting(key=stranger.public.raw.hex()))),
        ("version", (trusting(min_version=13),)),
        ("not before", (trusting(not_before=NOW + timedelta(hours=1)),)),
        ("just before", (trusting(not_before=NOW),)),
    ):
        fixtures.add("release", "release", f"release {name}", [], setting(name, *trusts))
    for name, now in (("early", NOW - timedelta(seconds=301)), ("skewed", NOW - timedelta(seconds=300))):
        fixtures.add("release", "release", f"release {name}", [], setting(name, trusting(), now=now))
    plain = setting("plain", trusting())
    for name, changed in (
        ("expired", release(not_after=NOW - timedelta(seconds=1))),
        ("ending", release(not_after=NOW)),
        ("naive", release(released=NOW.replace(tzinfo=None))),
        ("unknown TEE", release(measurements=(Measurements("quantum", {"a": "b"}),))),
        ("nothing", release(measurements=(Measurements("quantum", {}), Measurements("tdx", values)))),
        ("huge version", release(version=2**53)),
    ):
        fixtures.base(f"release {name}", sign_release(changed, publisher))
        fixtures.add("release", f"release {name}", "release plain", [], plain)
    for name, payload in (
        ("any", {"tdx": dict.fromkeys(values, "any")}),
        ("missing register", {"tdx": {"mrtd": "00"}}),
        ("malformed register", {"tdx": {**values, "mrtd": "0A"}}),
    ):
        measured = [{"tee": tee, "registers": found} for tee, found in payload.items()]
        predicate = {"workload": "serve", "version": 1, "released": "2026-06-01T12:00:00Z", "measurements": measured}
        for label, extra in (("", {}), (" with more", {"more": 1})):
            _sign(fixtures, publisher, f"release {name}{label}", {**predicate, **extra})
            fixtures.add("release", f"release {name}{label}", "release plain", [], plain)
    _sign(fixtures, publisher, "release of another type", {}, predicateType="https://slsa.dev/provenance/v1")
    fixtures.add("release", "release of another type", "release plain", [], plain)
    _sign(
        fixtures, publisher, "release with subjects", {}, subject=[{"name": "a", "x": [{}], "digest": {"sha256": "00"}}]
    )
    fixtures.add("release", "release with subjects", "release plain", [], plain)
    _sign(fixtures, publisher, "release with bad subjects", {}, subject=[{"name": 1}])
    fixtures.add("release", "release with bad subjects", "release plain", [], plain)


def _sign(fixtures: Fixtures, publisher: Identity, name: str, predicate: object, **more: object) -> None:
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "https://mitai.dev/predicate/release/v1",
        "predicate": predicate,
    }
    payload = json.dumps(statement | more).encode()
    fixtures.base(name, publisher.sign(payload, "application/vnd.in-toto+json").encode())


def _logs(fixtures: Fixtures, workload: Workload) -> None:
    """Event logs of TDs: a CCEL and dstack's."""

    def setting(name: str, rtmrs: Sequence[bytes], toml: str) -> Callable[[bytes], str]:
        fixtures.settings[f"log {name}"] = {"policy": toml, "rtmrs": [rtmr.hex() for rtmr in rtmrs]}
        rules = Policy.from_toml(toml).event_log
        return lambda data: json.dumps(check_rtmr_log(data, rtmrs, rules), separators=(",", ":"))

    ccel = fixtures.base("ccel", event_log(workload) + b"\xff" * 16)
    fixtures.mutate("log", "ccel", "log plain", 200, setting("plain", replay_rtmrs(ccel), ""))
    plain = setting("plain", replay_rtmrs(ccel), "")
    locality = b"\0\0\0\0\x03\0\0\0\0\0\0\0\x11\0\0\0StartupLocality\0"
    header = 32 + int.from_bytes(ccel[28:32], "little")
    for put in (locality + b"\3", locality + b"\5", 2 * (locality + b"\0"), b"\1" + locality[1:] + b"\3"):
        fixtures.add("log", "ccel", "log plain", [(header, 0, put)], plain)
    for put in (b"\0", b"\xff", b"\0" * 8, b"\0" * 7):
        fixtures.add("log", "ccel", "log plain", [(len(ccel), 0, put)], plain)
        fixtures.add("log", "ccel", "log plain", [(len(ccel) - 16, 16, put)], plain)
    runtime = 0x08000001
    events = [
        {"imr": number, "event_type": 5, "event": "", "event_payload": "", "digest": "0a" * 48} for number in range(3)
    ]
    events += [
        {"imr": 3, "event_type": runtime, "event": "compose-hash", "event_payload": "ABCD", "version": 2},
        {"imr": 3, "event_type": runtime, "event": "app id", "event_payload": "00", "more": [{}]},
        {"imr": 3, "event_type": runtime, "event": "twice", "event_payload": ""},
        {"imr": 3, "event_type": runtime, "event": "twice", "event_payload": "01"},
    ]
    dstack = fixtures.base("dstack", json.dumps(events).encode())
    rtmrs = replay_dstack(parse_dstack(dstack))
    fixtures.mutate("log", "dstack", "log dstack", 150, setting("dstack", rtmrs, ""))
    for name, toml in (
        ("allowed", 'event_log.dstack={"compose-hash"=["abcd","00"],"app id"=["00"]}'),
        ("refused", 'event_log.dstack={"compose-hash"=["ABCD"]}'),
        ("missing", 'event_log.dstack={"other"=["00"]}'),
        ("twice", 'event_log.dstack={"twice"=["","01"]}'),
        ("boot", "event_log.secure_boot=true"),
    ):
        fixtures.add("log", "dstack", f"log {name}", [], setting(name, rtmrs, toml))
