"""Properties of releases, sigstore bundles and images: any bytes give a value or an error of the tree, nothing else."""

from __future__ import annotations

import base64
import json

from hypothesis import assume, given
from hypothesis import strategies as st

from attest_boot_lab import Kernel, firmware
from attest_sigstore_lab import NOW, SigstoreLab, encode
from mitai.attest import conformance
from mitai.attest.refvalues.boot import LAYOUTS, authenticode, patch_kernel, rtmr1
from mitai.attest.refvalues.expected import supported_tees
from mitai.attest.refvalues.release import Measurements, Release, reference_values, sign_release
from mitai.attest.refvalues.sigstore import verify_bundle
from mitai.attest.refvalues.statement import Statement
from mitai.attest.refvalues.tdvf import mrtd
from mitai.attest.refvalues.timestamps import verify_timestamp
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.attest.refvalues.trusted_root import TrustedRoot
from mitai.errors import AttestError, ParseError
from mitai.identity import Identity

LAB = SigstoreLab()
ROOT_TEXT = LAB.trusted_root()
ROOT = TrustedRoot.decode(ROOT_TEXT)
PAYLOAD = b'{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://example.com/p","subject":[]}'
BUNDLES = [LAB.bundle(PAYLOAD), LAB.bundle2(PAYLOAD)]
TOKEN = LAB.timestamp(b"message")
PUBLISHER = Identity.generate()
REGISTERS = {"mrtd": "ab" * 48, "rtmr0": "any", "rtmr1": "any", "rtmr2": "any", "rtmr3": "any"}
RELEASE = Release("serve", 1, NOW, (Measurements("tdx", REGISTERS),))
MANIFEST = sign_release(RELEASE, PUBLISHER)
TRUST = ReleaseTrust("serve", key=PUBLISHER.public.raw.hex())
FIRMWARE, KERNEL = firmware(), Kernel(signature=b"signature").encode()


def spoiled(*originals: bytes) -> st.SearchStrategy[bytes]:
    """One of the originals with a piece of it replaced, cut out or put in; or anything at all."""

    @st.composite
    def edited(draw: st.DrawFn) -> bytes:
        data = draw(st.sampled_from(originals))
        start = draw(st.integers(0, len(data)))
        return data[:start] + draw(st.binary(max_size=8)) + data[start + draw(st.integers(0, 8)) :]

    return edited() | st.binary(max_size=200)


def refuses(call, *arguments, **options) -> bool:
    """Whether it was refused, by an error of the tree; any other exception fails the test."""
    try:
        call(*arguments, **options)
    except (AttestError, ParseError):
        return True
    return False


@given(spoiled(*map(encode, BUNDLES)))
def test_bundles(data):
    assert refuses(verify_bundle, data, ROOT, now=NOW) or verify_bundle(data, ROOT, now=NOW).payload == PAYLOAD


@given(spoiled(ROOT_TEXT, PAYLOAD))
def test_parsers_of_json(data):
    refuses(TrustedRoot.decode, data)
    refuses(Statement.decode, data)


@given(st.sampled_from([0, 1]), st.data())
def test_a_changed_signed_byte_is_refused(which, data):
    fields = json.loads(json.dumps(BUNDLES[which]))
    entry = fields["verificationMaterial"]["tlogEntries"][0]
    parts = [
        (fields["verificationMaterial"]["certificate"], "rawBytes"),
        (fields["dsseEnvelope"], "payload"),
        (fields["dsseEnvelope"]["signatures"][0], "sig"),
        (entry, "canonicalizedBody"),
        (entry["inclusionProof"], "rootHash"),
    ]
    holder, name = data.draw(st.sampled_from(parts))
    raw = bytearray(base64.b64decode(holder[name]))
    offset = data.draw(st.integers(0, len(raw) - 1))
    raw[offset] ^= data.draw(st.integers(1, 255))
    holder[name] = base64.b64encode(bytes(raw)).decode()
    assert refuses(verify_bundle, encode(fields), ROOT, now=NOW)


@given(spoiled(TOKEN))
def test_timestamps(data):
    assume(data != TOKEN)
    refuses(verify_timestamp, data, b"message", ROOT)
    assert refuses(verify_timestamp, data, b"another message", ROOT)


@given(spoiled(MANIFEST))
def test_releases(data):
    assert refuses(reference_values, data, TRUST, now=NOW) or reference_values(data, TRUST, now=NOW) == RELEASE.values()


@given(spoiled(FIRMWARE[-4096:], KERNEL))
def test_images(data):
    image = data.rjust(-len(data) // 4096 * -4096, b"\0")
    supported_tees(image)
    refuses(mrtd, image)
    refuses(authenticode, data)
    refuses(patch_kernel, data, 100, 1 << 30)
    refuses(rtmr1, data, b"initrd", memory_bytes=1 << 30, layout=LAYOUTS["qemu"])


@given(spoiled(b'{"schema_version":"1","source":{"type":"x","registers":["00"]},"target":null}'))
def test_every_stage_gives_a_verdict(data):
    for stage in conformance.STAGES:
        exit_code, output = conformance.main([stage], data)
        assert json.loads(output)["accepted"] is (exit_code == conformance.ACCEPTED)
