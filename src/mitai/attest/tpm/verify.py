"""A TPM's quote appraised step by step, and whose TPM it is.

Follows the TCG "TPM 2.0 Library Specification", part 1, section 23 (attestation), and "TPM 2.0 Keys for Device Identity
and Attestation", section 5 (what an attestation key is).

Invariants:

- A quote counts only under a key that the caller already trusts: certified by a pinned root, pinned itself, or, for
  cloud machines, vouched for by the hardware report (`mitai.attest.azure`).
- Register values count only when the digest that the TPM signed covers all of them, in order.
- Event logs explain registers; they never replace them.

Steps of `appraise`: evidence → attestation key → TPM signature → registers → event log → IMA.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509 import BasicConstraints, ExtendedKeyUsage, ExtensionNotFound, KeyUsage, ObjectIdentifier
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from mitai.attest.cache import NO_END, Verified, VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.eventlog.ima import IMA_PCR, boot_aggregates, check_ima
from mitai.attest.eventlog.rules import check_pcr_log
from mitai.attest.eventlog.tcg import HASHES
from mitai.attest.machine import Hardware, Machine
from mitai.attest.tpm.composite import TpmEvidence
from mitai.attest.tpm.roots import fingerprints
from mitai.attest.tpm.rules import TpmRules
from mitai.attest.tpm.structures import (
    MAX_RSA_BITS,
    MIN_RSA_BITS,
    Quote,
    check_attributes,
    parse_public,
    parse_quote,
    parse_signature,
    qualified_primary_name,
    verify_quote_signature,
)
from mitai.attest.x509 import Certificate, Profile, PublicKey, parse_chain, verify_chain
from mitai.errors import AttestError, ParseError

if TYPE_CHECKING:
    from mitai.attest.policy import Policy

# Attestation keys' certificates: RSA or NIST curves; their subject may be empty, with the TPM named in a critical SAN.
AK_PROFILE = Profile(
    signatures=frozenset(
        {
            SignatureAlgorithmOID.RSA_WITH_SHA256,
            SignatureAlgorithmOID.RSA_WITH_SHA384,
            SignatureAlgorithmOID.RSA_WITH_SHA512,
            SignatureAlgorithmOID.ECDSA_WITH_SHA256,
            SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        }
    ),
    curves=frozenset({"secp256r1", "secp384r1"}),
    min_rsa_bits=2048,
    critical=frozenset(
        {
            ExtensionOID.KEY_USAGE,
            ExtensionOID.BASIC_CONSTRAINTS,
            ExtensionOID.EXTENDED_KEY_USAGE,
            ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        }
    ),
)
AIK, EK = ObjectIdentifier("2.23.133.8.3"), ObjectIdentifier("2.23.133.8.1")  # extended key usages of the TCG's


@dataclass(frozen=True, slots=True)
class QuotedMachine:
    """What a verified quote says."""

    quote: Quote
    report_data: bytes
    measurements: dict[str, str]
    facts: dict[str, str]


def appraise(
    checks: Checklist, hardware: Hardware, policy: Policy, *, now: datetime, cache: VerifiedCache | None = None
) -> Machine:
    """Verify the quote of a TPM whose key the policy names, or a root that the policy names has certified.

    Endorsements: `ak_chain` (PEM: the key's certificate first, the root last).

    Raises:
        AttestError: With the code and the step of the first check that failed.
    """
    evidence, quote = open_evidence(checks, hardware, "hcl_report", "hardware_quote", "collateral")
    with checks.step("attestation key") as say:
        if hardware.endorsements.keys() - {"ak_chain"}:
            raise AttestError("attest.tpm-extra-input", "a TPM has no other endorsement than 'ak_chain'")
        chain_pem = hardware.endorsements.get("ak_chain", b"")
        if chain_pem and policy.tpm.roots:  # a policy that names keys alone has no use for the chain
            certificate, not_after = verify_ak_chain(chain_pem, policy.tpm.roots, now, cache)
            key, whose = certificate.key, f"certified, serial number {certificate.parsed.serial_number:x}"
            check_same_key(evidence, key)
            if AIK not in _extended_usages(certificate):
                raise AttestError(
                    "attest.tpm-certificate-role",
                    "the certificate does not say that the key signs only what its TPM made (extended usage AIK)",
                    hint="a public area can't say it in its stead, as nobody signed that: pin the key by its TPM name",
                )
        else:
            key, whose = _pinned_key(evidence, policy.tpm.aks)
            not_after = NO_END
        say(whose)
    quoted = appraise_quote(checks, evidence, quote, key, policy, event_log=hardware.event_log)
    return Machine(
        tee="tpm",
        title="TPM 2.0",
        memory="isolated",
        measurements=quoted.measurements,
        report_data=quoted.report_data,
        signed=quote.signed,
        facts={"attestation key": whose, **quoted.facts},
        not_after=not_after,
        checks=checks.passed,
    )


def open_evidence(checks: Checklist, hardware: Hardware, *unused: str) -> tuple[TpmEvidence, Quote]:
    """Parse a composite and its quote: the first step of every vTPM; refuse parts that this kind has no use for."""
    with checks.step("evidence") as say:
        evidence = TpmEvidence.decode(hardware.quote)
        for name in unused:
            if getattr(evidence, name, None) or getattr(hardware, name, None):
                raise AttestError("attest.tpm-extra-input", f"evidence of {hardware.tee[:32]!r} has no {name}")
        quote = parse_quote(evidence.quote)
        say(f"quote over {sum(len(numbers) for _, numbers in quote.selection)} registers")
    return evidence, quote


def appraise_quote(
    checks: Checklist, evidence: TpmEvidence, quote: Quote, key: PublicKey, policy: Policy, *, event_log: bytes
) -> QuotedMachine:
    """Check signature, registers and logs of a quote, under a key that the caller trusts."""
    rules, log_rules = policy.tpm, policy.event_log
    with checks.step("tpm signature") as say:
        verify_quote_signature(quote, parse_signature(evidence.signature), key)
        report_data = _report_data(evidence, quote)
        if quote.firmware_version < rules.min_firmware_version:
            raise AttestError("attest.tpm-firmware-too-low", f"the TPM's firmware is {quote.firmware_version:#x}")
        say(f"by the attestation key, over {len(quote.extra_data)} bytes of the caller's")
    with checks.step("registers") as say:
        banks = _check_registers(quote, evidence, rules)
        say(", ".join(f"{len(values)} of {HASHES[algorithm]}" for algorithm, values in banks.items()))
    algorithm, pcrs = next(iter(banks.items()))  # the bank that logs are replayed to
    facts = {
        "tpm firmware": f"{quote.firmware_version:#018x}",
        "tpm resets": f"{quote.reset_count}, restarts {quote.restart_count}",
    }
    with checks.step("event log") as say:
        shown = check_pcr_log(event_log, pcrs, algorithm, log_rules)
        facts |= shown
        say(
            f"replays, secure boot {shown['secure boot']}"
            if shown
            else "none sent; the registers themselves are compared"
        )
    if evidence.ima_log or log_rules.ima.demanded:
        with checks.step("ima") as say:
            if IMA_PCR not in pcrs or not evidence.ima_log:
                raise AttestError("attest.ima-missing", "the policy demands an IMA list and PCR 10, and one is missing")
            bank = HASHES[algorithm]
            files = check_ima(evidence.ima_log, pcrs[IMA_PCR], bank, log_rules.ima, boot_aggregates(pcrs))
            facts |= {"files measured": str(len(files))}
            say(f"{len(files)} files")
    prefixes = {name: "" if index == 0 else f"{HASHES[name]}." for index, name in enumerate(banks)}
    measurements = {
        f"{prefixes[name]}pcr{number}": value.hex()
        for name, values in banks.items()
        for number, value in values.items()
    }
    return QuotedMachine(quote, report_data, measurements, facts)


def _report_data(evidence: TpmEvidence, quote: Quote) -> bytes:
    """Return the caller's bytes: the extra data itself, or what it is the digest of."""
    if not evidence.report_data:
        return quote.extra_data
    digests = (hashlib.sha256(evidence.report_data).digest(), hashlib.sha384(evidence.report_data).digest())
    if not any(hmac.compare_digest(quote.extra_data, digest) for digest in digests):
        raise AttestError("attest.tpm-extra-data-mismatch", "the quote's extra data is no digest of the report data")
    return evidence.report_data


def _check_registers(quote: Quote, evidence: TpmEvidence, rules: TpmRules) -> dict[int, dict[int, bytes]]:
    """Return the quoted registers by bank, the best-known bank first."""
    values = iter(evidence.pcrs)
    banks: dict[int, dict[int, bytes]] = {}
    for algorithm, numbers in quote.selection:
        if HASHES.get(algorithm) not in rules.banks:
            raise AttestError(
                "attest.tpm-bank-refused",
                f"the quote is over registers of bank {algorithm:#06x}, which is not accepted",
            )
        banks[algorithm] = {number: next(values, b"") for number in numbers}
        size = hashlib.new(HASHES[algorithm]).digest_size
        if any(len(value) != size for value in banks[algorithm].values()):
            raise AttestError("attest.tpm-registers-incomplete", "there are not as many register values as are quoted")
    if next(values, None) is not None or not banks:
        raise AttestError(
            "attest.tpm-registers-incomplete", "there are more register values than are quoted, or none is"
        )
    digest = hashlib.new(HASHES[parse_signature(evidence.signature).hash_algorithm], b"".join(evidence.pcrs)).digest()
    if not hmac.compare_digest(digest, quote.pcr_digest):
        raise AttestError("attest.tpm-pcr-digest-mismatch", "the register values are not those that the TPM signed")
    for number in rules.pcrs:
        if not all(number in numbers for numbers in banks.values()):
            raise AttestError("attest.tpm-register-missing", f"the quote does not cover PCR {number}")
    order = sorted(banks, key=lambda algorithm: rules.banks.index(HASHES[algorithm]))
    return {algorithm: banks[algorithm] for algorithm in order}


def _pinned_key(evidence: TpmEvidence, pins: Collection[str]) -> tuple[PublicKey, str]:
    """Return the key in the evidence when the policy names it."""
    if evidence.ak_public:
        public = parse_public(evidence.ak_public)
        check_attributes(public)
        candidates, key = {f"name:{public.name.hex()}", _spki_pin(public.key)}, public.key
    elif evidence.ak_spki:
        key = _spki_key(evidence.ak_spki)
        candidates = {_spki_pin(key)}
    else:
        raise AttestError("attest.tpm-key-missing", "the evidence has neither an attestation key nor its certificate")
    found = candidates & set(pins)
    if not found:
        raise AttestError(
            "attest.tpm-key-untrusted",
            f"the policy names neither the attestation key nor a root that certified it ({min(candidates)})",
            hint="any program can make such a key: enrol the machine and add its key to the policy's tpm.aks",
        )
    return key, f"named by the policy ({min(found)[:24]}…)"


def _spki_pin(key: PublicKey) -> str:
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"spki:{hashlib.sha256(der).hexdigest()}"


def _spki_key(der: bytes) -> PublicKey:
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ParseError("attest.tpm-public-malformed", "the attestation key is malformed") from error
    if isinstance(key, rsa.RSAPublicKey) and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in {"secp256r1", "secp384r1", "secp521r1"}:
        return key
    raise ParseError("attest.tpm-public-malformed", "the attestation key is of no kind that TPMs sign with")


def verify_ak_chain(
    pem: bytes, roots: Collection[str], now: datetime, cache: VerifiedCache | None
) -> tuple[Certificate, datetime]:
    """Check an attestation key's certificate up to one of the roots that a policy names; return it and its end."""
    trusted = fingerprints(roots)

    def make() -> Verified[Certificate]:
        chain = parse_chain(pem, "attest.tpm-chain-invalid")
        if not 2 <= len(chain) <= 5:
            raise AttestError("attest.tpm-chain-invalid", f"the attestation key's chain has {len(chain)} certificates")
        if chain[-1].fingerprint not in trusted:
            raise AttestError(
                "attest.tpm-root-untrusted",
                f"the chain ends in the root {chain[-1].common_name!r}, which the policy does not trust",
            )
        verify_chain(chain, "tpm", now, AK_PROFILE)
        _check_role(chain[0])
        parsed = [certificate.parsed for certificate in chain]
        return Verified(
            chain[0],
            max(certificate.not_valid_before_utc for certificate in parsed),
            min(certificate.not_valid_after_utc for certificate in parsed),
        )

    verified = (
        cache.get("tpm chain", (pem, *(root.encode() for root in sorted(trusted))), now, make) if cache else make()
    )
    return verified.value, verified.not_after


def _check_role(leaf: Certificate) -> None:
    """Refuse a CA, and a key that is for encryption: an endorsement key is certified by the same roots."""
    extensions = leaf.parsed.extensions
    try:
        usage = extensions.get_extension_for_class(KeyUsage).value
        is_ca = extensions.get_extension_for_class(BasicConstraints).value.ca
    except ExtensionNotFound as error:
        raise AttestError(
            "attest.tpm-certificate-role", "the attestation key's certificate does not say its role"
        ) from error
    others = _extended_usages(leaf) - {AIK, EK}
    if is_ca or not usage.digital_signature or usage.key_encipherment or usage.key_cert_sign or others:
        raise AttestError("attest.tpm-certificate-role", "the certificate is not one of an attestation key")


def _extended_usages(leaf: Certificate) -> set[ObjectIdentifier]:
    try:
        return set(leaf.parsed.extensions.get_extension_for_class(ExtendedKeyUsage).value)
    except ExtensionNotFound:
        return set()


def check_same_key(evidence: TpmEvidence, key: PublicKey, primary_of: Quote | None = None) -> None:
    """Check a public area beside a key that is trusted already; it can only contradict, as nobody signed it.

    Args:
        evidence: With or without a public area.
        key: The trusted attestation key.
        primary_of: A cloud's quote: its signer must be this key as a primary key of the endorsement hierarchy.
    """
    if not evidence.ak_public:
        return
    public = parse_public(evidence.ak_public)
    check_attributes(public)
    if _spki_pin(public.key) != _spki_pin(key):
        raise AttestError("attest.tpm-key-mismatch", "the public area is not that of the attestation key")
    if primary_of is not None and qualified_primary_name(public) != primary_of.qualified_signer:
        raise AttestError("attest.tpm-name-mismatch", "the quote names another signer than the public area is of")


def prefixed(measurements: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Return another machine's measurements under a prefix."""
    return {f"{prefix}.{name}": value for name, value in measurements.items()}
