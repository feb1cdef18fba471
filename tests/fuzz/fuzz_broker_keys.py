"""Fuzz what strangers send about the broker's keys: plans, shares, joins, backups. Any bytes give a value or a refusal.

Run: `python tests/fuzz/fuzz_broker_keys.py [corpus]`.
"""

from __future__ import annotations

import io
import secrets
import sys

import msgspec

from mitai.broker import backup, peers, protocol, recovery
from mitai.broker.records import Root
from mitai.errors import MitaiError
from mitai.identity import Envelope, Identity

KEY = recovery.RecoveryKey(kem="x25519", seed=b"\x01" * 32)
MEMBER = recovery.Member(Identity.from_seed(b"\x02" * 32).public.raw, KEY.public())
PLAN = protocol.encode(recovery.Plan(version=1, threshold=1, members=(MEMBER,)))
LEDGER = Identity.from_seed(b"\x03" * 32)
SHARES = recovery.make_shares(Root(1, secrets.token_bytes(32)), PLAN, LEDGER)
ROW = msgspec.msgpack.encode(backup.Row("broker_documents", ["shares", b"data"]))
HEADER = msgspec.msgpack.encode(
    backup.Header("0002", {name: backup._columns(table) for name, table in backup._TABLES.items()})
)
END = msgspec.msgpack.encode(backup.End(1))
BACKUP = backup.MAGIC + b"".join(len(part).to_bytes(4) + part for part in (HEADER, ROW, END)) + bytes(32)
SEEDS = (PLAN, SHARES, BACKUP, Envelope.decode(SHARES).payload, protocol.encode(KEY), protocol.encode(MEMBER))
KINDS = (
    peers.RootRequest,
    peers.RootAnswer,
    peers.SealedRoot,
    recovery.RecoveryKey,
    recovery.Member,
    recovery.Plan,
    recovery.Shares,
    recovery.RecoveryAnswer,
    recovery.RecoveryShare,
    recovery.RecoveryProgress,
)


def one_input(data: bytes) -> None:
    """Parse the input as everything that it could be."""
    for kind in KINDS:
        try:
            value = protocol.decode(data, kind, 1 << 22)
        except MitaiError:
            continue
        if protocol.decode(protocol.encode(value), kind, 1 << 23) != value:
            raise AssertionError(f"{kind} changes when it is written and read again")
    for read in (_plan, _shares, _signed_shares, _backup):
        try:
            read(data)
        except MitaiError:
            continue


def _plan(data: bytes) -> None:
    recovery.decode_plan(data)
    recovery.check_plan(LEDGER.sign(data, recovery.PLAN_TYPE), None, [LEDGER.public.raw], "0" * 64)


def _shares(data: bytes) -> None:
    _open(recovery.read_shares(data))


def _signed_shares(data: bytes) -> None:
    """As if the ledger's key had signed it: what lies below the signature."""
    document = protocol.decode(data, recovery.Shares, 1 << 22)
    signed = msgspec.structs.replace(document, ledger_key=LEDGER.public.raw)
    _open(recovery.read_shares(LEDGER.sign(protocol.encode(signed), recovery.SHARES_TYPE).encode()))


def _open(shares: recovery.Shares) -> None:
    recovery.combine(shares, [recovery.open_share(shares, KEY)])


def _backup(data: bytes) -> None:
    list(backup._rows(io.BytesIO(data)))


def main() -> None:
    """Fuzz until stopped."""
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
