"""The vocabulary of a GGUF file as tokenizer files: a sentencepiece model, or a `tokenizer.json` of byte-level BPE.

The way back from `vocabulary_files.py`. Knows the `gguf` package's reader.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import UnsupportedFeature
from .vocabulary_files import CONTROL, USER_DEFINED

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {"llama-bpe": _WORDS + r"\p{N}{1,3}" + _REST, "qwen2": _WORDS + r"\p{N}" + _REST}


def write_tokenizer(reader: Any, folder: Path) -> dict[str, int]:
    """Write the tokenizer of an open GGUF file to `folder`; gives `bos`, `eos`, `unk`, `pad` where it has them.

    Raises `UnsupportedFeature` for a tokenizer that is neither sentencepiece's nor a known byte-level one.
    """

    def field(name: str, default: Any = None) -> Any:
        found = reader.fields.get(f"tokenizer.ggml.{name}")
        return default if found is None else found.contents()

    kind, tokens = field("model"), field("tokens", [])
    types = field("token_type") or [1] * len(tokens)
    special = {name: field(f"{long}_token_id") for name, long in _SPECIAL.items()}
    special = {name: token for name, token in special.items() if token is not None and token < len(tokens)}
    if kind == "llama":
        _sentencepiece(folder / "tokenizer.model", tokens, field("scores"), types, special, field)
        settings: dict[str, Any] = {"tokenizer_class": "LlamaTokenizer"}
    elif kind == "gpt2":
        table = _byte_level(tokens, field("merges", []), types, field("pre", "default"))
        (folder / "tokenizer.json").write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    else:
        raise UnsupportedFeature(f"A tokenizer of kind {kind!r} is not unpacked.", "Take the model's own checkpoint.")
    settings |= {f"{name}_token": tokens[token] for name, token in special.items()}
    settings |= {
        "add_bos_token": bool(field("add_bos_token", kind == "llama")),
        "add_eos_token": bool(field("add_eos_token", False)),
    }
    template = reader.fields.get("tokenizer.chat_template")
    if template is not None:
        settings["chat_template"] = template.contents()
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    return special


_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def _sentencepiece(
    out: Path, tokens: list[str], scores: list[float], types: list[int], special: dict[str, int], field: Any
) -> None:
    from .vocabulary_files import sentencepiece_tables

    model: Any = sentencepiece_tables().ModelProto()
    for token, score, kind in zip(tokens, scores, types, strict=True):
        piece = model.pieces.add()
        piece.piece, piece.score, piece.type = token, score, kind
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.vocab_size, trainer.byte_fallback = 2, len(tokens), 6 in types
    for name in ("bos", "eos", "unk", "pad"):
        setattr(trainer, f"{name}_id", special.get(name, -1))
        if name in special:
            setattr(trainer, f"{name}_piece", tokens[special[name]])
    normalizer.name, normalizer.add_dummy_prefix = "identity", bool(field("add_space_prefix", True))
    normalizer.remove_extra_whitespaces, normalizer.escape_whitespaces = False, True
    out.write_bytes(model.SerializeToString())


def _byte_level(tokens: list[str], merges: list[str], types: list[int], pre: str) -> dict[str, Any]:
    plain = {"normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
    added = [
        {"id": token, "content": tokens[token], "special": kind == CONTROL} | plain
        for token, kind in enumerate(types)
        if kind in (CONTROL, USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(pre),
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "byte_fallback": False,
            "ignore_merges": pre == "llama-bpe",
            "vocab": {text: token for token, text in enumerate(tokens)},
            "merges": merges,
        },
    }


def _pre_tokenizer(pre: str) -> dict[str, Any]:
    """How text is split before it is merged, from llama.cpp's name for it; see `pre_tokenizer_name`."""
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if pre == "gpt-2":
        return bytes_
    if pre == "smollm":
        return {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, bytes_]}
    if pre in _SPLITS:
        split = {"type": "Split", "pattern": {"Regex": _SPLITS[pre]}, "behavior": "Isolated", "invert": False}
        return {"type": "Sequence", "pretokenizers": [split, bytes_ | {"use_regex": False}]}
    raise UnsupportedFeature(
        f"This file's tokenizer splits text by the rule {pre!r}, which is not known here.",
        "Take the model's own checkpoint, with its tokenizer.json.",
    )
