"""Kling's own face: its envelope around the account.

Sources: API reference, envelope and errors; query, list and task object; account and billing endpoints.
"""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from attrs import define, field

from kling_async.simulator import prices
from kling_async.simulator.account import Account
from kling_async.simulator.credentials import authenticate
from kling_async.simulator.messages import KINDS, Call, Refusal, Reply, Route
from kling_async.simulator.tasks import Generation


@define(eq=False)
class Kling:
    """Answers calls as Kling does.

    Attributes:
        account: Whose tasks they are.
        api_keys: Accepted API keys.
        access_keys: Accepted AccessKeys and their secrets.
    """

    prefix: ClassVar[str] = ""

    account: Account
    api_keys: Collection[str] = field(repr=False)
    access_keys: Mapping[str, str] = field(repr=False)

    def answer(self, route: Route, call: Call) -> Reply:
        """The reply to a good call.

        Raises:
            Refusal: The call is not good.
        """
        authenticate(call.headers.get("authorization"), self.api_keys, self.access_keys, call.clock)
        now = call.now
        match route.operation:
            case "create":
                return self.enveloped(submitted(self.account.create(route.kind, call.read_json(), now)))
            case "query" if route.kind in KINDS:
                task = self.account.find(route.kind, route.name, now)
                return self.enveloped(self.snapshot(task, now))
            case "list":
                number = _bounded(call, "pageNum", 1, 1000)
                size = _bounded(call, "pageSize", 30, 500)
                tasks = self.account.page(route.kind, number, size, now)
                return self.enveloped([self.snapshot(task, now, "list") for task in tasks])
            case "account":
                return self.enveloped(self.account.costs(call))
            case _:
                raise Refusal(1202)

    def refuse(self, refusal: Refusal) -> Reply:
        """The reply to a call that is refused: an envelope without `data`, or a proxy's page."""
        if refusal.code < 1000:
            return Reply.of_html(refusal.status)
        body = {"code": refusal.code, "message": refusal.message, "request_id": self.account.request_id()}
        return Reply.of_json(refusal.status, body)

    def enveloped(self, data: Any) -> Reply:
        """The reply that carries *data*."""
        return Reply.of_json(200, self.envelope(data))

    def envelope(self, data: Any) -> dict[str, Any]:
        """The body that carries *data*."""
        return {"code": 0, "message": "SUCCEED", "request_id": self.account.request_id(), "data": data}

    def snapshot(self, task: Generation, now: float, operation: str = "query") -> dict[str, Any]:
        """The task object at *now*, as a query or a list tells it."""
        status = self.account.told_status(task, now, operation)
        data = {
            **submitted(task),
            "task_status": status,
            "task_status_msg": task.failure if status == "failed" else "",
            "updated_at": _milliseconds(task.updated(now)),
        }
        if task.watermark is not None:
            data["watermark_info"] = {"enabled": task.watermark}
        if status == "succeed":
            data["task_result"] = {"videos": [self._video(task, now)]}
            data["final_balance_deduction"] = {"quota": "0", "list_price": "0"}
            if task.units is not None:
                data["final_unit_deduction"] = prices.decimal_string(task.units)
        return data

    def _video(self, task: Generation, now: float) -> dict[str, str]:
        url = self.account.video_url(task, now)
        # the encoder's last frame makes real videos this much longer than asked for
        video = {"id": task.video_id, "url": url, "duration": f"{task.duration}.041"}
        if task.watermark:
            video["watermark_url"] = f"{url}&watermark=1"
        return video


def submitted(task: Generation) -> dict[str, Any]:
    """The task object in the reply to a create."""
    return {
        "task_id": task.task_id,
        "task_status": "submitted",
        "task_info": {} if task.external_task_id is None else {"external_task_id": task.external_task_id},
        "created_at": _milliseconds(task.created),
        "updated_at": _milliseconds(task.created),
    }


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _bounded(call: Call, name: str, default: int, largest: int) -> int:
    value = call.query.get(name, str(default))
    if not value.isdecimal() or not 1 <= int(value) <= largest:
        raise Refusal(1201, f"{name} must be between 1 and {largest}")
    return int(value)
