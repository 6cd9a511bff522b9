"""A checkpoint's tokenizer files as the vocabulary that a GGUF file carries.

Knows sentencepiece models (`tokenizer.model`) and byte-level BPE (`tokenizer.json`). Knows no weights and tokenises
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BadModelFile, EngineUnavailable, UnsupportedFeature
from .checkpoint import read_json, sound

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""Everything that belongs to a tokenizer."""
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""Those of them that do not say which tokens there are."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""llama.cpp's token types, which are sentencepiece's."""


@dataclass
class Vocabulary:
    """Tokens in the order of their ids, with everything llama.cpp wants to know of them."""

    kind: str
    """`llama` for sentencepiece, `gpt2` for byte-level BPE."""
    pre: str
    tokens: list[bytes]
    scores: list[float]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    special: dict[str, int] = field(default_factory=dict)
    """`bos`, `eos`, `unk`, `pad` and, where the model has one, `eot` → id."""
    add_bos: bool = True
    add_eos: bool = False
    add_space_prefix: bool = True
    chat_template: str | None = None
    ends: set[int] = field(default_factory=set)
    """Every id that the settings name as an end."""


def read_vocabulary(folder: Path, size: int, *, pre_tokenizer: bool = True) -> Vocabulary:
    """The vocabulary of the tokenizer in `folder`, filled up with unused tokens to `size`.

    Without `pre_tokenizer`, llama.cpp's name for the way to split text is left out, and any way will do.

    Raises `BadModelFile` where there is none, a damaged one, or one with more tokens than the model has rows.
    """
    with sound(f"The tokenizer in {folder}"):
        return _read(folder, size, pre_tokenizer)


def _read(folder: Path, size: int, pre_tokenizer: bool) -> Vocabulary:
    settings = read_json(folder / "tokenizer_config.json")
    if (folder / "tokenizer.model").is_file():
        found = _sentencepiece(folder / "tokenizer.model")
    elif (folder / "tokenizer.json").is_file():
        found = _byte_level(read_json(folder / "tokenizer.json"), pre_tokenizer)
    else:
        raise BadModelFile(f"{folder} holds no tokenizer.", "Put tokenizer.model or tokenizer.json beside the weights.")
    _add(found, _added_tokens(folder, settings))
    if len(found.tokens) > size:
        raise BadModelFile(
            f"The tokenizer has {len(found.tokens)} tokens and the model {size} rows.",
            "They belong to different models: take the tokenizer that the model was trained with.",
        )
    for token in range(len(found.tokens), size):
        found.tokens.append(f"[PAD{token}]".encode())
        found.scores.append(-1000.0)
        found.types.append(UNUSED)
    _settle(found, folder, settings)
    return found


def token_count(folder: Path) -> int | None:
    """Tokens of the tokenizer in `folder`, added ones included; None where there is none."""
    with sound(f"The tokenizer in {folder}"):
        return _count(folder)


def _count(folder: Path) -> int | None:
    if (folder / "tokenizer.model").is_file():
        found = _sentencepiece(folder / "tokenizer.model")
        _add(found, _added_tokens(folder, read_json(folder / "tokenizer_config.json")))
        return len(found.tokens)
    table = read_json(folder / "tokenizer.json")
    ids = [*table.get("model", {}).get("vocab", {}).values(), *(entry["id"] for entry in table.get("added_tokens", []))]
    return max(ids) + 1 if ids else None


def sentencepiece_tables() -> Any:
    """The protocol buffers of sentencepiece. Raises `EngineUnavailable` where the packages are missing."""
    try:
        from sentencepiece import sentencepiece_model_pb2 as tables
    except ImportError as error:
        raise EngineUnavailable(
            "Reading tokenizer.model needs the packages sentencepiece and protobuf.",
            'Install them with: pip install "hanpaca[convert]"',
        ) from error
    return tables


def _sentencepiece(path: Path) -> Vocabulary:
    model: Any = sentencepiece_tables().ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:
        raise BadModelFile(f"{path} is no sentencepiece model.", "Fetch the file again.") from error
    special = {"bos": model.trainer_spec.bos_id, "eos": model.trainer_spec.eos_id}
    special |= {"unk": model.trainer_spec.unk_id, "pad": model.trainer_spec.pad_id}
    return Vocabulary(
        kind="llama",
        pre="default",
        # llama.cpp would still join text to an unused piece, sentencepiece never does: it gets a name no text has.
        tokens=[
            f"[PAD{token}]".encode() if piece.type == UNUSED else piece.piece.encode()
            for token, piece in enumerate(model.pieces)
        ],
        scores=[piece.score for piece in model.pieces],
        types=[piece.type for piece in model.pieces],
        special={name: token for name, token in special.items() if token >= 0},
        add_space_prefix=model.normalizer_spec.add_dummy_prefix,
    )


def _byte_level(table: Mapping[str, Any], pre_tokenizer: bool) -> Vocabulary:
    model = table.get("model", {})
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback"):
        raise UnsupportedFeature(
            "This tokenizer.json is a conversion of a sentencepiece model, which splits some texts differently.",
            "Put the model's own tokenizer.model beside the weights.",
        )
    by_id = {token: piece for piece, token in model["vocab"].items()}
    added = {entry["content"]: (entry["id"], bool(entry.get("special"))) for entry in table.get("added_tokens", [])}
    by_id |= {token: text for text, (token, _) in added.items()}
    count = max(by_id) + 1
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges", [])]
    pre = pre_tokenizer_name(table) if pre_tokenizer else ""
    found = Vocabulary("gpt2", pre, [], [], [], merges, add_bos=False, add_space_prefix=False)
    for token in range(count):
        found.tokens.append(by_id.get(token, f"[PAD{token}]").encode())
        found.types.append(NORMAL if token in by_id else UNUSED)
        found.scores.append(0.0)
    _add(found, added)
    found.add_bos = '"SpecialToken"' in json.dumps(table.get("post_processor"))
    return found


def pre_tokenizer_name(table: Mapping[str, Any]) -> str:
    """llama.cpp's name for the way a `tokenizer.json` splits text before it merges.

    Raises `UnsupportedFeature` for a way that is not known: guessing would split texts wrongly without an error.
    """
    pre = table.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    patterns = [step["pattern"].get("Regex", "") for step in steps if step.get("type") == "Split"]
    kinds = [step.get("type") for step in steps]
    regex = any(step.get("type") == "ByteLevel" and step.get("use_regex", True) for step in steps)
    if kinds == ["ByteLevel"] and regex:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and regex and steps[0].get("individual_digits"):
        return "smollm"
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    rest = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    known = {words + r"\p{N}{1,3}" + rest: "llama-bpe", words + r"\p{N}" + rest: "qwen2"}
    if kinds == ["Split", "ByteLevel"] and not regex and patterns[0] in known:
        return known[patterns[0]]
    raise UnsupportedFeature(
        f"This tokenizer splits text in a way that is not known here ({', '.join(map(str, kinds))}).",
        "llama.cpp's own converter knows more tokenizers.",
    )


def _added_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[str, tuple[int, bool]]:
    """Text → (id, whether it is a control token) of every token added to the base tokenizer."""
    named = set(_special_names(folder, settings).values())
    found = {text: (token, text in named) for text, token in read_json(folder / "added_tokens.json").items()}
    for token, entry in settings.get("added_tokens_decoder", {}).items():
        found[entry["content"]] = (int(token), bool(entry.get("special")) or entry["content"] in named)
    return found


def _add(vocabulary: Vocabulary, added: Mapping[str, tuple[int, bool]]) -> None:
    for text, (token, control) in sorted(added.items(), key=lambda item: item[1]):
        while len(vocabulary.tokens) <= token:
            vocabulary.tokens.append(f"[PAD{len(vocabulary.tokens)}]".encode())
            vocabulary.scores.append(-1000.0)
            vocabulary.types.append(UNUSED)
        if vocabulary.types[token] in (NORMAL, UNUSED, USER_DEFINED):
            vocabulary.tokens[token] = text.encode()
            vocabulary.types[token] = CONTROL if control else USER_DEFINED


def _special_names(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """`bos`, `eos`, `unk`, `pad` → the token's text, as the tokenizer's files say."""
    found = {}
    for source in (read_json(folder / "special_tokens_map.json"), settings):
        for name in ("bos", "eos", "unk", "pad"):
            entry = source.get(f"{name}_token")
            text = entry.get("content") if isinstance(entry, dict) else entry
            if isinstance(text, str) and text:
                found[name] = text
    return found


def _settle(vocabulary: Vocabulary, folder: Path, settings: Mapping[str, Any]) -> None:
    """Special ids (the tokenizer's word counts more than config.json's), BOS and EOS habits, the chat template."""
    ids = {text.decode("utf-8", "replace"): token for token, text in reversed(list(enumerate(vocabulary.tokens)))}
    for name, text in _special_names(folder, settings).items():
        if text in ids:
            vocabulary.special[name] = ids[text]
            if vocabulary.types[ids[text]] in (NORMAL, USER_DEFINED):
                vocabulary.types[ids[text]] = CONTROL
    for source in (read_json(folder / "generation_config.json"), read_json(folder / "config.json")):
        for name in ("bos", "eos", "pad"):
            given = source.get(f"{name}_token_id")
            first = given[0] if isinstance(given, list) and given else given
            if isinstance(first, int) and 0 <= first < len(vocabulary.tokens):
                vocabulary.special.setdefault(name, first)
        ends = source.get("eos_token_id")
        vocabulary.ends |= {end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)}
        others = [end for end in ends if end != vocabulary.special.get("eos")] if isinstance(ends, list) else []
        if others:
            vocabulary.special.setdefault("eot", others[-1])
    vocabulary.add_bos = bool(settings.get("add_bos_token", vocabulary.add_bos))
    vocabulary.add_eos = bool(settings.get("add_eos_token", vocabulary.add_eos))
    vocabulary.chat_template = _chat_template(folder, settings)


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = {entry["name"]: entry["template"] for entry in found}
        found = named.get("default")
    return found if isinstance(found, str) and found else None
