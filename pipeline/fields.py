"""Kinds of values that sections of the configuration are made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError


def nearest(word: str, known: Iterable[str]) -> str:
    """The hint " (did you mean 'x'?)", or nothing where no known word is near."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]


def _in_one_sentence(kind: str, expected: str) -> WrapValidator:
    """One message for both alternatives of a union; pydantic has one for each."""

    def checked(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(value)
        except ValidationError as error:
            raise PydanticCustomError(kind, 'Input should be "auto" or {expected}', {"expected": expected}) from error

    return WrapValidator(checked)


Strength = Annotated[Literal["auto"] | NotNegative, _in_one_sentence("auto_or_number", "a number >= 0")]
Rate = Annotated[Literal["auto"] | Positive, _in_one_sentence("auto_or_positive", "a number > 0")]
Part = Annotated[Literal["auto"] | Share, _in_one_sentence("auto_or_share", "a number between 0 and 1")]
Selection = Annotated[Literal["auto"] | Count, _in_one_sentence("auto_or_count", "a whole number >= 1")]


class Section(BaseModel):
    """A part of the configuration: typed, frozen, closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def plain(self) -> dict[str, Any]:
        """As plain values, for JSON; keys as written in YAML."""
        return self.model_dump(mode="json", by_alias=True)
