"""The public test suite of sigstore clients (github.com/sigstore/sigstore-conformance), where a checkout is at hand.

Set `SIGSTORE_CONFORMANCE` to it. A bundle's folder says by its name whether it must be refused. Bundles of bare
artifacts are not covered by our verifier as such; their logs, timestamps and certificates are.
"""

from __future__ import annotations

import base64
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from mitai.attest.refvalues.fulcio import verify_certificate, verify_timestamps
from mitai.attest.refvalues.rekor import Entry, check_logs, verify_entry
from mitai.attest.refvalues.sigstore import CLOCK_SKEW, verify_bundle
from mitai.attest.refvalues.timestamps import verify_timestamp
from mitai.attest.refvalues.trusted_root import TrustedRoot
from mitai.attest.x509 import parse_der
from mitai.errors import AttestError, ParseError

FOLDER = Path(os.environ.get("SIGSTORE_CONFORMANCE", "")) / "test" / "assets" / "bundle-verify"
CASES = sorted(path.parent for path in FOLDER.glob("*/bundle.sigstore.json")) if FOLDER.is_dir() else []
# Sigstore's production root, as the shared vectors have it, for cases without one of their own.
VECTORS = Path(os.environ.get("MITAI_VECTORS") or Path(__file__).parents[3] / "shared" / "vectors") / "sigstore"
_OLDER = {"intoto-with-custom-trust-root"}  # version 0.1
_ARTIFACT = ("message-digest", "wrong-hashedrekord")  # wrong in what we don't read: the artifact's own digest

pytestmark = pytest.mark.skipif(not CASES, reason="no checkout of sigstore-conformance: set SIGSTORE_CONFORMANCE")


def root_of(case: Path) -> TrustedRoot:
    own = case / "trusted_root.json"
    if own.exists():
        return TrustedRoot.decode(own.read_bytes())
    (given,) = VECTORS.glob("*-sigstore-001-*/input.json")
    return TrustedRoot.decode(base64.b64decode(json.loads(given.read_text())["trust_root_b64"]))


def verify_parts(fields: dict, root: TrustedRoot) -> None:
    """What a bundle of a bare artifact has in common with one of an envelope."""
    material, now = fields["verificationMaterial"], datetime.now(UTC)
    signature = base64.b64decode(fields["messageSignature"]["signature"], validate=True)
    leaf = parse_der(base64.b64decode(material["certificate"]["rawBytes"]), "attest.sigstore-bundle-malformed")
    entries = [msgspec.convert(entry, Entry) for entry in material["tlogEntries"]]
    times = [moment for entry in entries if (moment := verify_entry(entry, root)) is not None]
    tokens = material.get("timestampVerificationData", {}).get("rfc3161Timestamps", ())
    times += [verify_timestamp(base64.b64decode(token["signedTimestamp"]), signature, root) for token in tokens]
    if not entries or not times or max(times) > now + CLOCK_SKEW:
        raise AttestError("attest.sigstore-time-missing", "no entry or no time")
    for moment in times:
        check_logs(entries, root, moment)
        issuer = verify_certificate(leaf, root, moment)
    verify_timestamps(leaf, issuer, root, 1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bundle(case):
    data = (case / "bundle.sigstore.json").read_bytes()
    try:
        fields = json.loads(data)
    except ValueError:
        fields = {}
    material = fields.get("verificationMaterial", {})
    whole = "dsseEnvelope" in fields or not material
    if not whole and "certificate" not in material:
        pytest.skip("an older version, or a bare key")
    if case.name.startswith(_ARTIFACT):
        pytest.skip("the artifact itself is wrong")

    def verify() -> None:
        root = root_of(case)
        verify_bundle(data, root, now=datetime.now(UTC)) if whole else verify_parts(fields, root)

    if case.name.endswith("_fail") or case.name in _OLDER:
        with pytest.raises((AttestError, ParseError, ValueError)):
            verify()
    else:
        verify()
