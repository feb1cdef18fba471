"""Fuzz: sigstore bundles, trusted roots, statements and release manifests.

Run `python tests/fuzz/fuzz_attest_sigstore.py [libFuzzer options]` with atheris.
"""

import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from attest_sigstore_lab import NOW, REPOSITORY, SIGNED_AT, SigstoreLab, encode
from mitai.attest.refvalues.release import Measurements, Release, reference_values, sign_release, statement_of
from mitai.attest.refvalues.sigstore import GITHUB, SigstoreIdentity, verify_bundle
from mitai.attest.refvalues.statement import Statement
from mitai.attest.refvalues.timestamps import verify_timestamp
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.attest.refvalues.trusted_root import TrustedRoot
from mitai.errors import MitaiError
from mitai.identity import Identity

# The same keys in every process, so that kept inputs stay valid.
LAB = SigstoreLab(
    *(ec.derive_private_key(number, ec.SECP384R1()) for number in (3, 5)),
    *(ec.derive_private_key(number, ec.SECP256R1()) for number in (7, 11)),
    ec.derive_private_key(17, ec.SECP384R1()),
    ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)),
)
ROOT_TEXT = LAB.trusted_root()
ROOT = TrustedRoot.decode(ROOT_TEXT)
PUBLISHER = Identity.from_seed(bytes(32))
REGISTERS = {"mrtd": "ab" * 48, "rtmr0": "any", "rtmr1": "any", "rtmr2": "any", "rtmr3": "any"}
RELEASE = Release("serve", 1, NOW, (Measurements("tdx", REGISTERS),))
STATEMENT = statement_of(RELEASE)
BUNDLE = encode(LAB.bundle(STATEMENT, key=ec.derive_private_key(13, ec.SECP256R1())))
KEY = ReleaseTrust("serve", key=PUBLISHER.public.raw.hex())
WORKFLOW = ReleaseTrust(
    "serve", sigstore=SigstoreIdentity(issuer=GITHUB, repository=REPOSITORY), sigstore_root=ROOT_TEXT.decode()
)
BUNDLE_2 = encode(LAB.bundle2(STATEMENT, key=ec.derive_private_key(13, ec.SECP256R1())))
SEEDS = [BUNDLE, BUNDLE_2, ROOT_TEXT, STATEMENT, sign_release(RELEASE, PUBLISHER), LAB.timestamp(b"message")]


def one_input(data: bytes) -> None:
    """Nothing but an error of the tree may come out, and nothing but what was signed may be accepted."""
    with contextlib.suppress(MitaiError):
        assert verify_bundle(data, ROOT, now=NOW).payload == STATEMENT
    with contextlib.suppress(MitaiError):
        verify_bundle(BUNDLE, TrustedRoot.decode(data), now=NOW)
    with contextlib.suppress(MitaiError):
        assert verify_timestamp(data, b"message", ROOT) == SIGNED_AT
    with contextlib.suppress(MitaiError):
        Statement.decode(data)
    for trust in (KEY, WORKFLOW):
        with contextlib.suppress(MitaiError):
            assert reference_values(data, trust, now=NOW) == RELEASE.values()


if __name__ == "__main__":
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
