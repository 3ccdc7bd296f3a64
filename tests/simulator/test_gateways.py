"""Gateways: what each makes of a request and of Kling's answer."""

import json
from typing import Any

import pytest

URL = "https://cdn.example.org/a.png"
BOTH = {"model": "kling-v2-6"}  # beside `model_name`, as a client must send it
AGES = ["new-api-2025", "new-api-2026"]


def shape(value: Any) -> Any:
    """Keys and types of a JSON value."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


def is_html(reply: Any, status: int):
    """Whether *reply* is a page of HTML with this status."""
    return reply.status == status and reply.headers["Content-Type"].startswith("text/html")


def test_comet_submit(on: Any):
    """CometAPI answers a create as documented: Kling's body without a request id, a 19-digit task id."""
    documented = {
        "code": 0,
        "message": "success",
        "data": {
            "task_id": "2032273942220931072",
            "task_status": "submitted",
            "task_info": {},
            "created_at": 1773366840306,
            "updated_at": 1773366840306,
        },
    }
    comet = on(face="cometapi")
    body = comet.read(comet.create())
    assert list(body) == list(documented)
    assert shape(body) == shape(documented)
    assert body["message"] == "success"
    assert len(body["data"]["task_id"]) == 19


def test_comet_query(on: Any):
    """CometAPI's query is Kling's, request id included."""
    comet = on(face="cometapi")
    body = comet.read(comet.query(comet.made(), comet.now + 100))
    assert set(body) == {"code", "message", "request_id", "data"}
    assert body["data"]["task_status"] == "succeed"
    assert body["data"]["task_result"]["videos"][0]["url"].startswith("http")


def test_comet_multi_image(on: Any):
    """CometAPI has multi-image2video; its create says SUCCEED."""
    comet = on(face="cometapi")
    body = {"model_name": "kling-v1-6", "image_list": [{"image": URL}] * 2, "prompt": "two"}
    reply = comet.call("POST", "/kling/v1/videos/multi-image2video", body)
    assert comet.read(reply)["message"] == "SUCCEED"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/kling/v1/videos/image2video"),
        ("GET", "/kling/v1/videos/image2video?pageNum=1"),
        ("POST", "/v1/videos/image2video"),
        ("GET", "/nowhere"),
    ],
)
def test_comet_wrong_path(on: Any, method: str, path: str):
    """CometAPI has no list; a wrong path is a redirect."""
    reply = (comet := on(face="cometapi")).call(method, path)
    assert is_html(reply, 301)
    assert "Location" in reply.headers
    assert [code for _, code in comet.simulator.ledger.outcomes] == [301]


def test_comet_errors(on: Any):
    """CometAPI's own errors have the OpenAI shape; a malformed request is a 500 that must not be retried."""
    comet = on(face="cometapi")
    reply = comet.create(model_name=None)
    error = comet.read(reply)["error"]
    assert reply.status == 500
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].startswith("model is required (request id: ")
    assert (error["type"], error["code"]) == ("comet_api_error", "invalid_request")
    assert comet.call("POST", comet.base, "no object").status == 500
    denied = comet.simulator.handle("GET", f"{comet.base}/1", {"Authorization": "Bearer x"}, b"", comet.now)
    assert (denied.status, comet.read(denied)["error"]["type"]) == (401, "comet_api_error")
    assert comet.simulator.ledger.outcomes == {("create", 500): 2, ("query", 401): 1}


def test_comet_passes_on(on: Any):
    """Kling's refusals come through CometAPI as they are."""
    comet = on(face="cometapi", parallel=1)
    comet.made(external_task_id="ka-1")
    assert comet.outcome(comet.create(external_task_id="ka-1")) == (400, 1201)
    assert comet.outcome(comet.create()) == (429, 1303)
    assert comet.outcome(comet.query("nobody")) == (400, 1201)


@pytest.mark.parametrize("face", ["cometapi", *AGES])
def test_gateways_take_no_signed_tokens(on: Any, face: str):
    """An AccessKey's token opens no gateway."""
    gateway = on(face=face)
    for headers in ({"Authorization": "Bearer e30.e30.e30"}, {}):
        reply = gateway.simulator.handle("GET", f"{gateway.base}/1", headers, b"", gateway.now)
        assert reply.status == 401
        assert "error" in gateway.read(reply)


def test_unknown_face(on: Any):
    """A gateway that is not simulated is an error at once."""
    with pytest.raises(ValueError, match="face"):
        on(face="fal")


@pytest.mark.parametrize("face", AGES)
def test_new_api_submit(on: Any, face: str):
    """A new-api answers a create with a video object; 2025 shows Kling's id, 2026 hides it behind its own."""
    gateway = on(face=face)
    reply = gateway.create(**BOTH)
    body = gateway.read(reply)
    name = body["id"]
    assert body == {
        "id": name,
        "task_id": name,
        "object": "video",
        "model": "kling-v2-6",
        "status": "queued",
        "progress": 0,
        "created_at": int(gateway.now),
    }
    kling_id = gateway.simulator.ledger.made[0].task_id
    if face == "new-api-2025":
        assert name == kling_id
    else:
        assert name.startswith("task_")
        assert len(name) == len("task_") + 32
        assert kling_id not in reply.body.decode()
    assert {"X-Oneapi-Request-Id", "X-New-Api-Version"} <= set(reply.headers)


def new_api_seen(gateway: Any, name: str, offset: float):
    """The wrapped task of a query *offset* seconds from the beginning."""
    body = gateway.read(gateway.query(name, gateway.now + offset))
    assert (body["code"], body["message"]) == ("success", "")
    return body["data"]


def new_api_made(gateway: Any, **changes: Any):
    """The gateway's id of a task just made."""
    return gateway.read(gateway.create(**BOTH | changes))["id"]


@pytest.mark.parametrize("face", AGES)
@pytest.mark.parametrize(
    ("offset", "status", "progress", "inner"),
    [
        (0, "SUBMITTED", "10%", "submitted"),
        (50, "IN_PROGRESS", "30%", "processing"),
        (100, "SUCCESS", "100%", "succeed"),
    ],
)
def test_new_api_states(on: Any, face: str, offset: float, status: str, progress: str, inner: str):
    """The wrapper has words of its own around Kling's raw body, and times in seconds."""
    gateway = on(face=face)
    seen = new_api_seen(gateway, new_api_made(gateway), offset)
    assert (seen["status"], seen["progress"], seen["action"]) == (status, progress, "generate")
    assert seen["submit_time"] == int(gateway.now)
    assert seen["finish_time"] == (int(gateway.now) + 100 if status == "SUCCESS" else 0)
    assert seen["data"]["code"] == 0
    assert seen["data"]["data"]["task_status"] == inner
    assert ("platform" in seen) == (face == "new-api-2026")


def test_new_api_url_trap_2025(on: Any):
    """In 2025 `fail_reason` holds the URL on success, the reason on failure; there is no `result_url`."""
    gateway = on(face="new-api-2025")
    good, bad = new_api_made(gateway), new_api_made(gateway, prompt="[fail]")
    seen = new_api_seen(gateway, good, 100)
    assert seen["fail_reason"] == seen["data"]["data"]["task_result"]["videos"][0]["url"]
    assert "result_url" not in seen
    assert new_api_seen(gateway, bad, 100)["fail_reason"] == "content risk control"
    assert new_api_seen(gateway, bad, 99)["fail_reason"] == ""


def test_new_api_url_trap_2026(on: Any):
    """In 2026 `result_url` holds the URL on success, and the error's text on failure; else it is absent."""
    gateway = on(face="new-api-2026")
    good, bad = new_api_made(gateway), new_api_made(gateway, prompt="[fail]")
    seen = new_api_seen(gateway, good, 100)
    assert seen["result_url"] == seen["data"]["data"]["task_result"]["videos"][0]["url"]
    assert seen["fail_reason"] == ""
    failed = new_api_seen(gateway, bad, 100)
    assert (failed["status"], failed["result_url"]) == ("FAILURE", "content risk control")
    assert "result_url" not in new_api_seen(gateway, good, 99)


def test_new_api_refresh(on: Any):
    """The gateway's copy moves when it looks at Kling; before its first look it holds the submit body."""
    gateway = on(face="new-api-2026", gateway_refresh=15, seconds=20)
    name = new_api_made(gateway)
    words = [new_api_seen(gateway, name, offset)["status"] for offset in (0, 14, 15, 20, 29, 30)]
    assert words == ["NOT_START", "NOT_START", "IN_PROGRESS", "IN_PROGRESS", "IN_PROGRESS", "SUCCESS"]
    first = new_api_seen(gateway, name, 0)
    assert first["data"]["data"]["task_status"] == "submitted"
    assert first["progress"] == "0%"


def test_new_api_fields_2025(on: Any):
    """In 2025 top-level fields count, defaults are added, unknown ones and `metadata` are dropped."""
    gateway = on(face="new-api-2025")
    gateway.create(
        model_name="kling-v1-6",
        mode="pro",
        image_tail=URL,
        negative_prompt="blur",
        external_task_id="ka-1",
        cfg_scale=0,
        sound="on",
        multi_shot=True,
        metadata={"negative_prompt": "other"},
    )
    assert gateway.simulator.ledger.made[0].body == {
        "model_name": "kling-v1-6",
        "prompt": "a cat",
        "image": URL,
        "image_tail": URL,
        "negative_prompt": "blur",
        "external_task_id": "ka-1",
        "mode": "pro",
        "duration": "5",
        "aspect_ratio": "1:1",
    }


def test_new_api_fields_2026(on: Any):
    """In 2026 most top-level fields are lost, and `metadata` is honoured."""
    gateway = on(face="new-api-2026")
    lost = {"negative_prompt": "lost", "external_task_id": "ka-lost", "image_tail": URL, "cfg_scale": 0.9}
    kept = {"negative_prompt": "kept", "external_task_id": "ka-kept", "sound": "on"}
    metadata = {**kept, "mode": None, "multi_shot": True}
    gateway.create(**BOTH, **lost, mode="pro", duration="10", metadata=metadata)
    assert gateway.simulator.ledger.made[0].body == {
        "model_name": "kling-v2-6",
        "prompt": "a cat",
        "image": URL,
        "mode": "pro",
        "duration": "10",
        "aspect_ratio": "1:1",
        "cfg_scale": 0.5,
        **kept,
    }


@pytest.mark.parametrize("face", AGES)
def test_new_api_recipe(on: Any, face: str):
    """Fields sent both at the top and in `metadata`, and both names of the model, survive either age."""
    gateway = on(face=face)
    twice = {"image_tail": URL, "negative_prompt": "blur", "external_task_id": "ka-1"}
    assert gateway.create(**BOTH, **twice, mode="pro", metadata=twice).status == 200
    body = gateway.simulator.ledger.made[0].body
    assert {**twice, "mode": "pro", "model_name": "kling-v2-6"}.items() <= body.items()


def test_new_api_model(on: Any):
    """The trapped age wants `model`; the other takes either name; without both it is a routing error."""
    trapped, early = on(face="new-api-2026"), on(face="new-api-2025")
    for gateway, reply in ((trapped, trapped.create()), (early, early.create(model_name=None))):
        error = gateway.read(reply)["error"]
        assert reply.status == 400
        assert error["message"].startswith("Model name not specified (request id: ")
        assert (error["type"], error["code"]) == ("new_api_error", "")
    assert early.create().status == 200
    assert trapped.create(model_name=None, model="kling-v2-6").status == 200
    # another content type leaves the body unread
    headers = {"Authorization": "Bearer sim-key", "Content-Type": "text/plain"}
    body = json.dumps({"model": "kling-v2-6", "prompt": "a cat", "image": URL}).encode()
    reply = trapped.simulator.handle("POST", trapped.base, headers, body, trapped.now)
    assert trapped.read(reply)["error"]["type"] == "new_api_error"


def task_error(gateway: Any, reply: Any):
    """Status, code and message of the task layer's error."""
    body = gateway.read(reply)
    assert set(body) == {"code", "message", "data"}
    assert body["data"] is None
    return reply.status, body["code"], body["message"]


@pytest.mark.parametrize("face", AGES)
def test_new_api_own_errors(on: Any, face: str):
    """Missing prompts, wrong types and unknown tasks are errors of the task layer."""
    gateway = on(face=face)
    assert task_error(gateway, gateway.create(**BOTH, prompt=None))[:2] == (400, "invalid_request")
    wrong = {"dynamic_masks": {"mask": URL, "trajectories": []}}
    reply = gateway.create(**BOTH, **wrong, metadata=wrong)
    assert task_error(gateway, reply)[:2] == (500, "build_request_failed")
    floats = {"dynamic_masks": [{"mask": URL, "trajectories": [{"x": 1.5, "y": 1}]}]}
    reply = gateway.create(**BOTH, **floats, metadata=floats)
    assert task_error(gateway, reply)[:2] == (500, "build_request_failed")
    assert task_error(gateway, gateway.query("nobody"))[:2] == (400, "task_not_exist")
    assert gateway.simulator.ledger.made == []


def test_new_api_duration(on: Any):
    """A number as duration breaks the early age and is read by the later one."""
    early, later = on(face="new-api-2025"), on(face="new-api-2026")
    assert task_error(early, early.create(**BOTH, duration=10))[:2] == (500, "build_request_failed")
    assert later.create(**BOTH, duration=10).status == 200
    assert later.simulator.ledger.made[0].body["duration"] == "10"


@pytest.mark.parametrize("face", AGES)
def test_new_api_wraps_refusals(on: Any, face: str):
    """Kling's refusal comes as text in a message, with Kling's status; of a 429 nothing is left."""
    gateway = on(face=face, parallel=1)
    named = {"external_task_id": "ka-1", "metadata": {"external_task_id": "ka-1"}}
    gateway.create(**BOTH, **named)
    status, code, message = task_error(gateway, gateway.create(**BOTH, **named))
    assert (status, code) == (400, "fail_to_fetch_task")
    assert json.loads(message)["code"] == 1201
    status, code, message = task_error(gateway, gateway.create(**BOTH))
    assert (status, code) == (429, "fail_to_fetch_task")
    assert "1303" not in message
    assert gateway.simulator.ledger.outcomes["create", 1303] == 1
    gateway.simulator.refuse("create", 5000)
    assert json.loads(task_error(gateway, gateway.create(**BOTH))[2])["code"] == 5000


@pytest.mark.parametrize("face", AGES)
def test_new_api_no_custom_look_up(on: Any, face: str):
    """The caller's id finds nothing at a new-api, though Kling has it."""
    gateway = on(face=face)
    gateway.create(**BOTH, external_task_id="ka-1", metadata={"external_task_id": "ka-1"})
    assert gateway.simulator.ledger.made[0].external_task_id == "ka-1"
    assert task_error(gateway, gateway.query("ka-1"))[:2] == (400, "task_not_exist")


@pytest.mark.parametrize("face", AGES)
def test_new_api_action_does_not_matter(on: Any, face: str):
    """A query finds the task whatever action stands in the path."""
    gateway = on(face=face)
    name = new_api_made(gateway)
    reply = gateway.call("GET", f"/kling/v1/videos/text2video/{name}")
    assert gateway.read(reply)["data"]["task_id"] == name


@pytest.mark.parametrize("face", AGES)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/kling/v1/videos/image2video"),
        ("POST", "/kling/v1/videos/multi-image2video"),
        ("GET", "/kling/v1/videos/multi-image2video/1"),
        ("POST", "/v1/videos/image2video"),
    ],
)
def test_new_api_missing_routes(on: Any, face: str, method: str, path: str):
    """Lists and multi-image tasks do not exist: a page of HTML with status 200."""
    assert is_html(on(face=face).call(method, path), 200)


@pytest.mark.parametrize("face", AGES)
def test_new_api_tail_only(on: Any, face: str):
    """A request without a start frame becomes a paid text-to-video."""
    gateway = on(face=face)
    assert gateway.create(**BOTH, image=None, image_tail=URL, metadata={"image_tail": URL}).status == 200
    assert gateway.simulator.ledger.made[0].kind == "text2video"
    name = new_api_made(gateway, image=None)
    assert new_api_seen(gateway, name, 0)["action"] == "textGenerate"


@pytest.mark.parametrize("face", ["cometapi", *AGES])
def test_videos_come_from_the_same_place(on: Any, face: str):
    """A gateway hands out Kling's own URL, and the video is served there."""
    gateway = on(face=face)
    created = gateway.read(gateway.create(**BOTH))
    name = created["data"]["task_id"] if face == "cometapi" else created["id"]
    later = gateway.now + 100
    path = gateway.query(name, later).body.decode().partition("http://127.0.0.1")[2].partition('"')[0]
    assert gateway.simulator.handle("GET", path, {}, b"", later).status == 200
