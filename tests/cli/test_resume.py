"""The same command run again goes on: nothing is paid twice, and what is there is not made again."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from kling_async.simulator import Fault, Simulator

BATCH = ("batch", "--yes", "in", "-o", "out", "--prompt", "x")


def manifest(*rows: dict[str, str]) -> None:
    """Write ``m.jsonl``."""
    Path("m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def videos() -> list[str]:
    """The names of the files in ``out``."""
    return sorted(path.name for path in Path("out").glob("*.mp4"))


def test_a_finished_batch_makes_nothing(here: Any, pictures: Path, simulator: Simulator):
    """Run again, every file is told, nothing is submitted, and the summary counts what was there."""
    code, first, err = here(*BATCH)
    assert (code, len(simulator.ledger.made)) == (0, 3)
    assert "going on" not in err
    assert sorted(first.split()) == ["out/a.mp4", "out/b.mp4", "out/c.mp4"]
    asked = len(simulator.ledger.requests)
    code, second, err = here(*BATCH)
    assert code == 0
    assert sorted(second.split()) == sorted(first.split())
    told = err.splitlines()
    assert told[0] == "going on: 3 already there"
    assert told[-2].startswith("3 done (3 already there) in ")
    assert told[-1] == "look at them: out/index.html"
    assert len(simulator.ledger.requests) == asked
    summary = json.loads(here(*BATCH, "--json")[1].splitlines()[-1])["summary"]
    assert (summary["done"], summary["resumed"]) == (3, 3)


def test_a_timed_out_batch_waits_on(here: Any, pictures: Path, simulator: Simulator):
    """What still ran when the first run stopped waiting is polled, downloaded and not paid again."""
    simulator.seconds = 1.0
    code, out, err = here(*BATCH, "--timeout", "0.1")
    assert (code, out) == (1, "")
    assert "0 done, 3 failed" in err
    assert err.count("run the batch again: it goes on from here") == 3
    code, out, err = here(*BATCH)
    assert (code, len(simulator.ledger.made)) == (0, 3)
    assert "going on: 3 running" in err
    assert videos() == ["a.mp4", "b.mp4", "c.mp4"]


def test_what_runs_on_is_told_apart(here: Any, pictures: Path, simulator: Simulator):
    """What an earlier run submitted and this one, which the account ends, never came to runs on."""
    rows = [{"image": f"in/{name}.png", "prompt": "x"} for name in "bca"]
    rows[2]["model_name"] = "kling-v3"
    simulator.seconds = 3600.0
    run = ("batch", "--yes", "m.jsonl", "-o", "out", "--timeout", "0.1")
    manifest(rows[2])
    here(*run)
    manifest(*rows)
    simulator.account_code = 1102
    code, _, err = here(*run, "--max-in-flight", "1")
    assert (code, len(simulator.ledger.made)) == (1, 1)
    assert "0 done, 1 running at Kling, 2 not submitted in " in err
    assert "Run the same command again to wait on for what runs." in err


def test_an_edited_manifest(here: Any, pictures: Path, simulator: Simulator):
    """What is new or changed is made, what is not asked for is told, what is the same stays."""
    (pictures / "d.png").write_bytes((pictures / "a.png").read_bytes()[:-12] + b"d" * 12)
    manifest(*({"key": name, "image": f"in/{name}.png", "prompt": "x"} for name in "abc"))
    here("batch", "--yes", "m.jsonl", "-o", "out")
    manifest(
        {"key": "a", "image": "in/a.png", "prompt": "x"},
        {"key": "b", "image": "in/b.png", "prompt": "other"},
        {"key": "d", "image": "in/c.png", "prompt": "new"},
    )
    code, _, err = here("batch", "--yes", "m.jsonl", "-o", "out")
    assert (code, len(simulator.ledger.made)) == (0, 5)
    assert err.splitlines()[0] == "going on: 1 already there, 1 new, 1 changed; not asked for: 2 made"
    assert videos() == ["a.mp4", "b-2.mp4", "b.mp4", "c.mp4", "d.mp4"]


def test_what_is_unlisted_and_runs_is_told(here: Any, pictures: Path, simulator: Simulator):
    """A task that was taken off the list is paid for all the same: the command that fetches it is told."""
    simulator.seconds = 3600.0
    rows = [{"key": name, "image": f"in/{name}.png", "prompt": name} for name in "abc"]
    manifest(*rows)
    run = ("batch", "--yes", "m.jsonl", "-o", "out", "--timeout", "0.1")
    here(*run)
    manifest(*rows[:2])
    gone = next(made for made in simulator.ledger.made if made.body["prompt"] == "c")
    code, _, err = here(*run)
    assert code == 1
    assert "going on: 2 running; not asked for: 1 running" in err
    assert f"  kling-async download {gone.task_id} -o out/c.mp4" in err


def test_renamed_pictures_are_recognised(here: Any, pictures: Path, simulator: Simulator):
    """A folder's pictures are known by their content: another name or place is no other video."""
    here(*BATCH)
    shutil.move("in/a.png", "in/z.png")
    code, out, _ = here(*BATCH)
    assert (code, len(simulator.ledger.made)) == (0, 3)
    assert "out/a.mp4" in out


def test_another_folder_is_another_batch(here: Any, pictures: Path, simulator: Simulator):
    """The same pictures into another folder are other videos: its journal knows of none."""
    here(*BATCH)
    assert here("batch", "--yes", "in", "-o", "other", "--prompt", "x")[0] == 0
    assert len(simulator.ledger.made) == 6


def test_a_deleted_file_is_downloaded_again(here: Any, pictures: Path, simulator: Simulator):
    """A video that is no longer in the folder is fetched, and not made, again."""
    here(*BATCH)
    Path("out/b.mp4").unlink()
    code, _, err = here(*BATCH)
    assert (code, len(simulator.ledger.made), videos()) == (0, 3, ["a.mp4", "b.mp4", "c.mp4"])
    assert "3 done (2 already there)" in err


def test_failed_items_are_made_again_when_asked(here: Any, pictures: Path, simulator: Simulator):
    """A failure stays one until --retry-failed, or --again for the single one; the summary says so."""
    manifest(*({"key": name, "image": f"in/{name}.png", "prompt": "x [fail]"} for name in "ab"))
    run = ("batch", "--yes", "m.jsonl", "-o", "out")
    code, _, err = here(*run)
    assert code == 1
    assert "--retry-failed makes it again" in err
    code, _, err = here(*run)
    assert (code, len(simulator.ledger.made)) == (1, 2)
    assert "going on: 2 failed" in err
    assert "  a: in an earlier run: content risk control" in err
    code, _, err = here(*run, "--again", "b")
    assert (code, [made.body.get("prompt") for made in simulator.ledger.made]) == (1, ["x [fail]"] * 3)
    assert "going on: 1 to make again, 1 failed" in err
    assert here(*run, "--retry-failed")[0] == 1
    assert len(simulator.ledger.made) == 5


def test_what_was_refused_is_submitted_again(here: Any, pictures: Path, simulator: Simulator):
    """A refusal made nothing, so the next run simply tries again."""
    simulator.refuse("create", 1201, times=3)
    assert here(*BATCH)[0] == 1
    code, _, err = here(*BATCH)
    assert (code, len(simulator.ledger.made)) == (0, 3)
    assert "going on: 3 new" in err


class TestWithoutLookUp:
    """On a gateway that cannot look a lost submit up."""

    @pytest.fixture
    def simulator(self) -> Simulator:
        """A new-api, whose first answer is lost."""
        simulator = Simulator(face="new-api-2026", seconds=0.0)
        simulator.faults.add(Fault("lost_reply_before", on="create", times=1))
        return simulator

    def test_what_may_exist_waits_for_a_decision(self, here: Any, pictures: Path, simulator: Simulator):
        """It is named with what to do, stays so in the next run, and --resend alone submits it again."""
        for name in "bc":
            (pictures / f"{name}.png").unlink()
        run = (*BATCH, "--provider", "new-api")
        code, _, err = here(*run)
        told = " ".join(err.split())
        assert (code, simulator.ledger.made) == (1, [])
        assert "  a: no whole reply from" in err
        assert "a task may exist and be paid; look at the provider" in told
        assert "run again with --resend a" in told
        code, _, err = here(*run, "--retry-failed", "--again", "a")
        assert (code, simulator.ledger.made) == (1, [])
        assert "going on: 1 that may exist" in err
        code, _, err = here(*run, "--resend", "a")
        assert (code, len(simulator.ledger.made)) == (0, 1)
        assert "going on: 1 to make again" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--again", "q"], "--again q: no item is called so"),
        (["--resend", "cc"], "--resend cc: no item is called so"),
        (["--resend", "cc"], "did you mean c?"),
    ],
)
def test_an_unknown_key(here: Any, pictures: Path, simulator: Simulator, arguments: list[str], told: str):
    """A key that no item has is an error before anything is submitted."""
    code, out, err = here(*BATCH, *arguments)
    assert (code, out, simulator.ledger.made) == (2, "", [])
    assert told in err


def test_a_name_of_several_items(here: Any, pictures: Path, simulator: Simulator):
    """A key of one item that is the made-up name of another names neither."""
    manifest(
        {"image": "in/a.png", "prompt": "x"},
        {"key": "a", "image": "in/b.png", "prompt": "x"},
    )
    code, _, err = here("batch", "--yes", "m.jsonl", "-o", "out", "--again", "a")
    assert (code, simulator.ledger.made) == (2, [])
    assert "--again a: 2 items are called so" in err


def test_a_journal_in_use(here: Any, pictures: Path, simulator: Simulator):
    """Another process at work in the folder: one line says so, and nothing is done."""
    here(*BATCH)
    with sqlite3.connect("out/kling-journal.sqlite.lock", isolation_level=None) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        for arguments in (BATCH, ("animate", "in/a.png", "--prompt", "y", "-o", "out")):
            code, out, err = here(*arguments)
            assert (code, out) == (2, "")
            assert "kling-journal.sqlite is in use" in " ".join(err.split())
        lock.rollback()
    lock.close()
    assert len(simulator.ledger.made) == 3


def test_animate_again_gives_the_file_that_is_there(here: Any, pictures: Path, simulator: Simulator):
    """One picture, one paid video: run again, the file is told; another key is another video."""
    run = ("animate", "in/a.png", "--prompt", "x")
    assert here(*run, "--quiet") == (0, "a.mp4\n", "")
    code, out, err = here(*run)
    assert (code, out) == (0, "a.mp4\n")
    assert "already there: a.mp4" in err
    document = json.loads(here(*run, "--json")[1])
    assert (document["path"], document["resumed"]) == ("a.mp4", True)
    assert len(simulator.ledger.made) == 1
    assert here(*run, "--key", "second")[:2] == (0, "second.mp4\n")
    assert len(simulator.ledger.made) == 2


def test_animate_into_a_file_that_is_there(here: Any, pictures: Path, simulator: Simulator):
    """A file of another origin is not overwritten, and nothing is paid for it; our own is told."""
    Path("mine.mp4").touch()
    assert here("animate", "in/a.png", "--prompt", "x", "-o", "mine.mp4")[0] == 2
    assert simulator.ledger.made == []
    run = ("animate", "in/a.png", "--prompt", "x", "-o", "cat.mp4")
    assert here(*run)[:2] == here(*run)[:2] == (0, "cat.mp4\n")
    assert len(simulator.ledger.made) == 1


@pytest.mark.parametrize("arguments", [["--fault", "create:lost"], ["--fault", "delay", "--fault", "p=3"]])
def test_a_fault_that_is_none(here: Any, arguments: list[str]):
    """A script of faults that cannot be read is an error of usage that names the word."""
    code, _, err = here("simulate", "--port", "0", *arguments)
    assert code == 2
    assert "--fault" in err
