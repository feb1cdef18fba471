"""EAT Attestation Results (EAR): a verdict as a claims-set that relying parties of other verifiers read too.

Follows draft-ietf-rats-ear (profile `tag:ietf.org,2026:rats/ear#03`). The earlier profile of Project Veraison, which
Trustee uses too, has the same claims under dotted names (`ear.status`) and one policy id; both are written and read.

Invariants:

- A status that claims more trust than its trustworthiness vector is refused, whoever signed it; so is a status of the
  whole that is not its parts'.
- Unknown claims are ignored, as the draft demands; known claims of a wrong type are refused.

Example:
    >>> result = AttestationResult.of(appraisal, policy_id="…", now=now, lifetime=timedelta(minutes=5))
    >>> AttestationResult.decode(result.encode()) == result
    True
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeVar

import msgspec

from mitai import __version__
from mitai.attest.machine import Machine
from mitai.attest.results import ar4si
from mitai.attest.results.ar4si import CATEGORIES, Tier
from mitai.errors import MitaiError, ParseError
from mitai.wire import parse_json

MAX_RESULT_BYTES: Final = 8 << 20
_CODE: Final = "attest.result-malformed"
_MAX_SUBMODS: Final = 64
T = TypeVar("T")


class Profile(NamedTuple):
    """How claims are named."""

    tag: str
    separator: str  # between "ear" and a claim's name
    many_policies: bool  # a list of policy ids, or one


IETF: Final = Profile("tag:ietf.org,2026:rats/ear#03", "_", many_policies=True)
VERAISON: Final = Profile("tag:github.com,2023:veraison/ear", ".", many_policies=False)
TRUSTEE: Final = Profile("tag:github.com,2024:confidential-containers/Trustee", ".", many_policies=False)
PROFILES: Final = {profile.tag: profile for profile in (IETF, VERAISON, TRUSTEE)}
PROFILE_NAMES: Final = {"ietf": IETF, "veraison": VERAISON, "trustee": TRUSTEE}
DEVELOPER: Final = "mitai"


@dataclass(frozen=True, slots=True)
class Submodule:
    """The verdict on one attester."""

    status: Tier
    vector: Mapping[str, int] = field(default_factory=dict)
    policy_ids: tuple[str, ...] = ()
    nonce: bytes = b""  # of the evidence
    evidence: Mapping[str, object] = field(default_factory=dict)  # what was seen, for people and policies
    problem: str = ""  # why it was refused

    @staticmethod
    def accepted(machine: Machine, *, policy_id: str, nonce: bytes = b"", workload: str | None = None) -> Submodule:
        """Return the verdict on a machine that a policy accepted; `workload` where its code is known."""
        vector = ar4si.vector(machine, workload_known=workload is not None)
        seen: dict[str, object] = {
            "tee": machine.tee,
            "simulated": machine.simulated,
            "memory": machine.memory,
            "measurements": dict(machine.measurements),
            "report_data": machine.report_data.hex(),
            "tcb_status": machine.tcb_status,
            "advisory_ids": list(machine.advisory_ids),
            "facts": dict(machine.facts),
            **({"workload": workload} if workload is not None else {}),
        }
        return Submodule(ar4si.worst(vector.values()), vector, (policy_id,), nonce, seen)

    @staticmethod
    def refused(error: MitaiError, *, policy_id: str, nonce: bytes = b"") -> Submodule:
        """Return the verdict on evidence that was refused."""
        problem = f"{error.code}: {error.message}"
        return Submodule(Tier.CONTRAINDICATED, ar4si.refusal_vector(error), (policy_id,), nonce, {}, problem)


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """An EAR claims-set."""

    issued_at: datetime
    submods: Mapping[str, Submodule]
    expires_at: datetime | None = None
    nonce: bytes = b""  # of whoever asked for the result
    developer: str = DEVELOPER
    build: str = f"mitai {__version__}"
    profile: Profile = IETF

    @staticmethod
    def of(
        submods: Mapping[str, Submodule],
        *,
        now: datetime,
        lifetime: timedelta,
        nonce: bytes = b"",
        profile: Profile = IETF,
    ) -> AttestationResult:
        """Return a result that is issued now, in whole seconds."""
        issued = now.replace(microsecond=0)
        return AttestationResult(issued, dict(submods), issued + lifetime, nonce, profile=profile)

    @property
    def status(self) -> Tier:
        """Return the least trusted status of all attesters; `none` if any says nothing."""
        statuses = [submod.status for submod in self.submods.values()]
        return max(statuses, key=ar4si.ORDER.index)

    def claims(self) -> dict[str, object]:
        """Return the claims-set as JSON values."""
        claims: dict[str, object] = {
            "eat_profile": self.profile.tag,
            "iat": int(self.issued_at.timestamp()),
            self._name("verifier", "id", dashes=True): {"developer": self.developer, "build": self.build},
            "submods": {name: self._submodule(submod) for name, submod in self.submods.items()},
        }
        if self.expires_at is not None:
            claims["exp"] = int(self.expires_at.timestamp())
        if self.profile is IETF:
            claims["ear_status"] = self.status.value
        if self.nonce:
            claims["eat_nonce"] = base64.urlsafe_b64encode(self.nonce).decode()
        return claims

    def encode(self) -> bytes:
        """Return the claims-set as JSON."""
        return msgspec.json.encode(self.claims())

    @staticmethod
    def decode(data: bytes) -> AttestationResult:
        """Parse a claims-set; raise `ParseError` on anything else or above 8 MiB."""
        claims = parse_json(
            data, dict[str, object], MAX_RESULT_BYTES, _CODE, "an attestation result is not a JSON object"
        )
        profile = PROFILES.get(_get(claims, "eat_profile", str))
        if profile is None:
            raise ParseError(
                "attest.result-profile-unknown", f"an attestation result of profile {claims['eat_profile']!r:.80}"
            )
        names = _Names(profile)
        verifier = _get(claims, names("verifier", "id", dashes=True), dict)
        expires = _time(claims, "exp") if "exp" in claims else None
        nonce = _bytes(_get(claims, "eat_nonce", str)) if "eat_nonce" in claims else b""
        result = AttestationResult(
            issued_at=_time(claims, "iat"),
            submods=_submodules(_get(claims, "submods", dict), names),
            expires_at=expires,
            nonce=nonce,
            developer=_get(verifier, "developer", str),
            build=_get(verifier, "build", str),
            profile=profile,
        )
        if claims.get("ear_status", result.status) != result.status:
            raise ParseError("attest.result-inconsistent", "the whole is not trusted as far as its parts")
        return result

    def _name(self, *words: str, dashes: bool = False) -> str:
        return _Names(self.profile)(*words, dashes=dashes)

    def _submodule(self, submod: Submodule) -> dict[str, object]:
        claims: dict[str, object] = {
            self._name("status"): submod.status.value,
            self._name("trustworthiness", "vector", dashes=True): dict(submod.vector),
        }
        if submod.policy_ids and self.profile.many_policies:
            claims["ear_appraisal_policy_ids"] = list(submod.policy_ids)
        elif submod.policy_ids:
            claims["ear.appraisal-policy-id"] = submod.policy_ids[0]
        if submod.nonce:
            claims["eat_nonce"] = base64.urlsafe_b64encode(submod.nonce).decode()
        if submod.evidence:
            claims[_veraison(self.profile, "annotated", "evidence")] = dict(submod.evidence)
        if submod.problem:
            claims[_veraison(self.profile, "policy", "claims")] = {"problem": submod.problem}
        return claims


class _Names:
    """Claim names of a profile: `ear_verifier_id`, or `ear.verifier-id`."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def __call__(self, *words: str, dashes: bool = False) -> str:
        dotted = self.profile.separator == "."
        return "ear" + self.profile.separator + ("-" if dotted and dashes else "_").join(words)


def _veraison(profile: Profile, *words: str) -> str:
    return f"ear.veraison.{'-'.join(words)}" if profile.separator == "." else f"ear_veraison_{'_'.join(words)}"


def _submodules(raw: Mapping[str, object], names: _Names) -> dict[str, Submodule]:
    if not 1 <= len(raw) <= _MAX_SUBMODS:
        raise ParseError(_CODE, f"an attestation result has {len(raw)} submodules, not 1 to {_MAX_SUBMODS}")
    return {name: submodule(_get(raw, name, dict), names.profile) for name in raw}


def submodule(claims: Mapping[str, object], profile: Profile) -> Submodule:
    """Parse the verdict on one attester; raise `ParseError` where it claims more trust than its vector."""
    names = _Names(profile)
    try:
        status = Tier(_get(claims, names("status"), str))
    except ValueError as error:
        raise ParseError(_CODE, "an attester's status is no trustworthiness tier") from error
    vector = _optional(claims, names("trustworthiness", "vector", dashes=True), dict, {})
    for category in vector:
        claim = _get(vector, category, int)
        if category not in CATEGORIES or not -128 <= claim <= 127:
            raise ParseError(_CODE, "a trustworthiness vector holds something that is no such claim")
    if not ar4si.at_most(status, ar4si.worst(vector.values())):
        raise ParseError("attest.result-inconsistent", f"status {status} claims more trust than its vector")
    if profile.many_policies:
        policies = tuple(_optional(claims, "ear_appraisal_policy_ids", list, []))
    else:
        policies = (_get(claims, "ear.appraisal-policy-id", str),) if "ear.appraisal-policy-id" in claims else ()
    if not all(isinstance(policy, str) for policy in policies):
        raise ParseError(_CODE, "a policy id is not text")
    evidence = _optional(claims, _veraison(profile, "annotated", "evidence"), dict, {})
    extra = _optional(claims, _veraison(profile, "policy", "claims"), dict, {})
    nonce = _bytes(_get(claims, "eat_nonce", str)) if "eat_nonce" in claims else b""
    return Submodule(status, vector, policies, nonce, evidence, str(extra.get("problem", "")))


def _get(claims: Mapping[str, object], name: str, kind: type[T]) -> T:
    """Return a claim whose type is exactly `kind` (a boolean is no integer)."""
    value = claims.get(name)
    if type(value) is not kind:
        raise ParseError(_CODE, f"the claim {name!r:.80} is missing, or not of the type that it should be")
    return value


def _optional(claims: Mapping[str, object], name: str, kind: type[T], default: T) -> T:
    return _get(claims, name, kind) if name in claims else default


def _time(claims: Mapping[str, object], name: str) -> datetime:
    try:
        return datetime.fromtimestamp(_get(claims, name, int), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ParseError(_CODE, f"the claim {name!r} is no time") from error


def _bytes(text: str) -> bytes:
    try:
        data = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ParseError(_CODE, "a nonce is not base64") from error
    if not 8 <= len(data) <= 64:
        raise ParseError(_CODE, f"a nonce has 8 to 64 bytes, not {len(data)}")
    return data
