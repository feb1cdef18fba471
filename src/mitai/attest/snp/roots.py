"""AMD's root keys for SEV-SNP and the signing keys below them, as AMD's key distribution service publishes them.

- Source: https://kdsintf.amd.com/vcek/v1/PRODUCT/cert_chain and https://kdsintf.amd.com/vlek/v1/PRODUCT/cert_chain
- The roots (ARK) are trusted by the SHA-256 of their DER, given below. The signing keys (ASK for VCEKs, ASVK for VLEKs)
  are here for verifiers that got none with the evidence; they are verified like those that came with it.

Example:
    >>> Trust().product(chain[-1])
    'Genoa'
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from cryptography.x509.oid import SignatureAlgorithmOID

from mitai.attest.x509 import Certificate, Profile, parse_chain
from mitai.errors import AttestError

ARK_SHA256 = {
    "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd": "Milan",
    "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1": "Genoa",
    "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a": "Turin",
}
# RSASSA-PSS with 4096 bits above, a key on P-384 in the leaf (VCEK specification 57230, section 2).
AMD = Profile(frozenset({SignatureAlgorithmOID.RSASSA_PSS}), frozenset({"secp384r1"}), min_rsa_bits=4096)


@dataclass(frozen=True, slots=True)
class Trust:
    """Which roots are trusted, for which product each, and what certificates look like below them."""

    roots: Mapping[str, str] = field(default_factory=lambda: ARK_SHA256)
    profile: Profile = AMD

    def product(self, root: Certificate) -> str:
        """Return the product that a root stands for; refuse a root that is not trusted."""
        product = self.roots.get(root.fingerprint)
        if product is None:
            raise AttestError(
                "attest.snp-root-untrusted",
                f"the chain ends in {root.common_name!r}, which is not a root of AMD's for SEV-SNP",
            )
        return product


@cache
def published() -> Mapping[str, Certificate]:
    """Return AMD's own certificates by common name, such as `SEV-Genoa`, `SEV-VLEK-Genoa` and `ARK-Genoa`."""
    pem = resources.files(__package__).joinpath("amd.pem").read_bytes()
    return {certificate.common_name: certificate for certificate in parse_chain(pem, "attest.snp-chain-malformed")}
