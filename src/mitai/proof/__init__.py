"""Answers with a proof: that integers are what a program computes from committed numbers (docs/spec/proof.md)."""
