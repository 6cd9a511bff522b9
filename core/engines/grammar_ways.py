"""In how many ways a GBNF grammar can go on, which is what llama.cpp's time with it depends on.

llama.cpp keeps every way at once and tries each with every token of the vocabulary, a character at a time, so that what
can go on in n ways after each character takes n**k steps for tokens of k characters: `[a-z]?` eighty times takes
minutes for a token. Counted here, from above, are the ways over the next `AHEAD` characters, whatever they are. That
tells such grammars from useful ones, and does not bound the time: few ways that all match the same long texts, those of
`([a-z] | [a-z])+`, are not seen. Knows parsed grammars and no model.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

AHEAD = 4
"""Characters."""

LEVELS = 20
"""How deep rules are taken to stand in themselves."""

_Steps = Generator["_Steps", int, int]
"""Counts, asking for other counts."""


@dataclass
class Item:
    """A literal, a set, a rule's name or a group, with how often it comes."""

    size: int = 1
    name: str = ""
    group: list[list[Item]] = field(default_factory=list)
    least: int = 1
    most: int | None = 1
    chars: int = 1
    """Of a literal or a set."""


Rules = dict[str, list[list[Item]]]


@dataclass(frozen=True)
class _Place:
    """An item of an alternative of a rule."""

    rule: str
    alternative: int
    index: int

    def next(self) -> _Place:
        return _Place(self.rule, self.alternative, self.index + 1)


class Ways:
    """Of a grammar in which no rule begins with itself. `is_empty` says whether an item matches the empty text."""

    def __init__(self, rules: Rules, is_empty: Callable[[Item], bool]) -> None:
        self._rules: Rules = {}
        self._names: dict[int, str] = {}
        self._sites: dict[str, list[_Place]] = {}
        self._is_empty = is_empty
        self._known: dict[tuple[str, object, int], int] = {}
        for name, alternatives in rules.items():
            self._add(name, alternatives)
        self._circle = self._find_circles()

    def _add(self, name: str, alternatives: list[list[Item]]) -> None:
        """A rule; the groups in it become rules of their own."""
        waiting = [(name, alternatives)]
        while waiting:
            name, alternatives = waiting.pop()
            self._rules[name] = alternatives
            for number, items in enumerate(alternatives):
                for index, item in enumerate(items):
                    if inner := item.name or (f"({len(self._names)}" if item.group else ""):
                        self._names[id(item)] = inner
                        self._sites.setdefault(inner, []).append(_Place(name, number, index))
                    if item.group and not item.name:
                        waiting.append((inner, item.group))

    def exceed(self, limit: int) -> bool:
        """Whether there are more from the start, or after any character."""
        start, after = self._from_start(1), max(self._after_each(1), default=1)
        if max(start, after) * after ** (AHEAD - 1) <= limit:  # and so there are not more over all; counting is slow
            return False
        return self._from_start(AHEAD) > limit or any(ways > limit for ways in self._after_each(AHEAD))

    def _from_start(self, ahead: int) -> int:
        starts = (_Place("root", number, 0) for number in range(len(self._rules["root"])))
        return sum(_run(self._rest(start, ahead, False)) for start in starts)

    def _after_each(self, ahead: int) -> Iterator[int]:
        for name, alternatives in self._rules.items():
            for number, items in enumerate(alternatives):
                for index, item in enumerate(items):
                    if id(item) not in self._names:
                        yield _run(self._after(_Place(name, number, index), ahead))

    def _find_circles(self) -> dict[str, frozenset[str]]:
        """Rule → all that end where it ends and at whose end it ends in turn, such as itself."""
        leads: dict[str, set[str]] = {}
        for name, sites in self._sites.items():
            for site in sites:
                if all(map(self._is_empty, self._items(site)[site.index + 1 :])):
                    leads.setdefault(name, set()).add(site.rule)
        numbers = _circles(leads)
        members: dict[int, set[str]] = {}
        for name, number in numbers.items():
            members.setdefault(number, set()).add(name)
        return {name: frozenset(members[number]) for name, number in numbers.items()}

    def _items(self, place: _Place) -> list[Item]:
        return self._rules[place.rule][place.alternative]

    def _memo(self, kind: str, key: object, ahead: int, steps: _Steps) -> _Steps:
        place = (kind, key, ahead)
        if place not in self._known:
            self._known[place] = yield steps
        return self._known[place]

    def _after(self, place: _Place, ahead: int) -> _Steps:
        """Ways over `ahead` characters once an item has been matched."""
        return self._memo("after", place, ahead, self._count_after(place, ahead))

    def _count_after(self, place: _Place, ahead: int) -> _Steps:
        item = self._items(place)[place.index]
        again = (yield self._beginning(place, ahead)) if item.most is None or item.most > 1 else 0
        return again + (yield self._rest(place.next(), ahead, True))

    def _rest(self, place: _Place, ahead: int, matched: bool) -> _Steps:
        """Ways from an item on; with the end of the rule where it can be reached and something has been `matched`."""
        return self._memo(f"rest {matched}", place, ahead, self._count_rest(place, ahead, matched))

    def _count_rest(self, place: _Place, ahead: int, matched: bool) -> _Steps:
        items = self._items(place)
        if place.index == len(items):
            return (yield self._end(place.rule, ahead)) if matched else 0
        total = yield self._beginning(place, ahead)
        if self._is_empty(items[place.index]):
            total += yield self._rest(place.next(), ahead, matched)
        return total

    def _beginning(self, place: _Place, ahead: int) -> _Steps:
        return self._memo("beginning", place, ahead, self._count_beginning(place, ahead))

    def _count_beginning(self, place: _Place, ahead: int) -> _Steps:
        item = self._items(place)[place.index]
        inner = self._names.get(id(item))
        if inner is None:
            return 1 if item.chars >= ahead else (yield self._after(place, ahead - item.chars))
        total = 0
        for number in range(len(self._rules[inner])):
            total += yield self._rest(_Place(inner, number, 0), ahead, False)
        return total

    def _end(self, rule: str, ahead: int) -> _Steps:
        circle = self._circle.get(rule, frozenset([rule]))
        return self._memo("end", circle, ahead, self._count_end(circle, ahead))

    def _count_end(self, circle: frozenset[str], ahead: int) -> _Steps:
        """The most ways at any place that names one of the rules. What may follow one within another of them waits
        there once for each level, as the `else` of conditions in conditions does."""
        most, piled = int("root" in circle), 0
        for site in [site for rule in circle for site in self._sites.get(rule, ())]:
            items = self._items(site)
            if site.rule in circle and all(map(self._is_empty, items[site.index + 1 :])):
                item = items[site.index]
                start = site.index if item.most is None or item.most > 1 else site.index + 1
                for index in range(start, len(items)):
                    piled += yield self._beginning(_Place(site.rule, site.alternative, index), ahead)
            else:
                most = max(most, (yield self._after(site, ahead)))
        return most + LEVELS * piled


def _run(steps: _Steps) -> int:
    """Runs generators that ask each other for numbers; rules may follow one another deeper than Python's stack."""
    stack: list[Any] = [steps]
    value: int | None = None
    while stack:
        try:
            stack.append(stack[-1].send(value))
            value = None
        except StopIteration as done:
            stack.pop()
            value = done.value
    assert value is not None
    return value


def _circles(leads: dict[str, set[str]]) -> dict[str, int]:
    """Node → number of the circle (strongly connected component) that it is in, by Kosaraju's two passes."""
    order: list[str] = []
    _walk(leads, leads, order.append, set())
    back: dict[str, set[str]] = {}
    for name, others in leads.items():
        for other in others:
            back.setdefault(other, set()).add(name)
    circles: dict[str, int] = {}
    seen: set[str] = set()
    for number, name in enumerate(reversed(order)):
        circle: list[str] = []
        _walk([name], back, circle.append, seen)
        circles.update(dict.fromkeys(circle, number))
    return circles


def _walk(starts: Iterable[str], edges: dict[str, set[str]], leave: Callable[[str], object], seen: set[str]) -> None:
    for start in starts:
        if start in seen:
            continue
        seen.add(start)
        path = [(start, iter(edges.get(start, ())))]
        while path:
            node, others = path[-1]
            if (other := next((one for one in others if one not in seen), None)) is None:
                path.pop()
                leave(node)
            else:
                seen.add(other)
                path.append((other, iter(edges.get(other, ()))))
