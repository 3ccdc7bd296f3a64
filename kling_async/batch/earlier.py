"""What an earlier run left in the journal of the items of this one."""

import collections
from collections.abc import Iterable, Sequence

import attrs

from kling_async.batch.items import Item
from kling_async.journal import Record

__all__ = ["Earlier", "compare"]


@attrs.frozen
class Earlier:
    """What a journal holds of the items of a run that is about to begin.

    Attributes:
        rows: of each item, in their order; None: it was never to be submitted.
        changed: names of items whose name an earlier run had for another request.
        unlisted: rows of what is not asked for any more.
    """

    rows: tuple[Record | None, ...]
    changed: frozenset[str]
    unlisted: tuple[Record, ...]


def compare(items: Sequence[Item], records: Iterable[Record]) -> Earlier:
    """What *records* tell of *items*, by the rule that the client recognises them by.

    Args:
        items: of this run.
        records: every row of the journal; of several generations the latest counts.
    """
    known: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=lambda each: (each.generation, each.updated_at)):
        known[record.key, record.request_hash] = record
    equals = collections.Counter[str]()
    rows: list[Record | None] = []
    for item in items:
        equals[item.request_hash] += item.key is None
        name = item.key or f"{item.request_hash}#{equals[item.request_hash]}"
        rows.append(known.pop((name, item.request_hash), None))
    former = {(record.named, record.label) for record in known.values()}
    changed = (
        item.name
        for item, row in zip(items, rows, strict=True)
        if row is None and (item.key is not None, item.name) in former
    )
    return Earlier(tuple(rows), frozenset(changed), tuple(known.values()))
