"""Properties of the broker's keys: any bytes are read or refused, any change of a share is noticed."""

from __future__ import annotations

import io
import secrets

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitai.broker import backup, peers, protocol, recovery
from mitai.broker.records import Root, pack_row, row_id, unpack_row
from mitai.broker.vault import Vault
from mitai.errors import BrokerError, MitaiError
from mitai.identity import Identity

OWNERS = [(Identity.generate(), recovery.RecoveryKey(kem="x25519", seed=secrets.token_bytes(32))) for _ in range(5)]
LEDGER, ROOT = Identity.generate(), Root(7, secrets.token_bytes(32))


def document(threshold: int, count: int) -> bytes:
    members = tuple(recovery.Member(party.public.raw, key.public()) for party, key in OWNERS[:count])
    plan = recovery.Plan(version=1, threshold=threshold, members=members)
    return recovery.make_shares(ROOT, protocol.encode(plan), LEDGER)


DOCUMENTS = {(m, n): document(m, n) for n in range(1, 6) for m in range(1, n + 1) if m > 1 or n == 1}
THREE_OF_FIVE = DOCUMENTS[3, 5]


@given(st.sampled_from(sorted(DOCUMENTS)), st.data())
def test_exactly_enough_members_give_the_key(size: tuple[int, int], data: st.DataObject) -> None:
    shares = recovery.read_shares(DOCUMENTS[size])
    who = data.draw(st.lists(st.integers(0, size[1] - 1), unique=True))
    opened = [recovery.open_share(shares, OWNERS[number][1]) for number in who]
    if len(who) >= size[0]:
        assert recovery.combine(shares, opened) == ROOT.key
    else:
        with pytest.raises(BrokerError, match="takes"):
            recovery.combine(shares, opened)


@given(st.integers(0, len(THREE_OF_FIVE) - 1), st.integers(1, 255))
def test_any_changed_byte_of_the_document_is_noticed(at: int, by: int) -> None:
    changed = THREE_OF_FIVE[:at] + bytes([THREE_OF_FIVE[at] ^ by]) + THREE_OF_FIVE[at + 1 :]
    try:
        read = recovery.read_shares(changed, protocol.audience(LEDGER.public))
    except MitaiError:
        return
    assert read == recovery.read_shares(THREE_OF_FIVE)  # of the envelope, a key id that nobody relies on


@given(st.integers(0, 4), st.data())
def test_any_changed_word_of_a_share_is_noticed(member: int, data: st.DataObject) -> None:
    shares = recovery.read_shares(THREE_OF_FIVE)
    index, words = recovery.open_share(shares, OWNERS[member][1])
    parts = words.split()
    at = data.draw(st.integers(0, len(parts) - 1))
    parts[at] = data.draw(st.sampled_from(["academic", "acid", "zero", parts[at - 1]]).filter(lambda w: w != parts[at]))
    with pytest.raises(BrokerError, match="not that member's"):
        recovery.check_share(shares, index, " ".join(parts))


@given(st.binary(max_size=300), st.sampled_from([peers.RootRequest, peers.RootAnswer, recovery.Plan, recovery.Shares]))
def test_arbitrary_bytes_are_refused(data: bytes, kind: type) -> None:
    with pytest.raises(MitaiError):
        protocol.decode(data, kind, 1000)
    with pytest.raises(MitaiError):
        recovery.read_shares(data)
    with pytest.raises(MitaiError):
        list(backup._rows(io.BytesIO(backup.MAGIC + data)))


@given(st.text(max_size=80), st.integers(0, 2**32))
def test_rows_keep_their_ids(identifier: str, epoch: int) -> None:
    data = pack_row(identifier, Root(epoch, b"k" * 32))
    assert row_id(data) == identifier
    assert unpack_row(data, Root) == (identifier, Root(epoch, b"k" * 32))


@given(st.binary(max_size=64), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_blobs_open_under_their_own_key_and_tag_alone(content: bytes, key: bytes, other: bytes) -> None:
    vault = Vault(key)
    tag = vault.tag("blob", protocol.sha256_hex(content))
    sealed = vault.seal_blob(tag, content)
    assert vault.open_blob(tag, sealed) == content
    for opener, name in ((Vault(other), tag), (vault, vault.tag("blob", protocol.sha256_hex(content + b"x")))):
        if (opener, name) == (vault, tag) or (other == key and name == tag):
            continue
        with pytest.raises(BrokerError):
            opener.open_blob(name, sealed)


@given(st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=8)), max_size=4), st.integers(0, 400))
def test_cut_backups_are_refused(documents: list[tuple[str, bytes]], cut: int) -> None:
    tables = {name: backup._columns(table) for name, table in backup._TABLES.items()}
    rows = [backup.Row("broker_documents", list(row)) for row in documents]
    parts = [backup.Header("0002", tables), *rows, backup.End(len(rows))]
    framed = [msgspec.msgpack.encode(part) for part in parts]
    data = backup.MAGIC + b"".join(len(part).to_bytes(4) + part for part in framed) + bytes(32)
    assert list(backup._rows(io.BytesIO(data))) == rows
    if cut:
        with pytest.raises(MitaiError):
            list(backup._rows(io.BytesIO(data[:-cut])))
