"""The account's packs, as Kling tells of them."""

from typing import Any

import pytest
from simulator.test_credentials import signed

from kling_async.simulator import Pack, Simulator

NOW = 1_800_000_000
DAY = 86_400
WINDOW = f"start_time={(NOW - 400 * DAY) * 1000}&end_time={NOW * 1000}"


def told(kling: Any, now: float = NOW, query: str = WINDOW):
    """The inner envelope of a good call."""
    reply = kling.read(kling.call("GET", f"/account/costs?{query}", now=now))
    assert reply["code"] == 0
    return reply["data"]


def rows(kling: Any, now: float = NOW, query: str = WINDOW) -> Any:
    """The packs of a good call."""
    return told(kling, now, query)["resource_pack_subscribe_infos"]


def test_a_trial_pack_is_there(kling: Any):
    """Without settings the account has a trial pack, in an envelope within the envelope."""
    assert told(kling) == {
        "code": 0,
        "msg": "success",
        "resource_pack_subscribe_infos": [
            {
                "resource_pack_name": "Trial-Video-100Units-5Con-1Months",
                "resource_pack_id": "pack-1",
                "resource_pack_type": "decreasing_total",
                "total_quantity": 100.0,
                "remaining_quantity": 100.0,
                "purchase_time": (NOW - DAY) * 1000,
                "effective_time": (NOW - DAY) * 1000,
                "invalid_time": (NOW + 29 * DAY) * 1000,
                "status": "online",
            }
        ],
    }
    assert kling.simulator.ledger.requests["account"] == 1


def test_what_is_made_is_taken_from_the_packs_in_their_order(on: Any):
    """Units are deducted at success, from the first pack until it has run out, then from the next."""
    kling = on(packs=[Pack("first", total=2), Pack("second", total=100)])
    for _ in range(2):
        kling.create(duration="5")  # 1.5 units each
    shown = [
        [
            (row["remaining_quantity"], row["status"])
            for row in told(kling, now)["resource_pack_subscribe_infos"]
        ]
        for now in (NOW, NOW + 1000)
    ]
    assert shown == [[(2.0, "online"), (100.0, "online")], [(0.0, "runOut"), (99.0, "online")]]


def test_a_pack_has_its_time(on: Any):
    """A pack is told as to come, valid and expired; outside the window it is not told at all."""
    kling = on(packs=[Pack("a", age=-DAY, valid=10 * DAY)])
    ahead = f"start_time=0&end_time={(NOW + 99 * DAY) * 1000}"
    states = [
        told(kling, NOW + day * DAY, ahead)["resource_pack_subscribe_infos"][0]["status"]
        for day in (0, 2, 12)
    ]
    assert states == ["toBeOnline", "online", "expired"]
    early = f"start_time=0&end_time={(NOW - 9 * DAY) * 1000}"
    assert rows(kling, NOW + 12 * DAY, early) == []


def test_one_pack_by_name(on: Any):
    """`resource_pack_name` takes one out."""
    kling = on(packs=(Pack("a"), Pack("b")))
    found = rows(kling, query=f"{WINDOW}&resource_pack_name=b")
    assert [row["resource_pack_name"] for row in found] == ["b"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", 1200),
        (f"startTime=0&endTime={NOW}000", 1200),
        ("start_time=0", 1200),
        ("start_time=0&end_time=soon", 1201),
    ],
)
def test_the_times_are_required_in_snake_case(kling: Any, query: str, code: int):
    """A missing time is 1200, also when it is there in camelCase; one that is no number is 1201."""
    reply = kling.call("GET", f"/account/costs?{query}")
    assert kling.outcome(reply) == (400, code)


def test_who_may_ask(kling: Any):
    """A key and a signed token are let in, nobody else."""
    token = signed({"iss": "sim-access", "exp": NOW + 1800, "nbf": NOW - 5})
    path = f"/account/costs?{WINDOW}"
    for authorization, status in ((f"Bearer {token}", 200), ("Bearer sim-key", 200), ("Bearer other", 401)):
        assert kling.call("GET", path, headers={"Authorization": authorization}).status == status


@pytest.mark.parametrize(
    ("face", "status"), [("cometapi", 301), ("new-api-2025", 200), ("new-api-2026", 200)]
)
def test_gateways_have_a_web_page_there(on: Any, face: str, status: int):
    """Behind a gateway the path leads to its front end."""
    reply = on(face=face).call("GET", f"/account/costs?{WINDOW}")
    assert reply.status == status
    assert reply.headers["Content-Type"].startswith("text/html")


def test_settings_are_checked():
    """What is no list of packs is refused by the setting's name."""
    with pytest.raises(ValueError, match="packs must be a list of Pack"):
        Simulator(packs=["Trial"])  # type: ignore[list-item]  # on purpose
