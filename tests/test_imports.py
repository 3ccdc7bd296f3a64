"""What `import kling_async` loads, and what waits until it is used."""

import subprocess
import sys

AT_WORK = {
    "kling_async.bodies",
    "kling_async.downloads",
    "kling_async.engine",
    "kling_async.feeding",
    "kling_async.flight",
    "kling_async.journal",
    "kling_async.protocol.converter",
    "kling_async.protocol.durations",
    "kling_async.protocol.wire",
    "kling_async.running",
    "kling_async.transport",
    "sqlite3",
}
"""What a client works with: loaded when the first one is made."""

ON_DEMAND = {
    "PIL",
    "av",
    "cyclopts",
    "imagesize",
    "jsonschema",
    "jwt",
    "kling_async.batch",
    "kling_async.cli",
    "kling_async.integrations",
    "kling_async.pytest_plugin",
    "kling_async.simulator",
    "kling_async.testing",
    "opentelemetry",
    "pi_heif",
    "rich",
    "truststore",
}
"""What a client loads only for what needs it, and what no client needs."""


def loaded(code: str) -> set[str]:
    """The modules that a fresh interpreter loads while it runs *code*."""
    program = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_bare_import_loads_nothing():
    """Whoever only imports the package, as pytest does to find our fixtures, loads nothing else."""
    modules = loaded("import kling_async")
    assert {name for name in modules if name.startswith("kling_async")} == {"kling_async"}
    assert modules & {"aiohttp", "asyncio", "attr", "attrs", "backoff", "cattrs"} == set()


def test_import_is_light():
    """The first public name brings in what all of them are made of: no engine, database or extra."""
    assert loaded("from kling_async import *") & (AT_WORK | ON_DEMAND) == set()
    assert "kling_async.client" in loaded("from kling_async import KLING")


def test_values_need_no_engine():
    """Requests are made, checked and compared, and errors handled, before anything else is loaded."""
    code = """
from kling_async import APIKey, ImageToVideo, KlingError, Polling, Retries
assert ImageToVideo(image="a.jpg", prompt="x") == ImageToVideo(image="a.jpg", prompt="x")
try:
    ImageToVideo(prompt="x")
except KlingError as error:
    assert error.problems
APIKey("k"), Polling(), Retries()
"""
    assert loaded(code) & (AT_WORK | ON_DEMAND) == set()


def test_first_client_loads_what_it_works_with():
    """Making a client loads the whole engine, so that nothing is left to load in the middle of its work."""
    modules = loaded("from kling_async import APIKey, KlingClient\nKlingClient(APIKey('k'))")
    assert modules >= AT_WORK
    assert modules & ON_DEMAND == set()
