"""Confidential inference: the OpenAI API over an engine, in a measured process that opens a sealed model.

`python -m mitai.serve --config FILE` runs a replica (`mitai.serve.app`). The engine's seam is `mitai.serve.engine`; the
default engine, the only part that needs torch, is `mitai.serve.transformers_engine`.
"""
