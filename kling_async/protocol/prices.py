"""What a video costs in Kling's units, before it is made.

A price is units per second, by model, by what is heard and by mode; it is known or it is None, never zero
for want of knowledge. Numbers are exact: 0.3 is three tenths.
"""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, Final, Literal, cast

import attrs

from kling_async.protocol.errors import ConfigurationError
from kling_async.protocol.models import ImageToVideo, MultiImageToVideo, VideoRequest

__all__ = ["Prices", "in_units", "plain"]

Rates = Mapping[tuple[str, str, str, str], Decimal]
"""Units per second by endpoint, model, what is heard, and mode."""

_HEARD: Final = ("silent", "sound", "voice")
_MODES: Final = ("std", "pro", "4k")
_ENDPOINTS: Final = (ImageToVideo.endpoint, MultiImageToVideo.endpoint)

_DECISIVE: Final = frozenset({"model", "model_name", "mode", "duration", "sound", "voice_list"})
"""What decides a price; where `extra_body` holds one of them, the price is unknown."""

_MOST: Final = 1_000_000
"""No rate is larger: what is, is a slip, and its product with seconds might be no number."""

_SHAPE: Final = 'give a rate like ["kling-v2-6"] and below it silent = { std = 0.3, pro = 0.5 }'


def plain(units: Decimal) -> str:
    """*units* as people write them, without zeros at the end: ``9.6``, ``5``, ``100``."""
    return f"{units.normalize():f}"


def in_units(amount: Decimal) -> str:
    """*amount* with its unit: ``1 unit``, ``4.5 units``."""
    return f"{plain(amount)} unit{'' if amount == 1 else 's'}"


@attrs.frozen
class Prices:
    """Units per second of video.

    A table of your own is written as TOML, read with `read`. Every part of it may be missing::

        ["kling-v2-6"]
        silent = { std = 0.3, pro = 0.5 }
        sound = { pro = 1.0 }
        voice = { pro = 1.2 }

    Attributes:
        rates: units per second by endpoint, model, ``silent``, ``sound`` or ``voice``, and mode.
        source: where they stand, with a date; empty if nobody said.
    """

    rates: Rates = attrs.field(factory=lambda: MappingProxyType({}), repr=False)
    source: str = ""

    @classmethod
    def read(cls, text: str, *, source: str = "") -> "Prices":
        """The table written as TOML in *text*.

        Raises:
            ConfigurationError: it is no TOML, or see `from_mapping`.
        """
        import tomllib

        try:
            data = tomllib.loads(text, parse_float=Decimal)
        except (ValueError, InvalidOperation, RecursionError) as error:
            what = f"{source or 'the price table'} is no TOML: {error}"
            raise ConfigurationError(what, advice=_SHAPE) from error
        return cls.from_mapping(data, source=source)

    @classmethod
    def from_mapping(
        cls, data: Mapping[str, Any], *, source: str = "", endpoints: tuple[str, ...] = _ENDPOINTS
    ) -> "Prices":
        """The table in *data*: model, then what is heard, then mode.

        Args:
            data: as above. A float is taken as it is written: 0.3 is three tenths.
            source: where the rates stand.
            endpoints: the kinds of task they hold for.

        Raises:
            ConfigurationError: a word that is not among those above, or a rate that is no number from 0 to
                1,000,000; the place is named.
        """
        if not isinstance(data, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - it is read from files
            raise ConfigurationError(f"{source or 'the price table'} is no table", advice=_SHAPE)
        rates = {
            (endpoint, model, heard, mode): _rate(rate, f"{model}.{heard}.{mode}", source)
            for model, by_heard in data.items()
            for heard, by_mode in _table(by_heard, model, _HEARD, source)
            for mode, rate in _table(by_mode, f"{model}.{heard}", _MODES, source)
            for endpoint in endpoints
        }
        return cls(MappingProxyType(rates), source)

    def estimate(self, request: VideoRequest) -> Decimal | None:
        """What *request* costs when it succeeds, units; None where the table does not tell.

        Mode and duration left out are ``std`` and 5 s. A request with voices costs what voices cost, whether
        or not its prompt refers to them.
        """
        if request.extra_body and not _DECISIVE.isdisjoint(request.extra_body):
            return None
        heard = _heard(request)
        rate = self.rates.get((request.endpoint, request.model_name, heard, request.mode or "std"))
        return None if rate is None else rate * int(request.duration or "5")

    def over(self, other: "Prices") -> "Prices":
        """These rates and, where they do not tell, those of *other*."""
        sources = " over ".join(each.source for each in (self, other) if each.source)
        return Prices(MappingProxyType({**other.rates, **self.rates}), sources)

    def of(self, model: str, endpoint: str = ImageToVideo.endpoint) -> dict[str, dict[str, Decimal]]:
        """The rates of one model, by what is heard and by mode; empty where there are none."""
        told: dict[str, dict[str, Decimal]] = {}
        for heard in _HEARD:
            for mode in _MODES:
                rate = self.rates.get((endpoint, model, heard, mode))
                if rate is not None:
                    told.setdefault(heard, {})[mode] = rate
        return told


def _heard(request: VideoRequest) -> Literal["silent", "sound", "voice", ""]:
    """What is heard; empty where nobody documents what such a request costs."""
    if not isinstance(request, ImageToVideo):
        return "silent"
    if request.sound == "on":
        return "voice" if request.voice_list else "sound"
    return "silent" if request.sound in (None, "off") and not request.voice_list else ""


def _table(value: Any, place: str, words: tuple[str, ...], source: str) -> list[tuple[str, Any]]:
    """The entries of a table, each under one of *words*."""
    if not isinstance(value, Mapping):
        raise _malformed(place, "must be a table", source)
    table = cast("Mapping[str, Any]", value)
    for word in table:
        if word not in words:
            raise _malformed(f"{place}.{word}", f"must be one of {', '.join(words)}", source)
    return list(table.items())


def _rate(value: Any, place: str, source: str) -> Decimal:
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if isinstance(value, Decimal):
        is_number = value.is_finite()  # what is not cannot be compared
    if not is_number or not 0 <= value <= _MOST:
        raise _malformed(place, f"must be a number of units per second, 0 to {_MOST:,}", source)
    return value if isinstance(value, Decimal) else Decimal(str(value))


def _malformed(place: str, what: str, source: str) -> ConfigurationError:
    return ConfigurationError(f"{source or 'the price table'}: {place} {what}", advice=_SHAPE)
