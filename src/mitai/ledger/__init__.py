"""The append-only log: a Merkle tree in public tiles, signed checkpoints, proofs, entries and receipts.

`SqlStore` lies in `mitai.ledger.sql`, `submit` and the witness messages in `mitai.ledger.witness`, the entry types in
`mitai.ledger.entry`: a client that only checks proofs does not load a database library.
"""

from mitai.ledger.log import Log, Store
from mitai.ledger.note import Checkpoint, verify_checkpoint, vkey
from mitai.ledger.proof import verify_consistency, verify_inclusion
from mitai.ledger.receipt import Receipt, ReceiptBundle, verify_receipt
from mitai.ledger.store import FolderStore, MemoryStore
from mitai.ledger.tiles import TileReader, folder_reader
from mitai.ledger.tree import leaf_hash
from mitai.ledger.verify import verify_log

__all__ = [
    "Checkpoint",
    "FolderStore",
    "Log",
    "MemoryStore",
    "Receipt",
    "ReceiptBundle",
    "Store",
    "TileReader",
    "folder_reader",
    "leaf_hash",
    "verify_checkpoint",
    "verify_consistency",
    "verify_inclusion",
    "verify_log",
    "verify_receipt",
    "vkey",
]
