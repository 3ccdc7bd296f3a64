"""A headless Chromium, driven over its DevTools protocol: what a page shows, asks for and complains of."""

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp

__all__ = ["NAMES", "Page", "browse", "find", "screenshot"]

NAMES = ("chromium", "chromium-browser", "google-chrome")

_START = 20.0
"""Seconds until a browser has told where it listens; on a busy machine it takes two."""
_END = 3.0
"""Seconds until one that was asked to end, or whose test failed, is killed."""


def find() -> str | None:
    """The browser's command, if this machine has one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab.

    Attributes:
        requests: every address it asked for.
        complaints: what its console was told as errors and warnings, and what its scripts failed of.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: str | None = None
        self._loaded = asyncio.Event()
        self.requests: list[str] = []
        self.complaints: list[str] = []

    async def listen(self) -> None:
        """Take what the browser tells, until it leaves."""
        async for message in self._socket:
            told = json.loads(message.data)
            waiting = self._waiting.pop(told.get("id", 0), None)
            if waiting is not None:
                waiting.set_result(told)
            else:
                self._note(told.get("method"), told.get("params", {}))
        for waiting in self._waiting.values():
            waiting.set_exception(ConnectionError("the browser is gone"))

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call *method* and return its result."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        call = {"id": number, "method": method, "params": params}
        await self._socket.send_json(call if self._session is None else {**call, "sessionId": self._session})
        told = await answer
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']['message']}")
        return told["result"]

    async def begin(self) -> None:
        """Open the tab and listen to it."""
        target = await self.send("Target.createTarget", url="about:blank")
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.send(f"{domain}.enable")
        await self.send("Emulation.setFocusEmulationEnabled", enabled=True)

    async def leave(self) -> None:
        """End the browser: its other processes end with it, and let go of its files."""
        self._session = None
        with contextlib.suppress(ConnectionError):
            await self.send("Browser.close")

    async def open(self, url: str) -> None:
        """Open *url* and wait until it is loaded."""
        self._loaded.clear()
        await self.send("Page.navigate", url=url)
        await self.loaded()

    async def loaded(self) -> None:
        """Wait until it is loaded, now or once more."""
        await self._loaded.wait()
        self._loaded.clear()

    async def look(self, width: int, *, height: int = 1000, dark: bool = False, calm: bool = False) -> None:
        """Be a screen of *width* pixels, whose user likes it *dark*, or *calm*: with little motion."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        likes = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if calm else "no-preference",
        }
        features = [{"name": name, "value": value} for name, value in likes.items()]
        await self.send("Emulation.setEmulatedMedia", features=features)

    async def evaluate(self, expression: str) -> Any:
        """The value of *expression* in the page; a promise is awaited."""
        told = await self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in told:
            raise RuntimeError(f"{expression}: {told['exceptionDetails']}")
        return told["result"].get("value")

    async def press(self, key: str) -> None:
        """Press a key: ``Tab``, ``Enter`` or a space."""
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            await self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                text=text if kind == "keyDown" else "",
            )  # fmt: skip

    async def hover(self, x: float, y: float) -> None:
        """Move the mouse."""
        await self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, pointerType="mouse")

    async def picture(self, *, whole: bool = False) -> bytes:
        """What is seen, as PNG; *whole*: down to the page's end."""
        told = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(told["data"])

    def _note(self, method: str | None, params: dict[str, Any]) -> None:
        match method:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(params["args"]))
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case _:
                pass


@contextlib.asynccontextmanager
async def browse() -> AsyncGenerator[Page]:
    """A tab of a browser of its own, which ends with the block.

    Raises:
        FileNotFoundError: there is no Chromium on this machine.
    """
    command = find()
    if command is None:
        raise FileNotFoundError(f"none of {', '.join(NAMES)} is on the PATH")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            command,
            *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
            *("--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-port=0"),
            f"--user-data-dir={profile}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_START):
                address = await _address(process)
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(address, max_msg_size=0) as socket,
            ):
                page = Page(socket)
                listener = asyncio.create_task(page.listen())
                try:
                    await page.begin()
                    yield page
                    await page.leave()
                finally:
                    listener.cancel()
                    await asyncio.gather(listener, return_exceptions=True)
        finally:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.communicate(), _END)
            if process.returncode is None:
                process.kill()
                await process.communicate()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async for line in process.stderr:
        _, found, address = line.decode(errors="replace").partition("DevTools listening on ")
        if found:
            return address.strip()
    raise RuntimeError("the browser ended before it listened")


def screenshot(
    page: Path, to: Path, *, width: int = 1600, height: int = 1000, dark: bool = False, whole: bool = False
) -> None:
    """Write what a browser shows of the file *page* to the PNG *to*, its videos at their first frames.

    Args:
        page: the HTML file.
        to: the PNG file.
        width: of the screen, pixels.
        height: of the screen, pixels.
        dark: in the dark scheme.
        whole: down to the page's end, however long it is.
    """
    url = page.absolute().as_uri()

    async def shoot() -> bytes:
        async with browse() as tab:
            await tab.look(width, height=height, dark=dark)
            await tab.open(url)
            await tab.evaluate(SHOWN)
            return await tab.picture(whole=whole)

    to.write_bytes(asyncio.run(shoot()))


SHOWN = """
Promise.all([...document.querySelectorAll('video, img')].map((each) => {
  const { top } = each.getBoundingClientRect();
  if (top > innerHeight) return null;
  if (each.tagName === 'IMG') return each.decode();
  return each.readyState > 1 || new Promise((seen) => {
    each.addEventListener('loadeddata', seen, { once: true });
    each.addEventListener('error', seen, { once: true });
  });
}))
"""
"""Resolves when all that is in view is drawn."""
