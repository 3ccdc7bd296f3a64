"""Where the items of one stream, or of one call, are recorded, and under which name each."""

import collections
import secrets
from collections.abc import Sequence

import attrs

from kling_async.journal import Journal
from kling_async.typing import Again, never

__all__ = ["Recording"]


@attrs.frozen
class Recording:
    """How the items of one stream, or of one call, are recorded.

    Attributes:
        journal: where.
        others: further journals of the same folder that this process has taken over, for the unfinished
            tasks in them.
        again: which of those that ended without a video are made anew.
        by_content: items without a key are recognised by their content and its ordinal among equals; else
            each is a new one.
        row: the name of the one item there is, where that is known.
    """

    journal: Journal
    others: Sequence[Journal] = ()
    again: Again = never
    by_content: bool = True
    row: str | None = None
    _equals: collections.Counter[str] = attrs.field(factory=collections.Counter[str], init=False)

    def recognises(self, key: str | None) -> bool:
        """Whether an item can be known from elsewhere; else each is a new one."""
        return self.by_content or key is not None or self.row is not None

    def name(self, key: str | None, request_hash: str) -> str:
        """What an item is recorded under."""
        if self.row is not None or key is not None:
            return self.row or key or ""
        if not self.by_content:
            return f"{request_hash}#{secrets.token_hex(8)}"
        self._equals[request_hash] += 1
        return f"{request_hash}#{self._equals[request_hash]}"
