"""The real command in a process of its own: exit codes, streams and signals."""

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest

from kling_async.simulator import Simulator


def test_batch_to_its_end(command: Any, pictures: Path, simulator: Simulator):
    """Each item is one JSON line on stdout, a failed one harms no other, the summary says what is where."""
    rows = [
        {"key": "fine", "image": "in/a.png"},
        {"image": "in/b.png", "prompt": "x [fail]"},
        {"image": "in/c.png", "prompt": "x [policy]"},
    ]
    manifest = "".join(f"{json.dumps(row)}\n" for row in rows)
    done = command.run(
        "batch", "-", "--json", "-o", "out", "--prompt", "x", "--camera", "pan=3", stdin=manifest
    )
    assert done.returncode == 1
    *items, summary = (json.loads(line) for line in done.stdout.splitlines())
    assert {item["key"]: (item["ok"], item["path"], item["error_type"]) for item in items} == {
        "fine": (True, str(Path("out", "fine.mp4")), None),
        "b": (False, None, "TaskFailedError"),
        "c": (False, None, "PolicyError"),
    }
    assert summary == {"summary": {"done": 1, "failed": 2, "not_submitted": 0, "folder": "out"}}
    assert Path("out", "fine.mp4").read_bytes()
    assert {made.body["camera_control"]["config"]["pan"] for made in simulator.ledger.made} == {3.0}
    assert "1 done, 2 failed in " in done.stderr
    assert "  c: The request was blocked" in done.stderr


def test_animate_prints_the_file(command: Any, pictures: Path, simulator: Simulator):
    """One picture, one file, its path alone on stdout; the same command again pays nothing."""
    assert command.run("animate", "in/a.png", "--prompt", "x", "--quiet").stdout == "a.mp4\n"
    again = command.run("animate", "in/a.png", "--prompt", "x", "-o", "again.mp4")
    assert (again.returncode, again.stdout) == (0, "again.mp4\n")
    assert len(simulator.ledger.made) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_tells_how_to_go_on(command: Any, pictures: Path, simulator: Simulator, number: int):
    """After an interrupt each task at Kling is told with the command that fetches it; the code is 130."""
    simulator.seconds = 3600.0
    simulator.parallel = 2
    with command.start("batch", "in", "-o", "the out", "--prompt", "x", "--provider", "kling") as process:
        for _ in range(2):
            assert "submitted as task" in process.stderr.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "interrupted: 0 of 3 done, 1 not submitted" in err
    assert len(simulator.ledger.made) == 2
    for made in simulator.ledger.made:
        command_line = rf"  kling-async download {made.task_id} -o 'the out/[abc]\.mp4' --provider kling\n"
        assert re.search(command_line, err)
    assert "Traceback" not in err


def test_second_interrupt_ends_at_once(bare_command: Any, pictures: Path):
    """A submit that gets no answer is waited for, until a second interrupt."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        command = bare_command.where(KLING_API_KEY="sim-key", KLING_BASE_URL=url)
        with command.start("animate", "in/a.png", "--prompt", "x") as process:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                process.send_signal(signal.SIGINT)
                assert "stopping" in process.stderr.readline()
                process.send_signal(signal.SIGINT)
                assert process.wait(10) == 130


def test_simulate(bare_command: Any, pictures: Path):
    """The simulator tells its variables, logs each request on a line, and ends cleanly by Ctrl-C."""
    with bare_command.start("simulate", "--port", "0", "--face", "cometapi", "--json") as process:
        told = json.loads(process.stdout.readline())
        assert told["env"] == {"COMETAPI_KEY": "sim-key", "KLING_BASE_URL": told["base_url"]}
        seen = bare_command.where(**told["env"]).run("get", "123")
        assert seen.returncode == 1
        taken = bare_command.run("simulate", "--port", told["base_url"].rpartition(":")[2])
        assert taken.returncode == 2
        assert "choose another --port" in taken.stderr
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "GET /kling/v1/videos/image2video/123 " in err


def test_demo(bare_command: Any, pictures: Path):
    """The demo makes MP4 files that play, of every kind of request; again, it overwrites none of them."""
    (first := Path("kling-demo", "cat.mp4")).parent.mkdir()
    first.write_bytes(b"mine")
    done = bare_command.run("demo")
    assert done.returncode == 0, done.stderr
    files = [Path(line) for line in done.stdout.splitlines()]
    assert len(files) == 8
    assert Path("kling-demo", "cat-2.mp4") in files
    assert first.read_bytes() == b"mine"
    for file in files:
        with av.open(str(file)) as video:
            assert sum(1 for _ in video.decode(video=0)) == 120


def test_without_its_extra(clean_env: dict[str, str]):
    """Without the extra one line says what to install, and the package itself does without."""
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['cyclopts', 'rich', 'dotenv']));"
        "import kling_async; from kling_async.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean_env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'the command line needs its extra: install "kling-async[cli]"\n'
