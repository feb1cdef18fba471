"""Hugging Face's libraries, kept off the network, the disk and the terminal; called before they are used.

Invariants:

- Nothing is downloaded, reported or counted: the hub is switched off in this process, whatever its environment says.
- No progress bar and no log line of theirs: they could quote what they work on.

Example:
    >>> quiet()
    >>> with calm():
    ...     trainer.train()
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_DISABLED": "true",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}


def quiet() -> None:
    """Switch hub, telemetry, caches, progress bars and log lines off."""
    os.environ.update(_SETTINGS)
    import datasets
    import transformers
    from huggingface_hub import constants

    hub: Any = constants
    hub.HF_HUB_OFFLINE = hub.HF_HUB_DISABLE_TELEMETRY = True  # where the module was imported before
    datasets.disable_progress_bars()
    datasets.disable_caching()
    logs: Any = transformers.utils.logging
    logs.disable_progress_bar()
    for name in ("transformers", "trl", "datasets", "peft", "accelerate", "opacus"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


# What the libraries warn of in code of their own, which nobody here can change.
_THEIRS = (r"`(is_)?gradient_checkpointing` is deprecated",)


@contextmanager
def calm() -> Iterator[None]:
    """Leave out exactly the warnings that trainers raise about their own code."""
    with warnings.catch_warnings():
        for message in _THEIRS:
            warnings.filterwarnings("ignore", message)
        yield
