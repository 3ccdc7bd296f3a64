"""What a simulator's settings may be: validators whose ValueError names the setting."""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from kling_async.simulator.messages import Refusal

if TYPE_CHECKING:
    from attrs import Attribute

Validator = Callable[[object, "Attribute[Any]", Any], None]


def must_be(what: str, holds: Callable[[Any], bool], *, secret: bool = False) -> Validator:
    """Raise ValueError, "<setting> must be *what*, not ...", unless *holds* of its value."""

    def check(_: object, attribute: "Attribute[Any]", value: Any) -> None:
        if not holds(value):
            shown = type(value).__name__ if secret else repr(value)
            raise ValueError(f"{attribute.name} must be {what}, not {shown}")

    return check


def one_of(words: tuple[str, ...]) -> Validator:
    """One of *words*."""
    return must_be(f"one of {', '.join(map(repr, words))}", lambda value: value in words)


def of_type(kind: type) -> Validator:
    """An instance of *kind*."""
    return must_be(f"a {kind.__name__}", lambda value: isinstance(value, kind))


def optional(what: str, holds: Callable[[Any], bool]) -> Validator:
    """None, or as `must_be`."""
    return must_be(f"{what}, or None", lambda value: value is None or holds(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and value >= 0


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_refusal(value: Any) -> bool:
    try:
        return _is_whole(value) and bool(Refusal(value))
    except ValueError:
        return False


def _is_duration(value: Any) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and all(map(_is_number, value)) and value[0] <= value[1]
    return _is_number(value) or callable(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    # a text is a collection of texts too, and never meant as one
    return isinstance(value, Collection) and not _is_text(value) and all(map(_is_text, value))


def _is_mapping(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and _are_texts(value) and all(map(holds, value.values()))


DURATION: Final = must_be("seconds, a tuple (low, high) of them, or a function", _is_duration)
SECONDS: Final = must_be("seconds, at least 0", _is_number)
SECONDS_OR_NONE: Final = optional("seconds, at least 0", _is_number)
SHARE: Final = must_be("a number from 0 to 1", lambda value: _is_number(value) and value <= 1)
LIMIT: Final = optional("a whole number, at least 0", _is_whole)
LIMITS: Final = must_be(
    "a mapping of models to whole numbers or None",
    lambda value: _is_mapping(value, lambda limit: limit is None or _is_whole(limit)),
)
REFUSAL: Final = optional("a code of Kling or an HTTP error status", _is_refusal)
MARKER: Final = must_be("text, and not empty", lambda value: _is_text(value) and value != "")
FLAG: Final = must_be("True or False", lambda value: isinstance(value, bool))
TEXT: Final = must_be("text", _is_text)
SECRETS: Final = must_be("a collection of texts", _are_texts, secret=True)
SECRET_BY_NAME: Final = must_be(
    "a mapping of texts to texts", lambda value: _is_mapping(value, _is_text), secret=True
)
FUNCTION_OR_NONE: Final = optional("a function", callable)
