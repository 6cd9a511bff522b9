"""How well a vocabulary fits a text: characters per token, and the share of tokens that are no whole characters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadInput, BadModelFile


@dataclass(frozen=True)
class Fit:
    """Counts over a text; line ends are not counted."""

    characters: int
    tokens: int
    fragments: int
    """Tokens that are single bytes (sentencepiece) or parts of characters (byte-level BPE)."""

    @property
    def characters_per_token(self) -> float:
        return self.characters / self.tokens

    @property
    def fragment_share(self) -> float:
        return self.fragments / self.tokens


def measure(tokenizer: Path, texts: Iterable[str]) -> Fit:
    """The fit of a tokenizer (a sentencepiece model or a tokenizer.json) to lines of text.

    A line begins with the space that sentencepiece itself puts there. Raises `BadInput` for no text.
    """
    encode, is_fragment = _open(tokenizer)
    characters = tokens = fragments = 0
    for text in texts:
        ids = encode(text)
        characters += len(text)
        tokens += len(ids)
        fragments += sum(map(is_fragment, ids))
    if not tokens:
        raise BadInput("There is no text to measure.", "Give a file with text in it.")
    return Fit(characters, tokens, fragments)


def _open(path: Path) -> tuple[Callable[[str], list[int]], Callable[[int], bool]]:
    if path.is_dir():
        path = path / ("tokenizer.model" if (path / "tokenizer.model").is_file() else "tokenizer.json")
    if not path.is_file():
        raise BadInput(f"{path} does not exist.", "Give tokenizer.model, tokenizer.json, or a folder with one.")
    if path.suffix == ".json":
        from tokenizers import Tokenizer

        try:
            fast = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing narrower
            raise BadModelFile(f"{path} is no tokenizer: {error}.", "Give a tokenizer.json of a model.") from error
        fast.encode_special_tokens = True
        parts = {token for token in range(fast.get_vocab_size()) if "\ufffd" in fast.decode([token])}
        return lambda text: list(fast.encode(text, add_special_tokens=False).ids), parts.__contains__
    from .pieces import read_model

    read_model(path)  # raises our own errors
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return lambda text: list(processor.encode(text)), lambda token: bool(processor.is_byte(token))
