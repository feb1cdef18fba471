"""Release manifests: who may say what a workload measures, and from which version on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from attest_sigstore_lab import NOW, REPOSITORY, SIGNED_AT, SigstoreLab, encode
from mitai.attest.policy import Policy, ReferenceValues
from mitai.attest.refvalues.release import (
    PREDICATE_TYPE,
    Measurements,
    Release,
    Source,
    reference_values,
    sign_release,
    statement_of,
    verify_release,
    with_releases,
)
from mitai.attest.refvalues.sigstore import GITHUB, MAX_BUNDLE_BYTES, SigstoreIdentity
from mitai.attest.refvalues.statement import PAYLOAD_TYPE, Subject
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.errors import AttestError, MitaiError, ParseError
from mitai.identity import Identity

PUBLISHER = Identity.from_seed(bytes(range(32)))
TRUST = ReleaseTrust("serve", key=PUBLISHER.public.raw.hex())
TDX = Measurements("tdx", {"mrtd": "ab" * 48, "rtmr0": "any", "rtmr1": "cd" * 48, "rtmr2": "any", "rtmr3": "00" * 48})
IMAGES = (Subject("image.raw", {"sha256": "12" * 32}),)
LAB = SigstoreLab()


def make(**changes) -> Release:
    fields = {"workload": "serve", "version": 12, "released": NOW - timedelta(days=30), "measurements": (TDX,)}
    return Release(**{**fields, **changes})


def refusal(envelope: bytes, trust: ReleaseTrust = TRUST, now: datetime = NOW) -> str:
    with pytest.raises((AttestError, ParseError)) as error:
        reference_values(envelope, trust, now=now)
    return error.value.code


def signed(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    return PUBLISHER.sign(payload, payload_type).encode()


def changed(**changes) -> bytes:
    """A signed manifest whose predicate was written by hand."""
    statement = json.loads(statement_of(make()))
    statement["predicate"].update(changes)
    return signed(json.dumps(statement).encode())


# -- a key -------------------------------------------------------------------------------------------------------


def test_a_release_becomes_workloads_of_a_policy():
    source = Source("https://github.com/example/serve", "f" * 40)
    envelope = sign_release(make(source=source, builder="https://ci.example"), PUBLISHER, IMAGES)
    values = reference_values(envelope, TRUST, now=NOW)
    assert values == (ReferenceValues("serve", TDX.registers, "tdx"),)
    assert Policy.from_toml(Policy(workloads=values).to_toml()).workloads == values
    release, images = verify_release(envelope, TRUST, now=NOW)
    assert (release.source, images) == (source, IMAGES)


def test_signature():
    envelope = sign_release(make(), Identity.generate())
    assert refusal(envelope) == "attest.release-signature-invalid"
    assert refusal(signed(statement_of(make()), "text/plain")) == "attest.release-signature-invalid"
    for data in (b"", b"{}", bytes(MAX_BUNDLE_BYTES + 1)):
        assert refusal(data) == "attest.release-malformed"


def test_any_changed_byte_is_refused():
    envelope = sign_release(make(), PUBLISHER, IMAGES)
    fields = json.loads(envelope)
    for name in ("payload", "sig"):
        holder = fields if name == "payload" else fields["signatures"][0]
        for offset in range(0, len(holder[name]) - 2, 5):
            changed_text = holder[name][:offset] + ("A" if holder[name][offset] != "A" else "B")
            spoiled = envelope.replace(holder[name].encode(), (changed_text + holder[name][offset + 1 :]).encode())
            assert refusal(spoiled).startswith(("attest.release-", "attest.statement-"))


def test_the_kind_of_signature_is_the_verifiers_choice():
    """A bundle that sigstore would accept says nothing to a verifier that trusts a key, nor the other way round."""
    bundle = encode(LAB.bundle(statement_of(make())))
    assert refusal(bundle) == "attest.release-malformed"
    assert refusal(sign_release(make(), PUBLISHER), SIGSTORE) == "attest.sigstore-bundle-malformed"


def test_other_statements_of_the_same_signer():
    statement = json.loads(statement_of(make()))
    for change in ({"predicateType": PREDICATE_TYPE + "/"}, {"_type": "https://in-toto.io/Statement/v0.1"}):
        assert refusal(signed(json.dumps({**statement, **change}).encode())) == "attest.release-type-mismatch"
    assert refusal(signed(b"{}")) == "attest.statement-malformed"


def test_other_workload():
    assert refusal(sign_release(make(workload="train"), PUBLISHER)) == "attest.release-workload-mismatch"


def test_rollback():
    envelope = sign_release(make(version=12), PUBLISHER)
    newer = ReleaseTrust("serve", key=TRUST.key, min_version=13)
    assert refusal(envelope, newer) == "attest.release-too-old"
    reference_values(envelope, ReleaseTrust("serve", key=TRUST.key, min_version=12), now=NOW)
    since = ReleaseTrust("serve", key=TRUST.key, not_before=NOW - timedelta(days=29))
    assert refusal(envelope, since) == "attest.release-too-old"


def test_times():
    assert refusal(sign_release(make(released=NOW + timedelta(hours=1)), PUBLISHER)) == "attest.release-in-future"
    ended = sign_release(make(not_after=NOW - timedelta(seconds=1)), PUBLISHER)
    assert refusal(ended) == "attest.release-expired"
    reference_values(sign_release(make(not_after=NOW), PUBLISHER), TRUST, now=NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": -1},
        {"version": 1.5},
        {"unknown": 1},
        {"released": "yesterday"},
        {"released": "2026-01-01T00:00:00"},
        {"not_after": "2027-01-01T00:00:00"},
        {"measurements": []},
        {"measurements": [{"tee": "tdx", "registers": {"mrtd": "ab" * 48}}]},
        {"measurements": [{"tee": "tdx", "registers": {**TDX.registers, "mrtd": "xyz"}}]},
        {"measurements": [{"tee": "tdx", "registers": dict.fromkeys(TDX.registers, "any")}]},
        {"source": {"repository": "x", "commit": "HEAD"}},
    ],
)
def test_malformed_manifests(changes):
    assert refusal(changed(**changes)) == "attest.release-malformed"


def test_what_is_not_understood_is_not_signed():
    with pytest.raises(ParseError):
        sign_release(make(measurements=(Measurements("tdx", {}),)), PUBLISHER)


def test_unknown_tees_are_left_out():
    other = Measurements("future", {"x": "00"})
    envelope = sign_release(make(measurements=(other, TDX)), PUBLISHER)
    assert [values.tee for values in reference_values(envelope, TRUST, now=NOW)] == ["tdx"]
    assert refusal(sign_release(make(measurements=(other,)), PUBLISHER)) == "attest.release-tee-unknown"


# -- sigstore ----------------------------------------------------------------------------------------------------

SIGSTORE = ReleaseTrust(
    "serve",
    sigstore=SigstoreIdentity(issuer=GITHUB, repository=REPOSITORY),
    sigstore_root=LAB.trusted_root().decode(),
)


def test_a_release_signed_by_a_workflow():
    bundle = encode(LAB.bundle(statement_of(make())))
    assert reference_values(bundle, SIGSTORE, now=NOW) == make().values()


def test_a_workflow_that_is_not_trusted():
    other = ReleaseTrust(
        "serve",
        sigstore=SigstoreIdentity(issuer=GITHUB, repository="example/other"),
        sigstore_root=SIGSTORE.sigstore_root,
    )
    assert refusal(encode(LAB.bundle(statement_of(make()))), other) == "attest.sigstore-repository-mismatch"


def test_a_release_that_the_log_saw_too_early():
    """The log's time counts too: what was signed before `not_before` can't be dated later by its publisher."""
    since = ReleaseTrust(
        "serve",
        sigstore=SIGSTORE.sigstore,
        sigstore_root=SIGSTORE.sigstore_root,
        not_before=SIGNED_AT + timedelta(days=1),
    )
    bundle = encode(LAB.bundle(statement_of(make(released=NOW))))
    assert refusal(bundle, since) == "attest.release-too-old"


# -- the policy's side -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"key": "00" * 31},
        {"key": "00" * 32},  # a point of small order: any signature would fit
        {"key": TRUST.key, "min_version": -1},
        {"key": TRUST.key, "not_before": datetime(2026, 1, 1)},  # noqa: DTZ001 - no time zone: refused
        {"key": TRUST.key, "sigstore": SIGSTORE.sigstore, "sigstore_root": SIGSTORE.sigstore_root},
        {"sigstore": SIGSTORE.sigstore},
        {"sigstore": SIGSTORE.sigstore, "sigstore_root": "{}"},
        {"sigstore_root": SIGSTORE.sigstore_root},
    ],
)
def test_trust_is_checked_when_it_is_read(fields):
    with pytest.raises(MitaiError):
        ReleaseTrust("serve", **fields)


def test_a_policy_takes_what_it_trusts():
    policy = Policy.from_toml(Policy(releases=(ReleaseTrust("train", key=TRUST.key), TRUST, SIGSTORE)).to_toml())
    assert policy.releases[1:] == (TRUST, SIGSTORE)
    by_key, by_workflow = sign_release(make(), PUBLISHER), encode(LAB.bundle(statement_of(make(version=13))))
    assert with_releases(policy, [], now=NOW) == policy
    assert with_releases(policy, [by_key, by_workflow], now=NOW).workloads == make().values() * 2
    for envelope, trusting, code in (
        (by_key, Policy(), "attest.release-untrusted"),
        (sign_release(make(), Identity.generate()), Policy(releases=(TRUST,)), "attest.release-signature-invalid"),
        (sign_release(make(not_after=NOW - timedelta(1)), PUBLISHER), policy, "attest.release-expired"),
    ):
        with pytest.raises((AttestError, ParseError)) as error:
            with_releases(trusting, [envelope], now=NOW)
        assert error.value.code == code


def test_times_are_utc_on_the_wire():
    assert b'"released":"2026-01-30T12:00:00Z"' in statement_of(make(released=datetime(2026, 1, 30, 12, tzinfo=UTC)))
