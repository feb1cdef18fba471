"""What a side reads at start: its folder's `party.toml`, and its key.

A folder (`mitai.mpc.sharing`) has everything of one side: its shares, `identity.pem`, `party.toml`, and later its
tapes.

Example:
    >>> side = Side.open(Path("shares/p0"))
    >>> side.role, side.identity.key_id
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from mitai.attest import Policy
from mitai.attester import own_attester
from mitai.errors import MpcError, ParseError
from mitai.identity import Identity
from mitai.mpc import parties, three_parties, twin_parties
from mitai.mpc.attested import WORKLOAD, Credentials
from mitai.mpc.clients import Peer
from mitai.mpc.meeting import Address
from mitai.mpc.parties import Own
from mitai.mpc.reading import reading
from mitai.mpc.sampling import Kind
from mitai.mpc.settings import Name
from mitai.mpc.sharing import CLIENT, ShareFolder, generation

KeyId = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
LENGTHS = Meta(min_length=1, max_length=16)
FILE = "party.toml"
IDENTITY, POLICY, TAPES = "identity.pem", "policy.toml", "tapes"


class PeerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Another side, as `party.toml` names it."""

    key: KeyId  # as `mitai mpc key` shows it there
    address: str = ""  # HOST:PORT where it listens; the parties alone do
    policy: str = ""  # a file in this folder: the appraisal policy that its machine must fulfil; none: its key suffices


class PartyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`party.toml`."""

    setting: Name = "2+1"  # for which the model was cut, and so whom one has to trust; the same on all sides
    listen: str = ""  # HOST:PORT where this party listens
    clients: tuple[KeyId, ...] = ()  # whose questions this party answers; nobody's when empty
    # prompts are padded to so many, or to the next one of a list; 1 to 4096; the same at the parties and the dealer
    prompt_tokens: (
        Annotated[int, Meta(ge=1, le=4096)] | Annotated[tuple[Annotated[int, Meta(ge=1, le=4096)], ...], LENGTHS]
    ) = 64
    # an answer has so many, or the next one of a list; 1 to 1024; the same at the parties and the dealer
    new_tokens: (
        Annotated[int, Meta(ge=1, le=1024)] | Annotated[tuple[Annotated[int, Meta(ge=1, le=1024)], ...], LENGTHS]
    ) = 16
    # how tokens are chosen: the likeliest, with a temperature, or with top_p as well; the same at parties and dealer
    sampling: Annotated[tuple[Kind, ...], Meta(min_length=1, max_length=3)] = ("greedy", "sampled", "nucleus")
    # how many prompts or texts one run takes; the same at the parties and the dealer
    batch: Annotated[int, Meta(ge=1, le=64)] = 1
    ahead: Annotated[int, Meta(ge=1, le=64)] = 2  # tapes kept ready for the first lengths and the first way of choosing
    ahead_others: Annotated[int, Meta(ge=0, le=64)] = 0  # for each other one; from its first question on at least one
    tapes_gib: Annotated[int, Meta(ge=1, le=65536)] = 64  # of the disk for tapes; one of all that is offered has to fit
    attest: bool = False  # whether this machine is a confidential one, and proves it to those who demand it
    sim: str = ""  # folder of a simulated platform that stands in for the machine's own TEE; protects nothing
    model: Annotated[str, Meta(min_length=1, max_length=256)] = "model"  # its name in a client's OpenAI API
    peers: dict[str, PeerConfig] = {}  # the other sides: p0, p1, dealer; or those of another setting

    @staticmethod
    def parse(text: str) -> PartyConfig:
        """Parse TOML; raise `ParseError` on anything unknown."""
        try:
            return msgspec.toml.decode(text, type=PartyConfig)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ParseError("mpc.config", f"{FILE} is not valid: {error}") from error


class Side:
    """One side: a party, the dealer or a client."""

    def __init__(self, folder: ShareFolder, config: PartyConfig, identity: Identity) -> None:
        self.folder, self.config, self.identity = folder, config, identity
        self.role, setting = folder.role, folder.setting
        if config.setting != setting.name:
            raise MpcError(
                "mpc.config",
                f"the model was cut for {setting.name}, and {FILE} says {config.setting}",
                hint=f'setting = "{setting.name}", if that is whom you would trust: see docs/mpc.md',
            )
        lengths = (_all(config.prompt_tokens), _all(config.new_tokens))
        if folder.family == "bert":
            self.offer = reading(folder, lengths[0], config.batch)
        else:
            self.offer = generation(folder, *lengths, tuple(dict.fromkeys(config.sampling)), config.batch)
        needed = set(setting.parties if self.role == CLIENT else setting.roles) - {self.role}
        if unknown := sorted(set(config.peers) - set(setting.roles)):
            raise MpcError("mpc.config", f"{FILE} names {unknown[0]}, who has no part in {setting.name}")
        if missing := sorted(needed - set(config.peers)):
            raise MpcError("mpc.config", f"{FILE} does not name {' and '.join(missing)}", hint="[peers.NAME] key = …")
        keys = [identity.key_id, *(peer.key for peer in config.peers.values())]
        if len(set(keys)) < len(keys):
            raise MpcError(
                "mpc.config", f"{FILE} gives two sides one key", hint="who has both halves knows all: one key each"
            )
        self.peers = {
            role: Peer(peer.key, Address.parse(peer.address) if peer.address else None)
            for role, peer in config.peers.items()
        }

    @staticmethod
    def open(path: Path) -> Side:
        """Read a folder."""
        folder = ShareFolder.open(path)
        try:
            config = PartyConfig.parse((path / FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MpcError("mpc.config", f"there is no {FILE} in {path}", hint="see docs/mpc.md") from None
        except UnicodeDecodeError:
            raise ParseError("mpc.config", f"{FILE} is not text") from None
        return Side(folder, config, Identity.load(path / IDENTITY))

    def credentials(self) -> Credentials:
        """Return what this side shows, and what it demands of others.

        Raises:
            MitaiError: This machine can't prove what it is, or a policy can't be read.
        """
        attester = own_attester(WORKLOAD, sim=self.config.sim or None) if self.config.attest else None
        policies = {
            peer.key: Policy.from_toml((self.folder.path / peer.policy).read_text(encoding="utf-8"))
            for peer in self.config.peers.values()
            if peer.policy
        }
        return Credentials(self.identity, attester, policies)

    def own(self) -> Own:
        """Return this process as a party or dealer."""
        listen = Address.parse(self.config.listen) if self.config.listen else None
        config = self.config
        tapes_bytes = config.tapes_gib << 30
        return Own(
            self.role, self.credentials(), listen, config.clients, config.ahead, config.ahead_others, tapes_bytes
        )

    def serve(self, note: Callable[[str], None], show: Callable[[Callable[[], str]], None] = lambda _: None) -> None:
        """Be this party or dealer, until another side ends.

        Args:
            note: Told what happens, in words for people.
            show: Is given a function that tells, at any time, how things stand, in a line for people.

        Raises:
            MitaiError: Another side is not who it should be, or has ended; this folder is a client's.
        """
        own, setting = replace(self.own(), note=note, show=show), self.folder.setting
        if self.role == CLIENT:
            raise MpcError("mpc.config", f"{self.folder.path} is a client's folder", hint="ask with it: mitai mpc ask")
        if setting.name == "3pc":
            three_parties.serve(own, self.peers, self.offer, self.folder.parts(self.offer))
            return
        sides = twin_parties if setting.name == "twins" else parties
        if self.role in setting.dealers:
            sides.deal(own, self.peers, self.offer)
        else:
            sides.serve(own, self.peers, self.offer, self.folder.shares(self.offer), self.folder.path / TAPES)


def key_of(path: Path) -> Identity:
    """Return the identity in a side's folder; make it on first use."""
    ShareFolder.open(path)
    file = path / IDENTITY
    if not file.exists():
        Identity.generate().save(file)
    return Identity.load(file)


def _all(lengths: int | tuple[int, ...]) -> tuple[int, ...]:
    return (lengths,) if isinstance(lengths, int) else tuple(dict.fromkeys(lengths))


def configure_here(
    out: Path,
    ports: Sequence[int],
    *,
    sim: Path | None = None,
    policy: str = "",
    **options: str | int | list[int] | list[str],
) -> None:
    """Write keys and configurations of all sides for trying things out on one machine.

    Args:
        out: Where the sides' folders are.
        ports: Where those listen who have to, in the setting's order.
        sim: A simulated platform, by which parties and dealer prove what they are.
        policy: The text of the appraisal policy that each side has for the others; none: their keys suffice.
        options: What is the same in all configurations.
    """
    setting = ShareFolder.open(out / CLIENT).setting
    keys = {role: key_of(out / role).key_id for role in (*setting.roles, CLIENT)}
    addresses = {role: f"127.0.0.1:{port}" for role, port in zip(setting.listeners, ports, strict=True)}
    for role in keys:
        lines = [f"{name} = {json.dumps(value)}" for name, value in ({"setting": setting.name} | options).items()]
        if role in addresses:
            lines += [f'listen = "{addresses[role]}"', f'clients = ["{keys[CLIENT]}"]']
        if sim is not None and role != CLIENT:
            lines += ["attest = true", f"sim = {json.dumps(str(sim), ensure_ascii=False)}"]
        for peer in setting.roles:
            if peer != role:
                lines += ["", f"[peers.{peer}]", f'key = "{keys[peer]}"']
                lines += [f'address = "{addresses[peer]}"'] if peer in addresses else []
                lines += [f'policy = "{POLICY}"'] if policy else []
        if policy:
            (out / role / POLICY).write_text(policy)
        (out / role / FILE).write_text("\n".join([*lines, ""]))
