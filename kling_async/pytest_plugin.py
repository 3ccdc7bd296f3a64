"""Fixtures for pytest: a simulator in memory, and a client joined to it.

Installed with the package, so that pytest finds it by itself. Nothing but pytest is imported until a fixture
is used.
"""

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kling_async import KlingClient, Provider
    from kling_async.simulator import Simulator
    from kling_async.testing import SimulatorTransport

__all__ = ["kling_client", "kling_simulator"]

_FIXTURES = frozenset(__all__)
_CLAIMS = ("asyncio", "anyio", "trio")
"""Marks by which other plugins take an async test for their own."""
_DAY = 86_400.0
"""Virtual seconds of one test at most: eight times the longest wait of a client, `Polling.give_up`."""
_PATIENCE = 5.0
"""Seconds of a generation in real time that go without saying."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line(
        "markers",
        "kling(seconds=0, parallel=5, faults='', face='kling', ...): settings of kling_simulator, those of "
        "kling_async.simulator.Simulator by name; what stands closer to the test wins",
    )


@pytest.fixture
def kling_simulator(request: pytest.FixtureRequest) -> "Simulator":
    """A `kling_async.simulator.Simulator` for one test, set by ``@pytest.mark.kling(...)``.

    Unless the mark says so, generations take no time.
    """
    from kling_async.simulator import Faults, Simulator

    settings: dict[str, Any] = {"seconds": 0.0, **_marked(request.node)}
    try:
        faults = Faults.parse(str(settings.pop("faults", "")))  # a script of its own for each test
        return Simulator(faults=faults, **settings)
    except ValueError as error:
        raise _failure(str(error)) from None


@pytest.fixture
def kling_client(request: pytest.FixtureRequest, kling_simulator: "Simulator") -> Iterator["KlingClient"]:
    """A `kling_async.KlingClient` with the key ``sim-key``, whose provider is `kling_simulator`.

    In virtual time it is as in production; on another loop it polls within milliseconds, and a generation
    of more than 5 s is worth a warning.
    """
    import random

    from kling_async import APIKey, KlingClient
    from kling_async.testing import QUICK_POLLING, QUICK_RETRIES, SimulatorTransport

    quick: dict[str, Any] = {"polling": QUICK_POLLING, "retries": QUICK_RETRIES}
    transport = SimulatorTransport(kling_simulator)
    client = KlingClient(
        APIKey("sim-key"),
        _provider(kling_simulator.face),
        transport=transport,
        clock=transport.now,
        rng=random.Random(0),  # noqa: S311 - the same test, the same ids
        **({} if _is_ours(request.node) else quick),
    )
    yield client
    _close(client)
    _warn_of_real_time(request.node, transport)


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an async test that uses our fixtures and that nobody else runs: in virtual time."""
    if not _is_ours(pyfuncitem):
        return None
    import asyncio

    from kling_async.testing import DeadlockError, VirtualTimeLoop

    __tracebackhide__ = True
    wanted = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: value for name, value in pyfuncitem.funcargs.items() if name in wanted}
    try:
        with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(limit=_DAY)) as runner:
            runner.run(pyfuncitem.obj(**arguments))
    except DeadlockError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None  # its traceback is the loop's
    return True


def _is_ours(item: pytest.Item) -> bool:
    """Whether *item* is an async test with our fixtures that no other plugin claims."""
    return (
        type(item) is pytest.Function  # pytest-asyncio and unittest have items of their own
        and inspect.iscoroutinefunction(item.obj)
        and not _FIXTURES.isdisjoint(item.fixturenames)
        and "anyio_backend" not in item.fixturenames
        and not any(item.get_closest_marker(claim) for claim in _CLAIMS)
    )


def _marked(item: pytest.Item) -> dict[str, Any]:
    """The settings of all marks around *item*; what stands closer to the test wins."""
    import attrs

    from kling_async.simulator import Simulator

    settings: dict[str, Any] = {}
    for mark in item.iter_markers("kling"):
        settings = {**mark.kwargs, **settings}
        if mark.args:
            raise _failure(f"{mark.args[0]!r} is given without the name of a setting")
    known = sorted(each.name for each in attrs.fields(Simulator) if each.init)
    for name in settings:
        if name not in known:
            raise _failure(f"no setting is called {name!r}; known are {', '.join(known)}")
    return settings


def _failure(what: str) -> BaseException:
    return pytest.fail.Exception(f"@pytest.mark.kling: {what}", pytrace=False)


def _warn_of_real_time(item: pytest.Item, transport: "SimulatorTransport") -> None:
    """Say why a test of *item* was slow, and how it need not be.

    Told afterwards, since only then it is known in which loop the client worked. pytest-asyncio is not given
    ours unasked: its hook cannot abstain, so one here would take over every async test there is, and those
    that open sockets would break.
    """
    from kling_async.testing import VirtualTimeLoop

    loop, seconds = transport._loop, transport.simulator.seconds  # noqa: SLF001 - users have no need of it
    longest = max(seconds) if isinstance(seconds, tuple) else seconds
    if loop is None or isinstance(loop, VirtualTimeLoop) or callable(longest) or longest <= _PATIENCE:
        return
    item.warn(
        pytest.PytestWarning(
            f"kling_client: generations take {longest:g} s (`seconds`) of real time, as the event loop is "
            "the test's own or another plugin's; set fewer, or let pytest-asyncio use VirtualTimeLoop by the "
            "hook pytest_asyncio_loop_factories in conftest.py: see 'The clock' in docs/howto/testing.md"
        )
    )


def _provider(face: str) -> "Provider":
    """Whose API *face* speaks."""
    from kling_async import COMETAPI, KLING, new_api

    if face.startswith("new-api"):
        return new_api("https://new-api.example.com")
    return COMETAPI if face == "cometapi" else KLING


def _close(client: "KlingClient") -> None:
    """Close *client* in the loop it works in; one that has ended closed it."""
    import asyncio

    work = client._work  # noqa: SLF001 - its loop is told to nobody else
    if work is None or work.engine.crew.loop.is_closed():
        return
    loop = work.engine.crew.loop
    if loop.is_running():  # in a thread
        asyncio.run_coroutine_threadsafe(client.aclose(), loop).result(timeout=10)
    else:
        loop.run_until_complete(client.aclose())
