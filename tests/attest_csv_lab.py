"""A Hygon secure processor of our own: SM2 signatures, certificates and reports that tests can forge in every part."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache
from itertools import cycle

from cryptography.hazmat.primitives.hashes import SM3
from cryptography.hazmat.primitives.hmac import HMAC

from mitai.attest.checks import Checklist
from mitai.attest.csv import CsvRules, appraise, sm2
from mitai.attest.csv.certificates import CEK, HRK, HSK, OCA, PEK, Issuer
from mitai.attest.machine import Hardware

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
MEASURE = b"\x07" * 32
ANONCE = bytes.fromhex("a1b2c3d4")
NODBG = 1
USAGES = {"HRK": HRK, "HSK": HSK, "OCA": OCA, "PEK": PEK, "CEK": CEK}


@cache
def secret(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") % sm2.N


def times_generator(number: int) -> tuple[int, int]:
    x, y, z = sm2._multiply_add(number, sm2._generator(), 0, sm2._generator())
    inverse = pow(z, -1, sm2.P)
    return x * inverse**2 % sm2.P, y * inverse**3 % sm2.P


@cache
def public(name: str) -> sm2.PublicKey:
    return sm2.PublicKey.from_coordinates(*times_generator(secret(name)))


def sign(name: str, user_id: bytes, message: bytes) -> tuple[int, int]:
    """Return an SM2 signature (GB/T 32918.2, section 6.1)."""
    e = int.from_bytes(sm2.sm3(public(name)._identity(user_id) + message), "big")
    k = int.from_bytes(hashlib.sha256(name.encode() + message).digest(), "big") % sm2.N
    r = (e + times_generator(k)[0]) % sm2.N
    return r, pow(1 + secret(name), -1, sm2.N) * (k - r * secret(name)) % sm2.N


def user_id(name: str) -> bytes:
    return b"LAB-" + name.encode()


def key_id(name: str) -> bytes:
    return hashlib.md5(name.encode(), usedforsecurity=False).digest()


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def key_field(name: str) -> bytes:
    key = public(name)
    identity = user_id(name)
    return number(3, 4) + number(key.x, 72) + number(key.y, 72) + number(len(identity), 2) + identity.ljust(254, b"\0")


def signature_field(issuer: str, message: bytes) -> bytes:
    r, s = sign(issuer, user_id(issuer), message)
    return number(r, 72) + number(s, 72)


def ca_certificate(name="HSK", issuer="HRK", *, usage=None, signer_id=None) -> bytes:
    usage = USAGES[name] if usage is None else usage
    signer_id = key_id(issuer) if signer_id is None else signer_id
    body = number(1, 4) + key_id(name) + signer_id + number(usage, 4) + bytes(24)
    body += key_field(name) + bytes(108)
    return body + signature_field(issuer, body) + bytes(112)


def slot(issuer: str | None, body: bytes, usage=None) -> bytes:
    if issuer is None:
        return number(0x1000, 4) + bytes(516)
    return number(usage or USAGES[issuer], 4) + number(4, 4) + signature_field(issuer, body) + bytes(368)


def chip_certificate(name="CEK", issuers=("HSK", None), *, version=1, usage=None, signer_id=bytes(16), signed_as=None):
    usage = USAGES[name] if usage is None else usage
    body = number(version, 4) + b"\x01\x04\0\0" + number(usage, 4) + number(4, 4)
    body += key_field(name) + signer_id + bytes(608)
    return body + b"".join(slot(issuer, body, signed_as) for issuer in issuers)


ROOT = Issuer(HRK, public("HRK"), user_id("HRK"), key_id("HRK"))


@cache
def endorsement() -> bytes:
    return ca_certificate() + chip_certificate(version=2, signer_id=key_id("HSK"))


@cache
def pek() -> bytes:
    return chip_certificate("PEK", ("CEK", "OCA"))


def mask(data: bytes, anonce: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, cycle(anonce), strict=False))


def hmac_sm3(key: bytes, message: bytes) -> bytes:
    mac = HMAC(key, SM3())
    mac.update(message)
    return mac.finalize()


def fields(*, report_data=REPORT_DATA, measure=MEASURE, policy=NODBG, usage=PEK, algorithm=4, **_) -> bytes:
    body = b"\x01" * 32 + b"\x02" * 16 + b"\x03" * 16 + report_data + b"\x05" * 16 + measure
    return body + number(policy, 4) + number(usage, 4) + number(algorithm, 4)


def signer(anonce: bytes, form="sent", serial=b"LAB0001", reserved=b"\x09" * 32, certificate=None, **_) -> bytes:
    """Return PEK, serial number, reserved and MAC: as `sent`, `unmasked` by the guest, or also `erased`."""
    clear = (pek() if certificate is None else certificate) + serial.ljust(64, b"\0")
    sent = mask(clear, anonce)
    mac = hmac_sm3(b"\x05" * 16, sent + reserved)
    return (
        {"sent": sent, "unmasked": clear, "erased": clear}[form] + (bytes(32) if form == "erased" else reserved) + mac
    )


def report(*, anonce=ANONCE, key="PEK", pages=False, **changes) -> bytes:
    """Return a report of version 1."""
    body = mask(fields(**changes), anonce)
    data = body + anonce + signature_field(key, body[:180]) + signer(anonce, **changes)
    return data.ljust(4096, b"\0") if pages else data


def extended(*, build=2400, key="PEK", pages=False, **changes) -> bytes:
    """Return an extended report."""
    body = fields(**changes) + number(build, 4) + number(1, 2) + bytes(14)
    body += b"".join(bytes([0x10 + register]) * 32 for register in range(5)) + bytes(592) + b"\x0a" * 64
    data = body + signature_field(key, body) + signer(bytes(4), **changes)
    return data.ljust(4096, b"\0") if pages else data


def check(data: bytes | None = None, rules: CsvRules | None = None, *, endorsements=None, **options):
    endorsements = {"hsk_cek": endorsement()} if endorsements is None else endorsements
    hardware = Hardware(tee="csv", quote=report() if data is None else data, endorsements=endorsements)
    return appraise(Checklist(), hardware, rules or CsvRules(), **{"now": NOW, "root": ROOT, **options})
