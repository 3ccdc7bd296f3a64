"""What the commands have in common: where to send, how to tell, and the fields of a request."""

import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import attrs
from cyclopts import Group, Parameter
from dotenv import dotenv_values

from kling_async.cli.screen import Screen
from kling_async.client import KlingClient
from kling_async.journal import Record
from kling_async.paths import at_home
from kling_async.protocol import auth, environment
from kling_async.protocol.auth import Credentials
from kling_async.protocol.errors import ConfigurationError, RequestError
from kling_async.protocol.models import DEFAULT_MODEL
from kling_async.protocol.providers import Provider

__all__ = ["Common", "Fields", "folder_for", "model_help", "require_place"]

model_help = f"the model; image2video's default is {DEFAULT_MODEL}"


@attrs.frozen(kw_only=True)
class Common:
    """The options that every command takes."""

    env_file: Path | None = None
    provider: str | None = None
    base_url: str | None = None
    screen: Screen = attrs.field(factory=Screen)

    def env(self) -> Mapping[str, str]:
        """The environment, what the file adds to it, and the base URL.

        Raises:
            ConfigurationError: there is no such file, or it cannot be read.
        """
        env = dict(os.environ)
        if self.env_file is not None:
            try:
                with at_home(self.env_file).open(encoding="utf-8-sig") as lines:
                    values = dotenv_values(stream=lines, interpolate=False)
            except (OSError, UnicodeDecodeError) as error:
                what = getattr(error, "strerror", None) or "it is no UTF-8"
                raise ConfigurationError(f"{self.env_file} cannot be read: {what}") from error
            env = {name: value for name, value in values.items() if value is not None} | env
        if self.base_url is not None:
            env["KLING_BASE_URL"] = self.base_url
        return env

    def client(self, **options: Any) -> KlingClient:
        """The client that environment and options describe."""
        return KlingClient.from_env(self.provider, self.env(), **options)

    def where(self, *, needs_key: bool = True) -> Provider:
        """Whom `client` talks to; Kling, where nothing says and no key is needed."""
        if needs_key:
            return environment.choose(self.env(), self.provider)[1]
        return environment.without_key(self.env(), self.provider)

    def is_ours(self, provider: Provider) -> Callable[[Record], bool]:
        """Whether the client of these options goes on with a task of a journal."""
        try:
            ours = auth.account(self.credentials()), urlsplit(provider.base_url).netloc
        except ConfigurationError:  # a dry run needs no key
            return lambda record: record.host == urlsplit(provider.base_url).netloc
        return lambda record: (record.account, record.host) == ours

    def credentials(self) -> Credentials:
        """The credential `client` uses."""
        return environment.choose(self.env(), self.provider)[0]

    def again(self, *words: str) -> str:
        """A command line with the options that find the same account."""
        given = (("--env-file", self.env_file), ("--provider", self.provider), ("--base-url", self.base_url))
        options = [part for name, value in given if value is not None for part in (name, str(value))]
        return shlex.join(["kling-async", *words, *options])


def _choice(name: str, help_: str) -> Parameter:
    return Parameter(name=name, negative="", help=help_, show_default=False)


@Parameter(name="*", group=Group("Fields of the request", sort_key=5))
@attrs.frozen(kw_only=True)
class Fields:
    """The fields of a request that have an option; all others can stand in a manifest."""

    model_name: Annotated[str | None, _choice("--model-name", model_help)] = None
    mode: Annotated[str | None, _choice("--mode", "std (720p), pro (1080p) or 4k")] = None
    duration: Annotated[str | None, _choice("--duration", "whole seconds; 5 if left out")] = None
    image_tail: Annotated[str | None, _choice("--image-tail", "the end frame: a path or a URL")] = None
    negative_prompt: Annotated[str | None, _choice("--negative-prompt", "what must not be seen")] = None
    sound: Annotated[str | None, _choice("--sound", "on or off; off if left out")] = None
    cfg_scale: Annotated[
        float | None,
        _choice("--cfg-scale", "0 to 1: how closely the prompt is followed; kling-v1 models only"),
    ] = None
    camera: Annotated[
        str | None,
        _choice(
            "--camera",
            "axis=value, as zoom=-5, or down_back, forward_up, right_turn_forward, left_turn_forward; "
            "kling-v1 models only",
        ),
    ] = None
    watermark: Annotated[bool, _choice("--watermark", "a watermarked copy is made too")] = False

    def given(self, prompt: str | None) -> dict[str, Any]:
        """The fields that were given, in the API's names.

        Raises:
            RequestError: the camera movement has no number.
        """
        fields = {"prompt": prompt} | attrs.asdict(self)
        fields["camera_control"] = _camera(fields.pop("camera"))
        fields["watermark_info"] = fields.pop("watermark") or None
        return {name: value for name, value in fields.items() if value is not None}


def _camera(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    axis, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        return {"type": axis}
    try:
        return {"type": "simple", "config": {axis: float(value)}}
    except ValueError:
        raise RequestError(f"--camera {text}: {value!r} is no number") from None


def folder_for(path: Path) -> Path:
    """The folder, made if need be: a place that cannot be written to is found before anything is paid.

    Raises:
        RequestError: it is a file, or may not be made or written to.
    """
    require_place(path)
    folder = at_home(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{folder} cannot be a folder: {error.strerror or error}", advice="") from error
    return folder


def require_place(path: Path) -> None:
    """Refuse a place where no folder can be made or written to, as far as that is seen without making it.

    Raises:
        RequestError: it, or the nearest thing there above it, is no folder or may not be written to.
    """
    folder = at_home(path)
    there = next(filter(os.path.lexists, (folder, *folder.absolute().parents)), folder)
    if not there.is_dir():
        raise RequestError(f"{folder} cannot be a folder: {there} is none", advice="")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RequestError(f"{there} cannot be written to", advice="")
