"""The fuzz targets run, and hold for a few inputs of each kind."""

from __future__ import annotations

import fuzz_broker_kbs
import fuzz_broker_keys
import fuzz_broker_lineage
import fuzz_broker_policy
import fuzz_broker_policy_tools
import fuzz_broker_protocol
import fuzz_broker_residency
import msgspec
import pytest


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\xff",
        b"[" * 5000,
        b'{"nonce":"' + b"0" * 64 + b'","expires_s":60}',
        b'{"type":"revoke","broker":"%b","party":"%b","sequence":1,"time_s":2}' % (b"0" * 64, b"1" * 64),
        b'{"nonce":"%b","lease_s":60}' % (b"0" * 64),
        b'{"broker":"%b","party":"%b","capsules":["c"],"time_s":1,"nonce":"%b"}' % (b"0" * 64, b"1" * 64, b"2" * 64),
        msgspec.json.encode({"evidence": "AA==", "nonce": "0" * 64, "purpose": "inference", "capsules": ["c"]}),
    ],
)
def test_protocol(data: bytes) -> None:
    fuzz_broker_protocol.one_input(data)


@pytest.mark.parametrize(
    "data", [b"", b"permit(principal, action, resource);", b"context.uses > 1", b"context.uses + 1", b"\xff", b"}" * 99]
)
def test_policy(data: bytes) -> None:
    fuzz_broker_policy.one_input(data)


@pytest.mark.parametrize("data", fuzz_broker_lineage.SEEDS)
def test_lineage(data: bytes) -> None:
    fuzz_broker_lineage.one_input(data)


@pytest.mark.parametrize("data", fuzz_broker_residency.SEEDS)
def test_residency(data: bytes) -> None:
    fuzz_broker_residency.one_input(data)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 5000, *fuzz_broker_keys.SEEDS])
def test_keys(data: bytes) -> None:
    fuzz_broker_keys.one_input(data)
    fuzz_broker_keys.one_input(data[:-1])


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 5000, *fuzz_broker_kbs.SEEDS])
def test_kbs(data: bytes) -> None:
    fuzz_broker_kbs.one_input(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'context.uses < 3 || context.tee == "x"',
        b"permit(principal, action, resource) unless { context.simulated };",
        b"// only\n;;",
        b"uses = 3",
        b'[[case]]\nname = "x"\nallow = true\nrequest = {uses = -1}',
        b'{"data_uuid":"d","rules":[{"rule_id":"","grantee_party_ids":["b"],"columns":["*"],"op_constraints":[{"op_name":"*"}]}]}',
        b"\xff{",
        b"true && " * 3000 + b"true",
    ],
)
def test_policy_tools(data: bytes) -> None:
    fuzz_broker_policy_tools.one_input(data)
