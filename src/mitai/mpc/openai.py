"""The OpenAI API on the user's own device, answered by parties of whom none sees a word.

The API is the one of a replica (`mitai.serve.api`), in this very process: prompts are cut into shares here, and the
shares of the answer are added up here. Follows `docs/spec/mpc-links.md`, "Clients".

Invariants:

- No request leaves this process as it is, whatever address it names.
- Whose keys parties have is said by the client's own folder alone.
- A question takes the shortest program that holds it: parties see which one, and how tokens are chosen.
- After its end the answer is listened to until the parties' run ends, also when who asked has left: when a client goes
  tells how long an answer is.
- An answer that a party did not end, or whose shares add up to no token, is an error, and is not asked for again by
  itself.

Example:
    >>> http = http_client("shares/client")
    >>> client = openai.OpenAI(base_url="http://parties.invalid/v1", api_key="unused", http_client=http)
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import httpx2
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from mitai.attest import Appraisal
from mitai.errors import MitaiError, MpcError, ServeError
from mitai.mpc.clients import EACH, HELD_S, REACHED_S, ask, reach
from mitai.mpc.kept import Kept
from mitai.mpc.local import EXCHANGE, AsyncLocal, Local
from mitai.mpc.ring import Real
from mitai.mpc.sampling import Sampling
from mitai.mpc.setup import Side
from mitai.mpc.sharing import CLIENT, Generation, fitting
from mitai.mpc.tasks import Question, agree
from mitai.mpc.text import end_tokens, read_tokenizer
from mitai.serve.api import Limits, create_app, error_response
from mitai.serve.engine import GenerationRequest, ModelInfo, Step
from mitai.serve.engine import Sampling as Wish
from mitai.serve.prompts import Prompts
from mitai.serve.schema import RequestError, unsupported
from mitai.serve.text import Telling

log = structlog.get_logger(__name__)
BASE_URL = "http://parties.invalid"  # an address that does not exist: nothing leaks where the client is forgotten
_TIMEOUT = httpx2.Timeout(None)  # `within_s` says how long to wait for parties
_DAY_S = 86400.0
_LISTENER = "mitai-mpc-answer"
_KEEP, _WAITING = 64, 64  # receipts, of some KiB each; requests
_STATUS = {"mpc.too-many": 429, "mpc.not-offered": 400, "mpc.prompt-too-long": 400}  # all else: 502


class SharedEngine:
    """A model that parties hold in shares; a `mitai.serve.engine.Engine`.

    Args:
        side: A client's folder.
        within_s: How long to wait for the turn, and for each token.

    Raises:
        MpcError: The folder is not a client's, or has no tokenizer.
    """

    def __init__(self, side: Side, within_s: float) -> None:
        _check_client(side)
        self._side, self._within_s = side, within_s
        self._places = asyncio.Semaphore(EACH)  # parties hold no more; who asks more waits here
        self._kept: OrderedDict[str, bytes] = OrderedDict()  # by the name of an exchange in this process
        self._credentials = side.credentials()
        self._tasks = [task for task in side.offer.tasks if isinstance(task, Generation)]
        if not self._tasks:
            raise MpcError("mpc.not-offered", "this model reads, and generates nothing", hint="see: mitai mpc ask")
        tokenizer = read_tokenizer(side.folder.path)
        self._prompts, self._ends = Prompts(tokenizer, side.config.model), end_tokens(side.folder.path, tokenizer)
        longest = max(task.length for task in self._tasks), max(task.tokens for task in self._tasks)
        self.limits = Limits(
            max_requests=_WAITING,
            max_choices=self._tasks[0].batch,
            max_prompt_tokens=longest[0],
            max_answer_tokens=longest[1],
            max_seconds=_DAY_S,
        )
        self._info = ModelInfo(
            name=side.config.model,
            context_length=sum(longest),
            vocabulary=self._tasks[0].model.vocabulary,
            has_chat_template=self._prompts.has_template,
            architecture=type(self._tasks[0].model).__name__,
            dtype="shares",
            temperature=0.0 if self._tasks[0].kind == "greedy" else 1.0,
        )

    @property
    def info(self) -> ModelInfo:
        """What is served."""
        return self._info

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a plain prompt; see `Engine.tokenize`."""
        return self._prompts.text(text)

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the token ids of a conversation in the model's template; see `Engine.chat_prompt`."""
        return self._prompts.chat(messages)

    def check(self, request: GenerationRequest) -> None:
        """Raise `RequestError` for what parties can't do."""
        wish = request.sampling
        for field in ("seed", "logprobs", "frequency_penalty", "presence_penalty"):
            if getattr(wish, field) != getattr(Wish(1), field):
                raise unsupported(field, "nobody sees the numbers that it needs")
        self._fitting(request)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Step, None]:
        """Ask the parties, and tell what they answer; see `Engine.generate`."""
        task, sampling = self._fitting(request)
        ids = [prompt for prompt in request.prompts for _ in range(request.n)]
        question, side = Question(task, sampling), self._side
        answer = ask(self._credentials, side.peers, side.offer, question, task.values(ids), within_s=self._within_s)
        await self._places.acquire()
        run = _Run(answer, self._places.release)
        choices = {at: Telling(self._prompts.tokenizer, request.sampling, at) for at in range(len(ids))}
        while (numbers := await run.next()) is not None:
            if ((numbers < 0) | (numbers >= self._info.vocabulary - 0.5)).any():
                raise _failed(MpcError("mpc.answer-malformed", "the parties' shares add up to no token"))
            for at, telling in list(choices.items()):
                token = round(float(numbers[at]))
                step = telling.step(token, end=token in self._ends)
                if step.finish is not None:
                    del choices[at]
                yield step
        self._kept[EXCHANGE.get().id] = Kept.of(answer.receipts, answer.keys).encode()
        while len(self._kept) > _KEEP:
            self._kept.popitem(last=False)

    async def receipt(self, request: Request) -> Response:
        """GET /v1/receipts/ID: what parties have signed for the answer whose header `mitai-exchange` was this."""
        kept = self._kept.get(request.path_params["exchange"])
        if kept is None:
            return error_response(
                RequestError("serve.receipt-unknown", "there is no receipt of that exchange here", status=404)
            )
        return Response(kept, media_type="application/json")

    async def embed(self, prompts: Sequence[Sequence[int]], adapter: str = "") -> list[list[float]]:  # noqa: ARG002
        """Refuse: parties generate."""
        raise RequestError("serve.no-route", "parties that compute on shares give no embeddings", status=404)

    def close(self, reason: ServeError | None = None) -> None:
        """Do nothing: what is in progress goes on to its end."""

    def _fitting(self, request: GenerationRequest) -> tuple[Generation, Sampling]:
        """Return the shortest task that holds what is asked for, and how it chooses."""
        wish, length = request.sampling, max(map(len, request.prompts))
        try:
            sampling = Sampling(wish.temperature, wish.top_p if wish.temperature else 1.0)
        except ValueError:
            raise unsupported("temperature", "0, or from 0.05, is") from None
        room = [task.tokens for task in self._tasks if task.length >= length and task.kind == sampling.kind]
        if not room:
            field = "top_p" if sampling.kind == "nucleus" else "temperature"
            kinds = ", ".join(dict.fromkeys(task.kind for task in self._tasks))
            raise unsupported(field, f"this is {sampling.kind}; the parties' answers are {kinds}")
        tokens, choices = min(wish.max_tokens, max(room)), request.n * len(request.prompts)
        return fitting(self._side.offer, length, tokens, sampling.kind, choices), sampling


class _Run:
    """Tokens on their way here, in a thread that listens to the end, whoever still wants to hear them.

    Args:
        numbers: As parties tell them.
        ended: Is called after the end, in the event loop.
    """

    def __init__(self, numbers: Iterable[Real], ended: Callable[[], None]) -> None:
        self._numbers, self._ended, self._loop = numbers, ended, asyncio.get_running_loop()
        self._told: asyncio.Queue[Real | MitaiError | None] = asyncio.Queue()
        # no daemon: a process that ends before the run would tell how long the answer is
        threading.Thread(target=self._listen, name=_LISTENER, daemon=False).start()

    async def next(self) -> Real | None:
        """Return the number of each choice's next token; None after the end."""
        told = await self._told.get()
        if isinstance(told, MitaiError):
            raise _failed(told)
        return told

    def _listen(self) -> None:
        last: MitaiError | None = None
        try:
            for number in self._numbers:
                self._call(self._told.put_nowait, number)
        except MitaiError as error:
            last = error
        except Exception as error:  # noqa: BLE001 - its text could hold the prompt
            log.error("answer failed", kind=type(error).__name__)
            last = ServeError("serve.internal", "the client failed while it listened to the parties")
        self._call(self._told.put_nowait, last)
        self._call(self._ended)

    def _call(self, what: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(what, *arguments)


def stay() -> None:
    """Return when all answers that this process has asked for have ended."""
    for thread in threading.enumerate():
        if thread.name == _LISTENER:
            thread.join()


def greet(side: Side, within_s: float = REACHED_S) -> dict[str, Appraisal | None]:
    """Meet the parties that a client knows, and ask nothing.

    Returns:
        By role, what a party's machine has proven; None where the client's configuration demands no proof.

    Raises:
        MpcError: A party is not there, not who it should be, or has another model.
    """
    _check_client(side)
    credentials = side.credentials()
    for role in side.offer.setting.parties:
        link = reach(credentials, side.peers[role], time.monotonic() + within_s, within_s)
        with link:
            agree(link, side.offer)
    return {role: credentials.appraisals.get(side.peers[role].key_id) for role in side.offer.setting.parties}


def http_client(folder: str | Path, *, within_s: float = HELD_S) -> httpx2.Client:
    """Return a client for the stock `openai` client, or for use as it is, behind which parties answer.

    Args:
        folder: A client's, with its party.toml: where the parties are, and whose keys they have.
        within_s: How long to wait for the turn, and for each token.

    Raises:
        MitaiError: The folder is not a client's, or can't be read. Parties are met with the first request.
    """
    return httpx2.Client(transport=Local(_app(folder, within_s)), base_url=BASE_URL, timeout=_TIMEOUT)


def async_http_client(folder: str | Path, *, within_s: float = HELD_S) -> httpx2.AsyncClient:
    """Return an asynchronous client; see `http_client`. This call blocks while it reads the tokenizer."""
    return httpx2.AsyncClient(transport=AsyncLocal(_app(folder, within_s)), base_url=BASE_URL, timeout=_TIMEOUT)


def _app(folder: str | Path, within_s: float) -> Starlette:
    engine = SharedEngine(Side.open(Path(folder).expanduser()), within_s)
    api = create_app(lambda: engine, engine.limits, check=engine.check)
    return Starlette(routes=[Route("/v1/receipts/{exchange}", engine.receipt), Mount("/", api)])


def _check_client(side: Side) -> None:
    if side.role != CLIENT:
        raise MpcError("mpc.config", f"{side.folder.path} is the folder of {side.role}, not a client's")


def _failed(error: MitaiError) -> RequestError:
    """Return an error of the computation as one of the API."""
    return RequestError(error.code, error.message, status=_STATUS.get(error.code, 502), hint=error.hint)
