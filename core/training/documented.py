"""The fields of an options class with the sentence that stands under each in the source. Nothing is said twice."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, NamedTuple


class Field(NamedTuple):
    """One option."""

    name: str
    kind: str
    """The annotation as it is written."""
    default: Any
    """`dataclasses.MISSING` where there is none."""
    text: str

    @property
    def required(self) -> bool:
        return self.default is MISSING


@cache
def documented(options: Any) -> list[Field]:
    """Every field of a dataclass, those of its bases first; a class says the text of its own fields."""
    texts: dict[str, str] = {}
    for owner in reversed(options.__mro__[:-1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for statement, following in zip(tree.body, [*tree.body[1:], None], strict=True):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                value = following.value if isinstance(following, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    texts[statement.target.id] = " ".join(value.value.split())
    return [Field(field.name, str(field.type), field.default, texts[field.name]) for field in fields(options)]
