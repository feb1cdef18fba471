"""Fuzz target: what strangers say to a party that listens, what people type to reach one, and the files of a side.

Run with atheris: `python tests/fuzz/fuzz_mpc_links.py`.
"""

from __future__ import annotations

import sys

from mitai.errors import MpcError, ParseError
from mitai.identity import Identity
from mitai.mpc.meeting import Address
from mitai.mpc.salary import Invitation, _read_roster, salary
from mitai.mpc.setup import PartyConfig
from mitai.mpc.sharing import decoder, parse_share_file
from mitai.mpc.tls import certificate, subject

_KEYS = b"".join(Identity.from_seed(bytes([n]) * 32).public.raw for n in range(3))
SEEDS = (
    certificate(Identity.from_seed(bytes(32))),
    certificate(Identity.from_seed(bytes(32))).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x64"),
    _KEYS + b"\x1f\x90127.0.0.1".ljust(48, b"\0"),
    b"127.0.0.1:7800/ABCD-EFGH-IJKL-MNOP",
    b"[::1]:7800",
    b"52000.50",
    b"2\x1c",
    b'listen = "a:1"\nclients = []\n[peers.p0]\nkey = "' + b"0" * 64 + b'"',
    b'{"v":"mitai mpc shares v1","role":"p0","id":"' + b"0" * 32 + b'"}',
    b'{"model_type":"llama","hidden_size":64,"intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":2}',
)


def one_input(data: bytes) -> None:
    """Parse as everything; only the tree's errors may come out."""
    text = data.decode("utf-8", "replace")
    for work in (
        lambda: subject(data),
        lambda: _read_roster(data),
        lambda: Address.parse(text),
        lambda: Invitation.parse(text),
        lambda: salary(text),
        lambda: PartyConfig.parse(text),
        lambda: parse_share_file(data),
        lambda: decoder(data),
    ):
        try:
            work()
        except (MpcError, ParseError):
            continue


def main() -> None:
    """Fuzz until stopped."""
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
