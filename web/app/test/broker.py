"""A key broker on simulated hardware, behind an address that looks like a gateway's, for the tests of the console.

`python broker.py` prints one JSON object and serves until its standard input ends; each line there is an order:
`release` (a workload asks for the key), `deny` (for a purpose that the policy does not allow), `quiet` (nothing).
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import uvicorn
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))
from broker_rig import BROKER, OTHER, SERVE, Party, Rig
from mitai.attest import ClaimRules, Policy
from mitai.attest.sim import SimPlatform, reference_values
from mitai.broker import __main__ as process
from mitai.broker.config import Config
from mitai.broker.protocol import Budget
from mitai.errors import DeniedError
from mitai.fleet.processes import free_port
from mitai.process import log_to_stderr

POLICY = 'permit(principal, action == Action::"inference", resource);'


def main() -> None:
    """Serve a broker with two parties and three capsules."""
    log_to_stderr()
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder), SimPlatform.create(Path(folder) / "sim"))
        values = (reference_values(SERVE), reference_values(BROKER))
        rig.policy = Policy(allow_simulation=True, sim_roots=(rig.sim.sim_root,), workloads=values)
        rig.reopen()
        bob = Party("bob")
        rig.register()
        rig.register(bob)
        model = rig.publish(POLICY, Budget(uses=20)).capsule_id
        shared = rig.publish(POLICY, owner=bob, co_owners=(rig.alice.id,)).capsule_id
        foreign = rig.publish(POLICY, owner=bob).capsule_id
        port = free_port()
        server = serve(rig, port)
        pem = rig.alice.identity._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        pinned = msgspec.structs.replace(rig.policy, claims=ClaimRules(ledger_vkey=rig.broker.vkey))
        told = {"url": f"http://127.0.0.1:{port}", "policy": pinned.to_toml(), "identity": pem, "key_id": rig.alice.id}
        print(json.dumps(told | {"model": model, "shared": shared, "foreign": foreign}), flush=True)  # noqa: T201
        for line in sys.stdin:
            obey(rig, model, line.strip())
            print(json.dumps({"size": rig.broker.size}), flush=True)  # noqa: T201
        server.should_exit = True
        rig.close()


def obey(rig: Rig, capsule: str, order: str) -> None:
    """Do what a test asks for."""
    if order == "quiet":
        return
    try:
        rig.release(capsule, purpose="inference" if order == "release" else "export")
    except DeniedError:
        if order == "release":
            raise


def serve(rig: Rig, port: int) -> uvicorn.Server:
    """Serve the broker's own app under `/broker`, and two replicas, the second of unknown code, by the header."""
    config = Config(state="", publish=str(rig.settings.publish_folder), policy="")
    codes, ledger = {"replica-0": SERVE, "replica-1": OTHER}, rig.broker.ledger_claim()
    replicas = {name: rig.process(code, ledger=ledger).app(JSONResponse({})) for name, code in codes.items()}
    broker = process.build_app(rig.broker, rig.sim.attester(BROKER), rig.policy, config)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        wanted = dict(scope.get("headers", [])).get(b"mitai-replica", b"").decode()
        if wanted in replicas:
            await replicas[wanted](scope, receive, send)
        elif scope["type"] == "http" and not scope["path"].startswith("/broker/"):
            await JSONResponse({"status": "ok", "replicas": list(replicas)})(scope, receive, send)
        else:
            await broker({**scope, "path": scope.get("path", "").removeprefix("/broker")}, receive, send)

    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", access_log=False))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.02)
    return server


if __name__ == "__main__":
    main()
