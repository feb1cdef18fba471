"""What a broker believes of workloads: its appraisal policy, and signed releases by publishers whom that trusts.

Follows `docs/spec/release-manifest.md`. The policy alone is in the broker's claims: it says whose releases count. Of
auditors' statements about machines the broker believes none: it tells owners' policies what they say (`residency`).

Invariants:

- A release is verified when the broker starts; one that has ended since accepts nothing any more.
- A workload's release is the newest whose measurements it has, all of them.

Example:
    >>> trusted = Trusted.load(policy, [Path("serve-12.json").read_bytes()], now)
    >>> trusted.release_of(appraisal, now)
    ReleaseFact(name='serve', version=12, publisher='key:5f1c…')
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from mitai.attest import Appraisal, Policy
from mitai.attest.refvalues.release import Release, trusted_release, verify_release
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.broker.policy.facts import ReleaseFact
from mitai.broker.residency import residency_facts
from mitai.errors import MitaiError


@dataclass(frozen=True)
class Trusted:
    """A policy, releases with whoever vouches for them, and a folder of auditors' statements about machines."""

    policy: Policy
    releases: tuple[tuple[Release, str], ...] = ()
    residency: Path | None = None

    @staticmethod
    def load(policy: Policy, envelopes: Sequence[bytes], now: datetime, residency: Path | None = None) -> Trusted:
        """Verify releases; raise `MitaiError` when the policy does not trust one of them."""
        return Trusted(policy, tuple(_vouched(envelope, policy, now) for envelope in envelopes), residency)

    def policy_at(self, now: datetime) -> Policy:
        """Return the policy with the measurements of all releases that have not ended."""
        values = [value for release, _ in self._valid(now) for value in release.values()]
        return msgspec.structs.replace(self.policy, workloads=(*self.policy.workloads, *values))

    def release_of(self, appraisal: Appraisal, now: datetime) -> ReleaseFact | None:
        """Return the release that an appraised workload is of, if it is of one."""
        found = [
            ReleaseFact(release.workload, release.version, publisher)
            for release, publisher in self._valid(now)
            for values in release.values()
            if (values.name, values.tee) == (appraisal.workload, appraisal.tee)
            and values.mismatch(appraisal.measurements) is None
        ]
        return max(found, key=lambda release: release.version, default=None)

    def residency_of(self, appraisal: Appraisal, now: datetime) -> tuple[str, ...]:
        """Return what auditors say of where an appraised workload's machine stands, as policies see it."""
        platform = appraisal.machine.platform
        return residency_facts(self.residency, platform, now) if self.residency and platform else ()

    def _valid(self, now: datetime) -> list[tuple[Release, str]]:
        return [entry for entry in self.releases if entry[0].not_after is None or now <= entry[0].not_after]


def _vouched(envelope: bytes, policy: Policy, now: datetime) -> tuple[Release, str]:
    release, _ = trusted_release(envelope, policy.releases, now=now)
    return release, next(_publisher(trust) for trust in policy.releases if _vouches(trust, envelope, now))


def _vouches(trust: ReleaseTrust, envelope: bytes, now: datetime) -> bool:
    try:
        verify_release(envelope, trust, now=now)
    except MitaiError:
        return False
    return True


def _publisher(trust: ReleaseTrust) -> str:
    if trust.sigstore is None:
        return f"key:{trust.key}"
    return f"sigstore:{trust.sigstore.issuer} {trust.sigstore.repository or trust.sigstore.subject}"
