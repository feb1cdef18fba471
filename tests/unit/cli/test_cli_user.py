"""What a user names, receipts, addresses, policies, witnesses, and how it is found or refused."""

from __future__ import annotations

import pytest

from mitai.cli.ledger import kept_witnesses, once_cosigned
from mitai.cli.options import DEFAULT_URL, platform_url, read_policy
from mitai.cli.user import receipt_path
from mitai.errors import ClientError, LedgerError, ParseError
from mitai.fleet.home import Home


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def test_a_receipt_is_found_by_how_it_begins(home):
    home.receipts.mkdir(parents=True)
    kept = [home.receipts / f"{stem}.json" for stem in ("abc1", "abd2", "ab")]
    for path in kept:
        path.touch()
    assert receipt_path(home, None, kept) == kept[-1]
    assert receipt_path(home, "abc", kept) == kept[0]
    assert receipt_path(home, "ab", kept) == kept[2]  # a whole id comes first
    assert receipt_path(home, str(kept[1]), kept) == kept[1]
    for which, code in (("a", "client.receipt-ambiguous"), ("x", "client.no-receipt"), ("", "client.no-receipt")):
        with pytest.raises(ClientError) as refused:
            receipt_path(home, which, kept)
        assert refused.value.code == code
    with pytest.raises(ClientError, match="no receipt is kept"):
        receipt_path(home, None, [])


@pytest.mark.parametrize(
    "url",
    [
        *("127.0.0.1:8700", "gateway.example", "ftp://x", "http://", "http://x:99999999", ""),
        *("https://x/#policy=00&", "https://x?", "https://x/?a=b"),  # what is put behind it would be part of that
    ],
)
def test_an_address_that_is_none_is_refused(home, url):
    with pytest.raises(ClientError) as refused:
        platform_url(home, url)
    assert refused.value.code == "client.url-malformed"
    assert "http://" in refused.value.hint


def test_an_address_is_taken(home):
    assert platform_url(home, "https://gateway.example/") == "https://gateway.example"
    assert platform_url(home, None) == DEFAULT_URL


@pytest.mark.parametrize("content", [b"nonsense = [", b"unknown = 1", b"\xff\xfe"])
def test_a_policy_that_is_malformed_is_named(home, tmp_path, content):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ParseError, match=r"mine\.toml") as refused:
        read_policy(home, path)
    assert refused.value.code == "attest.policy-malformed"
    assert refused.value.hint


def test_the_kept_witnesses(home):
    assert kept_witnesses(home) == ()
    path = home.root / "user" / "witnesses"
    path.parent.mkdir()
    path.write_text("# a comment\n\nw+1+x\n  v+2+y  \n")
    assert kept_witnesses(home) == ("w+1+x", "v+2+y")


def test_a_cosignature_may_come_a_moment_later():
    tries = []

    def check():
        tries.append(1)
        if len(tries) < 3:
            raise LedgerError("ledger.witnesses-missing", "none yet")
        return "report"

    assert once_cosigned(check) == "report"
    with pytest.raises(LedgerError):
        once_cosigned(lambda: (_ for _ in ()).throw(LedgerError("ledger.witnesses-missing", "x")), wait_s=0.2)


def test_nothing_else_is_tried_again():
    tries = []

    def check():
        tries.append(1)
        raise LedgerError("ledger.root-invalid", "x")

    with pytest.raises(LedgerError):
        once_cosigned(check)
    assert len(tries) == 1
