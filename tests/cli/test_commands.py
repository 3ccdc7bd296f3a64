"""What the commands do and tell, in this process."""

import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from kling_async.cli.options import Fields
from kling_async.protocol.errors import RequestError
from kling_async.simulator import Simulator


def test_nothing_is_submitted_when_something_is_wrong(here: Any, pictures: Path, simulator: Simulator):
    """All problems are told on lines of their own, and not even the good items are submitted."""
    (pictures / "b.png").write_text("hello")
    (pictures / "c.png").unlink()
    (pictures / "c.png").symlink_to("nowhere.png")
    code, out, err = here("batch", "--yes", "in", "-o", "out", "--prompt", "x")
    assert (code, out, simulator.ledger.made) == (2, "", [])
    first, second, end = err.splitlines()
    assert first.startswith("in/b.png: is text, whatever its name says")
    assert second.startswith("in/c.png: does not exist")
    assert end.startswith("2 bad rows: nothing is submitted and nothing is paid")
    assert not Path("out").exists()


def test_problems_beyond_a_hundred_are_counted(here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A manifest that is wrong in every line does not flood the terminal."""
    monkeypatch.chdir(tmp_path)
    Path("m.jsonl").write_text("{}\n" * 130)
    code, _, err = here("batch", "--yes", "m.jsonl", "-o", "out")
    told = err.splitlines()
    assert code == 2
    assert len(told) == 102
    assert told[100].startswith("and ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["batch", "--yes", "nowhere", "-o", "out"], "no such file or folder: nowhere"),
        (["batch", "in"], "--out requires"),
        (["batch", "~nobody-here/in", "-o", "out", "--yes"], "no such file or folder: ~nobody-here"),
        (
            ["batch", "in", "-o", "x" * 300, "--prompt", "x", "--yes"],
            "cannot be a folder: File name too long",
        ),
        (["batch", "in", "-o", "out", "--prompt", "x", "--prices", "~nobody-here/p"], "cannot be read"),
        (["batch", "--yes", "in", "-o", "in/a.png", "--prompt", "x"], "in/a.png cannot be a folder"),
        (["batch", "--dry-run", "in", "-o", "in/a.png/out", "--prompt", "x"], "in/a.png is none"),
        (["animate", "in/a.png", "--prompt", "x", "-o", "in/a.png/x/y.mp4"], "in/a.png is none"),
        (
            ["batch", "--yes", "in", "-o", "out", "--prompt", "x", "--max-in-flight", "0"],
            "--max-in-flight must be at least 1",
        ),
        (["animate", "in/a.png"], "prompt: is required"),
        (
            ["animate", "in/a.png", "--prompt", "x", "-o", "taken.mp4"],
            "taken.mp4 exists and is not overwritten",
        ),
        (["animate", "in/a.png", "--prompt", "x", "--camera", "zoom=near"], "'near' is no number"),
        (["animate", "in/none.png", "--prompt", "x"], "does not exist"),
        (["animate", "in/a.png", "--prompt", "x", "--modle", "k"], "Did you mean"),
        (["lst"], 'Did you mean "list"?'),
        (["list", "--env-file", "none.env"], "none.env cannot be read"),
        (["list", "--base-url", "http://example.com"], "plain http"),
        (["list", "--provider", "king"], "there is no provider 'king'"),
        (["download", "kling1.x"], "is not one of ours"),
    ],
)
def test_wrong_usage_exits_with_2(
    here: Any, pictures: Path, arguments: list[str], told: str, simulator: Simulator
):
    """Wrong usage, input or configuration is told on one line, costs nothing and exits with 2."""
    Path("taken.mp4").touch()
    code, out, err = here(*arguments)
    assert (code, out, simulator.ledger.made) == (2, "", [])
    assert told in " ".join(err.split())
    assert "Traceback" not in err


def test_no_key(here: Any, monkeypatch: pytest.MonkeyPatch):
    """Without a key the message names the variables; a file's variables do for them, but do not override."""
    monkeypatch.delenv("KLING_API_KEY")
    code, _, err = here("list")
    assert code == 2
    assert "KLING_API_KEY" in err


def test_env_file(here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file's variables are used where the environment has none, and never instead of it."""
    file = tmp_path / "kling.env"
    file.write_text('export KLING_API_KEY="sim-key"\nKLING_BASE_URL=https://example.com\n')
    monkeypatch.delenv("KLING_API_KEY")
    assert here("list", "--env-file", str(file))[0] == 0
    monkeypatch.setenv("KLING_API_KEY", "other")
    assert here("list", "--env-file", str(file))[0] == 1


def test_batch_to_its_end(here: Any, pictures: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch):
    """Each item is one JSON line on stdout, a failed one harms no other, the summary says what is where."""
    rows = [
        {"key": "fine", "image": "in/a.png"},
        {"image": "in/b.png", "prompt": "x [fail]"},
        {"image": "in/c.png", "prompt": "x [policy]"},
    ]
    manifest = "".join(f"{json.dumps(row)}\n" for row in rows)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(manifest.encode())))
    code, out, err = here("batch", "--yes", "-", "--json", "-o", "out", "--prompt", "x", "--duration", "10")
    assert code == 1
    *items, summary = (json.loads(line) for line in out.splitlines())
    assert {item["key"]: (item["ok"], item["path"], item["error_type"]) for item in items} == {
        "fine": (True, str(Path("out", "fine.mp4")), None),
        "b": (False, None, "TaskFailedError"),
        "c": (False, None, "PolicyError"),
    }
    counts = {
        "done": 1,
        "resumed": 0,
        "failed": 2,
        "running": 0,
        "not_submitted": 0,
        "units": 3.0,
        "units_unknown": 0,
        "folder": "out",
    }
    assert summary == {"summary": counts}
    assert Path("out", "fine.mp4").read_bytes()
    assert {made.body["duration"] for made in simulator.ledger.made} == {"10"}
    assert "1 done, 2 failed in " in err
    assert "  c: The request was blocked" in err


def test_get_and_list(here: Any, pictures: Path, simulator: Simulator):
    """Tasks are lines with tabs on a pipe and JSON objects with --json; an unknown one exits with 1."""
    body = {"model_name": "kling-v2-6", "image": "https://cdn.example.org/a.png", "prompt": "x"}
    old, new = (
        simulator.create("image2video", dict(body), now) for now in (time.time() - 9, time.time() - 5)
    )
    code, out, _ = here("list")
    assert code == 0
    assert [line.split("\t")[:2] for line in out.splitlines()] == [
        [new.task_id, "succeed"],
        [old.task_id, "succeed"],
    ]
    assert len(here("list", "--limit", "1")[1].splitlines()) == 1
    code, out, err = here("list", "--limit", "-3")
    assert (code, out) == (2, "")
    assert "--limit must be at least 1, not -3" in err
    assert here("list", "--multi")[1] == ""
    document = json.loads(here("--json", "get", old.task_id)[1])
    names = "task_id external_task_id status status_message videos created_at updated_at units"
    assert set(document) == set(names.split())
    assert (document["task_id"], document["status"]) == (old.task_id, "succeed")
    code, out, err = here("get", "123")
    assert (code, out) == (1, "")
    assert "Task not found" in err


def test_download(here: Any, pictures: Path, simulator: Simulator):
    """A finished task of either kind is downloaded by its id; a failed one tells why and exits with 1."""
    one = {"model_name": "kling-v2-6", "image": "https://cdn.example.org/a.png", "prompt": "x"}
    many = {
        "model_name": "kling-v1-6",
        "image_list": [{"image": "https://cdn.example.org/a.png"}],
        "prompt": "x",
    }
    first = simulator.create("image2video", dict(one), time.time())
    second = simulator.create("multi-image2video", many, time.time())
    failed = simulator.create("image2video", {**one, "prompt": "[fail]"}, time.time())
    assert here("download", first.task_id, "-o", "one.mp4")[:2] == (0, "one.mp4\n")
    assert here("download", second.task_id)[:2] == (0, f"{second.task_id}.mp4\n")
    assert first.task_id.encode() in Path("one.mp4").read_bytes()
    code, _, err = here("download", failed.task_id)
    assert code == 1
    assert "content risk control" in err


def test_batch_with_a_wrong_key(
    here: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch, simulator: Simulator
):
    """What concerns the account is told once, not for every item, and exits with 1."""
    monkeypatch.setenv("KLING_API_KEY", "wrong")
    code, out, err = here("batch", "--yes", "in", "-o", "out", "--prompt", "x")
    assert (code, out) == (1, "")
    assert err.count("Authorization is invalid") == 1
    assert "0 done, 3 not submitted in " in err
    assert not_submitted(3)


def not_submitted(count: int) -> bool:
    """Whether ``report.json`` says of all *count* items that they were not submitted."""
    report = json.loads(Path("out", "report.json").read_bytes())
    assert {each["word"] for each in report["items"]} == {"not submitted"}
    return report["totals"]["items"] == report["totals"]["not_submitted"] == count


def test_batch_without_a_server(here: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch):
    """Where nobody answers nothing was refused: the terminal, --json and the report say so alike."""
    monkeypatch.setenv("KLING_BASE_URL", "http://127.0.0.1:9")
    code, out, err = here("batch", "--yes", "in", "-o", "out", "--prompt", "x", "--json")
    assert code == 1
    summary = json.loads(out.splitlines()[-1])["summary"]
    assert (summary["failed"], summary["not_submitted"]) == (0, 3)
    assert "0 done, 3 not submitted in " in err
    assert "kling-async doctor" in err
    assert not_submitted(3)


def test_figures_agree(here: Any, pictures: Path, simulator: Simulator):
    """What a run cost or may have cost is the same on the terminal, in both documents and on the page."""
    simulator.seconds = 3600.0
    rows = [{"image": f"in/{name}.png", "prompt": "x"} for name in "abc"]
    rows[2] |= {"model_name": "kling-v1-6"}  # whose price is in no table
    Path("m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    run = ("--budget", "9", "--allow-unpriced", "--timeout", "0.1", "--json")
    code, out, err = here("batch", "--yes", "m.jsonl", "-o", "out", *run)
    assert code == 1
    assert re.search("0 done, 3 failed in .*; 3 units and a cost unknown for 1\n", err)
    summary = json.loads(out.splitlines()[-1])["summary"]
    assert (summary["failed"], summary["units"], summary["units_unknown"]) == (3, 3.0, 1)
    totals = json.loads(Path("out", "report.json").read_bytes())["totals"]
    assert (totals["failed"], totals["units"], totals["units_unknown"]) == (3, 3.0, 1)
    assert totals["budget_spent"] == 3.0
    assert "3<small> of 9, and unknown for 1</small>" in Path("out", "index.html").read_text("utf-8")


def test_remedies(here: Any, pictures: Path, simulator: Simulator):
    """Each failure is told once, with what the page advises for it."""
    rows = [
        {"key": "a cat", "image": "in/a.png", "prompt": "x [fail]"},
        {"key": "b", "image": "in/b.png", "prompt": "x [policy]"},
    ]
    Path("m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    _, _, err = here("batch", "--yes", "m.jsonl", "-o", "out")
    advice = [each["advice"] for each in json.loads(Path("out", "report.json").read_bytes())["items"]]
    ends = [line for line in err.splitlines() if line.startswith("  ")]
    assert [line.endswith(f"; {what}") for line, what in zip(sorted(ends), advice, strict=True)] == [True] * 2
    assert ends[0].count("--retry-failed") + ends[1].count("--retry-failed") == 1


def test_late_tasks_are_told_with_their_command(here: Any, pictures: Path, simulator: Simulator):
    """A task nobody waits for any longer is a failure, and the command that fetches its video is told."""
    simulator.seconds = 3600.0
    code, out, err = here("batch", "--yes", "in", "-o", "out", "--prompt", "x", "--timeout", "0.1")
    assert (code, out) == (1, "")
    assert "0 done, 3 failed" in err
    for made in simulator.ledger.made:
        assert f"  kling-async download {made.task_id} -o " in err


def test_camera_in_both_forms():
    """--camera takes a whole movement, or one axis and its value."""
    assert Fields(camera="down_back").given("x") == {"prompt": "x", "camera_control": {"type": "down_back"}}
    assert Fields(camera="zoom=-5", watermark=True).given(None) == {
        "camera_control": {"type": "simple", "config": {"zoom": -5.0}},
        "watermark_info": True,
    }
    with pytest.raises(RequestError):
        Fields(camera="zoom=near").given("x")


@pytest.mark.parametrize(
    "name", ["animate", "batch", "get", "list", "download", "models", "doctor", "simulate", "demo"]
)
def test_help(here: Any, name: str):
    """Every command explains itself and its options."""
    code, out, _ = here(name, "--help")
    assert code == 0
    assert f"Usage: kling-async {name}" in out
    assert "--env-file" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("--quiet", "batch", "--dry-run", "in", "-o", "out", "--prompt", "x"),
        ("batch", "--quiet", "in", "-o", "out", "--prompt", "x", "--dry-run"),
        ("batch", "--provider", "kling", "--dry-run", "--quiet", "in", "-o", "out", "--prompt", "x"),
        ("batch", "--dry-run", "--provider=kling", "in", "-o", "out", "--quiet", "--prompt", "x"),
        ("batch", "-o", "out", "--prompt", "x", "--dry-run", "--quiet", "--", "in"),
    ],
)
def test_common_options_stand_anywhere(here: Any, pictures: Path, arguments: tuple[str, ...]):
    """What all commands take may stand before the command, before its source and after it."""
    code, out, err = here(*arguments)
    assert (code, err) == (0, ""), err
    assert out.startswith("3 videos to make")
