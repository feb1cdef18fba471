"""What a replica's configuration file says; `docs/configuration.md` lists every field.

Example:
    >>> ServeConfig.parse(Path("serve.toml").read_text()).port
    8701
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mitai.errors import ServeError
from mitai.serve.api import Limits

Url = Annotated[str, Meta(pattern=r"^https?://[^\s]{1,2000}\Z")]
# Chained fsspec URLs (`cache::…`) are refused: they would write and unpack things.
ObjectsUrl = Annotated[str, Meta(pattern=r"^(https?|file|s3|gs|az|abfs)://(?!.*::)[^\s]{1,2000}\Z")]
CapsuleId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")]

# What policies and budgets count is declared by measured code that keeps to it. This code keeps to none of it, and does
# not repeat what its host says of it.
COUNTED = ("tokens", "steps", "epsilon_micros", "epochs", "delta_nanos", "rows", "min_group", "reports", "columns")
AdapterName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}\Z")]


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The engine's limits; see `EngineOptions`.

    Attributes:
        fingerprints: Take fingerprints of the activations of each answer, for receipts to name.
    """

    max_sequences: Annotated[int, Meta(ge=1, le=1024)] = 32
    step_tokens: Annotated[int, Meta(ge=1, le=65536)] = 256
    max_context: Annotated[int, Meta(ge=1)] | None = None
    cache_bytes: Annotated[int, Meta(ge=1 << 20)] | None = None
    fingerprints: bool = False


class RerunConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which answers are computed again: what receipts say of it.

    Attributes:
        one_in: One answer in so many.
        commitment: To the seed that draws them: `mitai check commit`.
    """

    one_in: Annotated[int, Meta(ge=1, le=1 << 32)]
    commitment: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class ServeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A replica.

    Attributes:
        host: Address to listen on.
        port: Port to listen on.
        sim: Folder of a simulated platform; without it, the machine's own TEE (not yet run on hardware).
        gpus: With the machine's own TEE: its NVIDIA GPUs attest too.
        kem: The channel's key encapsulation.
        rotate_s: How often the channel's key is replaced.
        grace_s: How long the former key is honoured.
        renew_s: How often the lease on what is served is renewed; at most 10, so that a host can't slow it down.
        threads: Of the engine's arithmetic; 0 leaves torch's default.
        broker_policy: The appraisal policy (a file) that brokers must meet; its digest is in the replica's claims.
        rerun: The sample of answers that is computed again, for receipts to promise.
        engine: The engine's limits.
        limits: The API's limits.
    """

    port: Annotated[int, Meta(ge=0, le=65535)]
    broker_policy: str
    sim: str | None = None
    gpus: bool = False
    host: str = "127.0.0.1"
    kem: Literal["x25519", "x-wing"] = "x25519"
    rotate_s: Annotated[float, Meta(gt=0)] = 3600.0
    grace_s: Annotated[float, Meta(ge=0)] = 600.0
    renew_s: Annotated[float, Meta(ge=0.05, le=10)] = 10.0
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    rerun: RerunConfig | None = None
    engine: EngineConfig = EngineConfig()
    limits: Limits = Limits()

    @staticmethod
    def parse(text: str) -> ServeConfig:
        """Parse TOML; raise `ServeError` on anything unknown."""
        try:
            return msgspec.toml.decode(text, type=ServeConfig)
        except (msgspec.MsgspecError, ValueError) as error:
            raise ServeError("serve.config-malformed", f"the configuration is not valid: {error}") from error


class DeployRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /control/deploy: what to serve, and where keys and ciphertext are.

    Attributes:
        capsules: The model's capsule, then those of its adapters.
        broker: The broker's address.
        objects: The object store: `OBJECTS/CAPSULE/NAME` over HTTP, or an fsspec URL.
        model: The name in the API.
        adapters: The adapters' names, in the order of their capsules: `MODEL:ADAPTER` in the API.
        parameters: What owners' policies may ask about, but for what they count.
        replace: Unload what is served now.
    """

    capsules: Annotated[tuple[CapsuleId, ...], Meta(min_length=1, max_length=9)]
    broker: Url
    objects: ObjectsUrl
    model: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}\Z")]
    adapters: tuple[AdapterName, ...] = ()
    parameters: dict[str, str] = {}
    replace: bool = False

    def __post_init__(self) -> None:
        if len(self.capsules) != 1 + len(set(self.adapters)) or len(self.adapters) != len(set(self.adapters)):
            raise ValueError("each capsule after the first is an adapter with a name of its own")
        if len(set(self.capsules)) != len(self.capsules):
            raise ValueError("a capsule is named once")
        if any(name.partition(".")[0] in COUNTED for name in self.parameters):
            raise ValueError(f"a replica declares none of {', '.join(COUNTED)} on its host's word")
