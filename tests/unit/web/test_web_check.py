"""`mitai web check`: hosts that change, drop, add or dress up the page, or go on for ever."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitai.attest.refvalues.release import Measurements, Release
from mitai.attest.refvalues.statement import Subject
from mitai.errors import WebError
from mitai.web import check
from mitai.web.check import host_faults, page_digest
from mitai.web.export import connected, export
from mitai.web.page import LIST_NAME, MAX_FILE_BYTES, Page, page_headers
from mitai.web.site import Offer

SCRIPT = b"go();" * 100
HTML = (
    b'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    b'connect-src \'self\'; base-uri \'none\'"><script type="module" src="./assets/a.js"></script>'
)
PAGE = Page({"index.html": HTML, "console.html": HTML, "assets/a.js": SCRIPT, "badge.js": b"badge()"})


class Host(httpx2.BaseTransport):
    """A host of the page; `files` and `headers` are what it changes."""

    def __init__(self, page: Page = PAGE, headers: dict[str, dict[str, str | None]] | None = None, **files: object):
        listed = {f"/{path}": data for path, data in page.files.items()} | {f"/{LIST_NAME}": page.list_bytes}
        self.files = {**listed, "/": page.files["index.html"], "/console": page.files["console.html"]}
        self.changed = headers or {}
        self.seen: list[httpx2.Request] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.seen.append(request)
        path = request.url.path
        data = self.files.get(path)
        if data is None:
            return httpx2.Response(404)
        name = {"/": "index.html", "/console": "console.html"}.get(path, path[1:])
        headers = page_headers(name, data if isinstance(data, bytes) else b"") | self.changed.get(path, {})
        sent = {name: value for name, value in headers.items() if value is not None}
        return httpx2.Response(200, headers=sent, content=data if isinstance(data, bytes) else data())

    def faults(self, digest: str = PAGE.digest, headers: bool = True) -> list[str]:
        return host_faults("https://host/", digest, headers=headers, http=httpx2.Client(transport=self))


@pytest.fixture(autouse=True)
def _nothing_is_installed(monkeypatch):
    monkeypatch.setattr(check, "installed_page", lambda: None)


def test_the_published_page_has_no_faults():
    host = Host()
    assert host.faults() == []
    assert {request.url.path for request in host.seen} == {*host.files}
    assert {request.headers["accept-encoding"] for request in host.seen} == {"identity"}


@pytest.mark.parametrize(
    ("path", "data", "faults"),
    [
        ("/assets/a.js", b"evil()", ["assets/a.js is changed"]),
        ("/assets/a.js", SCRIPT + b" ", ["assets/a.js is changed"]),
        ("/badge.js", None, ["badge.js is missing (status 404)"]),
        ("/", HTML + b"<b>", ["/: index.html is changed"]),
        ("/console", HTML + b"<b>", ["/console: console.html is changed"]),
        ("/console", None, []),  # a host of plain files: it is at /console.html
        ("/", None, ["/: index.html is missing (status 404)"]),
    ],
)
def test_a_swapped_file_is_named(path, data, faults):
    host = Host()
    host.files[path] = data
    assert host.faults() == faults


def test_another_page_under_a_list_of_its_own_is_refused_before_anything_else_is_read():
    host = Host(Page({**PAGE.files, "assets/a.js": b"evil()"}))
    assert host.faults() == [f"page.sha256 is not the one of the page {PAGE.digest}"]
    assert len(host.seen) == 1


def test_what_is_installed_here_tells_which_files_differ(monkeypatch):
    monkeypatch.setattr(check, "installed_page", lambda: PAGE)
    host = Host(Page({**PAGE.files, "assets/a.js": b"evil()", "more.js": b""}))
    assert host.faults() == [
        "page.sha256: assets/a.js is changed",
        "page.sha256: more.js is not part of the page",
        "assets/a.js is changed",
    ]
    del host.files[f"/{LIST_NAME}"]
    host.files["/assets/a.js"] = SCRIPT
    assert host.faults() == ["page.sha256 is missing or malformed"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content-security-policy", None),
        ("content-security-policy", "default-src *"),
        ("x-content-type-options", None),
        ("referrer-policy", "unsafe-url"),
        ("cross-origin-opener-policy", None),
    ],
)
def test_a_header_that_is_missing_or_other_is_named(name, value):
    host = Host(headers={"/": {name: value}})
    [fault] = host.faults()
    assert fault.startswith(f"/: index.html comes without the header {name}: ")
    assert host.faults(headers=False) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("link", "</evil.css>; rel=stylesheet"),
        ("refresh", "0; url=https://evil"),
        ("service-worker-allowed", "/"),
        ("speculation-rules", '"/rules.json"'),
        ("content-security-policy-report-only", "default-src 'none'; report-uri https://evil"),
        ("set-cookie", "a=b"),
        ("content-encoding", "br"),
    ],
)
def test_a_header_that_adds_to_the_page_is_named(name, value):
    host = Host(headers={"/index.html": {name: value}})
    assert host.faults() == host.faults(headers=False) == [f"index.html comes with a header {name}"]


@pytest.mark.parametrize("kind", ["text/html; charset=utf-16", "text/html;charset=utf-7", "application/xhtml+xml", ""])
def test_a_page_that_is_to_be_read_in_another_way_is_refused(kind):
    assert Host(headers={"/": {"content-type": kind}}).faults(headers=False) == [
        f"/: index.html is to be read as something else: content-type {kind!r}"
    ]


@pytest.mark.parametrize("kind", ["text/html", "text/html; charset=UTF-8", 'TEXT/HTML;charset="utf-8"'])
def test_the_same_type_in_another_spelling_is_the_same(kind):
    assert Host(headers={"/": {"content-type": kind}}).faults() == []


def test_a_page_that_is_damaged_here_does_not_keep_from_checking_a_host(monkeypatch):
    def damaged():
        raise WebError("web.page-damaged", "the page here")

    monkeypatch.setattr(check, "installed_page", damaged)
    assert Host().faults() == []


def test_a_file_without_an_end_is_cut():
    given = 0

    def endless() -> Iterator[bytes]:
        nonlocal given
        while True:
            given += 1 << 20
            yield bytes(1 << 20)

    host = Host()
    host.files["/assets/a.js"] = endless
    assert host.faults() == ["assets/a.js is changed"]
    assert given <= MAX_FILE_BYTES + (2 << 20)


def test_no_redirect_is_followed():
    class Elsewhere(Host):
        def handle_request(self, request):
            if request.url.path == "/badge.js":
                assert request.url.host == "host"
                return httpx2.Response(302, headers={"location": "https://evil/badge.js"})
            return super().handle_request(request)

    assert Elsewhere().faults() == ["badge.js is missing (status 302)"]


def test_a_host_that_does_not_answer():
    class Down(httpx2.BaseTransport):
        def handle_request(self, request):
            raise httpx2.ConnectError("refused", request=request)

    with pytest.raises(WebError) as refused:
        host_faults("https://host", PAGE.digest, http=httpx2.Client(transport=Down()))
    assert refused.value.code == "web.unreachable"


@given(st.sampled_from(sorted(Host().files)), st.integers(0), st.integers(1, 255))
def test_any_flipped_byte_of_any_file_is_a_fault(path, at, flip):
    host = Host()
    data = bytearray(host.files[path])
    data[at % len(data)] ^= flip
    host.files[path] = bytes(data)
    assert host.faults()


def test_a_release_names_the_page():
    release = Release("serve", 7, datetime(2026, 1, 1, tzinfo=UTC), (Measurements("tdx", {}),))
    images = (Subject("image.raw", {"sha256": "00"}), Subject("mitai-page", {"sha256": PAGE.digest}))
    assert page_digest(release, images) == PAGE.digest
    with pytest.raises(WebError) as refused:
        page_digest(release, images[:1])
    assert refused.value.code == "web.release-without-page"


# -- the page elsewhere --------------------------------------------------------------------------------------


def test_an_exported_page_may_connect_to_its_gateway_only(tmp_path):
    page = connected(PAGE, "https://gateway.example:8443/below?x=1")
    html = page.files["index.html"].decode()
    assert "connect-src 'self' https://gateway.example:8443; base-uri" in html
    assert page_headers("index.html", page.files["index.html"])["content-security-policy"].count("8443") == 1
    assert {path for path in PAGE.files if PAGE.files[path] != page.files[path]} == {"index.html", "console.html"}
    assert page.digest != PAGE.digest
    assert Host(page).faults(page.digest) == []
    export(page, tmp_path / "site", Offer(policy="version = 1", gateway="https://gateway.example:8443"))
    assert Page.load(tmp_path / "site").digest == page.digest
    assert b'"gateway": "https://gateway.example:8443"' in (tmp_path / "site" / "mitai.json").read_bytes()


@pytest.mark.parametrize(
    "host",
    ['a"', "a;default-src%20*", "a,b", "a'b", "*", "*.example", "a%20b", "a&amp;b", "a\\b"],
)
def test_a_gateway_that_says_more_than_where_it_is_is_refused(host):
    """Its address stands in the page's Content-Security-Policy."""
    with pytest.raises(WebError) as refused:
        connected(PAGE, f"https://{host}")
    assert refused.value.code == "web.gateway-malformed"


@pytest.mark.parametrize("host", ["127.0.0.1:8700", "[::1]:8700", "gateway_1", "xn--fiq228c.example", "例.example"])
def test_a_gateway_by_address_or_name(host):
    assert connected(PAGE, f"http://{host}").files["index.html"].count(b"connect-src 'self' http://") == 1


def test_nothing_is_exported_over_other_files(tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(WebError) as refused:
        export(PAGE, tmp_path, Offer())
    assert refused.value.code == "web.folder-in-use"


def test_a_page_without_a_policy_for_connections_is_not_exported():
    with pytest.raises(WebError) as refused:
        connected(Page({"index.html": b"<html>"}), "https://gateway.example")
    assert refused.value.code == "web.page-malformed"


# -- the page that is kept in the repository -----------------------------------------------------------------


def test_the_installed_page_is_sealed():
    """Each of its HTML files: a strict policy, one script, and the right integrity of all that it loads."""
    page = Page.load()
    assert {"index.html", "console.html", "badge.js"} <= page.files.keys()
    for path in ("index.html", "console.html"):
        html = page.files[path].decode()
        policy = page_headers(path, page.files[path])["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        for rule in ("connect-src 'self'; ", "base-uri 'none'; ", "require-trusted-types-for 'script'"):
            assert rule in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        tags = re.findall(r"<script[^>]*>|<link[^>]*rel=\"(?:stylesheet|modulepreload)\"[^>]*>", html)
        assert sum(tag.startswith("<script") for tag in tags) == 1
        for tag in tags:
            [loaded] = re.findall(r"(?:src|href)=\"\./([^\"]+)\"", tag)
            digest = base64.b64encode(hashlib.sha384(page.files[loaded]).digest()).decode()
            assert f'integrity="sha384-{digest}"' in tag
    scripts = {path: data for path, data in page.files.items() if path.endswith(".js")}
    assert not [path for path, data in scripts.items() if re.search(rb"(?:^|[;}])import\s*[\"'{*\w]|import\(", data)]
    assert not [path for path in page.files if path.endswith(".map")]
