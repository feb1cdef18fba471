"""The attestation service does what its OpenAPI document says: schemathesis plays a client that knows only that."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from attest_lab import Lab
from mitai.attest.openapi import DOCUMENT
from mitai.attest.results.tokens import new_key
from mitai.attest.service import Service, create_app

schemathesis = pytest.importorskip("schemathesis")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    lab = Lab.build(tmp_path_factory.mktemp("machine") / "platform")
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(Service(lab.policy, new_key())))


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_every_operation(schema, path):
    (method,) = DOCUMENT["paths"][path]

    @given(case=schema[path][method].as_strategy())
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def play(case):
        # a schema can't say that the bytes in base64 are evidence
        case.call_and_validate(excluded_checks=[checks.positive_data_acceptance])

    play()
