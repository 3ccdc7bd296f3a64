"""What to install for what this package does only with its extras."""

__all__ = ["install"]


def install(extra: str) -> str:
    """What to type for an *extra* that is missing; no shell stumbles over its quotes."""
    return f'pip install "kling-async[{extra}]"'
