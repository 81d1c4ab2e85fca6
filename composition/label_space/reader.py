"""Reading YAML node by node, so that every error can name its line."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from composition.errors import UserError

EXAMPLE = (
    "Write `teacher class: union class`, `... : {narrower: union class}`, "
    "`... : {broader: [union class, ...]}` or `... : drop`."
)


class Reader:
    """Turns composed nodes into values; knows the source for the errors."""

    def __init__(self, source: str) -> None:
        self.source = source

    def error(self, node: yaml.Node, problem: str, way_out: str = "") -> UserError:
        """The error for a place in the file."""
        return UserError(f"{self.source}:{node.start_mark.line + 1}: {problem}", way_out)

    def root(self, text: str) -> yaml.MappingNode:
        """The document, which must be a mapping; aliases and types of YAML are not interpreted.

        Raises:
            UserError: Not YAML, empty, or not a mapping.
        """
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line, problem, way_out = _explain(error)
            raise UserError(f"{self.source}:{line}: not YAML: {problem}", way_out) from None
        except (yaml.YAMLError, RecursionError) as error:
            raise UserError(f"{self.source}: not YAML: {str(error).splitlines()[0]}", EXAMPLE) from None
        if node is None:
            raise UserError(
                f"{self.source}: the file is empty", "Write one with `detcompose label-space propose`."
            )
        return self.mapping(node, "the file")

    def mapping(self, node: yaml.Node, what: str) -> yaml.MappingNode:
        """The node, if it is a mapping; otherwise an error about ``what``."""
        if isinstance(node, yaml.MappingNode):
            return node
        if isinstance(node, yaml.ScalarNode) and not node.value:
            raise self.error(
                node, f"{what} must be a mapping, but it is empty", "Indent what belongs to it by two spaces."
            )
        raise self.error(node, f"{what} must be a mapping (`name: value` lines)", EXAMPLE)

    def text(self, node: yaml.Node, what: str) -> str:
        """A scalar as it is written: `0`, `no` and `1.0` are names like any other."""
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(node, f"{what} must be a name", EXAMPLE)
        value = str(node.value)
        if not value.strip() or (node.style is None and value in ("~", "null")):
            raise self.error(node, f"{what} is empty", EXAMPLE)
        if node.end_mark.line > node.start_mark.line:
            # YAML joins a line that is indented too far to the one above it
            raise self.error(
                node,
                f"{what} {value!r} runs over two lines",
                "Let the lines of one list or section start in the same column.",
            )
        return value

    def items(self, node: yaml.MappingNode, what: str) -> Iterator[tuple[yaml.Node, str, yaml.Node]]:
        """Key node, key and value node of every line; a key that comes twice is an error."""
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = self.text(key_node, what)
            if key in seen:
                raise self.error(
                    key_node, f"{what} {key!r} appears twice (first in line {seen[key]})", "Keep one of them."
                )
            seen[key] = key_node.start_mark.line + 1
            yield key_node, key, value_node


def _explain(error: yaml.MarkedYAMLError) -> tuple[int, str, str]:
    """Line, problem and way out of a syntax error, in the words of somebody who edits a list."""
    problem = error.problem or "it cannot be read"
    line = error.problem_mark.line + 1 if error.problem_mark else 1
    # where the trouble began: the parser notices some mistakes only lines later
    start = error.context_mark.line + 1 if error.context_mark else line
    if "\\t" in problem:
        return line, "a tab where spaces are expected", "Indent with spaces only."
    if problem.startswith("expected <block end>") or problem.startswith("mapping values are not allowed"):
        return (
            line,
            "the indentation does not fit the lines above",
            "Let the lines of one list or section start in the same column.",
        )
    if problem == "could not find expected ':'":
        return start, "a line without `: `", EXAMPLE
    if "unexpected end of stream" in problem:
        return start, "a quotation mark is not closed", EXAMPLE
    return line, problem, EXAMPLE
