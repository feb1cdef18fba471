"""A model folder as its owner names it, and whether it could be served at all: found out before it is sealed."""

from __future__ import annotations

from pathlib import Path

from mitai import demo_model
from mitai.capsule import FolderSource
from mitai.capsule.tensors import header_size, parse_header
from mitai.errors import CapsuleError, ParseError

_HINT = "give the folder that save_pretrained wrote; to seal any other folder: mitai seal FOLDER --kind data"


def model_folder(model: str | None) -> tuple[Path, str]:
    """Return folder and name of the model that `--model` names, once it is looked at; None is the built-in demo."""
    if model is None:
        return demo_model.path(), demo_model.NAME
    from mitai.serve.hub import resolve_model

    folder = resolve_model(model)
    check_model(folder)
    return folder, Path(model).resolve().name if Path(model).exists() else model


def check_model(folder: Path) -> None:
    """Check that a folder holds what a replica needs; the tensors themselves are not read.

    Raises:
        CapsuleError: The folder or one of the files is missing.
        ParseError: A header is no safetensors header.
    """
    names = FolderSource(folder).names()
    shards = [name for name in names if name.endswith(".safetensors")]
    missing = [name for name in ("config.json", "tokenizer.json") if name not in names]
    missing += [] if shards else ["*.safetensors file"]
    if missing:
        raise CapsuleError(
            "capsule.model-incomplete",
            f"{folder} is no model to serve: it has no {' and no '.join(missing)}",
            hint=_HINT,
        )
    for name in shards:
        try:
            _check_header(folder / name)
        except ParseError as error:
            raise ParseError(error.code, f"{folder / name}: {error.message}", hint=_HINT) from error


def _check_header(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = header_size(file.read(8), size)
        parse_header(file.read(length), size - 8 - length)
