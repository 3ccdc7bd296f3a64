"""Who may call: API keys and signed tokens, judged by the time given."""

import hmac
import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import given, strategies as st

NOW = 1_800_000_000


def signed(claims: dict[str, Any], *, key: bytes = b"sim-secret", algorithm: str = "HS256"):
    """A token, built by hand."""

    def part(value: Any):
        return urlsafe_b64encode(value).rstrip(b"=")

    head = json.dumps({"alg": algorithm, "typ": "JWT"}).encode()
    text = part(head) + b"." + part(json.dumps(claims).encode())
    return (text + b"." + part(hmac.digest(key, text, "sha256"))).decode()


CLAIMS = {"iss": "sim-access", "exp": NOW + 1800, "nbf": NOW - 5}


def asked(kling: Any, authorization: str | None, now: float = NOW):
    """Status and code of a list call with this Authorization header, None for none."""
    headers = {} if authorization is None else {"Authorization": authorization}
    return kling.outcome(kling.simulator.handle("GET", kling.base, headers, b"", now))


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, 1001),
        ("", 1001),
        ("Bearer", 1002),
        ("Bearer ", 1002),
        ("Bearer  sim-key", 1002),
        ("Bearer sim-key ", 1002),
        ("bearer sim-key", 1002),
        ("Token sim-key", 1002),
        ("sim-key", 1002),
        ("Bearer someone-else", 1002),
        ("Bearer a.b.c", 1002),
        ("Bearer ä.ö.ü", 1002),
        ("Bearer e30.e30.e30", 1002),
        ("Bearer W10.W10.W10", 1002),
    ],
)
def test_bad_header(kling: Any, authorization: str | None, code: int):
    """No header is 1001, anything but `Bearer`, one space and a good token 1002, with HTTP 401."""
    assert asked(kling, authorization) == (401, code)


def test_api_key(kling: Any):
    """A known API key is let in, whatever the case of the header's name."""
    assert asked(kling, "Bearer sim-key") == (200, 0)
    reply = kling.simulator.handle("GET", kling.base, {"AUTHORIZATION": "Bearer sim-key"}, b"", NOW)
    assert reply.status == 200


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"nbf": NOW}, 0),
        ({"nbf": NOW + 1}, 1003),
        ({"exp": NOW + 1}, 0),
        ({"exp": NOW}, 1004),
        ({"iss": "nobody"}, 1000),
        ({"iss": None}, 1002),
        ({"exp": None}, 1002),
        ({"nbf": None}, 1002),
        ({"exp": str(NOW + 60)}, 1002),
        ({"exp": NOW + 60.5}, 1002),
    ],
)
def test_claims(kling: Any, changes: dict[str, Any], code: int):
    """`iss`, `exp` and `nbf` are required, and the times are held against the time of the call."""
    token = signed({name: value for name, value in (CLAIMS | changes).items() if value is not None})
    assert asked(kling, f"Bearer {token}") == (401 if code else 200, code)


def test_forged(kling: Any):
    """A token with another secret's signature, or another algorithm, is not let in."""
    assert asked(kling, f"Bearer {signed(CLAIMS, key=b'other')}") == (401, 1000)
    assert asked(kling, f"Bearer {signed(CLAIMS, algorithm='none')}") == (401, 1002)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126)))
def test_garbage_is_refused(on: Any, text: str):
    """No text that is no key gets in, and none breaks the simulator."""
    assert asked(on(), f"Bearer {text}")[0] == 401


def test_refused_without_credentials(kling: Any):
    """Without credentials nothing is made, found or listed."""
    body = json.dumps({"image": "https://cdn.example.org/a.png", "prompt": "a"}).encode()
    headers = {"Content-Type": "application/json"}
    reply = kling.simulator.handle("POST", kling.base, headers, body, NOW)
    assert kling.outcome(reply) == (401, 1001)
    assert kling.simulator.ledger.made == []
