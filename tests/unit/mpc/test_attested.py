"""Links to machines that prove what they are: what holds, and what is refused."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from mitai.attest import Claims, Evidence, Policy
from mitai.attest.sim import SimPlatform, Workload, reference_values
from mitai.errors import MitaiError, MpcError
from mitai.identity import Identity
from mitai.mpc import attested
from mitai.mpc.attested import Credentials

PARTY, DEALER, OTHER = (Identity.generate() for _ in range(3))


@pytest.fixture(scope="module")
def sim(tmp_path_factory):
    return SimPlatform.create(tmp_path_factory.mktemp("sim"))


@pytest.fixture(scope="module")
def policy(sim):
    known = reference_values(Workload("mpc", bytes(48)))
    return Policy(allow_simulation=True, sim_roots=(sim.sim_root,), workloads=(known,))


@pytest.fixture(scope="module")
def attester(sim):
    return sim.attester(Workload("mpc", bytes(48)))


def link(party, dealer):
    """Link two sides; return for each the code of its error, or the words that it got from the other one."""
    ends = socket.socketpair()

    def side(end, credentials, serving):
        try:
            _, made = credentials.link(end, lambda key: key in (PARTY.public, DEALER.public), serving=serving)
            with made:
                made.be_patient(60)
                made.send(b"hello")
                return bytes(made.receive(5))
        except MpcError as error:
            return error.code

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(side, *each) for each in ((ends[0], party, True), (ends[1], dealer, False))]
    return [each.result() for each in both]


def demanding(policy, identity=PARTY, attester=None):
    return Credentials(identity, attester, {DEALER.key_id: policy})


def test_a_machine_that_proves_what_it_is(policy, attester):
    assert link(demanding(policy), Credentials(DEALER, attester)) == [b"hello"] * 2


def test_both_may_demand_it(policy, attester):
    both = Credentials(DEALER, attester, {PARTY.key_id: policy})
    assert link(demanding(policy, attester=attester), both) == [b"hello"] * 2


def test_without_a_policy_the_key_suffices(attester):
    assert link(Credentials(PARTY), Credentials(DEALER, attester)) == [b"hello"] * 2


def refused(policy, dealer):
    first, second = link(demanding(policy), dealer)
    assert (first, second) == ("mpc.peer-unproven", "mpc.link-lost")


def test_a_machine_that_proves_nothing(policy):
    refused(policy, Credentials(DEALER))


def test_other_code(sim, policy):
    refused(policy, Credentials(DEALER, sim.attester(Workload("mpc", b"\1" * 48))))


def test_another_workload_under_the_same_policy(sim, policy):
    wide = msgspec.structs.replace(
        policy, workloads=(*policy.workloads, reference_values(Workload("train", bytes(48))))
    )
    refused(wide, Credentials(DEALER, Claiming(sim.attester(Workload("train", bytes(48))), workload="train")))


def test_a_simulated_machine_is_none(attester):
    refused(Policy(), Credentials(DEALER, attester))


class Claiming:
    """An attester whose claims are changed."""

    tee = "sim"

    def __init__(self, attester, **changes):
        self._attester, self._changes = attester, changes

    def evidence(self, claims, nonce):
        changed = msgspec.structs.replace(Claims.decode(claims), **self._changes)
        return self._attester.evidence(changed.encode(), nonce)


def test_evidence_over_another_key(policy, attester):
    refused(policy, Credentials(DEALER, Claiming(attester, tls_key_sha256=OTHER.key_id)))


def test_evidence_over_no_key(policy, attester):
    refused(policy, Credentials(DEALER, Claiming(attester, tls_key_sha256=None)))


class Replaying:
    """An attester that shows what it showed before."""

    def __init__(self, attester):
        self._attester, self._shown = attester, None

    def evidence(self, claims, nonce):
        self._shown = self._shown or self._attester.evidence(claims, nonce)
        return self._shown


def test_evidence_of_another_link(policy, attester):
    dealer = Credentials(DEALER, Replaying(attester))
    assert link(demanding(policy), dealer) == [b"hello"] * 2
    refused(policy, dealer)


@pytest.mark.parametrize("said", [b"{}", b"x" * 100, b"\xff" * 2000])
def test_what_is_no_evidence(policy, said):
    class Liar:
        def evidence(self, claims, nonce):
            return type("Said", (), {"encode": lambda self: said})()

    refused(policy, Credentials(DEALER, Liar()))


def test_a_demand_of_another_kind(policy, attester):
    class Strange(Credentials):
        def _prove(self, link, peer):
            link.send(b"\2" + bytes(32))
            link.receive(33)

    assert link(demanding(policy), Strange(DEALER, attester))[0] == "mpc.link-mismatch"


def test_evidence_that_is_too_long(policy, attester, monkeypatch):
    monkeypatch.setattr(attested, "MAX_EVIDENCE_BYTES", 100)
    refused(policy, Credentials(DEALER, attester))


def test_no_byte_of_evidence_may_change(policy, attester):
    own, peer, nonce = DEALER.public, PARTY.public, bytes(32)
    evidence = Credentials(DEALER, attester)._evidence(nonce, peer)
    party = demanding(policy)
    party._appraise(evidence, policy, nonce, own)
    quote = Evidence.decode(evidence).quote
    for at in range(0, len(quote), 97):
        changed = quote[:at] + bytes([quote[at] ^ 1]) + quote[at + 1 :]
        bundle = msgspec.structs.replace(Evidence.decode(evidence), quote=changed).encode()
        with pytest.raises(MitaiError) as caught:
            party._appraise(bundle, policy, nonce, own)
        assert caught.value.code == "mpc.peer-unproven"
