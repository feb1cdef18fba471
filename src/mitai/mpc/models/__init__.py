"""Transformers as programs of an engine: BERT, GPT-2, Llama and Qwen2, from Hugging Face folders."""
