"""The import direction: lower layers never import higher ones, and the core does no I/O."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kling_async

ROOT = Path(kling_async.__file__).parent

LAYERS: dict[str, int] = {
    "typing": 1,
    "transport": 2,
    "bodies": 2,
    "retries": 2,
    "journal": 2,
    "instrumentation": 2,
    "checking": 3,
    "flight": 3,
    "api": 3,
    "crew": 3,
    "ambiguity": 3,
    "bookkeeping": 3,
    "records": 3,
    "recording": 3,
    "lines": 3,
    "submission": 3,
    "pollers": 3,
    "answers": 3,
    "callbacks": 3,
    "trust": 3,
    "register": 3,
    "intake": 3,
    "preparation": 3,
    "sweeps": 3,
    "engine": 3,
    "downloads": 3,
    "parts": 3,
    "colours": 1,
    "extras": 1,
    "paths": 1,
    "client": 4,
    "feeding": 4,
    "handles": 4,
    "running": 4,
    "streams": 4,
    "batch": 5,
    "fitting": 5,
    "pixels": 2,
    "webhook": 5,
    "testing": 5,
    "pytest_plugin": 5,
    "public": 5,
    "__init__": 5,
    "__main__": 5,
}
"""The layer of each module at the top; packages are told apart by `layer`."""

NO_IO = {"asyncio", "aiohttp", "backoff", "time", "random", "os", "logging", "socket", "threading"}
"""What the sans-I/O core does without. `random` may be named in annotations: chance is handed in."""

FILES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    """A file's dotted name inside the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def layer(module: str) -> int:
    """The layer of a module by its dotted name."""
    top = module.partition(".")[0]
    if top == "protocol":
        return 1
    if top in ("simulator", "cli", "integrations"):
        return 5
    assert top in LAYERS, f"{module} is not assigned to a layer"
    return LAYERS[top]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The modules a file imports, and whether only for annotations or inside a function."""
    tree = ast.parse(path.read_text("utf-8"))
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.If)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            yield node.module, id(node) in lazy
            if node.module in ("kling_async", "kling_async.protocol", "kling_async.simulator"):
                yield from ((f"{node.module}.{alias.name}", id(node) in lazy) for alias in node.names)


def ours(path: Path) -> list[tuple[str, bool]]:
    """The package's own modules a file imports, without the package's name."""
    names = {name_of(each) for each in FILES}
    found = [(module.partition("kling_async.")[2], lazy) for module, lazy in imports(path)]
    return [(module, lazy) for module, lazy in found if module in names]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_lower_layers_do_not_import_higher_ones(path):
    """Imports go down. Only for annotations, inside `if TYPE_CHECKING`, may one look up."""
    here = layer(name_of(path) or "__init__")
    for module, lazy in ours(path):
        if not lazy:
            assert layer(module) <= here, f"{name_of(path)} imports {module}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if layer(name_of(path) or "__init__") == 2], ids=name_of
)
def test_second_layer_modules_stand_alone(path):
    """Modules of the second layer do not import each other; a package among them is one module."""
    own = name_of(path).partition(".")[0]
    others = [module for module, _ in ours(path) if layer(module) == 2 and module.partition(".")[0] != own]
    assert others == []


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name == "protocol"], ids=name_of)
def test_core_does_no_io(path):
    """The protocol package reads no clock, opens no file and knows no event loop."""
    named = {module.partition(".")[0] for module, _ in imports(path)} & NO_IO
    if "random" in named:
        tree = ast.parse(path.read_text("utf-8"))
        used = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "random"
        }
        assert used == {"Random"}, "the class is named for annotations, nothing is drawn from the module"
        named -= {"random"}
    assert named == set()
    tree = ast.parse(path.read_text("utf-8"))
    assert "open" not in {
        getattr(node.func, "id", "") for node in ast.walk(tree) if isinstance(node, ast.Call)
    }


def test_core_has_an_order():
    """Inside the protocol package: errors import nothing of it, models little, and there is no cycle."""
    graph = {
        name_of(path).removeprefix("protocol."): {
            module.removeprefix("protocol.")
            for module, lazy in ours(path)
            if module.startswith("protocol.") and not lazy
        }
        for path in FILES
        if path.parent.name == "protocol"
    }
    assert graph["errors"] == set()
    assert graph["models"] <= {"errors", "checks"}
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if needs <= done} - done:
        done |= ready
    assert done == set(graph), f"a cycle among {set(graph) - done}"


@pytest.mark.parametrize("path", sorted((ROOT / "simulator").rglob("*.py")), ids=name_of)
def test_simulator_imports_nothing_else_of_the_package(path):
    """The other side is not written from our models, so that an error in them shows."""
    assert [module for module, _ in ours(path) if not module.startswith("simulator")] == []


@pytest.mark.parametrize("path", [path for path in FILES if "simulator" not in path.parts], ids=name_of)
def test_only_from_env_and_the_command_line_read_the_environment(path):
    """`os.environ` is named in `client.from_env` and in the CLI alone."""
    uses = [
        node
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    ]
    assert not uses or name_of(path).partition(".")[0] in ("client", "cli", "__main__")
