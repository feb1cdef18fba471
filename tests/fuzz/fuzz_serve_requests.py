"""Fuzz target: request bodies of the OpenAI API. Run with atheris: `python tests/fuzz/fuzz_serve_requests.py`."""

from __future__ import annotations

import sys

from mitai.errors import ServeError
from mitai.serve.config import DeployRequest, ServeConfig
from mitai.serve.schema import ChatRequest, CompletionRequest, EmbeddingRequest, RequestError, parse, texts_or_tokens


def one_input(data: bytes) -> None:
    """Parse as everything that a stranger or the host can send; only the tree's errors may come out."""
    for kind in (ChatRequest, CompletionRequest, EmbeddingRequest, DeployRequest):
        try:
            request = parse(kind, data)
            if isinstance(request, ChatRequest | CompletionRequest):
                request.refuse_unsupported()
            if isinstance(request, ChatRequest):
                for at, message in enumerate(request.messages):
                    message.plain(at)
            if isinstance(request, CompletionRequest):
                texts_or_tokens(request.prompt, "prompt", 8)
        except RequestError:
            continue
    try:
        ServeConfig.parse(data.decode("utf-8", "replace"))
    except ServeError:
        return


def main() -> None:
    """Fuzz until stopped."""
    import atheris
    from instrument import instrument_ours

    instrument_ours()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
