"""Roots of clouds that certify the attestation keys of their vTPMs, by the name that a policy gives them.

- `azure-vtpm`: CN=Azure Virtual TPM Root Certificate Authority 2023, 2023-06-01 to 2048-06-01;
  http://www.microsoft.com/pkiops/certs/Azure%20Virtual%20TPM%20Root%20Certificate%20Authority%202023.crt
- `gce-vtpm`: CN=EK/AK CA Root (Google Cloud), 2022-07-08 to 2122-07-08;
  http://privateca-content-62d71773-0000-21da-852e-f4f5e80d7778.storage.googleapis.com/032bf9d39db4fa06aade/ca.crt
- `gce-vtpm-2018`: CN=tpm_ek_v1_cloud_host_root… (Google), 2018-04-06 to 2118-04-06, of older machines;
  https://pki.goog/cloud_integrity/tpm_ek_root_1.crt
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mitai.attest.fields import check_hex

KNOWN_ROOTS: Mapping[str, str] = {
    "azure-vtpm": "e6c596b17f8ffefba5c300f714cfb1260c6028704ecf7becc4ab5018efb00e95",
    "gce-vtpm": "594759594b9b61524f6c8ef668f7177f7b9066bc0674f2f49fe9e052be78beb2",
    "gce-vtpm-2018": "9bd5285f8fb18502a7947e621ffd470266f49fcd3b73e19a190f690ad32a7caf",
}


def check_root(section: str, root: str) -> None:
    """Raise `ParseError` unless a root in a policy is a known name, or `sha256:` and a fingerprint."""
    if root not in KNOWN_ROOTS:
        check_hex(f"a root in [{section}]", root.removeprefix("sha256:"), 32)


def fingerprints(roots: Collection[str]) -> frozenset[str]:
    """Return SHA-256 of the roots' DER, in hex."""
    return frozenset(KNOWN_ROOTS.get(root, root.removeprefix("sha256:")) for root in roots)
