"""``simulate``: a stand-in for Kling on a port of this machine."""

import asyncio
from typing import Annotated

from cyclopts import Parameter

from kling_async.cli import interrupts
from kling_async.cli.options import Common
from kling_async.protocol.errors import ConfigurationError
from kling_async.simulator import FAULTS, Faults, Simulator, render_video, serve
from kling_async.simulator.core import FaceName

__all__ = ["require_renderer", "simulate"]

_KEY = "sim-key"
_FAULT_HELP = (
    "what goes wrong, repeatable: operation:kind and name=value, as 'create:lost_reply_after p=0.1'. "
    f"Operations: create, query, list, account, download, callback, any. Kinds: {', '.join(FAULTS)}."
)
_VARIABLES = {
    "kling": {"KLING_API_KEY": _KEY},
    "cometapi": {"COMETAPI_KEY": _KEY},
    "new-api-2025": {"KLING_API_KEY": _KEY, "KLING_PROVIDER": "new-api"},
    "new-api-2026": {"KLING_API_KEY": _KEY, "KLING_PROVIDER": "new-api"},
}


def simulate(
    *,
    common: Annotated[Common, Parameter(parse=False)],
    port: int = 8600,
    host: str = "127.0.0.1",
    seconds: float = 20,
    parallel: int = 5,
    face: FaceName = "kling",
    fault: Annotated[tuple[str, ...], Parameter(negative="", show_default=False, help=_FAULT_HELP)] = (),
    callback_secret: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
) -> int:
    """Run a stand-in for Kling on a port: no account, nothing paid, real MP4 files.

    Prints the variables that send every command and every client to it; then each request and each callback,
    until Ctrl-C.

    Args:
        common: where to send, and how to tell.
        port: where to listen; 0 takes a free port.
        host: the address to listen at.
        seconds: how long a generation takes.
        parallel: tasks in flight at once, as of a resource pack; more are refused with 1303.
        face: who answers: Kling itself, or a gateway in front of it.
        fault: what goes wrong.
        callback_secret: signs the callbacks, repeatable: whsec_ and base64. Without one they are not signed.
    """
    require_renderer()
    screen = common.screen
    try:
        faults = Faults.parse(";".join(fault))
    except ValueError as error:
        raise ConfigurationError(f"--fault: {error}", advice="see --help") from error
    simulator = Simulator(
        face=face,
        api_keys={_KEY},
        seconds=seconds,
        parallel=parallel,
        render=render_video,
        on_request=screen.say,
        faults=faults,
    )
    try:
        simulator.callback_secrets = callback_secret
    except ValueError as error:
        raise ConfigurationError(f"--callback-secret: {error}", advice="see --help") from error

    async def run() -> int:
        try:
            async with serve(simulator, host=host, port=port) as url:
                variables = {**_VARIABLES[face], "KLING_BASE_URL": url}
                screen.say(f"Kling is simulated at {url} until Ctrl-C; the key is {_KEY}. Set in your shell:")
                if screen.is_json:
                    screen.result("", {"base_url": url, "api_key": _KEY, "env": variables})
                else:
                    for name, value in variables.items():
                        screen.result(f"export {name}={value}")
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            screen.say("the simulator has ended")
        except OSError as error:
            what = f"cannot listen at {host}, port {port}: {error.strerror or error}"
            raise ConfigurationError(what, advice="choose another --port") from error
        return 0

    return interrupts.run(run())


def require_renderer() -> None:
    """Say what to install where the simulator's extra is missing.

    Raises:
        ConfigurationError: it is missing.
    """
    try:
        import av
        import jsonschema
        import PIL
    except ModuleNotFoundError as error:
        advice = 'install "kling-async[demo]"'
        raise ConfigurationError(f"the simulator needs {error.name}", advice=advice) from error
    del av, jsonschema, PIL
