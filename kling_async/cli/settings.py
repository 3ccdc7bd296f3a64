"""What the environment says: which key is used and which are not, where to, through what, and why."""

import os
import ssl as tls
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

import attrs

from kling_async.cli.options import Common
from kling_async.cli.reaching import Line, Tell
from kling_async.protocol.auth import AROUND, Credentials
from kling_async.protocol.checks import is_http_url, unsigned
from kling_async.protocol.environment import ACCESS, SECRET, at_host, choose, proxy_for, variables
from kling_async.protocol.errors import ConfigurationError
from kling_async.protocol.providers import PROVIDERS, Provider
from kling_async.transport import default_ssl

__all__ = ["Settings", "read_settings"]

_PAIR: Final = (*ACCESS, *SECRET)
_KEYS: Final = tuple(dict.fromkeys([*(name for one in PROVIDERS.values() for name in one.env), *_PAIR]))
"""Every variable that a key is read from."""

_OTHER_PROXIES: Final = ("ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")
_OTHER_CERTIFICATES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""What other programs obey."""


@attrs.frozen(kw_only=True)
class Settings:
    """What a client would be made with."""

    credentials: Credentials = attrs.field(repr=False)
    provider: Provider
    proxy: str | None = attrs.field(repr=False)
    ssl: tls.SSLContext | None


def read_settings(common: Common, tell: Tell) -> Settings | None:
    """What a client would be made with, told line by line; None where none can be made."""
    try:
        env = common.env()
    except ConfigurationError as error:
        tell(Line("settings", error.what, "wrong", "check --env-file"))
        return None
    try:
        credentials, provider = choose(env, common.provider)
    except ConfigurationError as error:
        for name in filter(env.__contains__, _KEYS):
            length = len(env[name].strip(AROUND))
            tell(Line("key", f"{name} is set, {length} characters long" if length else f"{name} is empty"))
        if env.get("KLING_PROVIDER"):
            tell(Line("provider", f"KLING_PROVIDER={env['KLING_PROVIDER']}"))
        if is_http_url(url := env.get("KLING_BASE_URL", "")):
            tell(Line("base URL", unsigned(url)))
        tell(Line("settings", error.what, "wrong", error.advice or "correct it"))
        return None
    for line in (*_keys(env, provider, common, credentials), *_where(env, provider, common)):
        tell(line)
    proxy = proxy_for(provider.base_url, env)
    way = _way(env, provider, proxy)
    tell(way)
    is_secure = provider.base_url.startswith("https:")
    certificates, ssl = _certificates(env) if is_secure else (None, None)
    if certificates is not None:
        tell(certificates)
    if "wrong" in (way.state, certificates and certificates.state):
        return None
    return Settings(credentials=credentials, provider=provider, proxy=proxy, ssl=ssl)


def _keys(
    env: Mapping[str, str], provider: Provider, common: Common, credentials: Credentials
) -> Iterator[Line]:
    """The key that is used, and each that is not."""
    used = variables(env, provider)
    kind = "an API key" if len(used) == 1 else "an access key and its secret"
    lengths = " and ".join(str(len(part)) for part in attrs.astuple(credentials))
    yield Line(
        "key", f"{' and '.join(used)}: {kind} of {lengths} characters{_source(used[0], common)}", "good"
    )
    for name in _KEYS:
        if name in env and name not in used:
            yield Line("ignored", f"{name}: {_why_ignored(name, env, provider, common, used)}")


def _source(name: str, common: Common) -> str:
    """Where a variable is set, if a file was given too."""
    if common.env_file is None:
        return ""
    return ", from the environment, which goes before the file" if name in os.environ else ", from the file"


def _why_ignored(
    name: str, env: Mapping[str, str], provider: Provider, common: Common, used: list[str]
) -> str:
    if not env[name].strip(AROUND):
        return "it is empty"
    if name in provider.env:
        return f"{used[0]} goes before it"
    if name in _PAIR and provider.takes_access_key:
        return f"{used[0]} goes before it" if len(used) == 2 else "an API key goes before an access key"
    owner = next((one.name for one in PROVIDERS.values() if name in one.env), "kling")
    return f"it is a key of {owner}, and {_chooser(env, common)} chose {provider.name}"


def _chooser(env: Mapping[str, str], common: Common) -> str:
    """What decides on the provider."""
    if common.provider:
        return "--provider"
    if env.get("KLING_PROVIDER", "").strip(AROUND):
        return "KLING_PROVIDER"
    if at_host(env.get("KLING_BASE_URL", "").strip(AROUND)) is not None:
        return "the base URL"
    return "the key"


def _where(env: Mapping[str, str], provider: Provider, common: Common) -> Iterator[Line]:
    """The provider and its address, and who chose them."""
    given = "--base-url" if common.base_url else "KLING_BASE_URL" if env.get("KLING_BASE_URL") else ""
    at = f" (by {given})" if given else ""
    text = f"{provider.name} (by {_chooser(env, common)}), at {provider.base_url}{at}"
    owner = at_host(provider.base_url)
    if owner is not None and owner.name != provider.name:
        advice = f"set KLING_PROVIDER={owner.name}, or take {given} away"
        yield Line("provider", f"{text}, which is {owner.name}'s", "doubt", advice)
    else:
        yield Line("provider", text)


def _way(env: Mapping[str, str], provider: Provider, proxy: str | None) -> Line:
    """The proxy, or why there is none. Its user and password are never shown."""
    name = "HTTPS_PROXY" if env.get("HTTPS_PROXY") else "https_proxy"
    if proxy is not None:
        if not _is_proxy(proxy):
            return Line(
                "proxy", f"{name} is no URL of an HTTP proxy", "wrong", "give it like http://host:3128"
            )
        login = " with a user and a password" if "@" in urlsplit(proxy).netloc else ""
        return Line("proxy", f"{unsigned(proxy)} ({name}){login}")
    if env.get(name):
        if not provider.base_url.startswith("https:"):
            return Line("proxy", f"none: {name} is for https alone")
        return Line("proxy", f"none: NO_PROXY excludes {urlsplit(provider.base_url).hostname}")
    other = next((each for each in _OTHER_PROXIES if env.get(each)), None)
    if other is not None and provider.base_url.startswith("https:"):
        return Line("proxy", f"none: HTTPS_PROXY is obeyed, and {other} is not")
    return Line("proxy", "none")


def _is_proxy(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False


def _certificates(env: Mapping[str, str]) -> tuple[Line, tls.SSLContext | None]:
    """What certificates are held against."""
    file = env.get("SSL_CERT_FILE")
    try:
        ssl = default_ssl(file)
    except (OSError, ValueError) as error:
        what = f"SSL_CERT_FILE={file} cannot be used: {getattr(error, 'strerror', None) or error}"
        return Line("certificates", what, "wrong", "name a PEM file, or unset it"), None
    if file:
        return Line("certificates", f"the system's store, and SSL_CERT_FILE={file}"), ssl
    other = next((each for each in _OTHER_CERTIFICATES if env.get(each)), None)
    if other is not None:
        return Line("certificates", f"the system's store: SSL_CERT_FILE is obeyed, and {other} is not"), ssl
    return Line("certificates", "the system's store"), ssl
