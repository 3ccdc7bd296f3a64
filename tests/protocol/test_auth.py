"""Credentials: cleaned, never shown, signed as Kling asks, and found in the environment."""

from typing import Any

import jwt
import pytest
from hypothesis import given, strategies as st

from kling_async.protocol.auth import AccessKey, APIKey, Signer, account, secret
from kling_async.protocol.environment import choose
from kling_async.protocol.errors import ConfigurationError
from kling_async.protocol.providers import COMETAPI, EZMODEL, KLING, KLING_CN

SECRET = "s" * 32
NOW = 1_800_000_000
PAIR = AccessKey("access", SECRET)


@pytest.mark.parametrize(
    "text",
    [
        "key-1",
        " key-1\n",
        '"key-1"',
        "'key-1'",
        "\ufeffkey-1\r\n",
        "Bearer key-1",
        "bearer  key-1",
        "\u201ckey-1\u201d",
        '"Bearer key-1"',
        "\u200bkey-1\u00a0",
    ],
)
def test_keys_are_cleaned(text: Any):
    """What gets copied along with a key is taken off."""
    assert APIKey(text) == APIKey("key-1")
    assert AccessKey(text, text) == AccessKey("key-1", "key-1")


@pytest.mark.parametrize(
    "text", ["", "  ", '""', "Bearer ", "12 34", "12\n34", "ключ", "12\x0034", "12\u200b34", None, 5, b"key"]
)
def test_keys_that_are_none(text: Any):
    """What cannot stand in a header is refused, and the refusal does not show it."""
    with pytest.raises(ConfigurationError) as caught:
        APIKey(text)
    assert "12" not in str(caught.value)
    assert "ключ" not in str(caught.value)
    with pytest.raises(ConfigurationError):
        AccessKey("access", text)


@given(st.text())
def test_any_text_is_a_header_or_refused(text: Any):
    """A key that is accepted is printable ASCII without blanks, and cleaning it again changes nothing."""
    try:
        key = APIKey(text).key
    except ConfigurationError:
        return
    assert key.isascii()
    assert key.isprintable()
    assert " " not in key
    assert APIKey(f' "{key}" ') == APIKey(key)


def test_keys_are_never_shown():
    """Neither repr nor str of anything that holds a key shows it."""
    signer = Signer(AccessKey("hunter1", "hunter2" + SECRET))
    token = signer.bearer(NOW).removeprefix("Bearer ")
    for value in (APIKey("hunter0"), signer.credentials, signer, Signer(APIKey("hunter0"))):
        for shown in (repr(value), str(value), f"{value}"):
            assert "hunter" not in shown
            assert token not in shown


def test_api_key_is_sent_as_it_is():
    """An API key is the token, and signing again would not help."""
    signer = Signer(APIKey("key-1"))
    assert signer.bearer(NOW) == "Bearer key-1"
    assert signer.renew() is False
    assert signer.bearer(0) == "Bearer key-1"


def test_token():
    """The token is the one of the API reference's check vector: HS256, three claims, whole seconds."""
    token = Signer(PAIR).bearer(NOW + 0.9).removeprefix("Bearer ")
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}
    claims = jwt.decode(
        token, SECRET, algorithms=["HS256"], options={"verify_exp": False, "verify_nbf": False}
    )
    assert claims == {"iss": "access", "exp": 1800001800, "nbf": 1799999995}
    assert all(type(claims[name]) is int for name in ("exp", "nbf"))


def test_short_secret():
    """A secret shorter than its algorithm likes is signed with all the same, without a warning."""
    assert jwt.get_unverified_header(Signer(AccessKey("a", "short")).bearer(NOW)[7:])["alg"] == "HS256"


@pytest.mark.parametrize(
    ("later", "same"),
    [(0, True), (0.5, True), (1499, True), (1500, False), (5000, False), (-1, False), (-9999, False)],
)
def test_token_is_kept(later: Any, same: Any):
    """A token is used until 300 s before its end, and not after the clock was set back."""
    signer = Signer(PAIR)
    first = signer.bearer(NOW)
    assert (signer.bearer(NOW + later) == first) is same


def test_token_is_renewed_on_demand():
    """After a refusal the next token is a new one, valid from then."""
    signer = Signer(PAIR)
    first = signer.bearer(NOW)
    assert signer.renew() is True
    assert signer.bearer(NOW + 60) != first


@given(st.lists(st.floats(0, 4e9), min_size=1, max_size=20))
def test_token_is_always_valid(times: Any):
    """At whatever times it is asked for, in whatever order, the token is valid then and 300 s later."""
    signer = Signer(PAIR)
    for now in times:
        token = signer.bearer(now).removeprefix("Bearer ")
        claims = jwt.decode(token, options={"verify_signature": False})
        assert claims["nbf"] <= now
        assert claims["exp"] >= now + 299


def test_account():
    """The fingerprint names the account: by its key, whatever the secret, and without showing either."""
    assert account(PAIR) == account(AccessKey("access", "t" * 32))
    assert len({account(PAIR), account(APIKey("a")), account(APIKey("b"))}) == 3
    assert len(account(PAIR)) == 16
    assert "access" not in account(PAIR)
    assert account(APIKey("a")) == account(APIKey(" a"))


def test_secret():
    """The secret is the API key itself, or the half of an access key that is never sent."""
    assert (secret(APIKey("a")), secret(PAIR)) == (b"a", SECRET.encode())


K, C, E, P = (
    {"KLING_API_KEY": "k"},
    {"COMETAPI_KEY": "c"},
    {"EZMODEL_API_KEY": "e"},
    {
        "KLING_ACCESS_KEY": "a",
        "KLING_SECRET_KEY": "s",
    },
)
LOCAL = "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("env", "provider", "credentials", "expected"),
    [
        (K, None, APIKey("k"), KLING),
        ({"KLINGAI_API_KEY": "k"}, None, APIKey("k"), KLING),
        (P, None, AccessKey("a", "s"), KLING),
        ({"KLINGAI_ACCESS_KEY": "a", "KLINGAI_SECRET_KEY": "s"}, None, AccessKey("a", "s"), KLING),
        ({**P, **K}, None, APIKey("k"), KLING),
        ({"KLING_ACCESS_KEY": "a", **K}, None, APIKey("k"), KLING),
        (C, None, APIKey("c"), COMETAPI),
        (E, None, APIKey("e"), EZMODEL),
        ({**K, "COMETAPI_KEY": "  "}, None, APIKey("k"), KLING),
        ({**K, **C, "KLING_PROVIDER": "cometapi"}, None, APIKey("c"), COMETAPI),
        ({**K, **C, "KLING_PROVIDER": "cometapi"}, "kling", APIKey("k"), KLING),
        ({**K, "KLING_PROVIDER": " Kling-CN "}, None, APIKey("k"), KLING_CN),
        ({**C, **P}, "kling", AccessKey("a", "s"), KLING),
        ({**C, "KLING_ACCESS_KEY": "a"}, "cometapi", APIKey("c"), COMETAPI),
        ({**K, "KLING_BASE_URL": LOCAL}, None, APIKey("k"), KLING.at(LOCAL)),
        ({**C, "KLING_BASE_URL": LOCAL}, None, APIKey("c"), COMETAPI.at(LOCAL)),
        ({**K, **C, "KLING_BASE_URL": "https://api.cometapi.com/kling/v1/"}, None, APIKey("c"), COMETAPI),
        ({**K, "KLING_BASE_URL": "https://api-beijing.klingai.com"}, None, APIKey("k"), KLING_CN),
        ({**K, **C, "KLING_PROVIDER": "kling", "KLING_BASE_URL": LOCAL}, None, APIKey("k"), KLING.at(LOCAL)),
    ],
)
def test_choice(env: Any, provider: Any, credentials: Any, expected: Any):
    """One key decides by itself; the argument, KLING_PROVIDER and KLING_BASE_URL choose among several."""
    assert choose(env, provider) == (credentials, expected)


def test_choice_of_another_new_api():
    """A self-hosted gateway is chosen by name and address, with its key under Kling's name."""
    credentials, provider = choose({**K, "KLING_BASE_URL": "https://relay.example.org/kling/v1"}, "new-api")
    assert credentials == APIKey("k")
    assert (provider.name, provider.base_url, provider.dialect) == (
        "new-api",
        "https://relay.example.org",
        "new-api",
    )


@pytest.mark.parametrize(
    ("env", "provider", "words"),
    [
        (
            {},
            None,
            ["KLING_API_KEY", "KLING_ACCESS_KEY", "KLING_SECRET_KEY", "COMETAPI_KEY", "EZMODEL_API_KEY"],
        ),
        ({"KLING_API_KEY": '""'}, None, ["KLING_API_KEY"]),
        ({**K, **C}, None, ["KLING_API_KEY", "COMETAPI_KEY", "KLING_PROVIDER"]),
        ({**P, **E}, None, ["KLING_ACCESS_KEY", "KLING_SECRET_KEY", "EZMODEL_API_KEY"]),
        ({**K, **C, "KLING_BASE_URL": LOCAL}, None, ["KLING_API_KEY", "COMETAPI_KEY"]),
        ({"KLING_ACCESS_KEY": "a"}, None, ["KLING_ACCESS_KEY", "KLING_SECRET_KEY"]),
        ({"KLINGAI_SECRET_KEY": "s"}, None, ["KLINGAI_SECRET_KEY", "KLING_ACCESS_KEY"]),
        (K, "cometapi", ["cometapi", "COMETAPI_KEY"]),
        (P, "ezmodel", ["ezmodel", "EZMODEL_API_KEY"]),
        (K, "klin", ["klin", "kling-cn", "new-api"]),
        (K, "new-api", ["KLING_BASE_URL"]),
        ({**K, "KLING_BASE_URL": "http://api.example.org"}, None, ["https"]),
        ({"KLING_API_KEY": "a b"}, None, ["copy the key"]),
    ],
)
def test_no_choice(env: Any, provider: Any, words: Any):
    """What is missing or too much is named by its variables."""
    with pytest.raises(ConfigurationError) as caught:
        choose(env, provider)
    assert all(word in str(caught.value) for word in words)
