"""Properties of derivations: one spelling, no byte that can be changed, and the consent of all, however drawn."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitai.broker import inheritance
from mitai.broker.lineage import PAYLOAD_TYPE, Declared, Statement
from mitai.broker.protocol import Origin
from mitai.broker.records import Capsule, Grant, Made, Platform
from mitai.errors import MitaiError
from mitai.identity import Envelope, Identity

KEY = Identity.from_seed(bytes(32))
DIGEST = st.text("0123456789abcdef", min_size=64, max_size=64)
WORD = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
STATEMENTS = st.builds(
    Statement.build,
    st.tuples(WORD, DIGEST),
    st.dictionaries(WORD, DIGEST, min_size=1, max_size=5),
    st.builds(
        Declared,
        st.from_regex(r"[a-z][a-z-]{0,31}", fullmatch=True),
        st.dictionaries(WORD, st.text(max_size=9), max_size=32),
    ),
    st.builds(
        Origin,
        st.from_regex(r"[a-z0-9._-]{1,64}", fullmatch=True),
        st.dictionaries(WORD, WORD, min_size=1, max_size=8),
        DIGEST,
    ),
    broker=DIGEST,
    kind=st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True),
    byproducts=st.dictionaries(WORD, DIGEST, max_size=3),
)


@given(STATEMENTS)
def test_a_statement_survives_its_journey(statement: Statement) -> None:
    envelope = Envelope.decode(statement.sign(KEY).encode())
    assert Statement.open(envelope, KEY.public) == statement


@given(STATEMENTS, st.data())
def test_any_byte_of_it_counts(statement: Statement, data: st.DataObject) -> None:
    envelope = statement.sign(KEY)
    payload = bytearray(envelope.payload)
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MitaiError):
        Statement.open(Envelope(bytes(payload), PAYLOAD_TYPE, envelope.signatures), KEY.public)
    with suppress(MitaiError):  # signed anew it is another statement, or none
        assert Statement.open(KEY.sign(bytes(payload), PAYLOAD_TYPE), KEY.public) != statement


PLATFORM = Platform("tdx", False, "UpToDate", (), 1, None)


class Graph:
    """Capsules as a draft would give them."""

    def __init__(self) -> None:
        self.capsules: dict[str, Capsule] = {}

    def get(self, _kind: type, name: str) -> Capsule | None:
        return self.capsules.get(name)

    def add(self, name: str, grants: tuple[Grant, ...], parents: tuple[str, ...] = ()) -> None:
        lineage = {each for parent in parents for each in (parent, *self.capsules[parent].lineage)}
        made = Made(b"", "", "", parents, tuple(sorted(lineage)), 1, "w", {}, {}, PLATFORM) if parents else None
        self.capsules[name] = Capsule(name, "o", "m", "e", 1, bytes(32), 1, grants, made=made)


@given(st.data())
def test_every_owner_of_every_root_is_asked_unless_it_spoke_below(data: st.DataObject) -> None:
    graph = Graph()
    roots = [f"r{number}" for number in range(data.draw(st.integers(1, 4)))]
    for root in roots:
        owners = data.draw(st.sets(st.sampled_from("abc"), min_size=1))
        policies = {owner: data.draw(st.none() | st.just(f"{root}{owner}")) for owner in sorted(owners)}
        graph.add(root, tuple(Grant(owner, policy) for owner, policy in policies.items()))
    names = list(roots)
    for number in range(data.draw(st.integers(1, 5))):
        parents = tuple(sorted(data.draw(st.sets(st.sampled_from(names), min_size=1, max_size=3))))
        owners = sorted({grant.party for parent in parents for grant in graph.capsules[parent].grants})
        policies = {owner: data.draw(st.sampled_from([None, None, f"d{number}{owner}"])) for owner in owners}
        names.append(f"d{number}")
        graph.add(names[-1], tuple(Grant(owner, policy) for owner, policy in policies.items()), parents)
    last = graph.capsules[names[-1]]

    def expected(name: str, owner: str) -> set[str | None]:
        capsule = graph.capsules[name]
        grant = capsule.grant_of(owner)
        if grant is None:
            return set()
        if grant.policy_sha256 is not None or capsule.made is None:
            return {grant.policy_sha256}
        return {each for parent in capsule.made.parents for each in expected(parent, owner)}

    asked = inheritance.asked(graph, last)
    assert {counts.party for counts, _ in asked} == {grant.party for grant in last.grants}
    for grant in last.grants:
        found = [source.policy_sha256 for counts, source in asked if counts.party == grant.party]
        assert set(found) == expected(last.capsule, grant.party)
        assert len(found) == len(set(found))
        assert all(counts is grant for counts, _ in asked if counts.party == grant.party)
