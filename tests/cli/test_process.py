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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_tells_how_to_go_on(command: Any, pictures: Path, simulator: Simulator, number: int):
    """After an interrupt each task at Kling is told with the command that fetches it; the code is 130."""
    simulator.seconds = 3600.0
    simulator.parallel = 2
    with command.start(
        "batch", "--yes", "in", "-o", "the out", "--prompt", "x", "--provider", "kling"
    ) as process:
        command.submitted(process, 2)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    told = err.splitlines()
    assert told[1:3] == [
        "Run the same command again to go on.",
        "interrupted: 0 of 3 done, 2 running at Kling, 1 not submitted",
    ]
    assert len(simulator.ledger.made) == 2
    for made in simulator.ledger.made:
        line = rf"  kling-async download {made.task_id} -o 'the out(/[abc]\.mp4)?' --provider kling\n"
        assert re.search(line, err)
    assert "Traceback" not in err


def test_an_interrupt_counts_each_item_once(command: Any, pictures: Path, simulator: Simulator):
    """What took too long runs on at Kling and is counted as failed, as in the report."""
    simulator.seconds = 3600.0
    run = ("batch", "--yes", "in", "-o", "out", "--prompt", "x", "--max-in-flight", "1", "--timeout", "0.2")
    with command.start(*run) as process:
        for line in process.stderr:
            if "no video within" in line:  # given up
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert "interrupted: 0 of 3 done, 1 failed, 2 not submitted" in err
    totals = json.loads(Path("out", "report.json").read_bytes())["totals"]
    assert (totals["failed"], totals["running"], totals["not_submitted"]) == (1, 0, 2)
    assert "kling-async download" in err


def test_an_interrupted_run_goes_on(command: Any, here: Any, pictures: Path, simulator: Simulator):
    """The same command again waits for what was submitted and submits the rest; each is paid once."""
    simulator.seconds = 1.0
    simulator.parallel = 2
    run = ("batch", "--yes", "in", "-o", "out", "--prompt", "x")
    with command.start(*run) as process:
        command.submitted(process, 2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    code, out, err = here(*run)
    assert (code, len(simulator.ledger.made)) == (0, 3)
    assert "going on: 2 running, 1 new" in err
    assert sorted(out.split()) == [str(Path("out", f"{name}.mp4")) for name in "abc"]


def test_second_interrupt_ends_at_once(bare_command: Any, pictures: Path):
    """A submit that gets no answer is waited for, until a second interrupt."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        command = bare_command.where(KLING_API_KEY="sim-key", KLING_BASE_URL=url)
        with command.start("animate", "in/a.png", "--prompt", "x") as process:
            server.settimeout(120)
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                process.send_signal(signal.SIGINT)
                assert "stopping" in process.stderr.readline()
                process.send_signal(signal.SIGINT)
                assert process.wait(10) == 130


def test_simulate(bare_command: Any, pictures: Path):
    """The simulator tells its variables, logs each request on a line, and ends cleanly by Ctrl-C."""
    with bare_command.start(
        "simulate", "--port", "0", "--face", "cometapi", "--json", "--fault", "query:delay seconds=0"
    ) as process:
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
    assert re.search(r"GET /kling/v1/videos/image2video/123 .*\[delay\]", err)


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
