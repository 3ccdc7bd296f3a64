"""What an earlier run left in the journal of the items of this one."""

import collections
from collections.abc import Iterable, Sequence

import attrs

from kling_async.batch.items import Item
from kling_async.journal import Record
from kling_async.protocol.models import TaskStatus

__all__ = ["Earlier", "as_made", "compare"]


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
    known = _latest(records)
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


def as_made(items: Sequence[Item], records: Iterable[Record]) -> list[Item]:
    """*items*, but those that an earlier run had with their pictures unfitted as it had them.

    Fitting a picture gives it other bytes, and an item is recognised by them: what was made before pictures
    were fitted would be paid for again. An item that has a row of its own stays; where there is one of its
    `Item.original` alone, that takes its place. Give what comes out to `compare` and to the run alike.

    Args:
        items: of this run.
        records: every row of the journal; one that was refused does not count, as nothing was made.
    """
    worth = {name for name, record in _latest(records).items() if record.state != TaskStatus.REFUSED}
    # Equal items without a key are told apart by their order alone: how many of them have a row counts.
    left = collections.Counter[str]()
    for key, digest in worth:
        ordinal = key.removeprefix(f"{digest}#")
        if ordinal != key and ordinal.isdecimal():
            left[digest] = max(left[digest], int(ordinal))
    left.subtract(item.request_hash for item in items if item.key is None and item.original is None)

    def has_row(item: Item) -> bool:
        if item.key is not None:
            return (item.key, item.request_hash) in worth
        left[item.request_hash] -= 1
        return left[item.request_hash] >= 0

    made: list[Item] = []
    for item in items:
        original = item.original
        made.append(item if original is None or has_row(item) or not has_row(original) else original)
    return made


def _latest(records: Iterable[Record]) -> dict[tuple[str, str], Record]:
    """Each video's row by key and hash, of several generations the latest."""
    ordered = sorted(records, key=lambda each: (each.generation, each.updated_at))
    return {(record.key, record.request_hash): record for record in ordered}
