"""One rank in a process of its own, over sockets that it inherits: `train_rank.py` with its orders as JSON.

For each job file it prints a line of JSON: the losses and a digest of the output, or the code of the error.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys

from train_rig import Kept, conversations, tiny_llama

from mitai.errors import MitaiError
from mitai.train.group import Group
from mitai.train.job import Job
from mitai.train.links import SealedLink
from mitai.train.run import run

asked = json.loads(sys.argv[1])
links = [
    SealedLink(socket.socket(fileno=fd), bytes.fromhex(sending), bytes.fromhex(receiving), asked["silence_s"])
    for fd, sending, receiving in asked["links"]
]
group = Group(asked["rank"], links, asked["size"])
inputs = {"base": tiny_llama(), "records": conversations(25)}
states: dict[str, bytes] = {}
for text in asked["jobs"]:
    kept = Kept(states.get(text))
    try:
        done = run(Job.parse(text), inputs, group=group, states=kept)
    except MitaiError as error:
        told = {"code": error.code}
    else:
        digest = hashlib.sha256(b"".join(done.files[name] for name in sorted(done.files)))
        told = {"losses": done.metrics["losses"], "sha256": digest.hexdigest(), "states": sorted(kept.all)}
        states |= {text: kept.all[min(kept.all)]} if kept.all else {}
    sys.stdout.write(json.dumps(told) + "\n")
