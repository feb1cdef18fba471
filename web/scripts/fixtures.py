"""Writes what the tests of `@mitai/verify` compare themselves with: inputs, and the verdict of the Python package.

Run from the repository's root: `python web/scripts/fixtures.py`. Keys are fresh in each run; mutations are seeded.

A fixture file holds `bases` (inputs in base64), `settings` (what they are checked with) and `runs`:
`[what, base, setting, edits, code, result]`. Each edit is `[at, bytes to drop, bytes to put (Latin-1)]`. `code` is the
error's, or empty where the input was accepted; `result` is what then came out, as far as it is short.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from mitai.attest.eventlog import check_rtmr_log, replay_rtmrs
from mitai.attest.eventlog.dstack import parse_dstack, replay_dstack
from mitai.attest.evidence import CapsuleClaim, Claims, Evidence, LedgerClaim, report_data
from mitai.attest.policy import ClaimRules, Policy
from mitai.attest.refvalues.release import Measurements, Release, sign_release, with_releases
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.attest.sim import SimPlatform, Workload, intel, reference_values
from mitai.attest.sim.measure import event_log, registers
from mitai.attest.verify import verify
from mitai.errors import MitaiError
from mitai.identity import Identity, PublicKey
from mitai.ledger import Log, MemoryStore, TileReader, leaf_hash, verify_checkpoint, verify_log, vkey
from mitai.ledger import entry as entries
from mitai.ledger.note import COSIGNATURE, ED25519, Note, NoteSignature, VerifierKey, cosign, parse_note
from mitai.ledger.receipt import CapsuleRef, Receipt, ReceiptBundle, Usage, receipt_sha256, verify_receipt
from mitai.ledger.tiles import tile_path
from mitai.ledger.tree import tile_width

FOLDER = Path(__file__).parents[1] / "packages/verify/test/fixtures"
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
NONCE = bytes(range(32))
PUT = [
    b"\0",
    b"\n",
    b"\r",
    b" ",
    b"=",
    b'"',
    b"\\",
    b"0",
    b"A",
    b"{",
    b"]",
    b",",
    b"\xff",
    b"\xc3",
    b"\x7f",
    b"e",
    b"-",
]
Edit = tuple[int, int, bytes]
Run = list[object]


def outcome(check: Callable[[], object]) -> tuple[str, str]:
    """Return the code of the refusal, or nothing and what came out."""
    try:
        result = check()
    except MitaiError as error:
        return error.code, ""
    return "", result if isinstance(result, str) else ""


def written(policy: Policy) -> str:
    """Return a policy without the sections that say what is so by default."""
    usual = Policy().to_toml().strip().split("\n\n")
    return "\n\n".join(part for part in policy.to_toml().strip().split("\n\n") if part not in usual)


def edited(data: bytes, edits: Sequence[Edit]) -> bytes:
    """Return the input with changes."""
    for at, drop, put in edits:
        data = data[:at] + put + data[at + drop :]
    return data


def mutations(data: bytes, count: int, seed: str) -> list[list[Edit]]:
    """Return changes of a byte or a few: flips, exchanges, losses, insertions, repetitions."""
    dice = random.Random(seed)
    changes: list[list[Edit]] = []
    for _ in range(count):
        at = dice.randrange(len(data))
        size = dice.choice((1, 1, 1, 2, 5, 20))
        kind = dice.randrange(6)
        if kind == 0:
            change = (at, 1, bytes([data[at] ^ 1 << dice.randrange(8)]))
        elif kind == 1:
            change = (at, 1, dice.choice(PUT))
        elif kind == 2:
            change = (at, size, b"")
        elif kind == 3:
            change = (at, 0, dice.choice(PUT))
        elif kind == 4:
            change = (at, 0, data[at : at + size])
        else:
            change = (at, 1, bytes([data[at] ^ 0x20]))
        changes.append([change])
    return changes


class Fixtures:
    """Collects inputs and verdicts, and writes them."""

    def __init__(self) -> None:
        self.bases: dict[str, str] = {}
        self.settings: dict[str, dict[str, object]] = {}
        self.runs: list[Run] = []

    def base(self, name: str, data: bytes) -> bytes:
        """Keep an input."""
        self.bases[name] = base64.b64encode(data).decode()
        return data

    def add(self, what: str, base: str, setting: str, edits: Sequence[Edit], check: Callable[[bytes], object]) -> None:
        """Check an input with changes, and keep the verdict."""
        data = edited(base64.b64decode(self.bases[base]), edits)
        code, result = outcome(lambda: check(data))
        self.runs.append(
            [what, base, setting, [[at, drop, put.decode("latin-1")] for at, drop, put in edits], code, result]
        )

    def mutate(self, what: str, base: str, setting: str, count: int, check: Callable[[bytes], object]) -> None:
        """Check an input as it is, and so many mutations of it."""
        self.add(what, base, setting, [], check)
        for edits in mutations(base64.b64decode(self.bases[base]), count, f"{what} {base} {setting}"):
            self.add(what, base, setting, edits, check)

    def replace(
        self, what: str, base: str, setting: str, pairs: Sequence[tuple[bytes, bytes]], check: Callable[[bytes], object]
    ) -> None:
        """Exchange the first place of each first text for the second."""
        data = base64.b64decode(self.bases[base])
        for old, new in pairs:
            self.add(what, base, setting, [(data.index(old), len(old), new)], check)

    def write(self, name: str) -> None:
        """Write the file."""
        head = {"bases": self.bases, "settings": self.settings}
        lines = ",\n".join(json.dumps(run, separators=(",", ":")) for run in self.runs)
        text = json.dumps(head, indent=1)[:-2] + ',\n "runs": [\n' + lines + "\n]}\n"
        (FOLDER / name).write_text(text)


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
    _policies(fixtures, policy)
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


def _policies(fixtures: Fixtures, policy: Policy) -> None:
    def check(data: bytes) -> str:
        return Policy.from_toml(data.decode("latin-1")).sha256

    text = policy.to_toml().encode()
    for edits in mutations(text, 600, "policy"):
        if all(byte < 0x80 for _, _, put in edits for byte in put):
            fixtures.add("policy", "policy", "", edits, check)
    fixtures.base("nothing", b"")
    key, small = "03" * 32, "00" * 32
    trust = f'[[releases]]\nworkload="a"\nkey="{key}"\n'
    sigstore = '[[releases]]\nworkload="a"\nsigstore_root="{}"\n[releases.sigstore]\nissuer="i"\n'
    registers = 'registers={mrtd="00",rtmr0="any",rtmr1="",rtmr2="any",rtmr3="any"}'
    for written in (
        "",
        "version=2",
        "version=1.0",
        "version=true",
        "version=99999999999999999999999",
        "x=1",
        "__proto__=1",
        "[constructor]",
        "allow_simulation=1",
        'sim_roots="x"',
        'sim_roots=[""]',
        'sim_roots=["AA=="]',
        'sim_roots=["AB=="]',
        'sim_roots=["AAA"]',
        'sim_roots=["sha256:AB"]',
        f'sim_roots=["sha256:{"ab" * 32}"]',
        'sim_roots=["é"]',
        'tcb.accepted_statuses=["Revoked"]',
        'tcb.accepted_statuses=["OutOfDate","UpToDate"]',
        'tcb.accepted_statuses=["x"]',
        "tcb.min_evaluation_number=-1",
        "tcb.min_evaluation_number=17",
        "tcb.collateral_grace_s=1_000",
        "tcb.collateral_grace_s=0x10",
        'tcb.fmspc=["00"]',
        'tcb.fmspc=["00a06e050000"]',
        'tcb.pce_ids=["0000","FFFF"]',
        "tcb.second_opinion=true",
        "tdx=[]",
        'tdx.xfam_allowed="ff"',
        'tdx.mrseam=["any"]',
        'tdx.mrowner="any"',
        'tdx.mrowner="Any"',
        "sgx.isv_prod_id=7",
        "sgx.isv_prod_id=-7",
        'sgx.mrsigner=["' + "00" * 32 + '"]',
        'snp.products=["Milan"]',
        'snp.products=["Naples"]',
        "snp.min_firmware=[1,2]",
        "snp.min_firmware=[1,2,3]",
        "snp.min_firmware=[1,-2,3]",
        "snp.min_tcb.Milan={snp=3}",
        "snp.min_tcb.Milan={snp=256}",
        "snp.min_tcb.Milan={sev=3}",
        "snp.min_tcb.Naples={snp=3}",
        'snp.policy_required=["smt","debug"]',
        'snp.platform_forbidden=["smt","x"]',
        "snp.launch_mitigations=18446744073709551615",
        "snp.current_mitigations=-1",
        'snp.family_id="' + "0a" * 16 + '"',
        'snp.denied_chip_ids=["00"]',
        'nitro.source="nitrotpm"',
        'nitro.source="x"',
        'nitro.pcrs.pcr40=["' + "00" * 48 + '"]',
        "nitro.pcrs.pcr4=[]",
        'nitro.pcrs.pcr4=["' + "00" * 48 + '"]',
        'nitro.module_ids=[""]',
        'nitro.required_pcrs=["pcr31"]',
        'cca.lifecycles=["open"]',
        'cca.realms=[{initial_measurement="' + "00" * 32 + '"}]',
        'cca.realms=[{initial_measurement="' + "00" * 31 + '"}]',
        'cca.realms=[{initial_measurement="' + "00" * 32 + '",extensible_measurements=["' + "00" * 32 + '"]}]',
        'csv.policy_required=["nodbg","es"]',
        'csv.policy_required=["x"]',
        "csv.min_build=-1",
        'tpm.aks=["name:000b' + "00" * 32 + '","spki:' + "00" * 32 + '"]',
        'tpm.aks=["name:000c' + "00" * 32 + '"]',
        'tpm.roots=["azure-vtpm","sha256:' + "00" * 32 + '"]',
        'tpm.roots=["x"]',
        "tpm.banks=[]",
        'tpm.banks=["sha1"]',
        "tpm.pcrs=[24]",
        "tpm.pcrs=[true]",
        "tpm.min_firmware_version=18446744073709551615",
        'azure.vm_ids=["12345678-1234-1234-1234-123456789abC"]',
        'azure.vm_ids=["x"]',
        'azure.id_key_digests=["any"]',
        'gcp.hardware=["snp"]',
        'gcp.hardware=["sgx"]',
        'gcp.instance_ids=["12"]',
        'gcp.instance_ids=["-1"]',
        "nvidia.min_gpus=-1",
        "nvidia.min_gpus=8",
        'nvidia.modes=["ppcie"]',
        'nvidia.rims="optional"',
        "nvidia.ocsp_grace_s=31622401",
        'nvidia.min_driver="550.90.07"',
        'nvidia.min_driver="550."',
        "event_log.required=true",
        "event_log.pcrs=[]",
        "event_log.events={rtmr9=[]}",
        'event_log.events={rtmr2=["text:console=ttyS0 \\u007f \\" \\\\ é"],pcr23=[]}',
        'event_log.events={rtmr2=["00"]}',
        'event_log.dstack={"a b"=["00"],__proto__=["x"]}',
        'event_log.ima.files={"/bin/sh"=["' + "00" * 32 + '"]}',
        'event_log.ima.files={"/bin/sh"=["00"]}',
        'claims.capsules=[{id="a"}]',
        'claims.ledger_vkey="k"\n[[claims.capsules]]\nid="a"',
        '[[claims.capsules]]\nid="a"\nmanifest_sha256="' + "00" * 32 + '"',
        '[[claims.capsules]]\nid="a"\nmanifest_sha256="00"',
        'claims.policies=["anything"]',
        "releases=5",
        "[releases]",
        '[[releases]]\nworkload="a"',
        trust,
        trust.replace(key, small),
        trust.replace(key, "ed" + "ff" * 31),
        trust.replace(key, "00"),
        trust + "min_version=-1",
        trust + "min_version=12",
        trust + "not_before=2026-01-01",
        trust + "not_before=2026-01-01T00:00:00",
        trust + "not_before=2026-01-01T00:00:00Z",
        trust + "not_before=2026-01-01 00:00:00.25+05:30",
        trust + 'not_before="2026-01-01T00:00:00+0100"',
        trust + 'not_before="2026-01-01t00:00:00.5z"',
        trust + 'not_before="2026-01-01"',
        trust + 'not_before="2026-02-30T00:00:00Z"',
        trust + "sigstore_root='{}'",
        trust + '[releases.sigstore]\nissuer="i"\nrepository="a/b"',
        sigstore.format("") + 'repository="a/b"',
        sigstore.format("{}"),
        f'[[workloads]]\nname="a"\n{registers}',
        f'[[workloads]]\nname="a"\ntee="x"\n{registers}',
        f'[[workloads]]\nname="a"\ntee="tdx"\n{registers}',
        f'[[workloads]]\nname="a"\ntee="constructor"\n{registers}',
        '[[workloads]]\nname="a"\nregisters={}',
        '[[workloads]]\nname="é\\u0001\\u007f"\n' + registers.replace('rtmr3="any"', 'rtmr3="0A"'),
        '[[workloads]]\nname="é\\u0001\\u007f"\n' + registers.replace('rtmr3="any"', 'rtmr3="any","Ü"="any"'),
        'nitro.source="nitrotpm"\n[[workloads]]\nname="a"\ntee="nitro"\nregisters={pcr0="",pcr1="",pcr2="",pcr4=""}',
        "workloads=[1]",
        "a = ",
        "a = 1\na = 2",
        "[tcb]\n[tcb]",
        "\ufeff",
        "version=1\r",
        "version=1 # \x01",
        'claims.ledger_vkey="\\U0001F600\\b\\f\\t"',
        'claims.ledger_vkey="\\ud800"',
        'claims.ledger_vkey="""\n\na\\\n   b"""',
        "claims.ledger_vkey='\\e'",
        "tcb={fmspc=[],fmspc=[]}",
        "tcb={fmspc=[]}\ntcb.pce_ids=[]",
        "tcb.fmspc=[]\n[tcb]\npce_ids=[]",
        "[tcb]\n[tdx]\n[tcb.fmspc]",
        "[event_log.events]\n[event_log]\nrequired=true",
        "workloads=[]\n[[workloads]]",
        "version=+1",
        "version=0b1",
        "version=0o1",
        "version=1_",
        "version=01",
        "version=0X1",
        "version=1\n\n\r\n# end",
        "version=1\rallow_simulation=true",
        "version=1 allow_simulation=true",
        "version=1\x0b",
        "version=1 # \t é",
        "version=9223372036854775808",
        "tcb.min_evaluation_number=9007199254740991",
        "tcb.min_evaluation_number=1e3",
        "tcb.min_evaluation_number=inf",
        "tcb.min_evaluation_number=2026-01-01",
        '"version"=1',
        "'version'=1",
        '"\\u0076ersion"=1',
        '""=1',
        "=1",
        "version",
        "[ tcb ]",
        "[tcb.]",
        "[[tcb]]",
        "[tcb",
        'event_log.dstack={b=[],a=[],C=[],""=[]}',
        trust + "not_before=2026-01-01T24:00:00Z",
        trust + "not_before=2026-01-01T23:59:60Z",
        trust + "not_before=0000-01-01T00:00:00Z",
        trust + "not_before=0001-01-01T00:00:00Z",
        trust + "not_before=2026-01-01T00:00:00+24:00",
        trust + "not_before=2026-01-01T00:00:00-00:00",
        trust + "not_before=2026-01-01t00:00:00z",
    ):
        fixtures.add(
            "policy", "nothing", "", [(0, 0, written.encode())], lambda data: Policy.from_toml(data.decode()).sha256
        )


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
        return ReleaseTrust(**{"workload": "serve", "key": publisher.public.raw.hex()} | more)

    def setting(name: str, *trusts: ReleaseTrust, now: datetime = NOW) -> Callable[[bytes], str]:
        empty = msgspec.structs.replace(policy, workloads=(), releases=trusts)
        fixtures.settings[f"release {name}"] = {"policy": written(empty), "now": now.isoformat()}
        return lambda data: with_releases(empty, [data], now=now).sha256

    def release(**more: object) -> Release:
        measured = (Measurements("tdx", values), Measurements("quantum", {"a": "b"}))
        return Release(**{"workload": "serve", "version": 12, "released": NOW, "measurements": measured} | more)

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


def ledger() -> None:
    """Notes, entries, receipts and tiles."""
    fixtures = Fixtures()
    operator, replica, witness, other = (Identity.generate() for _ in range(4))
    log = Log(MemoryStore(), operator, "log.example/é")
    log.append([b"entry %d" % number for number in range(300)])
    receipt = Receipt(
        exchange="exchange-1",
        request_sha256="01" * 32,
        response_sha256="02" * 32,
        model="a model, é",
        capsules=(CapsuleRef(id="model-1", manifest_sha256="cd" * 32),),
        policies=("03" * 32,),
        usage=Usage(prompt_tokens=7, completion_tokens=2**53 - 1),
        evidence_sha256="04" * 32,
        started="2026-06-01T12:00:00Z",
        finished="2026-06-01T12:00:01Z",
    )
    envelope = receipt.sign(replica)
    logged = entries.ReceiptEntry(
        time="2026-06-01T12:00:02Z", exchange="exchange-1", receipt_sha256=receipt_sha256(envelope)
    ).encode()
    log.append([logged])
    note = parse_note(log.checkpoint())
    lines = (cosign(note.text, "w.example", witness, 7), cosign(note.text, "o.example", other, 8))
    checkpoint = fixtures.base("note", Note(note.text, (*note.signatures, *lines)).encode())
    bundle = ReceiptBundle(
        envelope=envelope, entry=logged, index=300, proof=log.inclusion_proof(300), checkpoint=checkpoint.decode()
    )
    fixtures.base("bundle", bundle.encode())
    witnesses = [vkey("w.example", witness.public, kind=COSIGNATURE), vkey("o.example", other.public, kind=COSIGNATURE)]
    _notes(fixtures, log, operator, witnesses)
    _entries(fixtures, logged)
    _receipts(fixtures, log, replica, witnesses, bundle)
    _tiles(fixtures, log, checkpoint)
    fixtures.write("ledger.json")


def _notes(fixtures: Fixtures, log: Log, operator: Identity, witnesses: Sequence[str]) -> None:
    def setting(name: str, key: str, trusted: Sequence[str] = (), threshold: int = 0) -> Callable[[bytes], str]:
        fixtures.settings[f"note {name}"] = {"vkey": key, "witnesses": list(trusted), "threshold": threshold}

        def check(data: bytes) -> str:
            found = verify_checkpoint(data, key, trusted, threshold)
            return json.dumps(
                [str(found.size), found.root.hex(), [c.time_s for c in found.cosignatures]], separators=(",", ":")
            )

        return check

    plain = setting("plain", log.vkey, witnesses, 2)
    fixtures.mutate("note", "note", "note plain", 250, plain)
    note = base64.b64decode(fixtures.bases["note"])
    for edit in (
        (0, 0, b"\n"),
        (len(note), 0, b"\n"),
        (len(note) - 1, 1, b""),
        (len(note), 0, "— x.example AAAAAAAA\n".encode()),
        (len(note), 0, "— x.example AAAAAAB\n".encode()),
        (len(note), 0, b"- x.example AAAAAAAA\n"),
        (len(note), 0, "— x.example  AAAAAAAA\n".encode()),
        (len(note), 0, "— x\u2003y AAAAAAAA\n".encode()),
        (len(note), 0, "— x\ufeffy AAAAAAAA\n".encode()),
        (len(note), 0, "— x\u0085y AAAAAAAA\n".encode()),
        (len(note), 0, "— x\x1fy AAAAAAAA\n".encode()),
        (len(note), 0, "— x+y AAAAAAAA\n".encode()),
        (len(note), 0, ("— " + "é" * 256 + " AAAAAAAA\n").encode()),
        (len(note), 0, ("— " + "é" * 257 + " AAAAAAAA\n").encode()),
        (len(note), 0, "— x.example AAAAAAAA\n".encode() * 61),
        (len(note), 0, "— x.example AAAAAAAA\n".encode() * 62),
    ):
        fixtures.add("note", "note", "note plain", [edit], plain)
    for name, key, trusted, threshold in (
        ("no witnesses", log.vkey, [], 0),
        ("too few", log.vkey, witnesses[:1], 2),
        ("the same twice", log.vkey, witnesses[:1] * 2, 2),
        ("log as witness", log.vkey, [log.vkey], 1),
        ("witness as log", witnesses[0], [], 0),
        ("another log", vkey("log.example/é", Identity.generate().public), [], 0),
        ("another name", vkey("log.example", operator.public), [], 0),
        ("bad witness", log.vkey, ["x"], 0),
        ("no key", "", [], 0),
        ("key id", log.vkey.replace("+", "+0", 1), [], 0),
        ("key type", "log.example+00000000+" + base64.b64encode(b"\2" + bytes(32)).decode(), [], 0),
        ("small order", "log.example+00000000+" + base64.b64encode(b"\1" + bytes(32)).decode(), [], 0),
        ("key name", "log example+00000000+" + base64.b64encode(b"\1" + bytes(32)).decode(), [], 0),
    ):
        fixtures.add("note", "note", f"note {name}", [], setting(name, key, trusted, threshold))
    key = Identity.generate()
    for name, text in (
        ("empty", "l\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"),
        ("empty with a root", "l\n0\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
        ("extended", "l\n5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nmore\neven more\n"),
        ("with an empty line", "l\n5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\nmore\n"),
        ("zero", "l\n05\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
        ("huge", "l\n4611686018427387904\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
        ("too huge", "l\n4611686018427387905\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
        ("negative", "l\n-5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
        ("short root", "l\n5\nAAAA\n"),
        ("odd root", "l\n5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=\n"),
        ("no root", "l\n5\n"),
        ("other origin", "m\n5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"),
    ):
        line = NoteSignature("l", VerifierKey("l", ED25519, key.public).key_id, key.sign_bytes(text.encode()))
        fixtures.base(f"note {name}", Note(text, (line,)).encode())
        fixtures.add("note", f"note {name}", "note of l", [], setting("of l", vkey("l", key.public)))


def _entries(fixtures: Fixtures, logged: bytes) -> None:
    def check(data: bytes) -> str:
        return str(entries.decode(data).time)

    digest, time = "0" * 64, "2026-01-02T03:04:05Z"
    for entry in (
        entries.PartyRegistered(time=time, party=digest, name="a\u2028b é 😀 \\ \" /"),
        entries.CapsuleRegistered(time=time, capsule="c", kind="model", name="n", owners=(), manifest_sha256=digest),
        entries.PolicySet(time=time, capsule="c", owner=digest, policy_sha256=digest, version=2**53 - 1),
        entries.Release(
            time=time, release="r", capsules=("c",), workload="w", purpose="p", evidence_sha256=digest,
            recipient_sha256=digest, policies=(digest,), simulated=True, reasons=("because",),
        ),
        entries.Denial(time=time, capsules=(), code="x.y", reasons=()),
        entries.Deployment(time=time, deployment="d", capsules=(), workload="w", state="serving"),
        entries.Revocation(time=time, owner=digest, subject="capsule:model-1", reason="ended"),
        entries.Approval(time=time, owner=digest, request="r", approved=False, subject_sha256=digest),
        entries.Export(time=time, export="e", capsule="c", owners=(digest,), approvals=(), recipient=digest),
    ):  # fmt: skip
        name = type(entry).__name__
        fixtures.base(name, entry.encode())
        fixtures.mutate("entry", name, "", 25, check)
    fixtures.base("entry", logged)
    fixtures.mutate("entry", "entry", "", 100, check)
    fixtures.replace(
        "entry",
        "entry",
        "",
        [
            (b'"type":"receipt"', b'"type":"other"'),
            (b'"type":"receipt"', b'"type":"constructor"'),
            (b'"type":"receipt",', b""),
            (b'"type":"receipt"', b'"type":"receipt","type":"receipt"'),
            (b"2026-06-01T12", b"2026-02-30T12"),
            (b"2026-06-01T12", b"0000-06-01T12"),
            (b"2026-06-01T12", b"2026-06-01T24"),
            (b"2026-06-01T12", b"0001-06-01T12"),
            (b"exchange-1", b"exchange\\u002d1"),
            (b'{"', b'{ "'),
        ],
        check,
    )
    fixtures.replace(
        "entry", "PolicySet", "", [(b"9007199254740991", b"9007199254740992"), (b"9007199254740991", b"-0")], check
    )


def _receipts(fixtures: Fixtures, log: Log, replica: Identity, witnesses: Sequence[str], bundle: ReceiptBundle) -> None:
    def setting(name: str, **changes: object) -> Callable[[bytes], str]:
        options = {
            "receipt_key": replica.public.raw.hex(),
            "ledger_vkey": log.vkey,
            "request_sha256": "01" * 32,
            "response_sha256": "02" * 32,
            "witnesses": list(witnesses),
            "threshold": 2,
        } | changes
        fixtures.settings[f"receipt {name}"] = options

        def check(data: bytes) -> str:
            key = PublicKey(bytes.fromhex(str(options["receipt_key"])))
            return verify_receipt(ReceiptBundle.decode(data), **options | {"receipt_key": key}).exchange

        return check

    plain = setting("plain")
    fixtures.mutate("receipt", "bundle", "receipt plain", 250, plain)
    for name, changes in (
        ("of unknown bytes", {"request_sha256": None, "response_sha256": None}),
        ("of another request", {"request_sha256": "00" * 32}),
        ("of another answer", {"response_sha256": "00" * 32}),
        ("of a stranger", {"receipt_key": Identity.generate().public.raw.hex()}),
        ("of a small key", {"receipt_key": "ec" + "ff" * 30 + "7f"}),
        ("of no point", {"receipt_key": "02" + "00" * 31}),
        ("of another log", {"ledger_vkey": vkey("log.example/é", Identity.generate().public)}),
        ("of many witnesses", {"threshold": 3}),
    ):
        fixtures.add("receipt", "bundle", f"receipt {name}", [], setting(name, **changes))
    change = msgspec.structs.replace
    for name, changed in (
        ("index", change(bundle, index=299)),
        ("beyond", change(bundle, index=301)),
        ("short proof", change(bundle, proof=bundle.proof[:-1])),
        ("long proof", change(bundle, proof=(*bundle.proof, bytes(32)))),
        ("other entry", change(bundle, entry=bundle.entry.replace(b"exchange-1", b"exchange-2"))),
        ("no entry", change(bundle, entry=b"{}")),
        ("other receipt", change(bundle, envelope=bundle.envelope.replace(b'{"', b'{ "', 1))),
        ("no receipt", change(bundle, envelope=replica.sign(b"{}", "application/vnd.mitai.receipt+json").encode())),
        ("other type", change(bundle, envelope=replica.sign(b"{}", "text/plain").encode())),
    ):
        fixtures.base(f"bundle {name}", changed.encode())
        fixtures.add("receipt", f"bundle {name}", "receipt plain", [], plain)


def _tiles(fixtures: Fixtures, log: Log, checkpoint: bytes) -> None:
    """A published log with all its files, and proofs out of it."""
    log.publish(checkpoint)
    paths = ["checkpoint"]
    for level, index in ((-1, 0), (-1, 1), (0, 0), (0, 1), (1, 0)):
        paths.append(tile_path(level, index, tile_width(max(level, 0), index, log.size)))
    files = {path: log.resource(path) for path in paths}
    reader = TileReader(files.get, verify_checkpoint(checkpoint, log.vkey))
    verify_log(files.get, log.vkey)
    dice = random.Random("proofs")
    proofs = []
    for _ in range(40):
        size = dice.randrange(1, log.size + 1)
        index, old = dice.randrange(size), dice.randrange(size + 1)
        hashes = [*reader.inclusion_proof(index, size), *reader.consistency_proof(old, size), reader.root(size)]
        proofs.append([size, index, old, hashlib.sha256(b"".join(hashes)).hexdigest()])
    fixtures.settings["log"] = {
        "vkey": log.vkey,
        "files": {path: base64.b64encode(data or b"").decode() for path, data in files.items()},
        "proofs": proofs,
        "leaf": leaf_hash(b"entry 7").hex(),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        evidence(Path(folder) / "platform")
    ledger()
