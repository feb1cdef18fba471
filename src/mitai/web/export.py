"""The page as a folder of plain files, to be hosted anywhere or opened from one's own machine.

The only thing that changes is where the page may connect to: its own host, and the gateway. That changes its bytes, so
an exported page has a digest of its own.

Example:
    >>> export(connected(Page.load(), url), Path("site"), Offer.read(policy, gateway=url))
"""

from __future__ import annotations

import re
from pathlib import Path

import httpx2

from mitai.errors import WebError
from mitai.web.page import LIST_NAME, OFFER_NAME, Page
from mitai.web.site import Offer

_OWN_HOST = b"connect-src 'self';"
_HOST = re.compile(rb"([A-Za-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?")  # nothing that means more in a policy or in HTML


def connected(page: Page, gateway: str) -> Page:
    """Return the page for another host than the gateway, whose address stands in the page's policy from then on."""
    url = httpx2.URL(gateway)
    if not _HOST.fullmatch(url.netloc):
        raise WebError("web.gateway-malformed", "the gateway's address is no plain host name or address")
    reached = f"connect-src 'self' {url.scheme}://{url.netloc.decode()};".encode()
    return Page({path: _connected(path, data, reached) for path, data in page.files.items()})


def export(page: Page, folder: Path, offer: Offer) -> None:
    """Write a page, its list and the offer into a new folder."""
    if folder.exists() and any(folder.iterdir()):
        raise WebError("web.folder-in-use", f"{folder} is not empty", hint="name a new folder")
    for path, data in {**page.files, LIST_NAME: page.list_bytes, OFFER_NAME: offer.encode()}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def _connected(path: str, data: bytes, reached: bytes) -> bytes:
    if not path.endswith(".html"):
        return data
    if data.count(_OWN_HOST) != 1:
        raise WebError("web.page-malformed", f"{path} states no policy for connections")
    return data.replace(_OWN_HOST, reached)
