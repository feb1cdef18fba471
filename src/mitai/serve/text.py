"""From tokens to text while they come: whole characters only, and never a piece of a stop string.

A token of a byte-level tokenizer may be a third of a Chinese character, and a stop string may arrive in pieces.
`TextStream` holds text back until it is certain, and with it the log probabilities of the tokens that made it.
`Telling` counts tokens besides, and says when and why an answer ends.

Example:
    >>> stream = TextStream(tokenizer, stop=("END",))
    >>> stream.push(token_id)
    '密'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitai.serve.engine import FinishReason, Sampling, Step, TokenLogprob

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TextStream:
    """The text of one choice.

    Attributes:
        stopped: Whether a stop string was met; the text before it has been given out.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...] = ()) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop = stop
        self._context: list[int] = []  # the tokens of the last text that was certain
        self._recent: list[int] = []  # the tokens since
        self._held = ""  # text that may be the start of a stop string
        self._logprobs: list[TokenLogprob] = []  # of the tokens since the last text that went out
        self.stopped = False

    def push(self, token: int, logprob: TokenLogprob | None = None) -> tuple[str, tuple[TokenLogprob, ...]]:
        """Add a token; return the text that is now certain and the log probabilities that belong to it."""
        if logprob is not None:
            self._logprobs.append(logprob)
        self._recent.append(token)
        piece = self._decoder.step(self._tokenizer, token)
        if not piece:
            return "", ()
        self._context, self._recent = self._recent, []
        if not self._stop:
            return piece, self._take_logprobs()
        return self._release(self._held + piece)

    def finish(self) -> tuple[str, tuple[TokenLogprob, ...]]:
        """Return what was held back; bytes of an unfinished character are dropped."""
        before = self._tokenizer.decode(self._context) if self._recent else ""
        rest = self._tokenizer.decode([*self._context, *self._recent])[len(before) :] if self._recent else ""
        text, logprobs = (
            self._release(self._held + rest.rstrip("\ufffd")) if self._stop else (rest.rstrip("\ufffd"), ())
        )
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text, (*logprobs, *self._take_logprobs())

    def _release(self, text: str) -> tuple[str, tuple[TokenLogprob, ...]]:
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)], self._take_logprobs()
        keep = max(_overlap(text, stop) for stop in self._stop)
        certain, self._held = text[: len(text) - keep], text[len(text) - keep :]
        return certain, self._take_logprobs() if not keep else ()

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        taken, self._logprobs = tuple(self._logprobs), []
        return taken


class Telling:
    """What is told of one choice.

    Args:
        tokenizer: The model's.
        sampling: Where the answer ends at the latest, and its stop strings.
        choice: Which of the choices.
    """

    def __init__(self, tokenizer: Tokenizer, sampling: Sampling, choice: int = 0) -> None:
        self._text = TextStream(tokenizer, sampling.stop)
        self._max_tokens, self._choice, self._tokens = sampling.max_tokens, choice, 0

    def step(self, token: int, logprob: TokenLogprob | None = None, *, end: bool, full: bool = False) -> Step:
        """Take the next token, and return what is to be told.

        Args:
            token: Its id.
            logprob: Where log probabilities are wanted.
            end: Whether it is one that ends answers.
            full: Whether there is no room for another one.
        """
        self._tokens += 1
        finish: FinishReason | None = "stop" if end else None
        text, logprobs = ("", ()) if end else self._text.push(token, logprob)
        if not self._text.stopped and (end or full or self._tokens >= self._max_tokens):
            rest, more = self._text.finish()
            text, logprobs = text + rest, (*logprobs, *more)
            finish = finish or "length"
        if self._text.stopped:
            finish = "stop"
        return Step(self._choice, text, self._tokens, finish, logprobs)


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` could begin `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
