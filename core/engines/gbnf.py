"""GBNF, llama.cpp's notation of grammars → Lark, which llguidance reads. Knows no model.

GBNF knows characters only, and Lark words, which it reads as long as it can: so every character becomes a word of its
own, and a text matches the one exactly where it matches the other. What can never end, no answer can match.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import BadInput
from .references import circular, least

LARGEST, MOST_SYMBOLS, MOST_REPEATS = 256 * 1024, 60_000, 2000
"""Characters; letters, sets, names and groups; repetitions of one item."""

_TOKEN = re.compile(
    r"""\s+ | \#[^\n]* | (?P<define>[A-Za-z0-9-]+\s*::=) | (?P<name>[A-Za-z0-9-]+) | (?P<text>"(?:[^"\\]|\\.)*") |
    (?P<set>\[(?:[^\]\\]|\\.)*\]|\.) | (?P<token>!?<[^>\n]*>) | (?P<times>[*+?]|\{\s*[0-9]*\s*(?:,\s*[0-9]*\s*)?\}) |
    (?P<mark>[()|])""",
    re.VERBOSE | re.DOTALL,
)
_CHARACTER = re.compile(
    r"\\(?:x(?P<x>[0-9A-Fa-f]{2})|u(?P<u>[0-9A-Fa-f]{4})|U(?P<U>[0-9A-Fa-f]{8})|(?P<plain>[nrt\\\"\[\]\-]))|(?P<bare>[^\\])",
    re.DOTALL,
)
_PLAIN = {"n": "\n", "r": "\r", "t": "\t"}

Tokenize = Callable[[str], list[int]]
"""Text, which may hold special tokens, to ids."""


@dataclass
class _Item:
    """A rule's name, or something in Lark, with how often it comes."""

    lark: str = ""
    name: str = ""
    size: int = 1
    least: int = 1
    most: int | None = 1


_Rules = dict[str, list[list[_Item]]]
"""Rules by name, each a list of alternatives. Groups are rules too, whose names begin with a parenthesis."""


def lark_of(grammar: str, tokenize: Tokenize) -> str:
    """A grammar in Lark that matches what `grammar` does. Tokens by name, `<think>`, are looked up by `tokenize`.

    Raises `BadInput` for a grammar that is too large, cannot be read, or can never end.
    """
    if not isinstance(grammar, str) or not grammar.strip() or "\0" in grammar:
        raise BadInput("The grammar is empty or no text.", "Leave it out for an unconstrained answer.")
    if not grammar.isascii() and grammar.encode("utf-8", "replace").decode() != grammar:
        raise _half()
    if len(grammar) > LARGEST:
        raise _too_large(f"{len(grammar):,} characters; {LARGEST:,} are possible")
    rules = _parse(grammar, tokenize)
    reached = _reached(rules)
    if endless := [name for name in reached.keys() - _ending(rules) if name[0] != "("]:
        raise BadInput(f"No text can ever match the grammar's rule `{min(endless)}`.", "Give it a way to end.")
    _check_beginnings({name: rules[name] for name in reached})
    if sum(item.size for name in reached for items in rules[name] for item in items) > MOST_SYMBOLS:
        raise _too_large(f"at most {MOST_SYMBOLS:,} letters, sets and names are possible")
    names = {name: "start" if name == "root" else f"r{number}" for number, name in enumerate(reached)}
    return "\n".join(f"{names[name]}: {_alternatives(rules[name], names)}" for name in reached)


def _parse(grammar: str, tokenize: Tokenize) -> _Rules:
    rules: _Rules = {}
    stack: list[list[list[_Item]]] = []
    for kind, text in _tokens(grammar):
        if kind == "define":
            if len(stack) > 1:
                raise _unread("a parenthesis is not closed")
            name = text.removesuffix("::=").rstrip()
            if name in rules:
                raise _unread(f"the rule `{name}` is defined twice")
            rules[name] = [[]]
            stack = [rules[name]]
        elif not stack:
            raise _unread(f"{text[:20]!r} stands before the first rule")
        elif text == "(":
            item = _Item(name=f"({len(rules)}")
            stack[-1][-1].append(item)
            rules[item.name] = [[]]
            stack.append(rules[item.name])
        elif text == ")":
            if len(stack) == 1:
                raise _unread("a parenthesis is closed that was not opened")
            stack.pop()
        elif text == "|":
            stack[-1].append([])
        elif kind == "times":
            _repeat(stack[-1][-1], text, rules)
        else:
            stack[-1][-1].append(_item(kind, text, tokenize))
    if len(stack) > 1:
        raise _unread("a parenthesis is not closed")
    return rules


def _tokens(grammar: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(grammar):
        found = _TOKEN.match(grammar, at)
        if found is None:
            raise _unread(f"{grammar[at : at + 20]!r} is not understood")
        if found.lastgroup:
            yield found.lastgroup, found.group()
        at = found.end()


def _item(kind: str, text: str, tokenize: Tokenize) -> _Item:
    if kind == "name":
        return _Item(name=text)
    if kind == "set":
        return _Item("/(?s:.)/" if text == "." else _set(text[1:-1]))
    if kind == "token":
        return _Item(_token(text, tokenize))
    letters = [json.dumps(letter, ensure_ascii=False) for letter in _characters(text[1:-1])]
    return _Item(
        letters[0] if len(letters) == 1 else f"({' '.join(letters)})" if letters else '""', size=len(letters) + 1
    )


def _token(text: str, tokenize: Tokenize) -> str:
    """`<[7]>` or `<name>`, with a `!` before it for any other one."""
    inner = text.lstrip("!")[1:-1]
    number = re.fullmatch(r"\[([0-9]{1,9})\]", inner)
    ids = [int(number[1])] if number else tokenize(f"<{inner}>")
    if len(ids) != 1:
        raise _unread(f"{text[:30]} is not one token of this model")
    return f"<[{'^' if text[0] == '!' else ''}{ids[0]}]>"


def _set(body: str) -> str:
    """What is between brackets, as a regular expression of one character."""
    negated = body.startswith("^")
    letters = list(_characters(body[negated:], ranges=True))
    if not letters:
        raise _unread("a set is empty")
    ranges, at = [], 0
    while at < len(letters):
        last = at + 2 if letters[at + 1 : at + 2] == [""] and at + 2 < len(letters) else at
        low, high = letters[at] or "-", letters[last] or "-"
        if low > high:
            raise _unread(f"[{body[:20]}] goes from a later character to an earlier one")
        ranges.append(f"\\u{{{ord(low):x}}}-\\u{{{ord(high):x}}}")
        at = last + 1
    return f"/[{'^' if negated else ''}{''.join(ranges)}]/"


def _characters(body: str, *, ranges: bool = False) -> Iterator[str]:
    """The characters that are meant; in `ranges`, "" for a bare hyphen."""
    at = 0
    while at < len(body):
        found = _CHARACTER.match(body, at)
        if found is None:
            raise _unread(f"{body[at : at + 10]!r} is no character")
        at = found.end()
        kind, text = str(found.lastgroup), found[str(found.lastgroup)]
        if kind == "plain":
            yield _PLAIN.get(text, text)
        elif kind == "bare":
            yield "" if ranges and text == "-" else text
        elif int(text, 16) > 0x10FFFF:
            raise _unread(f"{found[0]} is no character")
        elif 0xD800 <= int(text, 16) < 0xE000:
            raise _half()
        else:
            yield chr(int(text, 16))


def _repeat(items: list[_Item], text: str, rules: _Rules) -> None:
    if not items:
        raise _unread(f"{text!r} repeats nothing")
    item = items[-1]
    if text in "*+?":
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[text]
    else:
        low, comma, high = re.sub(r"\s", "", text[1:-1]).partition(",")
        if not low + high:
            raise _unread(f"{text!r} says no number")
        if len(low + high) > 18:  # more digits than Python turns into a number
            raise BadInput(f"The grammar's repetition {text[:20]}… is not possible.", f"At most {MOST_REPEATS}.")
        least = int(low or 0)
        most = int(high) if high else None if comma else least
    if (most is not None and most < least) or max(least, most or 0) > MOST_REPEATS:
        raise BadInput(f"The grammar's repetition {text} is not possible.", f"At most {MOST_REPEATS}, low before high.")
    if (item.least, item.most) != (1, 1):  # a repetition of a repetition
        items[-1] = _Item(name=f"({len(rules)}")
        rules[items[-1].name] = [[item]]
        item = items[-1]
    item.least, item.most = least, most


def _reached(rules: _Rules) -> dict[str, None]:
    """The rules that `root` leads to, in order."""
    if "root" not in rules:
        raise BadInput("The grammar has no rule `root`.", "Name the rule that an answer must match `root`.")
    found: dict[str, None] = {}
    waiting = ["root"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if name not in rules:
            raise BadInput(f"The grammar has no rule `{name}`, which another one names.", "Define it.")
        found[name] = None
        waiting += _names(rules[name])
    return found


def _names(alternatives: list[list[_Item]]) -> Iterator[str]:
    return (item.name for items in alternatives for item in items if item.name)


def _check_beginnings(rules: _Rules) -> None:
    """Raise `BadInput` for a rule that begins with itself: llguidance follows it, and takes ever longer."""
    empty = _holding(rules, lambda item, known: item.least == 0 or item.lark == '""' or item.name in known)
    if circle := circular({name: _beginnings(alternatives, empty) for name, alternatives in rules.items()}):
        shown = next((name for name in reversed(circle) if name[0] != "("), "root")
        raise BadInput(f"The grammar's rule `{shown}` begins with itself.", "Let it begin with something else.")


def _beginnings(alternatives: list[list[_Item]], empty: set[str]) -> list[str]:
    """The rules with which a text may begin; `empty` are those that match the empty text."""
    found = []
    for items in alternatives:
        for item in items:
            found += [item.name] if item.name else []
            if item.least and item.lark != '""' and item.name not in empty:
                break
    return found


def _ending(rules: _Rules) -> set[str]:
    """The rules that a finite text matches."""
    return _holding(rules, lambda item, known: item.least == 0 or not item.name or item.name in known)


def _holding(rules: _Rules, holds: Callable[[_Item, set[str]], bool]) -> set[str]:
    """The rules with an alternative whose items all hold, if the rules found do."""
    uses = {name: list(_names(alternatives)) for name, alternatives in rules.items()}
    return least(uses, lambda name, known: any(all(holds(item, known) for item in items) for items in rules[name]))


def _alternatives(alternatives: list[list[_Item]], names: dict[str, str]) -> str:
    return " | ".join(" ".join(_written(item, names) for item in items) or '""' for items in alternatives)


def _written(item: _Item, names: dict[str, str]) -> str:
    if item.most == 0:
        return '""'
    text = names[item.name] if item.name else item.lark
    if (item.least, item.most) == (1, 1):
        return text
    return text + f"{{{item.least},{'' if item.most is None else item.most}}}"


def _half() -> BadInput:
    return BadInput("The grammar holds half a character (a lone surrogate).", "Remove it.")


def _unread(why: str) -> BadInput:
    return BadInput(f"The grammar cannot be read: {why}.", 'See llama.cpp\'s grammars: name ::= "text" [a-z]+ other.')


def _too_large(why: str) -> BadInput:
    return BadInput(f"The grammar is too large: {why}.", "Simplify it, or split the question.")
