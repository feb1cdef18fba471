"""A service of answers with a proof in this process: a tiny model, its API without a socket, a worker in a thread."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import msgspec
import numpy as np
import safetensors.numpy

from mitai import demo_model
from mitai.identity import Identity
from mitai.ledger.assurance import Sample
from mitai.mpc.local import Local
from mitai.proof.card import ModelCard
from mitai.proof.prepared import CARD, prepare
from mitai.proof.service.app import create_service
from mitai.proof.service.client import OFFER, Offer, Service
from mitai.proof.service.config import ServiceConfig
from mitai.proof.service.receipts import Promise, Said, Terms, made
from mitai.proof.service.worker import work

IDENTITY, NAME = "ab" * 32, "tiny"
KEY = Identity.from_seed(bytes(32))
STATE_KEY = bytes(range(32))
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
TIME = "2026-01-01T00:00:00Z"
WIDTH, INNER, WORDS = 16, 24, 2560
MODEL = {
    "model_type": "llama", "vocab_size": WORDS, "hidden_size": WIDTH, "intermediate_size": INNER,
    "num_hidden_layers": 1, "max_position_embeddings": 700, "num_attention_heads": 2, "eos_token_id": 2,
}  # fmt: skip


def tiny_model(model: Path) -> Path:
    """Write a Llama of random weights, with the demo model's tokenizer, into a new folder, and return that."""
    model.mkdir()
    draw = np.random.default_rng(5)
    shapes = {"model.embed_tokens": (WORDS, WIDTH), "lm_head": (WORDS, WIDTH)}
    shapes |= {f"model.layers.0.self_attn.{part}_proj": (WIDTH, WIDTH) for part in "qkvo"}
    shapes |= {f"model.layers.0.mlp.{part}_proj": (INNER, WIDTH) for part in ("gate", "up")}
    shapes |= {"model.layers.0.mlp.down_proj": (WIDTH, INNER)}
    tensors = {f"{name}.weight": draw.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    norms = ("model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm")
    tensors |= {f"{name}.weight": np.ones(WIDTH, np.float32) for name in norms}
    safetensors.numpy.save_file(tensors, model / "model.safetensors")
    (model / "config.json").write_text(json.dumps(MODEL))
    for name in TOKENIZER:
        shutil.copyfile(demo_model.path() / name, model / name)
    return model


def tiny(folder: Path) -> Path:
    """Prepare such a model."""
    model = tiny_model(folder / "model")
    prepare(model, [list(range(40, 70)), list(range(400, 440))], folder / "prepared")
    return folder / "prepared"


def config(folder: Path, prepared: Path = Path("none"), **changes: object) -> ServiceConfig:
    """Return a configuration whose files lie in a folder."""
    fields = {"port": 0, "prepared": str(prepared), "name": NAME, "key": str(folder / "key.pem")}
    return msgspec.convert(fields | {"state": str(folder / "state")} | changes, ServiceConfig)


def said(number: int = 0) -> Said:
    """Return an answer."""
    return Said(f"cmpl-{number:024x}", [1, 2, number], [number, 4])


def receipt(one: Said, promise: Promise = "on-demand", sample: Sample | None = None, key: Identity = KEY) -> bytes:
    """Return its signed receipt."""
    return made(one, Terms(NAME, IDENTITY, promise, sample), TIME, TIME).sign(key)


@dataclass
class Running:
    """A service, and what its clients need."""

    folder: Path
    config: ServiceConfig
    transport: httpx2.BaseTransport
    identity: str

    @property
    def http(self) -> httpx2.Client:
        """A client without any checks."""
        return httpx2.Client(transport=self.transport, base_url="http://service.test")

    def service(self, transport: httpx2.BaseTransport | None = None) -> Service:
        """Return a client that knows the service."""
        return Service(self.folder / "client", transport or self.transport)

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Prove while this lasts."""
        stop = threading.Event()
        thread = threading.Thread(target=work, args=(self.config, STATE_KEY, stop))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextmanager
def running(folder: Path, prepared: Path, **changes: object) -> Iterator[Running]:
    """Run a service whose files lie in a folder."""
    if not (folder / "key.pem").exists():
        KEY.save(folder / "key.pem")
    client = folder / "client"
    client.mkdir(exist_ok=True)
    identity = ModelCard.parse((prepared / CARD).read_bytes()).identity
    offer = Offer(address="http://service.test", model=NAME, identity=identity, key=KEY.key_id)
    (client / OFFER).write_bytes(msgspec.json.encode(offer))
    for name in (*TOKENIZER, "config.json"):
        shutil.copyfile(prepared / name, client / name)
    own = config(folder, prepared, **changes)
    transport = Local(create_service(own, STATE_KEY))
    try:
        yield Running(folder, own, transport, identity)
    finally:
        transport.close()
