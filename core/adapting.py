"""What adapters of frameworks have in common: options by name, the settings of an object and of one call, pickling.

Knows no framework and loads nothing.
"""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .errors import BadInput
from .sampling import Sampling


def refuse_unknown(owner: str, given: Iterable[str], valid: Iterable[str]) -> None:
    """Raise `BadInput` for the first name that is no option of `owner`, with the near one and the whole list."""
    known = sorted(valid)
    for name in sorted(set(given) - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        guess = f" Did you mean {near[0]}?" if near else ""
        raise BadInput(f"{name!r} is not an option of {owner}.{guess}", f"Valid: {', '.join(known)}.")


def refuse_fields(owner: str, given: Iterable[str], fields: Iterable[str]) -> None:
    """Raise `BadInput` for an entry of `load_options` that has a field of its own: a key would be shown there, and a
    name given twice."""
    own = {"name": "model", **{field: field for field in fields}}
    for name in given:
        if name in own:
            problem = f"{name!r} is not one of load_options: it has a field of its own."
            raise BadInput(problem, f"Give it as {owner}({own[name]}=…).")


def refuse_switches(given: Mapping[str, Any]) -> None:
    """Raise `BadInput` for True or False as a sampling setting or a context: Pydantic would make a number of it."""
    names = Sampling.names()
    if isinstance(context := given.get("context"), bool):
        raise BadInput(f"context must be a whole number, not {context}.", "Leave it out for the model's own.")
    Sampling.of({name: value for name, value in given.items() if name in names and isinstance(value, bool)})


def settled(own: Mapping[str, Any], stop: str | Sequence[str] | None, given: Mapping[str, Any]) -> Sampling:
    """The settings of an object (`own`), then those that a call gave; the stop texts of both.

    None means "not said" on both sides. Raises `BadInput` on a name that is no setting.
    """
    names = Sampling.names()
    chosen = {name: value for name, value in own.items() if value is not None}
    chosen.update({name: value for name, value in given.items() if name not in names or value is not None})
    both = dict.fromkeys((*_texts(own.get("stop")), *_texts(stop)))
    return Sampling.of({**chosen, "stop": tuple(both)})


def pickles(value: object) -> bool:
    """Whether a value can be pickled."""
    try:
        pickle.dumps(value)
    except Exception:  # whatever an object of a user's raises
        return False
    return True


def _texts(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())
