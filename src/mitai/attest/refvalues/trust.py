"""Whose releases a verifier believes: the section `[[releases]]` of an appraisal policy.

Example:
    >>> ReleaseTrust(workload="mitai-serve", key="5f1c…", min_version=12)
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from mitai.attest.fields import POLICY_MALFORMED, check_hex
from mitai.attest.refvalues.sigstore import SigstoreIdentity
from mitai.attest.refvalues.trusted_root import TrustedRoot
from mitai.errors import ParseError
from mitai.identity import PublicKey


class ReleaseTrust(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may say what a workload measures: the holder of a key, or a sigstore identity; and from which version on."""

    workload: str
    key: str = ""  # Ed25519 public key, 32 bytes in hex
    sigstore: SigstoreIdentity | None = None
    sigstore_root: str = ""  # the text of sigstore's trusted_root.json
    min_version: int = 0  # releases below it are refused: raise it when an old one must not run again
    not_before: datetime | None = None  # releases signed before are refused

    def __post_init__(self) -> None:
        if bool(self.key) == bool(self.sigstore) or bool(self.sigstore) != bool(self.sigstore_root):
            raise ParseError(
                POLICY_MALFORMED, "trust in releases needs either a key, or a sigstore identity with sigstore_root"
            )
        if self.min_version < 0 or (self.not_before is not None and self.not_before.tzinfo is None):
            raise ParseError(POLICY_MALFORMED, "min_version is negative, or not_before has no time zone")
        if self.key:
            check_hex("the key of releases", self.key, 32)
            self.public_key()
        else:
            self.trusted_root()

    def public_key(self) -> PublicKey:
        """Return the key."""
        return PublicKey(bytes.fromhex(self.key))

    def trusted_root(self) -> TrustedRoot:
        """Return the sigstore root."""
        return TrustedRoot.decode(self.sigstore_root.encode())
