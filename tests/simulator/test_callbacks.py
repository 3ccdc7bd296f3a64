"""Callbacks: when each is due, what it says, how it is signed, and what goes wrong."""

import hashlib
import hmac
import json
from base64 import b64decode, b64encode
from typing import Any

import pytest

from kling_async.simulator import FAULTS, Delivery, Fault, Faults, Simulator
from kling_async.simulator.callbacks import sign

HOOK = "https://user.example.org/kling?item=7"
SECRET = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
NEWER = "whsec_YW5vdGhlciBzZWNyZXQgb2YgdGhlIHNhbWUgYWNjb3VudA=="
CONTENT_TYPE = {"Content-Type": "application/json; charset=utf-8"}


def due(caller: Any, offset: float = 1000) -> list[Delivery]:
    """What is due so many seconds after the first call."""
    return caller.simulator.due_callbacks(caller.now + offset)


def told(caller: Any, offset: float = 1000) -> list[tuple[str, float]]:
    """Status and due time, in seconds after the first call, of each that is due by *offset*."""
    return [(each.status, round(each.due - caller.now, 3)) for each in due(caller, offset)]


def signature(secret: str, delivery: Delivery) -> str:
    """What the signature must be, by the API reference: base64 of HMAC-SHA256 over id, time and raw body."""
    key = b64decode(secret.removeprefix("whsec_"))
    head = f"{delivery.headers['webhook-id']}.{delivery.headers['webhook-timestamp']}."
    return "v1," + b64encode(hmac.new(key, head.encode() + delivery.body, hashlib.sha256).digest()).decode()


@pytest.mark.parametrize(
    ("settings", "script", "expected"),
    [
        ({}, "", [("processing", 10), ("succeed", 100)]),
        ({"fail_marker": "cat"}, "", [("processing", 10), ("failed", 100)]),
        ({"seconds": 0}, "", [("succeed", 0)]),
        ({"submitted_share": 0}, "", [("processing", 0), ("succeed", 100)]),
        ({"submitted_share": 1}, "", [("succeed", 100)]),
        ({"purge_after": 0}, "", [("processing", 10)]),
        ({}, "create:never_ends", [("processing", 10)]),
        ({}, "create:forgotten seconds=50", [("processing", 10)]),
        ({}, "create:forgotten seconds=0", []),
        ({}, "create:late_success seconds=30", [("processing", 10), ("failed", 100), ("succeed", 130)]),
        ({}, "create:late_success seconds=0", [("processing", 10), ("succeed", 100)]),
        ({}, "create:lost_reply_after", [("processing", 10), ("succeed", 100)]),
        ({}, "create:lost_reply_before", []),
    ],
)
def test_what_is_told(on: Any, settings: dict[str, Any], script: str, expected: list[Any]):
    """A task is told when it begins and at each end it has, until Kling has forgotten it."""
    kling = on(faults=Faults.parse(script), **settings)
    kling.create(callback_url=HOOK)
    assert told(kling) == expected
    assert kling.simulator.ledger.callbacks == {status: 1 for status, _ in expected}


def test_nothing_to_tell(kling: Any):
    """Neither a task without a callback_url, nor a refused create, nor another client's task is told."""
    kling.create()
    kling.create(callback_url=HOOK, prompt="[policy]")
    kling.simulator.add_others(3, kling.now)
    assert kling.simulator.next_callback() is None
    assert due(kling) == []


def test_only_a_word_is_an_address(on: Any):
    """Where no schema is at hand, a callback_url of another type is nobody's address."""
    kling = on(validates_schema=False)
    assert kling.create(callback_url=7).status == 200
    assert kling.simulator.next_callback() is None


def test_multi_image(kling: Any):
    """The other endpoint calls back too."""
    body = {"image_list": [{"image": "https://cdn.example.org/1.png"}], "prompt": "x", "callback_url": HOOK}
    kling.call("POST", "/v1/videos/multi-image2video", body)
    assert told(kling) == [("processing", 10), ("succeed", 100)]


def test_times_and_order(kling: Any):
    """Each is taken out once, in the order of the times, and `next_callback` tells the next one."""
    simulator = kling.simulator
    first = kling.made(callback_url=HOOK)
    second = kling.made(kling.now + 50, callback_url=HOOK)
    assert simulator.next_callback() == kling.now + 10
    assert told(kling, 9.9) == []
    assert told(kling, 10) == [("processing", 10)]
    assert simulator.next_callback() == kling.now + 60
    assert [(each.task_id, each.status) for each in due(kling, 150)] == [
        (second, "processing"),
        (first, "succeed"),
        (second, "succeed"),
    ]
    assert simulator.next_callback() is None
    assert due(kling) == []


def test_not_more_than_asked(kling: Any):
    """Of many that are due so many are taken; the others stay."""
    for _ in range(3):
        kling.create(callback_url=HOOK)
    later = kling.now + 1000
    taken = [len(kling.simulator.due_callbacks(later, 4)) for _ in range(3)]
    assert taken == [4, 2, 0]
    assert kling.simulator.due_callbacks(later, 0) == []


def test_little_is_kept(kling: Any):
    """Until its end is told a task has one entry, however much is still to tell; then it has none."""
    for _ in range(500):
        kling.create(callback_url=HOOK)
    queue = kling.simulator._callbacks
    assert len(queue._waiting) == 500
    due(kling, 50)
    assert len(queue._waiting) == 500
    due(kling)
    assert queue._waiting == []


def test_body_is_that_of_a_query(kling: Any):
    """The body is the bare task object of a query at that moment, posted where the create said."""
    task_id = kling.made(callback_url=HOOK, external_task_id="ka-6f0c", watermark_info={"enabled": True})
    begun, ended = due(kling)
    assert begun.url == ended.url == HOOK
    assert begun.headers == ended.headers == CONTENT_TYPE
    assert json.loads(begun.body) == kling.seen(task_id, kling.now + 10)
    assert json.loads(ended.body) == kling.seen(task_id, kling.now + 100)
    assert json.loads(ended.body)["task_info"] == {"external_task_id": "ka-6f0c"}


def test_links_are_those_of_the_moment(on: Any):
    """A link that lives for so long counts from the moment that is told, however late it is sent."""
    kling = on(url_valid=60, faults=Faults.parse("callback:sent_late seconds=500"))
    task_id = kling.made(callback_url=HOOK)
    *_, ended = due(kling)
    link = json.loads(ended.body)["task_result"]["videos"][0]["url"]
    assert link == kling.seen(task_id, kling.now + 100)["task_result"]["videos"][0]["url"]
    path = link.removeprefix("http://127.0.0.1")
    assert kling.call("GET", path, now=kling.now + 159, headers={"Authorization": ""}).status == 400
    assert kling.simulator.handle("GET", path, {}, b"", kling.now + 159).status == 200
    assert kling.simulator.handle("GET", path, {}, b"", kling.now + 161).status == 403


def test_next_generation(on: Any):
    """The other shape has other names for the same things, and the caller's id where one was sent."""
    kling = on(callback_generation="next")
    task_id = kling.made(callback_url=HOOK, external_task_id="ka-6f0c")
    begun, ended = (json.loads(each.body) for each in due(kling))
    video = kling.seen(task_id, kling.now + 100)["task_result"]["videos"][0]
    made = 1_800_000_000_000
    common = {"id": task_id, "message": "", "create_time": made, "external_id": "ka-6f0c"}
    assert begun == common | {
        "status": "processing",
        "update_time": made + 10_000,
        "outputs": [],
        "billing": [],
    }
    assert ended == common | {
        "status": "succeeded",
        "update_time": made + 100_000,
        "outputs": [{"type": "video", "watermark_url": "", **video}],
        "billing": [{"charge_type": "unit", "amount": "1.5", "package_type": "video"}],
    }
    assert kling.simulator.ledger.callbacks == {"processing": 1, "succeeded": 1}


def test_failure_of_the_next_generation(on: Any):
    """A failure says why, and has neither outputs nor a bill; an id that nobody gave has no key."""
    kling = on(callback_generation="next")
    kling.create(callback_url=HOOK, prompt="[fail]")
    failed = json.loads(due(kling)[-1].body)
    assert (failed["status"], failed["message"]) == ("failed", "content risk control")
    assert failed["outputs"] == failed["billing"] == []
    assert "external_id" not in failed


def test_vendors_vector():
    """Our signer computes the signature of the official example."""
    body = (
        b'{"id":"1234567890","status":"succeeded","message":"",'
        b'"create_time":1781080778802,"update_time":1781080794151}'
    )
    key = b64decode(SECRET.removeprefix("whsec_"))
    made = sign(key, "9876543210", 1781080794, body)
    assert made == "v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4="


@pytest.mark.parametrize("secrets", [[SECRET], [SECRET, NEWER]])
def test_signature(on: Any, secrets: list[str]):
    """Each secret gives a signature over id, time of sending and raw body; the ids differ."""
    kling = on(callback_secrets=secrets)
    kling.create(callback_url=HOOK, external_task_id="täsk")
    sent = [*due(kling, 10.7), *due(kling, 100)]
    assert [each.headers["webhook-timestamp"] for each in sent] == ["1800000010", "1800000100"]
    assert len({each.headers["webhook-id"] for each in sent}) == 2
    for each in sent:
        assert each.headers["webhook-signature"].split(" ") == [signature(key, each) for key in secrets]


def test_emergency_rotation(kling: Any):
    """Secrets are a setting while it runs: what is sent later is signed with the new ones, or not at all."""
    kling.create(callback_url=HOOK)
    kling.simulator.callback_secrets = [NEWER]
    (begun,) = due(kling, 10)
    assert begun.headers["webhook-signature"] == signature(NEWER, begun)
    kling.simulator.callback_secrets = []
    assert due(kling)[0].headers == CONTENT_TYPE


@pytest.mark.parametrize("secrets", [SECRET, ["dGVzdA=="], ["whsec_"], ["whsec_!"], [SECRET, "whsec_a"]])
def test_bad_secrets(secrets: Any):
    """What is no secret is refused, and the error does not tell it."""
    with pytest.raises(ValueError, match="secret") as caught:
        Simulator(callback_secrets=secrets)
    assert "dGVz" not in str(caught.value)


def test_bad_secret_of_the_command():
    """`simulate --callback-secret` refuses what is no secret, as an error of usage."""
    from kling_async import ConfigurationError
    from kling_async.cli.options import Common
    from kling_async.cli.simulate import simulate

    with pytest.raises(ConfigurationError, match="--callback-secret: a callback secret is whsec_ and base64"):
        simulate(common=Common(), callback_secret=(SECRET, "secret"))


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("never_sent", []),
        ("never_sent times=1", [("succeed", 100)]),
        ("never_sent after=50", [("processing", 10)]),
        ("sent_late seconds=5", [("processing", 15), ("succeed", 105)]),
        ("sent_late seconds=200 times=1", [("succeed", 100), ("processing", 210)]),
        ("sent_late seconds=inf times=1", [("succeed", 100)]),
        ("sent_twice times=1", [("processing", 10), ("processing", 10), ("succeed", 100)]),
        ("sent_twice after=50 seconds=7", [("processing", 10), ("succeed", 100), ("succeed", 107)]),
        (
            "sent_late seconds=5 times=1; callback:sent_twice seconds=1 times=1",
            [("processing", 15), ("processing", 16), ("succeed", 100)],
        ),
        ("out_of_order", [("succeed", 100), ("processing", 100)]),
        (
            "out_of_order; callback:sent_late seconds=9 after=50",
            [("succeed", 109), ("processing", 109)],
        ),
        ("out_of_order; callback:never_sent after=50", [("processing", 100)]),
    ],
)
def test_faults_of_time(on: Any, script: str, expected: list[Any]):
    """A callback is never sent, late, sent again, or only after the one that follows it."""
    kling = on(faults=Faults.parse(f"callback:{script}"))
    kling.create()  # the seconds of the script count from here
    kling.create(callback_url=HOOK)
    assert told(kling) == expected


def test_out_of_order_thrice(on: Any):
    """Where all come out of order, they come from the last to the first."""
    kling = on(faults=Faults.parse("callback:out_of_order; create:late_success"))
    kling.create(callback_url=HOOK)
    assert told(kling) == [("succeed", 130), ("failed", 130), ("processing", 130)]
    assert kling.simulator.ledger.faults["callback", "out_of_order"] == 2


def test_repetition_has_the_same_id(on: Any):
    """What is sent twice has the same webhook-id and body, and a time and signature of its own."""
    kling = on(callback_secrets=[SECRET], faults=Faults.parse("callback:sent_twice seconds=30 times=1"))
    kling.create(callback_url=HOOK)
    first, again = *due(kling, 10), *due(kling, 40)
    assert first.body == again.body
    assert first.headers["webhook-id"] == again.headers["webhook-id"]
    assert (first.due, again.due) == (kling.now + 10, kling.now + 40)
    assert again.headers["webhook-timestamp"] == "1800000040"
    assert again.headers["webhook-signature"] == signature(SECRET, again)


def test_forged(on: Any):
    """A forged callback is signed, as often as a true one, with a secret that is not the account's."""
    kling = on(callback_secrets=[SECRET, NEWER], faults=Faults.parse("callback:forged_signature times=1"))
    kling.create(callback_url=HOOK)
    forged, true = due(kling)
    made = forged.headers["webhook-signature"].split(" ")
    assert len(made) == 2
    assert not {signature(SECRET, forged), signature(NEWER, forged)} & set(made)
    assert true.headers["webhook-signature"].startswith(signature(SECRET, true))


def test_stale(on: Any):
    """A stale callback says that it was sent long ago, and is signed so."""
    kling = on(callback_secrets=[SECRET], faults=Faults.parse("callback:stale_timestamp times=1"))
    kling.create(callback_url=HOOK)
    (stale,) = due(kling, 10)
    assert stale.headers["webhook-timestamp"] == str(1_800_000_010 - 600)
    assert stale.headers["webhook-signature"] == signature(SECRET, stale)


def test_not_json(on: Any):
    """A body that is no JSON is signed and named as any other."""
    kling = on(callback_secrets=[SECRET], faults=Faults.parse("callback:not_json times=1"))
    kling.create(callback_url=HOOK)
    broken, good = due(kling)
    with pytest.raises(ValueError, match="decode"):
        json.loads(broken.body)
    assert broken.headers["webhook-signature"] == signature(SECRET, broken)
    assert (broken.status, broken.headers["Content-Type"]) == ("processing", CONTENT_TYPE["Content-Type"])
    assert json.loads(good.body)["task_status"] == "succeed"


def test_before_the_reply(on: Any):
    """The callback of a task just submitted is due at once, while the reply to its create waits."""
    kling = on(faults=Faults.parse("create:callback_first times=1"))
    reply = kling.create(callback_url=HOOK)
    assert reply.wire.delay == 0.5
    (first,) = due(kling, 0)
    assert json.loads(first.body)["task_id"] == kling.read(reply)["data"]["task_id"]
    assert told(kling) == [("processing", 10), ("succeed", 100)]
    assert first.status == "submitted"
    assert kling.create(callback_url=HOOK).wire.delay == 0
    assert kling.simulator.ledger.faults == {("create", "callback_first"): 1}


def test_waits_add_up(on: Any):
    """A reply that is late by itself waits for its callback too; a lost one is lost after the wait."""
    script = "create:callback_first seconds=2; create:delay made=1 seconds=1; create:lost_reply_after"
    kling = on(faults=Faults.parse(script))
    reply = kling.create(callback_url=HOOK)
    assert (reply.wire.delay, reply.arrives) == (3.0, False)


def test_faults_strike_where_they_matter(on: Any):
    """A fault that would change nothing neither strikes nor counts."""
    script = "create:callback_first; callback:forged_signature; callback:stale_timestamp"
    kling = on(faults=Faults.parse(script))
    assert kling.create().wire.delay == 0
    kling.create(callback_url=HOOK, prompt="[policy]")
    assert kling.simulator.ledger.faults == {}
    kling.create(callback_url=HOOK)
    assert [each.faults for each in due(kling)] == [(), (), ()]
    kling.simulator.faults = Faults.parse("callback:out_of_order")
    kling.simulator.seconds = 0
    kling.create(kling.now + 2000, callback_url=HOOK)
    assert told(kling, 3000) == [("succeed", 2000)]
    assert kling.simulator.ledger.faults == {("create", "callback_first"): 1}


def test_faults_are_told_and_counted(on: Any):
    """A delivery names what struck it, the ledger counts it, and the next request's line is free of it."""
    lines: list[str] = []
    script = (
        "callback:sent_late times=1; callback:sent_twice times=1; callback:not_json; callback:stale_timestamp"
    )
    kling = on(callback_secrets=[SECRET], faults=Faults.parse(script), on_request=lines.append)
    kling.create(callback_url=HOOK)
    assert [each.faults for each in due(kling, 70)] == [
        ("sent_late", "not_json", "stale_timestamp"),
        ("sent_late", "sent_twice", "not_json", "stale_timestamp"),
    ]
    kling.query("nobody")
    assert lines[-1].endswith("400 (1201)")
    assert kling.simulator.ledger.faults == {
        ("callback", "sent_late"): 1,
        ("callback", "sent_twice"): 1,
        ("callback", "not_json"): 2,
        ("callback", "stale_timestamp"): 2,
    }
    assert kling.simulator.ledger.callbacks == {"processing": 2}


def test_any_keeps_its_meaning():
    """No kind strikes both requests and callbacks, so `any` of what there was strikes no callback."""
    kinds = {name for name, kind in FAULTS.items() if "callback" in kind.on}
    assert all(FAULTS[name].on == ("callback",) for name in kinds)
    assert "never_sent" in kinds
    with pytest.raises(ValueError, match="delay cannot strike 'callback'"):
        Fault("delay", on="callback")


@pytest.mark.parametrize("text", ["stale_timestamp seconds=inf", "sent_late seconds=-1", "create:never_sent"])
def test_bad_faults(text: str):
    """A script that makes no sense is refused when it is written."""
    with pytest.raises(ValueError, match=r"seconds|cannot strike"):
        Fault.parse(text)


@pytest.mark.parametrize(
    ("face", "sent", "called"),
    [
        ("cometapi", {"callback_url": HOOK}, True),
        ("new-api-2025", {"model": "kling-v2-6", "callback_url": HOOK}, True),
        ("new-api-2025", {"model": "kling-v2-6", "metadata": {"callback_url": HOOK}}, False),
        ("new-api-2026", {"model": "kling-v2-6", "callback_url": HOOK}, False),
        ("new-api-2026", {"model": "kling-v2-6", "metadata": {"callback_url": HOOK}}, True),
    ],
)
def test_gateways(on: Any, face: str, sent: dict[str, Any], called: bool):
    """Behind a gateway that forwards the address Kling itself calls, in its own words and with its own id."""
    gateway = on(face=face, callback_secrets=[SECRET])
    reply = gateway.read(gateway.create(**sent))
    deliveries = due(gateway)
    assert [each.status for each in deliveries] == (["processing", "succeed"] if called else [])
    if called:
        body = json.loads(deliveries[-1].body)
        assert body["task_id"] == gateway.simulator.ledger.made[0].task_id
        assert "task_result" in body
        # the gateway's customer holds this id
        held = reply["id"] if "id" in reply else reply["data"]["task_id"]
        assert (held == body["task_id"]) is (face != "new-api-2026")
        assert deliveries[-1].headers["webhook-signature"] == signature(SECRET, deliveries[-1])


def test_secrets_are_not_shown():
    """A failed assertion shows its simulator; keys and secrets are no part of that."""
    shown = repr(Simulator(callback_secrets=["whsec_c2VjcmV0"], api_keys={"hunter2"}))
    assert "whsec_" not in shown
    assert "hunter2" not in shown
