"""The tokenizer of a remote model, from files on this machine: prompts are sent as token ids. Knows no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, HanpacaError, ModelNotFound
from .torch_tokenizer import Tokenizer, open_tokenizer

if TYPE_CHECKING:
    from ..catalog import ModelSource


def tokenizer_for(source: ModelSource, given: Any) -> Tokenizer:
    """The tokenizer in the file or folder that is given, else of the catalog's model of that name on this machine.

    Raises `BadInput` where neither is there, saying what to give.
    """
    path = _given(given) if given is not None else _of_catalog(source)
    if path.is_file() and path.suffix == ".gguf":
        return open_tokenizer(path, 0)
    folder = path.parent if path.is_file() else path
    return open_tokenizer(folder, _rows(folder, source))


def _given(given: Any) -> Path:
    path = Path(given).expanduser()
    if not path.exists():
        raise BadInput(f"There is no tokenizer {path}.", "Give a .gguf file, a tokenizer.model, or a model's folder.")
    if path.is_file() and path.suffix != ".gguf" and path.name not in ("tokenizer.model", "tokenizer.json"):
        raise BadInput(
            f"{path.name} is not called as tokenizers are.", "Put it in a folder of its own, as tokenizer.model."
        )
    ggufs = sorted(path.glob("*.gguf")) if path.is_dir() and not (path / "config.json").exists() else []
    return ggufs[0] if len(ggufs) == 1 else path


def _of_catalog(source: ModelSource) -> Path:
    from ..catalog import resolve

    if source.entry is not None:
        try:
            found = resolve(source.entry.name).path
        except ModelNotFound:
            found = None
        if found is not None:
            return found
    raise BadInput(
        f"The tokenizer of {source.name} is not on this machine, and prompts are sent as token ids.",
        "Name its file: tokenizer=… (the model's .gguf, its tokenizer.model, or a folder that holds one). "
        "A server that tokenises Chinese-LLaMA-2 itself gets Chinese wrong.",
    )


def _rows(folder: Path, source: ModelSource) -> int:
    """Rows of the model's embedding: its configuration's, the catalog's, or one for each piece."""
    from ..weights.checkpoint import read_json

    try:
        rows = read_json(folder / "config.json").get("vocab_size")
        if isinstance(rows, int):
            return rows
    except HanpacaError:
        pass
    if source.entry is not None:
        return source.entry.vocabulary
    if (folder / "tokenizer.model").is_file():
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        return int(processor.vocab_size())
    raise BadInput(
        f"How many tokens the model has is not known: {folder} has no config.json.", "Put it beside the tokenizer."
    )
