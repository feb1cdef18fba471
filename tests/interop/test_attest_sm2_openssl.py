"""OpenSSL makes SM2 keys and signatures, we verify them; and it verifies those that our tests make."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from attest_csv_lab import public, sign
from mitai.attest.csv import sm2

# SubjectPublicKeyInfo of a key on SM2's curve (1.2.156.10197.1.301), up to the point
SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d034200")


def openssl(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(["openssl", *arguments], cwd=cwd, capture_output=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("openssl")
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command here")
    made = openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:SM2", "-out", "key.pem", cwd=folder)
    if made.returncode:
        pytest.skip("this openssl has no SM2")
    return folder


@pytest.mark.parametrize("user_id", [b"HYGON-SSD-PEK", b"1234567812345678"])
@pytest.mark.parametrize("size", [1, 180, 1044])
def test_signatures_of_openssl(folder, user_id, size):
    spki = openssl("pkey", "-in", "key.pem", "-pubout", "-outform", "DER", cwd=folder).stdout
    assert spki.startswith(SPKI + b"\x04")
    key = sm2.PublicKey.from_coordinates(*(int.from_bytes(part, "big") for part in (spki[-64:-32], spki[-32:])))
    message = bytes(size)
    (folder / "message").write_bytes(message)
    options = ("-rawin", "-in", "message", "-digest", "sm3", "-pkeyopt", f"distid:{user_id.decode()}")
    signature = openssl("pkeyutl", "-sign", "-inkey", "key.pem", *options, cwd=folder).stdout
    r, s = decode_dss_signature(signature)
    assert key.signed(user_id, message, r, s)
    assert not key.signed(user_id, message + b"\0", r, s)
    assert not key.signed(user_id + b"x", message, r, s)


def test_signatures_of_our_tests(folder):
    key, message = public("HSK"), b"signed by the tests' secure processor"
    point = b"\x04" + key.x.to_bytes(32, "big") + key.y.to_bytes(32, "big")
    (folder / "key.der").write_bytes(SPKI + point)
    (folder / "message").write_bytes(message)
    options = ("-rawin", "-in", "message", "-digest", "sm3", "-pkeyopt", "distid:LAB", "-sigfile", "signature")
    check = ("pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "key.der", *options)
    r, s = sign("HSK", b"LAB", message)
    (folder / "signature").write_bytes(encode_dss_signature(r, s))
    assert openssl(*check, cwd=folder).returncode == 0
    (folder / "signature").write_bytes(encode_dss_signature(r, s ^ 1))
    assert openssl(*check, cwd=folder).returncode != 0
