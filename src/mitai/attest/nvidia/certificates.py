"""What all chains here have in common: a key for signatures at their end."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509

from mitai.attest.x509 import P384, Certificate, Profile, verify_chain
from mitai.errors import AttestError


def verify_signing_chain(chain: tuple[Certificate, ...], what: str, now: datetime, profile: Profile = P384) -> None:
    """Check a chain (see `verify_chain`) and that its first certificate is for signatures, not for certificates."""
    verify_chain(chain, what, now, profile)
    try:
        usage = chain[0].parsed.extensions.get_extension_for_class(x509.KeyUsage).value
        signs = usage.digital_signature and not usage.key_cert_sign
    except x509.ExtensionNotFound:
        signs = False
    if not signs:
        raise AttestError(f"attest.{what}-chain-invalid", f"{chain[0].common_name!r} is no certificate for signatures")


def window(chain: tuple[Certificate, ...]) -> tuple[datetime, datetime]:
    """Return when all certificates of a chain are valid."""
    parsed = [certificate.parsed for certificate in chain]
    return max(each.not_valid_before_utc for each in parsed), min(each.not_valid_after_utc for each in parsed)
