"""Compare the verifiers in Python and TypeScript on every public vector: `python scripts/verdicts.py`.

Every entry of the vectors' index becomes cases (evidence, policy, time); each case goes through both verifiers as the
same bytes, and both must say the same: accepted or refused, the code, the step, and of what was accepted all that was
found. The table is written to `docs/verdicts.md`; with `--check` it is compared with that page instead. One JSON line
is the summary; the exit status is 1 where verdicts differ, or the page is out of date.

`--mutate N` leaves the page alone: N times, a byte of a case that is accepted is changed (of quote, certificates,
collateral or log; `--seed` says which), and the verifiers must agree on that too.

How an entry's files become evidence is written once, in `tests/vectors`; this script takes it from there.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "vectors")]

import test_attest_cca_vectors as cca_vectors  # noqa: E402
import test_attest_csv_vectors as csv_vectors  # noqa: E402
import test_attest_nitro_vectors as nitro_vectors  # noqa: E402
import test_attest_nvidia_vectors as nvidia_vectors  # noqa: E402
import test_attest_snp_vectors as snp_vectors  # noqa: E402
import test_attest_tpm_vectors as tpm_vectors  # noqa: E402
import test_attest_vectors as intel_vectors  # noqa: E402
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives.serialization import Encoding  # noqa: E402
from test_attest_eventlog_vectors import log_of  # noqa: E402

from attest_lab import LAX, flip, vector_entries, vector_file, vector_time  # noqa: E402
from mitai.attest import Policy, conformance  # noqa: E402
from mitai.attest.conformance import outcome, sev, tdx  # noqa: E402
from mitai.attest.dcap.roots import INTEL_SGX_ROOT_CA  # noqa: E402
from mitai.attest.eventlog import read_event_log, replay_rtmrs  # noqa: E402
from mitai.attest.machine import Hardware, Machine  # noqa: E402
from mitai.attest.nvidia.rim import parse_rim  # noqa: E402
from mitai.attest.snp import SnpRules, verify_endorsements  # noqa: E402
from mitai.attest.verify import verify_hardware  # noqa: E402
from mitai.errors import AttestError, MitaiError  # noqa: E402

PAGE = ROOT / "docs" / "verdicts.md"
ENTRIES = {entry["id"]: entry for entry in vector_entries()}
STRICT = Policy()
SNP_LAX = Policy(snp=snp_vectors.LAX)
ANY_DAY = datetime(2026, 6, 1, tzinfo=UTC)
SIGNING_CHAIN = tdx._pem(base64.b64decode(tdx._TCB_SIGNING_2018)) + tdx._pem(INTEL_SGX_ROOT_CA)
Entry = dict  # of the index, as it was parsed
Verdict = dict[str, object]
NOT_HERE = "attest.not-in-browser"
# Why the browser has no verifier; of what is evidence of a TEE, it must say so.
REASONS = {
    "nitro": "AWS Nitro",
    "cca": "Arm CCA",
    "csv": "Hygon CSV",
    "tpm": "TPMs",
    "nvidia": "devices",
    "sigstore": "sigstore bundles",
    "tokens": "results of other verifiers",
    "ima": "IMA lists are read with TPMs",
    "refvalues": "launch digests are computed by whoever releases",
    "tinfoil-flow": "the suite's own comparisons",
}


@dataclass(frozen=True)
class Case:
    """One input of both verifiers: a stage, and what it takes."""

    name: str
    stage: str
    given: dict[str, object]
    here: bool = True  # whether the browser has a verifier for it

    def line(self) -> bytes:
        return msgspec.json.encode({"stage": self.stage, **self.given})


def hardware_case(name: str, hardware: Hardware, policy: Policy, now: datetime, *, here: bool = True) -> Case:
    given = {"hardware": hardware.encode(), "policy": policy.to_toml(), "now_s": int(now.timestamp())}
    return Case(name, "hardware", given, here)


# -- entries that the browser verifies -----------------------------------------------------------------------


def intel_cases(entry: Entry) -> Iterator[Case]:
    """Return a quote's cases: every platform allowed, and by default; as published, where that is more than a quote."""
    quote, collateral = intel_vectors.quote_and_collateral(entry)
    log = vector_file(entry, "ccel_data.bin") if "ccel_data.bin" in entry["files"] else b""
    published = vector_file(entry, "quote.bin")
    for name, data, policy in (("lax", quote, LAX), ("default", quote, STRICT), ("uncut", published, LAX)):
        if name != "uncut" or published != quote:
            hardware = Hardware(tee=entry["tee"], quote=data, event_log=log, collateral=collateral)
            yield hardware_case(name, hardware, policy, vector_time(entry))


def intel_sample_cases(entry: Entry) -> Iterator[Case]:
    quote, collateral, policy, _ = intel_vectors.intel_sample(entry["id"])
    hardware = Hardware(tee=entry["tee"], quote=quote, collateral=collateral)
    yield hardware_case("own root", hardware, policy, vector_time(entry))
    yield hardware_case("Intel's root", hardware, LAX, vector_time(entry))


def snp_cases(entry: Entry) -> Iterator[Case]:
    for name, chain in (("chain", True), ("published chain", False)):
        hardware = snp_vectors.hardware(entry, chain=chain)
        yield hardware_case(f"{name}, lax", hardware, SNP_LAX, vector_time(entry))
        yield hardware_case(f"{name}, default", hardware, STRICT, vector_time(entry))


def crl_cases(entry: Entry) -> Iterator[Case]:
    base = ENTRIES["snp/trustee-milan-v2"]
    policy = Policy(snp=SnpRules(crl_required=True))
    for product in ("milan", "genoa"):
        parsed = x509.load_pem_x509_crl(vector_file(entry, f"test_amd_{product}_crl.pem"))
        hardware = snp_vectors.hardware(base)
        endorsements = {**hardware.endorsements, "crl": parsed.public_bytes(Encoding.DER)}
        hardware = msgspec.structs.replace(hardware, endorsements=endorsements)
        yield hardware_case(product, hardware, policy, parsed.last_update_utc)
        yield hardware_case(f"{product}, early", hardware, policy, vector_time(base))


def endorsement_cases(entry: Entry) -> Iterator[Case]:
    vek, chain = vector_file(entry, "vcek.der"), vector_file(entry, "cert_chain.pem")
    now_s = int(x509.load_der_x509_certificate(vek).not_valid_before_utc.timestamp())
    for name, endorsements in (("chain", {"vek": vek, "chain": chain}), ("published chain", {"vek": vek})):
        yield Case(name, "endorsements", {"endorsements": endorsements, "key": "vcek", "now_s": now_s})


def mutation_cases(entry: Entry) -> Iterator[Case]:
    base = ENTRIES[entry["base"]]
    here, first = base["tee"] in {"tdx", "sgx", "snp"}, next(iter(cases_of(base)), None)
    if first is None:  # evidence of a device
        return
    hardware = Hardware.decode(first.given["hardware"])
    for mutation in entry["mutations"]:
        mutated = msgspec.structs.replace(hardware, quote=flip(hardware.quote, mutation["offset"], mutation["xor"]))
        yield Case(mutation["what"], "hardware", {**first.given, "hardware": mutated.encode()}, here)


def conformance_cases(entry: Entry) -> Iterator[Case]:
    stage = "verify-" + entry["kind"].removeprefix("conformance-")
    yield Case("", stage, {"input": vector_file(entry, "input.json"), "signing_chain": SIGNING_CHAIN})


def full_cases(entry: Entry) -> Iterator[Case]:
    """Return the hardware's part of the suite's whole flow."""
    block = json.loads(vector_file(entry, "input.json")).get("attestation_sev")
    if block is not None:
        given = json.dumps({"schema_version": "1", **block}).encode()
        yield Case("its attestation", "verify-attestation-sev", {"input": given})


def log_cases(entry: Entry) -> Iterator[Case]:
    yield Case("", "event-log", {"log": log_of(entry)})


def td_report_cases(entry: Entry) -> Iterator[Case]:
    hardware = Hardware(tee="tdx", quote=vector_file(entry, "tdreport.bin"))
    yield hardware_case("", hardware, LAX, ANY_DAY)


# -- entries that it does not ----------------------------------------------------------------------------------


def nitro_cases(entry: Entry) -> Iterator[Case]:
    hardware = Hardware(tee="nitro", quote=vector_file(entry, "attestation_doc.cbor"))
    for name, policy in (("lax", Policy(nitro=nitro_vectors.LAX)), ("default", STRICT)):
        yield hardware_case(name, hardware, policy, vector_time(entry), here=False)


def cca_cases(entry: Entry) -> Iterator[Case]:
    hardware = Hardware(tee="cca", quote=vector_file(entry, "token.cbor"))
    yield hardware_case("", hardware, Policy(cca=cca_vectors.lax(entry)), ANY_DAY, here=False)


def csv_cases(entry: Entry) -> Iterator[Case]:
    endorsements = {"hsk_cek": csv_vectors.endorsement(entry)}
    hardware = Hardware(tee="csv", quote=vector_file(entry, "report.bin"), endorsements=endorsements)
    yield hardware_case("", hardware, STRICT, ANY_DAY, here=False)


def tpm_cases(entry: Entry) -> Iterator[Case]:
    hardware = tpm_vectors.evidence(entry)
    lab = tpm_vectors.accepting(hardware)
    policy = Policy(tcb=lab.tcb, tdx=lab.tdx, tpm=lab.tpm, azure=lab.azure)
    yield hardware_case("", hardware, policy, tpm_vectors.time_of(entry), here=False)


def cases_of(entry: Entry) -> list[Case]:
    """Return the cases of an entry; none where it is nothing that both could look at."""
    make: dict[str, Callable[[Entry], Iterator[Case]]] = {
        "quote": intel_cases,
        "report": snp_cases,
        "mutation": mutation_cases,
        "conformance-attestation": conformance_cases,
        "conformance-verify-full": full_cases,
        "nitro": nitro_cases,
        "cca": cca_cases,
        "csv": csv_cases,
        "azure": tpm_cases,
        "tpm2": tpm_cases,
    }
    special: dict[str, Callable[[Entry], Iterator[Case]]] = {
        "snp/amd-ark-crls": crl_cases,
        "snp/virtee-turin-chain": endorsement_cases,
        "tdx/gtg-tdreport": td_report_cases,
        "tdx/intel-qvl-sample-tdx": intel_sample_cases,
        "sgx/intel-qvl-sample-sgx": intel_sample_cases,
    }
    kind = entry["kind"] or ("report" if "report.bin" in entry["files"] else "")
    by_kind = next((cases for prefix, cases in make.items() if kind.startswith(prefix)), None)
    by_tee = log_cases if entry["tee"] == "eventlog" else None
    cases = special.get(entry["id"]) or by_kind or by_tee
    return list(cases(entry)) if cases else []


# -- verdicts ----------------------------------------------------------------------------------------------------


def verdict_of(find: Callable[[], object]) -> Verdict:
    try:
        return {"accepted": True, "found": find()}
    except MitaiError as error:
        return {"accepted": False, "code": error.code, "step": error.step if isinstance(error, AttestError) else ""}


def python_verdict(case: Case) -> Verdict:
    """Return what the Python verifier says, in the words of `web/verdicts/main.ts`."""
    given = case.given
    now = datetime.fromtimestamp(int(str(given.get("now_s", 0))), UTC)
    if case.stage == "hardware":
        policy = Policy.from_toml(str(given["policy"]))
        hardware = partial(Hardware.decode, given["hardware"])
        return verdict_of(lambda: _machine(verify_hardware(hardware(), policy, now=now)))
    if case.stage == "endorsements":
        return verdict_of(lambda: _endorsed(given["endorsements"], str(given["key"]), now))
    if case.stage == "event-log":
        return verdict_of(lambda: _replayed(given["log"]))
    kind, run = {"tdx": (tdx._Input, tdx._outputs), "sev": (sev._Input, sev._appraise)}[case.stage[-3:]]
    _, output = outcome.run_stage(case.stage, given["input"], kind, run)  # refusals in our words
    if output["accepted"]:
        return {"accepted": True, "found": {"registers": list(output["outputs"]["measurement"]["registers"])}}
    return {"accepted": False, "code": output["rejection"]["code"], "step": None}


def _machine(machine: Machine) -> Verdict:
    return {
        "tee": machine.tee,
        "title": machine.title,
        "memory": machine.memory,
        "simulated": machine.simulated,
        "measurements": dict(machine.measurements),
        "report_data": machine.report_data.hex(),
        "signed": machine.signed.hex(),
        "not_after_s": int(machine.not_after.timestamp()),
        "tcb_status": str(machine.tcb_status),
        "advisory_ids": list(machine.advisory_ids),
        "tcb_evaluation_number": machine.tcb_evaluation_number,
        "facts": dict(machine.facts),
        "steps": [step for step, _ in machine.checks],
    }


def _endorsed(endorsements: dict[str, bytes], key: str, now: datetime) -> Verdict:
    vek = verify_endorsements(endorsements, key, now).value.vek
    chip_id = None if vek.chip_id is None else vek.chip_id.hex()
    return {"product": vek.product, "tcb": vek.tcb.hex(), "chip_id": chip_id, "csp_id": vek.csp_id}


def _replayed(log: bytes) -> Verdict:
    parsed = read_event_log(log)
    return {"events": len(parsed.events), "rtmrs": [value.hex() for value in replay_rtmrs(parsed)]}


def python_alone(entry: Entry) -> list[tuple[str, Verdict]]:
    """Return what Python says of an entry that is nothing for the browser; nothing of what is no evidence."""
    kind, name = entry["kind"] or "", entry["id"]
    if kind.startswith("conformance-"):
        stage = "verify-" + kind.removeprefix("conformance-").removeprefix("verify-")
        _, output = conformance.main([stage], vector_file(entry, "input.json"))
        said = msgspec.json.decode(output)
        return [("", {"accepted": said["accepted"], "code": said.get("rejection", {}).get("code"), "step": ""})]
    if "/rim-" in name:
        return [("", verdict_of(lambda: parse_rim(vector_file(entry, "rim.xml"))))]
    if entry["tee"] != "nvidia":
        return []
    base, rules = ENTRIES[entry.get("base", "nvidia/h100-550.90.07-full")], nvidia_vectors.SIGNATURE_ONLY
    if kind == "mutation":
        report = vector_file(base, entry["file"])
        devices = {
            each["what"]: [nvidia_vectors.evidence(base, report=flip(report, each["offset"], each["xor"]))]
            for each in entry["mutations"]
        }
    elif "certchain" in name:
        devices = {"": [nvidia_vectors.evidence(base, certificates=vector_file(entry, "cert_chain.pem"))]}
    else:
        base = entry
        devices = {"": [nvidia_vectors.evidence(entry)] if kind else nvidia_vectors.eight_gpus(entry)}
    verify = partial(nvidia_vectors.verify, now=vector_time(base), rules=rules)
    return [(what, verdict_of(partial(verify, *found))) for what, found in devices.items()]


def typescript_verdicts(cases: list[Case]) -> list[Verdict]:
    """Return what the TypeScript verifier says of each case."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(case.line() + b"\n" for case in cases))
        file.flush()
        web = ROOT / "web"
        command = [str(web / "node_modules" / ".bin" / "vite-node"), "--script", "verdicts/main.ts", file.name]
        done = subprocess.run(command, cwd=web, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    return [msgspec.json.decode(line) for line in done.stdout.splitlines()]


def same(case: Case, python: Verdict, typescript: Verdict) -> bool:
    if not case.here:
        return typescript.get("code") == NOT_HERE
    if python.get("step") is None:  # the suite's stages have no steps
        typescript = {**typescript, "step": None} if not typescript["accepted"] else typescript
        python = {**python, "step": None} if not python["accepted"] else python
    return python == typescript


# -- the page ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """An entry: what both say of it, and whether that is the same."""

    entry: str
    python: str
    typescript: str
    agreement: str  # `yes`, `NO`, or why the browser has nothing to say


def rows(entries: list[Entry]) -> Iterator[Row]:
    cases = [(entry["id"], case) for entry in entries for case in cases_of(entry)]
    verdicts: dict[str, list[tuple[Case, Verdict, Verdict]]] = {}
    for (name, case), typescript in zip(cases, typescript_verdicts([case for _, case in cases]), strict=True):
        verdicts.setdefault(name, []).append((case, python_verdict(case), typescript))
    for entry in entries:
        found = verdicts.get(entry["id"], [])
        python = [(case.name, verdict) for case, verdict, _ in found] or python_alone(entry)
        typescript = [(case.name, verdict) for case, _, verdict in found]
        agreement = "yes" if found and found[0][0].here else f"not in the browser: {REASONS[entry['tee']]}"
        if found and entry["tee"] == "tinfoil-flow":
            agreement = "yes: its attestation; sigstore is not in the browser"
        if not all(same(*each) for each in found):
            agreement = "NO"
        yield Row(entry["id"], _words(python), _words(typescript), agreement)


def _words(verdicts: list[tuple[str, Verdict]]) -> str:
    """Return verdicts in words, cases that end alike together."""
    alike: dict[str, list[str]] = {}
    for name, verdict in verdicts:
        alike.setdefault(_said(verdict), []).append(name)
    if len(alike) == 1:
        ((words, names),) = alike.items()
        return f"{len(names)} × {words}" if len(names) > 1 else f"{names[0]}: {words}".removeprefix(": ")
    return "<br>".join(f"{', '.join(names)}: {words}" for words, names in alike.items()) or "–"


def _said(verdict: Verdict) -> str:
    if not verdict["accepted"]:
        return " ".join(["refused", f"`{verdict['code']}`", f"({verdict['step']})" if verdict["step"] else ""]).strip()
    found = verdict.get("found")
    facts = found if isinstance(found, dict) else {}
    return " ".join(["accepted", facts.get("tcb_status", ""), ", ".join(facts.get("advisory_ids", []))]).strip()


def page(table: list[Row]) -> str:
    counts = Counter(row.agreement.partition(":")[0] for row in table)
    body = "\n".join(f"| {row.entry} | {row.python} | {row.typescript} | {row.agreement} |" for row in table)
    return _PAGE.format(
        entries=len(table), same=counts["yes"], elsewhere=counts["not in the browser"], differ=counts["NO"], body=body
    )


_PAGE = """# Two verifiers, one verdict

<!-- Written by scripts/verdicts.py: change the source, then run it. -->

What the verifiers in Python (`mitai.attest`) and TypeScript (`web/packages/verify`) say of every entry of the public
[vectors](../tests/vectors/README.md). Of {entries} entries, {same} are for both and end the same, {differ} differ, and
{elsewhere} are of kinds that the browser does not verify: evidence of a TEE among them is refused there with
`attest.not-in-browser`, and what Python says is in the table to be complete.

"The same" is more than the table shows: accepted or refused, the code, the step; and of what was accepted every
measurement, the report data, the signed bytes, TCB status, advisories and evaluation number, the end of validity, all
facts, and the names of all steps. Both get the same bytes, the same policy (as TOML) and the same time.

- `lax` accepts every platform and debug mode, `default` is a policy that says nothing, `uncut` is a quote as published,
  with bytes behind its end. Of a mutation, each changed byte is a case.
- Entries of the conformance suite are refused in our codes here; `tests/vectors` shows that these mean what the suite
  expects. Pins that only the suite's adapter compares (in capital letters) are compared by an adapter on either side.
- "–": the entry is no evidence (a list of digests, a result of another verifier), or nothing that the browser could
  look at.

`make verdicts` runs both again and compares; `python scripts/verdicts.py --mutate 10000` changes bytes of what is
accepted, and compares that.

| entry | Python | TypeScript | the same? |
| --- | --- | --- | --- |
{body}
"""


# -- changed bytes -------------------------------------------------------------------------------------------------

BYTES = (0, 0x0A, 0x0D, 0x20, 0x3D)


def mutants(number: int, seed: int) -> Iterator[Case]:
    """Return cases in each of which one byte of some accepted evidence is another."""
    chance = random.Random(seed)
    cases = [case for entry in ENTRIES.values() for case in cases_of(entry) if case.stage == "hardware" and case.here]
    accepted = [case for case in cases if python_verdict(case)["accepted"]]
    for _ in range(number):
        case = chance.choice(accepted)
        hardware = msgspec.json.decode(case.given["hardware"])
        part, name, is_text = chance.choice(list(_parts(hardware)))
        data = bytearray(part[name].encode() if is_text else base64.b64decode(part[name]))
        at = chance.randrange(len(data))
        was = data[at]
        data[at] = chance.choice([was ^ 1 << chance.randrange(8), was ^ 0x20, *BYTES])
        if is_text and data[at] > 0x7F:
            data[at] &= 0x7F
        part[name] = data.decode() if is_text else base64.b64encode(data).decode()
        what = f"{case.name}: byte {at} of {name} is {data[at]:#04x}, was {was:#04x}"
        yield Case(what, "hardware", {**case.given, "hardware": msgspec.json.encode(hardware)})


def _parts(hardware: dict) -> Iterator[tuple[dict, str, bool]]:
    """Return every part that has bytes: where it is, its name, whether it is text."""
    collateral = hardware["collateral"] or {}
    texts = {"tcb_info", "qe_identity", *(name for name in collateral if name.endswith("chain"))}
    for part, names in ((hardware, ("quote", "event_log")), (hardware["endorsements"], None), (collateral, None)):
        for name in names or part:
            if part[name]:
                yield part, name, name in texts


def compare_mutants(number: int, seed: int) -> int:
    made, compared, differing = mutants(number, seed), 0, 0
    while cases := list(islice(made, 1000)):
        compared += len(cases)
        for case, typescript in zip(cases, typescript_verdicts(cases), strict=True):
            python = python_verdict(case)
            if not same(case, python, typescript):
                differing += 1
                print(f"{case.name}: Python {_said(python)}, TypeScript {_said(typescript)}", file=sys.stderr)
    print(json.dumps({"mutants": compared, "seed": seed, "differ": differing}))
    return 1 if differing else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the verifiers in Python and TypeScript.")
    parser.add_argument("--check", action="store_true", help="compare with the page instead of writing it")
    parser.add_argument("--mutate", type=int, default=0, metavar="N", help="compare N changed bytes instead")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if not ENTRIES:
        print(json.dumps({"skipped": "no public vectors here: set MITAI_VECTORS to their folder"}))
        return 0
    if arguments.mutate:
        return compare_mutants(arguments.mutate, arguments.seed)
    table = list(rows(list(ENTRIES.values())))
    counts = Counter(row.agreement.partition(":")[0] for row in table)
    for row in table:
        if row.agreement == "NO":
            print(f"{row.entry}: Python {row.python}, TypeScript {row.typescript}", file=sys.stderr)
    written = page(table)
    current = not arguments.check or (PAGE.is_file() and PAGE.read_text() == written)
    if not arguments.check:
        PAGE.write_text(written)
    elif not current:
        print("docs/verdicts.md is out of date: run scripts/verdicts.py", file=sys.stderr)
    print(
        json.dumps(
            {
                "entries": len(table),
                "same": counts["yes"],
                "differ": counts["NO"],
                "not_in_browser": counts["not in the browser"],
                "page_is_current": current,
            }
        )
    )
    return 1 if counts["NO"] or not current else 0


if __name__ == "__main__":
    sys.exit(main())
