"""What each model and provider takes: the map is data, and this is how a request is held against it.

The data are ``capabilities.toml``, handed in as a mapping. What the map says is told as a `Finding`: an error
is certainly refused by Kling or comes out wrong, a warning is doubted by somebody. What no documentation
knows, a model, a mode or another word, is never refused: maps drift (API reference, capability map).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, cast

import attrs

from kling_async.protocol.cells import FEATURES, Model
from kling_async.protocol.findings import Finding
from kling_async.protocol.models import ImageToVideo, MultiImageToVideo, VideoRequest
from kling_async.protocol.providers import Provider
from kling_async.protocol.references import prompt_findings

__all__ = ["Capabilities", "Deviation"]

_NAMES: Final = frozenset({"model", "model_name"})
_DECISIVE: Final = _NAMES | {"mode", "duration", "sound"}
"""What the map goes by; where `extra_body` holds one of them, nothing can be said."""

_OURS: Final = frozenset({ImageToVideo.endpoint, MultiImageToVideo.endpoint})
"""The endpoints that this package speaks."""


@attrs.frozen
class Deviation:
    """What a provider reads otherwise than Kling's documentation says.

    Attributes:
        source: where that stands.
        doubted: fields that may be dropped, ``fields``, each with why, a clause; ``{provider}`` stands for
            its name.
        requires: fields that it wants given.
        words: the words that it documents, by field.
        longest: the characters that it documents, by field.
        fewest: the entries that it wants at least, by field.
    """

    source: str
    doubted: Sequence[Mapping[str, Any]] = ()
    requires: Sequence[str] = ()
    words: Mapping[str, Sequence[str]] = MappingProxyType({})
    longest: Mapping[str, int] = MappingProxyType({})
    fewest: Mapping[str, int] = MappingProxyType({})

    def findings(self, request: VideoRequest, name: str) -> Iterator[Finding]:
        """What is doubtful about *request* at the provider called *name*."""
        for field, why in self.doubts(name):
            if getattr(request, field) and getattr(request, field) != "off":
                yield Finding(field, "warning", why, self.source)
        for field in self.requires:
            if getattr(request, field) is None:
                yield Finding(field, "warning", f"is required by {name}: give it", self.source)
        for field, known in self.words.items():
            word = getattr(request, field)
            if word is not None and word not in known:
                message = f"is {word}, and {name} documents {_or(known)} alone: give that"
                yield Finding(field, "warning", message, self.source)
        for field, most in self.longest.items():
            length = len(getattr(request, field) or "")
            if length > most:
                message = f"has {length} characters, {name} documents at most {most}: shorten it"
                yield Finding(field, "warning", message, self.source)
        for field, least in self.fewest.items():
            count = len(getattr(request, field))
            if count < least:
                entries = "entry" if count == 1 else "entries"
                message = f"has {count} {entries}, {name} documents at least {least}: give more"
                yield Finding(field, "warning", message, self.source)

    def doubts(self, name: str) -> Iterator[tuple[str, str]]:
        """Each field that may be dropped by the provider called *name*, with why."""
        for each in self.doubted:
            why = each["why"].replace("{provider}", name)
            yield from ((field, why) for field in each["fields"])


@attrs.frozen
class Capabilities:
    """The map.

    Attributes:
        models: by name, the oldest first.
        multi: what multi-image2video takes, whatever the model.
        renamed: what Kling's new API calls models, and their names here.
        renamed_source: where that stands.
        limits: the most ``characters`` of a text and ``entries`` of a list, by dotted field; ``source``.
        words: the words that documentation knows, by dotted field.
        words_source: where those stand, and what else holds for every model.
        deviations: what providers read otherwise, by name or dialect and endpoint.
        text2video: what models take otherwise where they are given no picture, in words, with its source.
    """

    models: Mapping[str, Model]
    multi: Model
    renamed: Mapping[str, str]
    renamed_source: str
    limits: Mapping[str, Any]
    words: Mapping[str, Sequence[str]]
    words_source: str
    deviations: Mapping[tuple[str, str], Deviation]
    text2video: Mapping[str, Any]

    def of(self, endpoint: str) -> list[Model]:
        """The models that an endpoint takes, the oldest first."""
        return [model for model in self.models.values() if endpoint in model.endpoints]

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> "Capabilities":
        """The map in *data*, which has the form of ``capabilities.toml``.

        Raises:
            KeyError: a part is missing, or a source has no text.
            ValueError: a cell has too few or too many letters, or another one.
        """
        sources = data["sources"]
        models = {name: Model.from_mapping(name, table, sources) for name, table in data["models"].items()}
        endpoint = MultiImageToVideo.endpoint
        several = dict.fromkeys(FEATURES, "-") | {"resolutions": ()} | data[endpoint]
        return cls(
            models=models,
            multi=Model.from_mapping(endpoint, several, sources),
            renamed=data["renamed"]["names"],
            renamed_source=sources[data["renamed"]["source"]],
            limits=MappingProxyType(data["limits"] | {"source": sources[data["limits"]["source"]]}),
            words=data["words"],
            words_source=sources["create"],
            deviations={
                (name, endpoint): Deviation(**table | {"source": sources[table["source"]]})
                for name, endpoints in data["providers"].items()
                for endpoint, table in endpoints.items()
            },
            text2video=MappingProxyType(
                data["text2video"] | {"source": sources[data["text2video"]["source"]]}
            ),
        )

    def findings(self, request: VideoRequest, provider: Provider) -> list[Finding]:
        """What the map says about *request*, errors and doubts, in the order of its rules.

        A model that is not in the map has no finding of it, only those of the provider. Where `extra_body`
        sets what the map goes by (model, mode, duration, sound), it says nothing of what depends on that.

        Args:
            request: its shape is in order, or it could not have been made.
            provider: where it shall go.
        """
        found: list[Finding] = []
        extra = request.extra_body or {}
        model = self.models.get(request.model_name)
        if model is None:
            found += self._renamed(request)
        elif _NAMES.isdisjoint(extra):
            found += self._endpoint(model, request)
            if _OURS.isdisjoint(model.endpoints):
                return found
        if model is not None and _DECISIVE.isdisjoint(extra):
            found += self._basics(self.multi if isinstance(request, MultiImageToVideo) else model, request)
            if isinstance(request, ImageToVideo):
                found += self._features(model, request)
                silent = bool(_silent(model, request))
                found += prompt_findings(request, model, self.words_source, is_silent=silent)
        if deviation := self.deviation(provider, request.endpoint):
            found += deviation.findings(request, provider.name)
        return found

    def deviation(self, provider: Provider, endpoint: str) -> Deviation | None:
        """How *provider* reads requests to *endpoint*, where that is not as the map says."""
        own = self.deviations.get((provider.name, endpoint))
        return own or self.deviations.get((provider.dialect, endpoint))

    def _renamed(self, request: VideoRequest) -> Iterator[Finding]:
        """Whether a name that is not in the map is the new API's."""
        name = self.renamed.get(request.model_name)
        if name is None:
            return
        message = f"is what Kling's new API calls {name}"
        if _OURS.isdisjoint(self.models[name].endpoints):
            message += ", which this package does not speak: take another"
        else:
            message += ": give that name"
        yield Finding("model_name", "warning", message, self.renamed_source)

    def _endpoint(self, model: Model, request: VideoRequest) -> Iterator[Finding]:
        """Whether the endpoint takes the model, and whether it may still be had."""
        names = _or([each.name for each in self.of(request.endpoint) if _is_offered(each, request.endpoint)])
        if _OURS.isdisjoint(model.endpoints):
            message = f"belongs to {_or(model.endpoints)}, which this package does not speak: take {names}"
            yield Finding("model_name", "error", message, model.source)
        elif request.endpoint not in model.endpoints:
            message = f"is not documented for {request.endpoint}, only {names} is"
            yield Finding("model_name", "warning", message, self.multi.source)
        elif not _is_offered(model, request.endpoint):
            yield Finding("model_name", "warning", f"{model.retired}: take {names}", model.retired_source)

    def _basics(self, model: Model, request: VideoRequest) -> Iterator[Finding]:
        """Mode, duration, and words that nobody documents."""
        yield from self._mode(model, request)
        if request.duration is not None and request.duration not in model.durations:
            others = self._others(request.endpoint, lambda each: request.duration in each.durations)
            message = f"must be {_or(model.durations)} with {model.name}{others}"
            yield Finding("duration", "error", message, model.source)
        for field, known in self.words.items():
            word = _word(request, field)
            if word is not None and word not in known:
                message = f"is {word[:40]!r}, a word that no documentation knows: give {_or(known)}"
                yield Finding(field, "warning", message, self.words_source)

    def _mode(self, model: Model, request: VideoRequest) -> Iterator[Finding]:
        mode = request.mode
        if mode is None or mode in model.modes:
            return
        letter = model.mode.letters.get((mode, ""))
        if letter == "?":
            message = f"{mode} may be refused or ignored by {model.name}: {model.mode.note}"
            yield Finding("mode", "warning", message, model.mode.source)
        elif letter == "-":
            others = self._others(request.endpoint, lambda each: mode in each.modes)
            need = f"must be {_or(model.modes)}" if model.modes else "must be left out"
            yield Finding("mode", "error", f"{need} with {model.name}{others}", model.mode.source)

    def _features(self, model: Model, request: ImageToVideo) -> Iterator[Finding]:
        """Everything that a model takes in some modes and durations, or not at all."""
        at, silent = _column(model, request), _silent(model, request)
        for feature, field in _used(request):
            cell = model.cells[feature]
            letter = cell.letters[at]
            if letter == "-":
                yield Finding(field, "error", self._remedy(model, feature, at), cell.source)
            elif letter == "?":
                message = f"may be refused or ignored by {model.name}: {cell.note}"
                yield Finding(field, "warning", message, cell.source)
            elif cell.only and _word(request, f"{field}.type") in set(self.words[f"{field}.type"]).difference(
                cell.only
            ):
                message = f"must be {_or(cell.only)} with {model.name}"
                yield Finding(f"{field}.type", "error", message, cell.source)
        if silent and request.sound == "on" and model.cells["sound"].letters[at] != "-":
            message = f"must be off where {model.name} is given {silent}"
            yield Finding("sound", "error", message, model.source)
        if silent and request.voice_list and model.cells["voice_list"].letters[at] != "-":
            message = f"must be left out where {model.name} is given {silent}: that video is silent"
            yield Finding("voice_list", "error", message, model.source)
        if request.element_list and request.voice_list and model.cells["voice_list"].letters[at] != "-":
            message = "excludes voice_list, say the pages, though one of Kling's samples has both"
            yield Finding("element_list", "warning", message, self.words_source)

    def _remedy(self, model: Model, feature: str, at: tuple[str, str]) -> str:
        """How *model* takes what it refuses at a mode and duration, or else which model does."""
        (mode, seconds), name, cell = at, model.name, model.cells[feature]
        taken = set(cell.taken())
        modes = [each for each in model.modes if (each, seconds) in taken]
        durations = [each for each in model.durations if (mode, each) in taken]
        if modes:
            return f"needs mode {_or(modes)} with {name}"
        if durations:
            return f"needs duration {_or(durations)} with {name}"
        pairs = [f"mode {a}, duration {b}" for a in model.modes for b in model.durations if (a, b) in taken]
        if pairs:
            return f"needs {_or(pairs)} with {name}"
        if feature == "end_frame":
            frames = model.cells["start_end_frame"]
            if any(frames.taken()):
                also = "" if frames.letters[at] in "Ys" else self._remedy(model, "start_end_frame", at)
                return f"alone is not taken by {name}: give image too{also and f', which {also}'}"
            return f"is not taken by {name}: give the picture as image"
        if cell.note and cell.letters["", ""] == "-":
            return f"is not taken by {name}: {cell.note}"
        perhaps = [f"mode {a}, duration {b}" for a, b in cell.taken("?") if a and b]
        if perhaps:
            return f"is not taken by {name}, but perhaps with {_or(perhaps)}"
        others = self._others(ImageToVideo.endpoint, lambda each: any(each.cells[feature].taken()))
        return f"is not taken by {name}{others}"

    def _others(self, endpoint: str, does: Callable[[Model], bool]) -> str:
        """Which models do what one does not, as the end of a clause; retired ones for want of others."""
        able = [each for each in self.of(endpoint) if does(each)]
        current = [each.name for each in able if _is_offered(each, endpoint)]
        if current:
            return f"; {_or(current)} takes it"
        if able:
            return f"; only {_or([each.name for each in able])} took it: leave it out"
        return ""


def _column(model: Model, request: ImageToVideo) -> tuple[str, str]:
    """The mode and duration that *request* has in the cells of *model*; empty where it has no such."""
    mode, seconds = request.mode or "std", request.duration or "5"
    return mode if mode in model.modes else "", seconds if seconds in model.durations else ""


def _used(request: ImageToVideo) -> Iterator[tuple[str, str]]:
    """The features that *request* asks for, each with the field that does."""
    if request.image_tail is not None:
        yield "end_frame" if request.image is None else "start_end_frame", "image_tail"
    if request.sound == "on":
        yield "sound", "sound"
    if request.cfg_scale is not None:
        yield "cfg_scale", "cfg_scale"
    if request.static_mask is not None:
        yield "motion_brush", "static_mask"
    if request.dynamic_masks:
        yield "motion_brush", "dynamic_masks"
    if request.camera_control is not None:
        yield "camera_control", "camera_control"
    if request.multi_shot:
        yield "multi_shot", "multi_shot"
    if request.element_list:
        yield "element_list", "element_list"
    if request.voice_list:
        yield "voice_list", "voice_list"


def _silent(model: Model, request: ImageToVideo) -> str:
    """The field for which *model* makes a silent video; empty where it need not."""
    at = _column(model, request)
    return next((field for name, field in _used(request) if model.cells[name].letters[at] == "s"), "")


def _is_offered(model: Model, endpoint: str) -> bool:
    """Whether *model* may be had; multi-image2video has no other, whatever is told of it elsewhere."""
    return not model.retired or endpoint == MultiImageToVideo.endpoint


def _word(request: VideoRequest, field: str) -> str | None:
    """What *request* says in a dotted *field*; None where it has no such field or says nothing."""
    value: Any = request
    for name in field.split("."):
        value = getattr(value, name, None)
    return cast("str | None", value)


def _or(words: Sequence[str]) -> str:
    """*words* as a choice: ``5 or 10``; numbers without gaps as ``3 to 15``."""
    *first, last = words
    if len(words) > 2 and last.isdecimal() and int(last) - int(words[0]) == len(words) - 1:
        return f"{words[0]} to {last}"
    return f"{', '.join(first)} or {last}" if first else last
