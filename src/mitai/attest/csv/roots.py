"""Hygon's root key (HRK), the trust anchor of every genuine CSV report.

- Source: https://cert.hygon.cn/hrk, the certificate that Hygon's tools and Confidential Containers' Trustee carry
- Key id: 3ae86a9701355cce333a589de21583d7; user id "HYGON-SSD-HRK"
- SHA-256 of the certificate of 832 bytes: 296efa97580464aca0ab5eefe42199ee05862182508d1629f29cf4dc175b10cd
"""

from mitai.attest.csv.certificates import HRK, Issuer
from mitai.attest.csv.sm2 import PublicKey

HYGON_ROOT = Issuer(
    usage=HRK,
    key=PublicKey.from_coordinates(
        0xBE62E14D62A4F14CF3D702DB09563A75C80935E785CD1F502AF5F21D92C2F62D,
        0x3BAB123A57BB7015584F8B97164E95384A640C10B9BE884738744D68B41EB946,
    ),
    user_id=b"HYGON-SSD-HRK",
    key_id=bytes.fromhex("3ae86a9701355cce333a589de21583d7"),
)
