"""Models under secure multi-party computation: nobody who computes knows weights, prompt or answer.

The protocols, with what they assume and leak, are written in `docs/spec/mpc.md`.
"""
