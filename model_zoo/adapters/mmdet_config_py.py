"""mmdet's ``.py`` configs, read as data: nothing in them is executed.

Most are assignments of literals and ``dict(...)``; mmengine runs them as a
program all the same. Here the syntax tree is walked and only that subset is
understood. Anything else is refused with the line and the way out.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

from composition.errors import UserError

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000
"""Values in one variable, everything written out: names that contain names can grow without bound."""
MAX_TURNS = 1_000
"""Values that one comprehension may go through."""
MAX_STEPS = 1_000_000
"""Expressions that one file may come to, comprehensions inside of others written out."""
_MAX_NUMBER = 1e15
_BASE = "_base_"
_PREDEFINED = re.compile(rb"\{\{\s*['\"]?\s*(file\w+|\$\w+)")
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
    ast.FloorDiv: operator.floordiv,
}

Variables = dict[str, Any]
Bases = Callable[[Sequence[str], int], Variables]
"""Reads the files that ``_base_`` names on a line, see `model_zoo.adapters.mmdet_config_bases`."""


def parse(text: bytes, source: str, bases: Bases) -> tuple[Variables, Variables]:
    """The variables of a config.

    Args:
        text: The file's content.
        source: Its name, for error texts.
        bases: Reads what it builds on.

    Returns:
        The variables of its bases, and its own.

    Raises:
        UserError: It is no such file, or it has to be executed; names the line.
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"{source} has {len(text):,} bytes, which is no config", CONVERT)
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{source} cannot be parsed: {error}", CONVERT) from None
    template = _PREDEFINED.search(text)
    if template:
        raise UserError(f"{source}: {template[1].decode()!r} is filled in where mmengine runs", CONVERT)
    reader = _Reader(source)
    try:
        # mmengine reads the bases first, wherever they are named
        for node in [node for node in tree.body if _is_base(node)]:
            reader.base |= bases(reader.names(node), node.lineno)
        for statement in tree.body:
            if not _is_base(statement):
                reader.statement(statement)
    except RecursionError:
        raise UserError(f"{source} is nested too deeply", CONVERT) from None
    return reader.base, reader.variables


def _is_base(node: ast.stmt) -> TypeGuard[ast.Assign]:
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == _BASE for target in node.targets
    )


class _Reader:
    def __init__(self, source: str) -> None:
        self.source = source
        self.base: Variables = {}
        self.variables: Variables = {}
        self._steps = 0
        self._sizes: dict[int, int] = {}
        self._kept: list[Any] = []  # ids stay unique only while their objects live

    def fail(self, node: ast.AST, what: str) -> UserError:
        return UserError(
            f"{self.source}, line {getattr(node, 'lineno', 0)}: {what} would have to be run", CONVERT
        )

    def names(self, node: ast.Assign) -> list[str]:
        """The files that a config builds on."""
        value = self.value(node.value)
        names = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(name, str) for name in names):
            raise self.fail(node, "'_base_' of something else than names of files")
        return list(names)

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a comment in quotes
        if not isinstance(node, ast.Assign) or not all(
            isinstance(target, ast.Name) for target in node.targets
        ):
            raise self.fail(node, f"a statement of kind {type(node).__name__}")
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        value = self.value(node.value)
        if self._size(value) > MAX_VALUES:
            raise UserError(f"{self.source}, line {node.lineno}: more than {MAX_VALUES:,} values", CONVERT)
        self.variables.update(dict.fromkeys(names, value))

    def value(self, node: ast.expr) -> Any:
        """What an expression comes to.

        Raises:
            UserError: It would have to be run, or comes to too much.
        """
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise UserError(f"{self.source}, line {node.lineno}: more than {MAX_STEPS:,} steps", CONVERT)
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
            case ast.ListComp(elt=part, generators=[ast.comprehension(ifs=[], is_async=0) as loop]):
                return [self._with(loop.target, value, part) for value in self._turns(loop.iter)]
            case ast.UnaryOp(op=ast.USub(), operand=part):
                return -self._number(part)
            case ast.BinOp():
                return self._arithmetic(node)
        return self._named(node)

    def _named(self, node: ast.expr) -> Any:
        match node:
            case ast.Name(id=name) if name in self.variables:
                return self.variables[name]
            case ast.Set(elts=[ast.Set(elts=[part])]) if _root(part) == _BASE:
                return self.value(part)  # {{_base_.name}}
            case ast.Attribute(value=ast.Name(id=name), attr=key) if name == _BASE:
                return self._item(node, self.base, key)
            case ast.Attribute(value=part, attr=key) if _root(part) == _BASE:
                return self._item(node, self.value(part), key)
            case ast.Subscript(value=part, slice=ast.Constant(value=str() | int() as key)):
                return self._item(node, self.value(part), key)
        name = node.id if isinstance(node, ast.Name) else type(node).__name__
        raise self.fail(node, repr(name))

    def _arithmetic(self, node: ast.BinOp) -> Any:
        match node:
            case ast.BinOp(op=ast.Mult(), left=ast.List() as left, right=right):
                return self._repeated(node, self.value(left), self._number(right))
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return self._sum(node, self.value(left), self.value(right))
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _NUMBERS:
                return self._number_of(node, _NUMBERS[type(op)], self._number(left), self._number(right))
        raise self.fail(node, repr(type(node).__name__))

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

    def _turns(self, node: ast.expr) -> Sequence[Any]:
        """What a comprehension goes through: a list, or ``range(n)``."""
        match node:
            case ast.Call(func=ast.Name(id="range"), args=[count], keywords=[]):
                number = self._number(count)
                values: Any = range(number) if isinstance(number, int) else None
            case _:
                values = self.value(node)
        if not isinstance(values, list | tuple | range) or len(values) > MAX_TURNS:
            raise self.fail(node, f"a loop over something else than at most {MAX_TURNS} values")
        return values

    def _with(self, target: ast.expr, value: Any, part: ast.expr) -> Any:
        """The value of ``part`` with a variable set, which is as before afterwards."""
        if not isinstance(target, ast.Name):
            raise self.fail(target, "a loop with more than one variable")
        before = dict(self.variables)
        self.variables[target.id] = value
        try:
            return self.value(part)
        finally:
            self.variables = before

    def _repeated(self, node: ast.expr, part: list[Any], times: Any) -> list[Any]:
        if not isinstance(times, int) or len(part) * times > MAX_VALUES:
            raise self.fail(node, "a list repeated beyond all bounds")
        return part * times

    def _item(self, node: ast.expr, value: Any, key: str | int) -> Any:
        try:
            return value[key]
        except (LookupError, TypeError):
            raise UserError(
                f"{self.source}, line {node.lineno}: there is no {key!r} in {ast.unparse(node)}", CONVERT
            ) from None

    def _sum(self, node: ast.BinOp, left: Any, right: Any) -> Any:
        """Of texts and lists as of numbers; no longer than a config may be."""
        if not any(isinstance(left, kind) and isinstance(right, kind) for kind in (str, list, tuple)):
            return self._number_of(node, operator.add, self._checked(node, left), self._checked(node, right))
        if len(left) + len(right) > MAX_VALUES:
            raise self.fail(node, "a sum beyond all bounds")
        return left + right

    def _number(self, node: ast.expr) -> Any:
        return self._checked(node, self.value(node))

    def _checked(self, node: ast.expr, value: Any) -> Any:
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


def _root(node: ast.expr) -> str | None:
    """The name that a chain of attributes and items begins with."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
