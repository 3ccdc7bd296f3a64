"""What becomes of a batch is told in two files: which always are whole, tell no secret, and harm no run."""

import asyncio
import base64
import contextlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import attrs
import PIL.Image
import pytest
from hypothesis import given, settings, strategies as st
from virtual_time import run

from kling_async import (
    COMETAPI,
    KLING,
    AccountError,
    APIKey,
    AuthenticationError,
    Budget,
    ConnectError,
    DownloadError,
    Finding,
    GatewayError,
    ImageToVideo,
    KlingClient,
    KlingError,
    MultiImageToVideo,
    Outcome,
    PolicyError,
    Polling,
    ResponseLostError,
    Task,
    TaskFailedError,
    TaskLostError,
    TaskStatus,
    Video,
    WaitTimeoutError,
)
from kling_async.batch import Earlier, Item
from kling_async.batch.entries import STEPS, Entry, Times
from kling_async.batch.gallery import Gallery, link, span
from kling_async.batch.report import FILE_NAME, PAGE_NAME, Report
from kling_async.instrumentation import (
    Ambiguous,
    Checked,
    Completed,
    Detached,
    Event,
    Polled,
    Retried,
    Saved,
    Submitted,
    Waiting,
)
from kling_async.journal import Record
from kling_async.protocol.errors import BudgetError
from kling_async.simulator import Simulator, serve
from kling_async.streams import Completion
from kling_async.testing import SimulatorTransport

EPOCH = 1_800_000_000.0
PIXEL = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
SECRET = "https://cdn.example.org/v.mp4?X-Signature=s3cr3t"


def item(name: str = "cat", **fields: Any):
    """An item of a picture behind a URL."""
    usual: dict[str, Any] = {"image": "https://cdn.example.org/a.png?sig=s3cr3t", "prompt": "a cat"}
    request = ImageToVideo(**usual | fields)
    return Item(name, name, request, "0" * 64, "shots.csv:2")


def report(folder: Path, *items: Item, **options: Any):
    """A report of *items*, or of one."""
    usual: dict[str, Any] = {"title": "Summer", "provider": KLING, "clock": lambda: EPOCH}
    return Report(folder, items or (item(),), **usual | options)


def names(name: str = "cat", number: int = 1, *, task: bool = True) -> dict[str, Any]:
    """What events of an item have in common."""
    external = f"ka-{number:026}"
    return {"key": name, "task_id": f"task-{number}" if task else None, "external_task_id": external}


def submitted(**options: Any):
    """It exists."""
    return Submitted(**names(**options), model_name="kling-v2-6", slot_wait=2.0, upload=1.0)


def completed(error: KlingError | None = None, status: TaskStatus = TaskStatus.SUCCEED, **options: Any):
    """It is over at Kling."""
    figures: dict[str, Any] = {
        "polls": 3,
        "generation": 80.0,
        "elapsed": 82.0,
        "detection_delay": 1.5,
        "units": Decimal("2.5"),
    }
    return Completed(**names(**options), status=status, error=error, **figures)


def completion(
    error: KlingError | None = None,
    status: TaskStatus = TaskStatus.SUCCEED,
    *,
    path: Path | None = None,
    index: int = 0,
    number: int = 1,
    **task: Any,
):
    """It came out of the stream."""
    known = Task(f"task-{number}", f"ka-{number:026}", status, **task)
    return Completion(index, "cat", item().request, known, error, path)


def told(here: Report, index: int = 0) -> dict[str, Any]:
    """What `report.json` says of an item."""
    here.write()
    return json.loads((here._folder / FILE_NAME).read_bytes())["items"][index]


class Elements(HTMLParser):
    """A page as its elements, their attributes and the text in each."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[list[Any]] = []
        self.found: list[list[Any]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        """An element begins."""
        found = [tag, dict(attrs), ""]
        self.found.append(found)
        if tag not in ("meta", "link", "img"):
            self.open.append(found)

    def handle_startendtag(self, tag, attrs):
        """An element without content."""
        self.found.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        """An element ends: the one that began last."""
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        """Text."""
        if self.open:
            self.open[-1][2] += data

    def all(self, tag, kind=None):
        """The elements of that kind."""
        return [each for each in self.found if each[0] == tag and kind in (None, each[1].get("class"))]

    @property
    def shape(self):
        """Every element and its attributes' names, in their order: what an escape keeps."""
        return [(tag, *attributes) for tag, attributes, _ in self.found]


def page(here: Report):
    """The page as its elements."""
    here.write()
    return Elements((here._folder / PAGE_NAME).read_text("utf-8"))


# What is told of an item


def test_time_line(tmp_path):
    """The events of an item make its time line: each step with its seconds, and the file at its end."""
    here = report(tmp_path)
    for event in (
        Checked(**names(task=False), model_name="kling-v2-6", endpoint="image2video", provider=KLING),
        submitted(),
        Polled(**names(), status=TaskStatus.PROCESSING, polls=1),
        completed(),
        Saved(**names(), path=tmp_path / "cat.mp4", size=9, elapsed=0.5),
    ):
        here.tell(event)
    here.ended(completion(path=tmp_path / "cat.mp4", units=Decimal("2.5")))
    one = told(here)
    assert one["times"] == {"slot": 2, "upload": 1, "generating": 80, "found": 1.5, "downloaded": 0.5}
    assert (one["state"], one["ok"], one["path"]) == ("done", True, "cat.mp4")
    assert (one["task_id"], one["units"], one["error"]) == ("task-1", 2.5, None)


@pytest.mark.parametrize(
    ("event", "state", "word"),
    [
        (Waiting(**names(task=False)), "waiting", "waiting for a slot"),
        (Retried(**names(task=False), error=KlingError(), wait=1), "running", "being submitted"),
        (
            Ambiguous(**names(task=False), error=KlingError(), quarantine=90),
            "running",
            "looked for: the answer to its submit was lost",
        ),
        (submitted(), "running", "generating"),
        (Polled(**names(), status=TaskStatus.PROCESSING, polls=1), "running", "generating"),
        (Polled(**names(), status=None, polls=1, error=KlingError()), "not_submitted", "not submitted"),
        (completed(), "running", "downloading"),
        (completed(PolicyError("no"), TaskStatus.REFUSED), "failed", "refused"),
        (
            Detached(**names(), status=TaskStatus.PROCESSING, error=KlingError(), polls=1, retries=0),
            "running",
            "runs on at Kling",
        ),
        (
            Detached(**names(), status=TaskStatus.AMBIGUOUS, error=KlingError(), polls=1, retries=0),
            "running",
            "may exist",
        ),
        (
            Detached(**names(), status=TaskStatus.INTENDED, error=KlingError(), polls=0, retries=0),
            "not_submitted",
            "not submitted",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Event) else None,
)
def test_words(tmp_path, event, state, word):
    """Each event says in words where its item stands."""
    here = report(tmp_path)
    here.tell(event)
    assert (here.entries[0].state, here.entries[0].word) == (state, word)


def gateway(status: int, **fields: Any):
    """What a gateway says in place of Kling."""
    usual: dict[str, Any] = {"advice": "ask its operator", "outcome": Outcome.NOT_CREATED}
    return GatewayError("no", http_status=status, **usual | fields)


@pytest.mark.parametrize(
    ("error", "status", "state", "word"),
    [
        (TaskFailedError("no"), TaskStatus.FAILED, "failed", "failed at Kling"),
        (PolicyError("no"), TaskStatus.REFUSED, "failed", "refused"),
        (ResponseLostError("no"), TaskStatus.MAY_EXIST, "failed", "may exist"),
        (TaskLostError("no"), TaskStatus.LOST, "failed", "lost"),
        (WaitTimeoutError("no"), TaskStatus.GIVEN_UP, "failed", "not waited for any longer"),
        (DownloadError("no"), TaskStatus.SUCCEED, "failed", "made, not on disk"),
        (BudgetError("no"), TaskStatus.INTENDED, "not_submitted", "not submitted"),
        (KlingError("no"), TaskStatus.INTENDED, "not_submitted", "not submitted"),
        (AuthenticationError("no"), TaskStatus.REFUSED, "not_submitted", "not submitted"),
        (AccountError("no", code=1102), TaskStatus.REFUSED, "not_submitted", "not submitted"),
        (ConnectError("no"), TaskStatus.REFUSED, "not_submitted", "not submitted"),
        (gateway(401), TaskStatus.REFUSED, "not_submitted", "not submitted"),
        (gateway(302, html=True), TaskStatus.REFUSED, "not_submitted", "not submitted"),
        (gateway(400, code="invalid_request"), TaskStatus.REFUSED, "failed", "refused"),
        (gateway(200, html=True, outcome=Outcome.MAY_EXIST), TaskStatus.MAY_EXIST, "failed", "may exist"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, KlingError) else None,
)
def test_failures(tmp_path, error, status, state, word):
    """A failure is told with its reason, its class, what it means for the task, and what to do.

    What the key, the account or the network kept from Kling was not submitted; nobody refused it.
    """
    here = report(tmp_path)
    here.ended(completion(error, status))
    one = told(here)
    assert (one["state"], one["word"], one["error"]) == (state, word, "no")
    assert (one["error_type"], one["outcome"]) == (type(error).__name__, error.outcome.value)
    assert one["advice"] or type(error) is KlingError


def test_over_is_over(tmp_path):
    """News that come after an item's completion change nothing: the run was not waiting for them."""
    here = report(tmp_path)
    here.ended(completion(WaitTimeoutError("no"), TaskStatus.PROCESSING))
    here.tell(completed())
    assert here.entries[0].word == "not waited for any longer"


def test_polls_are_no_news(tmp_path):
    """A poll that finds a task as it was changes nothing, so that nothing is written for it."""
    here = report(tmp_path)
    here.tell(submitted())
    before = here.entries[0]
    here.tell(Polled(**names(), status=TaskStatus.PROCESSING, polls=2))
    assert here.entries[0] is before


# Whose it is


def test_alike(tmp_path):
    """Items that are called alike take their events in the order they were submitted."""
    here = report(tmp_path, item(), item())
    here.tell(submitted(number=1))
    here.tell(submitted(number=2))
    here.tell(completed(number=2))
    assert [entry.word for entry in here.entries] == ["generating", "downloading"]


def test_strangers(tmp_path):
    """A task of an earlier run that nobody asks for any more is not taken for the item of its name."""
    row = record(2, state="processing")
    here = report(tmp_path, earlier=Earlier((None,), frozenset({"cat"}), (row,)))
    here.tell(Polled(**names(number=2), status=TaskStatus.PROCESSING, polls=1))
    here.tell(Polled(**names("nobody", 3), status=TaskStatus.PROCESSING, polls=1))
    assert here.entries[0] == Entry()


def test_made_anew(tmp_path):
    """An item that is made anew is another task: nothing of the earlier one is told of it."""
    row = record(1, state="failed")
    here = report(tmp_path, earlier=Earlier((row,), frozenset(), ()))
    here.tell(submitted(number=2))
    assert (here.entries[0].task_id, here.entries[0].external_task_id) == ("task-2", f"ka-{2:026}")


# What an earlier run left


def record(number: int, **fields: Any):
    """A row of a journal."""
    usual: dict[str, Any] = {
        "external_task_id": f"ka-{number:026}",
        "key": "cat",
        "named": True,
        "label": "cat",
        "account": "a",
        "provider": "kling",
        "host": "h",
        "endpoint": "image2video",
        "model_name": "kling-v2-6",
        "request_hash": "0" * 64,
        "task_id": f"task-{number}",
    }
    return Record(**usual | fields)


def test_resumed(tmp_path):
    """What an earlier run made is told before this one comes to it; its time line is in its report."""
    (tmp_path / "cat.mp4").write_bytes(b"")
    first = report(tmp_path)
    first.tell(submitted())
    first.write()
    row = record(
        1, state="succeed", download="stored", path="cat.mp4", units="2.5", created_at=100.0, ended_at=180.0
    )
    second = report(tmp_path, earlier=Earlier((row,), frozenset(), ()))
    one = told(second)
    assert (one["state"], one["resumed"], one["path"], one["units"]) == ("done", True, "cat.mp4", 2.5)
    assert one["times"] == {"slot": 2, "upload": 1, "generating": 80, "found": None, "downloaded": None}


def test_resumed_without_report(tmp_path):
    """Without the earlier report its generation is known from the task, and its file from the completion."""
    began = datetime.fromtimestamp(EPOCH, UTC)
    here = report(tmp_path)
    task: dict[str, Any] = {
        "created_at": began,
        "updated_at": began + timedelta(seconds=70),
        "videos": (Video(SECRET),),
    }
    here.ended(attrs.evolve(completion(path=tmp_path / "cat.mp4", **task), resumed=True))
    assert told(here)["times"]["generating"] == 70
    assert told(here)["resumed"]


def test_running_on(tmp_path):
    """A task that an earlier run submitted keeps the time line of that run, and goes on with this one's."""
    first = report(tmp_path)
    first.tell(submitted())
    first.write()
    second = report(tmp_path, earlier=Earlier((record(1, state="processing"),), frozenset(), ()))
    second.tell(Polled(**names("called otherwise"), status=TaskStatus.PROCESSING, polls=1))
    second.tell(completed())
    assert second.entries[0].times == Times(slot=2, upload=1, generating=80, found=1.5)


@pytest.mark.parametrize(
    "rubbish",
    [
        b'[1, {}, {"external_task_id": 5}, {"external_task_id": "ka-1", "times": 3}]',
        b'[{"external_task_id": "ka-%026d", "times": {"slot": -1, "upload": true, "x": "y"}}]' % 1,
        b'[{"external_task_id": "ka-%026d", "times": {"slot": NaN, "upload": "1"}}]' % 1,
    ],
)
def test_rubbish(tmp_path, rubbish):
    """What makes no sense in an earlier report is ignored, and written over."""
    (tmp_path / FILE_NAME).write_bytes(b'{"version": 1, "title": "", "items": %b}' % rubbish)
    here = report(tmp_path)
    here.tell(submitted())
    assert told(here)["times"]["slot"] == 2


def test_whole_run(tmp_path):
    """Two runs of a client: the second makes nothing, and its report tells what the first told."""
    items = [item(name, prompt=name) for name in ("cat", "dog", "a", "a-2")]
    items[2:] = [attrs.evolve(each, key=None) for each in items[2:]]  # called so by their picture
    documents: list[dict[str, Any]] = []

    async def main():
        simulator = Simulator(seconds=0.0, parallel=2, validates_schema=False)
        polling = Polling(aim=None, factor=0.01, base=1, max_interval=0.01, floor=0.01, jitter=0)
        async with serve(simulator):
            for _ in range(2):
                here = report(tmp_path, *items)
                transport = SimulatorTransport(simulator, clock=time.time)
                kling = KlingClient(
                    APIKey("sim-key"), transport=transport, polling=polling, hooks=[here.tell]
                )
                async with here.kept(), kling:
                    async for done in kling.completions(
                        [each.submission for each in items], save_to=tmp_path
                    ):
                        here.ended(done)
                documents.append(json.loads((tmp_path / FILE_NAME).read_bytes()))
        assert len(simulator.ledger.made) == 4

    asyncio.run(main())
    first, second = (document["items"] for document in documents)
    assert [each["state"] for each in first] == ["done"] * 4
    assert [each["path"] for each in first] == ["cat.mp4", "dog.mp4", "a.mp4", "a-2.mp4"]
    assert all(each["times"][step] is not None for each in first for step in STEPS)
    assert [each["resumed"] for each in second] == [True] * 4
    for step in ("state", "path", "times", "units", "task_id", "external_task_id"):
        assert [each[step] for each in second] == [each[step] for each in first]


# The document


def test_document(tmp_path):
    """`report.json` tells of the batch as a whole, and of each item what makes it differ from the others."""
    here = report(
        tmp_path,
        item(mode="pro", duration=5, sound=True),
        attrs.evolve(item("dog"), findings=(Finding("mode", "warning", "is doubted", "a map"),)),
        budget=Budget(9, spent=4),
        estimates=[Decimal(2), None],
    )
    here.tell(submitted())
    here.write()
    document = json.loads((tmp_path / FILE_NAME).read_bytes())
    assert (document["version"], document["title"], document["provider"]) == (1, "Summer", "kling")
    assert document["began_at"] == document["written_at"] == "2027-01-15T08:00:00+00:00"
    assert document["totals"] == {
        "items": 2, "done": 0, "failed": 0, "running": 1, "waiting": 0, "not_submitted": 1,
        "units": 0.0, "units_estimated": 2.0, "units_unknown": 0, "budget": 9.0, "budget_spent": 4.0,
        "unlisted": 0, "elapsed": 0.0,
    }  # fmt: skip
    first = document["items"][0]
    assert (first["index"], first["key"], first["name"], first["place"]) == (0, "cat", "cat", "shots.csv:2")
    assert first["request"] == {
        "endpoint": "image2video", "model_name": "kling-v2-6", "mode": "pro", "duration": "5", "sound": "on",
        "aspect_ratio": None, "prompt": "a cat", "negative_prompt": None,
    }  # fmt: skip
    assert (first["estimate"], document["items"][1]["estimate"]) == (2.0, None)
    finding = {"field": "mode", "severity": "warning", "message": "is doubted", "source": "a map"}
    assert [each["findings"] for each in document["items"]] == [[], [finding]]


def test_reference(tmp_path):
    """The reference names every key of the file, of its totals and of an item, and no other."""
    text = (Path(__file__).parent.parent / "docs" / "reference" / "report.md").read_text("utf-8")
    here = report(tmp_path)
    here.write()
    document = json.loads((tmp_path / FILE_NAME).read_bytes())
    for section, keys in (
        ("The whole", document),
        ("`totals`", document["totals"]),
        ("An item", document["items"][0]),
    ):
        table = text.partition(f"## {section}\n")[2].partition("\n## ")[0]
        rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        assert [key for row in rows for key in re.findall(r"`(\w+)`", row)] == list(keys)


def test_no_secrets(tmp_path):
    """Neither file holds what signs a URL, nor where Kling calls back; the page holds no token either."""
    request = {"callback_url": "https://me.example/hook?secret=s3cr3t", "image_tail": SECRET}
    here = report(tmp_path, item(**request))
    failed = TaskFailedError(f"no ({SECRET}) see {SECRET}", token="kling1.token", advice=f"open {SECRET}")
    here.ended(completion(failed, TaskStatus.FAILED, videos=(Video(SECRET),)))
    here.write()
    both = [(tmp_path / name).read_text("utf-8") for name in (FILE_NAME, PAGE_NAME)]
    assert "s3cr3t" not in "".join(both)
    assert ["kling1.token" in text for text in both] == [True, False]


# The page


EVIL = st.text(st.characters(exclude_categories=()), min_size=1, max_size=30) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        '" onerror="alert(1)',
        "'><img src=x>",
        "javascript:alert(1)",
        "</style></script></title>",
        "{{ 1 }}{% if %}{# #}",
        "]]>--><!--",
        "&lt;b&gt;",
        "rtl \u202e gpj.exe",
        "\u200f1 - 2\u061c",
        "\udc80",
    ]
)


def is_text(text):
    """Whether it can be sent: half a surrogate pair cannot."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def is_name(text):
    """Whether a file can be called so: of what is no text, only bytes that are no UTF-8."""
    with contextlib.suppress(UnicodeEncodeError):
        return bool(os.fsencode(text))
    return False


@settings(max_examples=40)
@given(name=EVIL, prompt=EVIL.filter(is_text), reason=EVIL, title=EVIL)
def test_nothing_leaves_its_element(tmp_path_factory, name, prompt, reason, title):
    """Whatever a name, a prompt, a reason or a title holds is text: the page has its usual elements."""
    folder = tmp_path_factory.mktemp("report")
    pages: list[Elements] = []
    for called, asked, why, headed in (("name", "prompt", "reason", "title"), (name, prompt, reason, title)):
        one = item(called, prompt=asked, negative_prompt=asked)
        here = report(
            folder, attrs.evolve(one, place=called, findings=(Finding(called, "warning", why),)), title=headed
        )
        file = f"{called.translate({0: None, 47: None}) if is_name(called) else 'nameless'}.mp4"
        here.ended(completion(DownloadError(why, advice=why), path=folder / file))
        pages.append(page(here))
        assert json.loads((folder / FILE_NAME).read_bytes())["items"][0]["name"] == called
    usual, evil = pages
    assert evil.shape == usual.shape
    assert evil.all("h1")[0][2] == evil.all("title")[0][2] == _read(title)
    assert evil.all("h2")[0][2] == _read(name)
    assert evil.all("p", "prompt")[0][2] == _read(prompt)


def _read(text):
    """*text* as a reader of the page has it: without what no HTML can hold, nor what would turn it."""
    text = re.sub(
        "[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", "\ufffd", text.encode("utf-8", "replace").decode()
    )
    return text.replace("\r\n", "\n").replace("\r", "\n")


@given(name=EVIL.filter(is_name))
def test_links(name):
    """A file's name is never taken for a scheme, a host, a query or a fragment, whatever it is."""
    path = name.replace("/", "_").replace("\0", "_")
    url = link(path)
    assert re.fullmatch(r"\./[A-Za-z0-9_.~%-]+", url)
    assert unquote(url, "utf-8", "surrogateescape")[2:].encode("utf-8", "surrogatepass") == path.encode(
        "utf-8", "surrogatepass"
    )


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("a b/c#1.mp4", "./a%20b/c%231.mp4"),
        ("../photos/cat.png", "../photos/cat.png"),
        ("/there/cat.png", "file:///there/cat.png"),
        ("javascript:alert(1)", "./javascript%3Aalert%281%29"),
    ],
)
def test_link(path, url):
    """A path becomes a link that leads to it from the page."""
    assert link(path) == url


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (119, "119 s"),
        (134.2, "2 min 14 s"),
        (3725, "1 h 02 min"),
    ],
)
def test_span(seconds, words):
    """A time is told as people say it."""
    assert span(seconds) == words


def test_policy(tmp_path):
    """The page may load pictures and videos beside it, and what its style and scripts' hashes tell."""
    found = page(report(tmp_path))
    policy = next(each[1]["content"] for each in found.all("meta") if "http-equiv" in each[1])
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert (rules["img-src"], rules["media-src"]) == ("'self' file: data:", "'self' file:")
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", rules["script-src"])
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", rules["style-src"])
    assert not [
        each for each in found.found if "style" in each[1] or any(name.startswith("on") for name in each[1])
    ]


def test_pictures(tmp_path):
    """A picture is embedded; one on the web is never loaded, a large one is linked."""
    (tmp_path / "small.png").write_bytes(PIXEL)
    (tmp_path / "large#1.png").write_bytes(PIXEL.ljust(300_000, b"\0"))
    shown = (tmp_path / "small.png", tmp_path / "large#1.png", PIXEL, base64.b64encode(PIXEL).decode())
    named = (tmp_path / "gone.png", SECRET, b"no picture", "data:image/png;base64,abc")
    found = page(report(tmp_path, *(item(image=each) for each in (*shown, *named))))
    embedded = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    assert [each[1]["src"] for each in found.all("img")] == [embedded, "./large%231.png", embedded, embedded]
    instead = [each[2] for each in found.all("span", "instead") if each[2] != "no video"]
    assert instead == ["gone.png", "cdn.example.org", "a picture in memory", "a picture in memory"]


def test_several_pictures(tmp_path):
    """All pictures of a request are shown, and each says which it is."""
    several = MultiImageToVideo(image_list=[PIXEL, PIXEL, PIXEL], prompt="a cat")
    found = page(report(tmp_path, item(image=PIXEL, image_tail=PIXEL), attrs.evolve(item(), request=several)))
    assert [each[2] for each in found.all("figcaption")] == ["start", "end", "1", "2", "3"]
    assert len(found.all("img")) == 5


@pytest.mark.parametrize(
    ("image", "instead"),
    [
        ("iVBORw0KGgo" + "A" * 1300, "a picture in memory"),
        (Path("x" * 300), "x" * 300),
        (Path("~nobody-is-called-so/cat.png"), "cat.png"),
    ],
    ids=["base64", "long", "home"],
)
def test_no_such_picture(tmp_path, image, instead):
    """What the system cannot even look up, base64 that is no longer than a path among it, harms no file."""
    here = report(tmp_path, item(image=image))
    assert [each[2] for each in page(here).all("span", "instead")] == [instead, "no video"]
    assert told(here)["images"][0]["field"] == "image"


def test_late_pictures(tmp_path):
    """What there is no time to make small is linked, and made small as soon as there is."""
    (tmp_path / "small.png").write_bytes(PIXEL)
    items, entries = [item(image=tmp_path / "small.png")], [Entry()]
    gallery, summary = Gallery(tmp_path, items, [None]), report(tmp_path).summary()
    sources = [
        Elements(gallery.page(summary, entries, patience=patience).decode()).all("img")[0][1]["src"]
        for patience in (-1, 60, -1)
    ]
    assert [source[:11] for source in sources] == ["./small.png", "data:image/", "data:image/"]


def test_many_pictures(tmp_path):
    """Of more than a thousand items the pictures are linked: the page would be too heavy with them."""
    (tmp_path / "small.png").write_bytes(PIXEL)
    found = page(report(tmp_path, *[item(image=tmp_path / "small.png")] * 1001))
    assert {each[1]["src"] for each in found.all("img")} == {"./small.png"}


def test_small_pictures(tmp_path):
    """Of more than two hundred items the pictures are smaller and loaded when seen; else all are there."""
    file = io.BytesIO()
    PIL.Image.effect_noise((400, 300), 64).save(file, "PNG")
    sizes = []
    for count in (200, 201):
        images = page(report(tmp_path, *[item(image=file.getvalue())] * count)).all("img")
        data = base64.b64decode(images[0][1]["src"].partition(",")[2])
        with PIL.Image.open(io.BytesIO(data)) as image:
            sizes.append((image.size, images[0][1].get("loading")))
    assert sizes == [((360, 270), None), ((180, 135), "lazy")]


@pytest.mark.parametrize(
    ("fields", "facts"),
    [
        ({}, ["kling-v2-6", "std", "5 s"]),
        ({"mode": "pro", "duration": 10, "sound": "on"}, ["kling-v2-6", "pro", "10 s", "with sound"]),
        ({"sound": "off", "extra_body": {"mode": "4k"}}, ["kling-v2-6", "4k", "5 s"]),
        ({"model_name": "kling-v9"}, ["kling-v9", "5 s"]),
    ],
)
def test_facts(tmp_path, fields, facts):
    """A card says what is asked for, with Kling's defaults where nothing is."""
    found = page(report(tmp_path, item(**fields))).found
    begin = next(index for index, each in enumerate(found) if each[1].get("class") == "facts")
    assert [each[2] for each in found[begin + 1 : begin + 1 + len(facts)]] == facts
    assert found[begin + 1 + len(facts)][1].get("class") == "place"


def test_place(tmp_path):
    """A card says where its item stands, unless that is its picture."""
    cat = item(image="cat.png")
    several = (cat, attrs.evolve(cat, place="cat.png"), attrs.evolve(cat, place="dog.png", original=cat))
    found = page(report(tmp_path, *several))
    assert [each[2] for each in found.all("span", "place")] == ["shots.csv:2", "dog.png"]


def test_place_of_a_relative_folder(tmp_path, monkeypatch):
    """The folder is mostly given relatively: its pictures are no places either."""
    monkeypatch.chdir(tmp_path)
    cat = item(image=tmp_path / "in" / "100%.png")
    found = page(report(tmp_path, *(attrs.evolve(cat, place=place) for place in ("in/100%.png", "in/b.png"))))
    assert [each[2] for each in found.all("span", "place")] == ["in/b.png"]


def test_meanings(tmp_path):
    """Each step of the time line is explained in words."""
    here = report(tmp_path)
    here.tell(submitted())
    here.tell(completed())
    found = page(here)
    assert [
        found.all("div", step)[0][1]["title"][:9] for step in ("slot", "upload", "generating", "found")
    ] == [
        "waited fo",
        "sent to K",
        "Kling's o",
        "from its ",
    ]


# What it costs


def made(here: Report, index: int, **task: Any) -> None:
    """The item *index* is made."""
    path = here._folder / f"{index}.mp4"
    here.ended(completion(path=path, index=index, number=index + 1, **task))


def tiles(found: Elements) -> dict[str, str]:
    """The figures at the head of a page."""
    names, figures = found.all("dt"), found.all("dd")
    words = {}
    for name, figure in zip(names, figures, strict=True):
        after = found.found[found.found.index(figure) + 1 :]
        words[name[2]] = (figure[2], *(each[2] for each in after[:1] if each[0] == "small"))
    return words


def test_gateway(tmp_path):
    """At a gateway Kling's units are not the caller's: what an item costs is its estimate, or unknown."""
    here = report(
        tmp_path, item(), item(), item(), provider=COMETAPI, estimates=[Decimal("0.7"), None, Decimal(3)]
    )
    made(here, 0, units=Decimal("2.5"))
    made(here, 1, units=Decimal("2.5"))
    here.tell(completed(TaskFailedError("no"), TaskStatus.FAILED, number=3))
    found = page(here)
    document = json.loads((tmp_path / FILE_NAME).read_bytes())
    assert [each["units"] for each in document["items"]] == [0.7, None, None]
    assert [document["totals"][key] for key in ("units", "units_estimated", "units_unknown")] == [0.7, 0, 1]
    assert [each[2] for each in found.all("span", "units")] == ["about 0.7 units", "units unknown"]
    assert tiles(found)["units spent"] == ("0.7", ", and unknown for 1")


def test_gateway_journal(tmp_path):
    """What an earlier run's journal holds of Kling's units does not count at a gateway either."""
    (tmp_path / "cat.mp4").write_bytes(b"")
    row = record(1, state="succeed", download="stored", path="cat.mp4", units="2.5")
    here = report(
        tmp_path,
        provider=COMETAPI,
        estimates=[Decimal("0.7")],
        earlier=Earlier((row,), frozenset(), ()),
    )
    assert told(here)["units"] == 0.7


def test_unknown(tmp_path):
    """What nobody can tell is unknown and no zero: of what was made, runs, or may have been paid."""
    here = report(tmp_path, *(item(str(number)) for number in range(6)))
    made(here, 0, units=Decimal(99))
    made(here, 1)
    here.tell(submitted(name="2", number=3))
    here.ended(completion(ResponseLostError("no"), TaskStatus.MAY_EXIST, index=3, number=4))
    here.ended(completion(TaskFailedError("no"), TaskStatus.FAILED, index=4, number=5))
    here.ended(completion(PolicyError("no"), TaskStatus.REFUSED, index=5, number=6))
    assert (here.summary().units, here.summary().unknown) == (99, 3)
    found = page(here)
    assert tiles(found)["units spent"] == ("99", ", and unknown for 3")
    assert [each[2] for each in found.all("span", "units")] == ["99 units", *["units unknown"] * 3]


def test_may_be_charged(tmp_path):
    """What may exist or runs on unwatched counts with its estimate, as in a budget, and is not unknown."""
    here = report(tmp_path, *(item(str(number)) for number in range(7)), estimates=[Decimal("1.5")] * 7)
    ends = (
        (None, TaskStatus.SUCCEED),
        (ResponseLostError("no"), TaskStatus.MAY_EXIST),
        (TaskLostError("no"), TaskStatus.LOST),
        (WaitTimeoutError("no"), TaskStatus.PROCESSING),
        (TaskFailedError("no"), TaskStatus.FAILED),
        (PolicyError("no"), TaskStatus.REFUSED),
    )
    for index, (error, status) in enumerate(ends):
        here.ended(completion(error, status, index=index, number=index + 1))
    here.tell(submitted(name="6", number=7))
    on_its_way = here.summary()
    error = WaitTimeoutError("the client was closed")
    here.tell(
        Detached(**names("6", 7), status=TaskStatus.PROCESSING, error=error, polls=1, retries=0),
    )
    ended = here.summary()
    assert (on_its_way.units, on_its_way.estimated, on_its_way.unknown) == (6, Decimal("1.5"), 0)
    assert (ended.units, ended.estimated, ended.unknown) == (Decimal("7.5"), 0, 0)
    here.write()
    document = json.loads((tmp_path / FILE_NAME).read_bytes())
    assert sum(each["units"] or 0 for each in document["items"]) == document["totals"]["units"] == 7.5


def test_free(tmp_path):
    """What was not submitted says that it costs nothing once it is known why, and till then its estimate."""
    here = report(tmp_path, item("0"), item("1"), estimates=[Decimal(3)] * 2)
    here.ended(completion(BudgetError("no"), TaskStatus.REFUSED))
    assert [each[2] for each in page(here).all("span", "units")] == ["about 3 units"]


def test_costs_of_this_run(tmp_path):
    """What an earlier run had brought to its end costs this one nothing."""
    here = report(tmp_path, item("0"), item("1"), estimates=[Decimal(3)] * 2)
    here.ended(attrs.evolve(completion(), resumed=True))
    here.ended(completion(index=1, number=2))
    assert (here.summary().units, here.costs_now().units) == (6, 3)


def test_estimates(tmp_path):
    """At Kling what a task told counts, else its estimate; what is on its way is still to come."""
    here = report(tmp_path, *(item(str(number)) for number in range(3)), estimates=[Decimal(3)] * 3)
    made(here, 0, units=Decimal("2.5"))
    made(here, 1)
    here.tell(submitted(name="2", number=3))
    found = page(here)
    assert (tiles(found)["units spent"], tiles(found)["units still to come"][1]) == (("5.5",), "about ")
    assert [each[2] for each in found.all("span", "units")] == ["2.5 units", "about 3 units", "about 3 units"]
    assert here.summary().estimated == 3


def test_not_on_disk(tmp_path):
    """A video that was made and is not on disk is paid for all the same."""
    here = report(tmp_path, estimates=[Decimal(3)])
    here.ended(completion(DownloadError("no")))
    assert told(here)["units"] == 3


def test_budget(tmp_path):
    """With a budget the page and the file show its own figures, as they are when they are written."""
    budget = Budget(200, spent=90)
    here = report(tmp_path, budget=budget)
    made(here, 0, units=Decimal(3))
    budget.settle(budget.reserve(Decimal(3)), None)
    assert tiles(page(here))["units of the budget spent"] == ("93", " of 200")
    totals = json.loads((tmp_path / FILE_NAME).read_bytes())["totals"]
    assert (totals["units"], totals["budget"], totals["budget_spent"]) == (3, 200, 93)


def test_unlisted(tmp_path):
    """Videos of earlier runs that nobody asks for now are counted, if they are there."""
    rows = [record(number, state="succeed", download="stored", path=f"{number}.mp4") for number in range(3)]
    rows.append(record(3, state="succeed", download="none"))
    for number in range(2):
        (tmp_path / f"{number}.mp4").write_bytes(b"")
    here = report(tmp_path, earlier=Earlier((None,), frozenset(), tuple(rows)))
    (line,) = page(here).all("p", "unlisted")
    assert line[2] == "2 more videos of earlier runs are in this folder."
    assert json.loads((tmp_path / FILE_NAME).read_bytes())["totals"]["unlisted"] == 2


@pytest.mark.parametrize(
    ("error", "status", "advice"),
    [
        (TaskFailedError("no"), TaskStatus.FAILED, "--retry-failed makes it again"),
        (
            ResponseLostError("no"),
            TaskStatus.MAY_EXIST,
            "look at the provider; if it is not there, run again with --resend 'a cat'",
        ),
        (TaskLostError("no"), TaskStatus.LOST, "--again 'a cat' makes it again, and may be paid twice"),
        (
            WaitTimeoutError("no"),
            TaskStatus.GIVEN_UP,
            "--again 'a cat' makes it again, and may be paid twice",
        ),
        (WaitTimeoutError("no"), TaskStatus.PROCESSING, "run the batch again: it goes on from here"),
        (PolicyError("no"), TaskStatus.REFUSED, "change the picture or the prompt"),
    ],
)
def test_options(tmp_path, error, status, advice):
    """A failure's advice names the option of the command that helps, ready to be typed."""
    here = report(tmp_path, item("a cat"))
    here.ended(completion(error, status))
    assert advice in told(here)["advice"]
    assert advice in next(each[2] for each in page(here).all("p") if each[2].startswith("What to do"))


def test_charged(tmp_path):
    """A failure says what it cost."""
    here = report(tmp_path, item(), item(), item())
    here.ended(completion(TaskFailedError("no"), TaskStatus.FAILED))
    here.ended(completion(TaskFailedError("no"), TaskStatus.FAILED, index=1, number=2, units=Decimal("2.50")))
    here.ended(completion(PolicyError("no"), TaskStatus.REFUSED, index=2, number=3))
    told = [each[2] for each in page(here).all("p") if each[2].startswith("What to do")]
    assert [line.rsplit(". ", 1)[1] for line in told] == [
        "Kling deducts units at success.",
        "2.5 units were charged.",
        "Nothing was paid.",
    ]


# Writing


def test_kept(tmp_path):
    """While the run goes on both files say so and follow what happens; afterwards they say that it ended."""
    here = report(tmp_path, item(), item("dog"))
    seen = []

    def state():
        document = json.loads((tmp_path / FILE_NAME).read_bytes())
        lives = "location.reload" in (tmp_path / PAGE_NAME).read_text("utf-8")
        return document["state"], lives, document["items"][0]["word"], document["items"][1]["word"]

    async def main():
        async with here.kept():
            await asyncio.sleep(1)
            seen.append(state())
            here.tell(submitted())
            here.tell(Waiting(**names("dog", 2, task=False)))
            await asyncio.sleep(0.5)
            seen.append(state())
            await asyncio.sleep(5)
            seen.append(state())
        seen.append(state())

    run(main())
    assert seen == [
        ("running", True, "not submitted", "not submitted"),
        ("running", True, "not submitted", "not submitted"),
        ("running", True, "generating", "waiting for a slot"),
        ("ended", False, "generating", "not submitted"),
    ]


def test_heartbeat(tmp_path):
    """Without news it is written all the same: who looks at it sees that the run goes on."""
    ticks = itertools.count()
    here = report(tmp_path, clock=lambda: EPOCH + next(ticks))
    seen = []

    async def main():
        async with here.kept():
            for _ in range(3):
                await asyncio.sleep(40)
                seen.append(json.loads((tmp_path / FILE_NAME).read_bytes())["written_at"])

    run(main())
    assert len(set(seen)) == 3


def test_written_on_cancellation(tmp_path):
    """A run that is cancelled leaves both files as it left the batch."""
    here = report(tmp_path)

    async def main():
        async def kept():
            async with here.kept():
                here.tell(submitted())
                await asyncio.sleep(3600)

        task = asyncio.create_task(kept())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    document = json.loads((tmp_path / FILE_NAME).read_bytes())
    assert (document["state"], document["totals"]["running"]) == ("ended", 1)


def test_harmless(tmp_path):
    """A folder that cannot be written to is told once, and the run goes on."""
    lines = []
    here = report(tmp_path / "gone", warn=lines.append)

    async def main():
        async with here.kept():
            for number in range(3):
                here.tell(submitted(number=number))
                await asyncio.sleep(5)
        return "went on"

    assert run(main()) == "went on"
    (line,) = lines
    assert "cannot be written: No such file" in line
    with pytest.raises(FileNotFoundError):
        here.write()


def test_bug(tmp_path):
    """A bug in the report is told once, and the run goes on."""
    lines = []
    times = iter([EPOCH])
    here = report(tmp_path, warn=lines.append, clock=lambda: next(times))

    async def main():
        async with here.kept():
            await asyncio.sleep(5)

    run(main())
    assert lines == [f"the report in {tmp_path} cannot be written: StopIteration: "]


def test_without_jinja(tmp_path):
    """Without Jinja2 there is no page, which is told once; `report.json` is there."""
    code = (
        "import sys; sys.modules['jinja2'] = None\n"
        "from pathlib import Path\n"
        "from kling_async import KLING\n"
        "from kling_async.batch.report import Report\n"
        f"report = Report(Path({str(tmp_path)!r}), (), title='', provider=KLING, warn=print)\n"
        "report.write(); report.write()"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told == 'index.html needs Jinja2: pip install "kling-async[cli]"\n'
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize(("name", "other"), [(FILE_NAME, PAGE_NAME), (PAGE_NAME, FILE_NAME)])
def test_whole_or_not(tmp_path, name, other):
    """A file that cannot be replaced leaves no part behind, and keeps not the other from being written."""
    lines = []
    here = report(tmp_path, warn=lines.append)
    (tmp_path / name).mkdir()
    with pytest.raises(OSError, match=re.escape(name)):
        here.write()
    here._try_to_write()
    assert {path.name for path in tmp_path.iterdir()} == {name, other}
    assert (tmp_path / other).is_file()
    assert lines == [f"{tmp_path / name} cannot be written: Is a directory"]


def test_own_page(tmp_path):
    """A page of the user's own is never written over; a gallery is."""
    lines = []
    (tmp_path / PAGE_NAME).write_text("<h1>my holidays</h1>")
    report(tmp_path, warn=lines.append).write()
    assert (tmp_path / PAGE_NAME).read_text() == "<h1>my holidays</h1>"
    assert "is not a gallery" in lines[0]
    (tmp_path / PAGE_NAME).unlink()
    for title in ("first", "second"):
        found = page(report(tmp_path, title=title))
        assert found.all("h1")[0][2] == title


@pytest.mark.parametrize(
    "own",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b'{"items": []}',
        b'{"version": "2.0", "title": "sales", "items": []}',
        b'{"version": 1, "title": "sales", "items": {}}',
    ],
)
def test_own_document(tmp_path, own):
    """A report.json of the user's own is never written over, which is told once; the page is written."""
    lines = []
    (tmp_path / FILE_NAME).write_bytes(own)
    here = report(tmp_path, warn=lines.append)
    here.write()
    here.write()
    assert (tmp_path / FILE_NAME).read_bytes() == own
    assert lines == [f"{tmp_path / FILE_NAME} is not of ours and is left alone"]
    assert here.page == tmp_path / PAGE_NAME


def test_unreadable_document(tmp_path):
    """A report.json that cannot be read may be anybody's, and is left alone."""
    lines = []
    (tmp_path / FILE_NAME).symlink_to(FILE_NAME)  # to itself: no read of it succeeds, whoever reads
    here = report(tmp_path, warn=lines.append)
    here.write()
    assert (tmp_path / FILE_NAME).is_symlink()
    assert lines == [f"{tmp_path / FILE_NAME} is not of ours and is left alone"]
    assert here.page == tmp_path / PAGE_NAME


def test_page(tmp_path):
    """The report says where its page is once there is one, never where there is somebody else's."""
    here = report(tmp_path)
    assert here.page is None
    here.write()
    assert here.page == tmp_path / PAGE_NAME
    (tmp_path / PAGE_NAME).write_text("<h1>my holidays</h1>")
    here = report(tmp_path, warn=str)
    here.write()
    assert here.page is None


def test_what_changed(tmp_path):
    """The page follows an item from one writing to the next."""
    here = report(tmp_path)
    before = page(here).all("span", "state")[0][2]
    here.tell(submitted())
    assert (before, page(here).all("span", "state")[0][2]) == ("not submitted", "generating")
