"""Asyncio SDK for Kling image-to-video: nothing is paid twice, nothing paid is lost."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kling_async.public import *  # noqa: F403 - that module lists them
    from kling_async.public import __all__ as __all__
else:
    # Type checkers do not see this, so that a name that is not public stays an error to them.

    def __getattr__(name: str) -> object:
        """Load the public names on first use: pytest imports this package to find fixtures in it."""
        if name == "__all__" or not name.startswith("__"):
            from importlib import import_module

            public = import_module(f"{__name__}.public")
            globals().update({each: getattr(public, each) for each in public.__all__}, __all__=public.__all__)
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        dunders = (name for name in globals() if name.startswith("__"))
        return sorted({*dunders, *__getattr__("__all__")})
