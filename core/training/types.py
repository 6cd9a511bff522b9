"""Whether values from a file are what a dataclass says of its fields."""

from __future__ import annotations

from typing import Any

_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "a text"),
    "bool": ((bool,), "true or false"),
    "tuple[str,": ((tuple,), "a list of texts"),
}


def wrong_type(value: Any, annotation: str) -> str | None:
    """What a value should have been, by its annotation, such as `int | None` or `tuple[str, ...]`; None if it is.

    >>> wrong_type(2.5, "int"), wrong_type(None, "int | None"), wrong_type(1, "float")
    ('a whole number', None, None)
    """
    if value is None and annotation.endswith("| None"):
        return None
    types, name = _KINDS[annotation.split(" ")[0]]
    fits = isinstance(value, types) and isinstance(value, bool) == (types == (bool,))
    if fits and isinstance(value, tuple):
        fits = all(isinstance(one, str) for one in value)
    return None if fits else name
