"""Engine steps as OpenAI's JSON: whole answers and stream events.

The parts of an event that never change within a request are encoded once; per token only the text (and, where asked
for, its log probabilities) is encoded. This is the data path.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

import msgspec

from mitai.serve.engine import Sampling, Step, TokenLogprob

_encode = msgspec.json.Encoder().encode


class Renderer:
    """The common part of chat and plain completions.

    Args:
        model: The name that the answer carries.
        prompt_tokens: Of all prompts together.
        choices: How many choices there are.
        sampling: Tells whether log probabilities are wanted.

    Attributes:
        id: The answer's: 96 random bits.
    """

    prompt_field: ClassVar[str]
    prefix: ClassVar[str]
    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, model: str, prompt_tokens: int, choices: int, sampling: Sampling) -> None:
        self._model, self.prompt_tokens, self._choices = model, prompt_tokens, choices
        self._with_logprobs = sampling.logprobs is not None
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._offsets = dict.fromkeys(range(choices), 0)  # of plain completions' text_offset

    def whole(self, steps: Sequence[Step], tokens: int) -> bytes:
        """Return the answer to a request that does not stream; `tokens` are those of all choices."""
        choices = [self._whole_choice([step for step in steps if step.choice == at], at) for at in range(self._choices)]
        return _encode({**self._head(self.whole_object), "choices": choices, "usage": self._usage(tokens)})

    def events(self, *, with_usage: bool) -> Callable[[Step], bytes]:
        """Return the function that turns a step into its event; empty where there is nothing to say yet."""
        head = b"data: " + _encode(self._head(self.chunk_object))[:-1] + b',"choices":[{"index":'
        tail = b'}],"usage":null}\n\n' if with_usage else b"}]}\n\n"
        indices = [b"%d," % at for at in range(self._choices)]
        opened: set[int] = set()

        def event(step: Step) -> bytes:
            if not step.text and not step.finish and not step.logprobs:
                return b""
            index = indices[step.choice]
            opening = b""
            if step.choice not in opened:
                opened.add(step.choice)
                opening = self._opening()
            opening = opening and head + index + opening + tail
            finish = b'"finish_reason":"%b"' % step.finish.encode() if step.finish else b'"finish_reason":null'
            return opening + head + index + self._delta(step) + b"," + self._logprobs(step) + finish + tail

        return event

    def usage_event(self, completion_tokens: int) -> bytes:
        """Return the last event of a stream with `include_usage`."""
        content = {**self._head(self.chunk_object), "choices": [], "usage": self._usage(completion_tokens)}
        return b"data: " + _encode(content) + b"\n\n"

    def _head(self, kind: str) -> dict[str, object]:
        return {"id": self.id, "object": kind, "created": self._created, "model": self._model}

    def _usage(self, completion_tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
        }

    def _logprobs(self, step: Step) -> bytes:
        if not self._with_logprobs:
            return b'"logprobs":null,'
        return b'"logprobs":' + _encode(self._logprobs_of(step.logprobs, step.choice)) + b","

    def _whole_choice(self, steps: Sequence[Step], at: int) -> dict[str, object]:
        logprobs = (
            self._logprobs_of([each for step in steps for each in step.logprobs], at) if self._with_logprobs else None
        )
        text = "".join(step.text for step in steps)
        return {"index": at, **self._whole_text(text), "logprobs": logprobs, "finish_reason": steps[-1].finish}

    def _whole_text(self, text: str) -> dict[str, object]:
        raise NotImplementedError

    def _opening(self) -> bytes:
        raise NotImplementedError

    def _delta(self, step: Step) -> bytes:
        raise NotImplementedError

    def _logprobs_of(self, logprobs: Sequence[TokenLogprob], choice: int) -> dict[str, object]:
        raise NotImplementedError


class ChatRenderer(Renderer):
    """`chat.completion` and `chat.completion.chunk`."""

    prompt_field = "messages"
    prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def _whole_text(self, text: str) -> dict[str, object]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _opening(self) -> bytes:
        return b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'

    def _delta(self, step: Step) -> bytes:
        return b'"delta":{"content":' + _encode(step.text) + b"}" if step.text else b'"delta":{}'

    def _logprobs_of(self, logprobs: Sequence[TokenLogprob], choice: int) -> dict[str, object]:  # noqa: ARG002 - see Renderer
        return {
            "content": [
                {**_chat_logprob(each), "top_logprobs": list(map(_chat_logprob, each.top))} for each in logprobs
            ],
            "refusal": None,
        }


class CompletionRenderer(Renderer):
    """`text_completion`, whole and streamed."""

    prompt_field = "prompt"
    prefix = "cmpl"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def _whole_text(self, text: str) -> dict[str, object]:
        return {"text": text}

    def _opening(self) -> bytes:
        return b""

    def _delta(self, step: Step) -> bytes:
        return b'"text":' + _encode(step.text)

    def _logprobs_of(self, logprobs: Sequence[TokenLogprob], choice: int) -> dict[str, object]:
        offsets = []
        for each in logprobs:
            offsets.append(self._offsets[choice])
            self._offsets[choice] += len(each.token)
        return {
            "tokens": [each.token for each in logprobs],
            "token_logprobs": [each.logprob for each in logprobs],
            "top_logprobs": [{other.token: other.logprob for other in each.top} for each in logprobs],
            "text_offset": offsets,
        }


def _chat_logprob(each: TokenLogprob) -> dict[str, object]:
    return {"token": each.token, "logprob": each.logprob, "bytes": list(each.raw)}
