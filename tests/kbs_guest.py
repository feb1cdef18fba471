"""A guest of Confidential Containers as the protocol's description and guest-components write it, on simulated TDX.

It shares no code with `mitai.broker.kbs`: keys and JWEs are joserfc's, and a header is written again before it is
authenticated, as the guest's own serializer does it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable

import httpx2
import msgspec
from joserfc import jwe
from joserfc.jwk import ECKey, RSAKey

from broker_rig import SERVE
from mitai.attest.collateral import Resource
from mitai.attest.machine import Hardware
from mitai.attest.sim import SimPlatform, intel
from mitai.attest.sim.measure import Workload, event_log, registers

# As `HashAlgorithm::list_all` of guest-components sends them.
EXTRA = {"supported-hash-algorithms": ["sha256", "sha384", "sha512", "sm3"]}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def unb64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def canonical(value: object) -> bytes:
    """RFC 8785, for strings and objects of them."""
    if isinstance(value, dict):
        return b"{" + b",".join(canonical(key) + b":" + canonical(value[key]) for key in sorted(value)) + b"}"
    return json.dumps(value, ensure_ascii=False).encode()


class Guest:
    """A confidential guest with a key pair; every part of what it says can be changed."""

    def __init__(self, sim: SimPlatform, algorithm: str = "P-256", measured: Workload = SERVE) -> None:
        self.sim, self.measured = sim, measured
        self.key = (
            RSAKey.generate_key(int(algorithm), private=True)
            if algorithm.isdecimal()
            else ECKey.generate_key(algorithm, private=True)
        )

    def pubkey(self) -> dict[str, str]:
        """The public key with its members in the order of guest-components."""
        public = self.key.as_dict(private=False)
        if public["kty"] == "RSA":
            return {"kty": "RSA", "alg": "RSA-OAEP-256", "n": public["n"], "e": public["e"]}
        return {"kty": "EC", "crv": public["crv"], "alg": "ECDH-ES+A256KW", "x": public["x"], "y": public["y"]}

    def request(self, **changes: object) -> dict[str, object]:
        return {"version": "0.4.0", "tee": "tdx", "extra-params": EXTRA} | changes

    def evidence(self, report_data: bytes) -> dict[str, object]:
        body = intel.td_report(registers(self.measured), report_data.ljust(64, b"\0"))
        return {"cc_eventlog": b64(event_log(self.measured)), "quote": b64(self.sim.quote(body))}

    def attestation(self, nonce: str, **changes: object) -> dict[str, object]:
        runtime = {"nonce": nonce, "tee-pubkey": self.pubkey()}
        digest = hashlib.sha384(canonical({**runtime, "additional-evidence": ""})).digest()
        composite = {"primary_evidence": self.evidence(digest), "additional_evidence": ""}
        return {"init-data": None, "runtime-data": runtime, "tee-evidence": composite} | changes

    def open(self, answer: bytes) -> bytes:
        """Decrypt a response as `TeeKeyPair::decrypt_response` does."""
        response = json.loads(answer)
        header = json.loads(unb64url(response["protected"]))
        others = {name: value for name, value in header.items() if name not in {"alg", "enc"}}
        assert header["alg"] == self.pubkey()["alg"]
        again = {"alg": header["alg"], "enc": header["enc"], **_sorted(others)}
        protected = base64.urlsafe_b64encode(json.dumps(again, separators=(",", ":")).encode()).rstrip(b"=").decode()
        parts = [protected, *(response[name] for name in ("encrypted_key", "iv", "ciphertext", "tag"))]
        opened = jwe.decrypt_compact(".".join(parts), self.key, algorithms=[header["alg"], header["enc"]])
        assert opened.plaintext is not None
        return opened.plaintext


def _sorted(value: object) -> object:
    """serde_json's map: members in the order of their names."""
    return {key: _sorted(value[key]) for key in sorted(value)} if isinstance(value, dict) else value


class Client:
    """The guest's HTTP client: keeps cookies, as reqwest with its cookie store."""

    def __init__(self, http: httpx2.AsyncClient, guest: Guest) -> None:
        self.http, self.guest = http, guest

    async def challenge(self, **changes: object) -> httpx2.Response:
        return await self.http.post("/kbs/v0/auth", json=self.guest.request(**changes))

    async def attest(self, **changes: object) -> httpx2.Response:
        nonce = (await self.challenge()).json()["nonce"]
        return await self.http.post("/kbs/v0/attest", json=self.guest.attestation(nonce, **changes))

    async def resource(self, path: str, **more: object) -> httpx2.Response:
        return await self.http.get(f"/kbs/v0/resource/{path}", **more)


class SimIntel:
    """Intel's service, for the simulated machine."""

    def __init__(self, sim: SimPlatform) -> None:
        self.collateral = sim.collateral()

    def ask(self, resource: Resource) -> tuple[bytes, str]:
        made = self.collateral
        if "/tcb?" in resource.url:
            answer = f'{{"tcbInfo":{made.tcb_info},"signature":"{made.tcb_info_signature.hex()}"}}'
            return answer.encode(), made.tcb_info_issuer_chain
        if "/qe/identity" in resource.url:
            answer = f'{{"enclaveIdentity":{made.qe_identity},"signature":"{made.qe_identity_signature.hex()}"}}'
            return answer.encode(), made.qe_identity_issuer_chain
        return (made.pck_crl, made.pck_crl_issuer_chain) if "/pckcrl?" in resource.url else (made.root_ca_crl, "")


def endorser(sim: SimPlatform) -> Callable[[Hardware], Hardware]:
    def endorse(hardware: Hardware) -> Hardware:
        return msgspec.structs.replace(hardware, collateral=sim.collateral() if hardware.tee == "tdx" else None)

    return endorse


def snp_report_json(report: bytes, layout: str) -> dict[str, object]:
    """Write an SEV-SNP report as virtee/sev's `AttestationReport` serializes: its fields at their offsets."""

    def number(offset: int, size: int) -> int:
        return int.from_bytes(report[offset : offset + size], "little")

    def octets(offset: int, size: int) -> list[int]:
        return list(report[offset : offset + size])

    def tcb(offset: int) -> dict[str, object]:
        at = report[offset : offset + 8]
        fmc, bootloader, tee, snp = at[:4] if layout == "Turin" else (None, at[0], at[1], at[6])
        return {"fmc": fmc, "bootloader": bootloader, "tee": tee, "snp": snp, "microcode": at[7]}

    def firmware(offset: int) -> dict[str, int]:
        return {"major": report[offset + 2], "minor": report[offset + 1], "build": report[offset]}

    version = number(0, 4)
    return {
        "version": version,
        "guest_svn": number(4, 4),
        "policy": number(8, 8),
        "family_id": octets(0x10, 16),
        "image_id": octets(0x20, 16),
        "vmpl": number(0x30, 4),
        "sig_algo": number(0x34, 4),
        "current_tcb": tcb(0x38),
        "plat_info": number(0x40, 8),
        "key_info": number(0x48, 4),
        "report_data": octets(0x50, 64),
        "measurement": octets(0x90, 48),
        "host_data": octets(0xC0, 32),
        "id_key_digest": octets(0xE0, 48),
        "author_key_digest": octets(0x110, 48),
        "report_id": octets(0x140, 32),
        "report_id_ma": octets(0x160, 32),
        "reported_tcb": tcb(0x180),
        "cpuid_fam_id": report[0x188] if version > 2 else None,
        "cpuid_mod_id": report[0x189] if version > 2 else None,
        "cpuid_step": report[0x18A] if version > 2 else None,
        "chip_id": octets(0x1A0, 64),
        "committed_tcb": tcb(0x1E0),
        "current": firmware(0x1E8),
        "committed": firmware(0x1EC),
        "launch_tcb": tcb(0x1F0),
        "launch_mit_vector": number(0x1F8, 8) if version > 4 else None,
        "current_mit_vector": number(0x200, 8) if version > 4 else None,
        "signature": {"r": octets(0x2A0, 72), "s": octets(0x2E8, 72)},
    }
