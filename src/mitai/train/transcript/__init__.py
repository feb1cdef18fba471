"""Proof of training data: a signed transcript of a run, its verification, and membership proofs.

After Choi, Shavit and Duvenaud, "Tools for Verifying Neural Models' Training Data" (NeurIPS 2023).
`docs/spec/transcript.md` says what is proved to whom, and with which probability a forgery is caught.
"""
