"""The built page as a value: files by path, and the one digest that names all of them.

The folder holds `page.sha256`, a list in the format of `sha256sum` whose first line is a label; its SHA-256 is the
page's digest. Specified in `docs/spec/web.md`.

Invariants:

- A page is read whole and only when every file is exactly what the list says: none more, none less, none changed.
- Paths are plain relative names, so that a list from a stranger can't lead out of a folder or to another host.

Example:
    >>> Page.load().digest
    '3f1c…'
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mitai.errors import WebError

INSTALLED = Path(__file__).parent / "page"
LIST_NAME = "page.sha256"
OFFER_NAME = "mitai.json"  # what a host offers: beside the page, never part of it
SUBJECT = "mitai-page"  # the page's name in a release manifest
ADDRESSES = {"/": "index.html", "/console": "console.html"}  # beside the files' own paths
MAX_LIST_BYTES = 64 << 10
MAX_FILE_BYTES = 8 << 20

_LABEL = "# mitai page v1"
_CSP = re.compile(rb'<meta http-equiv="Content-Security-Policy" content="([ !#-;=?-~]*)">')
_LINE = re.compile(r"([0-9a-f]{64})  ((?:[A-Za-z0-9][A-Za-z0-9._-]*/){0,4}[A-Za-z0-9][A-Za-z0-9._-]*)")

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".md": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".sha256": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True)
class Page:
    """The files of a page by path, without their list."""

    files: Mapping[str, bytes]

    @staticmethod
    def load(folder: Path | None = None) -> Page:
        """Read a page, by default the installed one; raise `WebError` when it is missing or not what its list says."""
        folder = folder or INSTALLED
        try:
            listed = parse_list((folder / LIST_NAME).read_bytes())
        except FileNotFoundError:
            raise WebError(
                "web.page-missing", f"no page is built in {folder}", hint="build it, which needs Node.js: make web"
            ) from None
        paths = (path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}
        page = Page({path: data for path, data in files.items() if path not in {LIST_NAME, OFFER_NAME}})
        if faults := list_faults(listed, sums_of(page.files)):
            raise WebError(
                "web.page-damaged", f"the page in {folder}: {'; '.join(faults[:5])}", hint="build it anew: make web"
            )
        return page

    @property
    def list_bytes(self) -> bytes:
        """The list of its files: `page.sha256`."""
        lines = (f"{digest}  {path}" for path, digest in sorted(sums_of(self.files).items()))
        return "\n".join((_LABEL, *lines, "")).encode()

    @property
    def digest(self) -> str:
        """The page's digest in hex: what a release names."""
        return hashlib.sha256(self.list_bytes).hexdigest()


def sums_of(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the SHA-256 of every file by path."""
    return {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}


def installed_page() -> Page | None:
    """Return the page that came with mitai; None where none is built."""
    return Page.load() if (INSTALLED / LIST_NAME).exists() else None


def page_link(base_url: str, policy: bytes) -> str:
    """Return the address of a page that accepts one policy file only: the one with the digest in the link."""
    return f"{base_url}/#policy={hashlib.sha256(policy).hexdigest()}"


def list_faults(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Say, a line for each file, in what a list of files differs from the expected one."""
    named = dict.fromkeys(expected.keys() - found.keys(), "is missing")
    named |= dict.fromkeys(found.keys() - expected.keys(), "is not part of the page")
    named |= {path: "is changed" for path in expected.keys() & found.keys() if expected[path] != found[path]}
    return [f"{path} {fault}" for path, fault in sorted(named.items())]


def parse_list(data: bytes) -> dict[str, str]:
    """Return the SHA-256 of every file by path; raise `WebError` on any other spelling than the one of the format."""
    lines = data[: MAX_LIST_BYTES + 1].decode("latin-1").split("\n")
    entries = [_LINE.fullmatch(line) for line in lines[1:-1]]
    found = {entry[2]: entry[1] for entry in entries if entry}
    if (
        len(data) > MAX_LIST_BYTES
        or lines[0] != _LABEL
        or lines[-1] != ""
        or [entry and entry[2] for entry in entries] != sorted(found)
        or not found
    ):
        raise WebError("web.list-malformed", f"this is no {LIST_NAME}: a label, then digest and path, sorted")
    return found


def content_policy(html: bytes) -> str:
    """Return the Content-Security-Policy that a page states of itself; one that allows nothing where it states none."""
    stated = _CSP.search(html)
    return stated[1].decode() if stated else "default-src 'none'"


def page_headers(path: str, data: bytes) -> dict[str, str]:
    """Return the headers that a host must send with a page's file."""
    headers = {
        "content-type": _TYPES.get(Path(path).suffix, "application/octet-stream"),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "public, max-age=31536000, immutable" if path.startswith("assets/") else "no-cache",
    }
    if path == "badge.js":  # for pages of other sites, which check its integrity: that needs CORS
        headers |= {"cross-origin-resource-policy": "cross-origin", "access-control-allow-origin": "*"}
    if path.endswith(".html"):
        headers |= {
            "content-security-policy": f"{content_policy(data)}; frame-ancestors 'none'",
            "cross-origin-opener-policy": "same-origin",
            "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
        }
    if path == "sw.js":  # it keeps the page's files on the device, and may do nothing else
        headers["content-security-policy"] = "default-src 'none'; connect-src 'self'"
    return headers
