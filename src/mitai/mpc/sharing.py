"""A model cut into shares by its owner, and the tasks of generating with it.

Follows `docs/spec/mpc-links.md`, "Shares of a model". Each folder is for one side: party 0's is a key of 16 bytes out
of which its shares are made, party 1's holds numbers, the dealer's and the client's just the public configuration. In
`3pc` there are two keys, and each party has two of the three summands; twins have the same.

Invariants:

- Each party's folder by itself is independent of the model, but for its shapes.
- A cut's random id is in all its folders: sides with folders of different cuts do not begin.
- Numbers are written as they are read: no second copy of the model is in memory.

Example:
    >>> split_model(Path("gpt2"), Path("shares"))
    >>> folder = ShareFolder.open(Path("shares/p1"))
    >>> offer = generation(folder, prompt_tokens=(64, 128), new_tokens=(16,), kinds=("greedy", "nucleus"))
    >>> shares = folder.shares(offer)
    >>> fitting(offer, length=80, tokens=10, kind="greedy").name
    'generate 128 16 greedy'
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mitai.errors import MpcError
from mitai.mpc import kernels
from mitai.mpc.engine import Engine, Secret, Shape
from mitai.mpc.generate import generate, prompts
from mitai.mpc.models.arrays import Arrays, Tensors
from mitai.mpc.models.bert import Bert
from mitai.mpc.models.config import (
    MAX_CONFIG_BYTES,
    Approximation,
    BertConfig,
    Gpt2Config,
    LlamaConfig,
    parse_config,
    require_approximation,
)
from mitai.mpc.models.decoder import Decoder
from mitai.mpc.models.gpt2 import Gpt2
from mitai.mpc.models.llama import Llama
from mitai.mpc.ring import Real, Ring, encode
from mitai.mpc.sampling import Kind, Sampling
from mitai.mpc.settings import SETTINGS, Name, Parts
from mitai.mpc.tasks import Emit, Offer, Task, Walk, not_offered
from mitai.mpc.text import check_tokens
from mitai.wire import parse_json

CLIENT = "client"
Progress = Callable[[int, int], None]  # (bytes done, bytes in all)
KEY_BYTES = 16
SIDES = (*SETTINGS["2+1"].roles, CLIENT)
_NUMBERED = -1  # the summand that is no key's
_SUMMANDS: dict[Name, dict[str, tuple[int, ...]]] = {  # of which each party has what: the number of a key, or numbers
    "2+1": {"p0": (0,), "p1": (_NUMBERED,)},
    "3pc": {"p0": (0, 1), "p1": (1, _NUMBERED), "p2": (_NUMBERED, 0)},
    "twins": {"p0": (0,), "p1": (_NUMBERED,), "p0-twin": (0,), "p1-twin": (_NUMBERED,)},
}
_UNUSABLE = ("mpc.model-unsupported", "the model's configuration is not usable")
_CONFIG, _SHARE, _KEY, _NUMBERS = "config.json", "share.json", "share.key", "share.bin"
# How a client turns words into tokens, and where answers end.
_WORDS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


class ShareFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`share.json`: whose folder it is, of which cut, and for which setting."""

    v: Literal["mitai mpc shares v1"]
    role: str
    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    setting: Name = "2+1"

    def __post_init__(self) -> None:
        if self.role not in {*SETTINGS[self.setting].roles, CLIENT}:
            raise ValueError("no such side")


class _Family(msgspec.Struct):
    model_type: str = ""
    mpc_approx: str = "exact"  # a model's own configuration is read strictly, see `decoder`


class ShareFolder:
    """One side's folder."""

    def __init__(self, path: Path, file: ShareFile, config: bytes) -> None:
        self.path, self.role, self.id, self.config = path, file.role, bytes.fromhex(file.id), config
        self.setting = SETTINGS[file.setting]

    @staticmethod
    def open(path: Path) -> ShareFolder:
        """Read what a folder is.

        Raises:
            MpcError: `mpc.shares-missing`: it is no folder of shares.
            ParseError: A file in it is malformed.
        """
        try:
            data, config = ((path / name).read_bytes() for name in (_SHARE, _CONFIG))
        except (FileNotFoundError, NotADirectoryError):
            raise MpcError(
                "mpc.shares-missing", f"{path} is no folder with shares", hint="see: mitai mpc split --help"
            ) from None
        file = parse_json(
            data, ShareFile, 4096, "mpc.shares-malformed", f"{_SHARE} is malformed, or of another version"
        )
        return ShareFolder(path, file, config)

    @property
    def family(self) -> str:
        """What the model is, as its configuration says it."""
        return _family(self.config).model_type

    def offer(self, model: Decoder[Any] | Bert, tasks: tuple[Task[Any], ...]) -> Offer[Any]:
        """Return the offer of doing this with the model."""
        digest, approximation = hashlib.sha256(self.config).hexdigest(), _family(self.config).mpc_approx
        load = lambda engine: model.load(Arrays(engine, "model"))  # noqa: E731
        return Offer(self.id, digest, approximation, load, tasks, self.setting)

    def shares(self, offer: Offer[Any]) -> Iterator[Ring]:
        """Yield a party's shares, where it has one of each array; see `parts`."""
        return (share for (share,) in self.parts(offer))

    def parts(self, offer: Offer[Any]) -> Iterator[Parts]:
        """Yield what this party has of each array, in the program's order.

        Raises:
            MpcError: `mpc.shares-malformed`: it is not of this model.
        """
        walk = Walk()
        walk.inputs(offer.load)
        shapes, summands = walk.asked["model"], _SUMMANDS[self.setting.name][self.role]
        drawn = [summand for summand in summands if summand != _NUMBERED]
        data = (self.path / _KEY).read_bytes() if drawn else b""
        if len(data) != KEY_BYTES * len(drawn):
            raise _malformed()
        keys = dict(zip(drawn, _keys(data), strict=True))
        with ExitStack() as stack:
            if _NUMBERED in summands:
                file = stack.enter_context((self.path / _NUMBERS).open("rb"))
                if os.fstat(file.fileno()).st_size != 8 * sum(map(math.prod, shapes)):
                    raise _malformed()
            for number, shape in enumerate(shapes):
                yield tuple(
                    np.fromfile(file, "<u8", math.prod(shape)).reshape(shape)
                    if summand == _NUMBERED
                    else _drawn(keys[summand], number, shape)
                    for summand in summands
                )


class Generation:
    """Text that is generated from a prompt; a `mitai.mpc.tasks.Task`.

    Args:
        model: Which.
        length: To how many tokens prompts are padded.
        tokens: How many are generated, always.
        kind: How they are chosen.
        batch: With how many prompts a run goes on, always.
    """

    def __init__(self, model: Decoder[Any], length: int, tokens: int, kind: Kind, batch: int = 1) -> None:
        self.model, self.length, self.tokens, self.kind, self.batch = model, length, tokens, kind, batch
        self.name = f"generate {length} {tokens} {kind}{f' {batch}' * (batch > 1)}"

    def answer(self, engine: Engine, loaded: Any, client: Arrays, emit: Emit, sampling: Sampling) -> None:  # noqa: ANN401, ARG002
        """See `Task.answer`: each token's number, for the client alone."""
        lengths = {"batch": self.batch, "length": self.length, "tokens": self.tokens}
        for number in generate(self.model, loaded, client, **lengths, sampling=sampling):
            emit(number)

    def values(self, ids: Sequence[Sequence[int]]) -> Iterator[NDArray[np.generic]]:
        """Return what a client shares of up to `batch` prompts; the first one again where there are fewer.

        Raises:
            MpcError: `mpc.prompt-empty`; `mpc.no-tokenizer`: these are tokens of another model.
        """
        for each in ids:
            check_tokens(each, self.model.vocabulary)
        filled = [*ids, *[ids[0]] * (self.batch - len(ids))]
        return prompts(self.model, filled, self.length, self.tokens)


def generation(
    folder: ShareFolder,
    prompt_tokens: Sequence[int],
    new_tokens: Sequence[int],
    kinds: Sequence[Kind],
    batch: int = 1,
) -> Offer[Any]:
    """Return the offer of generating: each length of a prompt with each of an answer and each kind of choice.

    Args:
        folder: Any side's.
        prompt_tokens: To how many tokens prompts are padded.
        new_tokens: How many are generated.
        kinds: How they are chosen.
        batch: With how many prompts a run goes on.

    Raises:
        MpcError: `mpc.model-unsupported`: none of these lengths fits into the model; those that don't are left out.
    """
    model = decoder(folder.config)
    lengths = list(itertools.product(prompt_tokens, new_tokens))
    fit = [each for each in lengths if not model.positions or sum(each) - 1 <= model.positions]
    if not fit:
        raise MpcError("mpc.model-unsupported", f"the model has {model.positions} positions for prompt and answer")
    return folder.offer(model, tuple(Generation(model, *lengths, kind, batch) for lengths in fit for kind in kinds))


def fitting(offer: Offer[Any], length: int, tokens: int | None, kind: Kind, prompts: int = 1) -> Generation:
    """Return the shortest generation that takes a prompt of this length and gives so many tokens.

    Args:
        offer: What the parties offer.
        length: The longest prompt's.
        tokens: How many are wanted; None: as many as the first task gives.
        kind: How they are chosen.
        prompts: How many there are.

    Raises:
        MpcError: `mpc.prompt-too-long`; `mpc.not-offered`: no answer is that long, or chosen like this.
    """
    tasks = [task for task in offer.tasks if isinstance(task, Generation) and task.batch >= prompts]
    if not tasks:
        raise not_offered()
    longest = max(task.length for task in tasks)
    if length > longest:
        raise MpcError(
            "mpc.prompt-too-long",
            f"the prompt has {length} tokens, and the parties take {longest}",
            hint="ask something shorter, or let all sides raise prompt_tokens",
        )
    wanted = tasks[0].tokens if tokens is None else tokens
    fit = [task for task in tasks if task.kind == kind and task.length >= length and task.tokens >= wanted]
    if not fit:
        raise not_offered()
    return min(fit, key=lambda task: (task.tokens, task.length))


def parse_share_file(data: bytes) -> ShareFile:
    """Read a `share.json`; raise `ParseError` on anything else."""
    return parse_json(data, ShareFile, 4096, "mpc.shares-malformed", f"{_SHARE} is not of this version")


def decoder(config: bytes) -> Decoder[Any]:
    """Return the model that a `config.json` describes.

    Raises:
        ParseError, MpcError: `mpc.model-unsupported`.
    """
    family = _family(config).model_type
    if family == "gpt2":
        return Gpt2(parse_config(config, Gpt2Config))
    if family in {"llama", "qwen2"}:
        return Llama(parse_config(config, LlamaConfig))
    raise MpcError(
        "mpc.model-unsupported", "the model is of a family that does not generate here", hint="gpt2, llama and qwen2 do"
    )


def _family(config: bytes) -> _Family:
    return parse_json(config, _Family, MAX_CONFIG_BYTES, *_UNUSABLE)


def split_model(
    model: Path,
    out: Path,
    setting: Name = "2+1",
    approx: Approximation | None = None,
    *,
    progress: Progress = lambda _done, _total: None,
) -> None:
    """Cut a Hugging Face folder into a folder for each side below `out`: the setting's roles, and `client`.

    Args:
        model: The folder.
        out: Where; not there yet.
        setting: How parties compute.
        approx: What the model must have been trained for; None: anything.
        progress: Is told how many bytes of shares are done, and how many there will be.

    Raises:
        MpcError: The model is not supported, or not of this approximation, or `out` is there already.
    """
    if not (model / _CONFIG).is_file():
        raise MpcError("mpc.model-mismatch", f"{model} has no {_CONFIG}", hint="a folder as save_pretrained writes it")
    config = (model / _CONFIG).read_bytes()
    if approx is not None:
        require_approximation(_family(config).mpc_approx, approx)
    program = Bert(parse_config(config, BertConfig)) if _family(config).model_type == "bert" else decoder(config)
    if out.exists():
        raise MpcError("mpc.out-exists", f"there is something at {out}", hint="give a folder that is not there yet")
    try:
        _cut(model, program, config, out, setting, progress=progress)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def _cut(
    model: Path, program: Decoder[Any] | Bert, config: bytes, out: Path, setting: Name, *, progress: Progress
) -> None:
    cut = secrets.token_hex(16)
    for role in (*SETTINGS[setting].roles, CLIENT):
        folder = out / role
        folder.mkdir(mode=0o700, parents=True)
        (folder / _CONFIG).write_bytes(config)
        (folder / _SHARE).write_bytes(msgspec.json.encode(ShareFile("mitai mpc shares v1", role, cut, setting)))
    for name in _WORDS:
        if (model / name).is_file():
            shutil.copyfile(model / name, out / CLIENT / name)
    parties = _SUMMANDS[setting]
    keys = [secrets.token_bytes(KEY_BYTES) for _ in range(1 + max(map(max, parties.values())))]
    with ExitStack() as stack:
        files = []
        for role, summands in parties.items():
            if drawn := [keys[summand] for summand in summands if summand != _NUMBERED]:
                stack.enter_context(_private(out / role / _KEY)).write(b"".join(drawn))
            if _NUMBERED in summands:
                files.append(stack.enter_context(_private(out / role / _NUMBERS)))
        walk = Walk()
        walk.inputs(lambda engine: program.load(Arrays(engine, "model")))
        total_bytes = 8 * sum(map(math.prod, walk.asked["model"]))
        cutter = _Cutter(keys, files, lambda done_bytes: progress(done_bytes, total_bytes))
        cutter.plan(lambda engine: program.load(Arrays(engine, "model", program.arrays(Tensors(model)))))


class _Cutter(Walk):
    """A walk of the model's owner that writes down what is left of its numbers without keys' words, as they come."""

    def __init__(self, keys: list[bytes], files: list[BinaryIO], progress: Callable[[int], None]) -> None:
        super().__init__()
        self._keys, self._files, self._progress, self._done_bytes = keys, files, progress, 0

    def input(self, owner: str, shape: Shape, values: Real | None = None, fraction: int | None = None) -> Secret:
        number = len(self.asked[owner])
        if values is not None:
            if not np.isfinite(values).all() or np.abs(values).max(initial=0) >= 1 << 30:
                raise MpcError("mpc.model-mismatch", "the model has numbers that are not finite, or far too large")
            encoded = encode(values, self.fraction if fraction is None else fraction).reshape(shape)
            for key in self._keys:
                encoded -= _drawn(key, number, shape)
            for file in self._files:
                file.write(np.ascontiguousarray(encoded, "<u8").data.cast("B"))
            self._done_bytes += encoded.nbytes
            self._progress(self._done_bytes)
        return super().input(owner, shape, None, fraction)


def _keys(data: bytes) -> list[bytes]:
    return [data[at : at + KEY_BYTES] for at in range(0, len(data), KEY_BYTES)]


def _drawn(key: bytes, number: int, shape: Shape) -> Ring:
    return kernels.prg(key, number, 0, math.prod(shape)).reshape(shape)


def _private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _malformed() -> MpcError:
    return MpcError("mpc.shares-malformed", "the shares are not of the size that this model has")
