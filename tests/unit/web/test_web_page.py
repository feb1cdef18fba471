"""The page as a value: its list, its digest, and folders that are not what they say."""

from __future__ import annotations

import hashlib
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mitai.errors import WebError
from mitai.web.page import LIST_NAME, MAX_LIST_BYTES, Page, list_faults, page_headers, page_link, parse_list, sums_of

FILES = {"index.html": b"<!doctype html>", "assets/a-1.js": b"go()", "badge.js": b""}


def write(folder, files=FILES, listed: bytes | None = None):
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / LIST_NAME).write_bytes(Page(files).list_bytes if listed is None else listed)
    return folder


def test_a_page_is_named_by_the_digest_of_its_list(tmp_path):
    page = Page.load(write(tmp_path))
    assert page.files == FILES
    lines = [f"{hashlib.sha256(FILES[path]).hexdigest()}  {path}\n" for path in sorted(FILES)]
    assert page.list_bytes == ("# mitai page v1\n" + "".join(lines)).encode()
    assert page.digest == hashlib.sha256(page.list_bytes).hexdigest()


def test_the_list_is_read_by_sha256sum(tmp_path):
    command = ["sha256sum", "--check", "--strict", LIST_NAME]
    assert subprocess.run(command, cwd=write(tmp_path), check=False, capture_output=True).returncode == 0
    (tmp_path / "badge.js").write_bytes(b"evil()")
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 1


def test_what_a_host_offers_is_no_part_of_the_page(tmp_path):
    write(tmp_path)
    (tmp_path / "mitai.json").write_text("{}")
    assert Page.load(tmp_path).files == FILES


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("badge.js", b"evil()", "badge.js is changed"),
        ("assets/more.js", b"", "assets/more.js is not part of the page"),
        ("badge.js", None, "badge.js is missing"),
    ],
)
def test_a_folder_that_is_not_its_list_is_refused(tmp_path, name, data, told):
    write(tmp_path)
    (tmp_path / name).unlink() if data is None else (tmp_path / name).write_bytes(data)
    with pytest.raises(WebError, match=told) as refused:
        Page.load(tmp_path)
    assert refused.value.code == "web.page-damaged"


def test_a_folder_without_a_page(tmp_path):
    with pytest.raises(WebError) as refused:
        Page.load(tmp_path)
    assert refused.value.code == "web.page-missing"


LINE = b"a" * 64 + b"  index.html\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"# mitai page v1\n",
        b"# mitai page v2\n" + LINE,
        b"# mitai page v1\n" + LINE[:-1],
        b"# mitai page v1\n" + LINE + b"\n",
        b"# mitai page v1\n" + LINE + LINE,
        b"# mitai page v1\n" + LINE + LINE.replace(b"index", b"console"),
        b"# mitai page v1\r\n" + LINE,
        b"# mitai page v1\n" + LINE.replace(b"index", b"../index"),
        b"# mitai page v1\n" + LINE.replace(b"index", b"/index"),
        b"# mitai page v1\n" + LINE.replace(b"index", b"a//b"),
        b"# mitai page v1\n" + LINE.replace(b"index", b".."),
        b"# mitai page v1\n" + LINE.replace(b"index", b"http://evil/a"),
        b"# mitai page v1\n" + LINE.replace(b"index", b"a?b"),
        b"# mitai page v1\n" + LINE.replace(b"a" * 64, b"A" * 64),
        b"# mitai page v1\n" + LINE.replace(b"  ", b" *"),
        b"# mitai page v1\n" + LINE.replace(b"html", b"html\xe9"),
        b"# mitai page v1\n" + b"".join(b"%064x  f%05d\n" % (i, i) for i in range(MAX_LIST_BYTES // 70)),
    ],
)
def test_a_list_in_another_spelling_is_refused(data):
    with pytest.raises(WebError) as refused:
        parse_list(data)
    assert refused.value.code == "web.list-malformed"


@given(st.dictionaries(st.from_regex(r"[a-z0-9]{1,5}(/[a-z0-9]{1,5}){0,2}", fullmatch=True), st.binary(), min_size=1))
def test_a_list_says_every_file(files):
    listed = parse_list(Page(files).list_bytes)
    assert listed == {path: hashlib.sha256(data).hexdigest() for path, data in files.items()} == sums_of(files)


@given(st.integers(0, 10_000), st.integers(0, 255))
@example(0, ord(" "))
def test_another_byte_in_the_list_is_another_page(at, byte):
    data = bytearray(Page(FILES).list_bytes)
    at %= len(data)
    if data[at] == byte:
        return
    data[at] = byte
    with pytest.raises(WebError):
        _check(Page(FILES), bytes(data))


def _check(page: Page, listed: bytes) -> None:
    if faults := list_faults(parse_list(listed), sums_of(page.files)):
        raise WebError("web.page-damaged", faults[0])


CSP = b"default-src 'none'; script-src 'self'; connect-src 'self'; require-trusted-types-for 'script'"
HTML = b'<meta http-equiv="Content-Security-Policy" content="' + CSP + b'"><title>x</title>'


def test_headers_keep_other_sites_out():
    html, script, badge = page_headers("c.html", HTML), page_headers("assets/a.js", b""), page_headers("badge.js", b"")
    assert html["content-security-policy"] == CSP.decode() + "; frame-ancestors 'none'"
    assert html["cache-control"] == badge["cache-control"] == "no-cache"
    assert "immutable" in script["cache-control"]
    assert script["cross-origin-resource-policy"] == "same-origin"
    assert (badge["cross-origin-resource-policy"], badge["access-control-allow-origin"]) == ("cross-origin", "*")
    assert {headers["x-content-type-options"] for headers in (html, script, badge)} == {"nosniff"}
    assert page_headers("sw.js", b"")["content-security-policy"] == "default-src 'none'; connect-src 'self'"
    assert page_headers("x.exe", b"")["content-type"] == "application/octet-stream"


def test_a_page_that_states_no_policy_may_do_nothing():
    assert page_headers("c.html", b"<html>")["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_a_link_pins_the_policys_text():
    digest = hashlib.sha256("Grüße\n".encode()).hexdigest()
    assert page_link("https://host", "Grüße\n".encode()) == f"https://host/#policy={digest}"
