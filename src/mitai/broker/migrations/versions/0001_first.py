"""First schema: sealed records, blobs and singles; the ledger's entries, tiles and state.

Revision ID: 0001
Revises:
"""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String

revision = "0001"
down_revision = None

_index = BigInteger().with_variant(Integer, "sqlite")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "broker_records",
        Column("tag", LargeBinary(16), primary_key=True),
        Column("kind", String(16), nullable=False),
        Column("stamp", LargeBinary(16), nullable=False),
        Column("sealed", LargeBinary, nullable=False),
    )
    op.create_table(
        "broker_blobs",
        Column("tag", LargeBinary(16), primary_key=True),
        Column("sealed", LargeBinary, nullable=False),
    )
    op.create_table(
        "broker_singles",
        Column("name", String(16), primary_key=True),
        Column("stamp", LargeBinary(16), nullable=False),
        Column("sealed", LargeBinary, nullable=False),
    )
    op.create_table(
        "ledger_state",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("size", BigInteger, nullable=False),
        Column("checkpoint", LargeBinary),
    )
    op.create_table(
        "ledger_entries",
        Column("position", _index, primary_key=True, autoincrement=False),
        Column("data", LargeBinary, nullable=False),
    )
    op.create_table(
        "ledger_tiles",
        Column("level", Integer, primary_key=True, autoincrement=False),
        Column("position", _index, primary_key=True, autoincrement=False),
        Column("hashes", LargeBinary, nullable=False),
    )
