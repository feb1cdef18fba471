"""`mitai web`: the page for browsers from outside: which bytes it is, who serves exactly those, hosting it oneself."""

from __future__ import annotations

import hashlib
import webbrowser
from base64 import b64encode
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import uvicorn
from cyclopts import App, Parameter
from starlette.middleware.trustedhost import TrustedHostMiddleware

from mitai.attest.refvalues.release import trusted_release
from mitai.attest.refvalues.trust import ReleaseTrust
from mitai.cli.evidence import from_hex, read_file
from mitai.cli.options import JsonFlag, PolicyOption, Port, UrlArgument, platform_url, read_policy
from mitai.cli.output import Output, data, plural
from mitai.errors import ClientError, WebError
from mitai.fleet.home import Home
from mitai.fleet.processes import bound
from mitai.web.check import host_faults, page_digest
from mitai.web.export import connected
from mitai.web.export import export as write_folder
from mitai.web.page import Page, page_headers, page_link, sums_of
from mitai.web.site import Offer, Site

app = App(
    name="web",
    help="""The page for browsers: which bytes it is, whether a host serves exactly those, and hosting it yourself.

Whoever serves a page can swap its script, and no page can notice that of itself. `mitai web check` compares a host's
page with the published one from outside; `mitai web serve` runs the page from your own machine instead.""",
    help_format="markdown",
    help_epilogue="",
)
GatewayOption = Annotated[str, Parameter(help="The address of the gateway that the page shall talk to.")]
ReleasesOption = Annotated[
    tuple[Path, ...],
    Parameter(name="--release", negative="", help="A signed release manifest to offer with it. May be repeated."),
]


@app.command
def digest(
    folder: Annotated[Path | None, Parameter(help="A folder with a page; by default the installed one.")] = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Print the page's digest and the SHA-256 of its files.

    The digest is the SHA-256 of the list `page.sha256`, so `sha256sum page.sha256` gives the same, and
    `sha256sum --check page.sha256` checks the files.
    """
    out, page = Output(json), Page.load(folder)
    badge = page.files.get("badge.js")
    integrity = f"sha384-{b64encode(hashlib.sha384(badge).digest()).decode()}" if badge is not None else None
    out.table(("file", "sha256"), sorted(sums_of(page.files).items()))
    if integrity:
        out.say(f'\n<script type="module" src="badge.js" integrity="{integrity}" crossorigin="anonymous"></script>')
    out.say(f"\npage {page.digest}")
    out.result({"digest": page.digest, "files": sums_of(page.files), "badge_integrity": integrity})


@app.command
def check(
    url: UrlArgument = None,
    *,
    release: Annotated[Path | None, Parameter(help="The signed release manifest that names the page.")] = None,
    key: Annotated[
        str | None,
        Parameter(help="Hex: the publisher's Ed25519 key; by default the policy's [[releases]] say whom to trust."),
    ] = None,
    workload: Annotated[str, Parameter(help="The workload that the release is about, where --key is given.")] = "serve",
    page: Annotated[str | None, Parameter(name="--digest", help="Hex: the page's digest, without a release.")] = None,
    policy: PolicyOption = None,
    files_only: Annotated[
        bool, Parameter(negative="", help="Leave out headers that some hosts of plain files can't send.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Check that a host serves exactly the published page: every file, byte for byte, and the headers around them.

    What is published is what the release says, or the digest; without either, the page that is installed here.
    A host could serve another page to you than to this check: to be sure each time, run the page from your own machine
    with `mitai web serve`.

    Examples: `mitai web check https://chat.example --release release.json --key 5f1c…`, `mitai web check`
    """
    out, home = Output(json), Home.default()
    if release is not None and page is not None:
        raise ClientError("client.option-malformed", "--release and --digest are two answers to the same question")
    if release is not None:
        trusts = (ReleaseTrust(workload, key=key),) if key is not None else read_policy(home, policy).releases
        expected = page_digest(*trusted_release(read_file(release), trusts, now=datetime.now(UTC)))
    else:
        expected = from_hex("--digest", page).hex() if page is not None else Page.load().digest
    address = platform_url(home, url)
    faults = host_faults(address, expected, headers=not files_only)
    for fault in faults:
        out.say(f"[red]✘[/] {data(fault)}")
    if faults:
        raise WebError(
            "web.page-differs",
            f"the page at {address} is not the published one ({plural(len(faults), 'difference', 'differences')})",
            hint="don't use it; tell whoever runs it, and see docs/web.md",
        )
    out.say(f"[green]✔[/] {data(address)} serves the published page")
    out.say(f"page {expected}")
    out.result({"verdict": "published", "url": address, "digest": expected, "headers_checked": not files_only})


@app.command
def export(
    folder: Path,
    *,
    gateway: GatewayOption,
    policy: PolicyOption = None,
    release: ReleasesOption = (),
    json: JsonFlag = False,
) -> None:
    """Write the page as plain files, to be hosted anywhere, for a gateway elsewhere.

    Its Content-Security-Policy names that gateway, so its digest is another one: it is printed, and `mitai web check
    URL --digest DIGEST` checks the host. `mitai.json` beside it offers your policy and releases.

    Example: `mitai web export site --gateway https://gateway.example`
    """
    out = Output(json)
    page, offer = _elsewhere(gateway, policy, release)
    write_folder(page, folder, offer)
    headers = page_headers("index.html", page.files["index.html"])
    link = page_link("https://HOST", offer.policy.encode())
    out.say(f"[green]✔[/] {len(page.files)} files in {data(folder)}; once hosted, open {link}")
    out.say("\nLet the host send these headers with its HTML:")
    for name, value in headers.items():
        out.say(data(f"  {name}: {value}"))
    out.say(f"\npage {page.digest}")
    out.result({"folder": str(folder), "digest": page.digest, "link": link, "headers": headers})


@app.command
def serve(
    *,
    gateway: Annotated[str | None, Parameter(help="The address of the gateway that the page shall talk to.")] = None,
    proof: Annotated[
        Path | None,
        Parameter(help="Instead, a client's folder of a service of answers with a proof (`mitai up --trust proof`)."),
    ] = None,
    policy: PolicyOption = None,
    release: ReleasesOption = (),
    port: Annotated[Port, Parameter(help="The port; another free one when it is taken or 0.")] = 8780,
    browser: Annotated[bool, Parameter(help="Open it in a browser.")] = True,
    json: JsonFlag = False,
) -> None:
    """Run the page from your own machine, for a gateway elsewhere, until Ctrl-C: no host can swap its script.

    Examples: `mitai web serve --gateway https://gateway.example`, `mitai web serve --proof ~/.mitai/user/proof`
    """
    out = Output(json)
    if (gateway is None) == (proof is None):
        raise ClientError("client.option-malformed", "one of --gateway and --proof says whom the page shall talk to")
    page, offer, fragment = _proven(proof) if proof else (*_elsewhere(gateway or "", policy, release), "")
    site = Site(page, offer)
    own = TrustedHostMiddleware(site.app(), ["127.0.0.1", "localhost"])  # not for a site whose name leads here
    server = uvicorn.Server(uvicorn.Config(own, log_level="warning", access_log=False, http="h11"))
    with bound(port) as listener, suppress(KeyboardInterrupt):
        listener.listen()  # from here on nobody else answers at this port, and the browser waits for us
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        link = f"{address}/#{fragment}" if fragment else page_link(address, offer.policy.encode())
        out.say(f"[green]✔[/] the installed page, for {data(offer.gateway)}: {link}")
        out.result({"page": link, "gateway": offer.gateway, "digest": page.digest})
        if browser:
            webbrowser.open(link)
        server.run(sockets=[listener])


@app.command(name="open")
def open_page(
    url: UrlArgument = None,
    *,
    policy: PolicyOption = None,
    browser: Annotated[bool, Parameter(help="Open it in a browser; else only print its link.")] = True,
    json: JsonFlag = False,
) -> None:
    """Open the page of a host with your policy pinned: it accepts no other, whatever the host offers.

    Example, only to print the link: `mitai web open --no-browser`
    """
    out, home = Output(json), Home.default()
    read_policy(home, policy)  # a link to a policy that is none would help nobody
    link = page_link(platform_url(home, url), read_file(policy or home.policy))
    out.say(data(link))
    out.result({"page": link})
    if browser:
        webbrowser.open(link)


def _elsewhere(gateway: str, policy: Path | None, releases: tuple[Path, ...]) -> tuple[Page, Offer]:
    """Return the installed page for a gateway elsewhere, and what is offered with it."""
    home = Home.default()
    read_policy(home, policy)
    url = platform_url(home, gateway)
    return connected(Page.load(), url), Offer.read(policy or home.policy, releases, url)


def _proven(folder: Path) -> tuple[Page, Offer, str]:
    """Return the installed page for a service that a client's folder describes, what is offered, and the link's end."""
    from mitai.proof.service.client import Offer as Known
    from mitai.proof.service.page import PageOffer

    known = Known.read(folder)
    offer = PageOffer.of(folder, known.model, known.identity, known.key, unaudited=known.unaudited)
    return connected(Page.load(), known.address), Offer(gateway=known.address, proof=offer.text()), offer.fragment
