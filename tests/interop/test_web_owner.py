"""The console in the browser signs as `mitai.client.owner` does: one file of expected bytes, which both sides test.

`python tests/interop/test_web_owner.py` writes the file; `web/app/test/console-signing.test.ts` makes the same bytes.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mitai.broker import protocol
from mitai.broker.commands import check_addressing, open_signed
from mitai.broker.protocol import Budget, Command, CommandRequest, Query, QueryHeader, Revoke, SetPolicy
from mitai.identity import Identity

FILE = Path(__file__).parents[2] / "web" / "app" / "test" / "vectors" / "owner.json"
TIME_S = 1_780_000_000
OWNER, LEDGER = Identity.from_seed(bytes(range(32))), Identity.from_seed(b"\x07" * 32)
BROKER = protocol.audience(LEDGER.public)
SIGNED = {"broker": BROKER, "party": OWNER.key_id, "sequence": 1_780_000_000_123_456, "time_s": TIME_S}
POLICY = """permit (principal == Workload::"serve", action, resource)
when { context.uses < 3 };  // 三次 "\\/\t\b\x01\x7f\u2028é😀"
"""
COMMANDS: dict[str, Command] = {
    "set-policy": SetPolicy(capsule="0f3a.model-1", policy=POLICY, budget=Budget(3, 1_790_000_000), **SIGNED),
    "set-policy-without-end": SetPolicy(
        capsule="m", policy="permit(principal,action,resource);", budget=Budget(), **SIGNED
    ),
    "revoke": Revoke(capsule="0f3a.model-1", **SIGNED),
    "revoke-everything": Revoke(**SIGNED),
}
TARGETS = ("/v1/capsules?page=0", "/v1/capsules/0f3a.model-1", "/v1/decisions?capsule=0f3a.model-1")


def vectors() -> dict[str, object]:
    """Return everything that both sides must agree on."""
    pem = OWNER._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return {
        "identity_pem": pem,
        "key_id": OWNER.key_id,
        "ledger_key": LEDGER.public.raw.hex(),
        "audience": BROKER,
        "sequence": SIGNED["sequence"],
        "time_s": TIME_S,
        "commands": {name: _order(command) | {"body": _body(command).decode()} for name, command in COMMANDS.items()},
        "queries": {target: _query(target) for target in TARGETS},
    }


def _order(command: Command) -> dict[str, object]:
    fields = json.loads(protocol.encode(command))
    return {"order": {name: value for name, value in fields.items() if name not in {*SIGNED, "v"}}}


def _body(command: Command) -> bytes:
    envelope = OWNER.sign(protocol.encode(command), protocol.COMMAND_TYPE)
    return protocol.encode(CommandRequest(public_key=OWNER.public.raw, command=envelope))


def _query(target: str) -> str:
    query = Query(broker=BROKER, party=OWNER.key_id, time_s=TIME_S, target=target)
    signed = OWNER.sign(protocol.encode(query), protocol.QUERY_TYPE)
    return base64.b64encode(protocol.encode(QueryHeader(public_key=OWNER.public.raw, query=signed))).decode()


def test_the_file_holds_what_this_package_signs() -> None:
    assert json.loads(FILE.read_text(encoding="utf-8")) == vectors()


def test_the_broker_takes_what_is_in_the_file() -> None:
    held, now = json.loads(FILE.read_text(encoding="utf-8")), datetime.fromtimestamp(TIME_S, UTC)
    for name, command in COMMANDS.items():
        request = protocol.decode(held["commands"][name]["body"].encode(), CommandRequest, protocol.MAX_COMMAND_BYTES)
        payload = open_signed(request.command, protocol.COMMAND_TYPE, OWNER.public)
        assert protocol.decode_command(payload) == command
        check_addressing(command, OWNER.public, BROKER, now)


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
