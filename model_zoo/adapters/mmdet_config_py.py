"""mmdet's ``.py`` configs, read as data: nothing in them is executed.

Most are assignments of literals and ``dict(...)``; mmengine runs them as a
program all the same. Here the syntax tree is walked and only that subset is
understood. Anything else is refused with the line and the way out.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from composition.errors import UserError

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000
"""Values in one variable, everything written out: names that contain names can grow without bound."""
_MAX_NUMBER = 1e15
CONVERT = (
    "Give the complete config that the trainer wrote beside its checkpoints, or let whoever trusts it dump "
    "it, in a process of their own: "
    "`python -c \"from mmengine.config import Config as C; C.fromfile('X.py').dump('X.json')\"`."
)
_NUMBERS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def parse(text: bytes, source: str) -> dict[str, Any]:
    """The variables of a config.

    Args:
        text: The file's content.
        source: Its name, for error texts.

    Raises:
        UserError: It is no such file, or it has to be executed; names the line.
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"{source} has {len(text):,} bytes, which is no config", CONVERT)
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{source} cannot be parsed: {error}", CONVERT) from None
    reader = _Reader(source)
    try:
        for statement in tree.body:
            reader.statement(statement)
    except RecursionError:
        raise UserError(f"{source} is nested too deeply", CONVERT) from None
    return reader.variables


class _Reader:
    def __init__(self, source: str) -> None:
        self.source = source
        self.variables: dict[str, Any] = {}
        self._sizes: dict[int, int] = {}
        self._kept: list[Any] = []  # ids stay unique only while their objects live

    def fail(self, node: ast.AST, what: str) -> UserError:
        return UserError(
            f"{self.source}, line {getattr(node, 'lineno', 0)}: {what} would have to be run", CONVERT
        )

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a comment in quotes
        if not isinstance(node, ast.Assign) or not all(
            isinstance(target, ast.Name) for target in node.targets
        ):
            raise self.fail(node, f"a statement of kind {type(node).__name__}")
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        if "_base_" in names:
            raise UserError(f"{self.source}, line {node.lineno}: '_base_' reads other files", CONVERT)
        value = self.value(node.value)
        if self._size(value) > MAX_VALUES:
            raise UserError(f"{self.source}, line {node.lineno}: more than {MAX_VALUES:,} values", CONVERT)
        self.variables.update(dict.fromkeys(names, value))

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str() as value):
                return value
            case ast.List(elts=parts):
                return [self.value(part) for part in parts]
            case ast.Tuple(elts=parts):
                return tuple(self.value(part) for part in parts)
            case ast.Dict():
                return self._dictionary(node)
            case ast.Call(func=ast.Name(id="dict"), args=[]):
                return self._call(node)
            case ast.Name(id=name) if name in self.variables:
                return self.variables[name]
            case ast.UnaryOp(op=ast.USub(), operand=part):
                return -self._number(part)
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _NUMBERS:
                return self._number_of(node, _NUMBERS[type(op)], self._number(left), self._number(right))
        name = node.id if isinstance(node, ast.Name) else type(node).__name__
        raise self.fail(node, repr(name))

    def _dictionary(self, node: ast.Dict) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key, part in zip(node.keys, node.values, strict=True):
            if key is None:
                result.update(self._mapping(part))
            elif isinstance(key, ast.Constant) and isinstance(key.value, str | int):
                result[key.value] = self.value(part)
            else:
                raise self.fail(node, "a computed key")
        return result

    def _call(self, node: ast.Call) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                result.update(self._mapping(keyword.value))
            else:
                result[keyword.arg] = self.value(keyword.value)
        return result

    def _mapping(self, node: ast.expr) -> dict[Any, Any]:
        value = self.value(node)
        if not isinstance(value, dict):
            raise self.fail(node, "** of something else than a dict")
        return value

    def _number(self, node: ast.expr) -> Any:
        value = self.value(node)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(node, "arithmetic on something else than numbers")
        return value

    def _number_of(self, node: ast.expr, compute: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
        try:
            value = compute(left, right)
        except (ZeroDivisionError, OverflowError):
            raise self.fail(node, "arithmetic that has no result") from None
        if not abs(value) < _MAX_NUMBER:
            raise self.fail(node, "arithmetic beyond all bounds")
        return value

    def _size(self, value: Any) -> int:
        """How many values there are when everything is written out, shared parts at every place."""
        if not isinstance(value, dict | list | tuple):
            return 1
        known = self._sizes.get(id(value))
        if known is None:
            parts = value.values() if isinstance(value, dict) else value
            known = 1 + sum(self._size(part) for part in parts)
            self._sizes[id(value)] = known
            self._kept.append(value)
        return known
