"""The one error type for mistakes that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave us: says what is wrong and the way out.

    The command line prints both lines without a traceback and exits with
    status 2, so each text must stand on its own: name the file and the field.

    Args:
        problem: What is wrong, one sentence, with the file and field.
        way_out: What to do next, one sentence.
    """

    def __init__(self, problem: str, way_out: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.way_out = way_out

    def __str__(self) -> str:
        return f"{self.problem}\n{self.way_out}" if self.way_out else self.problem
