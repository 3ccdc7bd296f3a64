"""Resource packs: units bought in advance, and what is left of them (API reference, account and billing)."""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from attrs import define, field, frozen

from kling_async.simulator.messages import Call, Refusal

_DAY = 86_400.0


@frozen
class Pack:
    """Units bought in advance.

    Attributes:
        name: Its name.
        total: The units it had.
        age: Seconds since it was bought, and began to be valid, at the first request for packs.
        valid: Seconds from then until it expires.
    """

    name: str = "Trial-Video-100Units-5Con-1Months"
    total: Decimal = field(default=Decimal(100), converter=Decimal)
    age: float = _DAY
    valid: float = 30 * _DAY


def are_packs(value: Any) -> bool:
    """Whether *value* can be the packs of an account."""
    return isinstance(value, list | tuple) and all(isinstance(pack, Pack) for pack in value)


@define
class Packs:
    """Tells of an account's packs as Kling does, but without its lag of up to 12 hours."""

    _opened: float | None = field(init=False, default=None)

    def told(self, packs: Iterable[Pack], spent: Decimal, call: Call) -> dict[str, Any]:
        """What a good call is answered with: the packs that were valid at some time of its window.

        Args:
            packs: All of the account's packs.
            spent: Units deducted so far; the packs pay for them in their order.
            call: The request.

        Raises:
            Refusal: 1200, a time is missing (or in camelCase); 1201, it is no number of milliseconds.
        """
        start, end = (_time(call, name) for name in ("start_time", "end_time"))
        if self._opened is None:
            self._opened = call.now
        wanted = call.query.get("resource_pack_name")
        rows = [
            row
            for row in _rows(packs, spent, self._opened, call.now)
            if row["purchase_time"] <= end and row["invalid_time"] >= start
            if wanted in (None, row["resource_pack_name"])
        ]
        return {"code": 0, "msg": "success", "resource_pack_subscribe_infos": rows}


def _rows(packs: Iterable[Pack], spent: Decimal, opened: float, now: float) -> Iterator[dict[str, Any]]:
    for place, pack in enumerate(packs, start=1):
        bought = opened - pack.age
        ends = bought + pack.valid
        used = min(spent, pack.total)
        spent -= used
        left = pack.total - used
        yield {
            "resource_pack_name": pack.name,
            "resource_pack_id": f"pack-{place}",
            "resource_pack_type": "decreasing_total",
            "total_quantity": float(pack.total),
            "remaining_quantity": float(left),
            "purchase_time": round(bought * 1000),
            "effective_time": round(bought * 1000),
            "invalid_time": round(ends * 1000),
            "status": _status(bought, ends, left, now),
        }


def _status(begins: float, ends: float, left: Decimal, now: float) -> str:
    if now < begins:
        return "toBeOnline"
    if now >= ends:
        return "expired"
    return "online" if left else "runOut"


def _time(call: Call, name: str) -> int:
    value = call.query.get(name)
    if value is None:
        raise Refusal(1200)
    if not value.isdecimal():
        raise Refusal(1201, f"{name} must be a time in milliseconds")
    return int(value)
