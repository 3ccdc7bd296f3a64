"""The finished videos: what is rendered, what stands in for it, and how the file is served."""

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from attrs import frozen

from kling_async.simulator.messages import Call, Reply


@frozen
class VideoJob:
    """What a renderer needs to make one video.

    Attributes:
        video_id: The video's id.
        images: The submitted pictures decoded, in their order; None for one given as a URL.
        tail: The end frame, None if there is none or it was given as a URL.
        camera: `camera_control` as sent.
        seconds: The length of the video.
        aspect_ratio: As sent, None to follow the picture.
    """

    video_id: str
    images: tuple[bytes | None, ...]
    tail: bytes | None
    camera: Mapping[str, Any] | None
    seconds: float
    aspect_ratio: str | None


Render = Callable[[VideoJob], bytes]


def render_video(job: VideoJob) -> bytes:
    """Render a real MP4; takes CPU seconds and the extra `simulator`.

    A picture of which only the header can be read, as tests make them, is replaced by a drawn one.
    """
    from kling_async.simulator.video import render

    def rendered(images: tuple[bytes | None, ...], tail: bytes | None) -> bytes:
        return render(
            images, tail=tail, camera=job.camera, seconds=job.seconds, aspect_ratio=job.aspect_ratio
        )

    try:
        return rendered(job.images, job.tail)
    except ValueError:
        return rendered((None,), None)


def placeholder(video_id: str, task_id: str) -> bytes:
    """The smallest file that calls itself an MP4, another one for each task."""
    brand = b"isom\x00\x00\x02\x00isommp41"
    text = f"kling-async simulator: task {task_id}, video {video_id}".encode()
    return b"".join(
        (8 + len(content)).to_bytes(4, "big") + name + content
        for name, content in ((b"ftyp", brand), (b"free", text))
    )


def serve_file(call: Call, content: bytes, edition: str = "") -> Reply:
    """Serve *content* to GET or HEAD, whole or the one range asked for (RFC 9110, sections 13 and 14).

    Another *edition* of the same bytes has another ETag.
    """
    etag = f'"{sha256(edition.encode() + content).hexdigest()[:32]}"'
    common = {"ETag": etag, "Accept-Ranges": "bytes"}
    span = _span(call.headers.get("range"), len(content))
    if call.headers.get("if-range", etag) != etag:
        span = None
    if span is None:
        reply = Reply.of(200, "video/mp4", content, common)
    elif not span:
        reply = Reply.of(416, "text/plain", b"", {**common, "Content-Range": f"bytes */{len(content)}"})
    else:
        where = f"bytes {span.start}-{span.stop - 1}/{len(content)}"
        part = content[span.start : span.stop]
        reply = Reply.of(206, "video/mp4", part, {**common, "Content-Range": where})
    return Reply(reply.status, reply.headers, b"") if call.method == "HEAD" else reply


def _span(header: str | None, size: int) -> range | None:
    """The bytes a Range header asks for: None for all of them, empty for none that exist."""
    match = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", header or "")
    if match is None or match[1] == match[2] == "":
        return None
    if not match[1]:
        return range(max(size - int(match[2]), 0), size)
    first = int(match[1])
    last = int(match[2]) if match[2] else size - 1
    if match[2] and last < first:
        return None
    return range(first, min(last + 1, size))
