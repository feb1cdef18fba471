"""The key broker: keys go to proven workloads, as far as every owner's policy allows.

`protocol` is what travels; `release_client` and `mitai.client.owner` are the two sides that talk to the broker, and
light. `service` is the broker itself, `app` and `__main__` serve it. The protocol, the state, and what an attacker on
the host can do are written down in `docs/spec/broker.md`.
"""
