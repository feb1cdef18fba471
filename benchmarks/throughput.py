"""What the sealed channel costs a conversation: tokens per second of 32 streaming chats, and the time to the first
token.

One server process holds one engine behind two addresses: the OpenAI API in plaintext HTTP, and the same API behind
the sealed channel with receipts. The load generator is a process of its own and uses the same HTTP client for both,
under the transport that our users have for the sealed one. Runs alternate. The model is a Llama of 135 million random
parameters in bfloat16 (the shape of SmolLM2-135M): answers are noise, the work is real.

`channel-throughput`: tokens/s of 32 chats at once. `channel-ttft-ms`: milliseconds that the channel adds to the first
token's time, one chat after the other, plaintext and sealed in turn, so that waiting for others' steps is not
measured.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx2
import msgspec

from benchmarks.harness import progress, row

CHATS = 32
ANSWER_TOKENS = 64
RUNS = 11
TTFT_PAIRS = 150
MODEL = "bench"
QUESTION = "Who else reads what I write?"


class Key:
    """The server's key, as a verified session would hold it; verifying is measured by `benchmarks.attest`."""

    replica: str | None = None

    def __init__(self, key_config: bytes) -> None:
        self.key_config = key_config

    async def renew(self) -> None:
        raise RuntimeError("the server's key changed during the benchmark")


@asynccontextmanager
async def clients(plain: str, sealed: str) -> AsyncIterator[tuple[httpx2.AsyncClient, httpx2.AsyncClient]]:
    """Return an HTTP client for the plaintext address, and one for the sealed address."""
    from mitai.channel.ehbp import KEYS_PATH
    from mitai.client.transport import AsyncOhttpTransport

    key = Key(httpx2.get(sealed + KEYS_PATH).content)
    limits = httpx2.Limits(max_connections=CHATS, max_keepalive_connections=CHATS)
    sealing = AsyncOhttpTransport(httpx2.AsyncHTTPTransport(limits=limits), key, sealed)
    async with (
        httpx2.AsyncClient(base_url=plain, limits=limits, timeout=300.0) as one,
        httpx2.AsyncClient(base_url=sealed, transport=sealing, timeout=300.0) as other,
    ):
        yield one, other


async def chat(
    client: httpx2.AsyncClient, number: int, answer_tokens: int, question: str = QUESTION
) -> tuple[int, float]:
    """Stream one chat; return its tokens and the seconds to its first one."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"{number}. {question}"}],
        "max_tokens": answer_tokens,
        "temperature": 1.0,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    start, first, tail = time.perf_counter(), 0.0, b""
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for part in answer.aiter_bytes():
            if not first and b'"content"' in part:
                first = time.perf_counter() - start
            tail = tail[-4096:] + part
    assert answer.status_code == 200, tail
    lines = [line for line in tail.splitlines() if line.startswith(b"data: {")]
    return int(msgspec.json.decode(lines[-1][6:])["usage"]["completion_tokens"]), first


async def crowd(client: httpx2.AsyncClient) -> tuple[float, float]:
    """Run all chats at once; return tokens per second and the median time to the first token."""
    start = time.perf_counter()
    results = await asyncio.gather(*(chat(client, number, ANSWER_TOKENS) for number in range(CHATS)))
    seconds = time.perf_counter() - start
    return sum(tokens for tokens, _ in results) / seconds, statistics.median(first for _, first in results)


async def measure(plain: str, sealed: str, runs: int) -> None:
    async with clients(plain, sealed) as (open_client, sealed_client):
        rates: tuple[list[float], list[float]] = ([], [])
        firsts: tuple[list[float], list[float]] = ([], [])
        for run in range(runs + 1):
            # the order alternates too, so that neither side always comes first
            for side in (0, 1) if run % 2 else (1, 0):
                rate, first = await crowd((sealed_client, open_client)[side])
                name = ("sealed", "plaintext")[side]
                progress(f"{name:>10}: {rate:6.1f} tokens/s, first token {first * 1e3:.0f} ms")
                if run:
                    rates[side].append(rate)
                    firsts[side].append(first)
        loaded = statistics.median(firsts[0]) - statistics.median(firsts[1])
        paired = statistics.median(ours / theirs for ours, theirs in zip(*rates, strict=True))
        row(
            "channel-throughput",
            rates[0],
            "tokens/s",
            peer="same engine, plaintext HTTP",
            peer_samples=rates[1],
            chats=CHATS,
            median_of_paired_ratios=round(paired, 4),
        )
        added, sealed_ms, plain_ms = await first_token(sealed_client, open_client)
        row(
            "channel-ttft-ms",
            added,
            "ms added",
            peer="the same in plaintext HTTP, in all",
            peer_samples=plain_ms,
            sealed_ms=round(statistics.median(sealed_ms), 3),
            added_among_32_ms=round(loaded * 1e3, 1),
        )


async def first_token(
    sealed: httpx2.AsyncClient, plain: httpx2.AsyncClient
) -> tuple[list[float], list[float], list[float]]:
    """Return added milliseconds, pair by pair, and both sides' times."""
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(TTFT_PAIRS + 5):
        for side in (0, 1) if pair % 2 else (1, 0):
            _, first = await chat((sealed, plain)[side], pair, 1, "Hi")
            if pair >= 5:
                times[side].append(first * 1e3)
    sealed_ms, plain_ms = (statistics.median(side) for side in times)
    progress(f"first token alone: sealed {sealed_ms:.2f} ms, plaintext {plain_ms:.2f} ms")
    return [ours - theirs for ours, theirs in zip(*times, strict=True)], times[0], times[1]


# ---------------------------------------------------------------------------------------------------------- the server


def serve(folder: Path, threads: int) -> None:
    """Serve the folder's model at two addresses; print them."""
    import uvicorn

    from mitai.capsule import FolderSource
    from mitai.channel import ChannelMiddleware, KeyRing
    from mitai.identity import Identity
    from mitai.serve.api import create_app
    from mitai.serve.receipts import ReceiptBook, Served
    from mitai.serve.transformers_engine import EngineOptions, TransformersEngine

    options = EngineOptions(threads=threads, max_sequences=CHATS)
    engine = TransformersEngine.load(FolderSource(folder), name=MODEL, options=options)

    async def both() -> None:
        book = ReceiptBook(Identity.generate())
        book.serve(Served((), {}, (), "0" * 64), None)
        inner = create_app(lambda: engine, on_usage=book.note)
        sealed = ChannelMiddleware(inner, KeyRing.generate(), on_exchange=book.on_exchange)
        servers = [
            uvicorn.Server(
                uvicorn.Config(
                    app, port=0, log_level="warning", access_log=False, lifespan="off", timeout_keep_alive=75
                )
            )
            for app in (create_app(lambda: engine), sealed)
        ]
        running = [asyncio.create_task(server.serve()) for server in servers]
        while not all(server.started for server in servers):  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        ports = [server.servers[0].sockets[0].getsockname()[1] for server in servers]
        print(*(f"http://127.0.0.1:{port}" for port in ports), flush=True)
        await asyncio.gather(*running)

    asyncio.run(both())
    engine.close()


@contextmanager
def server(folder: Path, threads: int):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Start the server process; yield its two addresses."""
    command = [sys.executable, "-m", "benchmarks.throughput", "--serve", str(folder), "--threads", str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", type=Path, help="(internal) be the server of this model folder")
    parser.add_argument("--threads", type=int, default=1, help="of the engine; the other core is for HTTP and the load")
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.threads)
        return
    from benchmarks.models import smollm_135m

    with tempfile.TemporaryDirectory() as folder:
        progress("making a random Llama of 135 million parameters …")
        smollm_135m(Path(folder))
        with server(Path(folder), arguments.threads) as (plain, sealed):
            asyncio.run(measure(plain, sealed, arguments.runs))


if __name__ == "__main__":
    main()
