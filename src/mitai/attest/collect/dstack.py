"""TDX quotes from dstack's guest agent, for containers that do not see the kernel's own interface.

Follows dstack's "Guest Agent RPC API", section "Get Quote": HTTP over the Unix socket `/var/run/dstack.sock`.

The agent is part of what the quote measures; what it answers is checked like any evidence.

Example:
    >>> collect(report_data).event_log[:1]
    b'['
"""

from __future__ import annotations

import socket

import msgspec

from mitai.attest.collect.guest import HERE, Guest, check_answer, check_report_data, malformed
from mitai.attest.collect.http import Service, post
from mitai.attest.eventlog.tcg import MAX_EVENT_LOG_BYTES
from mitai.attest.machine import Hardware

SOCKET = "var/run/dstack.sock"
WHAT = "dstack's guest agent"


class _Answer(msgspec.Struct, frozen=True):
    quote: str
    event_log: str = ""


def collect(report_data: bytes, *, guest: Guest = HERE) -> Hardware:
    """Return a quote over 64 bytes, and dstack's event log.

    Raises:
        AttestError: `attest.collect-…`.
    """
    check_report_data(report_data)
    request = {"report_data": report_data.hex()}
    service = Service(socket.AF_UNIX, str(guest.root / SOCKET), "dstack", "/GetQuote")
    answer = post(guest, service, request, _Answer)
    try:
        quote = bytes.fromhex(answer.quote)
    except ValueError as error:
        raise malformed(WHAT, "the quote is not in hex") from error
    event_log = answer.event_log.encode()
    if len(event_log) > MAX_EVENT_LOG_BYTES:
        raise malformed(WHAT, "the event log is too large")
    check_answer("tdx", quote, report_data, WHAT)
    return Hardware(tee="tdx", quote=quote, event_log=event_log)
