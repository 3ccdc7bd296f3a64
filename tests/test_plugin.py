"""The pytest plugin that users test their own code with.

Each run of pytest in a process of its own takes half a second, so a few runs serve many tests.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "test_thumbnails.py"
HEAD = """
import asyncio, sys, threading
import pytest
from kling_async import COMETAPI, ImageToVideo, TaskFailedError
from kling_async.testing import VirtualTimeLoop, assert_made_once

CAT = ImageToVideo(image="https://cdn.example.org/cat.png", prompt="a cat")

def virtual():
    return isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
"""


@attrs.frozen
class Run:
    """A run of pytest: what became of each test, and all that was written."""

    outcomes: Mapping[str, str]
    text: str


def run_pytest(folder: Path, files: Mapping[str, str], *options: str) -> Run:
    """Run pytest with our plugin, and no other but those named, over *files* in a process of its own."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-W",
        "error",
        "--strict-markers",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, "-p", "kling_async.pytest_plugin", *options],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=100,  # far less than what the generations below would take
        check=False,
    )
    text = done.stdout + done.stderr
    found = re.findall(r"::(\S+) (PASSED|FAILED|ERROR) ", text)
    return Run({name: outcome.lower() for name, outcome in found}, text)


PLAIN = """
pytestmark = pytest.mark.kling(seconds=600, parallel=7)

async def test_hours_take_no_time(kling_client, kling_simulator):
    start = asyncio.get_running_loop().time()
    await kling_client.run(CAT)
    assert virtual() and asyncio.get_running_loop().time() - start > 600
    assert_made_once(kling_simulator, 1)

@pytest.mark.kling(seconds=5, lookup=False)
class TestMarks:
    @pytest.mark.kling(lookup=True)
    def test_combine(self, kling_simulator):
        s = kling_simulator
        assert (s.seconds, s.parallel, s.lookup) == (5, 7, True)

@pytest.mark.kling(faults="create:refuse code=5000 times=1")
@pytest.mark.parametrize("each", [1, 2])
async def test_each_has_its_faults(each, kling_client, kling_simulator):
    await kling_client.run(CAT)
    assert kling_simulator.ledger.faults["create", "refuse"] == 1

async def test_faults_by_call(kling_client, kling_simulator):
    kling_simulator.refuse("create", 1301)
    with pytest.raises(Exception, match="content safety"):
        await kling_client.run(CAT)

@pytest.mark.kling(face="cometapi")
async def test_a_gateway(kling_client, kling_simulator):
    assert kling_client.provider == COMETAPI
    await kling_client.run(CAT)

@pytest.mark.kling(face="new-api-2026")
async def test_another_gateway(kling_client, kling_simulator):
    await kling_client.run(CAT)
    assert kling_client.provider.name == "new-api"

async def test_threads(kling_client):
    assert await asyncio.to_thread(threading.current_thread) is not threading.current_thread()

async def test_leaves_a_task_behind(kling_client):
    await kling_client.submit(CAT)

@pytest.fixture
def shop(kling_client):
    return kling_client

async def test_through_a_fixture_of_ones_own(shop):
    assert (await shop.run(CAT)).video.url

async def test_a_failure_is_one(kling_client):
    task = await kling_client.run(CAT)
    assert task.units == "wrong"

async def test_a_deadlock_ends(kling_client):
    await kling_client.submit(CAT)
    await asyncio.Event().wait()

async def test_a_ticker_hides_no_deadlock(kling_client):
    async def heartbeat():
        while True:
            await asyncio.sleep(1)
    beating = asyncio.create_task(heartbeat())
    await kling_client.submit(CAT)
    await asyncio.Event().wait()

async def test_paid_twice(kling_client, kling_simulator):
    await kling_client.run(CAT)
    await kling_client.run(CAT)
    assert_made_once(kling_simulator, 1)

@pytest.mark.kling(second=1)
def test_a_setting_that_is_none(kling_simulator):
    pass

@pytest.mark.kling(7)
def test_a_setting_without_a_name(kling_simulator):
    pass

@pytest.mark.kling(faults="create:lost")
def test_a_fault_that_is_none(kling_simulator):
    pass

@pytest.mark.kling(seconds="abc")
def test_a_setting_of_a_wrong_type(kling_client):
    pass

@pytest.mark.kling(face="sora")
def test_a_face_that_is_none(kling_client):
    pass

async def test_of_somebody_else():
    pass

@pytest.mark.kling(seconds=0.05)
class TestWithoutAsync:
    def test_run_twice(self, kling_client, kling_simulator):
        asyncio.run(kling_client.run(CAT))
        asyncio.run(kling_client.submit(CAT))
        assert_made_once(kling_simulator, 2, copies=2)

    @pytest.mark.kling(faults="create:lost_reply_before times=1")
    def test_resends_at_once(self, kling_client, kling_simulator):
        asyncio.run(kling_client.run(CAT))
        assert_made_once(kling_simulator, 1)

    def test_a_failure_inside(self, kling_client):
        asyncio.run(kling_client.run(ImageToVideo(image="https://cdn.example.org/a.png", prompt="[fail]")))

@pytest.fixture
def elsewhere():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()

@pytest.mark.kling(seconds=0)
def test_in_a_thread(elsewhere, kling_client):
    asyncio.run_coroutine_threadsafe(kling_client.run(CAT), elsewhere).result()
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Run:
    """A suite that has no other plugin."""
    return run_pytest(tmp_path_factory.mktemp("plain"), {"test_plain.py": HEAD + PLAIN})


FAILING = {
    "test_a_failure_is_one",
    "test_a_deadlock_ends",
    "test_a_ticker_hides_no_deadlock",
    "test_paid_twice",
    "test_of_somebody_else",
    "TestWithoutAsync::test_a_failure_inside",
}
WRONG = {
    "test_a_setting_that_is_none",
    "test_a_setting_without_a_name",
    "test_a_fault_that_is_none",
    "test_a_face_that_is_none",
    "test_a_setting_of_a_wrong_type",
}


def test_what_should_pass_passes(plain):
    """Async tests in virtual time, marks, faces, sync tests: with warnings as errors, and no other ends."""
    by_outcome = {
        outcome: {name for name, each in plain.outcomes.items() if each == outcome}
        for outcome in ("passed", "failed", "error")
    }
    assert by_outcome["failed"] == FAILING, plain.text
    assert by_outcome["error"] == WRONG, plain.text
    assert len(by_outcome["passed"]) == 13, plain.text
    assert "was destroyed" not in plain.text
    assert "ExceptionGroup" not in plain.text


@pytest.mark.parametrize(
    "message",
    [
        r"no setting is called 'second'; known are access_keys, .*faults, .*seconds, ",
        r"@pytest.mark.kling: 7 is given without the name of a setting",
        r"@pytest.mark.kling: no fault is called 'lost'",
        r"@pytest.mark.kling: face must be one of 'kling', 'cometapi', .*, not 'sora'",
        r"\n@pytest.mark.kling: seconds must be seconds, a tuple .*, not 'abc'\n",
        r"\n86400 s of virtual time .*; these wait:\n(<Task .*\n)*<Task .*test_a_ticker_hides_no_deadlock",
        r"E +AssertionError: 'a cat' was made 2 times by equal requests, after 0 s, \d+ s",
        r"E +2 tasks were made, not 1: 'a cat', 'a cat'",
        r">       assert task.units == \"wrong\"",
        r"nothing will ever happen; these wait:\n<Task pending .*test_a_deadlock_ends",
        r"async def functions are not natively supported",
        r"TaskFailedError: .*content risk control",
    ],
)
def test_what_is_wrong_is_told(plain, message):
    """A test's own error, a wrong mark and a double payment are shown in so many words."""
    assert re.search(message, plain.text), plain.text


BESIDE = """
@pytest.mark.asyncio
@pytest.mark.kling(seconds=0.05)
async def test_asyncio(kling_client, kling_simulator):
    assert not virtual()
    await kling_client.run(CAT)
    assert_made_once(kling_simulator, 1)

@pytest.mark.asyncio(loop_scope="module")
async def test_asyncio_module(kling_client):
    await kling_client.submit(CAT)

@pytest.mark.asyncio(loop_scope="module")
async def test_asyncio_module_again(kling_client):
    assert await kling_client.run(CAT)

@pytest.mark.asyncio
async def test_asyncio_fails(kling_client):
    assert await kling_client.run(CAT) is None

@pytest.mark.anyio
@pytest.mark.kling(seconds=0.05)
async def test_anyio(kling_client, kling_simulator, anyio_backend):
    assert not virtual()
    await kling_client.run(CAT)
    await kling_client.submit(CAT)
    assert_made_once(kling_simulator, 2, copies=2)

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
class TestAnyio:
    @pytest.fixture
    async def made(self, kling_client):
        yield await kling_client.run(CAT)
        await kling_client.run(CAT)

    async def test_fixture(self, made, kling_client):
        assert made.video.url
        await kling_client.submit(CAT)

@pytest.mark.kling(seconds=600)
async def test_unclaimed(kling_client):
    assert virtual()
    await kling_client.run(CAT)
"""

AUTO = """
import pytest_asyncio

@pytest_asyncio.fixture
async def made(kling_client):
    yield await kling_client.run(CAT)
    await kling_client.run(CAT)

async def test_auto(made, kling_client):
    assert made.video.url and virtual() is VIRTUAL
    await kling_client.submit(CAT)
"""

SLOW = """
@pytest.mark.kling(seconds=600)
async def test_slow(kling_client):
    await kling_client.submit(CAT)

@pytest.mark.kling(seconds=(0, 6))
def test_slow_range(kling_client):
    asyncio.run(kling_client.submit(CAT))

@pytest.mark.kling(seconds=(0, 5))
async def test_quick(kling_client):
    await kling_client.submit(CAT)

@pytest.mark.kling(seconds=600)
async def test_unused(kling_client):
    pass
"""

FACTORIES = """
from kling_async.testing import VirtualTimeLoop

def pytest_asyncio_loop_factories(config, item):
    return {"virtual": VirtualTimeLoop}
"""


def test_beside_other_plugins(tmp_path):
    """With pytest-asyncio (strict) and anyio the fixtures work on their loops; what they leave is ours."""
    run = run_pytest(
        tmp_path,
        {"test_beside.py": HEAD + BESIDE},
        *("-p", "pytest_asyncio.plugin", "-p", "anyio.pytest_plugin"),
        *("-o", "asyncio_default_fixture_loop_scope=function"),
    )
    failed = {name for name, outcome in run.outcomes.items() if outcome != "passed"}
    assert failed == {"test_asyncio_fails"}, run.text
    assert len(run.outcomes) == 7, run.text
    assert "was destroyed" not in run.text


def test_in_the_auto_mode_of_pytest_asyncio(tmp_path):
    """Every async test is pytest-asyncio's, on its own loop, or in virtual time where it is told so."""
    files = {
        "test_real.py": HEAD + "VIRTUAL = False\n" + AUTO,
        "virtual/conftest.py": FACTORIES,
        "virtual/test_virtual.py": HEAD
        + "VIRTUAL = True\npytestmark = pytest.mark.kling(seconds=600)\n"
        + AUTO.replace("test_auto", "test_virtual"),
    }
    run = run_pytest(
        tmp_path,
        files,
        *("-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=auto"),
        *("-o", "asyncio_default_fixture_loop_scope=function"),
    )
    assert run.outcomes == {"test_auto": "passed", "test_virtual": "passed"}, run.text


def test_long_generations_in_real_time_are_told(tmp_path):
    """Where the loop is real and generations are long, a warning says why, and what to do."""
    run = run_pytest(
        tmp_path,
        {"test_slow.py": HEAD + SLOW},
        *("-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=auto", "-W", "default"),
        *("-o", "asyncio_default_fixture_loop_scope=function"),
    )
    assert set(run.outcomes.values()) == {"passed"}, run.text
    told = re.findall(r"PytestWarning: kling_client: generations take (\d+) s .*VirtualTimeLoop", run.text)
    assert sorted(told) == ["6", "600"], run.text


def test_nothing_is_loaded_until_a_fixture_is_used(tmp_path):
    """In a suite that does not use the fixtures the plugin imports nothing; using one imports the rest."""
    run = run_pytest(
        tmp_path,
        {
            "test_none.py": """
import sys

def test_none():
    ours = {name for name in sys.modules if name.startswith("kling_async")}
    assert ours == {"kling_async", "kling_async.pytest_plugin"}
    assert not {"aiohttp", "attr", "attrs", "cattrs", "asyncio"} & set(sys.modules)

def test_use(kling_client):
    assert "aiohttp" in sys.modules
"""
        },
    )
    assert run.outcomes == {"test_none": "passed", "test_use": "passed"}, run.text


def test_the_plugin_is_found_by_itself():
    """Installing the package is all there is to do."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"kling_async": "kling_async.pytest_plugin"}


@pytest.mark.parametrize("name", ["aiohttp_app.py", "fastapi_app.py"])
def test_the_apps_of_the_documentation(tmp_path, monkeypatch, name):
    """An app that makes its own client is tested with the fixture, and over a socket by its environment."""
    for variable in (each for each in os.environ if each.startswith(("KLING", "COMETAPI", "EZMODEL"))):
        monkeypatch.delenv(variable)
    text = (EXAMPLE.parent / name).read_text("utf-8")
    # Starlette would rather have httpx2
    run = run_pytest(tmp_path, {f"test_{name}": text}, "-W", "ignore:Using `httpx`")
    assert run.outcomes == {"test_with_the_fixture": "passed", "test_over_a_socket": "passed"}, run.text


GUARD = """
import socket, sys, time

def refuse(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname"):
        raise AssertionError(f"the network is used: {event} {arguments}")
    if event == "time.sleep":
        raise AssertionError("somebody sleeps")

sys.addaudithook(refuse)
"""
"""What Python tells of every connection and every sleep, whoever asks for it."""


def test_the_example_of_the_documentation(tmp_path):
    """It runs as it stands with nothing but the plugin: no network, no sleep, no two minutes."""
    run = run_pytest(
        tmp_path, {EXAMPLE.name: EXAMPLE.read_text("utf-8"), "conftest.py": GUARD}, "--durations=0"
    )
    assert list(run.outcomes.values()) == ["passed"] * 4, run.text
    seconds = [
        float(each) for each in re.findall(r"^([0-9.]+)s (?:call|setup|teardown)", run.text, re.MULTILINE)
    ]
    assert 0 < sum(seconds) < 60, "two minutes of generation are in it"
