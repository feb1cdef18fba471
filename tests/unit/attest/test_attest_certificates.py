"""PEM, certificates and the SGX extension: strict forms only."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from attest_lab import NOW, flip
from mitai.attest.conformance import tdx as conformance
from mitai.attest.dcap.collateral import verify_collateral
from mitai.attest.dcap.pck import parse_sgx_extension, pck_tcb
from mitai.attest.dcap.quote import parse_quote
from mitai.attest.dcap.verify import find_pck_chain, verify_pck_chain
from mitai.attest.sim import intel
from mitai.attest.x509 import (
    MAX_PEM_BYTES,
    Certificate,
    parse_chain,
    parse_der,
    verify_chain,
    verify_crl,
    verify_signature,
)
from mitai.errors import MitaiError

CODE = "attest.pck-chain-invalid"


@pytest.fixture(scope="module")
def pem(lab) -> bytes:
    return lab.authority.chain("pck", "ca", "root").encode()


def test_chain(pem):
    names = [certificate.common_name for certificate in parse_chain(pem, CODE)]
    assert [name.removeprefix("Mitai Simulation SGX ") for name in names] == [
        "PCK Certificate",
        "PCK Platform CA",
        "Root CA",
    ]
    assert parse_chain(pem + b"\0", CODE) == parse_chain(pem, CODE)
    assert parse_chain(pem.rstrip(b"\n"), CODE) == parse_chain(pem, CODE)
    assert parse_chain(pem.replace(b"\n", b"\r\n"), CODE) == parse_chain(pem, CODE)
    assert parse_chain(b"", CODE) == ()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pem: b"comment\n" + pem,
        lambda pem: pem + b"comment",
        lambda pem: pem + b"\0\0",
        lambda pem: pem.replace(b"-----\n-----", b"-----\n\n-----"),
        lambda pem: pem.replace(b"BEGIN CERTIFICATE", b"BEGIN TRUSTED CERTIFICATE"),
        lambda pem: pem.replace(b"MII", b"M I", 1),
        lambda pem: pem.replace(b"MII", b"MI=", 1),
        lambda pem: pem.replace(b"MII", b"NII", 1),
        lambda pem: pem[:200],
        lambda pem: b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n",
        lambda pem: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        lambda pem: pem * (MAX_PEM_BYTES // len(pem) + 1),
    ],
)
def test_other_text(pem, refused, spoil):
    with refused(CODE):
        parse_chain(spoil(pem), CODE)


def test_base64_that_is_not_canonical(refused):
    der = bytes(3)
    while len(der) % 3 == 0:  # a signature's length varies
        der = intel.Authority.generate(NOW).root_certificate
    text = base64.b64encode(der)
    where = len(text.rstrip(b"=")) - 1
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = alphabet[alphabet.index(text[where]) + 1]  # the same bytes: only bits behind the end differ
    changed = text[:where] + bytes([other]) + text[where + 1 :]
    assert base64.b64decode(changed) == der
    lines = b"".join(changed[start : start + 64] + b"\n" for start in range(0, len(changed), 64))
    with refused(CODE):
        parse_chain(b"-----BEGIN CERTIFICATE-----\n" + lines + b"-----END CERTIFICATE-----\n", CODE)


def test_name_that_is_missing_or_double(lab):
    x509, name = intel.x509, intel.NameOID.COMMON_NAME
    key = lab.authority.keys["pck"]
    for names in ([], ["a", "b"]):
        subject = x509.Name([x509.NameAttribute(name, text) for text in names])
        start = lab.authority.certificates["pck"].not_valid_before_utc
        forged = intel._certificate(subject, key, subject, key, start=start, depth=None).sign(key, intel.SHA256())
        assert Certificate(forged.public_bytes(intel.Encoding.DER), forged).common_name == ""


def test_years_that_are_none(refused):
    """The library reads times late: the year 0, and an end before the beginning."""
    key = intel.ec.generate_private_key(intel.ec.SECP256R1())
    name = intel.x509.Name([])
    start, end = datetime(2051, 1, 1, tzinfo=UTC), datetime(2062, 1, 1, tzinfo=UTC)
    good = intel.x509.CertificateBuilder(name, name, key.public_key(), 7, start, end).sign(key, intel.SHA256())
    der = good.public_bytes(intel.Encoding.DER)
    assert parse_der(der, CODE).der == der
    for old, new in ((b"20510101", b"00000101"), (b"20620101", b"00000101"), (b"20620101", b"20500101")):
        with refused(CODE):
            parse_der(der.replace(old, new), CODE)


@pytest.mark.filterwarnings("ignore:Parsed a serial number:cryptography.utils.CryptographyDeprecationWarning")
def test_serial_number_below_zero(pem, refused):
    """The library can't look for it on a revocation list."""
    leaf = parse_chain(pem, CODE)[0].der
    at = leaf.index(b"\xa0\x03\x02\x01\x02\x02") + 7  # behind the version: tag and length of the serial number
    with refused(CODE):
        parse_der(flip(leaf, at, 0x80), CODE)


def test_name_of_another_type(pem, refused):
    """A common name as BIT STRING is parsed late, and then is another error of the library's."""
    leaf, issuer, root = parse_chain(pem, CODE)
    forged = parse_der(leaf.der.replace(b"\x06\x03\x55\x04\x03\x0c", b"\x06\x03\x55\x04\x03\x03"), CODE)
    assert forged.common_name == ""
    with refused(CODE):
        verify_chain((forged, issuer, root), "pck", NOW)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Mitai Simulation SGX PCK Certificate", b"\xff" * 36),  # no UTF-8
        (bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030108")),  # an unknown curve
        (bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("2a8648ce3d0209")),  # an unknown kind of key
        (
            bytes.fromhex("0603551d0f0101ff0404030206c0"),
            bytes.fromhex("0603551d0f0101ff0404050206c0"),
        ),  # malformed usage
        (bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d040309")),  # an unknown signature algorithm
    ],
)
def test_certificates_that_only_look_like_one(lab, old, new):
    """Nothing but an error of the tree, whatever a certificate holds."""
    chain = parse_chain(lab.authority.chain("pck", "ca", "root").encode(), CODE)
    assert old in chain[0].der
    der = chain[0].der.replace(old, new)
    lines = "".join(conformance._pem(part) for part in (der, chain[1].der, chain[2].der))
    with pytest.raises(MitaiError) as refusal:
        verify_chain(parse_chain(lines.encode(), CODE), "pck", NOW)
    assert refusal.value.code in {CODE, "attest.certificate-key-unsupported"}


def test_collateral_of_one_root_does_not_serve_another(lab, other, refused):
    verified = verify_collateral(lab.platform.collateral(), lab.platform.sim_root.removeprefix("sha256:"), NOW)
    chain = find_pck_chain(parse_quote(other.evidence().quote), None)
    with refused("attest.pck-chain-invalid"):
        verify_pck_chain(chain, verified, NOW)


def test_revocation_list_needs_an_end_and_no_unknown_rules(lab, refused):
    issuer = parse_chain(lab.authority.chain("root").encode(), CODE)[0]
    start = lab.authority.certificates["root"].not_valid_before_utc
    name, key = lab.authority.certificates["root"].subject, lab.authority.keys["root"]
    builder = intel.x509.CertificateRevocationListBuilder(name, start, start + intel._LIFE)
    critical = intel.x509.UnrecognizedExtension(intel.x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    forged = builder.add_extension(critical, critical=True).sign(key, intel.SHA256())
    with refused("attest.root-crl-malformed"):
        verify_crl(forged.public_bytes(intel.Encoding.DER), issuer, "root-crl")


def test_sgx_extension(lab, refused):
    tcb = parse_sgx_extension(intel.sgx_extension())
    assert tcb.fmspc == intel.FMSPC
    assert tcb.component_svns == intel.COMPONENT_SVNS
    assert tcb.pce_svn == intel.PCE_SVN
    leaf = parse_chain(lab.authority.chain("pck").encode(), CODE)[0]
    assert replace(pck_tcb(leaf), ppid=tcb.ppid) == tcb
    assert pck_tcb(leaf).ppid != tcb.ppid == intel.PPID  # each platform has its own
    identifier = bytes.fromhex("551d0e")  # subjectKeyIdentifier; now of extensions of one kind there are two
    unreadable = parse_der(leaf.der.replace(identifier, bytes.fromhex("551d13"), 1), CODE)
    with refused("attest.pck-extension-malformed"):
        pck_tcb(unreadable)


@pytest.mark.parametrize("ppid", [b"", bytes(16), b"\1" * 15, b"\1" * 17, None])
def test_a_ppid_that_is_none_names_no_machine(ppid):
    """It is no reason to refuse the machine."""
    content = intel.sgx_extension(ppid=ppid or b"")[4:]
    if ppid is None:
        content = content.replace(intel._field((1,), intel._der(0x04, b"")), intel._field((1,), intel._integer(5)))
    assert parse_sgx_extension(intel._der(0x30, content)).ppid == b""


def spoiled_extensions() -> dict[str, bytes]:
    good = intel.sgx_extension()
    content = good[4:]
    field = intel._field((4,), intel._der(0x04, intel.FMSPC))
    return {
        "empty": b"",
        "truncated": good[:-1],
        "trailing": good + b"\0",
        "two": good + good,
        "another tag": b"\x31" + good[1:],
        "indefinite length": b"\x30\x80" + content + b"\0\0",
        "long length": b"\x30\x83\x00" + good[2:4] + content,
        "length in three bytes": b"\x30\x83" + len(content).to_bytes(2, "big") + b"\0" + content,
        "length not minimal": intel._der(0x30, content.replace(field, b"\x30\x81" + field[1:])),
        "length not minimal, two bytes": b"\x30\x82\x00\x05" + b"\x05\x03abc",
        "one byte": b"\x30",
        "no length": b"\x30\x82\x01",
        "twice": intel._der(0x30, content + field),
        "missing": intel._der(0x30, content.replace(field, b"")),
        "foreign identifier": intel._der(0x30, content + intel._der(0x30, intel._der(0x06, b"\x2a\x03") + b"\x05\x00")),
        "no pair": intel._der(0x30, content + intel._der(0x30, intel._der(0x06, b"\x2a\x03"))),
        "not a sequence": intel._der(0x30, content + b"\x05\x00"),
        "field that is a set": intel._der(0x30, content.replace(field, b"\x31" + field[1:])),
        "identifier of another type": intel._der(0x30, content.replace(field, field[:2] + b"\x0d" + field[3:])),
        "value of another type": intel._der(
            0x30, content.replace(b"\x04\x06" + intel.FMSPC, b"\x05\x06" + intel.FMSPC)
        ),
        "three parts": intel._der(0x30, content.replace(field, intel._der(0x30, field[2:] + b"\x05\x00"))),
        "short fmspc": intel.sgx_extension(fmspc=bytes(5)),
        "long pce id": intel.sgx_extension(pce_id=bytes(3)),
        "fifteen components": intel.sgx_extension(svns=intel.COMPONENT_SVNS[:15]),
        "empty number": good.replace(b"\x02\x01\x0b", b"\x02\x00", 1).replace(b"\x30", b"\x30", 1),
    }


@pytest.mark.parametrize("name", spoiled_extensions())
def test_sgx_extension_that_is_refused(refused, name):
    with refused("attest.pck-extension-malformed"):
        parse_sgx_extension(spoiled_extensions()[name])


@pytest.mark.parametrize("raw", [b"\x02\x02\x01\x00", b"\x02\x02\x00\x01", b"\x02\x01\xff", b"\x02\x00"])
def test_numbers_out_of_range(refused, monkeypatch, raw):
    """256, a number with a needless zero, a negative one, an empty one."""
    original = intel._integer
    monkeypatch.setattr(intel, "_integer", lambda number: raw if number == 3 else original(number))
    with refused("attest.pck-extension-malformed"):
        parse_sgx_extension(intel.sgx_extension())


def test_flipped_extension_is_another_platform_or_refused():
    good = intel.sgx_extension()
    where = good.index(intel.FMSPC)
    assert parse_sgx_extension(flip(good, where)).fmspc != intel.FMSPC


def issue(lab, issuer_usage: dict, *, ca: bool = True, path_length: int | None = 0) -> tuple[Certificate, ...]:
    """Return a chain of three whose two issuers have this key usage and these basic constraints."""
    x509, start = intel.x509, NOW - intel._LIFE / 2
    usage = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"), False)
    usage |= dict.fromkeys(("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False)
    names = {
        name: intel._name(role) for name, role in (("pck", "PCK Certificate"), ("ca", "PCK CA"), ("root", "Root CA"))
    }
    chain = []
    for child, issuer in (("pck", "ca"), ("ca", "root"), ("root", "root")):
        key = lab.authority.keys[child].public_key()
        builder = x509.CertificateBuilder(names[issuer], names[child], key, 7, start, start + intel._LIFE)
        if child != "pck":
            builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
            builder = builder.add_extension(x509.KeyUsage(**{**usage, **issuer_usage}), critical=True)
        signed = builder.sign(lab.authority.keys[issuer], intel.SHA256())
        chain.append(Certificate(signed.public_bytes(intel.Encoding.DER), signed))
    return tuple(chain)


def test_issuers_must_be_allowed_to_issue(lab, refused):
    verify_chain(issue(lab, {"key_cert_sign": True}, path_length=1), "pck", NOW)
    verify_chain(issue(lab, {"key_cert_sign": True}, path_length=None), "pck", NOW)
    with refused(CODE):  # the right key usage, but no CA
        verify_chain(issue(lab, {"key_cert_sign": True}, ca=False, path_length=None), "pck", NOW)
    with refused(CODE):  # a CA that may sign revocation lists only
        verify_chain(issue(lab, {"crl_sign": True}, path_length=1), "pck", NOW)
    with refused(CODE):  # the root allows no CA below the first
        verify_chain(issue(lab, {"key_cert_sign": True}, path_length=0), "pck", NOW)


def test_signatures_have_one_length(lab, refused):
    """Zeros between r and s change no number, only the bytes."""
    key = lab.authority.keys["pck"]
    signature = intel.sign(key, b"message")
    verify_signature(key.public_key(), signature, b"message", CODE, "why")
    with refused(CODE):
        verify_signature(key.public_key(), signature[:32] + b"\0" + signature[32:], b"message", CODE, "why")


def test_revocation_list_without_an_end(lab, refused):
    issuer = parse_chain(lab.authority.chain("root").encode(), CODE)[0]
    good = intel.x509.load_der_x509_crl(lab.platform.collateral().root_ca_crl)
    moment = good.next_update_utc.strftime("%y%m%d%H%M%SZ").encode()
    content = good.tbs_certlist_bytes.replace(b"\x17\x0d" + moment, b"")
    header = 2 if content[1] < 0x80 else 2 + (content[1] & 0x7F)
    signed = intel._der(0x30, content[header:])
    signature = lab.authority.keys["root"].sign(signed, intel.ec.ECDSA(intel.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    endless = intel._der(0x30, signed + algorithm + intel._der(0x03, b"\0" + signature))
    assert intel.x509.load_der_x509_crl(endless).next_update_utc is None
    with refused("attest.root-crl-malformed"):
        verify_crl(endless, issuer, "root-crl")
