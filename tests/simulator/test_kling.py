"""Kling's own face: replies, codes, time, list, slots."""

import ast
import importlib.util
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from kling_async.simulator import Simulator


@pytest.mark.parametrize(
    "setting",
    [
        *(
            {"seconds": wrong}
            for wrong in ("abc", None, True, -1, float("nan"), (1,), (1, "b"), (2, 1), [1, 2])
        ),
        *({"submitted_share": wrong} for wrong in (1.1, "1")),
        *({"parallel": wrong} for wrong in (1.5, -1, "5", False)),
        *({"parallel_by_model": wrong} for wrong in ({"a": "b"}, {1: 1}, 5)),
        *({"account_code": wrong} for wrong in ("1102", 200, 7)),
        *({name: wrong} for name in ("policy_marker", "fail_marker") for wrong in ("", None)),
        *({name: wrong} for name in ("purge_after", "gateway_refresh") for wrong in (None, "1", -1)),
        *({"url_valid": wrong} for wrong in ("60", -1)),
        *({name: wrong} for name in ("lookup", "validates_schema") for wrong in ("no", None)),
        *(
            {name: wrong}
            for name in ("list_order", "face", "callback_generation")
            for wrong in ("x", [], None)
        ),
        *({name: wrong} for name in ("rng", "faults") for wrong in (7, "create:html", None)),
        *({name: wrong} for name in ("render", "on_request") for wrong in (7, "x")),
        {"public_url": None},
        *({name: wrong} for name in ("api_keys", "callback_secrets") for wrong in ("key", 7, [7])),
        *({"access_keys": wrong} for wrong in ("key", {"a": 7}, ["key"])),
    ],
    ids=str,
)
def test_wrong_settings_are_named(setting: dict[str, Any]):
    """A setting of a wrong type or out of range is refused when it is made, by its name."""
    (name,) = setting
    with pytest.raises(ValueError, match=f"^{name} must be ") as caught:
        Simulator(**setting)
    assert "key" not in str(caught.value).removeprefix(name)


def test_settings_are_checked_when_they_change():
    """While it runs too, a setting stays as it was."""
    simulator = Simulator(seconds=5)
    with pytest.raises(ValueError, match=r"^seconds must be seconds, .*, not '5'$"):
        simulator.seconds = cast("float", "5")
    assert simulator.seconds == 5


_ORDER = ["submitted", "processing", "succeed"]


def test_create_reply(kling: Any):
    """A create answers with Kling's envelope, the task in `submitted` and milliseconds."""
    reply = kling.create(external_task_id="ka-6f0c")
    body = kling.read(reply)
    assert reply.status == 200
    assert list(body) == ["code", "message", "request_id", "data"]
    assert (body["code"], body["message"]) == (0, "SUCCEED")
    data = body["data"]
    assert data.pop("task_id").isdecimal()
    assert data == {
        "task_status": "submitted",
        "task_info": {"external_task_id": "ka-6f0c"},
        "created_at": 1_800_000_000_000,
        "updated_at": 1_800_000_000_000,
    }


def test_query_of_a_success(kling: Any):
    """A finished task carries its video, its price and the time it ended."""
    task_id = kling.made(mode="pro", sound="on", duration="10", watermark_info={"enabled": True})
    data = kling.seen(task_id, kling.now + 150)
    video = data["task_result"]["videos"][0]
    assert data["task_status"] == "succeed"
    assert data["updated_at"] - data["created_at"] == 100_000
    assert data["final_unit_deduction"] == "10"
    assert data["watermark_info"] == {"enabled": True}
    assert video["id"] != task_id
    assert float(video["duration"]) == pytest.approx(10, abs=0.05)
    assert video["url"].startswith("http://127.0.0.1/videos/")
    assert video["watermark_url"] != video["url"]


def test_no_watermark_unless_asked(kling: Any):
    """Without `watermark_info` the result has no watermarked twin."""
    data = kling.seen(kling.made(), kling.now + 100)
    assert "watermark_url" not in data["task_result"]["videos"][0]
    assert "watermark_info" not in data


def test_query_of_a_failure(kling: Any):
    """A failed generation is no API error: code 0, the reason as text, no result, no price."""
    reply = kling.query(kling.made(prompt="a [fail] cat"), kling.now + 100)
    data = kling.read(reply)["data"]
    assert kling.outcome(reply) == (200, 0)
    assert (data["task_status"], data["task_status_msg"]) == ("failed", "content risk control")
    assert "task_result" not in data
    assert kling.simulator.ledger.billed() == 0


@given(st.lists(st.floats(0, 200), min_size=2, max_size=10), st.booleans())
def test_status_is_monotone(on: Any, offsets: list[float], fails: bool):
    """As time goes on a task never goes back, and `updated_at` neither."""
    kling = on()
    task_id = kling.made(prompt="[fail]" if fails else "a cat")
    seen = [kling.seen(task_id, kling.now + offset) for offset in sorted(offsets)]
    ranks = [
        _ORDER.index("succeed" if task["task_status"] == "failed" else task["task_status"]) for task in seen
    ]
    updated = [task["updated_at"] for task in seen]
    assert ranks == sorted(ranks)
    assert updated == sorted(updated)
    assert all(task["updated_at"] <= round((kling.now + 200) * 1000) for task in seen)


@pytest.mark.parametrize(
    ("offset", "status"),
    [(0, "submitted"), (9.9, "submitted"), (10, "processing"), (99.9, "processing"), (100, "succeed")],
)
def test_states_by_time(kling: Any, offset: float, status: int):
    """A tenth of the time is spent in `submitted`, the rest in `processing`."""
    assert kling.seen(kling.made(), kling.now + offset)["task_status"] == status


@pytest.mark.parametrize("name", ["ka-1", "a/b c?d", "täsk", "%2F"])
def test_query_by_external_id(kling: Any, name: str):
    """A task is found by its own id and, percent-encoded, by the caller's."""
    from urllib.parse import quote

    task_id = kling.made(external_task_id=name)
    assert kling.seen(quote(name, safe=""), kling.now)["task_id"] == task_id


def test_look_up_can_be_off(on: Any):
    """A service that cannot look up by the caller's id still finds its own."""
    kling = on(lookup=False)
    task_id = kling.made(external_task_id="ka-1")
    assert kling.outcome(kling.query("ka-1")) == (400, 1201)
    assert kling.seen(task_id, kling.now)["task_id"] == task_id


def test_unknown_task(kling: Any):
    """An unknown task is 400/1201 with Kling's words."""
    reply = kling.query("nobody")
    assert kling.outcome(reply) == (400, 1201)
    assert kling.read(reply)["message"] == "Task not found by id/external id: nobody"
    assert "data" not in kling.read(reply)


def test_duplicate_external_id(kling: Any):
    """A second create with the same custom id is refused across kinds and not charged."""
    kling.made(external_task_id="ka-1")
    pictures = [{"image": "https://cdn.example.org/1.png"}]
    other = {"image_list": pictures, "prompt": "two", "external_task_id": "ka-1"}
    for reply in (
        kling.create(external_task_id="ka-1"),
        kling.call("POST", "/v1/videos/multi-image2video", other),
    ):
        assert kling.outcome(reply) == (400, 1201)
        assert kling.read(reply)["message"] == "External_task_id ka-1 already exists"
    assert len(kling.simulator.ledger.made) == 1


def test_kinds_have_their_own_tasks(kling: Any):
    """A multi-image task is found and listed below its own path alone."""
    base = "/v1/videos/multi-image2video"
    body = {"image_list": [{"image": "https://cdn.example.org/1.png"}], "prompt": "two"}
    task_id = kling.read(kling.call("POST", base, body))["data"]["task_id"]
    assert kling.outcome(kling.query(task_id)) == (400, 1201)
    assert kling.outcome(kling.call("GET", f"{base}/{task_id}")) == (200, 0)
    assert len(kling.read(kling.call("GET", base))["data"]) == 1
    assert kling.read(kling.call("GET", kling.base))["data"] == []


def test_list_pages(kling: Any):
    """Pages hold the newest first, 30 by default; a page past the end is empty."""
    made = [kling.made(kling.now + number) for number in range(35)]

    def ids(query: str) -> list[str]:
        reply = kling.call("GET", kling.base + query, now=kling.now + 40)
        return [task["task_id"] for task in kling.read(reply)["data"]]

    newest_first = made[::-1]
    assert ids("") == newest_first[:30]
    assert ids("?pageNum=2") == newest_first[30:]
    assert ids("?pageNum=4&pageSize=10") == newest_first[30:]
    assert ids("?pageNum=5&pageSize=10") == []
    assert ids("?pageSize=500") == newest_first


def listed(kling: Any, query: str, now: float) -> list[str]:
    """The ids on a page."""
    return [task["task_id"] for task in kling.read(kling.call("GET", kling.base + query, now=now))["data"]]


def test_list_that_begins_with_the_oldest(on: Any):
    """The order is a setting, also while it runs; pages follow it, and a task made later is on the last."""
    kling = on(list_order="oldest")
    made = [kling.made(kling.now + number) for number in range(5)]
    later = kling.now + 5
    assert listed(kling, "?pageSize=2", later) == made[:2]
    assert listed(kling, "?pageSize=2&pageNum=3", later) == made[4:]
    assert listed(kling, "?pageSize=2&pageNum=4", later) == []
    made.append(kling.made(later))
    assert listed(kling, "?pageSize=2&pageNum=3", later) == made[4:]
    kling.simulator.list_order = "newest"
    assert listed(kling, "", later) == made[::-1]


def test_unknown_list_order(on: Any):
    """An order that there is not is an error, at once."""
    with pytest.raises(ValueError, match="list_order"):
        on(list_order="shuffled")


def test_tasks_of_others(on: Any):
    """Others' tasks are over, are on the list in their place, and take neither a slot nor a line of ours."""
    kling = on(parallel=1)
    kling.simulator.add_others(3, kling.now)
    ours = kling.made(kling.now + 1)
    kling.simulator.add_others(2, kling.now + 2)
    kling.simulator.add_others(1, kling.now + 2, kind="multi-image2video")
    ids = listed(kling, "", kling.now + 2)
    assert (len(ids), ids.index(ours)) == (6, 2)
    assert all(kling.seen(each, kling.now + 2)["task_status"] == "succeed" for each in ids if each != ours)
    assert kling.outcome(kling.create(kling.now + 2)) == (429, 1303)
    assert kling.outcome(kling.create(kling.now + 101)) == (200, 0)
    assert (len(kling.simulator.ledger.made), kling.simulator.ledger.billed()) == (2, 3)
    assert listed(kling, "", kling.now + 101)[1:] == ids
    assert listed(kling, "", kling.now + 30 * 86_400)[1:] == ids[:3]


def test_list_and_query_agree(kling: Any):
    """The list holds the same task objects as the query."""
    task_id = kling.made()
    later = kling.now + 100
    listed = kling.read(kling.call("GET", kling.base, now=later))["data"]
    assert listed == [kling.seen(task_id, later)]


@pytest.mark.parametrize("query", ["pageNum=0", "pageNum=1001", "pageSize=501", "pageSize=x", "pageSize=-1"])
def test_list_bounds(kling: Any, query: str):
    """Page numbers go to 1000 and sizes to 500."""
    reply = kling.call("GET", f"{kling.base}?{query}")
    assert kling.outcome(reply) == (400, 1201)
    assert query.partition("=")[0] in kling.read(reply)["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("DELETE", "/v1/videos/image2video/1"),
        ("PUT", "/v1/videos/image2video"),
        ("POST", "/v1/videos/nothing"),
        ("GET", "/v1/videos/nothing/1"),
        ("POST", "/kling/v1/videos/image2video"),
        ("GET", "/v1/videos/image2video/"),
    ],
)
def test_wrong_path_or_verb(kling: Any, method: str, path: str):
    """What is no endpoint is 404/1202."""
    assert kling.outcome(kling.call(method, path)) == (404, 1202)


def test_slots(on: Any):
    """Over the limit a create is refused with the documented body; an ended task frees its slot at once."""
    kling = on(parallel=2)
    kling.made()
    kling.made(kling.now + 5, prompt="[fail]")
    reply = kling.create(kling.now + 99.9)
    body = kling.read(reply)
    assert reply.status == 429
    assert body.pop("request_id")
    assert body == {"code": 1303, "message": "parallel task over resource pack limit"}
    assert kling.outcome(kling.create(kling.now + 100)) == (200, 0)
    assert kling.outcome(kling.create(kling.now + 104)) == (429, 1303)
    assert kling.outcome(kling.create(kling.now + 105)) == (200, 0)
    assert kling.simulator.ledger.most_in_flight == 2
    assert kling.simulator.ledger.refused_creates == 2


def test_slots_by_model(on: Any):
    """A model with a number of its own is counted apart from the others."""
    kling = on(parallel=1, parallel_by_model={"kling-v3": 2})
    outcomes = [
        kling.outcome(kling.create(model_name=model))[1]
        for model in ("kling-v2-6", "kling-v2-5-turbo", "kling-v3", "kling-v3", "kling-v3")
    ]
    assert outcomes == [0, 1303, 0, 0, 1303]


@pytest.mark.parametrize(
    ("code", "status"), [(1100, 429), (1101, 429), (1102, 429), (1103, 403), (1304, 429)]
)
def test_account_states(on: Any, code: int, status: int):
    """An account in a bad state refuses every create, and answers queries; put right, it goes on."""
    kling = on()
    task_id = kling.made()
    kling.simulator.account_code = code
    assert kling.outcome(kling.create()) == (status, code)
    assert kling.outcome(kling.query(task_id)) == (200, 0)
    kling.simulator.account_code = None
    assert kling.outcome(kling.create()) == (200, 0)


def test_empty_account_text(on: Any):
    """An empty account is told in Kling's words."""
    reply = (kling := on(account_code=1102)).create()
    assert kling.read(reply)["message"] == "Account balance not enough"


def test_content_policy(kling: Any):
    """A prompt with the policy marker is refused with 400/1301 and makes nothing."""
    assert kling.outcome(kling.create(prompt="a [policy] cat")) == (400, 1301)
    assert kling.simulator.ledger.made == []


@pytest.mark.parametrize(
    ("code", "status"),
    [(1302, 429), (1303, 429), (5000, 500), (5001, 503), (5002, 504), (1300, 400), (1203, 404)],
)
def test_scripted_refusals(kling: Any, code: int, status: int):
    """A script refuses so many calls of its operation, makes nothing, and is then over."""
    kling.simulator.refuse("create", code, times=2)
    assert kling.outcome(kling.query("x")) == (400, 1201)
    assert [kling.outcome(kling.create()) for _ in range(3)] == [(status, code), (status, code), (200, 0)]
    assert len(kling.simulator.ledger.made) == 1


def test_scripts_follow_each_other(kling: Any):
    """Refusals of one operation come in the order in which they were asked for."""
    for code in (1302, 502, 1302):
        kling.simulator.refuse("list", code)
    replies = [kling.call("GET", kling.base) for _ in range(4)]
    assert [reply.status for reply in replies] == [429, 502, 429, 200]
    assert replies[1].headers["Content-Type"].startswith("text/html")


def test_script_needs_a_refusal(kling: Any):
    """A code that refuses nothing is an error of the script's author."""
    with pytest.raises(ValueError, match="0"):
        kling.simulator.refuse("create", 0)


def test_purge(on: Any):
    """Thirty days after its end a task is unknown: to queries, to the list, and by its video."""
    kling = on()
    task_id = kling.made(external_task_id="ka-1")
    kling.made(kling.now + 50)
    day = 86_400
    before, after = kling.now + 100 + 30 * day - 1, kling.now + 100 + 30 * day
    url = kling.seen(task_id, before)["task_result"]["videos"][0]["url"]
    path = url.removeprefix("http://127.0.0.1")
    assert kling.simulator.handle("GET", path, {}, b"", before).status == 200
    assert kling.simulator.handle("GET", path, {}, b"", after).status == 403
    assert kling.outcome(kling.query(task_id, after)) == (400, 1201)
    assert kling.outcome(kling.query("ka-1", after)) == (400, 1201)
    assert len(kling.read(kling.call("GET", kling.base, now=after))["data"]) == 1


def test_generation_times(on: Any):
    """Times are one number, a seeded range, or a function of the body."""

    def times(seconds: Any, **settings: Any):
        caller = on(seconds=seconds, **settings)
        for prompt in ("a", "bb", "ccc"):
            caller.create(prompt=prompt)
        return [task.ended - task.created for task in caller.simulator.ledger.made]

    drawn = times((60, 120), rng=Random(7))
    assert all(60 <= seconds <= 120 for seconds in drawn)
    assert len(set(drawn)) == 3
    assert drawn == times((60, 120), rng=Random(7)) != times((60, 120), rng=Random(8))
    assert times(lambda body: 10.0 * len(body["prompt"])) == [10, 20, 30]


def test_questions_do_not_change_the_times(on: Any):
    """However often a client asks, the same creates take the same times."""

    def ends(queries: int):
        caller = on(seconds=(60, 120))
        for _ in range(3):
            task_id = caller.made()
            for _ in range(queries):
                caller.query(task_id)
        return [task.ended for task in caller.simulator.ledger.made]

    assert ends(0) == ends(5)


def test_ledger(kling: Any, png: Any):
    """The ledger tells what was made, asked and billed, with digests in place of pictures."""
    picture = png(640, 480)
    kling.made(external_task_id="ka-1", image=picture)
    kling.made(kling.now + 1, mode="pro", prompt="[fail]")
    kling.made(kling.now + 2, model_name="kling-v3", duration="8", mode="pro", sound="on")
    kling.query("ka-1")
    kling.create(prompt="")
    ledger = kling.simulator.ledger
    assert [task.units for task in ledger.made] == [Decimal("1.5"), 0, Decimal("9.6")]
    assert ledger.billed(kling.now + 99) == 0
    assert ledger.billed(kling.now + 100) == Decimal("1.5")
    assert ledger.billed() == Decimal("11.1")
    assert [task.succeeds for task in ledger.made] == [True, False, True]
    assert {name: len(tasks) for name, tasks in ledger.made_by_external_id().items()} == {"ka-1": 1, None: 2}
    assert ledger.made[0].body["image"].startswith("sha256:")
    assert ledger.requests == {"create": 4, "query": 1}
    assert ledger.outcomes == {("create", 0): 3, ("query", 0): 1, ("create", 1201): 1}
    assert ledger.refused_creates == 1
    assert kling.simulator.in_flight(kling.now + 2) == ledger.most_in_flight == 3


def test_same_picture_same_digest(kling: Any, png: Any):
    """Equal pictures have equal digests in the ledger, others do not."""
    for width in (640, 640, 641):
        kling.made(image=png(width, 480))
    first, second, third = (task.body["image"] for task in kling.simulator.ledger.made)
    assert first == second != third


def test_log_lines(on: Any, png: Any):
    """Each request is one line of text, without keys, tokens or pictures."""
    lines: list[str] = []
    kling = on(on_request=lines.append)
    picture = png(640, 480)
    task_id = kling.made(image=picture)
    url = kling.seen(task_id, kling.now + 100)["task_result"]["videos"][0]["url"]
    kling.simulator.handle("GET", url.removeprefix("http://127.0.0.1"), {}, b"", kling.now + 100)
    kling.create(prompt="")
    assert lines[0] == "POST /v1/videos/image2video 200"
    assert lines[-1] == "POST /v1/videos/image2video 400 (1201)"
    assert len(lines) == 4
    assert not any(secret in line for line in lines for secret in ("sim-key", "token", picture[:20]))


def test_ready_at_once():
    """A simulator needs no settings."""
    body = json.dumps({"image": "https://cdn.example.org/a.png", "prompt": "a cat"}).encode()
    headers = {"authorization": "Bearer sim-key", "content-type": "application/json; charset=utf-8"}
    assert Simulator().handle("POST", "/v1/videos/image2video", headers, body, 0.0).status == 200


def test_independent():
    """The simulator imports nothing else of the package, so that an error of the models cannot hide in it."""
    found = importlib.util.find_spec("kling_async.simulator")
    assert found is not None
    assert found.origin is not None
    files = list(Path(found.origin).parent.glob("*.py"))
    assert len(files) > 10
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            ours = [name for name in names if name.startswith("kling_async")]
            assert all(name.startswith("kling_async.simulator.") for name in ours), file.name


def test_light():
    """Importing the simulator loads none of the heavy extras."""
    code = "import sys, kling_async.simulator; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"jsonschema", "av", "PIL"} & set(done.stdout.split())
