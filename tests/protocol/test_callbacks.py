"""Callbacks as they arrive: whose they are, and what they say."""

import base64
import contextlib
import hashlib
import hmac
import json

import pytest
from hypothesis import given, strategies as st
from vendors_vector import BODY, HEADERS, SECRET, SIGNED_AT

from kling_async.protocol.callbacks import LARGEST, read
from kling_async.protocol.errors import CallbackError, ConfigurationError
from kling_async.protocol.models import TaskStatus

OTHER = "whsec_b3RoZXJzZWNyZXRvdGhlcnNlY3JldG90aGVyc2VjcmV0"


def test_the_vendors_vector():
    """Kling's own example is verified, and read: the generation that has the model in its path."""
    callback = read(HEADERS, BODY, [SECRET], SIGNED_AT)
    assert (callback.verified, callback.id) == (True, "9876543210")
    assert (callback.task.task_id, callback.task.status) == ("1234567890", TaskStatus.SUCCEED)


def test_the_other_generation():
    """A legacy body: a bare task, its video, its units and the id that we gave it."""
    body = {
        "task_id": "930112233445566778",
        "task_status": "succeed",
        "task_status_msg": "",
        "created_at": 1773366840306,
        "updated_at": 1773366902117,
        "final_unit_deduction": "3.5",
        "task_info": {"external_task_id": "ka-6f0c"},
        "task_result": {"videos": [{"id": "930", "url": "https://media.example.org/v.mp4", "duration": "5"}]},
    }
    callback = read({}, json.dumps(body).encode(), [SECRET], SIGNED_AT)
    assert not callback.verified
    assert (callback.task.external_task_id, str(callback.task.units)) == ("ka-6f0c", "3.5")
    assert callback.task.video.url == "https://media.example.org/v.mp4"


@pytest.mark.parametrize("now", [SIGNED_AT - 300, SIGNED_AT + 300])
def test_five_minutes_are_allowed(now):
    """Clocks may differ, and callbacks be late, by 300 s."""
    assert read(HEADERS, BODY, [SECRET], now).verified


@pytest.mark.parametrize("now", [SIGNED_AT - 301, SIGNED_AT + 301])
def test_older_is_stale(now):
    """One that is caught and sent again later is refused, and one from the future too."""
    with pytest.raises(CallbackError, match="300 s") as caught:
        read(HEADERS, BODY, [SECRET], now)
    assert caught.value.http_status == 401


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, BODY.replace(b"succeeded", b"failed")),
        ({}, BODY + b" "),
        ({"Webhook-Id": "9876543211"}, BODY),
        ({"Webhook-Timestamp": str(SIGNED_AT + 1)}, BODY),
        ({"Webhook-Signature": "v1,AAAA"}, BODY),
        ({"Webhook-Signature": "v2," + HEADERS["Webhook-Signature"][3:]}, BODY),
        ({"Webhook-Signature": HEADERS["Webhook-Signature"][3:]}, BODY),
        ({"Webhook-Signature": ""}, BODY),
        ({"Webhook-Signature": "v1,ключ"}, BODY),
        ({"Webhook-Signature": "v1,\udcff"}, BODY),
        ({"Webhook-Id": "\udcff"}, BODY),
        ({"Webhook-Timestamp": "\udcff"}, BODY),
        ({"Webhook-Id": ""}, BODY),
        ({"Webhook-Timestamp": ""}, BODY),
    ],
)
def test_forged(headers, body):
    """Whatever was changed, left out or made up: 401, whether or not it could have been read."""
    with pytest.raises(CallbackError, match="fits no secret") as caught:
        read(HEADERS | headers, body, [SECRET], SIGNED_AT)
    assert caught.value.http_status == 401


@pytest.mark.parametrize("missing", sorted(HEADERS))
def test_part_of_a_signature_is_none(missing):
    """With two of the three headers it is forged, not unsigned."""
    headers = {name: value for name, value in HEADERS.items() if name != missing}
    with pytest.raises(CallbackError):
        read(headers, BODY, [SECRET], SIGNED_AT)


def test_unsigned_or_unchecked_is_not_verified():
    """No signature, or no secret to check it with: it is read, and believed in nothing."""
    assert not read({}, BODY, [SECRET], SIGNED_AT).verified
    assert not read(HEADERS, BODY, [], SIGNED_AT).verified
    assert not read(HEADERS | {"Webhook-Signature": "v1,AAAA"}, BODY, (), 0).verified


def test_two_secrets_and_two_signatures():
    """While Kling changes to a new secret it signs with both, and we may know either or both."""
    headers = {name.lower(): value for name, value in HEADERS.items()}
    headers["webhook-signature"] = f"v1,AAAA v9,x {HEADERS['Webhook-Signature']}"
    for secrets in ([SECRET], [OTHER, SECRET], [SECRET, OTHER], [SECRET.removeprefix("whsec_")]):
        assert read(headers, BODY, secrets, SIGNED_AT).verified
    with pytest.raises(CallbackError):
        read(headers, BODY, [OTHER], SIGNED_AT)


@pytest.mark.parametrize("timestamp", ["1781080794.5", "٣", "-1", "1e9", " 1781080794"])
def test_a_time_that_is_none(timestamp):
    """Even with the right secret."""
    signed = f"7.{timestamp}.".encode() + BODY
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    headers = {"webhook-id": "7", "webhook-timestamp": timestamp, "webhook-signature": f"v1,{signature}"}
    with pytest.raises(CallbackError, match="300 s"):
        read(headers, BODY, [SECRET], SIGNED_AT)


def test_secrets_are_a_list():
    """One text is no list of secrets: each letter would be one."""
    with pytest.raises(ConfigurationError, match="list"):
        read(HEADERS, BODY, SECRET, SIGNED_AT)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!", "not base64", "whsec_abc"])
def test_a_secret_that_is_none(secret):
    """The service is set up wrongly: told at the first callback, without the secret."""
    with pytest.raises(ConfigurationError) as caught:
        read(HEADERS, BODY, [secret], SIGNED_AT)
    assert secret not in str(caught.value) or secret in ("", "whsec_")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"status": "succeed"}',
        b'{"code": 0, "message": "SUCCEED"}',
        BODY + b"{}",
        BODY.replace(b'"message":""', b'"message":"","external_id":"%b"' % (b"x" * 513)),
        b"[" * 100_000,
        *(
            b'{"task_id": "%b", "task_status": "succeed"}' % name
            for name in (b"../../etc/passwd", b"a/b", b"..", b"a b", b"a\\\\b", b"%2e%2e", b"1" * 129)
        ),
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_is_no_callback(body):
    """400: no JSON, no task, or an id that no task has and that would lead elsewhere in a path."""
    with pytest.raises(CallbackError) as caught:
        read({}, body, [], SIGNED_AT)
    assert caught.value.http_status == 400


def test_size_is_bounded():
    """413, before anything is looked at."""
    with pytest.raises(CallbackError) as caught:
        read(HEADERS, b" " * (LARGEST + 1), [SECRET], SIGNED_AT)
    assert caught.value.http_status == 413
    assert read({}, BODY + b" " * (LARGEST - len(BODY)), [], SIGNED_AT).task.task_id == "1234567890"


@given(headers=st.dictionaries(st.sampled_from(sorted(HEADERS)), st.text(st.characters())), body=st.binary())
def test_nothing_else_is_raised(headers, body):
    """Whatever arrives is read or is a `CallbackError`."""
    with contextlib.suppress(CallbackError):
        assert not read(headers, body, [SECRET], SIGNED_AT).verified
