"""Appraisal of Arm CCA tokens.

Follows draft-ffm-rats-cca-token, sections "Token Binding" and "CCA Token Verification". The platform's token is signed
with the platform's key (CPAK), a trust anchor of the policy: Arm has no root that signs all platforms. The platform's
token names the digest of the realm attestation key (RAK), and the RAK signs the realm's token. The steps are numbered
in `docs/spec/evidence-cca.md`.

Invariants:

- A key is trusted because the policy holds it, never because the token names it.
- The RAK is the one whose digest the platform signed, as the bytes of the claim.
- Firmware that no reference value describes is refused, unless the policy says otherwise.

Example:
    >>> rules = CcaRules(trust_anchors=anchors_from_tastore(tastore), platforms=references_from_rvstore(store).platform)
    >>> machine = appraise(Checklist(), Hardware(tee="cca", quote=token), rules, now=datetime.now(UTC))
    >>> machine.measurements["rim"]
"""

from __future__ import annotations

import hashlib
import hmac
from contextlib import suppress
from datetime import datetime

from mitai.attest.cache import BEGINNING, NO_END, Verified, VerifiedCache
from mitai.attest.cca.rules import LIFECYCLES, CcaRules, TrustAnchor
from mitai.attest.cca.token import Platform, Realm, Token, parse_token
from mitai.attest.checks import Checklist
from mitai.attest.cose import verify_sign1
from mitai.attest.machine import Hardware, Machine
from mitai.errors import AttestError

_HASHES = {"sha-256": hashlib.sha256, "sha-384": hashlib.sha384, "sha-512": hashlib.sha512}


def appraise(
    checks: Checklist,
    hardware: Hardware,
    rules: CcaRules,
    *,
    now: datetime,
    cache: VerifiedCache | None = None,
) -> Machine:
    """Verify a CCA token and appraise platform and realm.

    Args:
        checks: Where each step is noted.
        hardware: The token as `quote`; there is nothing else to send along.
        rules: What is accepted; its trust anchors are the only root of trust.
        now: Time of the check, with a time zone.
        cache: Remembers verified platform tokens.

    Raises:
        AttestError: With the code and the step of the first check that failed.
    """
    with checks.step("token") as say:
        if hardware.event_log or hardware.endorsements or hardware.collateral is not None:
            raise AttestError("attest.cca-extra-input", "a CCA token comes alone, without logs or endorsements")
        token = parse_token(hardware.quote)
        say(f"profiles {token.platform.profile} and {token.realm.profile or 'none'}")
    with checks.step("platform signature") as say:
        _verify_platform(token.platform, rules, now, cache or VerifiedCache())
        say(f"instance {token.platform.instance_id.hex()}")
    with checks.step("binding") as say:
        _check_binding(token)
        say(f"the platform names the realm attestation key by {token.realm.attestation_key_hash}")
    with checks.step("realm signature"):
        verify_sign1(
            token.realm.message,
            token.realm.attestation_key,
            "attest.cca-realm-signature-invalid",
            "the realm token is not signed with the realm attestation key",
        )
    with checks.step("platform") as say:
        lifecycle = _check_platform(token.platform, rules)
        say(f"{lifecycle}, {len(token.platform.components)} firmware components")
    with checks.step("realm"):
        if rules.realms and not any(reference.matches(token.realm) for reference in rules.realms):
            raise AttestError("attest.cca-realm-mismatch", "no reference value of the policy describes this realm")
    return Machine(
        tee="cca",
        title="Arm CCA",
        memory="encrypted" if lifecycle == "secured" else "visible",
        measurements=_measurements(token.platform, token.realm),
        report_data=token.realm.challenge,
        signed=token.signed,
        not_after=NO_END,  # CCA's keys have no window of validity
        checks=checks.passed,
        facts={
            "instance": token.platform.instance_id.hex(),
            "lifecycle": f"{token.platform.lifecycle:#06x} ({lifecycle})",
            "firmware": ", ".join(_component_names(token.platform)),
        },
        platform=f"arm-instance:{token.platform.instance_id.hex()}",
    )


def _verify_platform(platform: Platform, rules: CcaRules, now: datetime, cache: VerifiedCache) -> None:
    anchors = [anchor for anchor in rules.trust_anchors if anchor.belongs_to(platform)]
    if not anchors:
        raise AttestError(
            "attest.cca-trust-anchor-missing",
            f"the policy has no trust anchor for instance {platform.instance_id.hex()}",
            hint="add the platform's public attestation key to [[cca.trust_anchors]]",
        )

    def verify() -> Verified[None]:
        *others, last = anchors
        for anchor in others:
            with suppress(AttestError):
                return _check_platform_signature(platform, anchor)
        return _check_platform_signature(platform, last)

    signed = (platform.message.signed, platform.message.signature, repr(anchors).encode())
    cache.get("cca platform", signed, now, verify)


def _check_platform_signature(platform: Platform, anchor: TrustAnchor) -> Verified[None]:
    verify_sign1(
        platform.message,
        anchor.key,
        "attest.cca-platform-signature-invalid",
        "the platform token is not signed with the platform's key in the policy",
    )
    return Verified(None, BEGINNING, NO_END)


def _check_binding(token: Token) -> None:
    digest = _HASHES.get(token.realm.attestation_key_hash)
    if digest is None:
        raise AttestError(
            "attest.cca-hash-unsupported", f"the realm names hash {token.realm.attestation_key_hash[:32]!r} for its key"
        )
    if not hmac.compare_digest(digest(token.realm.attestation_key_claim).digest(), token.platform.challenge):
        raise AttestError(
            "attest.cca-binding-mismatch",
            "the platform token was made for another realm attestation key",
            hint="the two tokens do not belong together",
        )


def _check_platform(platform: Platform, rules: CcaRules) -> str:
    lifecycle = LIFECYCLES.get(platform.lifecycle >> 8, "invalid")
    if lifecycle not in rules.lifecycles:
        raise AttestError("attest.cca-lifecycle-refused", f"the platform's lifecycle is {lifecycle!r}")
    if not rules.allow_any_platform and not any(reference.matches(platform) for reference in rules.platforms):
        raise AttestError(
            "attest.cca-platform-mismatch",
            "no reference value of the policy describes this platform's firmware and configuration",
            hint="add it to [[cca.platforms]], or set allow_any_platform where firmware does not matter",
        )
    return lifecycle


def _component_names(platform: Platform) -> list[str]:
    return [f"{part.component_type} {part.version}".strip() or "unnamed" for part in platform.components]


def _measurements(platform: Platform, realm: Realm) -> dict[str, str]:
    registers = {"rim": realm.initial_measurement}
    registers |= {f"rem{number}": value for number, value in enumerate(realm.extensible_measurements)}
    registers |= {
        "rpv": realm.personalization_value,
        "implementation_id": platform.implementation_id,
        "platform_configuration": platform.configuration,
    }
    return {name: value.hex() for name, value in registers.items()}
