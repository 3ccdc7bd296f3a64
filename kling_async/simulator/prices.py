"""What a video costs in units (API reference, prices)."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

# model -> what is heard -> mode -> units per second
_UNITS_PER_SECOND: Final = {
    "kling-v3": {
        "silent": {"std": "0.6", "pro": "0.8", "4k": "3.0"},
        "sound": {"std": "0.9", "pro": "1.2", "4k": "3.0"},
        "voice": {},
    },
    "kling-v2-6": {
        "silent": {"std": "0.3", "pro": "0.5"},
        "sound": {"pro": "1.0"},
        "voice": {"pro": "1.2"},
    },
    "kling-v2-5-turbo": {"silent": {"std": "0.3", "pro": "0.5"}, "sound": {}, "voice": {}},
}


def price(model: str, body: Mapping[str, Any]) -> Decimal | None:
    """The units for *body*, or None where the price list has no such cell."""
    heard = "silent" if body.get("sound") != "on" else "voice" if body.get("voice_list") else "sound"
    rate = _UNITS_PER_SECOND.get(model, {}).get(heard, {}).get(body.get("mode", "std"))
    return None if rate is None else Decimal(rate) * int(body.get("duration", "5"))


def decimal_string(units: Decimal) -> str:
    """*units* as Kling writes them, without trailing zeros: `"9.6"`, `"5"`."""
    return f"{units.normalize():f}"
