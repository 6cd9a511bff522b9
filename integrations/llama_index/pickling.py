"""How objects of this adapter are pickled: with all that decides an answer, without what holds on to this process.

LlamaIndex's own way leaves out whatever cannot be pickled, and takes it out of the object at hand too: an object with a
prompt function of its own would go on with another prompt.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from ...core.adapting import pickles
from ...core.errors import BadInput

HANDLES = ("callback_manager", "rate_limiter")
"""Fields that change no answer: a copy goes without them where they cannot be pickled."""


def state_of(component: BaseModel, private: dict[str, Any]) -> dict[str, Any]:
    """What `__getstate__` returns. Raises `BadInput` for a field that matters and cannot be pickled."""
    fields = dict(vars(component))
    for name in [name for name, value in fields.items() if not pickles(value)]:
        if name not in HANDLES:
            raise BadInput(f"{name} cannot be pickled.", "Give a function of a module: no lambda, none inside another.")
        del fields[name]
    return {
        "__dict__": fields,
        "__pydantic_extra__": None,
        "__pydantic_fields_set__": set(component.model_fields_set),
        "__pydantic_private__": private,
    }
