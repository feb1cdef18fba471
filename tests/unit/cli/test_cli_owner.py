"""An owner's commands: what is sent to whom."""

from __future__ import annotations

import pytest

from mitai.cli.owner import _own_token
from mitai.errors import ClientError
from mitai.fleet.home import Home, PlatformFile


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    home.write_platform(PlatformFile("http://127.0.0.1:8700", "u" * 20, "o" * 20, {}, simulated=True))
    return home


def test_the_own_gateway_gets_the_own_upload_token(home):
    assert _own_token(home, "http://127.0.0.1:8700/") == "u" * 20


@pytest.mark.parametrize(
    "gateway", ["https://gateway.example", "http://127.0.0.1:8701", "http://127.0.0.1:8700.evil.test"]
)
def test_no_other_gateway_does(home, gateway):
    with pytest.raises(ClientError) as refused:
        _own_token(home, gateway)
    assert refused.value.code == "client.no-upload-token"
    assert "u" * 20 not in str(refused.value)
