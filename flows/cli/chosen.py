"""Options of the command line as checked settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from composition.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Settings from the values of options of the same names.

    Raises:
        UserError: The first value that is wrong, by the name of its option.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise UserError(f"{option}: {first['msg'].removeprefix('Value error, ')}") from None


def names_in(text: str | None) -> list[str] | None:
    """Names that are separated with commas; None where the option was not given."""
    return [name.strip() for name in text.split(",")] if text else None
