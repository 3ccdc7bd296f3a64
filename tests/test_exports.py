"""The public names: sorted, complete, and those of the modules they come from."""

import ast
import importlib
import pickle
import types
from pathlib import Path

import pytest

import kling_async

ROOT = Path(kling_async.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if path.name != "__main__.py"
)
SOURCES = (
    "checking",
    "client",
    "fitting",
    "handles",
    "instrumentation",
    "protocol.account",
    "protocol.auth",
    "protocol.budget",
    "protocol.capabilities",
    "protocol.findings",
    "protocol.errors",
    "protocol.models",
    "protocol.prices",
    "protocol.providers",
    "protocol.schedule",
    "retries",
    "streams",
)
"""Modules whose public names are the package's."""

INTERNAL = {
    "in_units",
    "plain",
    "Deviation",
    "thumbnail",
    "read_packs",
    "prices_for",
    "fitted",
    "findings",
    "cost_told",
    "capabilities",
    "LACKS_SOURCE",
    "tells_charges",
    "spent",
    "examined",
    "QUALITY",
    "LONG_SIDE",
    "Capabilities",
    "AROUND",
    "Credentials",
    "Hooks",
    "PROVIDERS",
    "Requests",
    "Schedule",
    "Signer",
    "account",
    "one_line",
    "check_signature",
    "Names",
    "default_name",
    "withdrawn",
    "poll_intervals",
    "retrying",
    "secret",
}
"""Names that these modules give to each other alone."""


def exported(module: str) -> list[str]:
    """The `__all__` of a module, read from its source."""
    path = ROOT.parent.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def sort_key(name: str):
    """Constants, then classes, then the rest: the order in which ruff sorts."""
    return (not name.isupper(), not name[0].isupper(), name) if len(name) > 1 else (False, False, name)


@pytest.mark.parametrize("module", MODULES)
def test_all_is_sorted_and_real(module):
    """Every name a module exports exists there, and stands in its place."""
    names = exported(module)
    assert names == sorted(names, key=sort_key)
    assert len(names) == len(set(names))
    if module.split(".")[1:2] != ["cli"]:
        assert all(hasattr(importlib.import_module(module), name) for name in names)


def test_top_level_is_the_union_of_its_modules():
    """What the modules make public the package exports, and nothing else."""
    union = {name for source in SOURCES for name in exported(f"kling_async.{source}")}
    assert set(kling_async.__all__) == union - INTERNAL


def test_public_names_are_seen_without_being_asked_for():
    """They are loaded late, and listed all the same; what is no name of the package is an error.

    Modules are not listed: which of them happen to be loaded is nobody's business.
    """
    assert {name for name in dir(kling_async) if not name.startswith("__")} == set(kling_async.__all__)
    assert {"__all__", "__doc__", "__file__"} < set(dir(kling_async))
    assert vars(kling_async)["KlingClient"] is kling_async.KlingClient
    for name in ("Klingon", "__wrapped__"):
        with pytest.raises(AttributeError, match=f"module 'kling_async' has no attribute '{name}'"):
            getattr(kling_async, name)


def test_classes_are_pickled_as_ever():
    """A class is known by the module that it stands in."""
    assert repr(kling_async.KlingClient) == "<class 'kling_async.client.KlingClient'>"
    request = kling_async.ImageToVideo(image="cat.png", prompt="a cat")
    assert pickle.loads(pickle.dumps(request)) == request  # noqa: S301 - our own bytes


def test_public_names_are_documented():
    """Each class and function has a docstring."""
    undocumented = [
        name
        for name in kling_async.__all__
        if isinstance(value := getattr(kling_async, name), type | types.FunctionType)
        and not (value.__doc__ or "").strip()
    ]
    assert undocumented == []
