"""A model by path or by Hugging Face hub id becomes a local folder, ready to be sealed.

The download happens on the owner's machine, before anything is sealed; a replica never fetches plain models.

Invariants:

- Only what the engine reads is downloaded: configuration, tokenizer, templates and safetensors; no code, no pickles.

Example:
    >>> resolve_model("Qwen/Qwen2.5-0.5B-Instruct")
    PosixPath('/home/alice/.cache/huggingface/hub/models--Qwen--Qwen2.5-0.5B-Instruct/snapshots/…')
"""

from __future__ import annotations

import re
from pathlib import Path

from mitai.errors import ServeError

FILES = ["*.json", "*.safetensors", "*.jinja", "LICENSE*", "README.md"]
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def resolve_model(path_or_hub_id: str, *, revision: str | None = None) -> Path:
    """Return the folder of a model; download it when it is named by hub id and not there yet.

    Args:
        path_or_hub_id: A folder, or `OWNER/NAME` on the hub.
        revision: Branch, tag or commit on the hub; a commit is best, since the others move.

    Raises:
        ServeError: There is no such folder, or the hub can't be reached or has no such model.
    """
    path = Path(path_or_hub_id).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ServeError(
                "serve.model-file-missing",
                f"{path} holds no config.json",
                hint="give the folder that save_pretrained wrote",
            )
        return path
    if path.exists() or not _HUB_ID.fullmatch(path_or_hub_id):
        raise ServeError(
            "serve.model-not-found",
            f"{path_or_hub_id[:200]} is neither a folder nor a hub id (OWNER/NAME)",
        )
    return _download(path_or_hub_id, revision)


def _download(hub_id: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ServeError(
            "serve.hub-missing", "downloading models needs huggingface_hub", hint="pip install 'mitai[serve]'"
        ) from None
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=FILES))
    except Exception as error:  # the hub's client raises errors of several libraries
        raise ServeError(
            "serve.hub-failed",
            f"{hub_id} could not be downloaded ({type(error).__name__})",
            hint="check the name and the network, or give the path of a folder that you have",
        ) from error
