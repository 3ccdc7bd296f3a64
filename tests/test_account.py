"""Resource packs: what is asked, how the reply is read, and the client's `account`."""

import contextlib
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import virtual_time
from hypothesis import given, strategies as st

from kling_async import (
    COMETAPI,
    EZMODEL,
    KLING,
    KLING_CN,
    AccessKey,
    AccountError,
    APIKey,
    AuthenticationError,
    GatewayError,
    InvalidRequestError,
    KlingError,
    Outcome,
    ProtocolError,
    ServerError,
    UnsupportedError,
    new_api,
)
from kling_async.api import Api
from kling_async.protocol.account import ResourcePack, read_packs
from kling_async.protocol.auth import Signer
from kling_async.protocol.wire import Response, packs

NOW = 1_775_000_000.0
DOCUMENTED = {
    "resource_pack_name": "Trial-Video-100Units-5Con-1Months",
    "resource_pack_id": "b1c2",
    "resource_pack_type": "decreasing_total",
    "total_quantity": 100.0,
    "remaining_quantity": 61.5,
    "purchase_time": 1773000000000,
    "effective_time": 1773000000000,
    "invalid_time": 1775600000000,
    "status": "online",
}


def response(value: Any, status: int = 200) -> Response:
    """A response of this JSON."""
    return Response(status, {}, json.dumps(value).encode())


def enveloped(*packs: Any, **inner: Any) -> Response:
    """A good reply that tells of *packs*."""
    data = {"code": 0, "msg": "ok", "resource_pack_subscribe_infos": list(packs), **inner}
    return response({"code": 0, "message": "SUCCEED", "request_id": "r-1", "data": data})


def test_what_is_asked():
    """No /v1, snake_case, milliseconds, and a window that holds a year's pack bought a month before."""
    request = packs(KLING.at("https://api.example.org/v1"), now=NOW)
    url = urlsplit(request.url)
    assert (request.method, f"{url.scheme}://{url.netloc}{url.path}", request.document) == (
        "GET",
        "https://api.example.org/account/costs",
        None,
    )
    times = dict(parse_qsl(url.query))
    assert times == {"start_time": str(int(NOW - 400 * 86_400) * 1000), "end_time": str(int(NOW) * 1000)}


@pytest.mark.parametrize("provider", [COMETAPI, EZMODEL, new_api("https://relay.example.org")])
def test_gateways_do_not_tell(provider: Any):
    """A gateway's account is not Kling's: refused before anything is sent."""
    with pytest.raises(UnsupportedError, match=provider.name):
        packs(provider, now=NOW)


def test_both_hosts_of_kling_tell():
    """Kling's own two hosts have it."""
    assert KLING.account
    assert KLING_CN.account


def test_the_documented_reply():
    """Every field of the documented pack arrives, numbers exact and times in UTC."""
    assert read_packs(enveloped(DOCUMENTED)) == [
        ResourcePack(
            name="Trial-Video-100Units-5Con-1Months",
            id="b1c2",
            type="decreasing_total",
            status="online",
            total=Decimal(100),
            remaining=Decimal("61.5"),
            purchased_at=datetime(2026, 3, 8, 20, tzinfo=UTC),
            effective_at=datetime(2026, 3, 8, 20, tzinfo=UTC),
            invalid_at=datetime(2026, 4, 7, 22, 13, 20, tzinfo=UTC),
        )
    ]


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("Trial-Video-100Units-5Con-1Months", 5),
        ("Trial-Image-1000Units-9Con-1Months", 9),
        ("Video-3000Units-20Con", 20),
        ("Video-3000Units", None),
        ("", None),
    ],
)
def test_slots_by_the_name(name: str, slots: int | None):
    """The number before Con in a pack's name; None where there is none."""
    assert ResourcePack(name=name).slots == slots


@pytest.mark.parametrize("empty", [{}, dict.fromkeys(DOCUMENTED), dict.fromkeys(DOCUMENTED, ())])
def test_absent_null_and_odd_values(empty: Any):
    """What is absent, null or of another kind is empty or None, and no error."""
    assert read_packs(enveloped(empty)) == [ResourcePack()]


def test_words_nobody_knows_are_kept():
    """A status or type that Kling comes to use is told as it is; numbers may come as text."""
    odd = {"status": "frozen", "resource_pack_type": "forever", "remaining_quantity": "7.25", "new": 1}
    assert read_packs(enveloped(odd)) == [
        ResourcePack(status="frozen", type="forever", remaining=Decimal("7.25"))
    ]


@pytest.mark.parametrize(
    "data",
    [None, {}, {"resource_pack_subscribe_infos": None}, {"code": 0, "resource_pack_subscribe_infos": []}],
)
def test_no_packs(data: Any):
    """An account without packs has an empty list, however that is told."""
    assert read_packs(response({"code": 0, "data": data})) == []


@pytest.mark.parametrize("data", ["x", 3, [1], {"resource_pack_subscribe_infos": {"a": 1}}])
def test_what_is_no_answer(data: Any):
    """A reply of another shape is a ProtocolError that says nothing was paid."""
    with pytest.raises(ProtocolError) as caught:
        read_packs(response({"code": 0, "data": data}))
    assert caught.value.outcome is Outcome.NOT_CREATED


@pytest.mark.parametrize(
    ("code", "kind"), [(1200, InvalidRequestError), (1101, AccountError), (5000, ServerError)]
)
def test_the_inner_code_counts(code: int, kind: type[KlingError]):
    """A refusal within a good envelope is the error of its code, with the outer request_id."""
    with pytest.raises(kind) as caught:
        read_packs(enveloped(code=code, msg="no"))
    assert caught.value.code == code  # type: ignore[attr-defined]  # an APIError
    assert caught.value.request_id == "r-1"  # type: ignore[attr-defined]  # the same
    assert caught.value.outcome is Outcome.NOT_CREATED


def test_the_outer_code_counts():
    """A refusal without data, and a web page, are classified as for every read."""
    with pytest.raises(AuthenticationError):
        read_packs(response({"code": 1002, "message": "no"}, 401))
    with pytest.raises(GatewayError):
        read_packs(Response(200, {"content-type": "text/html"}, b"<html>"))


PLAIN = st.sampled_from([None, True, 0, -1, 1e300, float("inf"), 10**400, "", "1e999", "NaN", "x"])
JSON = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*DOCUMENTED, "code", "data"]), inner),
    max_leaves=6,
)


@given(JSON)
def test_no_value_breaks_the_reader(value: Any):
    """Whatever stands in a pack, or in its place, is read or refused with an error of ours."""
    packs = read_packs(enveloped(dict.fromkeys(DOCUMENTED, value)))
    assert len(packs) == 1
    for reply in (enveloped(resource_pack_subscribe_infos=value), response({"code": 0, "data": value})):
        with contextlib.suppress(KlingError):
            assert isinstance(read_packs(reply), list)


def packs_of(here: Any, credentials: Any) -> Any:
    """What the Api reads, with the world's clock."""

    async def main() -> Any:
        return await Api(here, Signer(credentials), KLING, here.now).packs()

    return virtual_time.run(main())


@pytest.mark.parametrize("credentials", [APIKey("sim-key"), AccessKey("sim-access", "sim-secret")])
def test_the_api_asks_by_its_own_clock(world: Any, credentials: Any):
    """One call, with key or token, whose window ends now by the client's clock."""
    here = world()
    (pack,) = packs_of(here, credentials)
    assert (pack.remaining, pack.slots) == (100, 5)
    ((_, _, url),) = here.calls
    assert url.endswith("end_time=1800000000000")


def test_the_client_reads_and_retries(world: Any):
    """`client.account()` survives a passing failure, as every read does, and pays nothing."""
    here = world()
    here.simulator.refuse("account", 5000)

    async def main() -> Any:
        async with here.client(provider=KLING) as kling:
            await kling.run(here.request(model_name="kling-v2-6", duration=10, mode="pro"))
            return await kling.account()

    (pack,) = virtual_time.run(main())
    assert pack.remaining == 95
    assert here.ledger.requests["account"] == 2


def test_the_client_of_a_gateway_says_so(world: Any):
    """CometAPI does not tell of packs: UnsupportedError, no call."""
    here = world(face="cometapi")

    async def main() -> None:
        async with here.client(provider=COMETAPI) as kling:
            with pytest.raises(UnsupportedError):
                await kling.account()

    virtual_time.run(main())
    assert here.calls == []


def test_a_refused_key_is_not_retried(world: Any):
    """`client.account()` with a wrong key is an AuthenticationError after one call."""
    here = world()

    async def main() -> None:
        async with here.client(APIKey("other"), KLING) as kling:
            with pytest.raises(AuthenticationError):
                await kling.account()

    virtual_time.run(main())
    assert len(here.calls) == 1
