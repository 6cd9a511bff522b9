"""GBNF grammars, read and checked before llama.cpp sees them. Knows no model.

llama.cpp's parser recurses with every parenthesis, writes repetitions out, and follows every way in which a rule can
begin at once: what is too large ends the process or never returns. What can never end, no answer can match.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from ..errors import BadInput
from .grammar_ways import AHEAD, Item, Rules, Ways

LARGEST, MOST_RULES, DEEPEST, MOST_REPEATS = 256 * 1024, 5000, 100, 2000
"""Characters, rules, levels of parentheses, repetitions of one item."""
MOST_WRITTEN = 200_000
"""Characters of a literal times its repetitions."""
MOST_BEGINNINGS = 20_000
"""Ways in which a rule may begin: llama.cpp keeps all of them at once."""
MOST_WAYS = 1_000_000
"""Ways over the next characters (`grammar_ways.py`). JSON has 4,000, a hundred optional properties 73,000."""

_TOKEN = re.compile(
    r"""\s+ | \#[^\n]* | (?P<define>[A-Za-z0-9-]+\s*::=) | (?P<name>[A-Za-z0-9-]+) | (?P<text>"(?:[^"\\]|\\.)*") |
    (?P<set>\[(?:[^\]\\]|\\.)*\]|\.) | (?P<token>!?<[^>\n]*>) | (?P<times>[*+?]|\{\s*[0-9]*\s*(?:,\s*[0-9]*\s*)?\}) |
    (?P<mark>[()|])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:x..|u....|U........|.)", re.DOTALL)


def check(grammar: str) -> None:
    """Raise `BadInput` for a grammar that is too large, cannot be read, can never end, or begins with itself."""
    if not isinstance(grammar, str) or not grammar.strip() or "\0" in grammar:
        raise BadInput("The grammar is empty or no text.", "Leave it out for an unconstrained answer.")
    if not grammar.isascii() and grammar.encode("utf-8", "replace").decode() != grammar:
        raise BadInput("The grammar holds half a character (a lone surrogate).", "Remove it.")
    if len(grammar) > LARGEST:
        raise _too_large(f"{len(grammar):,} characters; {LARGEST:,} are possible")
    rules = parse(grammar)
    if "root" not in rules:
        raise BadInput("The grammar has no rule `root`.", "Name the rule that an answer must match `root`.")
    reached = _reached(rules)
    endless = reached - _settle(rules, literal=True)  # what no finite text matches
    if endless:
        raise BadInput(f"No text can ever match the grammar's rule `{min(endless)}`.", "Give it a way to end.")
    rules = {name: rules[name] for name in rules if name in reached}
    empty = _settle(rules, literal=False)
    _check_beginnings(rules, empty)
    if Ways(rules, lambda item: _item_holds(item, empty, False)).exceed(MOST_WAYS):
        raise _too_large(f"it can go on in more than {MOST_WAYS:,} ways over {AHEAD} characters")


def parse(grammar: str) -> Rules:
    """Rules by name, each a list of alternatives. Raises `BadInput` where it cannot be read or is too large."""
    rules: Rules = {}
    stack: list[list[list[Item]]] = []
    for kind, text in _tokens(grammar):
        if kind == "define":
            if len(stack) > 1:
                raise _unread("a parenthesis is not closed")
            name = text.removesuffix("::=").rstrip()
            stack = [rules.setdefault(name, [])]
            stack[0].append([])
        elif not stack:
            raise _unread(f"{text[:20]!r} stands before the first rule")
        elif text == "(":
            item = Item(group=[[]])
            stack[-1][-1].append(item)
            stack.append(item.group)
        elif text == ")":
            if len(stack) == 1:
                raise _unread("a parenthesis is closed that was not opened")
            stack.pop()
        elif text == "|":
            stack[-1].append([])
        elif kind == "times":
            _repeat(stack[-1][-1], text)
        else:
            empty: list[list[Item]] = [[]] if text == '""' else []
            chars = len(_ESCAPE.sub("x", text)) - 2 if kind == "text" else 1
            stack[-1][-1].append(Item(len(text), text if kind == "name" else "", empty, chars=chars))
        if len(stack) > DEEPEST or len(rules) > MOST_RULES:
            raise _too_large(f"at most {MOST_RULES:,} rules and {DEEPEST} levels of parentheses are possible")
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


def _repeat(items: list[Item], text: str) -> None:
    if not items:
        raise _unread(f"{text!r} repeats nothing")
    item = items[-1]
    if text in "*+?":
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[text]
    else:
        low, comma, high = re.sub(r"\s", "", text[1:-1]).partition(",")
        if len(low + high) > 18:  # more digits than Python turns into a number
            raise BadInput(f"The grammar's repetition {text[:20]}… is not possible.", f"At most {MOST_REPEATS}.")
        least = int(low or 0)
        most = int(high) if high else None if comma else least
    if (most is not None and most < least) or max(least, most or 0) > MOST_REPEATS:
        raise BadInput(f"The grammar's repetition {text} is not possible.", f"At most {MOST_REPEATS}, low before high.")
    if item.size * max(least, most or 0) > MOST_WRITTEN:
        raise _too_large(f"a literal of {item.size:,} characters is repeated {max(least, most or 0):,} times")
    if (item.least, item.most) != (1, 1):  # a repetition of a repetition
        items[-1] = item = Item(group=[[item]])
    item.least, item.most = least, most


def _reached(rules: Rules) -> set[str]:
    """The rules that `root` leads to."""
    found, todo = set(), ["root"]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        if name not in rules:
            raise BadInput(f"The grammar has no rule `{name}`, which another one names.", "Define it.")
        found.add(name)
        todo += _names(rules[name])
    return found


def _names(alternatives: list[list[Item]]) -> list[str]:
    found = []
    for items in alternatives:
        for item in items:
            found += [item.name] if item.name else _names(item.group)
    return found


def _settle(rules: Rules, *, literal: bool) -> set[str]:
    """The least set of rules that hold, if literals do (or do not): matched by a finite text, or by the empty one."""
    users: dict[str, set[str]] = {}
    for name, alternatives in rules.items():
        for used in _names(alternatives):
            users.setdefault(used, set()).add(name)
    known: set[str] = set()
    todo = list(rules)
    while todo:
        name = todo.pop()
        if name not in known and _holds(rules[name], known, literal):
            known.add(name)
            todo += users.get(name, ())
    return known


def _holds(alternatives: list[list[Item]], known: set[str], literal: bool) -> bool:
    return any(all(_item_holds(item, known, literal) for item in items) for items in alternatives)


def _item_holds(item: Item, known: set[str], literal: bool) -> bool:
    if item.least == 0:
        return True
    if item.name:
        return item.name in known
    return _holds(item.group, known, literal) if item.group else literal


def _check_beginnings(rules: Rules, empty: set[str]) -> None:
    """Raise `BadInput` for a rule that begins with itself, or in more ways than can be followed at once. `empty` are
    those that match the empty text."""
    edges = {name: _beginnings(alternatives, empty) for name, alternatives in rules.items()}
    ways: dict[str, int] = {}
    under_way: dict[str, None] = {}
    for start in rules:
        todo = [start]
        while todo:
            name = todo[-1]
            missing = [other for other in edges[name] if other and other not in ways]
            if name in ways or not missing:
                ways[name] = sum(count * ways.get(other, 1) for other, count in edges[name].items())
                under_way.pop(name, None)
                todo.pop()
                if ways[name] > MOST_BEGINNINGS:
                    raise _too_large(f"the rule `{name}` can begin in more than {MOST_BEGINNINGS:,} ways")
                continue
            under_way[name] = None
            if any(other in under_way for other in missing):
                raise BadInput(f"The grammar's rule `{name}` begins with itself.", "Let it begin with something else.")
            todo += missing


def _beginnings(alternatives: list[list[Item]], empty: set[str]) -> Counter[str]:
    """What may come first: rules by name, and "" for literals, with how often."""
    found: Counter[str] = Counter()
    for items in alternatives:
        for item in items:
            own = Counter([item.name]) if item.name or not item.group else _beginnings(item.group, empty)
            is_empty = _item_holds(Item(name=item.name, group=item.group), empty, False)
            times = (item.most or 2) if is_empty else 1
            for name, count in own.items():
                found[name] += count * times
            if item.least and not is_empty:
                break
    return found


def _unread(why: str) -> BadInput:
    return BadInput(f"The grammar cannot be read: {why}.", 'See llama.cpp\'s grammars: name ::= "text" [a-z]+ other.')


def _too_large(why: str) -> BadInput:
    return BadInput(f"The grammar is too large: {why}.", "Simplify it, or split the question.")
