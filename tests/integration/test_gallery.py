"""The gallery in a real browser: all of it is seen, plays, fits, and nothing in it comes from elsewhere."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from integration.browser import NAMES, SHOWN, Page, browse, find
from integration.galleries import EVIL, batch, films, photos

PLAYS = """
new Promise((plays, fails) => {
  const video = document.activeElement;
  setTimeout(() => fails(new Error(`${video.currentSrc} does not play`)), 5000);
  const look = () => (!video.paused && video.currentTime > 0 ? plays(true) : requestAnimationFrame(look));
  look();
})
"""
"""Resolves when the video that has the focus plays."""

LOADS = """
(video) => new Promise((loads, fails) => {
  video.addEventListener('loadedmetadata', loads);
  video.addEventListener('error', () => fails(new Error(video.src)));
  video.preload = 'metadata';
  video.load();
}).then(() => true)
"""
CLOCK = "window.setInterval = (look, wait) => { window.every = { look, seconds: wait / 1000 }; };"
"""Gives the test the clock that the page reloads itself by."""

DECODES = "(image) => { image.loading = 'eager'; return image.decode().then(() => true); }"

FOCUS = "(({tagName, src, paused}) => [tagName, src, paused])(document.activeElement)"
"""What has the focus, and whether it rests."""

LIVE = "document.querySelector('.live').textContent"

FOUND = "document.querySelector('%s')"
FIRST = FOUND % "video"


Act = Callable[[Page], Awaitable[None]]


@attrs.frozen
class Gallery:
    """A page of sixty items, among them failures and evil names, and a browser to look at it with."""

    page: Path
    videos: dict[str, bytes]
    tab: Page
    runner: asyncio.Runner

    def looked_at(self, act: Act) -> None:
        """Open the page and *act*; then nothing was complained of, and nothing asked for elsewhere."""

        async def look() -> None:
            async with asyncio.timeout(30):
                await self.tab.look(1600)
                await self.tab.open(self.page.as_uri())
                await act(self.tab)

        self.runner.run(look())
        assert self.tab.complaints == []
        assert {url.partition(":")[0] for url in self.tab.requests} <= {"file", "data"}


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> Iterator[Gallery]:
    """The gallery, written once, in one browser."""
    if find() is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on the PATH")
    folder = tmp_path_factory.mktemp("gallery") / "out"
    videos = films(photos(folder.parent / "photos"), 160)
    batch(folder, videos=videos).write()
    with asyncio.Runner() as runner:
        browser = browse()
        tab = runner.run(browser.__aenter__())
        yield Gallery(folder / "index.html", videos, tab, runner)
        runner.run(browser.__aexit__(None, None, None))


def test_keyboard(gallery: Gallery):
    """Tab reaches every video, and each plays while it has the focus; Enter and Space pause it."""

    async def act(tab: Page) -> None:
        videos = set(await tab.evaluate("[...document.querySelectorAll('video')].map((each) => each.src)"))
        reached: set[str] = set()
        for _ in range(200):
            await tab.press("Tab")
            tag, src, _ = await tab.evaluate(FOCUS)
            if tag == "VIDEO":
                assert await tab.evaluate(PLAYS)
                reached.add(src)
            elif tag == "BODY":
                break
        assert reached == videos
        assert len(videos) == 45
        await tab.evaluate(f"{FIRST}.focus()")
        await tab.press("Enter")
        assert (await tab.evaluate(FOCUS))[2]
        await tab.press(" ")
        assert not (await tab.evaluate(FOCUS))[2]
        await tab.evaluate(PLAYS)

    gallery.looked_at(act)


def test_mouse(gallery: Gallery):
    """A video plays while the mouse is over it, but not where little motion is wanted."""
    middle = (
        f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({FIRST}.getBoundingClientRect())"
    )
    rests = f"{FIRST}.paused"

    async def act(tab: Page) -> None:
        x, y = await tab.evaluate(middle)
        await tab.hover(x, y)
        assert not await tab.evaluate(rests)
        await tab.hover(1, 1)
        assert await tab.evaluate(rests)
        await tab.look(1600, calm=True)
        await tab.hover(x, y)
        assert await tab.evaluate(rests)
        await tab.evaluate(f"{FIRST}.focus()")
        await tab.press("Tab")
        await tab.evaluate(f"{FIRST}.focus()")
        assert await tab.evaluate(rests)
        await tab.press("Enter")
        assert not await tab.evaluate(rests)

    gallery.looked_at(act)


@pytest.mark.parametrize("width", [400, 1600])
def test_fits(gallery: Gallery, width: int):
    """On a narrow and a wide screen photo and video stand side by side, and nothing is wider nor cut."""

    async def act(tab: Page) -> None:
        grounds: set[str] = set()
        for dark in (False, True):
            await tab.look(width, dark=dark)
            await tab.evaluate(SHOWN)
            assert await tab.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
            ends = "[...document.querySelectorAll('.card *')].map((e) => e.getBoundingClientRect().right)"
            assert max(await tab.evaluate(ends)) <= width
            grounds.add(await tab.evaluate("getComputedStyle(document.body).backgroundColor"))
            side = (
                "(([photo, film]) => [photo.height === film.height, photo.top === film.top])("
                "['.photos', '.film'].map((each) => document.querySelector(each).getBoundingClientRect()))"
            )
            assert await tab.evaluate(side) == [True, True]
        assert len(grounds) == 2
        fits = "[...document.querySelectorAll('img, video')].map((e) => getComputedStyle(e).objectFit)"
        assert set(await tab.evaluate(fits)) == {"contain"}

    gallery.looked_at(act)


@pytest.mark.parametrize("width", [400, 1600])
def test_is_dense(gallery: Gallery, width: int):
    """An ordinary card takes less than half a screen, and is no taller than what is in it."""
    heights = "(name) => document.getElementById(name).getBoundingClientRect().height"

    async def act(tab: Page) -> None:
        await tab.look(width)
        short, long = [await tab.evaluate(f"({heights})('item-{number}')") for number in (5, 6)]
        assert short < 480
        assert width == 400 or short < long  # its neighbour, a failure that says why

    gallery.looked_at(act)


def test_evil(gallery: Gallery):
    """What names and prompts hold is shown as text and does nothing; every picture and video is found."""

    async def act(tab: Page) -> None:
        assert await tab.evaluate("document.title") == "Summer campaign"
        assert await tab.evaluate("document.querySelector('#evil')") is None
        assert await tab.evaluate("document.scripts.length") == 1
        names = await tab.evaluate("[...document.querySelectorAll('h2')].map((each) => each.textContent)")
        assert tuple(names[-len(EVIL) :]) == tuple(name.replace("\u202e", "\ufffd") for name in EVIL)
        assert await tab.evaluate(f"Promise.all([...document.querySelectorAll('video')].map({LOADS}))")
        assert len(await tab.evaluate(f"Promise.all([...document.images].map({DECODES}))")) > 60

    gallery.looked_at(act)


@pytest.mark.parametrize("what", ["h1", "h2", ".prompt", "summary", ".reason", ".place", ".instead"])
def test_foreign_text(gallery: Gallery, what: str):
    """What others wrote runs in its own direction, and paints nothing beyond its box."""
    style = f"(({{unicodeBidi, overflowY}}) => [unicodeBidi, overflowY])(getComputedStyle({FOUND % what}))"

    async def act(tab: Page) -> None:
        assert await tab.evaluate(style) == ["plaintext", "clip"]

    gallery.looked_at(act)


def test_chips(gallery: Gallery):
    """A chip shows the items of one state alone, and says so in the address."""
    shown = "[...document.querySelectorAll('.card:not([hidden])')].map((e) => e.dataset.state)"

    async def act(tab: Page) -> None:
        assert len(await tab.evaluate(shown)) == 60
        await tab.evaluate(
            "document.querySelector('[data-show=failed]').click(), new Promise(requestAnimationFrame)"
        )
        assert set(await tab.evaluate(shown)) == {"failed"}
        assert await tab.evaluate("location.hash") == "#failed"

    gallery.looked_at(act)


def test_reloads(gallery: Gallery):
    """While the run goes on the page comes anew by itself, not while it is looked at, nor after."""
    folder = gallery.page.parent.parent / "running"
    report = batch(folder, count=12, until=6, videos=gallery.videos)

    def write(state: Any) -> None:
        report._state = state
        report.write()

    async def act(tab: Page) -> None:
        write("running")
        clock = await tab.send("Page.addScriptToEvaluateOnNewDocument", source=CLOCK)
        await tab.open((folder / "index.html").as_uri())
        assert await tab.evaluate("every.seconds") == 5
        await tab.hover(1, 1)
        for busy, idle in (
            (f"{FIRST}.focus()", "document.activeElement.blur()"),
            ("getSelection().selectAllChildren(document.querySelector('h1'))", "getSelection().empty()"),
            (f"{FOUND % 'details'}.open = true", f"{FOUND % 'details'}.open = false"),
        ):
            await tab.evaluate(busy)
            await tab.evaluate("every.look()")
            assert await tab.evaluate("isBusy()")
            await tab.evaluate(idle)
            assert not await tab.evaluate("isBusy()")
        assert await tab.evaluate("document.querySelector('.live') !== null")
        write("ended")
        await tab.evaluate("every.look()")
        await tab.loaded()  # by itself
        assert await tab.evaluate("document.querySelector('.live')") is None
        assert await tab.evaluate("typeof every") == "undefined"
        await tab.send("Page.removeScriptToEvaluateOnNewDocument", identifier=clock["identifier"])

    gallery.looked_at(act)


def test_chips_keep_nobody_busy(gallery: Gallery):
    """A chip that was clicked has the focus and the mouse, and the page comes anew; a key's focus stays."""
    folder = gallery.page.parent.parent / "clicked"
    report = batch(folder, count=12, until=6, videos=gallery.videos)
    report._clock, report._state = time.time, "running"
    report.write()
    middle = (
        "(({x, y, width, height}) => [x + width / 2, y + height / 2])("
        "document.querySelector('[data-show=failed]').getBoundingClientRect())"
    )
    focus = "document.activeElement.dataset.show"

    async def act(tab: Page) -> None:
        clock = await tab.send("Page.addScriptToEvaluateOnNewDocument", source=CLOCK)
        await tab.open((folder / "index.html").as_uri())
        x, y = await tab.evaluate(middle)
        await tab.hover(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            await tab.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        assert await tab.evaluate(focus) == "failed"
        assert await tab.evaluate("document.querySelector('button:hover') !== null")
        await tab.evaluate("every.look()")
        await tab.loaded()
        assert await tab.evaluate("location.hash") == "#failed"
        assert await tab.evaluate("document.activeElement.tagName") == "BODY"
        await tab.press("Tab")
        await tab.press("Tab")
        assert await tab.evaluate(focus) == "done"
        await tab.evaluate("every.look()")
        await tab.loaded()
        assert await tab.evaluate(focus) == "done"
        await tab.send("Page.removeScriptToEvaluateOnNewDocument", identifier=clock["identifier"])

    gallery.looked_at(act)


def test_old_because_nobody_let_it_come_anew(gallery: Gallery):
    """A page that was kept from coming anew, as a prompt is read, does not doubt that the run goes on."""
    folder = gallery.page.parent.parent / "read"
    report = batch(folder, count=12, until=6, videos=gallery.videos)
    report._began, report._clock, report._state = time.time(), time.time, "running"
    report.write()

    async def act(tab: Page) -> None:
        clock = await tab.send("Page.addScriptToEvaluateOnNewDocument", source=CLOCK)
        await tab.open((folder / "index.html").as_uri())
        await tab.evaluate(f"{FOUND % 'details'}.open = true")
        await tab.evaluate("{ const now = Date.now(); Date.now = () => now + 600_000; }")
        await tab.evaluate("every.look()")
        assert (await tab.evaluate(LIVE)).startswith("running for ")
        await tab.send("Page.removeScriptToEvaluateOnNewDocument", identifier=clock["identifier"])

    gallery.looked_at(act)


@pytest.mark.parametrize(
    ("ago", "words"),
    [
        (60, "running for 0.0 s, as of "),
        (200, "no news for 3 min: if it was ended, run it again"),
        (3 * 3600, "no news for 3 h: if it was ended, run it again"),
        (5 * 86400, "no news for 5 days: if it was ended, run it again"),
    ],
)
def test_silence(gallery: Gallery, ago: float, words: str):
    """A page that was written long ago doubts that the run goes on, and comes anew all the same."""
    folder = gallery.page.parent.parent / f"silent-{ago:.0f}"  # the page before still shows another
    report = batch(folder, count=12, until=6, videos=gallery.videos)
    began = time.time() - ago
    report._began, report._clock, report._state = began, lambda: began, "running"
    report.write()

    async def act(tab: Page) -> None:
        clock = await tab.send("Page.addScriptToEvaluateOnNewDocument", source=CLOCK)
        await tab.open((folder / "index.html").as_uri())
        told = await tab.evaluate(LIVE)
        assert told.startswith(words)
        await tab.evaluate("every.look()")
        await tab.loaded()
        assert (await tab.evaluate(LIVE)).startswith(words)
        await tab.send("Page.removeScriptToEvaluateOnNewDocument", identifier=clock["identifier"])

    gallery.looked_at(act)


@pytest.mark.parametrize(("days", "has_year"), [(0, False), (1, True)])
def test_date(gallery: Gallery, days: int, has_year: bool):
    """The time of writing has its date only where that is not today's."""
    folder = gallery.page.parent.parent / f"dated-{days}"
    report = batch(folder, count=12, until=6, videos=gallery.videos)
    then = time.time() + days * 86400  # of a clock that is ahead, as it would be silence else
    report._clock, report._state = lambda: then, "running"
    report.write()

    async def act(tab: Page) -> None:
        await tab.open((folder / "index.html").as_uri())
        told = await tab.evaluate("document.querySelector('.clock').textContent")
        year = await tab.evaluate(f"String(new Date({then * 1000}).getFullYear())")
        assert (year in told) == has_year
        assert ":" in told

    gallery.looked_at(act)


def test_print(gallery: Gallery):
    """Printed, three cards stand in a row, and the pictures of all are there without being scrolled to."""

    async def act(tab: Page) -> None:
        await tab.look(720)
        await tab.send("Emulation.setEmulatedMedia", media="print")
        columns = "getComputedStyle(document.querySelector('main')).gridTemplateColumns.split(' ').length"
        assert await tab.evaluate(columns) == 3
        assert await tab.evaluate("[...document.images].every((each) => each.complete && each.naturalWidth)")
        assert await tab.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        await tab.send("Emulation.setEmulatedMedia", media="")

    gallery.looked_at(act)
