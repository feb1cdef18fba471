"""The broker's configuration file.

```toml
state = "sqlite:///var/broker/state.db"   # the database, as SQLAlchemy spells it
publish = "var/broker/ledger"             # where the ledger is published
policy = "policy.toml"                    # appraisal policy: which workloads may ask for keys
releases = []                             # files: signed releases of workloads, by those whom the policy trusts
residency = "var/residency"               # a folder: auditors say where machines stand: docs/spec/residency.md
sim = "var/sim"                           # simulated hardware; without it, the machine's own TEE
origin = "example.org/ledger"             # the ledger's name; can't be changed later
host = "127.0.0.1"
port = 8701
kem = "x25519"                            # or "x-wing"
rotate_s = 3600.0                         # how often the channel's key is replaced
witnesses = ["https://witness.example"]   # "URL", or "URL VKEY" to demand one key
allowed_parties = []                      # key ids; empty: anybody may register
recovery = "plan.json"                    # a signed recovery plan to put into force: docs/spec/broker-keys.md
peers = []                                # addresses of running brokers that may give this machine the root key
max_parties = 10000
max_capsules = 1000000
max_capsules_per_party = 10000
kbs = false                               # serve Trustee's KBS protocol too: docs/spec/kbs.md
kbs_pccs = "https://pccs.example:8081"    # where collateral for its guests is asked; without it, Intel
```

The file lies on the untrusted host. What it decides about trust (the appraisal policy, the witnesses) is therefore
in the broker's attested claims, where owners check it.

Invariants:

- Unknown keys are refused.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mitai.broker.anchor import Witness
from mitai.broker.commands import Limits
from mitai.broker.service import Settings
from mitai.errors import ParseError


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file's keys."""

    state: str
    publish: str
    policy: str
    releases: tuple[str, ...] = ()
    residency: str | None = None
    sim: str | None = None
    origin: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9./_-]{0,127}\Z")] = "mitai.local/ledger"
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8701
    kem: Literal["x25519", "x-wing"] = "x25519"
    rotate_s: Annotated[float, Meta(gt=0)] = 3600.0
    witnesses: tuple[str, ...] = ()
    allowed_parties: tuple[Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")], ...] = ()
    recovery: str | None = None
    peers: tuple[Annotated[str, Meta(pattern="^https?://")], ...] = ()
    max_parties: Annotated[int, Meta(ge=1)] = 10_000
    max_capsules: Annotated[int, Meta(ge=1)] = 1_000_000
    max_capsules_per_party: Annotated[int, Meta(ge=1)] = 10_000
    kbs: bool = False
    kbs_pccs: Annotated[str, Meta(pattern="^https?://")] | None = None

    @staticmethod
    def read(path: Path) -> Config:
        """Read the file; raise `ParseError` when it is missing, malformed, or has unknown keys."""
        try:
            return msgspec.convert(tomllib.loads(path.read_text()), Config)
        except OSError as error:
            raise ParseError("broker.config-missing", f"there is no configuration at {path}") from error
        except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
            raise ParseError("broker.config-malformed", f"{path}: {error}") from error

    def plan(self) -> bytes | None:
        """Return the signed recovery plan, if one is named."""
        return Path(self.recovery).read_bytes() if self.recovery is not None else None

    def settings(self) -> Settings:
        """Return what the broker itself needs of it."""
        limits = Limits(
            parties=self.max_parties,
            capsules=self.max_capsules,
            capsules_per_party=self.max_capsules_per_party,
            allowed_parties=frozenset(self.allowed_parties),
        )
        witnesses = tuple(Witness.parse(text) for text in self.witnesses)
        releases = tuple(map(Path, self.releases))
        residency = Path(self.residency) if self.residency is not None else None
        publish = Path(self.publish)
        return Settings(self.origin, self.state, publish, witnesses, limits, releases=releases, residency=residency)
