"""The error tree: one root, one branch per part, a stable code on every error.

```
MitaiError
├── ParseError            bytes that are not what they claim to be (any boundary)
├── AttestError           evidence refused; `step` names the check that failed
├── ChannelError          a sealed exchange failed
│   ├── KeysChangedError  the server no longer holds that key: verify it again
│   └── ReplayError       this request was seen before, or is too old to know
├── CapsuleError          a sealed folder is damaged, truncated, swapped or not ours
├── LedgerError           a proof, checkpoint or receipt does not hold
├── BrokerError           the key broker refused or could not serve a request
│   ├── DeniedError       an owner's policy, budget or revocation said no
│   └── RollbackError     stored state is older than what the ledger remembers
├── ServeError            the inference service refused or failed a request
├── TrainError            a training or evaluation job was refused or failed
├── MpcError              parties that compute together could not begin, or had to stop
├── ProofError            a proof of a computation does not hold, or could not be made
├── ClientError           the client stopped before anything was sent
├── FleetError            a process of the platform did not start or went away
└── WebError              the browser's page is not the one that was published
```

Invariants:

- A message says what happened and why; `hint` says what to do next.
- No key, prompt, answer or other protected content is ever in a message: sizes, names, codes and digests only.
- Codes are dotted and stable (`attest.quote-signature-invalid`); `docs/errors.md` lists them.
"""

from __future__ import annotations


class MitaiError(Exception):
    """Anything that mitai refuses or fails, with a stable code.

    Args:
        code: Stable dotted identifier, for programs.
        message: What happened and why, for people; never protected content.
        step: The check that failed, where a verifier is a list of steps.
        hint: What to do next.
    """

    def __init__(self, code: str, message: str, *, step: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.step = step
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.code, self.message, self.step, self.hint)

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"

    def diagnostics(self) -> str:
        """Return the whole story on a few lines, for a terminal."""
        lines = [f"{self.message}", f"  code: {self.code}"]
        lines += [f"  step: {self.step}"] if self.step else []
        lines += [f"  next: {self.hint}"] if self.hint else []
        return "\n".join(lines)

    def to_dict(self) -> dict[str, str]:
        """Return code, message and, where set, step and hint, for `--json` and HTTP problem bodies."""
        fields = {"code": self.code, "message": self.message, "step": self.step, "hint": self.hint}
        return {name: value for name, value in fields.items() if value is not None}


def _rebuild(kind: type[MitaiError], code: str, message: str, step: str | None, hint: str | None) -> MitaiError:
    return kind(code, message, step=step, hint=hint)


class ParseError(MitaiError):
    """Bytes that are malformed, oversized, truncated, or of an unknown version."""


class AttestError(MitaiError):
    """Evidence that was refused; `step` names the check, `passed` those before it that held, with what they found."""

    passed: tuple[tuple[str, str], ...] = ()


class ChannelError(MitaiError):
    """A sealed exchange that could not be opened or completed."""


class KeysChangedError(ChannelError):
    """The server does not hold the key any more that the client sealed to."""


class ReplayError(ChannelError):
    """A request that was seen before, or whose date is outside the window."""


class CapsuleError(MitaiError):
    """A sealed folder that is damaged, truncated, swapped, older, or signed by another."""


class LedgerError(MitaiError):
    """A checkpoint, proof or receipt that does not hold."""


class BrokerError(MitaiError):
    """A request that the key broker refused or could not serve."""


class DeniedError(BrokerError):
    """A policy, budget or revocation that said no."""


class RollbackError(BrokerError):
    """Stored state that is older than what the ledger or a witness remembers."""


class ServeError(MitaiError):
    """A request that the inference service refused or failed."""


class TrainError(MitaiError):
    """A training or evaluation job that was refused or failed."""


class MpcError(MitaiError):
    """Parties that compute together could not begin, or had to stop."""


class ProofError(MitaiError):
    """A proof of a computation that does not hold or could not be made; `step` names the check that failed."""


class ClientError(MitaiError):
    """The client stopped, before anything was sent."""


class FleetError(MitaiError):
    """A process of the platform that did not start or went away."""


class WebError(MitaiError):
    """The browser's page is not the one that was published, or can't be read."""
