"""What may be spent, what is spent and what is on its way: the accounting alone."""

from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from kling_async.protocol.errors import ConfigurationError
from kling_async.protocol.prices import Prices

__all__ = ["Budget"]


class Budget:
    """What a stream, or several that share it, may spend.

    A request is started only if its estimate fits. What is in flight counts with its estimate until Kling
    tells what it deducted; a failure, which Kling does not charge, gives its estimate back; what may exist,
    got lost or was given up counts as spent. So the limit is crossed only where Kling deducts more than its
    price page says. What an earlier run paid for a request of the stream counts when its turn comes.

    Args:
        units: the limit, at least 0: in Kling's units, or in whatever *prices* are in.
        prices: your own, which win over the built-in ones; on a gateway there are no others.
        allow_unpriced: start also what no price is known of. It counts from when its units are told.

    Raises:
        ConfigurationError: *units* is no number, or below 0.
    """

    def __init__(
        self,
        units: Decimal | float | str,
        *,
        prices: Prices | None = None,
        allow_unpriced: bool = False,
    ) -> None:
        try:
            self.limit = Decimal(str(units))
        except InvalidOperation:
            raise ConfigurationError(f"a budget is a number of units, not {units!r}") from None
        if not self.limit.is_finite() or self.limit < 0:
            raise ConfigurationError(f"a budget is a number of units from 0, not {units!r}")
        self.prices = prices
        self.allow_unpriced = allow_unpriced
        self._spent: dict[str, Decimal] = {}
        self._reserved: dict[str, Decimal] = {}
        self._sum_spent = self._sum_reserved = Decimal(0)
        self._waiting: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        """The figures."""
        return f"<Budget {self.limit} units: {self.spent} spent, {self.reserved} reserved>"

    @property
    def spent(self) -> Decimal:
        """Units of what has ended, and the estimates of what ended without telling its units."""
        return self._sum_spent

    @property
    def reserved(self) -> Decimal:
        """The estimates of what is in flight."""
        return self._sum_reserved

    @property
    def left(self) -> Decimal:
        """Units that may still be reserved; below 0 where Kling deducted more than was estimated."""
        return self.limit - self._sum_spent - self._sum_reserved

    def fits(self, units: Decimal) -> bool:
        """Whether *units* more may be reserved now."""
        return units <= self.left

    def may_fit(self, units: Decimal) -> bool:
        """Whether *units* more fit if all that is in flight should cost nothing."""
        return units <= self.limit - self._sum_spent

    def reserve(self, name: str, units: Decimal) -> None:
        """The task *name* is about to be submitted, and is thought to cost *units*."""
        self._forget(name)
        self._reserved[name] = units
        self._sum_reserved += units

    def settle(self, name: str, units: Decimal) -> None:
        """The task *name* has ended, and cost *units*; whoever waits may ask again."""
        self._forget(name)
        if units:
            self._spent[name] = units
            self._sum_spent += units
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def on_settled(self, wake: Callable[[], None]) -> None:
        """Call *wake* once, when something in flight has ended."""
        self._waiting.append(wake)

    def _forget(self, name: str) -> None:
        self._sum_spent -= self._spent.pop(name, Decimal(0))
        self._sum_reserved -= self._reserved.pop(name, Decimal(0))
