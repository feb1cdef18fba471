"""The prover's half: committing to an answer's trace, and showing steps of it on demand (docs/spec/audit.md).

- Nothing has to be kept but the answer's file: the trace follows from its tokens, and is computed again.
- No more of it is in memory than what later operations take.

Example:
    >>> committed = commit(prepared, prompt, answer)
    >>> committed.root == trace_root(prepared, prompt, answer, committed.salt)
    True
    >>> stream = respond(prepared, committed, Challenge(steps=(3, 70)))
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256

import msgspec
import numpy as np

from mitai.errors import ProofError
from mitai.proof.answer import statement
from mitai.proof.audit import tree
from mitai.proof.audit.files import MAGIC, SALT_BYTES, Challenge, Committed, asked, root_of
from mitai.proof.audit.numbers import pieces, size
from mitai.proof.audit.plan import Plan
from mitai.proof.operation import Ints
from mitai.proof.prepared import Prepared
from mitai.proof.sampling import Sampling
from mitai.proof.verify.statement import Statement


def commit(
    prepared: Prepared, prompt: Sequence[int], answer: Sequence[int], sampling: Sampling | None = None
) -> Committed:
    """Commit to the trace of an answer that `mitai.proof.answer.generate` gave.

    Raises:
        ProofError: `proof.answer-differs`: the model answers otherwise.
    """
    return _commit(prepared, prompt, answer, secrets.token_bytes(SALT_BYTES), sampling)


def trace_root(
    prepared: Prepared,
    prompt: Sequence[int],
    answer: Sequence[int],
    salt: bytes = bytes(SALT_BYTES),
    sampling: Sampling | None = None,
) -> bytes:
    """Return the root over an answer's trace, 32 bytes.

    Args:
        prepared: The model.
        prompt: Tokens.
        answer: The tokens that it gave.
        salt: What hides the answer from whoever has the root alone, and guesses; zeros hide nothing.
        sampling: How tokens were drawn, if they are not the likeliest.

    Raises:
        ProofError: `proof.answer-differs`: the model answers otherwise.
    """
    return _commit(prepared, prompt, answer, salt, sampling).root


def respond(
    prepared: Prepared, committed: Committed, challenge: Challenge | None = None, limit: int | None = None
) -> Iterator[bytes]:
    """Yield what an auditor gets who asks for these steps, or for all.

    Raises:
        ProofError: `proof.model-differs`. `proof.challenge-invalid`: there are no such steps. `proof.trace-too-large`:
            they have more than `limit` bytes. `proof.answer-differs`: the root is of another trace than this model's,
            which is known at the end.
    """
    if committed.card != prepared.card.encode():
        raise ProofError("proof.model-differs", "the answer is of another model than this one", step="model")
    claim = statement(committed.unproven, prepared.card)
    plan = Plan.of(claim.program)
    shown = plan.shown(asked(challenge, len(plan.steps)))
    total = sum(size(plan.value(plan.steps[place])) for place in shown)
    if limit is not None and total > limit:
        raise ProofError("proof.trace-too-large", f"a trace of {total} bytes is above the limit of {limit}")
    return _response(plan, claim, prepared.weights.arrays, committed, shown)


def _response(
    plan: Plan, claim: Statement, weights: Mapping[str, Ints], committed: Committed, shown: set[int]
) -> Iterator[bytes]:
    leaves = list[bytes]()
    yield MAGIC
    yield from _steps(plan, claim, weights, shown, leaves)
    yield from tree.siblings(leaves, shown)
    if root_of(claim, committed.salt, tree.root(leaves)) != committed.root:
        raise ProofError("proof.answer-differs", "the root is of another trace than this model's")


def _steps(
    plan: Plan, claim: Statement, weights: Mapping[str, Ints], shown: set[int], leaves: list[bytes]
) -> Iterator[bytes]:
    """Run a program; yield the bytes of the steps at these places, and append the leaf of each step to a list.

    Raises:
        ProofError: `proof.answer-differs`: something else comes out than is claimed.
    """
    for number, result in enumerate(plan.program.results(claim.inputs, weights)):
        if number in claim.choices and not np.array_equal(result, claim.choices[number]):
            raise ProofError("proof.answer-differs", "the model gives another answer, so its trace is of another one")
        if number not in plan.places:
            continue
        hashed = sha256(tree.LEAF)
        for piece in pieces(result, plan.value(number)):
            hashed.update(piece)
            if plan.places[number] in shown:
                yield piece
        leaves.append(hashed.digest())


def _commit(
    prepared: Prepared, prompt: Sequence[int], answer: Sequence[int], salt: bytes, sampling: Sampling | None
) -> Committed:
    draft = Committed(
        card=prepared.card.encode(),
        prompt=tuple(prompt),
        answer=tuple(answer),
        salt=salt,
        root=tree.EMPTY,
        sampling=sampling or msgspec.UNSET,
    )
    claim = statement(draft.unproven, prepared.card)
    leaves = list[bytes]()
    for _ in _steps(Plan.of(claim.program), claim, prepared.weights.arrays, set(), leaves):
        pass
    root = root_of(claim, salt, tree.root(leaves))
    return msgspec.structs.replace(draft, root=root)
