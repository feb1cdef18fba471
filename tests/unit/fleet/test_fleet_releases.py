"""Releases that `mitai up` signs: what they say, and when a new version is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mitai.attest import Policy
from mitai.attest.refvalues.release import verify_release, with_releases
from mitai.attest.sim import installed_workload, reference_values
from mitai.errors import AttestError
from mitai.fleet.home import Home
from mitai.fleet.releases import WORKLOADS, publish_installed
from mitai.web.page import Page

NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
PAGE = Page({"index.html": b"<!doctype html>"})


def publish(root, page, now=NOW):
    home = Home(root)
    return publish_installed(home, page, now=now), [home.release(name) for name in WORKLOADS]


def version(path, trust, now=NOW) -> int:
    return verify_release(path.read_bytes(), trust, now=now)[0].version


def test_a_release_names_code_and_page(tmp_path):
    trusts, paths = publish(tmp_path, PAGE)
    policy = with_releases(Policy(releases=trusts), [path.read_bytes() for path in paths], now=NOW)
    assert policy.workloads == tuple(reference_values(installed_workload(name)) for name in WORKLOADS)
    for trust, path in zip(trusts, paths, strict=True):
        _, subjects = verify_release(path.read_bytes(), trust, now=NOW)
        assert [(subject.name, subject.digest) for subject in subjects] == [("mitai-page", {"sha256": PAGE.digest})]


def test_without_a_page_a_release_names_none(tmp_path):
    trusts, paths = publish(tmp_path, None)
    assert verify_release(paths[0].read_bytes(), trusts[0], now=NOW)[1] == ()


def test_the_same_again_is_the_same_release(tmp_path):
    _, paths = publish(tmp_path, PAGE)
    before = [path.read_bytes() for path in paths]
    publish(tmp_path, PAGE, NOW + timedelta(days=1))
    assert [path.read_bytes() for path in paths] == before


def test_another_page_is_the_next_version(tmp_path):
    publish(tmp_path, None)
    trusts, paths = publish(tmp_path, PAGE)
    assert [version(path, trust) for path, trust in zip(paths, trusts, strict=True)] == [2] * len(WORKLOADS)


def test_a_damaged_release_is_made_anew(tmp_path):
    trusts, paths = publish(tmp_path, PAGE)
    paths[0].write_bytes(b"{}")
    publish(tmp_path, PAGE)
    assert version(paths[0], trusts[0]) == 1


def test_another_home_is_another_publisher(tmp_path):
    _, paths = publish(tmp_path / "a", PAGE)
    trusts, _ = publish(tmp_path / "b", PAGE)
    with pytest.raises(AttestError) as refused:
        version(paths[0], trusts[0])
    assert refused.value.code == "attest.release-signature-invalid"
