"""What is told of a request that is refused, or doubted."""

import re
from typing import Literal

import attrs

__all__ = ["Finding"]


@attrs.frozen
class Finding:
    """Something about a request that is refused, or doubted.

    Attributes:
        field: the field in the API's own words, nested ones dotted; empty for the whole request.
        severity: ``error``: certainly refused, or comes out wrong; ``warning``: doubted.
        message: what is wrong and, where there is one, the remedy: a clause without a subject.
        source: where the rule stands, with its date.
    """

    field: str
    severity: Literal["error", "warning"]
    message: str
    source: str = ""

    @property
    def name(self) -> str:
        """Under which name the field stands in the body: ``camera_control`` of ``camera_control.type``."""
        return re.split(r"[.[]", self.field, maxsplit=1)[0]

    def __str__(self) -> str:
        """The finding as one clause."""
        return f"{self.field}: {self.message}" if self.field else self.message
