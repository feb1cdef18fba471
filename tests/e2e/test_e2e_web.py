"""The page that a platform serves: what it is offered, what its release names, and a check that finds another one."""

from __future__ import annotations

import hashlib
import json

import httpx2

from mitai.fleet.releases import WORKLOADS


def test_the_host_offers_what_the_user_pins(running):
    offer = httpx2.get(f"{running.gateway}/mitai.json").json()
    assert offer["policy"] == running.home.policy.read_text()
    types = [json.loads(release)["payloadType"] for release in offer["releases"]]
    assert types == ["application/vnd.in-toto+json"] * len(WORKLOADS)
    link = running.mitai("web", "open", "--no-browser", "--json").fields["page"]
    assert link == f"{running.gateway}/#policy={hashlib.sha256(offer['policy'].encode()).hexdigest()}"


def test_the_platforms_page_is_the_one_that_its_release_names(running):
    release = str(running.home.release("serve"))
    told = running.mitai("web", "check", "--release", release, "--json").fields
    assert (told["verdict"], told["headers_checked"]) == ("published", True)
    assert told["digest"] == running.mitai("web", "digest", "--json").fields["digest"]


def test_a_page_of_another_digest_is_refused(running):
    told = running.mitai("web", "check", "--digest", "0" * 64, "--json", status=1).fields
    assert told["error"]["code"] == "web.page-differs"


def test_a_release_is_verified_under_the_same_policy(running):
    releases = [word for name in ("serve", "broker") for word in ("--release", str(running.home.release(name)))]
    assert running.mitai("verify", *releases, "--json").fields["verdict"] == "verified"
