"""The endorsement of a report's key: what AMD signed, and what only looks like it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attest_lab import flip
from attest_snp_lab import CHIP, END, NOW, START, TCB, Amd, amd, amd_name, integer, pem, table, text
from mitai.attest.cache import VerifiedCache
from mitai.attest.snp import Trust, verify_endorsements
from mitai.attest.snp.roots import ARK_SHA256, published
from mitai.attest.x509 import Certificate, parse_der

LATER = END + timedelta(days=1)


def verify(authority=None, kind="vcek", now=NOW, trust=None, cache=None, **endorsements):
    authority = authority or amd()
    given = {"vek": authority.vek(kind), "chain": authority.chain(kind), **endorsements}
    given = {name: value for name, value in given.items() if value is not None}
    return verify_endorsements(given, kind, now, trust=trust or authority.trust, cache=cache)


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_keys_of_all_products(product):
    authority = amd(product)
    vcek = verify(authority).value.vek
    assert (vcek.product, vcek.kind, vcek.tcb) == (product, "vcek", TCB[product])
    assert vcek.chip_id == (CHIP[:8] if product == "Turin" else CHIP)
    assert vcek.csp_id is None
    vlek = verify(authority, "vlek").value.vek
    assert (vlek.kind, vlek.csp_id, vlek.chip_id) == ("vlek", "CN=cloud.example", None)


def test_window():
    short = (NOW - timedelta(hours=1), NOW + timedelta(hours=1))
    assert verify().not_after == END
    assert verify(vek=amd().vek(window=short)).not_after == short[1]
    assert verify(crl=amd().crl(window=short)).not_after == short[1]
    assert verify(crl=amd().crl(window=short)).not_before == short[0]


@pytest.mark.parametrize("name", ["Genoa-B1", "Bergamo", "Siena-A0", "Genoa"])
def test_product_names(name):
    assert verify(vek=amd().vek(changes={"2": text(name)})).value.vek.product == "Genoa"


@pytest.mark.parametrize("name", ["Milan-B0", "Turin", "", "genoa"])
def test_product_of_another_root(name, refused):
    with refused("attest.snp-product-mismatch"):
        verify(vek=amd().vek(changes={"2": text(name)}))


def test_chip_id_as_octet_string():
    assert verify(vek=amd().vek(changes={"4": bytes((4, 64)) + CHIP})).value.vek.chip_id == CHIP
    turin = amd("Turin")
    assert verify(turin, vek=turin.vek(changes={"4": bytes((4, 8)) + CHIP[:8]})).value.vek.chip_id == CHIP[:8]


@pytest.mark.parametrize(
    "changes",
    [
        {"1": integer(1)},
        {"1": None},
        {"2": None},
        {"2": b"\x16"},
        {"2": b"\x16\x81\x80" + b"x" * 128},
        {"2": b"\x0c\x05Genoa"},
        {"2": b"\x16\x06Genoa"},
        {"2": b"\x16\x05Geno\xff"},
        {"3.1": None},
        {"3.8": b""},
        {"3.8": b"\x02\x01"},
        {"3.8": b"\x02\x02\x01\x00"},
        {"3.8": b"\x02\x01\xdb"},
        {"3.8": b"\x02\x02\x00\x01"},
        {"3.8": b"\x04\x01\x01"},
        {"4": CHIP[:63]},
        {"4": CHIP[:8]},
        {"4": bytes((5, 64)) + CHIP},
    ],
)
def test_malformed_extensions(changes, refused):
    with refused("attest.snp-vek-malformed"):
        verify(vek=amd().vek(changes=changes))


@pytest.mark.parametrize("changes", [{"4": None}, {"5": text("CN=x")}, {"4": None, "5": text("CN=x")}])
def test_vcek_names_its_chip(changes, refused):
    with refused("attest.snp-vek-identity-missing"):
        verify(vek=amd().vek(changes=changes))


@pytest.mark.parametrize("changes", [{"5": None}, {"4": CHIP}])
def test_vlek_names_its_cloud(changes, refused):
    with refused("attest.snp-vek-identity-missing"):
        verify(kind="vlek", vek=amd().vek("vlek", changes=changes))


def test_missing(refused):
    with refused("attest.snp-vek-missing"):
        verify(vek=None)
    with refused("attest.snp-vek-missing"):
        verify(vek=b"")
    with refused("attest.snp-vek-missing"):
        verify(vek=None, kind="vlek", certs=table(vcek=amd().vek()))
    with refused("attest.snp-endorsement-unknown"):
        verify(vcek=b"")


def test_malformed_certificates(refused):
    with refused("attest.snp-vek-malformed"):
        verify(vek=amd().vek()[:-1])
    with refused("attest.snp-vek-malformed"):
        verify(vek=amd().vek() + b"\0")
    for chain in (b"", amd().chain()[:-3], pem(amd().ark), pem(amd().ask, amd().ark, amd().ark)):
        with refused("attest.snp-chain-malformed"):
            verify(chain=chain)
    with refused("attest.snp-chain-malformed"):
        verify(vek=amd().chain())


def test_whole_chain_in_one_piece(refused):
    """As Azure hands it out."""
    whole = pem(amd().vek()) + amd().chain()
    assert verify(vek=whole, chain=None).value.vek.chip_id == CHIP
    with refused("attest.snp-chain-malformed"):
        verify(vek=whole)
    with refused("attest.snp-role-mismatch"):
        verify(vek=amd().chain() + pem(amd().ark), chain=None)


def test_root_must_be_pinned(refused):
    with refused("attest.snp-root-untrusted"):
        verify(trust=Trust())
    with refused("attest.snp-root-untrusted"):
        verify(chain=pem(amd().ask, amd("Milan").ark))
    with refused("attest.snp-root-untrusted"):
        verify(chain=pem(amd().ark, amd().ask))


def test_empty_chain_takes_the_published_one(refused):
    """The name of the issuer picks it; its signature is missing here."""
    with refused("attest.snp-chain-invalid"):
        verify(chain=None, trust=Trust(profile=amd().trust.profile), vek=amd().vek(issuer=published_name("SEV-Genoa")))
    with refused("attest.snp-root-untrusted"):
        verify(chain=None, trust=Trust())
    with refused("attest.snp-vek-malformed"):
        verify(chain=None, vek=amd().vek().replace(b"\x55\x04\x03\x0c", b"\x55\x04\x03\x03"))


def test_malformed_names(refused):
    malformed = amd().vek().replace(b"SEV-Genoa", b"SEV-\xff\xff\xff\xff\xff")
    with refused("attest.snp-vek-malformed"):
        verify(chain=None, vek=malformed)
    with refused("attest.snp-chain-invalid"):
        verify(vek=malformed)


def published_name(name: str):
    return published()[name].parsed.subject


def test_profile_of_amd(refused):
    """The real profile wants RSA with 4096 bits."""
    root = parse_der(amd().ark, "code")
    with refused("attest.certificate-key-unsupported"):
        verify(trust=Trust({root.fingerprint: "Genoa"}))


def test_signatures(refused):
    other = Amd("Genoa")
    with refused("attest.snp-chain-invalid"):
        verify(chain=pem(other.ask, amd().ark))
    with refused("attest.snp-chain-invalid"):
        verify(vek=other.vek())
    with refused("attest.snp-chain-invalid"):
        verify(vek=amd().vek(scheme="pkcs1"))
    with refused("attest.certificate-key-unsupported"):
        verify(vek=amd().vek(key=ec.generate_private_key(ec.SECP256R1())))


def test_unused_bits_of_a_signature(refused):
    """X.509 does not sign how many bits of the last byte count, so none but all may."""
    even = next(vek for vek in iter(amd().vek, None) if vek[-1] % 2 == 0)
    verify(vek=even)
    with refused("attest.snp-vek-malformed"):
        verify(vek=flip(even, len(even) - 257))
    crl = next(crl for crl in iter(amd().crl, None) if crl[-1] % 2 == 0)
    verify(crl=crl)
    with refused("attest.snp-crl-signature-invalid"):
        verify(crl=flip(crl, len(crl) - 257))


def test_signing_key_must_be_a_ca(refused):
    for ask in (amd().certificate("ask", ca=False), amd().certificate("ask", usage=False)):
        with refused("attest.snp-chain-invalid"):
            verify(chain=pem(ask, amd().ark))
    with refused("attest.snp-chain-invalid"):
        verify(chain=pem(amd().certificate("ask", usage=None), amd().ark))


@pytest.mark.parametrize("now", [START - timedelta(seconds=1), END + timedelta(seconds=1)])
def test_expired(now, refused):
    with refused("attest.snp-chain-expired"):
        verify(now=now)


def test_roles(refused):
    """A VLEK is no VCEK, ASVK and ASK don't sign each other's keys, and AMD signs as AMD."""
    authority = amd()
    with refused("attest.snp-role-mismatch"):
        verify_endorsements(
            {"vek": authority.vek("vlek"), "chain": authority.chain("vlek")}, "vcek", NOW, trust=authority.trust
        )
    with refused("attest.snp-role-mismatch"):
        verify_endorsements(
            {"vek": authority.vek("vcek"), "chain": authority.chain("vcek")}, "vlek", NOW, trust=authority.trust
        )
    with refused("attest.snp-role-mismatch"):
        verify(vek=authority.vek(signer="asvk"), chain=authority.chain("vlek"))
    with refused("attest.snp-role-mismatch"):
        verify(vek=authority.vek(name=amd_name("SEV-VCEK", "Someone Else")))
    with refused("attest.snp-role-mismatch"):
        verify(trust=Trust({Certificate(authority.ark, None).fingerprint: "Milan"}, authority.trust.profile))


def test_revocation(refused):
    assert verify(crl=amd().crl()).value.crl is not None
    assert verify().value.crl is None
    assert verify(crl=amd().crl(0x10101)).value.crl is not None  # the VLEKs' signing key
    for kind, serial in (("vcek", 0x10001), ("vlek", 0x10101), ("vcek", 0x10000)):
        with refused("attest.snp-intermediate-revoked"):
            verify(kind=kind, crl=amd().crl(serial))


def test_revocation_list_itself(refused):
    with refused("attest.snp-crl-malformed"):
        verify(crl=b"nonsense")
    with refused("attest.snp-crl-signature-invalid"):
        verify(crl=amd("Milan").crl())
    with refused("attest.snp-crl-signature-invalid"):
        verify(crl=amd().crl(signer="ask"))
    with refused("attest.snp-crl-signature-invalid"):
        verify(crl=amd().crl(name=amd_name("ARK-Milan")))
    for window in ((START, NOW - timedelta(seconds=1)), (NOW + timedelta(seconds=1), END)):
        with refused("attest.snp-crl-expired"):
            verify(crl=amd().crl(window=window))


def test_table_of_an_extended_report():
    authority = amd()
    everything = table(vcek=authority.vek(), ask=authority.ask, ark=authority.ark, crl=authority.crl(), other=b"x")
    endorsed = verify(vek=None, chain=None, certs=everything).value
    assert endorsed.crl is not None
    text_form = table(vcek=pem(authority.vek()), ask=pem(authority.ask), ark=pem(authority.ark))
    assert verify(vek=None, chain=None, certs=text_form).value.vek.chip_id == CHIP
    assert verify(vek=pem(authority.vek()), certs=table(vcek=b"worse")).value.vek.chip_id == CHIP


def test_table_with_half_a_chain(refused):
    with refused("attest.snp-chain-malformed"):
        verify(chain=None, certs=table(ask=amd().ask))
    with refused("attest.snp-chain-malformed"):
        verify(chain=None, certs=table(ask=amd().chain(), ark=amd().ark))
    assert verify(chain=None, certs=table(ask=amd().chain())).value.vek.chip_id == CHIP  # both in one entry


def test_cache_knows_exact_bytes_roots_and_time(refused):
    cache, vek = VerifiedCache(), amd().vek()
    first = verify(vek=vek, cache=cache)
    assert verify(vek=vek, cache=cache) is first
    assert verify(vek=vek, crl=amd().crl(), cache=cache) is not first
    with refused("attest.snp-chain-expired"):
        verify(vek=vek, now=LATER, cache=cache)
    with refused("attest.snp-root-untrusted"):
        verify(vek=vek, cache=cache, trust=Trust())
    with refused("attest.snp-role-mismatch"):
        verify_endorsements({"vek": vek, "chain": amd().chain()}, "vlek", NOW, trust=amd().trust, cache=cache)


def test_pinned_roots():
    assert {published()[f"ARK-{product}"].fingerprint: product for product in ("Milan", "Genoa", "Turin")} == ARK_SHA256
    assert len(published()) == 9
