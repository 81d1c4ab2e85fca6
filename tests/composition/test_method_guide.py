"""The worked example of docs/method.md runs and gives the figures that the guide derives by hand."""

from __future__ import annotations

import doctest
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "method.md"


def test_the_example() -> None:
    result = doctest.testfile(str(GUIDE), module_relative=False, encoding="utf-8")
    assert result.attempted > 15
    assert result.failed == 0
