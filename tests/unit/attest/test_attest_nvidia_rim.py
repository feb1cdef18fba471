"""Manifests: the XML that is accepted, the one form of signature, and what is read from it."""

from __future__ import annotations

import base64
import hashlib
from datetime import timedelta

import pytest

from attest_nvidia_lab import (
    C14N,
    DAY,
    DRIVER,
    DS,
    MEASUREMENTS,
    NOW,
    SWID,
    make,
    nvidia_lab,
    resource,
    responder_of,
    sign_manifest,
    signed_info,
    swid,
)
from mitai.attest.nvidia.rim import parse_rim, verify_rim
from mitai.attest.nvidia.xmldsig import MAX_XML_BYTES, canonical, parse_xml
from mitai.errors import AttestError, ParseError

LAB = nvidia_lab()
RIM = LAB.rim()
MALFORMED = "attest.nvidia-rim-malformed"
TEXT = swid("GPU", "GH100", DRIVER, resource(7, (MEASUREMENTS[7],)))


def code_of(data: bytes, now=NOW, root: str | None = None) -> str:
    """Return the code with which a manifest is refused; "" where it is accepted."""
    try:
        verify_rim(parse_rim(data), root or LAB.roots.rim, now)
    except (ParseError, AttestError) as error:
        return error.code
    return ""


def changed(old: str, new: str, data: bytes = RIM, times: int = 1) -> bytes:
    assert data.count(old.encode()) >= times
    return data.replace(old.encode(), new.encode(), times)


def test_accepted_and_read():
    assert code_of(RIM) == ""
    rim = parse_rim(RIM)
    assert (rim.edition, rim.product, rim.version) == ("GPU", "GH100", DRIVER)
    assert set(rim.active) == {7, 21, 35}
    assert not next(reference for reference in rim.references if reference.index == 63).active
    assert rim.active[7].allows(MEASUREMENTS[7])
    assert not rim.active[7].allows(MEASUREMENTS[8])
    assert not rim.active[7].allows(MEASUREMENTS[7][:47])


def test_alternatives():
    rim = parse_rim(LAB.rim(references={3: (MEASUREMENTS[3], MEASUREMENTS[4])}))
    assert rim.active[3].allows(MEASUREMENTS[3])
    assert rim.active[3].allows(MEASUREMENTS[4])


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (f'colloquialVersion="{DRIVER}"', 'colloquialVersion="999.1"', "attest.nvidia-rim-digest-mismatch"),
        ('active="False"', 'active="True"', "attest.nvidia-rim-digest-mismatch"),
        ("\n<ns0:Meta", "\n\n<ns0:Meta", "attest.nvidia-rim-digest-mismatch"),  # white space is signed too
        ("xmlns:ds=", 'xmlns:more="urn:x" xmlns:ds=', "attest.nvidia-rim-signature-invalid"),  # scope of SignedInfo
        (
            '<ns0:Resource active="True" alternatives="1" index="7"',
            '<ns0:Resource active="True" alternatives="1" index="8"',
            "attest.nvidia-rim-digest-mismatch",
        ),
    ],
)
def test_changes_after_signing(old, new, code):
    assert code_of(changed(old, new)) == code


def test_what_canonical_form_ignores():
    """Other quotes, order of attributes and empty-element tags are the same document, and stay accepted."""
    same = changed(' edition="GPU" product="GH100"', " product='GH100'   edition='GPU'")
    same = changed('ns1:PlatformManufacturerId="5703"></ns0:Meta>', 'ns1:PlatformManufacturerId="5703"/>', same)
    assert code_of(b'<?xml version="1.0" encoding="UTF-8"?>\n' + same + b"\n") == ""


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<a>",
        b"\xff\xfe<\0a\0/\0>\0",
        b"<a/><b/>",
        b"<!DOCTYPE a><a/>",
        b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
        b"<a>&x;</a>",
        b"<a><!-- a comment --></a>",
        b"<a/><!-- a comment -->",
        b"<a><?php echo ?></a>",
        b'<a xml:id="x"/>',
        b'<a xmlns:p="urn:x y" p:b="1"/>',  # expat's separator in a namespace
        b'<a xmlns:p="urn:x" p:b="1" xmlns:q="urn:x" q:b="2"/>',
        b"<a>" * 17 + b"</a>" * 17,
        b"<a>" + b"<b/>" * 5000 + b"</a>",
        b"<a " + b" ".join(b'xmlns:p%d="urn:%d"' % (number, number) for number in range(40)) + b"/>",
        b"<a>" + b" " * MAX_XML_BYTES + b"</a>",
        b'<?xml version="1.1"?><a/>',
        b'<?xml version="1.0" encoding="ISO-8859-1"?><a>\xe9</a>',
        b'<?xml version="1.0" encoding="ISO-8859-1"?><a>e</a>',
        '<?xml version="1.0" encoding="UTF-16"?><a/>'.encode("utf-16"),
    ],
)
def test_xml_that_is_refused(document):
    with pytest.raises(ParseError) as refusal:
        parse_xml(document)
    assert refusal.value.code == MALFORMED


def test_canonical_examples():
    """Canonical XML 1.1, sections 3.3 and 3.4, for what is accepted here."""
    document = b'<e3   name="elem3"   id="elem3"   />'
    assert canonical(parse_xml(document)) == b'<e3 id="elem3" name="elem3"></e3>'
    document = (
        b'<e5 a:attr=\'out\' b:attr="sorted" attr2="all" attr="I\'m"\n'
        b"   xmlns:b='http://www.ietf.org' xmlns:a='http://www.w3.org' xmlns='http://example.org'/>"
    )
    assert canonical(parse_xml(document)) == (
        b'<e5 xmlns="http://example.org" xmlns:a="http://www.w3.org" xmlns:b="http://www.ietf.org"'
        b' attr="I\'m" attr2="all" b:attr="sorted" a:attr="out"></e5>'
    )
    document = b'<e6 xmlns="" xmlns:a="http://www.w3.org"><e7 xmlns="http://www.ietf.org"><e8 xmlns="" xmlns:a="http://www.w3.org"/></e7></e6>'
    assert canonical(parse_xml(document)) == (
        b'<e6 xmlns:a="http://www.w3.org"><e7 xmlns="http://www.ietf.org"><e8 xmlns=""></e8></e7></e6>'
    )
    document = b'<doc a="x&#xA;&#9;&quot;&lt;&#13;">&#13;&amp;<![CDATA[value>"0"]]>\r\n</doc>'
    assert canonical(parse_xml(document)) == (b'<doc a="x&#xA;&#x9;&quot;&lt;&#xD;">&#xD;&amp;value&gt;"0"\n</doc>')


def resign(info: str) -> bytes:
    return sign_manifest(TEXT, LAB.rim_signer, info)


INFO = signed_info(hashlib.sha384(f"{TEXT}</SoftwareIdentity>".encode()).digest())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (C14N, "http://www.w3.org/2001/10/xml-exc-c14n#"),
        ("xmldsig-more#ecdsa-sha384", "xmldsig-more#ecdsa-sha256"),
        ("xmldsig-more#ecdsa-sha384", "xmldsig-more#rsa-sha384"),
        ('URI=""', 'URI="#x"'),
        ('URI=""', 'URI="" Id="r"'),
        (' URI=""', ""),
        (f"{DS}enveloped-signature", C14N),
        (f'<ds:Transform Algorithm="{C14N}"></ds:Transform>', ""),
        (
            f'<ds:Transform Algorithm="{C14N}"></ds:Transform>',
            f'<ds:Transform Algorithm="{C14N}"></ds:Transform><ds:Transform Algorithm="{C14N}"></ds:Transform>',
        ),
        ("xmldsig-more#sha384", "xmlenc#sha256"),
        ("</ds:Reference>", '</ds:Reference><ds:Reference URI=""></ds:Reference>'),
        ("<ds:DigestValue>", "<ds:DigestValue>!"),
        ("<ds:DigestValue>", "<ds:DigestValue><ds:X></ds:X>"),
        ("<ds:Reference", "text<ds:Reference"),
        ("ds:Transforms", "ds:Transformers"),
        ("<ds:SignatureMethod ", '<ds:SignatureMethod ds:Algorithm="x" '),
    ],
)
def test_signed_info_of_another_form(old, new):
    assert code_of(resign(INFO)) == ""
    assert old in INFO
    assert code_of(resign(INFO.replace(old, new))) == MALFORMED


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<ds:SignatureValue>", '<ds:SignatureValue Id="x">'),
        ("<ds:SignatureValue>", "<ds:SignatureValue> "),
        ("</ds:KeyInfo>", "</ds:KeyInfo><ds:Object></ds:Object>"),
        ("<ds:X509Data>", "<ds:KeyName></ds:KeyName><ds:X509Data>"),
        ("<ds:X509Certificate>", "<ds:X509SKI></ds:X509SKI><ds:X509Certificate>"),
        ("<ds:X509Certificate>", "<ds:X509Certificate>AAAA"),
        ("<ds:X509Certificate>", "<ds:X509Certificate>*"),
        ("<ds:Signature ", '<ds:Signature Id="x" '),
        ("</ds:Signature>", "</ds:Signature><other></other>"),
    ],
)
def test_signature_of_another_form(old, new):
    assert code_of(changed(old, new)) == MALFORMED


def test_no_certificates_or_too_many():
    start, end = RIM.index(b"<ds:X509Certificate>"), RIM.index(b"</ds:X509Data>")
    assert code_of(RIM[:start] + RIM[end:]) == MALFORMED
    assert code_of(RIM[:start] + RIM[start:end] * 2 + RIM[end:]) == MALFORMED


def test_signature_wrapping():
    """A signed document inside another, with or without the signature where the verifier looks for it."""
    signature = RIM[RIM.index(b"<ds:Signature ") : RIM.index(b"</SoftwareIdentity>")]
    evil = swid("GPU", "GH100", "666.6", resource(7, (bytes(48),))).encode()
    inner = RIM.replace(signature, b"")
    for wrapped in (
        evil + inner + signature + b"</SoftwareIdentity>",
        evil + RIM + b"</SoftwareIdentity>",
        evil + RIM + signature + b"</SoftwareIdentity>",
        evil
        + signature.replace(b"</ds:Signature>", b"<ds:Object>" + inner + b"</ds:Object></ds:Signature>")
        + b"</SoftwareIdentity>",
        RIM.replace(signature, b"<ns0:Meta></ns0:Meta>" + signature),
        RIM.replace(signature, signature + signature),
        inner,
    ):
        assert code_of(wrapped) in {MALFORMED, "attest.nvidia-rim-digest-mismatch"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('edition="GPU"', ""),
        ('product="GH100" ', ""),
        (f'colloquialVersion="{DRIVER}"', 'colloquialVersion=""'),
        (f'colloquialVersion="{DRIVER}"', f'colloquialVersion="{"9" * 65}"'),
        (f'colloquialVersion="{DRIVER}"', 'colloquialVersion="5&#10;5"'),
        ('FirmwareManufacturerId="5703"', 'FirmwareManufacturerId="1"'),
        ('ns1:PlatformManufacturerId="5703"', 'PlatformManufacturerId="5703"'),
        ("<ns0:Meta ", "<ns0:Meta></ns0:Meta><ns0:Meta "),
        ("<ns0:Payload>", "<ns0:Payload></ns0:Payload><ns0:Payload>"),
        (resource(7, (MEASUREMENTS[7],)), ""),
        (resource(7, (MEASUREMENTS[7],)), resource(7, (MEASUREMENTS[7],)) * 2),
        ('type="Measurement"', 'type="File"'),
        ("ns0:Resource", "ns0:Directory"),
        ('active="True"', 'active="true"'),
        ('active="True"', ""),
        ('alternatives="1"', 'alternatives="2"'),
        ('alternatives="1"', 'alternatives="0"'),
        ('alternatives="1"', 'alternatives="9999"'),
        ('alternatives="1"', 'alternatives="-1"'),
        ('index="7"', 'index="0x7"'),
        ('index="7"', 'index="７"'),
        ('size="48"', 'size="many"'),
        ("ns2:Hash0", "Hash0"),
        ("ns2:Hash0", "ns2:Hash1"),
        (f'xmlns="{SWID}"', 'xmlns="urn:other"'),
    ],
)
def test_contents_of_another_form(old, new):
    text = TEXT.replace(old, new)
    assert text != TEXT
    assert code_of(sign_manifest(text, LAB.rim_signer)) == MALFORMED


def test_root_must_be_the_pinned_one():
    assert code_of(RIM, root="00" * 32) == "attest.nvidia-rim-root-untrusted"
    stranger = make("Lab RIM Root CA")  # of the same name
    assert code_of(LAB.rim(signer=make("Signer", stranger, ca=False))) == "attest.nvidia-rim-root-untrusted"


def test_root_missing():
    root = f"<ds:X509Certificate>{base64.b64encode(LAB.rim_root.der).decode()}</ds:X509Certificate>"
    assert code_of(changed(root, "")) == "attest.nvidia-rim-root-untrusted"


def test_chain_out_of_order_or_expired():
    ca = LAB.rim_signer.issuer
    assert code_of(LAB.rim(signer=make("Late", ca, ca=False, start=NOW + DAY))) == "attest.nvidia-rim-chain-expired"
    assert code_of(RIM, now=NOW + timedelta(days=500)) == "attest.nvidia-rim-chain-expired"
    left, right = (
        f"<ds:X509Certificate>{base64.b64encode(party.der).decode()}</ds:X509Certificate>" for party in ca.chain[:2]
    )
    assert code_of(changed(left + right, right + left)) == "attest.nvidia-rim-chain-invalid"


@pytest.mark.parametrize("signer", ["ca", "no signatures", "ocsp responder"])
def test_certificates_that_may_not_sign(signer):
    issuer = LAB.rim_signer.issuer
    party = {
        "ca": issuer,
        "no signatures": make("Signer", issuer, ca=False, signs=False),
        "ocsp responder": responder_of(issuer),
    }[signer]
    assert code_of(LAB.rim(signer=party)) == "attest.nvidia-rim-chain-invalid"


def test_signed_by_another_key():
    other = LAB.rim(signer=make("Signer", LAB.rim_signer.issuer, ca=False))
    value = RIM[RIM.index(b"<ds:SignatureValue>") : RIM.index(b"</ds:SignatureValue>")]
    theirs = other[other.index(b"<ds:SignatureValue>") : other.index(b"</ds:SignatureValue>")]
    assert code_of(RIM.replace(value, theirs)) == "attest.nvidia-rim-signature-invalid"
    assert code_of(RIM.replace(value, b"<ds:SignatureValue>AAAA")) == "attest.nvidia-rim-signature-invalid"
