"""Root keys as values of their own, sealed once for each machine; blobs know the root key's epoch; public documents.

Revision ID: 0002
Revises: 0001
"""

from alembic import op
from sqlalchemy import Column, Integer, LargeBinary, String

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables, add the column."""
    op.create_table(
        "broker_roots",
        Column("tag", LargeBinary(16), primary_key=True),
        Column("stamp", LargeBinary(16), nullable=False),
        Column("sealed", LargeBinary, nullable=False),
    )
    op.create_table(
        "broker_documents",
        Column("name", String(16), primary_key=True),
        Column("data", LargeBinary, nullable=False),
    )
    op.add_column("broker_blobs", Column("epoch", Integer, nullable=False, server_default="0"))
