"""A service of answers with a proof: the OpenAI API, answers first, proofs behind (docs/spec/proof-service.md)."""
