"""NVIDIA's trust anchors.

- Device root: CN=NVIDIA Device Identity CA, O=NVIDIA; valid 2021-11-05 to 9999-12-31. The root of all devices.
- Manifest root: CN=NVIDIA CoRIM signing Root CA, O=NVIDIA, C=US; valid 2023-03-16 to 2053-03-08. Signs the chains of
  reference integrity manifests (RIMs). Both are published with NVIDIA's verifiers (github.com/NVIDIA/nvtrust).
- NRAS: CN=NVIDIA Attestation Service GPU Intermediate 002 (2023-12-14 to 2025-12-14), 003 and 004 (both 2025-12-08 to
  2029-12-08). The attestation service publishes its keys with chains up to such an intermediate, without a root.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

NVIDIA_DEVICE_ROOT = base64.b64decode(
    """
    MIICCzCCAZCgAwIBAgIQLTZwscoQBBHB/sDoKgZbVDAKBggqhkjOPQQDAzA1MSIwIAYDVQQDDBlOVklESUEgRGV2aWNlIElkZW50aXR5
    IENBMQ8wDQYDVQQKDAZOVklESUEwIBcNMjExMTA1MDAwMDAwWhgPOTk5OTEyMzEyMzU5NTlaMDUxIjAgBgNVBAMMGU5WSURJQSBEZXZp
    Y2UgSWRlbnRpdHkgQ0ExDzANBgNVBAoMBk5WSURJQTB2MBAGByqGSM49AgEGBSuBBAAiA2IABA5MFKM7+KViZljbQSlgfky/RRnEQScW
    9NDZF8SXgAW96r6u/Ve8ZggtcYpPi2BS4VFu6KfEIrhN6FcHG7WP05W+oM+hxj7nyA1r1jkB2Ry70YfThX3Ba1zOryOP+MJ9vaNjMGEw
    DwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAQYwHQYDVR0OBBYEFFeF/4PyY8xlfWi3Olv0jUrL+0lfMB8GA1UdIwQYMBaAFFeF
    /4PyY8xlfWi3Olv0jUrL+0lfMAoGCCqGSM49BAMDA2kAMGYCMQCPeFM3TASsKQVaT+8S0sO9u97PVGCpE9d/I42IT7k3UUOLSR/qvJyn
    VOD1vQKVXf0CMQC+EY55WYoDBvs2wPAH1Gw4LbcwUN8QCff8bFmV4ZxjCRr4WXTLFHBKjbfneGSBWwA=
    """
)
NVIDIA_RIM_ROOT = base64.b64decode(
    """
    MIICKTCCAbCgAwIBAgIQRdrjoA5QN73fh1N17LXicDAKBggqhkjOPQQDAzBFMQswCQYDVQQGEwJVUzEPMA0GA1UECgwGTlZJRElBMSUw
    IwYDVQQDDBxOVklESUEgQ29SSU0gc2lnbmluZyBSb290IENBMCAXDTIzMDMxNjE1MzczNFoYDzIwNTMwMzA4MTUzNzM0WjBFMQswCQYD
    VQQGEwJVUzEPMA0GA1UECgwGTlZJRElBMSUwIwYDVQQDDBxOVklESUEgQ29SSU0gc2lnbmluZyBSb290IENBMHYwEAYHKoZIzj0CAQYF
    K4EEACIDYgAEuECyi9vNM+Iw2lfUzyBldHAwaC1HF7TCgp12QcEyUTm3Tagxwr48d55+K2VIlWYIDk7NlAIQdcV/Ff7euGLI+Qauj93H
    sSI4WX298PpW54RTgz9tC+Q684caR/BXWEeZo2MwYTAdBgNVHQ4EFgQUpaXrOPK4ZDAk08DBskn594zeZjAwHwYDVR0jBBgwFoAUpaXr
    OPK4ZDAk08DBskn594zeZjAwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAQYwCgYIKoZIzj0EAwMDZwAwZAIwHGDyscDP6ihH
    qRvZlI3eqZ4YkvjE1duaN84tAHRVgxVMvNrp5Tnom3idHYGW/dskAjATvjIx6VzHm/4e2GiZAyZEIUBDOKPzp5ei/A0iUZpdvngenDwV
    8Qa/wGdiTmJ7Bp4=
    """
)
NRAS_INTERMEDIATES_SHA256 = (
    "dd7b6aa74fdbb74a38baa0413726e733d415de22e445a3f6efe2cebe2cfd8703",  # 002
    "c76ceed40610efa606864db52c167fbbd6c819de2c0ea5c01acb47ce9e5dc54d",  # 003
    "2df8907cf4d6c277b855d407ec178a649930a8e73f7294e8fce66e6ee27c5175",  # 004
)


@dataclass(frozen=True, slots=True)
class Roots:
    """SHA-256 fingerprints, in hex, of the two roots that a verifier trusts."""

    device: str
    rim: str


NVIDIA = Roots(hashlib.sha256(NVIDIA_DEVICE_ROOT).hexdigest(), hashlib.sha256(NVIDIA_RIM_ROOT).hexdigest())
