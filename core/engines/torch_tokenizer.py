"""Text ↔ ids for PyTorch checkpoints, by the tokenizer that the model was trained with.

sentencepiece itself where there is a `tokenizer.model` (transformers' conversion of these models splits many Chinese
texts differently), the `tokenizers` library for byte-level BPE, and llama.cpp's own vocabulary for a GGUF file.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ..errors import EngineUnavailable
from ..weights.vocabulary_files import BYTE, CONTROL, NORMAL, USER_DEFINED, read_vocabulary
from ..weights.vocabulary_files import Vocabulary as Files
from .base import Vocabulary

ENDS = ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>")
"""Control tokens that end an answer under whatever name the settings give."""


class Tokenizer(Protocol):
    """What the engine needs of a tokenizer; every method may be called from any thread."""

    vocabulary: Vocabulary
    chat_template: str | None

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """See `Engine.tokenize`."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """See `Engine.token_bytes`."""
        ...


def open_tokenizer(path: Path, rows: int) -> Tokenizer:
    """The tokenizer of a checkpoint folder or a GGUF file, for a model whose embedding has `rows` rows."""
    return _NativeTokenizer(path) if path.is_file() else _FileTokenizer(path, rows)


class _FileTokenizer:
    def __init__(self, folder: Path, rows: int) -> None:
        files = read_vocabulary(folder, rows, pre_tokenizer=False)
        self.chat_template = files.chat_template
        special = files.special
        control = {token: text for token, text in enumerate(files.tokens) if files.types[token] == CONTROL}
        ends = {special[name] for name in ("eos", "eot") if name in special} | files.ends
        ends |= {token for token, text in control.items() if text.decode("utf-8", "replace") in ENDS}
        self.vocabulary = Vocabulary(rows, special.get("bos"), special.get("eos"), frozenset(ends), files.add_bos)
        self._bytes = _piece_bytes(files)
        self._encode = _sentencepiece(folder) if files.kind == "llama" else _byte_level(folder)
        by_text = {text.decode("utf-8", "replace"): token for token, text in control.items()}
        added = {
            text.decode("utf-8", "replace"): token
            for token, text in enumerate(files.tokens)
            if files.types[token] == USER_DEFINED and files.kind == "llama"
        }
        self._always, self._with_control = _Splitter(added), _Splitter(added | by_text)

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        splitter = self._with_control if special else self._always
        ids: list[int] = []
        for part in splitter.split(text):
            ids += [part] if isinstance(part, int) else self._encode(part)
        return ids

    def token_bytes(self, token: int) -> bytes:
        return self._bytes[token]


class _Splitter:
    """Cuts a text at the texts of added tokens, the longest first."""

    def __init__(self, tokens: dict[str, int]) -> None:
        self._tokens = tokens
        longest_first = sorted(tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if tokens else None

    def split(self, text: str) -> list[str | int]:
        if self._pattern is None:
            return [text] if text else []
        parts: list[str | int] = []
        end = 0
        for found in self._pattern.finditer(text):
            parts += [text[end : found.start()], self._tokens[found[0]]]
            end = found.end()
        return [part for part in (*parts, text[end:]) if part != ""]


def _sentencepiece(folder: Path) -> Callable[[str], list[int]]:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return lambda text: list(processor.encode(text))


def _byte_level(folder: Path) -> Callable[[str], list[int]]:
    try:
        from tokenizers import Tokenizer as Fast
    except ImportError as error:
        raise EngineUnavailable(
            "Byte-level tokenizers need the package tokenizers.", 'Install it with: pip install "hanpaca[transformers]"'
        ) from error
    fast = Fast.from_file(str(folder / "tokenizer.json"))
    fast.encode_special_tokens = True  # content never becomes a control token
    return lambda text: list(fast.encode(text, add_special_tokens=False).ids)


def _piece_bytes(files: Files) -> list[bytes]:
    """What each token adds to the text; nothing for control tokens."""
    shown = []
    alphabet = {char: byte for byte, char in _byte_alphabet().items()}
    for text, kind in zip(files.tokens, files.types, strict=True):
        if kind == BYTE:
            shown.append(bytes([int(text[3:5], 16)]))
        elif kind == USER_DEFINED:
            shown.append(text)
        elif kind != NORMAL:
            shown.append(b"")
        elif files.kind == "llama":
            shown.append(text.replace("▁".encode(), b" "))
        else:
            shown.append(bytes(alphabet[char] for char in text.decode()))
    return shown


def _byte_alphabet() -> dict[int, str]:
    """Byte-level BPE's letter for each byte: itself where it prints, else the next letter from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


class _NativeTokenizer:
    """The vocabulary of a GGUF file, without its weights."""

    def __init__(self, path: Path) -> None:
        from .llama_native import NativeWeights

        self._lock = threading.Lock()
        self._native: Any = NativeWeights(path, vocab_only=True)
        weakref.finalize(self, self._native.free)
        self.vocabulary = self._native.vocabulary
        self.chat_template = self._native.meta("tokenizer.chat_template")

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        with self._lock:
            return list(self._native.tokenize(text, special=special)) if text else []

    def token_bytes(self, token: int) -> bytes:
        with self._lock:
            return bytes(self._native.token_bytes(token))
