"""Addresses in the registry."""

from __future__ import annotations

import pytest

from composition.errors import UserError
from tasks.references import Reference, is_reference, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("teachers/x@champion", Reference("teachers", "x", "champion")),
        ("students/my-signs.v2@3", Reference("students", "my-signs.v2", "3")),
        ("models:/teachers.x@challenger", Reference("teachers", "x", "challenger")),
        ("models:/teachers.x.y/12", Reference("teachers", "x.y", "12")),
        ("teachers/*@champion", Reference("teachers", "*", "champion")),
        (
            "teachers/a-*@champion?pool=traffic&site=oslo",
            Reference("teachers", "a-*", "champion", {"pool": "traffic", "site": "oslo"}),
        ),
    ],
)
def test_both_spellings_are_read(text: str, expected: Reference) -> None:
    assert is_reference(text)
    found = parse(text)
    assert found == expected
    assert parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "teachers/x",
        "teachers/../x@champion",
        "teachers/a/b@champion",
        "models:/x@champion",
        "models:/teachers.x",
        "models:/teachers.x/latest",
        "teachers/X@champion",
        "teachers/x@",
        "teachers/x@a@b",
        "teachers/x@champion?pool",
        "teachers/x@champion?=a",
        "",
    ],
)
def test_what_is_no_address_is_told(text: str) -> None:
    with pytest.raises(UserError, match=r"addresses nothing|neither an alias|not tag=value"):
        parse(text)


def test_paths_stay_paths() -> None:
    assert not is_reference("teachers/digits-low")
    assert not is_reference("../teachers/x@home")
    assert not is_reference("digits-low")
    assert parse("students/x", "champion") == Reference("students", "x", "champion")


def test_patterns() -> None:
    assert parse("teachers/*@champion").is_pattern
    assert parse("teachers/x@champion?pool=a").is_pattern
    assert not parse("teachers/x@3").is_pattern
    assert parse("teachers/x@3").is_version
    pattern = parse("teachers/traffic-*@champion")
    assert pattern.matches("teachers.traffic-night")
    assert not pattern.matches("students.traffic-night")
    assert not pattern.matches("teachers.signs")
