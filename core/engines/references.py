"""Names that refer to one another, as rules of a grammar or places of a schema do: which hold, which go in circles.

Knows neither.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

Uses = Mapping[str, Collection[str]]
"""Name → the names that it refers to."""


def least(uses: Uses, holds: Callable[[str, set[str]], bool]) -> set[str]:
    """The least set of names of which each holds if those of the set do.

    >>> uses = {"a": ["b"], "b": [], "c": ["c"]}
    >>> sorted(least(uses, lambda name, known: all(other in known for other in uses[name])))
    ['a', 'b']
    """
    users, known, waiting = _users(uses), set[str](), list(uses)
    while waiting:
        name = waiting.pop()
        if name not in known and holds(name, known):
            known.add(name)
            waiting += users.get(name, ())
    return known


def circular(uses: Uses) -> list[str]:
    """The names that lead to themselves, and those between such ones, in order.

    >>> circular({"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": []})
    ['b', 'c']
    """
    leading = _endless(uses)
    users = _users({name: [other for other in uses[name] if other in leading] for name in leading})
    led = _endless({name: users.get(name, ()) for name in leading})
    return [name for name in uses if name in led]


def _endless(uses: Uses) -> set[str]:
    """The names from which one can go on without end."""
    return set(uses) - least(uses, lambda name, known: all(other in known or other not in uses for other in uses[name]))


def _users(uses: Uses) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, others in uses.items():
        for other in set(others):
            found.setdefault(other, []).append(name)
    return found
