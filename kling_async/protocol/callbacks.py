"""Callbacks as they arrive: headers and bytes in, the task they tell of and whether Kling wrote them out."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from kling_async.protocol.auth import check_signature
from kling_async.protocol.errors import CallbackError
from kling_async.protocol.models import Task
from kling_async.protocol.replies import read_callback

__all__ = ["LARGEST", "Callback", "read"]

LARGEST: Final = 256 * 1024
"""Bytes of a callback at most: those documented have one, and a task of fifteen shots has ten thousand."""

_TASK_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_LONGEST_NAME: Final = 512
"""Letters of an external_task_id at most; ours have 29, and no limit is documented."""


@attrs.frozen(kw_only=True)
class Callback:
    """What Kling posts to a ``callback_url`` when a task's status changes (API reference, callbacks).

    Attributes:
        task: the task as it stood then.
        verified: Kling signed it. Without that anyone may have written it: believe nothing in it.
        id: the ``webhook-id``; the same one is the same callback, sent again.
    """

    task: Task
    verified: bool
    id: str | None = None


def read(headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: float) -> Callback:
    """What a callback says, of either generation of the API.

    Args:
        headers: of the HTTP request, in any case.
        body: its bytes as they came: a signature is over those.
        secrets: the webhook secrets of the console, ``whsec_...``; the old one too while Kling changes to a
            new one. None for a gateway: a signature there is made with its secret, never with yours.
        now: Unix seconds.

    Returns:
        The callback. It is verified only where a signature fits one of *secrets*: without secrets, or
        without a signature, it is not.

    Raises:
        CallbackError: it is forged or older or newer than 300 s (``http_status`` 401), over 256 KiB (413),
            not JSON or of no task (400).
        ConfigurationError: a secret is none.
    """
    if len(body) > LARGEST:
        raise CallbackError(f"the callback is larger than {LARGEST} bytes", http_status=413)
    lowered = {name.lower(): value for name, value in headers.items()}
    verified = check_signature(lowered, body, secrets, now)
    task = read_callback(body)
    if task.task_id is not None and not _TASK_ID.fullmatch(task.task_id):
        raise CallbackError("the callback's task_id is none")
    if len(task.external_task_id or "") > _LONGEST_NAME:
        raise CallbackError("the callback's external_task_id is none")
    return Callback(task=task, verified=verified, id=lowered.get("webhook-id"))
