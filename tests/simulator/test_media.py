"""The finished videos: URLs, ranges, leaks, rendering."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from kling_async.simulator import VideoJob

BASE = "http://127.0.0.1"


def video_path(caller: Any, now: float, **changes: Any):
    """The path of a video finished at *now*."""
    task_id = caller.made(now - 100, **changes)
    return caller.seen(task_id, now)["task_result"]["videos"][0]["url"].removeprefix(BASE)


def fetch(caller: Any, path: str, method: str = "GET", now: float | None = None, **headers: Any):
    """A call of the video route, without credentials."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return caller.simulator.handle(method, path, named, b"", caller.now if now is None else now)


def test_whole_file(kling: Any):
    """A video is a small MP4, another one for each task, with the headers a resuming client needs."""
    first, second = (fetch(kling, video_path(kling, kling.now)) for _ in range(2))
    assert first.status == 200
    assert first.headers["Content-Type"] == "video/mp4"
    assert first.headers["Content-Length"] == str(len(first.body))
    assert first.headers["Accept-Ranges"] == "bytes"
    assert first.body[4:8] == b"ftyp"
    assert first.body != second.body
    assert first.headers["ETag"] != second.headers["ETag"]


def test_same_again(kling: Any):
    """The same URL gives the same bytes."""
    path = video_path(kling, kling.now)
    assert fetch(kling, path) == fetch(kling, path, now=kling.now + 1000)


def test_head(kling: Any):
    """HEAD has the headers of GET and no body."""
    path = video_path(kling, kling.now)
    head, get = fetch(kling, path, "HEAD"), fetch(kling, path)
    assert (head.status, head.headers, head.body) == (200, get.headers, b"")


@pytest.mark.parametrize(
    ("header", "status", "span"),
    [
        ("bytes=0-", 206, slice(0, None)),
        ("bytes=10-", 206, slice(10, None)),
        ("bytes=10-19", 206, slice(10, 20)),
        ("bytes=10-99999", 206, slice(10, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=-99999", 206, slice(0, None)),
        ("bytes=99999-", 416, slice(0, 0)),
        ("bytes=-0", 416, slice(0, 0)),
        ("bytes=9-3", 200, slice(None)),
        ("bytes=0-1,4-5", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
    ],
)
def test_ranges(kling: Any, header: str, status: int, span: slice):
    """One range is served as 206, one that does not exist is 416, anything else is ignored."""
    path = video_path(kling, kling.now)
    whole = fetch(kling, path).body
    reply = fetch(kling, path, range=header)
    assert reply.status == status
    assert reply.body == whole[span]
    if status == 416:
        assert reply.headers["Content-Range"] == f"bytes */{len(whole)}"


@given(st.integers(0, 200), st.integers(0, 200))
def test_parts_make_the_whole(on: Any, first: int, second: int):
    """A download cut anywhere and resumed is the whole file."""
    kling = on()
    path = video_path(kling, kling.now)
    whole = fetch(kling, path).body
    cut, end = sorted((first % len(whole), 1 + second % len(whole)))
    parts = [
        fetch(kling, path, range=f"bytes={cut}-"),
        fetch(kling, path, range=f"bytes={cut}-{max(cut, end - 1)}"),
    ]
    assert whole[:cut] + parts[0].body == whole
    assert parts[0].headers["Content-Range"] == f"bytes {cut}-{len(whole) - 1}/{len(whole)}"
    assert whole[cut:].startswith(parts[1].body)


def test_if_range(kling: Any):
    """A range under another file's ETag is answered with the whole file."""
    path = video_path(kling, kling.now)
    etag = fetch(kling, path).headers["ETag"]
    assert fetch(kling, path, range="bytes=4-", if_range=etag).status == 206
    assert fetch(kling, path, range="bytes=4-", if_range='"other"').status == 200


@pytest.mark.parametrize("header", ["authorization", "Cookie"])
def test_leak(kling: Any, header: str):
    """A credential or a cookie at the video route is refused and told in the ledger."""
    path = video_path(kling, kling.now)
    reply = kling.simulator.handle("GET", path, {header: "sim-key"}, b"", kling.now)
    assert reply.status == 400
    assert kling.simulator.ledger.leaks == [f"{path.partition('?')[0]}: {header.lower()}"]
    assert kling.simulator.ledger.outcomes["download", 400] == 1


def test_only_signed_urls(kling: Any):
    """Without its token, with another's or with a later expiry a video is not served."""
    path = video_path(kling, kling.now)
    bare, _, token = path.partition("?token=")
    other = video_path(kling, kling.now).partition("?token=")[2]
    forged = f"{int(token.partition('-')[0]) + 9}-{token.partition('-')[2]}"
    for wrong in ("", "x", other, forged):
        assert fetch(kling, f"{bare}?token={wrong}").status == 403
    assert fetch(kling, f"/videos/nobody.mp4?token={token}").status == 403


def test_urls_end(on: Any):
    """With `url_valid` a URL dies, and asking the task again gives one that works."""
    kling = on(url_valid=60)
    task_id = kling.made()
    old, new = (
        kling.seen(task_id, kling.now + at)["task_result"]["videos"][0]["url"].removeprefix(BASE)
        for at in (100, 200)
    )
    assert fetch(kling, old, now=kling.now + 159).status == 200
    assert fetch(kling, old, now=kling.now + 160).status == 403
    assert fetch(kling, new, now=kling.now + 200).status == 200


def test_unfinished(on: Any):
    """A video cannot be had before its task has ended."""
    kling = on()
    path = video_path(kling, kling.now)
    assert fetch(kling, path, now=kling.now - 1).status == 403


@pytest.mark.parametrize("face", ["kling", "cometapi"])
def test_scripted_download(on: Any, face: str):
    """Downloads can be refused on request, with a page of HTML whatever the API in front."""
    caller = on(face=face)
    path = video_path(caller, caller.now)
    caller.simulator.refuse("download", 403)
    refused, served = fetch(caller, path), fetch(caller, path)
    assert (refused.status, served.status) == (403, 200)
    assert refused.headers["Content-Type"].startswith("text/html")


def test_rendered_once(on: Any, png: Any):
    """A renderer is given the decoded pictures, and what it made is served from then on."""
    jobs: list[VideoJob] = []

    def render(job: VideoJob):
        jobs.append(job)
        return b"video of " + job.video_id.encode()

    kling = on(render=render)
    path = video_path(kling, kling.now, image=png(640, 480), image_tail="https://cdn.example.org/b.png")
    job = kling.simulator.pending_render(path, kling.now)
    bodies = {fetch(kling, path).body for _ in range(2)}
    assert bodies == {b"video of " + jobs[0].video_id.encode()}
    assert jobs == [job]
    assert (job.seconds, job.tail, job.camera, job.aspect_ratio) == (5.0, None, None, None)
    assert job.images[0].startswith(b"\x89PNG")
    assert kling.simulator.pending_render(path, kling.now) is None


def test_multi_image_job(on: Any, png: Any):
    """A multi-image video has its pictures in order, None for a URL, and an aspect ratio."""
    kling = on(render=lambda _: b"")
    pictures = [{"image": png(640, 480)}, {"image": "https://cdn.example.org/b.png"}]
    body = {"image_list": pictures, "prompt": "two", "duration": "10", "aspect_ratio": "1:1"}
    base = "/v1/videos/multi-image2video"
    task_id = kling.read(kling.call("POST", base, body))["data"]["task_id"]
    later = kling.now + 100
    data = kling.read(kling.call("GET", f"{base}/{task_id}", now=later))["data"]
    job = kling.simulator.pending_render(data["task_result"]["videos"][0]["url"].removeprefix(BASE), later)
    assert [image is None for image in job.images] == [False, True]
    assert (job.seconds, job.aspect_ratio) == (10.0, "1:1")


def test_nothing_to_render(on: Any, kling: Any):
    """Without a renderer, before the end, and for other paths nothing waits to be rendered."""
    path = video_path(kling, kling.now)
    assert kling.simulator.pending_render(path, kling.now) is None
    rendering = on(render=lambda _: b"")
    path = video_path(rendering, rendering.now)
    assert rendering.simulator.pending_render(path, rendering.now - 1) is None
    assert rendering.simulator.pending_render(rendering.base, rendering.now) is None
    assert rendering.simulator.pending_render(path, rendering.now) is not None
