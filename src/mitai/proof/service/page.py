"""What a service of answers with a proof offers to its page, and the link that pins it.

Follows `docs/spec/proof-service.md`, "In the browser". A page has no tokenizer that makes tokens, and runs no chat
template. So it is told what the template writes around what is said, and compares what tokens say, as words, with that.

Invariants:

- The text of an offer follows from model, key and tokenizer alone: who starts the service and the service write the
  same, so that its digest can be in a link that the service does not choose.
- A template has an offer only if it writes nothing but a fixed text around each turn, which is tried out.

Example:
    >>> offer = PageOffer.of(folder, "mitai-demo", identity, key_id, unaudited=False)
    >>> f"http://127.0.0.1:8700/#{offer.fragment}"
    'http://127.0.0.1:8700/#proof=8d9c…'
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mitai.errors import MitaiError, ProofError
from mitai.ledger.entry import Digest, Name
from mitai.mpc.text import read_tokenizer
from mitai.serve.prompts import Prompts
from mitai.web.page import installed_page
from mitai.web.site import Offer as SiteOffer
from mitai.web.site import Site

log = structlog.get_logger(__name__)
TOKENIZER = "tokenizer.json"
_MAX_TEXT_BYTES = 1 << 16
_MARK = "Q{}zx"  # what no template writes by itself
_TRIALS = (
    ("Who are you?",),
    ("a", "B c", "D\n\n- é, 你好 😀"),
    ("<b>1</b> {{ x }}", '{"n": 2.50}', "x  y\tz", "I'm\nnot sure.", "```\nf(x)\n```"),
)
_API_POLICY = "default-src 'none'; sandbox"  # a Content-Security-Policy


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a chat template writes around the turns of user and assistant, who take turns.

    Attributes:
        head: Before the first turn.
        user: Behind each turn of the user, where an answer follows.
        assistant: Behind each answer.
        tail: Behind the last turn.
    """

    head: str
    user: str
    assistant: str
    tail: str

    @staticmethod
    def of(prompts: Prompts) -> Template:
        """Find it out.

        Raises:
            ProofError: `proof.page-unsupported`: this template writes something else.
            MitaiError: There is none, or it does not take such conversations.
        """
        marks = [_MARK.format(number) for number in range(3)]
        rest, parts = _rendered(prompts, marks), []
        for mark in marks:
            part, found, rest = rest.partition(mark)
            if not found:
                raise _unsupported("it leaves out what was said")
            parts.append(part)
        found_out = Template(parts[0], parts[1], parts[2], rest)
        for turns in _TRIALS:
            if _rendered(prompts, turns) != found_out.around(turns):
                raise _unsupported("its words depend on more than whose turn it is")
        return found_out

    def around(self, turns: Sequence[str]) -> str:
        """Return a conversation's text."""
        between = [(self.user, self.assistant)[at % 2] for at in range(len(turns) - 1)]
        return self.head + "".join(turn + part for turn, part in zip(turns, [*between, self.tail], strict=True))


class PageOffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a page knows of a service beforehand, by the digest of this text.

    Attributes:
        v: The format.
        model: Its name in the API.
        identity: The model's.
        key: Id of the key that signs receipts.
        tokenizer: SHA-256 of `tokenizer.json`.
        unaudited: Receipts have no root of the answer's trace.
        template: What the model is told around what is said.
    """

    v: Literal["mitai proof page v1"] = "mitai proof page v1"
    model: Name
    identity: Digest
    key: Digest
    tokenizer: Digest
    unaudited: bool
    template: Template

    @staticmethod
    def of(folder: Path, model: str, identity: str, key: str, *, unaudited: bool) -> PageOffer:
        """Make it, of a folder with a tokenizer's files.

        Raises:
            ProofError: `proof.page-unsupported`: no page can compare what this model is told.
            MitaiError: There is no tokenizer, or no chat template.
        """
        tokenizer = read_tokenizer(folder)
        if "strftime_now" in str(tokenizer.chat_template):
            raise _unsupported("it writes the date")  # which does not change while this is tried out
        template = Template.of(Prompts(tokenizer, model))
        digest = hashlib.sha256((folder / TOKENIZER).read_bytes()).hexdigest()
        offer = PageOffer(
            model=model, identity=identity, key=key, tokenizer=digest, unaudited=unaudited, template=template
        )
        if len(offer.text().encode()) > _MAX_TEXT_BYTES:
            raise _unsupported("it writes too much")
        return offer

    def text(self) -> str:
        """Return the text that is offered."""
        return msgspec.json.encode(self).decode()

    @property
    def fragment(self) -> str:
        """The end of a link whose page takes this service for no other."""
        return f"proof={hashlib.sha256(self.text().encode()).hexdigest()}"


def _rendered(prompts: Prompts, turns: Sequence[str]) -> str:
    """Return what the tokens of a conversation say."""
    roles = ("user", "assistant")
    ids = prompts.chat([{"role": roles[at % 2], "content": turn} for at, turn in enumerate(turns)])
    return str(prompts.tokenizer.decode(ids, skip_special_tokens=False))


def _unsupported(why: str) -> ProofError:
    return ProofError(
        "proof.page-unsupported", f"the page can't follow this chat template: {why}", hint="use: mitai chat"
    )


class Paged:
    """ASGI middleware: the page's files; all other answers can be no documents with scripts of its origin.

    Args:
        app: The API.
        offer: Nothing, where the page can't be used.
    """

    def __init__(self, app: ASGIApp, offer: PageOffer | None) -> None:
        self._app = app
        self._site = Site(installed_page(), SiteOffer(proof=offer.text())) if offer else Site(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if file := self._site.answer(Request(scope)):
            await file(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"], headers["content-security-policy"] = "nosniff", _API_POLICY
            await send(message)

        await self._app(scope, receive, told)


def offered(folder: Path, model: str, identity: str, key: str, *, unaudited: bool) -> PageOffer | None:
    """Return what is offered; nothing where no page is built, or none can be used with this model."""
    try:
        return PageOffer.of(folder, model, identity, key, unaudited=unaudited) if installed_page() else None
    except MitaiError as error:
        log.info("no page is served", code=error.code)
        return None
