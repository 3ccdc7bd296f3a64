"""What environment variables say: which key, whose API, and through which proxy."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # public, not in typeshed

from kling_async.protocol.auth import AROUND, AccessKey, APIKey, Credentials
from kling_async.protocol.errors import ConfigurationError
from kling_async.protocol.providers import KLING, PROVIDERS, Provider, new_api

__all__ = ["ACCESS", "SECRET", "at_host", "choose", "named", "proxy_for", "variables", "without_key"]

ACCESS: Final = ("KLING_ACCESS_KEY", "KLINGAI_ACCESS_KEY")
SECRET: Final = ("KLING_SECRET_KEY", "KLINGAI_SECRET_KEY")


def choose(env: Mapping[str, str], provider: str | None = None) -> tuple[Credentials, Provider]:
    """The credential and the provider that environment variables name.

    *provider*, else ``KLING_PROVIDER``, chooses among `PROVIDERS` and ``new-api``; ``KLING_BASE_URL`` points
    it elsewhere, and alone chooses the provider of that host. Otherwise the keys that are set decide. An API
    key goes before an access key.

    Raises:
        ConfigurationError: no key, keys of several providers and no choice, an access key without its secret,
            an unknown provider.
    """
    chosen = named(env, provider)
    if chosen is not None:
        credentials = _found(env, chosen)
        if credentials is None:
            raise ConfigurationError(f"no key for {chosen.name}", advice=f"set {_wanted(chosen)}")
        return credentials, chosen
    credentials, chosen = _only(env)
    base_url = env.get("KLING_BASE_URL", "").strip(AROUND)
    return credentials, chosen.at(base_url) if base_url else chosen


def without_key(env: Mapping[str, str], provider: str | None = None) -> Provider:
    """The provider that `choose` names, where no key is set as well: Kling, if nothing says otherwise.

    Raises:
        ConfigurationError: see `choose`; that there is no key is no error.
    """
    if (chosen := named(env, provider)) is not None:
        _found(env, chosen)  # raises for half of a pair
        return chosen
    keys = [*ACCESS, *SECRET, *(name for one in PROVIDERS.values() for name in one.env)]
    if _first(env, tuple(keys)):
        return choose(env, provider)[1]
    base_url = env.get("KLING_BASE_URL", "").strip(AROUND)
    return KLING.at(base_url) if base_url else KLING


def named(env: Mapping[str, str], provider: str | None = None) -> Provider | None:
    """The provider that is chosen by name or by its own host; None: the keys decide.

    Raises:
        ConfigurationError: it is unknown, or its base URL is none.
    """
    base_url = env.get("KLING_BASE_URL", "").strip(AROUND)
    name = (provider or env.get("KLING_PROVIDER", "")).strip(AROUND).lower()
    chosen = _named(name, base_url) if name else at_host(base_url)
    return chosen.at(base_url) if chosen is not None and base_url else chosen


def _named(name: str, base_url: str) -> Provider:
    if name == "new-api":
        if not base_url:
            raise ConfigurationError("new-api has no address of its own", advice="set KLING_BASE_URL")
        return new_api(base_url)
    if name not in PROVIDERS:
        known = ", ".join([*PROVIDERS, "new-api"])
        raise ConfigurationError(f"there is no provider {name!r}", advice=f"choose one of {known}")
    return PROVIDERS[name]


def at_host(base_url: str) -> Provider | None:
    """The provider whose own host *base_url* names."""
    within = f"{base_url}/"
    return next((one for one in PROVIDERS.values() if within.startswith(f"{one.base_url}/")), None)


def _only(env: Mapping[str, str]) -> tuple[Credentials, Provider]:
    """The one provider whose key is set; of those that share their variables the first."""
    families: dict[tuple[str, ...], Provider] = {}
    for one in PROVIDERS.values():
        families.setdefault(one.env, one)
    found = [(key, one) for one in families.values() if (key := _found(env, one)) is not None]
    if len(found) == 1:
        return found[0]
    if not found:
        needed = ", or ".join(_wanted(one) for one in families.values())
        raise ConfigurationError("no key", advice=f"set {needed}")
    names = " and ".join(name for _, one in found for name in variables(env, one))
    raise ConfigurationError(
        f"keys of several providers are set: {names}",
        advice=f"set KLING_PROVIDER to one of {', '.join(one.name for _, one in found)}",
    )


def _found(env: Mapping[str, str], provider: Provider) -> Credentials | None:
    """The credential that *env* holds for *provider*."""
    if key := _first(env, provider.env):
        return APIKey(env[key])
    if not provider.takes_access_key:
        return None
    access, secret = _first(env, ACCESS), _first(env, SECRET)
    if access and secret:
        return AccessKey(env[access], env[secret])
    if access or secret:
        missing = " or ".join(SECRET if access else ACCESS)
        raise ConfigurationError(f"{access or secret} is set without its other half", advice=f"set {missing}")
    return None


def _first(env: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The first of *names* that is set and not blank, or nothing."""
    return next((name for name in names if env.get(name, "").strip(AROUND)), "")


def variables(env: Mapping[str, str], provider: Provider) -> list[str]:
    """The variables that `_found` took the credential from."""
    key = _first(env, provider.env)
    return [key] if key else [_first(env, ACCESS), _first(env, SECRET)]


def _wanted(provider: Provider) -> str:
    """What to set for *provider*, in words."""
    pair = f" (or {ACCESS[0]} and {SECRET[0]})" if provider.takes_access_key else ""
    return f"{provider.env[0]}{pair}"


def proxy_for(base_url: str, env: Mapping[str, str]) -> str | None:
    """The proxy for *base_url* by the usual variables."""
    proxy = env.get("HTTPS_PROXY") or env.get("https_proxy")
    excluded = env.get("NO_PROXY") or env.get("no_proxy") or ""
    host = urlsplit(base_url).netloc
    if not proxy or not base_url.startswith("https:"):
        return None
    return None if proxy_bypass_environment(host, {"no": excluded}) else proxy
