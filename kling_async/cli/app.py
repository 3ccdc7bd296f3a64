"""The commands, put together; from a command line to an exit code."""

import importlib.metadata
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Group, Parameter

from kling_async.cli.batch import batch
from kling_async.cli.demo import demo
from kling_async.cli.doctor import doctor
from kling_async.cli.generate import animate
from kling_async.cli.interrupts import INTERRUPTED
from kling_async.cli.models import models
from kling_async.cli.options import Common
from kling_async.cli.screen import Screen
from kling_async.cli.simulate import simulate
from kling_async.cli.tasks import download, get, list_
from kling_async.protocol.errors import KlingError

__all__ = ["run"]

_HELP = """Kling image-to-video: nothing is paid twice, nothing paid is lost.

Keys are read from the environment: KLING_API_KEY, or KLING_ACCESS_KEY and KLING_SECRET_KEY, COMETAPI_KEY,
EZMODEL_API_KEY. Results go to stdout, everything else to stderr.

Exit codes: 0 all succeeded, 1 some failed, 2 wrong usage, input or journal, 130 interrupted.
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name need not be of the terminal's alphabet
            stream.reconfigure(errors="backslashreplace")
    screen = Screen()
    try:
        command, bound, _ = _app().meta.parse_args(
            _common_first(arguments), exit_on_error=False, print_error=False
        )
        return command(*bound.args, **bound.kwargs) or 0
    except CycloptsError as error:
        screen.complain(f"{' '.join(str(error).split())} Try --help.", "red")
        return 2
    except KlingError as error:
        return screen.fail(error)
    except KeyboardInterrupt:
        screen.complain("interrupted: nothing was submitted")
        return INTERRUPTED


def _common_first(arguments: Sequence[str]) -> list[str]:
    """*arguments* with the options that all commands take in front: elsewhere they end what is read."""
    common: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            others += (word, *rest)
        elif word in _FLAGS or word.partition("=")[0] in _WITH_VALUE:
            common.append(word)
            if word in _WITH_VALUE:
                common += [value for value in [next(rest, None)] if value is not None]
        else:
            others.append(word)
    return common + others


_FLAGS = ("--json", "--quiet")
_WITH_VALUE = ("--env-file", "--provider", "--base-url")


def _app() -> App:
    app = App(name="kling-async", help=_HELP, version=importlib.metadata.version("kling-async"))
    commands: dict[str, Callable[..., int]] = {
        "animate": animate,
        "batch": batch,
        "get": get,
        "list": list_,
        "download": download,
        "models": models,
        "doctor": doctor,
        "simulate": simulate,
        "demo": demo,
    }
    for place, (name, command) in enumerate(commands.items()):
        app.command(command, name=name, sort_key=place)
    app.meta.group_parameters = Group("Common options", sort_key=9)

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        env_file: Annotated[Path | None, Parameter(name="--env-file")] = None,
        provider: str | None = None,
        base_url: Annotated[str | None, Parameter(name="--base-url")] = None,
        json: Annotated[bool, Parameter(name="--json", negative="", show_default=False)] = False,
        quiet: Annotated[bool, Parameter(name="--quiet", negative="", show_default=False)] = False,
    ) -> int | None:
        """Run a command.

        Args:
            *tokens: the command and its own arguments.
            env_file: variables from a file; those that are set already win.
            provider: kling, kling-cn, cometapi, ezmodel or new-api; KLING_PROVIDER.
            base_url: where it is, if elsewhere; KLING_BASE_URL.
            json: results as JSON lines.
            quiet: tell results and errors alone.
        """
        screen = Screen(is_json=json, is_quiet=quiet)
        common = Common(env_file=env_file, provider=provider, base_url=base_url, screen=screen)
        command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
        shared = {"common": common} if "common" in ignored else {}
        with screen.hears_log():
            code: int | None = command(*bound.args, **bound.kwargs, **shared)
        return code

    return app
