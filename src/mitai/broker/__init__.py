"""The key broker: keys go to proven workloads, as far as every owner's policy allows.

`protocol` is what travels, `release_client` and `mitai.client.owner` are the two sides that talk to it; these are light. `service`
is the broker itself, `app` and `__main__` serve it. The protocol, the state and what an attacker can do are in `docs/spec/broker.md`.
"""
