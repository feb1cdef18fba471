"""Where mitai keeps its files: one folder each for operator, owner, user and publisher.

`$MITAI_HOME`, else `~/.mitai`. On one machine all roles share it for trying things out; in earnest they are people on
machines of their own, and each has only its own part.

```
platform/   the operator's: platform.json (addresses, tokens), sim/, broker/, objects/, witness/, logs/, mpc/, proof/
owner/      a model owner's: identity.pem, keys/CAPSULE.key
user/       a user's: policy.toml, witnesses, sessions/, receipts/, answers/, checkpoints/, mpc/, proof/
publisher/  a publisher's: key.pem, the newest signed release of each workload
```
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from mitai.errors import FleetError
from mitai.identity import Identity

Trust = Literal["tee", "mpc", "proof"]
_CAPSULE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class PlatformFile(msgspec.Struct, frozen=True):
    """`platform.json`: how the operator's own commands reach a running platform."""

    gateway: str  # empty where parties compute together: they have none
    upload_token: str
    operator_token: str
    pids: dict[str, int]
    simulated: bool
    trust: Trust = "tee"

    def __repr__(self) -> str:
        return f"PlatformFile(gateway={self.gateway!r}, simulated={self.simulated})"  # no token


@dataclass(frozen=True)
class Home:
    """The folder of files, and the names in it."""

    root: Path

    @staticmethod
    def default() -> Home:
        """Return `$MITAI_HOME` or `~/.mitai`."""
        return Home(Path(os.environ.get("MITAI_HOME") or Path.home() / ".mitai"))

    @property
    def platform(self) -> Path:
        """The operator's part."""
        return self.root / "platform"

    @property
    def sim(self) -> Path:
        """The simulated hardware's root and keys."""
        return self.platform / "sim"

    @property
    def objects(self) -> Path:
        """The gateway's ciphertext store."""
        return self.platform / "objects"

    @property
    def parties(self) -> Path:
        """Shares and configurations of parties that compute together, a folder for each side."""
        return self.platform / "mpc"

    @property
    def proof(self) -> Path:
        """A service of answers with a proof: its key, its configuration, prepared models, answers."""
        return self.platform / "proof"

    @property
    def deployment(self) -> Path:
        """What the replicas were last told to serve, for one that is started again."""
        return self.platform / "deployment.json"

    @property
    def capture(self) -> Path:
        """The gateway's record of its traffic, where it is asked for."""
        return self.platform / "capture.jsonl"

    @property
    def logs(self) -> Path:
        """Standard error of every process."""
        return self.platform / "logs"

    @property
    def policy(self) -> Path:
        """The appraisal policy that a user verifies machines with."""
        return self.root / "user" / "policy.toml"

    @property
    def witnesses(self) -> Path:
        """The verifier keys of the witnesses that the ledger's checkpoints must carry, one a line."""
        return self.root / "user" / "witnesses"

    @property
    def sessions(self) -> Path:
        """Verified sessions, for a few minutes."""
        return self.root / "user" / "sessions"

    @property
    def answers(self) -> Path:
        """Answers that the user keeps in words, by the name of their exchange."""
        return self.root / "user" / "answers"

    @property
    def receipts(self) -> Path:
        """Receipts of past answers."""
        return self.root / "user" / "receipts"

    @property
    def mpc_client(self) -> Path:
        """A client's folder: its key, and the parties that it knows."""
        return self.root / "user" / "mpc"

    @property
    def proof_client(self) -> Path:
        """What a client knows of a service of answers with a proof: address, key, model, tokenizer."""
        return self.root / "user" / "proof"

    @property
    def checkpoints(self) -> Path:
        """The newest ledger checkpoint that this user has seen, by ledger."""
        return self.root / "user" / "checkpoints"

    def owner(self) -> Identity:
        """Return the owner's identity; make it on first use."""
        return _identity(self.root / "owner" / "identity.pem")

    def has_owner(self) -> bool:
        """Return whether there is an owner's identity already."""
        return (self.root / "owner" / "identity.pem").exists()

    def export_seed(self) -> bytes:
        """Return the secret of the key that exports to this owner are sealed to; make it on first use."""
        path = self.root / "owner" / "export.key"
        if not path.exists():
            write_private(path, secrets.token_bytes(32))
        return path.read_bytes()

    def publisher(self) -> Identity:
        """Return the identity that signs releases; make it on first use."""
        return _identity(self.root / "publisher" / "key.pem")

    def release(self, workload: str) -> Path:
        """Return where the newest signed release of a workload lies."""
        return self.root / "publisher" / f"{workload}.json"

    def data_key_path(self, capsule_id: str) -> Path:
        """Return where the owner keeps the data key of a capsule."""
        if not _CAPSULE_ID.fullmatch(capsule_id):  # it may come from a server: it must not lead elsewhere
            raise FleetError("fleet.capsule-id", "a capsule's id is letters, digits, '_' and '-', at most 128")
        return self.root / "owner" / "keys" / f"{capsule_id}.key"

    def pending_key_path(self, dest: Path) -> Path:
        """Return where the data key lies while a folder is being sealed into `dest`."""
        name = hashlib.sha256(str(dest.resolve()).encode()).hexdigest()[:16]
        return self.root / "owner" / "keys" / f"pending-{name}.key"

    def save_data_key(self, capsule_id: str, data_key: bytes) -> None:
        """Write a data key, readable by its owner only."""
        write_private(self.data_key_path(capsule_id), data_key)

    def keep_former_key(self, capsule_id: str, manifest_sha256: str) -> None:
        """Set the data key of a former revision aside, under its manifest's digest."""
        path = self.data_key_path(capsule_id)
        if path.exists():
            path.replace(path.with_name(f"{capsule_id}.{manifest_sha256[:16]}.key"))

    def data_key(self, capsule_id: str) -> bytes:
        """Return a data key that `save_data_key` wrote."""
        path = self.data_key_path(capsule_id)
        if not path.exists():
            raise FleetError(
                "fleet.data-key-missing",
                f"the data key of capsule {capsule_id} is not at {path}",
                hint="publish from the machine that sealed it, or set MITAI_HOME to the folder that it used",
            )
        return path.read_bytes()

    def write_platform(self, platform: PlatformFile) -> None:
        """Record a running platform."""
        write_private(self.platform / "platform.json", msgspec.json.format(msgspec.json.encode(platform)))

    def read_platform(self) -> PlatformFile:
        """Return the running platform's record."""
        path = self.platform / "platform.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=PlatformFile)
        except FileNotFoundError:
            raise FleetError(
                "fleet.no-platform", f"no platform has been started from {self.root}", hint="start one: mitai up"
            ) from None
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise FleetError(
                "fleet.platform-file",
                f"{path} is damaged",
                hint="end processes named `python -m mitai.…` that still run, remove that file, then: mitai up",
            ) from error


def _identity(path: Path) -> Identity:
    if not path.exists():
        Identity.generate().save(path)
    return Identity.load(path)


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all, and lasting when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name too
    finally:
        os.close(folder)
