"""Requests <-> plain mappings, by cattrs; the only module that knows it.

Decisions:

- The mapping's names are the API's own; nothing is renamed.
- A field at its default is left out, so None is never sent; 0 and False are. ``model_name`` is always sent.
- Written are the API's own forms: ``watermark_info`` as ``{"enabled": true}``, lists of
  ``{"element_id": 161}``, ``{"voice_id": "a"}``, ``{"image": "..."}``. Read are these and the short forms.
- Reading, cattrs takes nested objects apart and nothing else: whether a value is right is the models' to say,
  so that a request from a manifest and one from Python are refused in the same words.
- Unknown names are refused at every depth, with the closest known one.
- null means not given.
- Pictures stay what they are in `to_body`; in `request_to_dict` a `Path` becomes text and bytes base64.
"""

import base64
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import attrs
import cattrs
from cattrs.cols import list_structure_factory
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from kling_async.protocol.errors import Problem, RequestError
from kling_async.protocol.models import ImageToVideo, MultiImageToVideo, VideoRequest
from kling_async.protocol.naming import closest

__all__ = ["request_from", "request_to_dict", "to_body"]

_KINDS: Final[Mapping[str, type[VideoRequest]]] = {
    kind.endpoint: kind for kind in (ImageToVideo, MultiImageToVideo)
}


def to_body(request: VideoRequest) -> dict[str, Any]:
    """The fields of *request* in the API's forms, without ``extra_body``; a new mapping of new lists."""
    body: dict[str, Any] = _converter.unstructure(request)
    return body


def request_to_dict(request: VideoRequest) -> dict[str, Any]:
    """*request* as JSON-safe values: what `request_from` reads."""
    fields: dict[str, Any] = _json_safe(to_body(request))
    return fields if request.extra_body is None else {**fields, "extra_body": dict(request.extra_body)}


def request_from(mapping: Mapping[str, Any], *, endpoint: str | None = None) -> VideoRequest:
    """The request that *mapping* describes, in the API's field names and any documented form.

    Args:
        mapping: the fields.
        endpoint: ``image2video`` or ``multi-image2video``; left out, ``image_list`` decides.

    Raises:
        RequestError: with every problem, unknown names among them.
    """
    if endpoint is None:
        endpoint = "multi-image2video" if "image_list" in mapping else "image2video"
    kind = _KINDS.get(endpoint)
    if kind is None:
        raise RequestError(problems=[Problem("endpoint", f"must be one of {', '.join(_KINDS)}")])
    known = {field.name: field.type for field in attrs.fields(kind)}
    problems = [_unknown("", str(name), known, mapping) for name in mapping if name not in known]
    values: dict[str, Any] = {} if kind is ImageToVideo else {"image_list": ()}
    for name, annotation in known.items():
        if (value := mapping.get(name)) is not None:
            values[name] = _structured(name, value, annotation, problems)
    try:
        request = kind(**values)
    except RequestError as error:
        problems.extend(problem for problem in error.problems if not _is_told(problem, problems))
    else:
        if not problems:
            return request
    raise RequestError(problems=problems)


def _structured(field: str, value: Any, annotation: Any, problems: list[Problem]) -> Any:
    """*value* with its objects structured. What cannot be is left as it is and told of in *problems*."""
    item = _item_of(annotation)
    if item is not None and isinstance(value, list | tuple):
        return [_structured(f"{field}[{n}]", entry, item, problems) for n, entry in enumerate(value)]
    try:
        return _converter.structure(value, annotation)
    except (cattrs.BaseValidationError, TypeError) as error:
        problems.extend(_problems(field, error))
        return value


def _item_of(annotation: Any) -> Any:
    """The class of object that a list holds, or None if *annotation* is no list of objects."""
    for part in (annotation, *get_args(annotation)):
        if get_origin(part) is tuple and attrs.has(get_args(part)[0]):
            return get_args(part)[0]
    return None


def _is_told(problem: Problem, told: list[Problem]) -> bool:
    """Whether a model's *problem* only repeats that something in this field could not be structured."""
    inner = (f"{problem.field}.", f"{problem.field}[")
    return any(other.field == problem.field or other.field.startswith(inner) for other in told)


def _problems(field: str, error: BaseException) -> Iterator[Problem]:
    """What cattrs found, as problems with dotted fields."""
    match error:
        case ClassValidationError():
            named, others = error.group_exceptions()
            for inner, note in named:
                yield from _problems(f"{field}.{note.name}", inner)
        case IterableValidationError():
            listed, others = error.group_exceptions()
            for inner, place in listed:
                yield from _problems(f"{field}[{place.index}]", inner)
        case ForbiddenExtraKeysError(cl=kind, extra_fields=names):
            known = [attribute.name for attribute in attrs.fields(kind)]
            yield from (_unknown(f"{field}.", str(name), known) for name in sorted(names, key=str))
            return
        case KeyError():
            yield Problem(field, "is required")
            return
        case _:
            yield Problem(field, str(error))
            return
    for inner in others:
        yield from _problems(field, inner)


def _unknown(prefix: str, name: str, known: Collection[str], given: Collection[str] = ()) -> Problem:
    meant = closest(name.lower(), known, given)
    return Problem(f"{prefix}{name}", f"no such field{f'; did you mean {meant}?' if meant else ''}")


def _json_safe(value: Any) -> Any:
    match value:
        case dict():
            return {name: _json_safe(item) for name, item in value.items()}
        case list():
            return [_json_safe(item) for item in value]
        case Path():
            return str(value)
        case bytes():
            return base64.b64encode(value).decode()
        case _:
            return value


def _holds_objects(annotation: Any) -> bool:
    return attrs.has(annotation) or any(map(_holds_objects, get_args(annotation)))


def _read_object(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    read = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise TypeError(f"must be an object, not {type(value).__name__}")
        return read({name: item for name, item in value.items() if item is not None}, kind)

    return structure


def _read_objects(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    read = list_structure_factory(kind, converter)

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise TypeError(f"must be a list, not {type(value).__name__}")
        return read(value, kind)

    return structure


def _write_request(kind: Any, converter: cattrs.Converter) -> Callable[[Any], dict[str, Any]]:
    special: dict[str, Any] = {
        "model_name": override(omit_if_default=False),
        "extra_body": override(omit=True),
        "watermark_info": override(unstruct_hook=lambda enabled: {"enabled": enabled}),
        "element_list": override(unstruct_hook=lambda ids: [{"element_id": id_} for id_ in ids]),
        "voice_list": override(unstruct_hook=lambda ids: [{"voice_id": id_} for id_ in ids]),
        "image_list": override(unstruct_hook=lambda pictures: [{"image": picture} for picture in pictures]),
    }
    names = {field.name for field in attrs.fields(kind)}
    return make_dict_unstructure_fn(
        kind,
        converter,
        _cattrs_omit_if_default=True,
        **{name: how for name, how in special.items() if name in names},
    )


def _as_it_is(value: Any, _: Any) -> Any:
    return value


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(omit_if_default=True, unstruct_collection_overrides={tuple: list})
    converter.register_unstructure_hook(Path, lambda path: path)
    converter.register_unstructure_hook_factory(lambda kind: kind in _KINDS.values(), _write_request)
    converter.register_structure_hook_factory(attrs.has, _read_object)
    converter.register_structure_hook_factory(lambda kind: _item_of(kind) is not None, _read_objects)
    converter.register_structure_hook_func(lambda kind: not _holds_objects(kind), _as_it_is)
    for kind in (bool, bytes, float, int, str):  # else cattrs would make 1 of 1.5 and "5" of 5
        converter.register_structure_hook(kind, _as_it_is)
    return converter


_converter: Final = _make_converter()
