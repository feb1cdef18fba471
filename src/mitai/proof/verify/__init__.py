"""The verifier's halves of all arguments of docs/spec/proof.md, in Python and numpy alone.

Each `check_…` has its prover's counterpart `prove_…` in the module of the same name in `mitai.proof`. It takes a
`Verifier`, reads its messages, and returns claims that are still to be shown, or raises `ProofError`.
"""
