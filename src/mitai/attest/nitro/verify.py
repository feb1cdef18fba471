"""Appraisal of Nitro attestation documents.

Follows "Verifying the root of trust" of the AWS Nitro Enclaves user guide and "Attestation process" of the NSM API
documentation. The steps are numbered in `docs/spec/evidence-nitro.md`.

Invariants:

- The first certificate of the bundle is AWS's root, byte for byte; the chain runs root → … → leaf → document.
- What is remembered between calls are chains, of all certificates and of the CAs alone, as every enclave has a leaf of
  its own; the document's signature is verified every time.
- The document's certificate may sign nothing but documents: it is no CA.

Example:
    >>> machine = appraise(Checklist(), Hardware(tee="nitro", quote=document), NitroRules(), now=datetime.now(UTC))
    >>> machine.measurements["pcr0"]
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from cryptography import x509 as pyca

from mitai.attest.cache import Verified, VerifiedCache
from mitai.attest.checks import Checklist
from mitai.attest.cose import verify_sign1
from mitai.attest.machine import Hardware, Machine, Memory
from mitai.attest.nitro.document import MALFORMED, Document, parse_document
from mitai.attest.nitro.roots import AWS_NITRO_ROOT_G1_SHA256
from mitai.attest.nitro.rules import NitroRules
from mitai.attest.x509 import P384, Certificate, parse_der, verify_chain
from mitai.errors import AttestError

Chain = tuple[Certificate, ...]
_DEBUG_PCRS = (0, 1, 2)
_MEMORY: Mapping[str, Memory] = {"enclave": "encrypted", "nitrotpm": "isolated"}
_TITLES = {"enclave": "AWS Nitro Enclave", "nitrotpm": "AWS NitroTPM"}


def appraise(
    checks: Checklist,
    hardware: Hardware,
    rules: NitroRules,
    *,
    now: datetime,
    cache: VerifiedCache | None = None,
    roots: frozenset[str] = frozenset({AWS_NITRO_ROOT_G1_SHA256}),
) -> Machine:
    """Verify an attestation document and appraise the enclave.

    Args:
        checks: Where each step is noted.
        hardware: The document as `quote`; there is nothing else to send along.
        rules: What is accepted.
        now: Time of the check, with a time zone.
        cache: Remembers verified chains.
        roots: SHA-256 of the roots that are trusted, in hex.

    Raises:
        AttestError: With the code and the step of the first check that failed.
    """
    with checks.step("document") as say:
        if hardware.event_log or hardware.endorsements or hardware.collateral is not None:
            raise AttestError("attest.nitro-extra-input", "a Nitro document comes alone, without logs or endorsements")
        document = parse_document(hardware.quote)
        if document.source != rules.source:
            raise AttestError(
                "attest.nitro-source-refused",
                f"the document is of kind {document.source!r}, the policy demands {rules.source!r}",
            )
        say(f"{document.source}, module {document.module_id}")
    with checks.step("chain") as say:
        cache = cache or VerifiedCache()
        chain = cache.get(
            _kind("nitro chain", roots),
            (document.certificate, *document.ca_bundle),
            now,
            lambda: _verify_leaf(document, now, cache, roots),
        )
        leaf, root = chain.value[0], chain.value[-1]
        say(f"{leaf.common_name} under {root.common_name}")
    with checks.step("signature") as say:
        verify_sign1(
            document.message,
            leaf.ec_key,
            "attest.nitro-signature-invalid",
            "the document is not signed with the key of its certificate",
        )
        say("ES384")
    with checks.step("time") as say:
        _check_time(document, rules, now)
        say(f"made at {document.timestamp:%F %T} UTC")
    with checks.step("registers") as say:
        _check_registers(document, rules)
        say("PCRs as demanded" if rules.pcrs else "not in debug mode" if not rules.allow_debug else "debug allowed")
    return Machine(
        tee="nitro",
        title=_TITLES[document.source],
        memory="visible" if _debugged(document) else _MEMORY[document.source],
        measurements={f"pcr{number}": value.hex() for number, value in sorted(document.pcrs.items())},
        report_data=document.user_data or b"",
        signed=document.message.signed,
        not_after=chain.not_after,
        checks=checks.passed,
        facts=_facts(document),
    )


def _verify_leaf(document: Document, now: datetime, cache: VerifiedCache, roots: frozenset[str]) -> Verified[Chain]:
    """Return the document's certificate and its issuers, root last."""
    issuers = cache.get(
        _kind("nitro issuers", roots),
        document.ca_bundle,
        now,
        lambda: _verify_issuers(document.ca_bundle, now, roots),
    )
    leaf = parse_der(document.certificate, MALFORMED)
    verify_chain((leaf, issuers.value[0]), "nitro", now, P384)
    try:
        is_ca = leaf.parsed.extensions.get_extension_for_class(pyca.BasicConstraints).value.ca
        signs = leaf.parsed.extensions.get_extension_for_class(pyca.KeyUsage).value.digital_signature
    except pyca.ExtensionNotFound:
        is_ca, signs = True, False
    if is_ca or not signs:
        raise AttestError("attest.nitro-leaf-invalid", "the document's certificate is not one for signing documents")
    return _verified((leaf, *issuers.value))


def _verify_issuers(bundle: tuple[bytes, ...], now: datetime, roots: frozenset[str]) -> Verified[Chain]:
    chain = tuple(parse_der(der, MALFORMED) for der in reversed(bundle))
    if chain[-1].fingerprint not in roots:
        raise AttestError(
            "attest.nitro-root-untrusted",
            "the document's CA bundle does not begin with AWS's root of Nitro Enclaves",
        )
    verify_chain(chain, "nitro", now, P384, below=1)
    return _verified(chain)


def _verified(chain: Chain) -> Verified[Chain]:
    return Verified(
        chain,
        max(certificate.parsed.not_valid_before_utc for certificate in chain),
        min(certificate.parsed.not_valid_after_utc for certificate in chain),
    )


def _kind(name: str, roots: frozenset[str]) -> str:
    """Return the kind of a cache entry: what is verified, under which roots."""
    return " ".join([name, *sorted(roots)])


def _check_time(document: Document, rules: NitroRules, now: datetime) -> None:
    age = now - document.timestamp
    if age > timedelta(seconds=rules.max_age_s):
        raise AttestError(
            "attest.nitro-too-old", f"the document was made {age} ago, above the policy's {rules.max_age_s} s"
        )
    if -age > timedelta(seconds=rules.max_clock_skew_s):
        raise AttestError("attest.nitro-from-the-future", f"the document's time is {-age} ahead of ours")


def _debugged(document: Document) -> bool:
    return not all(any(document.pcrs.get(number, b"\1")) for number in _DEBUG_PCRS)


def _check_registers(document: Document, rules: NitroRules) -> None:
    if rules.module_ids and not document.module_id.startswith(rules.module_ids):
        raise AttestError("attest.nitro-module-not-allowed", "the enclave's module is not on the policy's list")
    if not rules.allow_debug and _debugged(document):
        raise AttestError("attest.nitro-debug", "PCR0 to PCR2 are zero: the enclave runs in debug mode")
    for register in rules.required_pcrs:
        value = document.pcrs.get(int(register[3:]))
        if value is None or not (any(value) or rules.allow_debug):
            raise AttestError("attest.nitro-pcr-missing", f"{register} is not in the document, or zero")
    for register, accepted in rules.pcrs.items():
        value = document.pcrs.get(int(register[3:]), b"")
        if value.hex() not in accepted:
            raise AttestError(
                "attest.nitro-pcr-mismatch", f"{register} is {value.hex() or 'missing'}, not a value of the policy"
            )


def _facts(document: Document) -> dict[str, str]:
    facts = {"module": document.module_id, "made at": f"{document.timestamp:%F %T} UTC"}
    sent = {"nonce": document.nonce, "public key": document.public_key}
    return facts | {name: value.hex() for name, value in sent.items() if value is not None}
