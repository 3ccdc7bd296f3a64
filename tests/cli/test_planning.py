"""What a batch tells before its first request, and what holds it back."""

import json
import os
import pty
import select
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from kling_async.simulator import Faults, Simulator

BATCH = ("batch", "in", "-o", "out", "--prompt", "x")


def manifest(*rows: dict[str, Any]) -> None:
    """Write ``m.jsonl``."""
    Path("m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def test_a_dry_run_tells_and_asks_nothing(here: Any, pictures: Path, simulator: Simulator):
    """Items, cost and time are the result; no request is made and nothing is written."""
    code, out, err = here(*BATCH, "--dry-run")
    assert code == 0
    assert out.splitlines() == [
        "3 videos to make, of 3 items",
        "cost: 4.5 units (about 0.63 USD at list price)",
        "time: about 1 min 30 s, with 5 at once for each model",
    ]
    assert err == "a dry run: no request was made\n"
    assert not simulator.ledger.requests
    assert not Path("out").exists()


def test_a_dry_run_for_programs(here: Any, pictures: Path, simulator: Simulator):
    """As JSON it is one object, with each finding beside its place."""
    manifest(
        {"key": "old", "image": "in/a.png", "prompt": "x", "model_name": "kling-v2-1"},
        {"key": "bad", "image": "in/b.png", "prompt": "x", "duration": 60},
    )
    code, out, _ = here("batch", "m.jsonl", "-o", "out", "--dry-run", "--json", "--max-in-flight", "2")
    plan = json.loads(out)["plan"]
    assert code == 2
    assert (plan["items"], plan["new"], plan["unpriced"], plan["units"], plan["slots"]) == (1, 1, 1, 0.0, 2)
    assert plan["problems"] == ["m.jsonl:2: duration: must be whole seconds from 3 to 15, not '60'"]
    assert plan["bad_rows"] == 1
    (finding,) = plan["findings"]
    assert (finding["key"], finding["place"], finding["field"], finding["severity"]) == (
        "old",
        "m.jsonl:1",
        "model_name",
        "warning",
    )


def test_nobody_to_ask(here: Any, pictures: Path, simulator: Simulator):
    """Without a terminal and without --yes nothing is spent, and the way to spend is told."""
    code, out, err = here(*BATCH)
    assert (code, out, simulator.ledger.made) == (2, "", [])
    assert "cost: 4.5 units" in err
    assert "3 videos would be paid for" in err
    assert "--yes" in err
    assert not Path("out").exists()


def test_nothing_new_needs_no_leave(here: Any, pictures: Path, simulator: Simulator):
    """What is paid already is brought home without a question."""
    assert here(*BATCH, "--yes")[0] == 0
    code, out, _ = here(*BATCH)
    assert (code, len(out.split()), len(simulator.ledger.made)) == (0, 3, 3)


def at_a_terminal(command: Any, *options: str) -> tuple[int, "subprocess.Popen[bytes]"]:
    """The batch at a terminal: our side of that, and the process."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "kling_async", *BATCH, *options],
        env=command.env | {"TERM": "dumb"},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    return ours, process


def heard(terminal: int) -> str:
    """What was written to a terminal by now, perhaps nothing."""
    text = b""
    with suppress(OSError):  # Linux says so of a terminal whose other side is closed
        while select.select([terminal], [], [], 0.05)[0] and (piece := os.read(terminal, 10_000)):
            text += piece
    return text.decode(errors="replace")


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal is made with pty")
@pytest.mark.parametrize(("answer", "code", "made"), [("y", 130, 3), ("n", 2, 0), ("", 2, 0)])
def test_at_a_terminal_it_asks(
    command: Any, pictures: Path, simulator: Simulator, answer: str, code: int, made: int
):
    """The question names number and cost; anything but yes submits nothing. What runs is then interrupted."""
    ours, asked = at_a_terminal(command, "--quiet")
    with asked as process:
        os.write(ours, f"{answer}\n".encode())
        told = heard(ours)
        while len(simulator.ledger.made) < made:
            told += heard(ours)
            assert process.poll() is None, told
        if made:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    told += heard(ours)
    os.close(ours)
    assert "Make 3 videos for 4.5 units (about 0.63 USD at list price)? [y/N]" in told.replace("\r\n", " ")
    assert (process.returncode, len(simulator.ledger.made)) == (code, made)


def test_bad_rows_come_first(here: Any, pictures: Path, simulator: Simulator):
    """By default a bad row holds everything back; --skip-bad makes the others."""
    manifest(
        {"image": "in/a.png", "prompt": "x", "duration": 60},
        {"image": "in/nowhere.png", "prompt": "x"},
        {"image": "in/c.png", "prompt": "x"},
    )
    run = ("batch", "m.jsonl", "-o", "out", "--yes")
    code, _, err = here(*run)
    assert (code, simulator.ledger.made) == (2, [])
    assert err.splitlines()[0].startswith("m.jsonl:1: duration: must be whole seconds")
    assert err.splitlines()[1].startswith("m.jsonl:2: image: ")
    assert err.splitlines()[-1] == (
        "2 bad rows: nothing is submitted and nothing is paid; --skip-bad leaves them out"
    )
    code, out, err = here(*run, "--skip-bad")
    assert (code, out.split()) == (0, [str(Path("out", "c.mp4"))])
    assert "2 rows skipped, 1 left" in err


def test_what_the_map_is_sure_of_is_a_bad_row(here: Any, pictures: Path, simulator: Simulator):
    """A field that the model does not take holds the batch back, by file, line and field."""
    manifest({"image": "in/a.png", "image_tail": "in/b.png", "prompt": "x"})
    code, _, err = here("batch", "m.jsonl", "-o", "out", "--yes")
    assert (code, len(simulator.ledger.requests)) == (2, 0)
    assert err.startswith("m.jsonl:1: image_tail: needs mode pro")


def test_doubts_are_told_once_with_their_places(here: Any, pictures: Path, simulator: Simulator):
    """What the map doubts is told with the lines it stands in, and is no bad row unless asked."""
    rows = [{"image": f"in/{name}.png", "prompt": "x", "model_name": "kling-v2-1"} for name in "abc"]
    manifest(*rows)
    code, out, _ = here("batch", "m.jsonl", "-o", "out", "--dry-run")
    assert code == 0
    assert out.splitlines()[0].startswith("m.jsonl:1, 2, 3: doubtful: model_name: ")
    code, _, err = here("batch", "m.jsonl", "-o", "out", "--dry-run", "--check", "error")
    assert code == 2
    assert err.count("model_name") == 3


def test_a_budget_holds(here: Any, pictures: Path, simulator: Simulator):
    """What the budget has no room for is told before and after, and counts across runs."""
    code, _, err = here(*BATCH, "--yes", "--budget", "3.2")
    assert (code, len(simulator.ledger.made)) == (1, 2)
    assert "budget: 3.2 units, no room for 1 of them" in err
    assert "2 done, 1 not submitted in" in err
    assert "the budget had no room for 1: 0.2 units of it left" in err
    code, _, err = here(*BATCH, "--yes", "--budget", "3.2")
    assert (code, len(simulator.ledger.made)) == (1, 2)
    assert "budget: 3.2 units, 3 spent by earlier runs, no room for 1 of them" in err
    assert here(*BATCH, "--yes", "--budget", "4.5")[0] == 0
    assert len(simulator.ledger.made) == 3


def test_earlier_runs_count_before_new_rows(here: Any, pictures: Path, simulator: Simulator):
    """A row added above those that were made does not spend what they have spent."""
    rows = [{"image": f"in/{name}.png", "prompt": "x"} for name in "abc"]
    manifest(*rows[:2])
    assert here("batch", "m.jsonl", "-o", "out", "--yes", "--budget", "3")[0] == 0
    manifest(rows[2], *rows[:2])
    code, _, _ = here("batch", "m.jsonl", "-o", "out", "--yes", "--budget", "3")
    assert (code, len(simulator.ledger.made)) == (1, 2)


def test_unknown_prices(here: Any, pictures: Path, simulator: Simulator):
    """Unknown is told as unknown; under a budget it is left out, unless allowed or priced by yourself."""
    run = (*BATCH, "--yes", "--model-name", "kling-v1-6")
    assert "cost: unknown, for want of a price: see --prices" in here(*run, "--dry-run")[1]
    code, _, err = here(*run, "--budget", "100")
    assert (code, simulator.ledger.made) == (1, [])
    assert "3 left out for want of a price" in err
    Path("prices.toml").write_text('["kling-v1-6"]\nsilent = { std = 0.4 }\n')
    told = here(*run, "--dry-run", "--budget", "5", "--prices", "prices.toml")[1]
    assert "cost: 4 units\nbudget: 5 units, no room for 1 of them" in told
    assert here(*run, "--budget", "100", "--allow-unpriced")[0] == 0
    assert len(simulator.ledger.made) == 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model = ", "no TOML"),
        ('["kling-v3"]\nloud = { std = 1 }', "kling-v3.loud"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_table_of_prices(here: Any, pictures: Path, text: str | None, problem: str):
    """What is no table of prices is told with its place."""
    if text is not None:
        Path("prices.toml").write_text(text)
    code, _, err = here(*BATCH, "--yes", "--prices", "prices.toml")
    assert code == 2
    assert problem in err


def test_no_more_than_so_many(here: Any, pictures: Path, simulator: Simulator):
    """--max-items takes the first ones, in however many runs."""
    for _ in range(2):
        assert here(*BATCH, "--yes", "--max-items", "2")[0] == 0
    assert len(simulator.ledger.made) == 2


def test_a_night_that_goes_wrong_ends(here: Any, pictures: Path, simulator: Simulator):
    """After so many failures in a row nothing more is submitted; what is in flight is waited for."""
    manifest(*({"key": str(n), "image": "in/a.png", "prompt": f"{n} [fail]"} for n in range(6)))
    run = ("batch", "m.jsonl", "-o", "out", "--yes")
    code, _, err = here(*run, "--max-in-flight", "2", "--stop-after-failures", "2")
    made = len(simulator.ledger.made)
    assert (code, 2 <= made <= 4) == (1, True)
    assert f"{made} failed, {6 - made} not submitted" in err
    assert "stopped after 2 failures in a row" in err
    assert "withdrawn" not in err
    assert here(*run, "--stop-after-failures", "0")[0] == 1
    assert len(simulator.ledger.made) == 6


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (("--budget", "-1"), "a budget is a number of units from 0"),
        (("--budget", "much"), "a budget is a number of units"),
        (("--budget", "1e9999999"), "a budget is a number of units from 0 to 1000000000"),
        (("--allow-unpriced",), "--allow-unpriced is for runs with a --budget"),
        (("--timeout", "nan"), "--timeout must be more than 0, not nan"),
        (("--max-items", "0"), "--max-items must be at least 1"),
        (("--stop-after-failures", "-1"), "--stop-after-failures must be at least 0"),
    ],
)
def test_wrong_limits(here: Any, pictures: Path, simulator: Simulator, option: tuple[str, str], told: str):
    """A limit that is none is told before anything is read."""
    code, _, err = here(*BATCH, "--yes", *option)
    assert (code, len(simulator.ledger.requests)) == (2, 0)
    assert told in err


def test_failures_of_an_earlier_run_are_no_failures_in_a_row(here: Any, pictures: Path, simulator: Simulator):
    """Rows that failed last night do not keep this night's from being made, or fetched."""
    rows = [{"key": str(n), "image": "in/a.png", "prompt": f"{n} [fail]"} for n in range(3)]
    manifest(*rows)
    assert here("batch", "m.jsonl", "-o", "out", "--yes")[0] == 1
    manifest(*rows, {"key": "good", "image": "in/a.png", "prompt": "x"})
    code, _, err = here("batch", "m.jsonl", "-o", "out", "--yes", "--stop-after-failures", "2")
    assert (code, "in a row" in err) == (1, False)
    assert Path("out", "good.mp4").exists()


def test_videos_that_cannot_be_fetched_end_a_night_too(here: Any, pictures: Path, simulator: Simulator):
    """What is paid and not on disk is a failure: a host that is blocked does not cost the whole batch."""
    manifest(*({"key": str(n), "image": "in/a.png", "prompt": f"{n}"} for n in range(9)))
    simulator.faults.add(*Faults.parse("download:html status=404"))
    run = ("batch", "m.jsonl", "-o", "out", "--yes", "--max-in-flight", "1")
    code, _, err = here(*run, "--stop-after-failures", "2")
    assert code == 1
    assert "stopped after 2 failures in a row" in err
    assert len(simulator.ledger.made) < 6


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_what_was_only_begun_is_agreed_to_and_held_to_the_budget(
    here: Any, command: Any, pictures: Path, simulator: Simulator
):
    """A killed run may have submitted or not: what may be sent again is asked about, and has to fit."""
    simulator.faults.add(*Faults.parse("create:delay seconds=3600 times=3"))
    with command.start(*BATCH, "--yes") as process:
        while sum(simulator.ledger.faults.values()) < 3:
            select.select([process.stderr], [], [], 0.05)
        process.kill()
        process.communicate(timeout=30)
    assert simulator.ledger.made == []
    code, out, _ = here(*BATCH, "--dry-run", "--budget", "4.5")
    assert code == 0
    assert out.splitlines() == [
        "going on: 3 to look up",
        "0 videos to make, of 3 items",
        "3 videos begun by an earlier run: looked for, and sent again if not there",
        "cost of what was begun: at most 4.5 units (about 0.63 USD at list price)",
        "budget: 4.5 units, 4.5 for what runs or was begun",
    ]
    code, _, err = here(*BATCH, "--dry-run", "--budget", "3")
    assert (code, "give a --budget of at least 4.5" in err) == (2, True)
    plan = json.loads(here(*BATCH, "--dry-run", "--json")[1])["plan"]
    assert (plan["new"], plan["begun"], plan["begun_units"]) == (0, 3, 4.5)
    for options, told in (
        ((), "up to 3 videos that an earlier run began would be paid for, and nobody is there"),
        (("--yes", "--budget", "3"), "give a --budget of at least 4.5"),
    ):
        code, _, err = here(*BATCH, *options)
        assert code == 2
        assert told in err
    # an earlier run may have given up looking for it: where look-ups are sure, it is looked for once more
    with closing(sqlite3.connect(Path("out", "kling-journal.sqlite"))) as journal, journal:
        journal.execute("UPDATE tasks SET state = 'may_exist'")
    code, _, err = here(*BATCH)
    assert (code, "up to 3 videos that an earlier run began" in err) == (2, True)
    # where nothing can be looked up, nothing is sent either
    told = here(*BATCH, "--dry-run", "--provider", "new-api")[1]
    assert "going on: 3 that may exist" in told
    assert "begun" not in told
    assert simulator.ledger.made == []


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal is made with pty")
def test_what_went_on_during_the_question_is_seen(
    here: Any, command: Any, pictures: Path, simulator: Simulator
):
    """Another run in the folder spends while the question stands: it is looked at again before paying."""
    ours, asked = at_a_terminal(command, "--budget", "4.5")
    with asked as process:
        told = ""
        while "[y/N]" not in told:
            assert process.poll() is None, told
            told += heard(ours)
        assert here(*BATCH, "--yes", "--budget", "4.5")[0] == 0
        os.write(ours, b"y\n")
        process.communicate(timeout=30)
    told += heard(ours)
    os.close(ours)
    assert "meanwhile another run went on in this folder" in told
    assert "budget: 4.5 units, 4.5 spent by earlier runs" in told
    assert (process.returncode, len(simulator.ledger.made)) == (0, 3)


def test_nothing_is_left_of_bad_rows(here: Any, pictures: Path):
    """A run that can make nothing is no success, whatever it may skip."""
    manifest({"image": "in/a.png", "prompt": "x", "duration": 60})
    code, _, err = here("batch", "m.jsonl", "-o", "out", "--yes", "--skip-bad")
    assert code == 2
    assert err.splitlines()[-1] == "1 bad row: nothing is submitted and nothing is paid"
    assert not Path("out").exists()


def test_a_dry_run_refuses_what_the_run_refuses(pictures: Path, bare_command: Any):
    """No key is fine; an address that is none, and keys of two providers, are not."""
    for env in (
        {"KLING_BASE_URL": "nonsense"},
        {"KLING_API_KEY": "one", "COMETAPI_KEY": "two"},
        {"KLING_ACCESS_KEY": "half"},
    ):
        done = bare_command.where(**env).run(*BATCH, "--dry-run")
        assert (done.returncode, done.stdout) == (2, "")


def test_another_take_is_told_of(here: Any, pictures: Path, simulator: Simulator):
    """What has its video is not made again by --again, and nobody is left to wonder."""
    assert here(*BATCH, "--yes")[0] == 0
    code, _, err = here(*BATCH, "--yes", "--again", "a")
    assert (code, len(simulator.ledger.made)) == (0, 3)
    assert "a has its video, and stays as it is: another take needs another key" in err


def test_a_spreadsheet_is_warned_of(here: Any, pictures: Path):
    """What is doubtful about the source as a whole is told too."""
    Path("m.csv").write_bytes("key,image,prompt\ncafé,in/a.png,x\n".encode("cp1252"))
    code, _, err = here("batch", "m.csv", "-o", "out", "--dry-run")
    assert code == 0
    assert "CSV UTF-8" in err


def test_what_failed_makes_room(here: Any, command: Any, pictures: Path, simulator: Simulator):
    """What still runs of an earlier run is reserved, and given back when it fails: the others fit then."""
    simulator.seconds, simulator.parallel = 1.0, 2
    rows = [
        {"key": str(n), "image": "in/a.png", "prompt": f"{n} {'[fail]' if n < 2 else ''}"} for n in range(4)
    ]
    manifest(*rows)
    run = ("batch", "m.jsonl", "-o", "out", "--yes", "--budget", "3")
    with command.start(*run) as process:
        command.submitted(process, 2)
        process.kill()
        process.communicate(timeout=30)
    code, _, err = here(*run)
    assert "budget: 3 units, 3 for what runs" in err
    assert "2 done, 2 failed in" in err
    assert (code, len(simulator.ledger.made)) == (1, 4)


def test_edited_rows_count_too(here: Any, pictures: Path, simulator: Simulator):
    """What the folder's journal holds counts, also of a row that was edited since."""
    manifest({"key": "cat", "image": "in/a.png", "prompt": "x", "model_name": "kling-v3"})
    run = ("batch", "m.jsonl", "-o", "out", "--yes", "--budget", "10")
    assert here(*run)[0] == 0
    manifest({"key": "cat", "image": "in/a.png", "prompt": "edited", "model_name": "kling-v3"})
    assert "budget: 10 units, 3 spent by earlier runs" in here(*run, "--dry-run")[1]


def test_a_dry_run_refuses_a_folder_that_cannot_be_made(
    here: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch
):
    """Below a link to nothing, or where nothing may be written, as far as that is seen without trying."""
    Path("link").symlink_to("nowhere")
    batch = ("batch", "in", "--prompt", "x", "--dry-run", "--out")
    for out in ("link", "link/out"):
        code, _, err = here(*batch, out)
        assert (code, "link is none" in err) == (2, True)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != pictures.parent)
    code, _, err = here(*batch, "new/out")
    assert (code, f"{pictures.parent} cannot be written to" in err) == (2, True)
    assert [each.name for each in Path().iterdir() if each.is_dir()] == ["in"]


def test_a_dry_run_needs_no_key(pictures: Path, bare_command: Any):
    """Who has no key yet may know what it would cost."""
    done = bare_command.run(*BATCH, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "a dry run: no request was made\n")
    assert "cost: 4.5 units" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_stdout_loses_nothing(here: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch):
    """Where what is told cannot be written, the videos are made and saved all the same."""
    with Path("/dev/full").open("w") as full, monkeypatch.context() as changed:
        changed.setattr(sys, "stdout", full)
        code, _, err = here(*BATCH, "--yes")
    assert code == 0
    assert "stdout cannot be written: No space left on device" in err
    assert len(list(Path("out").glob("*.mp4"))) == 3


def test_a_night_under_a_budget_ends_too(here: Any, pictures: Path, simulator: Simulator):
    """After so many failures what waits for room in the budget is not submitted either."""
    manifest(*({"key": str(n), "image": "in/a.png", "prompt": f"{n} [fail]"} for n in range(9)))
    run = ("batch", "m.jsonl", "-o", "out", "--yes", "--budget", "3", "--max-in-flight", "2")
    code, _, err = here(*run, "--stop-after-failures", "2")
    made = len(simulator.ledger.made)
    assert (code, 2 <= made <= 4) == (1, True)
    assert "stopped after 2 failures in a row: see --stop-after-failures" in err
    assert "no room" not in err.split("failed", 1)[1]


def test_what_another_key_left_running_is_spent(
    here: Any, command: Any, pictures: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
):
    """Nobody tells this run what became of it: it counts, and nothing waits for it."""
    simulator.seconds = 3600.0
    simulator._kling.api_keys = {"sim-key", "second"}
    run = ("batch", "m.jsonl", "-o", "out", "--yes", "--budget", "4.4")
    manifest({"key": "a", "image": "in/a.png", "prompt": "x"})
    with command.start(*run) as process:
        command.submitted(process, 1)
        process.kill()
        process.communicate(timeout=30)
    simulator.seconds = 0.0
    monkeypatch.setenv("KLING_API_KEY", "second")
    manifest(*({"key": name, "image": "in/a.png", "prompt": name} for name in ("b", "c")))
    code, _, err = here(*run)
    assert "budget: 4.4 units, 1.5 spent by earlier runs, no room for 1 of them" in err
    assert (code, len(simulator.ledger.made)) == (1, 2)


def test_room_that_may_come_is_agreed_to_first(here: Any, command: Any, pictures: Path, simulator: Simulator):
    """Where only a failure of what runs would make room, nothing goes on without leave all the same."""
    simulator.seconds, simulator.parallel = 1.0, 2
    rows = [
        {"key": str(n), "image": "in/a.png", "prompt": f"{n} {'[fail]' if n < 2 else ''}"} for n in range(3)
    ]
    manifest(*rows)
    run = ("batch", "m.jsonl", "-o", "out", "--budget", "3")
    with command.start(*run, "--yes") as process:
        command.submitted(process, 2)
        process.kill()
        process.communicate(timeout=30)
    code, _, err = here(*run)
    assert (code, len(simulator.ledger.made)) == (2, 2)
    assert "would be paid for, and nobody is there" in err
    assert "up to " in err
