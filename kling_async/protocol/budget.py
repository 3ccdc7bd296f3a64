"""What may be spent, what is spent and what is on its way: the accounting alone."""

import itertools
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Final

from kling_async.protocol.errors import ConfigurationError
from kling_async.protocol.prices import Prices, plain

__all__ = ["Budget"]

MOST: Final = Decimal(1_000_000_000)
"""No budget is larger: what is, is a slip."""


class Budget:
    """What a stream, or several that share it, may spend on what they submit.

    A request is submitted only if its estimate fits. What is in flight counts with its estimate until Kling
    tells what it deducted; a failure gives its estimate back, for units are deducted at success; what may
    exist, got lost, was given up, or was still running when its client was closed counts as spent. So the
    limit is crossed only where Kling deducts more than its price page says.

    What an earlier run paid, has in flight or only began does not count, nor what somebody else has in flight
    under the same key: the client brings that to its end whatever the budget says. Tell it with *spent*;
    ``kling-async batch --budget`` does so with all that its folder's journal holds. Streams that share one
    run in one event loop: like everything of the client's it is for one thread.

    Args:
        units: the limit, at least 0: in Kling's units; at a gateway, in whatever *prices* are in.
        prices: your own, which win over the built-in ones; at a gateway there are no others.
        allow_unpriced: submit also what no price is known of. It counts from when its units are told.
        spent: what is spent already.

    Raises:
        ConfigurationError: *units* or *spent* is no number, below 0, or above a billion.
    """

    def __init__(
        self,
        units: Decimal | float | str,
        *,
        prices: Prices | None = None,
        allow_unpriced: bool = False,
        spent: Decimal | float | str = 0,
    ) -> None:
        self.limit = _amount(units)
        self.prices = prices
        self.allow_unpriced = allow_unpriced
        self._spent = _amount(spent)
        self._held: dict[int, Decimal] = {}
        self._numbers = itertools.count()
        self._waiting: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        """The figures."""
        figures = f"{plain(self.spent)} spent, {plain(self.reserved)} reserved"
        return f"<Budget {plain(self.limit)} units: {figures}>"

    @property
    def spent(self) -> Decimal:
        """Units of what has ended, and the estimates of what ended without telling its units."""
        return self._spent

    @property
    def reserved(self) -> Decimal:
        """The estimates of what is in flight."""
        return sum(self._held.values(), Decimal(0))

    @property
    def left(self) -> Decimal:
        """Units that may still be reserved; below 0 where Kling deducted more than was estimated."""
        return self.limit - self._spent - self.reserved

    def fits(self, units: Decimal) -> bool:
        """Whether *units* more may be reserved now."""
        return units <= self.left

    def may_fit(self, units: Decimal) -> bool:
        """Whether *units* more fit if all that is in flight should cost nothing."""
        return units <= self.limit - self._spent

    def reserve(self, units: Decimal) -> int:
        """A task is about to be submitted, and is thought to cost *units*; returns what settles it."""
        number = next(self._numbers)
        self._held[number] = units
        return number

    def settle(self, number: int, units: Decimal | None) -> None:
        """The task of a reservation has ended, and cost *units*, None: its estimate; who waits may ask again.

        The first word counts: it is asked once for each reservation.
        """
        estimate = self._held.pop(number, None)
        if estimate is None:
            return
        self._spent += estimate if units is None else units
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def on_settled(self, wake: Callable[[], None]) -> None:
        """Call *wake* once, when something in flight has ended."""
        self._waiting.append(wake)


def _amount(units: Decimal | float | str) -> Decimal:
    try:
        amount = Decimal(str(units))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or not 0 <= amount <= MOST:
        raise ConfigurationError(f"a budget is a number of units from 0 to {plain(MOST)}, not {units!r}")
    return amount
