"""`blur > 100 and not frozen`: a condition on columns, read as a tree and never run as code."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtours.errors import UsageError
from wtours.text import plain

NUMBERS = ("blur", "motion", "luma")
CONDITIONS = ("black", "frozen", "near_duplicate", "text_overlay")
_MAX_LENGTH = 500
_COMPARISONS = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}


@dataclass(frozen=True, slots=True)
class Expression:
    """A condition on a second of video; made by `parse`."""

    text: str
    """As Python writes it: equal for any spacing."""
    _tree: ast.expr

    @property
    def columns(self) -> set[str]:
        """Return the names of the columns that it reads."""
        return {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)}

    def holds(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """Return (N,) where it holds; a comparison with what was not measured (NaN) does not.

        Args:
            columns: (N,) by name: `NUMBERS`, and those that it reads of `CONDITIONS`.
        """
        return _condition(self._tree, columns)


def parse(text: str) -> Expression:
    """Return an expression: comparisons of numbers, and conditions, by and, or, not, parentheses.

    Raises:
        UsageError: it is something else.
    """
    try:
        if len(text) > _MAX_LENGTH:
            raise ValueError(f"more than {_MAX_LENGTH} characters")
        tree = ast.parse(text.strip(), mode="eval").body
        one = {name: np.zeros(1) for name in NUMBERS}
        _condition(tree, one | {name: np.zeros(1, bool) for name in CONDITIONS})
        return Expression(ast.unparse(tree), tree)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UsageError(
            f"--where {plain(text)[:100]!r}: {plain(reason)[:100]}; compare {', '.join(NUMBERS)} "
            f"with numbers (<, <=, >, >=), and use {', '.join(CONDITIONS)}, and, or, not"
        ) from error


def _condition(node: ast.expr, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    match node:
        case ast.BoolOp(op=joined, values=values):
            combine = np.logical_and if isinstance(joined, ast.And) else np.logical_or
            found: NDArray[np.bool_] = combine.reduce([_condition(v, columns) for v in values])
            return found
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_condition(operand, columns)
        case ast.Name(id=name) if name in CONDITIONS:
            return np.asarray(columns[name], np.bool_)
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [_number(side, columns) for side in (left, *others)]
            holds = np.ones(len(columns[NUMBERS[0]]), np.bool_)
            for op, one, other in zip(ops, sides[:-1], sides[1:], strict=True):
                compare = _COMPARISONS.get(type(op))
                if compare is None:
                    raise ValueError("only <, <=, > and >= compare")
                holds &= compare(one, other)
            return holds
        case _:
            raise ValueError(f"{ast.unparse(node)[:40]!r} is no condition")


def _number(node: ast.expr, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64] | float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() as operand):
            return -_number(operand, columns)
        case ast.Name(id=name) if name in NUMBERS:
            return np.asarray(columns[name], np.float64)
        case _:
            raise ValueError(f"{ast.unparse(node)[:40]!r} is no number or column of numbers")
