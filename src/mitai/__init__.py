"""mitai (密态): confidential large language models.

Seal a model, verify the machine that runs it, talk to it so that nobody in between can read a word.
The verbs are the sub-packages: `attest`, `channel`, `capsule`, `broker`, `ledger`, `serve`, `client`, `fleet`, `cli`.
"""

__version__ = "0.1.0"
