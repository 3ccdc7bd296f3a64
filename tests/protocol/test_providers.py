"""Providers: what each lacks, and where `at` may point it."""

from typing import Any

import pytest

from kling_async.protocol.errors import ConfigurationError
from kling_async.protocol.providers import COMETAPI, EZMODEL, KLING, KLING_CN, PROVIDERS, new_api

SELF_HOSTED = new_api("https://relay.example.org")


def test_names():
    """Each provider with an address is found by its name."""
    assert dict(PROVIDERS) == {"kling": KLING, "kling-cn": KLING_CN, "cometapi": COMETAPI, "ezmodel": EZMODEL}
    assert all(name == provider.name for name, provider in PROVIDERS.items())


def test_what_each_lacks():
    """The capabilities are those of the gateways reference's matrix."""
    rows = {
        one.name: (
            one.prefix,
            one.lookup,
            one.lists,
            sorted(one.endpoints),
            one.takes_access_key,
            one.dialect,
            one.poll_floor,
        )
        for one in (*PROVIDERS.values(), SELF_HOSTED)
    }
    both, one = ["image2video", "multi-image2video"], ["image2video"]
    assert rows == {
        "kling": ("/v1", "yes", True, both, True, "kling", 0),
        "kling-cn": ("/v1", "yes", True, both, True, "kling", 0),
        "cometapi": ("/kling/v1", "unproven", False, both, False, "kling", 0),
        "ezmodel": ("/kling/v1", "no", False, one, False, "new-api", 15),
        "new-api": ("/kling/v1", "no", False, one, False, "new-api", 15),
    }


@pytest.mark.parametrize(
    ("provider", "given", "expected"),
    [
        (KLING, "https://api.example.org", "https://api.example.org"),
        (KLING, "https://api.example.org/", "https://api.example.org"),
        (KLING, " https://api.example.org//\n", "https://api.example.org"),
        (KLING, "https://api.example.org:8443/base/", "https://api.example.org:8443/base"),
        (KLING, "https://api.example.org/v1", "https://api.example.org"),
        (KLING, "https://api.example.org/v1/", "https://api.example.org"),
        (KLING, "https://api.example.org/kling/v1", "https://api.example.org/kling"),
        (COMETAPI, "https://api.example.org/kling/v1/", "https://api.example.org"),
        (COMETAPI, "https://api.example.org/kling", "https://api.example.org"),
        (COMETAPI, "HTTPS://api.example.org/proxy/kling/v1", "https://api.example.org/proxy"),
        (KLING, "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        (KLING, "http://127.255.0.9", "http://127.255.0.9"),
        (KLING, "http://localhost:1/v1", "http://localhost:1"),
        (KLING, "http://LocalHost", "http://LocalHost"),
        (KLING, "http://[::1]:8080/", "http://[::1]:8080"),
    ],
)
def test_at(provider: Any, given: Any, expected: Any):
    """A base URL in any form people have is the bare one; nothing but it changes."""
    moved = provider.at(given)
    assert moved.base_url == expected
    assert moved.at(provider.base_url) == provider


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "api.example.org",
        "//api.example.org",
        "ftp://api.example.org",
        "https://",
        "https:///v1",
        "http://api.example.org",
        "http://localhost.example.org",
        "http://127.0.0.1.example.org",
        "http://127.1",
        "http://0.0.0.0",
        "http://[::2]",
        "http://10.0.0.1",
        "https://[::1",
        "https://api.example.org:x",
        "https://api.example.org:99999",
        "https://user:hunter2@api.example.org",
        "http://localhost@api.example.org",
        "http://127.0.0.1\\@api.example.org",
        "https://api.example.org?key=hunter2",
        "https://api.example.org/#hunter2",
        "https://api.example.org/a b",
        "https://api.exa\nmple.org",
    ],
)
def test_at_refuses(base_url: Any):
    """Plain http beyond this machine, and what is no base URL, are refused without showing a password."""
    for attempt in (KLING.at, new_api):
        with pytest.raises(ConfigurationError) as caught:
            attempt(base_url)
        assert "hunter2" not in str(caught.value)
