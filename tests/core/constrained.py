"""Constraints over a vocabulary of the 256 bytes and an end: which texts match, without any model."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np

from hanpaca.core.engines.constraints import Constraint, Tokens
from hanpaca.core.sampling import Sampling

END = 256
BYTES = Tokens(257, lambda token: bytes([token]) if token < END else b"", [END], lambda text: [END, ord(text[1])])
"""`<a>` is no single token here, and `<[97]>` is the letter a."""


def constraint(**settings: Any) -> Constraint:
    """Of a `grammar` or a `json_schema`."""
    made = Constraint.of(Sampling(**settings), BYTES)
    assert made is not None
    return made


def matches(text: str, **settings: Any) -> bool:
    """Whether an answer may be this text and end there."""
    held = constraint(**settings)
    for byte in text.encode():
        if not held.allows(byte):
            return False
        held.accept(byte)
    return held.allows(END)


def written(random: Random, schema: dict[str, Any], most: int = 600) -> str | None:
    """Some text that matches a schema, drawn byte by byte with a liking for what ends things; None: it had no end."""
    held, said = constraint(json_schema=schema), bytearray()
    for _ in range(most):
        allowed = np.flatnonzero(held.allowed())
        if END in allowed and random.random() < 0.7:
            return said.decode()
        byte = random.choices(allowed, [60 if chr(byte) in '"}]' else 1 for byte in allowed])[0]
        if byte == END:
            return said.decode()
        held.accept(int(byte))
        said.append(byte)
    return None
