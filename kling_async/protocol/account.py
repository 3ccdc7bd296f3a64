"""The account's resource packs: what the reply to `wire.packs` says of them.

The reply has an envelope within the envelope, each with a code of its own (API reference, account and
billing endpoints)::

    {"code": 0, "data": {"code": 0, "msg": "ok", "resource_pack_subscribe_infos": [{...}, ...]}}
"""

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import attrs

from kling_async.protocol.families import decimal_of, utc_of
from kling_async.protocol.refusals import text_of
from kling_async.protocol.replies import Reading, Response

__all__ = ["ResourcePack", "read_packs"]

_SLOTS: Final = re.compile(r"([0-9]{1,4})Con")
"""As in ``Trial-Video-100Units-5Con-1Months`` (API reference, concurrency and rate limits)."""


@attrs.frozen(kw_only=True)
class ResourcePack:
    """Units bought in advance (API reference, account and billing endpoints).

    What Kling leaves out is empty or None.

    Attributes:
        name: Kling's name of it, such as ``Trial-Video-100Units-5Con-1Months``.
        id: Kling's id of it.
        type: ``decreasing_total``, ``constant_period``, or a word that Kling has come to use since.
        status: ``toBeOnline``, ``online``, ``expired``, ``runOut``, or another word.
        total: the units bought.
        remaining: the units left. Kling brings it up to date within 12 hours, not at once.
        purchased_at: when it was bought, UTC.
        effective_at: when it begins to be valid, UTC.
        invalid_at: when it ceases to be, UTC.
    """

    name: str = ""
    id: str = ""
    type: str = ""
    status: str = ""
    total: Decimal | None = None
    remaining: Decimal | None = None
    purchased_at: datetime | None = None
    effective_at: datetime | None = None
    invalid_at: datetime | None = None

    @property
    def slots(self) -> int | None:
        """Tasks in flight at once, as the name says (``5Con`` is 5); None where it says nothing.

        The name is a habit of Kling's and no promise. Over several packs of one sort the largest counts, not
        the sum (API reference, concurrency and rate limits).
        """
        said = _SLOTS.search(self.name)
        return None if said is None else int(said[1])


def read_packs(response: Response, *, now: float | None = None) -> list[ResourcePack]:
    """The packs in the reply to `wire.packs`, in its order; a refusal in either envelope is raised.

    Raises:
        APIError: Kling said no.
        ProtocolError: the reply tells of no packs.
    """
    reading = Reading(response, creating=False, now=now)
    document = reading.document()
    if not isinstance(document, dict) or not isinstance(data := document.get("data") or {}, dict):
        raise reading.unreadable("the reply tells of no packs")
    refusal = reading.refusal({"request_id": document.get("request_id"), **data})  # its own envelope
    if refusal is not None:
        raise refusal
    packs = data.get("resource_pack_subscribe_infos")
    if packs is not None and not isinstance(packs, list):
        raise reading.unreadable("the reply tells of no packs")
    return [_pack(entry) for entry in packs or () if isinstance(entry, dict)]


def _pack(entry: Mapping[str, Any]) -> ResourcePack:
    return ResourcePack(
        name=text_of(entry.get("resource_pack_name")),
        id=text_of(entry.get("resource_pack_id")),
        type=text_of(entry.get("resource_pack_type")),
        status=text_of(entry.get("status")),
        total=decimal_of(entry.get("total_quantity")),
        remaining=decimal_of(entry.get("remaining_quantity")),
        purchased_at=utc_of(entry.get("purchase_time")),
        effective_at=utc_of(entry.get("effective_time")),
        invalid_at=utc_of(entry.get("invalid_time")),
    )
