"""What prompts refer to: ``<<<voice_1>>>``, ``<<<element_1>>>``, ``<<<image_1>>>``, counted from 1."""

import re
from collections.abc import Iterator
from typing import Final

from kling_async.protocol.cells import Model
from kling_async.protocol.findings import Finding
from kling_async.protocol.models import ImageToVideo

__all__ = ["prompt_findings"]

_ENTRY: Final = re.compile(r"<<<(voice|element)_([0-9]{1,9})>>>")
_PICTURE: Final = re.compile(r"<<<image_([0-9]{1,9})>>>")


def prompt_findings(
    request: ImageToVideo, model: Model, source: str, *, is_silent: bool
) -> Iterator[Finding]:
    """Whether each prompt is read, what it refers to is given, and voices are heard.

    Args:
        request: whose prompts.
        model: what makes the video.
        source: where the rules stand.
        is_silent: whether the video has no sound, whatever is asked for.
    """
    speaks = bool(request.voice_list)
    for field, prompt in _prompts(request):
        if "<<<" in prompt:
            speaks = speaks or "<<<voice_" in prompt
            yield from _lost_entries(request, model, source, field, prompt)
            yield from _lost_pictures(request, source, field, prompt)
    if request.multi_prompt and request.shot_type == "intelligence":
        message = "is read with shot_type customize alone: give that, or leave it out"
        yield Finding("multi_prompt", "warning", message, source)
    elif request.multi_prompt and request.prompt:
        message = "is ignored where the shots are customized: write it into their prompts"
        yield Finding("prompt", "warning", message, source)
    # who cannot have a voice at all is not told to turn on the sound
    can_speak = model.cells["voice_list"].letters["", ""] != "-" and not is_silent
    if speaks and request.sound in (None, "off") and can_speak:
        yield Finding("sound", "error", "must be on for a voice to be heard", source)


def _prompts(request: ImageToVideo) -> Iterator[tuple[str, str]]:
    """Every prompt of *request*, each with its dotted field."""
    if request.prompt:
        yield "prompt", request.prompt
    for place, shot in enumerate(request.multi_prompt or ()):
        yield f"multi_prompt[{place}].prompt", shot.prompt


def _lost_entries(
    request: ImageToVideo, model: Model, source: str, field: str, prompt: str
) -> Iterator[Finding]:
    """References beyond the end of their list; what `extra_body` has is not looked into."""
    for name, number in dict.fromkeys(_ENTRY.findall(prompt)):
        given = (request.voice_list if name == "voice" else request.element_list) or ()
        if f"{name}_list" in (request.extra_body or {}) or 1 <= int(number) <= len(given):
            continue
        what = f"refers to <<<{name}_{number}>>>"
        entries = "entry" if len(given) == 1 else "entries"
        message = f"{what}, and {name}_list has {len(given) or 'no'} {entries}: give it, or take it out"
        if model.cells[f"{name}_list"].letters["", ""] == "-":
            message = f"{what}, and {model.name} takes no {name}_list: take it out"
        yield Finding(field, "error", message, source)


def _lost_pictures(request: ImageToVideo, source: str, field: str, prompt: str) -> Iterator[Finding]:
    """References to more pictures than the request has, as far as that is documented."""
    count = sum(each is not None for each in (request.image, request.image_tail))
    for number in dict.fromkeys(_PICTURE.findall(prompt)):
        if not 1 <= int(number) <= count:
            given = "1 picture is" if count == 1 else f"{count} pictures are"
            message = f"refers to <<<image_{number}>>>, and {given} given: take it out"
            yield Finding(field, "warning", message, source)
