"""GBNF for JSON's scalars: characters, dates, and numbers within bounds. Knows no schema.

Every text here is an alternation in parentheses or a single item, so that it can stand inside a longer rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

CHARACTER = r'([^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" ([0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2})))'
"""One code point of a string: itself or an escape, never half of a surrogate pair, so that lengths count rightly."""

MOST_DIGITS = 15
"""Digits of a whole number, and of a fraction: what a double holds exactly."""

_WHOLE = f'"-"? ("0" | [1-9] [0-9]{{0,{MOST_DIGITS - 1}}})'
INTEGER = f"({_WHOLE})"
NUMBER = f'({_WHOLE} ("." [0-9]{{1,{MOST_DIGITS}}})? ([eE] [-+]? [0-9] [0-9]?)?)'

_YEAR = "[1-9] [0-9]{3}"
_LEAP = '([1-9] [0-9] ("0" [48] | [2468] [048] | [13579] [26]) | ([2468] [048] | [13579] [26]) "00")'
_31 = '("0" [13578] | "1" [02]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
_30 = '("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30")'
_28 = '"02-" ("0" [1-9] | "1" [0-9] | "2" [0-8])'
DATE = f'({_YEAR} "-" ({_31} | {_30} | {_28}) | {_LEAP} "-02-29")'
_HOUR, _SIXTY = '([01] [0-9] | "2" [0-3])', "[0-5] [0-9]"
TIME = f'({_HOUR} ":" {_SIXTY} ":" {_SIXTY} ("." [0-9]{{1,6}})? ("Z" | [+-] {_HOUR} ":" {_SIXTY}))'
_HEX = "[0-9a-fA-F]"

FORMATS = {
    "date": DATE,
    "time": TIME,
    "date-time": f'({DATE} "T" {TIME})',
    "uuid": f'({_HEX}{{8}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{12}})',
}
"""Formats of RFC 3339 and RFC 4122 that are enforced in full, leap years included (leap seconds are left out)."""


def literal(text: str) -> str:
    """A text as a GBNF literal.

    >>> literal('a"b\\n')
    '"a\\\\"b\\\\n"'
    """
    special = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(special.get(c, c if c >= " " else f"\\x{ord(c):02X}") for c in text) + '"'


def constant(value: Any) -> str:
    """A JSON value, written in one way."""
    return literal(json.dumps(value, ensure_ascii=False, allow_nan=False))


def integer(low: int | None, high: int | None) -> str:
    """Whole numbers from `low` to `high`, both included; None is as far as `MOST_DIGITS` reach."""
    most = 10**MOST_DIGITS - 1
    low, high = -most if low is None else low, most if high is None else high
    parts = []
    if low < 0:
        parts += [f'"-" {part}' for part in _ranges(max(1, -high), -low)]
    if high >= 0:
        parts += _ranges(max(0, low), high)
    return _either(parts)


def number(low: int | None, high: int | None, *, above: bool = False, below: bool = False) -> str:
    """Numbers without an exponent from `low` to `high`; with `above` or `below` the bound itself is left out."""
    parts = []
    if low is None or low < 0:
        nearest = 0 if high is None or high >= 0 else -high
        farthest = None if low is None else -low
        excluded = below if high is not None and high <= 0 else False
        parts += [f'"-" {part}' for part in _magnitudes(nearest, farthest, above=excluded, below=above)]
    if high is None or high > 0 or (high == 0 and not below):
        nearest = 0 if low is None or low < 0 else low
        excluded = above if low is not None and low >= 0 else False
        parts += _magnitudes(nearest, high, above=excluded, below=below)
    return _either(parts)


def _magnitudes(low: int, high: int | None, *, above: bool, below: bool) -> Iterator[str]:
    """Numbers from `low` to `high`, both at least 0."""
    digits = max(1, MOST_DIGITS - len(str(low if high is None else high)))  # more would round up to the bound
    fraction = f'("." [0-9]{{1,{digits}}})?'
    last = 10**MOST_DIGITS - 1 if high is None else high - 1  # the largest whole part that any fraction may follow
    first = low
    if above and low <= last:
        yield f'"{low}." [0-9]{{0,{digits - 1}}} [1-9]'
        first = low + 1
    yield from (f"{part} {fraction}" for part in _ranges(first, last))
    if high is not None and not below and not (above and high == low):
        yield f'"{high}" ("." "0"{{1,{digits}}})?'


def _ranges(low: int, high: int) -> Iterator[str]:
    """Whole numbers from `low` to `high` (0 ≤ low) as digits: blocks that begin alike and go on freely.

    >>> list(_ranges(7, 123)), list(_ranges(1, 9999))
    (['[7-9]', '[1-9] [0-9]{1,1}', '"1" [0-1] [0-9]{1,1}', '"12" [0-3]'], ['[1-9] [0-9]{0,3}'])
    """
    whole: list[int] = []  # how many digits follow 1 to 9, where all of them may
    while low <= high:
        free = 0
        while low and low % 10 ** (free + 1) == 0 and low + 10 ** (free + 1) - 1 <= high:
            free += 1
        step, stem, digit = 10**free, str(low // 10**free)[:-1], low // 10**free % 10
        end = digit
        while end < 9 and low + 2 * step - 1 <= high:
            low, end = low + step, end + 1
        low += step
        if not stem and (digit, end) == (1, 9):
            whole.append(free)
            continue
        if whole:
            yield _free("[1-9]", whole[0], whole[-1])
            whole = []
        yield _free((f'"{stem}" ' if stem else "") + f"[{digit}-{end}]", free, free)
    if whole:
        yield _free("[1-9]", whole[0], whole[-1])


def _free(start: str, least: int, most: int) -> str:
    return f"{start} [0-9]{{{least},{most}}}" if most else start


def _either(parts: list[str]) -> str:
    return f"({' | '.join(parts)})" if parts else ""
